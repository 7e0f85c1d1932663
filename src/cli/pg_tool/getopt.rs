//! GNU `getopt_long`, as PostgreSQL's tools use it: bundled short options, unambiguous long prefixes, operands
//! anywhere, and the C library's words for what is wrong. Pure, and one option at a time, because the tools look
//! at each value before they look at the next option.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// A long option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct LongOption<K> {
    /// Without the dashes.
    pub(in crate::cli) name: &'static str,
    /// Whether a value follows.
    pub(in crate::cli) value: Value,
    /// What it means; the same for a short option that means the same.
    pub(in crate::cli) key: K,
}

/// A short option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct ShortOption<K> {
    /// Behind the dash.
    pub(in crate::cli) letter: u8,
    /// Whether a value follows.
    pub(in crate::cli) value: Value,
    /// What it means.
    pub(in crate::cli) key: K,
}

/// A short option, for a table.
pub(in crate::cli) const fn short<K: Copy>(letter: u8, value: Value, key: K) -> ShortOption<K> {
    ShortOption { letter, value, key }
}

/// A long option, for a table.
pub(in crate::cli) const fn long<K: Copy>(name: &'static str, value: Value, key: K) -> LongOption<K> {
    LongOption { name, value, key }
}

/// Whether an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Value {
    /// No.
    None,
    /// Yes, always.
    Required,
}

/// An option as it was found. The value is empty where none belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Found<K> {
    pub(in crate::cli) key: K,
    pub(in crate::cli) value: OsString,
}

/// What is wrong, in the C library's words; the program's name and a colon go in front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum GetoptError {
    #[error("invalid option -- '{0}'")]
    InvalidShort(char),
    #[error("option requires an argument -- '{0}'")]
    ShortWithoutValue(char),
    #[error("unrecognized option '--{0}'")]
    Unrecognized(String),
    #[error("option '--{given}' is ambiguous; possibilities:{}", listed(.possibilities))]
    Ambiguous { given: String, possibilities: Vec<&'static str> },
    #[error("option '--{0}' doesn't allow an argument")]
    UnwantedValue(&'static str),
    #[error("option '--{0}' requires an argument")]
    LongWithoutValue(&'static str),
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!(" '--{name}'")).collect()
}

/// Options and operands, taken apart.
#[derive(Debug)]
pub(in crate::cli) struct Getopt<'a, K> {
    short: &'a [ShortOption<K>],
    long: &'a [LongOption<K>],
    arguments: VecDeque<OsString>,
    /// What is left of a bundle such as `-nv`.
    bundle: VecDeque<u8>,
    operands: Vec<OsString>,
}

