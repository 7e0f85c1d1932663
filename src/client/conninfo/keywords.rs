//! Connection strings of keywords and values: `host=localhost user='a b'`.
//!
//! Answers to `conninfo_parse` in libpq's `fe-connect.c`.

use std::iter::Peekable;
use std::str::Chars;

use super::ParseConnInfoError;
use super::options;

/// Splits a string into keywords and values, in order.
pub(super) fn parse(string: &str) -> Result<Vec<(String, String)>, ParseConnInfoError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut chars = string.chars().peekable();
    loop {
        skip_space(&mut chars);
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let keyword = take_while(&mut chars, |c| c != '=' && !is_space(c));
        skip_space(&mut chars);
        if chars.next_if_eq(&'=').is_none() {
            return Err(missing_equals(keyword, &pairs));
        }
        skip_space(&mut chars);
        let value = match chars.next_if_eq(&'\'') {
            Some(_) => quoted(&mut chars)?,
            None => unquoted(&mut chars),
        };
        if !options::is_known(&keyword) {
            return Err(ParseConnInfoError::InvalidOption { keyword });
        }
        pairs.push((keyword, value));
    }
}

/// What follows a secret without quotes is likely its second half: it is not shown.
fn missing_equals(token: String, before: &[(String, String)]) -> ParseConnInfoError {
    let secret =
        before.last().and_then(|(keyword, _)| options::find(keyword)).filter(|spec| spec.is_secret());
    match secret {
        Some(spec) => ParseConnInfoError::MissingEqualsAfterSecret { keyword: spec.keyword },
        None => ParseConnInfoError::MissingEquals { token },
    }
}

fn unquoted(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    while let Some(c) = chars.next_if(|&c| !is_space(c)) {
        if c == '\\' {
            value.extend(chars.next());
        } else {
            value.push(c);
        }
    }
    value
}

fn quoted(chars: &mut Peekable<Chars<'_>>) -> Result<String, ParseConnInfoError> {
    let mut value = String::new();
    loop {
        match chars.next() {
            None => return Err(ParseConnInfoError::UnterminatedQuote),
            Some('\'') => return Ok(value),
            Some('\\') => value.extend(chars.next()),
            Some(c) => value.push(c),
        }
    }
}

fn take_while(chars: &mut Peekable<Chars<'_>>, mut keep: impl FnMut(char) -> bool) -> String {
    std::iter::from_fn(|| chars.next_if(|&c| keep(c))).collect()
}

fn skip_space(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|&c| is_space(c)).is_some() {}
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0B' | '\x0C' | '\r')
}

/// Writes a value so that it is read as it was: plain where that is safe, else quoted (`appendConnStrVal`).
pub(super) fn quote(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        if matches!(c, '\'' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(string: &str) -> Vec<(String, String)> {
        parse(string).unwrap()
    }

    fn pair(keyword: &str, value: &str) -> (String, String) {
        (keyword.to_owned(), value.to_owned())
    }

    #[test]
    fn reads_what_libpq_reads() {
        assert_eq!(pairs(""), []);
        assert_eq!(pairs(" \t\n"), []);
        assert_eq!(pairs("host=a"), [pair("host", "a")]);
        assert_eq!(pairs("  host \n=\t a   port = 1 "), [pair("host", "a"), pair("port", "1")]);
        assert_eq!(pairs("password='a b'"), [pair("password", "a b")]);
        assert_eq!(pairs(r"password='it\'s \\'"), [pair("password", r"it's \")]);
        assert_eq!(pairs(r"password=it\'s\ \x"), [pair("password", "it's x")]);
        assert_eq!(pairs("password=a'b"), [pair("password", "a'b")]);
        assert_eq!(pairs("host='a'port=1"), [pair("host", "a"), pair("port", "1")]);
        assert_eq!(pairs("host= user=b"), [pair("host", "user=b")]);
        assert_eq!(pairs("host="), [pair("host", "")]);
        assert_eq!(pairs("host=''"), [pair("host", "")]);
        assert_eq!(pairs("host=a\\"), [pair("host", "a")]);
        assert_eq!(pairs("options=-c\\ a=b"), [pair("options", "-c a=b")]);
    }

    #[test]
    fn refuses_what_libpq_refuses() {
        let missing = |token: &str| ParseConnInfoError::MissingEquals { token: token.to_owned() };
        assert_eq!(parse("host"), Err(missing("host")));
        assert_eq!(parse("host a"), Err(missing("host")));
        assert_eq!(parse("host=a b"), Err(missing("b")));
        assert_eq!(parse("postgre://"), Err(missing("postgre://")));
        let invalid = |keyword: &str| ParseConnInfoError::InvalidOption { keyword: keyword.to_owned() };
        assert_eq!(parse("=a"), Err(invalid("")));
        assert_eq!(parse("hots=a b"), Err(invalid("hots")));
        assert_eq!(parse("host='a"), Err(ParseConnInfoError::UnterminatedQuote));
        assert_eq!(parse("host='a\\"), Err(ParseConnInfoError::UnterminatedQuote));
        assert_eq!(parse("host='a\\'"), Err(ParseConnInfoError::UnterminatedQuote));
    }

    #[test]
    fn half_a_password_is_not_shown() {
        let error = parse("user=u password=first second").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("second"), "{error}");
    }

    proptest! {
        #[test]
        fn any_value_survives_quoting(values in prop::collection::vec(any::<String>(), 0..5)) {
            let string: Vec<String> = values.iter().map(|value| format!("host={}", quote(value))).collect();
            let expected: Vec<_> = values.iter().map(|value| pair("host", value)).collect();
            prop_assert_eq!(parse(&string.join(" ")).unwrap(), expected);
        }

        #[test]
        fn no_string_panics(string in any::<String>()) {
            let _ = parse(&string);
        }

        #[test]
        fn no_string_of_the_characters_that_matter_panics(string in "[a=' \\\\]{0,24}") {
            let _ = parse(&string);
        }
    }
}
