//! JSON, one token at a time, from chunks of any size. No I/O, memory bounded by the longest token.
//!
//! Answers to the incremental lexer in PostgreSQL's `src/common/jsonapi.c`, for what backup manifests hold: strings,
//! unsigned integers, objects and arrays. Whether the tokens make a document is for the parser beside it.

/// The longest string or number, in bytes: twice PostgreSQL's `MAXPGPATH`, because a path may be in hex.
pub const MAX_TOKEN_LEN: usize = 4096;

/// One token; text is unescaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// `{`
    ObjectBegin,
    /// `}`
    ObjectEnd,
    /// `[`
    ArrayBegin,
    /// `]`
    ArrayEnd,
    /// `:`
    Colon,
    /// `,`
    Comma,
    /// A string, as UTF-8 wherever the input was.
    String(&'a [u8]),
    /// Decimal digits.
    Number(&'a [u8]),
}

/// Why the bytes are not JSON as a manifest has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// A byte that begins no token.
    #[error("unexpected byte {:?} in JSON", char::from(*.0))]
    UnexpectedByte(u8),
    /// A control character inside a string.
    #[error("control character in JSON string")]
    ControlCharacter,
    /// An escape that JSON does not know, or half a surrogate pair.
    #[error("invalid escape in JSON string")]
    Escape,
    /// A string or number of more than [`MAX_TOKEN_LEN`] bytes.
    #[error("JSON token is longer than {MAX_TOKEN_LEN} bytes")]
    TokenTooLong,
    /// The input ends inside a string.
    #[error("JSON string does not end")]
    UnterminatedString,
}

/// The lexer's state between chunks.
#[derive(Debug, Default)]
pub struct Lexer {
    state: State,
    token: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Between,
    String {
        high_surrogate: Option<u16>,
    },
    Escape {
        high_surrogate: Option<u16>,
    },
    Unicode {
        high_surrogate: Option<u16>,
        digits: u8,
        unit: u16,
    },
    Number,
}

