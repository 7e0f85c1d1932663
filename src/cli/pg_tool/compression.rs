//! What `-Z` takes: a method, and perhaps details.
//!
//! Answers to `parse_compress_options` and PostgreSQL's `common/compression.c`, in the same order, so that of two
//! mistakes the same one is told.

use crate::compression::{ArchiveCompression, Compression, CompressionMethod as Method, Window};

/// A method and what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct CompressionSpec {
    pub(in crate::cli) method: Method,
    /// `None`: the method's own.
    pub(in crate::cli) level: Option<i32>,
    pub(in crate::cli) workers: Option<i32>,
    /// Whether Zstandard looks for repetitions far back.
    pub(in crate::cli) window: Window,
}

/// What was written, taken apart and not judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct MethodAndDetail {
    pub(in crate::cli) method: String,
    pub(in crate::cli) detail: Option<String>,
}

impl MethodAndDetail {
    /// `METHOD[:DETAIL]`, or a level alone, which is gzip's; 0 and the empty string are no compression.
    pub(in crate::cli) fn split(text: &str) -> Self {
        let (method, detail) = match leading_integer(text) {
            Some(0) => ("none", None),
            Some(_) => ("gzip", Some(text)),
            None => text.split_once(':').map_or((text, None), |(method, detail)| (method, Some(detail))),
        };
        MethodAndDetail { method: method.to_owned(), detail: detail.map(str::to_owned) }
    }
}

/// What cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum CompressionSpecError {
    #[error("unrecognized compression algorithm: \"{0}\"")]
    Method(String),
    #[error("invalid compression specification: {0}")]
    Detail(DetailError),
}

/// What is wrong with the details.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum DetailError {
    #[error("found empty string where a compression option was expected")]
    Empty,
    #[error("unrecognized compression option: \"{0}\"")]
    Unrecognized(String),
    #[error("compression option \"{0}\" requires a value")]
    NoValue(&'static str),
    #[error("value for compression option \"{0}\" must be an integer")]
    NoInteger(&'static str),
    #[error("compression algorithm \"{0}\" does not accept a compression level")]
    NoLevel(Method),
    #[error(
        "compression algorithm \"{0}\" expects a compression level between {min} and {max} (default at {default})",
        min = levels(*.0).min, max = levels(*.0).max, default = levels(*.0).default
    )]
    Level(Method),
    #[error("compression algorithm \"{0}\" does not accept a worker count")]
    NoWorkers(Method),
    #[error("value for compression option \"{0}\" must be a Boolean value")]
    NoBoolean(&'static str),
    #[error("compression algorithm \"{0}\" does not support long-distance mode")]
    NoLongDistance(Method),
}

/// What levels a method has.
struct Levels {
    min: i64,
    max: i64,
    default: i64,
}

fn levels(method: Method) -> Levels {
    match method {
        Method::None => Levels { min: 0, max: 0, default: 0 },
        Method::Gzip => Levels { min: 1, max: 9, default: -1 },
        Method::Lz4 => Levels { min: 1, max: 12, default: 0 },
        Method::Zstd => Levels { min: -131_072, max: 22, default: 3 },
    }
}

impl CompressionSpec {
    /// How segments are to be stored.
    pub(in crate::cli) fn compression(self) -> Compression {
        Compression { method: self.method, level: self.level }
    }

    /// How archives are to be compressed; `None`: not at all.
    pub(in crate::cli) fn archive_compression(self) -> Option<ArchiveCompression> {
        let CompressionSpec { method, level, workers, window } = self;
        let workers = workers.and_then(|workers| u32::try_from(workers).ok()).unwrap_or(0);
        (method != Method::None).then_some(ArchiveCompression { method, level, workers, window })
    }

    /// Reads what [`MethodAndDetail::split`] takes.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, CompressionSpecError> {
        Self::judge(&MethodAndDetail::split(text))
    }

    /// Understands what was taken apart.
    pub(in crate::cli) fn judge(given: &MethodAndDetail) -> Result<Self, CompressionSpecError> {
        let method = match given.method.as_str() {
            "none" => Method::None,
            "gzip" => Method::Gzip,
            "lz4" => Method::Lz4,
            "zstd" => Method::Zstd,
            other => return Err(CompressionSpecError::Method(other.to_owned())),
        };
        parse_details(method, given.detail.as_deref()).map_err(CompressionSpecError::Detail)
    }
}

