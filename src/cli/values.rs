//! Values of options, refused while they are read where they cannot be meant.

use std::str::FromStr;
use std::time::Duration;

use crate::standby::create::TablespaceMapping;

/// `OLDDIR=NEWDIR`.
#[derive(Debug, Clone)]
pub(super) struct MappingArg(pub(super) TablespaceMapping);

#[derive(Debug, thiserror::Error)]
#[error("must be OLDDIR=NEWDIR, with \"\\=\" for \"=\" in a path")]
pub(super) struct MappingSyntax;

impl FromStr for MappingArg {
    type Err = MappingSyntax;

    fn from_str(text: &str) -> Result<Self, MappingSyntax> {
        let mut parts = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' if characters.peek() == Some(&'=') => {
                    parts.iter_mut().last().ok_or(MappingSyntax)?.extend(characters.next());
                }
                '=' => parts.push(String::new()),
                other => parts.iter_mut().last().ok_or(MappingSyntax)?.push(other),
            }
        }
        match <[String; 2]>::try_from(parts) {
            Ok([from, to]) if !from.is_empty() && !to.is_empty() => {
                Ok(MappingArg(TablespaceMapping { from: from.into(), to: to.into() }))
            }
            _ => Err(MappingSyntax),
        }
    }
}

/// A number of kB, or of MB with `M` behind it, as `pg_basebackup --max-rate` takes it.
pub(super) fn parse_rate(text: &str) -> Result<u32, String> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1.0),
        Some(b'M') => (&text[..text.len() - 1], 1024.0),
        _ => (text, 1.0),
    };
    let rate =
        number.parse::<f64>().map_err(|_| "not a number, or a unit other than k and M".to_owned())? * factor;
    if (32.0..=1_048_576.0).contains(&rate) {
        Ok(rate as u32)
    } else {
        Err("must be between 32k and 1024M".to_owned())
    }
}

/// A number of bytes, or of units of 1024 of them and so on with `k`, `M`, `G` or `T` behind it.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 =
        number.parse().map_err(|_| "not a whole number, or a unit other than k, M, G and T".to_owned())?;
    number.checked_mul(1 << shift).filter(|size| *size > 0).ok_or_else(|| "out of range".to_owned())
}

/// A number of seconds that may have a fraction, but not none.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = super::standby::wait::parse_seconds(text)?;
    if duration.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(duration) }
}

/// The server writes it on a line of `backup_label`, and refuses a longer one.
const MAX_LABEL_LEN: usize = 1024;

/// A line break in it would be a line of `backup_label`, which is found out only after the copy.
pub(super) fn parse_label(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("holds a control character".to_owned());
    }
    if text.len() > MAX_LABEL_LEN {
        return Err(format!("longer than {MAX_LABEL_LEN} bytes"));
    }
    Ok(text.to_owned())
}

/// The server cuts a longer one (`NAMEDATALEN`), and replaces every byte that is not printable ASCII.
const MAX_APPLICATION_NAME_LEN: usize = 63;

pub(super) fn parse_application_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_APPLICATION_NAME_LEN {
        return Err(format!("must have 1 to {MAX_APPLICATION_NAME_LEN} bytes"));
    }
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("the server knows names of printable ASCII only".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn labels_and_names_are_what_the_server_keeps() {
        for text in ["", "nightly", "Größe", &"x".repeat(1024)] {
            assert!(parse_label(text).is_ok(), "{text:?}");
        }
        for text in ["a\nSTART TIMELINE: 7", "a\rb", "a\tb", "\u{85}", &"x".repeat(1025)] {
            assert!(parse_label(text).is_err(), "{text:?}");
        }
        for text in ["standby 1", "o'clock", &"x".repeat(63)] {
            assert!(parse_application_name(text).is_ok(), "{text:?}");
        }
        for text in ["", "Größe", "a\nb", &"x".repeat(64)] {
            assert!(parse_application_name(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_have_units_and_are_something() {
        for (text, size) in [("1", 1), ("3k", 3 << 10), ("7M", 7 << 20), ("2G", 2 << 30), ("1T", 1 << 40)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "0", "0G", "1.5G", "-1", "G", "16777216T", "1GB", "1m"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("0").is_err() && parse_duration("-1").is_err());
    }

    #[test]
    fn mappings_may_hold_an_escaped_equals_sign() {
        let MappingArg(mapping) = r"/a\=b=/c".parse().unwrap();
        assert_eq!((mapping.from, mapping.to), (PathBuf::from("/a=b"), PathBuf::from("/c")));
        for text in ["", "/a", "=/b", "/a=", "/a=/b=/c"] {
            assert!(text.parse::<MappingArg>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn rates_are_pg_basebackups() {
        for (text, rate) in
            [("32", Ok(32)), ("64k", Ok(64)), ("1M", Ok(1024)), ("1.5M", Ok(1536)), ("1024M", Ok(1 << 20))]
        {
            assert_eq!(parse_rate(text), rate, "{text}");
        }
        for text in ["31", "1025M", "1G", "", "k", "M", "nan"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
