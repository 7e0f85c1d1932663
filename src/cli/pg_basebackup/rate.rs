//! `-r RATE`: how fast the server may send (`parse_max_rate`).

/// What cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RateError {
    #[error("transfer rate \"{0}\" is not a valid value")]
    NoNumber(String),
    #[error("transfer rate must be greater than zero")]
    NotPositive,
    #[error("invalid --max-rate unit: \"{0}\"")]
    Unit(String),
    #[error("transfer rate \"{0}\" exceeds integer range")]
    NoInteger(String),
    #[error("transfer rate \"{0}\" is out of range")]
    OutOfRange(String),
}

/// What servers take, in kB/s.
const RATES: std::ops::RangeInclusive<f64> = 32.0..=1_048_576.0;

/// In kB/s.
pub(super) fn parse_max_rate(text: &str) -> Result<u32, RateError> {
    let (number, rest) = leading_number(text).ok_or_else(|| RateError::NoNumber(text.to_owned()))?;
    if number <= 0.0 {
        return Err(RateError::NotPositive);
    }
    let unit = rest.trim_start_matches(is_space);
    let (factor, behind) = match unit.as_bytes().first() {
        Some(b'k') => (1.0, &unit[1..]),
        Some(b'M') => (1024.0, &unit[1..]),
        _ => (1.0, unit),
    };
    if !behind.trim_start_matches(is_space).is_empty() {
        return Err(RateError::Unit(unit.to_owned()));
    }
    let rate = number * factor;
    // what C cannot convert at all is called something else
    if rate.is_nan() || (4_294_967_296.0..18_446_744_073_709_551_616.0).contains(&rate) {
        return Err(RateError::NoInteger(text.to_owned()));
    }
    if !RATES.contains(&rate) {
        return Err(RateError::OutOfRange(text.to_owned()));
    }
    Ok(rate as u32)
}

/// C's `strtod`: the longest beginning that is a number, and what is behind it.
fn leading_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim_start_matches(is_space);
    let unsigned = text.trim_start_matches(['+', '-']);
    if let Some(digits) = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
        let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        if let Ok(value) = u32::from_str_radix(&digits[..end], 16) {
            let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
            return Some((sign * f64::from(value), &digits[end..]));
        }
    }
    let ends = (1..=text.len()).rev().filter(|&end| text.is_char_boundary(end));
    ends.filter(|&end| !text[..end].ends_with(is_space))
        .find_map(|end| Some((text[..end].parse().ok()?, &text[end..])))
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_c_reads_them() {
        for (text, rate) in [
            ("32", 32),
            ("1M", 1024),
            (" 1.5 M ", 1536),
            ("100k", 100),
            ("1e3", 1000),
            ("+64", 64),
            ("0x20", 32),
            ("32.9", 32),
        ] {
            assert_eq!(parse_max_rate(text), Ok(rate), "{text}");
        }
        for (text, error) in [
            ("", "transfer rate \"\" is not a valid value"),
            ("x", "transfer rate \"x\" is not a valid value"),
            ("0", "transfer rate must be greater than zero"),
            ("-1", "transfer rate must be greater than zero"),
            ("1", "transfer rate \"1\" is out of range"),
            ("inf", "transfer rate \"inf\" is out of range"),
            ("1e99", "transfer rate \"1e99\" is out of range"),
            ("nan", "transfer rate \"nan\" exceeds integer range"),
            ("9999999999", "transfer rate \"9999999999\" exceeds integer range"),
            ("2048M", "transfer rate \"2048M\" is out of range"),
            ("100G", "invalid --max-rate unit: \"G\""),
            ("100kB", "invalid --max-rate unit: \"kB\""),
        ] {
            assert_eq!(parse_max_rate(text).unwrap_err().to_string(), error, "{text}");
        }
    }
}