fn parse_details(method: Method, detail: Option<&str>) -> Result<CompressionSpec, DetailError> {
    let default = levels(method).default;
    let (mut level, mut workers, mut long_distance) = (default, None, None);
    match detail.map(|detail| (detail, leading_integer(detail).filter(|_| !detail.is_empty()))) {
        None => {}
        Some((_, Some(bare))) => level = bare,
        Some((detail, None)) => {
            for word in detail.split(',') {
                let (keyword, value) =
                    word.split_once('=').map_or((word, None), |(keyword, value)| (keyword, Some(value)));
                match keyword {
                    "" => return Err(DetailError::Empty),
                    "level" => level = integer("level", value)?,
                    "workers" => workers = Some(integer("workers", value)?),
                    "long" => long_distance = Some(boolean("long", value)?),
                    other => return Err(DetailError::Unrecognized(other.to_owned())),
                }
            }
        }
    }
    let levels = levels(method);
    if level != default {
        if method == Method::None {
            return Err(DetailError::NoLevel(method));
        }
        if level < levels.min || level > levels.max {
            return Err(DetailError::Level(method));
        }
    }
    if workers.is_some() && method != Method::Zstd {
        return Err(DetailError::NoWorkers(method));
    }
    // asked for or refused: the original minds the word alone
    if long_distance.is_some() && method != Method::Zstd {
        return Err(DetailError::NoLongDistance(method));
    }
    let level = (level != default).then_some(level as i32);
    let workers = workers.map(|workers| workers as i32);
    let window = if long_distance == Some(true) { Window::Long } else { Window::OfLevel };
    Ok(CompressionSpec { method, level, workers, window })
}

fn integer(option: &'static str, value: Option<&str>) -> Result<i64, DetailError> {
    let value = value.ok_or(DetailError::NoValue(option))?;
    leading_integer(value).filter(|_| !value.is_empty()).ok_or(DetailError::NoInteger(option))
}

fn boolean(option: &'static str, value: Option<&str>) -> Result<bool, DetailError> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("yes" | "on" | "1") => Ok(true),
        Some("no" | "off" | "0") => Ok(false),
        Some(_) => Err(DetailError::NoBoolean(option)),
    }
}

/// C's `strtol` when it reaches the end of the text: blanks, a sign, digits; the empty text is 0. What does not fit
/// is the nearest that does.
pub(in crate::cli) fn leading_integer(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let (negative, digits) = match digits.as_bytes() {
        [b'-', ..] => (true, &digits[1..]),
        [b'+', ..] => (false, &digits[1..]),
        _ => (false, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let limit = if negative { i64::MIN } else { i64::MAX };
    Some(digits.parse::<i64>().map_or(limit, |value| if negative { -value } else { value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> String {
        match CompressionSpec::parse(text) {
            Ok(CompressionSpec { method, level, workers, window: Window::OfLevel }) => {
                format!("{method} {level:?} {workers:?}")
            }
            Ok(CompressionSpec { method, level, workers, window: Window::Long }) => {
                format!("{method} {level:?} {workers:?} long")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn reads_what_the_original_reads() {
        for (text, expected) in [
            ("", "none None None"),
            ("0", "none None None"),
            ("9", "gzip Some(9) None"),
            ("none", "none None None"),
            ("gzip", "gzip None None"),
            ("gzip:-1", "gzip None None"),
            ("gzip:level=3,level=4", "gzip Some(4) None"),
            ("lz4:12", "lz4 Some(12) None"),
            ("zstd:level=5,workers=2", "zstd Some(5) Some(2)"),
            ("zstd:long", "zstd None None long"),
            ("zstd:long=OFF", "zstd None None"),
        ] {
            assert_eq!(outcome(text), expected, "{text}");
        }
    }

    #[test]
    fn complains_as_the_original_does() {
        for (text, expected) in [
            ("GZIP", "unrecognized compression algorithm: \"GZIP\""),
            ("9x", "unrecognized compression algorithm: \"9x\""),
            (
                "gzip:",
                "invalid compression specification: found empty string where a compression option was expected",
            ),
            ("gzip:a", "invalid compression specification: unrecognized compression option: \"a\""),
            (
                "gzip:level",
                "invalid compression specification: compression option \"level\" requires a value",
            ),
            (
                "gzip:level=x",
                "invalid compression specification: value for compression option \"level\" must be an integer",
            ),
            (
                "10",
                "invalid compression specification: compression algorithm \"gzip\" expects a compression level between 1 and 9 (default at -1)",
            ),
            (
                "none:4",
                "invalid compression specification: compression algorithm \"none\" does not accept a compression level",
            ),
            (
                "lz4:workers=1",
                "invalid compression specification: compression algorithm \"lz4\" does not accept a worker count",
            ),
            (
                "zstd:long=x",
                "invalid compression specification: value for compression option \"long\" must be a Boolean value",
            ),
            (
                "gzip:long=off",
                "invalid compression specification: compression algorithm \"gzip\" does not support long-distance mode",
            ),
        ] {
            assert_eq!(outcome(text), expected, "{text}");
        }
    }
}
