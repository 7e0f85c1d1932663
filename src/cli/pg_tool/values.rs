//! Values and operands that several tools take.

use std::ffi::OsString;

use super::compression::leading_integer;
use super::{Failed, Invocation};

/// `INT_MAX / 1000`.
const MAX_STATUS_INTERVAL: i64 = 2_147_483;

/// `-s`, in seconds (`option_parse_int`).
pub(in crate::cli) fn parse_status_interval(tool: &Invocation, text: &str) -> Result<u64, Failed> {
    const OPTION: &str = "-s/--status-interval";
    let trimmed = text.trim_end_matches(|c: char| c.is_ascii_whitespace());
    let value = leading_integer(trimmed)
        .ok_or_else(|| tool.error(format!("invalid value \"{text}\" for option {OPTION}")))?;
    match u64::try_from(value) {
        Ok(seconds) if value <= MAX_STATUS_INTERVAL => Ok(seconds),
        _ => Err(tool.error(format!("{OPTION} must be in range 0..{MAX_STATUS_INTERVAL}"))),
    }
}

/// For tools that take none.
pub(in crate::cli) fn refuse_operands(tool: &Invocation, operands: &[OsString]) -> Result<(), Failed> {
    match operands.first() {
        None => Ok(()),
        Some(first) => {
            let text = format!("too many command-line arguments (first is \"{}\")", first.display());
            Err(tool.usage_error(text))
        }
    }
}