impl<'a, K: Copy + PartialEq> Getopt<'a, K> {
    /// For the arguments behind the program's name.
    pub(in crate::cli) fn new(
        short: &'a [ShortOption<K>],
        long: &'a [LongOption<K>],
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Self {
        let arguments = arguments.into_iter().collect();
        Getopt { short, long, arguments, bundle: VecDeque::new(), operands: Vec::new() }
    }

    /// The next option; `None` when there are no more, and the operands are known.
    pub(in crate::cli) fn next_option(&mut self) -> Option<Result<Found<K>, GetoptError>> {
        if let Some(letter) = self.bundle.pop_front() {
            return Some(self.short_option(letter));
        }
        loop {
            let argument = self.arguments.pop_front()?;
            match argument.as_bytes() {
                b"--" => {
                    self.operands.extend(self.arguments.drain(..));
                    return None;
                }
                [b'-', b'-', long @ ..] => return Some(self.long_option(long)),
                [b'-', first, rest @ ..] => {
                    self.bundle = rest.iter().copied().collect();
                    return Some(self.short_option(*first));
                }
                _ => self.operands.push(argument),
            }
        }
    }

    /// What was no option and no option's value, in order. Complete after the last option.
    pub(in crate::cli) fn operands(&self) -> &[OsString] {
        &self.operands
    }

    fn short_option(&mut self, letter: u8) -> Result<Found<K>, GetoptError> {
        let shown = char::from(letter);
        let option = self.short.iter().find(|option| option.letter == letter);
        let Some(&ShortOption { value, key, .. }) = option else {
            return Err(GetoptError::InvalidShort(shown));
        };
        let value = match value {
            Value::None => OsString::new(),
            Value::Required if self.bundle.is_empty() => {
                self.arguments.pop_front().ok_or(GetoptError::ShortWithoutValue(shown))?
            }
            Value::Required => OsString::from_vec(self.bundle.drain(..).collect()),
        };
        Ok(Found { key, value })
    }

    fn long_option(&mut self, given: &[u8]) -> Result<Found<K>, GetoptError> {
        let mut parts = given.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default();
        let attached = parts.next().map(|value| OsStr::from_bytes(value).to_owned());
        let option = self.find_long(name, given)?;
        let value = match (option.value, attached) {
            (Value::None, None) => OsString::new(),
            (Value::None, Some(_)) => return Err(GetoptError::UnwantedValue(option.name)),
            (Value::Required, Some(value)) => value,
            (Value::Required, None) => {
                self.arguments.pop_front().ok_or(GetoptError::LongWithoutValue(option.name))?
            }
        };
        Ok(Found { key: option.key, value })
    }

    fn find_long(&self, name: &[u8], given: &[u8]) -> Result<LongOption<K>, GetoptError> {
        if let Some(exact) = self.long.iter().find(|option| option.name.as_bytes() == name) {
            return Ok(*exact);
        }
        let shown = || String::from_utf8_lossy(given).into_owned();
        let candidates: Vec<_> =
            self.long.iter().filter(|option| option.name.as_bytes().starts_with(name)).collect();
        let Some((first, others)) = candidates.split_first() else {
            return Err(GetoptError::Unrecognized(shown()));
        };
        // names for one and the same thing are not ambiguous
        if others.iter().all(|other| other.key == first.key && other.value == first.value) {
            return Ok(**first);
        }
        let possibilities = candidates.iter().map(|option| option.name).collect();
        Err(GetoptError::Ambiguous { given: shown(), possibilities })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: &[ShortOption<char>] = &[
        ShortOption { letter: b'n', value: Value::None, key: 'n' },
        ShortOption { letter: b'v', value: Value::None, key: 'v' },
        ShortOption { letter: b'D', value: Value::Required, key: 'D' },
    ];
    const LONG: &[LongOption<char>] = &[
        LongOption { name: "directory", value: Value::Required, key: 'D' },
        LongOption { name: "dbname", value: Value::Required, key: 'd' },
        LongOption { name: "no-loop", value: Value::None, key: 'n' },
        LongOption { name: "no-sync", value: Value::None, key: 's' },
        LongOption { name: "no-sync-at-all", value: Value::None, key: 'S' },
        LongOption { name: "gray", value: Value::None, key: 'g' },
        LongOption { name: "grey", value: Value::None, key: 'g' },
    ];

    /// Options as `key=value` words, operands as they are, an error as its text.
    fn parse(line: &str) -> String {
        let mut getopt = Getopt::new(SHORT, LONG, line.split_whitespace().map(OsString::from));
        let mut words = Vec::new();
        while let Some(found) = getopt.next_option() {
            match found {
                Ok(found) => words.push(format!("{}={}", found.key, found.value.display())),
                Err(error) => return error.to_string(),
            }
        }
        words.extend(getopt.operands().iter().map(|operand| operand.display().to_string()));
        words.join(" ")
    }

    #[test]
    fn takes_options_in_every_form() {
        assert_eq!(parse("-nvD x"), "n= v= D=x");
        assert_eq!(parse("-nDx"), "n= D=x");
        assert_eq!(parse("-D-n"), "D=-n");
        assert_eq!(parse("-D -- -n"), "D=-- n=");
        assert_eq!(parse("--directory=x --directory y --dir=z --directory="), "D=x D=y D=z D=");
        assert_eq!(parse("a -n b -- -v --"), "n= a b -v --");
        assert_eq!(parse("- -n"), "n= -");
    }

    #[test]
    fn takes_prefixes_that_mean_one_thing() {
        assert_eq!(parse("--no-l --db x"), "n= d=x");
        assert_eq!(parse("--no-sync"), "s=");
        assert_eq!(parse("--gr"), "g=");
    }

    #[test]
    fn complains_as_the_c_library_does() {
        for (line, complaint) in [
            ("-x", "invalid option -- 'x'"),
            ("-n-", "invalid option -- '-'"),
            ("-nD", "option requires an argument -- 'D'"),
            ("--foo=1", "unrecognized option '--foo=1'"),
            ("--d=1", "option '--d=1' is ambiguous; possibilities: '--directory' '--dbname'"),
            ("--no-loop=1", "option '--no-loop' doesn't allow an argument"),
            ("--dir", "option '--directory' requires an argument"),
        ] {
            assert_eq!(parse(line), complaint, "{line}");
        }
    }
}