impl Lexer {
    /// Reads a chunk and hands each token that it completes to `take`.
    pub fn push<E: From<JsonError>>(
        &mut self,
        mut chunk: &[u8],
        mut take: impl FnMut(Token<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let [byte, rest @ ..] = chunk {
            match self.state {
                State::Between => {
                    if let Some(token) = self.begin(*byte)? {
                        take(token)?;
                    }
                    chunk = rest;
                }
                State::Number if byte.is_ascii_digit() => {
                    self.append(&[*byte])?;
                    chunk = rest;
                }
                State::Number => {
                    self.state = State::Between;
                    take(Token::Number(&self.token))?;
                }
                State::String { high_surrogate: None } => {
                    let len = chunk.iter().position(|&b| b == b'"' || b == b'\\' || b < b' ');
                    let len = len.unwrap_or(chunk.len());
                    self.append(&chunk[..len])?;
                    chunk = &chunk[len..];
                    if let [byte, rest @ ..] = chunk {
                        match byte {
                            b'"' => {
                                self.state = State::Between;
                                take(Token::String(&self.token))?;
                            }
                            b'\\' => self.state = State::Escape { high_surrogate: None },
                            _ => return Err(JsonError::ControlCharacter.into()),
                        }
                        chunk = rest;
                    }
                }
                State::String { high_surrogate } => {
                    if *byte != b'\\' {
                        return Err(JsonError::Escape.into());
                    }
                    self.state = State::Escape { high_surrogate };
                    chunk = rest;
                }
                State::Escape { high_surrogate } => {
                    self.escape(*byte, high_surrogate)?;
                    chunk = rest;
                }
                State::Unicode { high_surrogate, digits, unit } => {
                    self.unicode_digit(*byte, high_surrogate, digits, unit)?;
                    chunk = rest;
                }
            }
        }
        Ok(())
    }

    /// The input is over. A number at its very end would be incomplete for all one knows.
    pub fn finish(&self) -> Result<(), JsonError> {
        if self.state == State::Between { Ok(()) } else { Err(JsonError::UnterminatedString) }
    }

    fn begin(&mut self, byte: u8) -> Result<Option<Token<'static>>, JsonError> {
        let token = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => return Ok(None),
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b':' => Token::Colon,
            b',' => Token::Comma,
            b'"' => {
                self.token.clear();
                self.state = State::String { high_surrogate: None };
                return Ok(None);
            }
            b'0'..=b'9' => {
                self.token.clear();
                self.state = State::Number;
                self.append(&[byte])?;
                return Ok(None);
            }
            _ => return Err(JsonError::UnexpectedByte(byte)),
        };
        Ok(Some(token))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), JsonError> {
        if self.token.len() + bytes.len() > MAX_TOKEN_LEN {
            return Err(JsonError::TokenTooLong);
        }
        self.token.extend_from_slice(bytes);
        Ok(())
    }

    fn escape(&mut self, byte: u8, high_surrogate: Option<u16>) -> Result<(), JsonError> {
        let plain = match byte {
            b'u' => {
                self.state = State::Unicode { high_surrogate, digits: 0, unit: 0 };
                return Ok(());
            }
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            _ => return Err(JsonError::Escape),
        };
        if high_surrogate.is_some() {
            return Err(JsonError::Escape);
        }
        self.state = State::String { high_surrogate: None };
        self.append(&[plain])
    }

    fn unicode_digit(
        &mut self,
        byte: u8,
        high_surrogate: Option<u16>,
        digits: u8,
        unit: u16,
    ) -> Result<(), JsonError> {
        let digit = char::from(byte).to_digit(16).ok_or(JsonError::Escape)?;
        let unit = unit << 4 | digit as u16;
        if digits < 3 {
            self.state = State::Unicode { high_surrogate, digits: digits + 1, unit };
            return Ok(());
        }
        if high_surrogate.is_none() && (0xD800..0xDC00).contains(&unit) {
            self.state = State::String { high_surrogate: Some(unit) };
            return Ok(());
        }
        let units = high_surrogate.into_iter().chain([unit]);
        let mut chars = char::decode_utf16(units);
        let (Some(Ok(character)), None) = (chars.next(), chars.next()) else { return Err(JsonError::Escape) };
        self.state = State::String { high_surrogate: None };
        self.append(character.encode_utf8(&mut [0; 4]).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lex<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<String, JsonError> {
        let mut lexer = Lexer::default();
        let mut out = String::new();
        for chunk in chunks {
            lexer.push(chunk, |token| {
                match token {
                    Token::String(text) => out += &format!("{:?} ", String::from_utf8_lossy(text)),
                    Token::Number(digits) => out += &format!("{} ", String::from_utf8_lossy(digits)),
                    other => out += &format!("{other:?} "),
                }
                Ok::<(), JsonError>(())
            })?;
        }
        lexer.finish()?;
        Ok(out)
    }

    #[test]
    fn reads_tokens() {
        let tokens = lex([&b"{\"a\": [12 , \"x\\n\\u0041\\uD83D\\uDE00\"]}\n"[..]]).unwrap();
        assert_eq!(tokens, "ObjectBegin \"a\" Colon ArrayBegin 12 Comma \"x\\nA😀\" ArrayEnd ObjectEnd ");
    }

    #[test]
    fn refuses_what_manifests_do_not_hold() {
        use JsonError as E;
        let long = [b"\"", &[b'x'; MAX_TOKEN_LEN + 1][..], b"\""].concat();
        for (text, expected) in [
            (&b"true"[..], E::UnexpectedByte(b't')),
            (b"-1", E::UnexpectedByte(b'-')),
            (b"1.5 ", E::UnexpectedByte(b'.')),
            (b"\"\n\"", E::ControlCharacter),
            (b"\"\\x\"", E::Escape),
            (b"\"\\u00g0\"", E::Escape),
            (b"\"\\uD83D\"", E::Escape),
            (b"\"\\uD83Dx\"", E::Escape),
            (b"\"\\uD83D\\n\"", E::Escape),
            (b"\"\\uD83D\\u0041\"", E::Escape),
            (b"\"\\uDE00\"", E::Escape),
            (b"\"x", E::UnterminatedString),
            (&long, E::TokenTooLong),
            (&[b'1'; MAX_TOKEN_LEN + 1], E::TokenTooLong),
        ] {
            assert_eq!(lex([text]), Err(expected), "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn unescapes_as_serde_does(text: String, cut: prop::sample::Index) {
            let json = serde_json::to_string(&text).unwrap();
            let (first, second) = json.as_bytes().split_at(cut.index(json.len()));
            prop_assert_eq!(lex([first, second]).unwrap(), format!("{text:?} "));
        }
    }
}
