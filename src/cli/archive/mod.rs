//! Commands that speak to an archive in object storage.

mod backup;
mod fetch;
mod list;
mod prune;
mod restore;
mod upload;
mod verify;

use std::time::Duration;

use clap::Args;

pub(super) use backup::{BackupArgs, run as run_backup};
pub(super) use fetch::{FAULT, FetchArgs, run as run_fetch};
pub(super) use list::{ListArgs, run as run_list};
pub(super) use prune::{PruneArgs, run as run_prune};
pub(super) use restore::{RestoreArgs, run as run_restore};
pub(super) use upload::{finish_archive, open_archive};
pub(super) use verify::run as run_verify;

use crate::archive::ArchiveUrl;

/// Which archive.
#[derive(Debug, Args)]
pub(super) struct ArchiveArgs {
    /// The archive: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIR
    ///
    /// Credentials, region and endpoint come from the provider's own variables (AWS_*, GOOGLE_*, AZURE_*), roles and files.
    /// Behind a question mark the address takes options by their names: s3://wal/db1?endpoint=http://127.0.0.1:9000.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    pub(super) archive: ArchiveUrl,
}

/// The reason is told with its cause: clap prints one line.
pub(super) fn parse_url(text: &str) -> Result<ArchiveUrl, String> {
    text.parse().map_err(|error: crate::archive::ArchiveUrlError| super::report::one_line(&error))
}

/// `1s`, `500ms`, `0`.
pub(super) fn parse_delay(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * unit);
    seconds
        .filter(|seconds| (0.0..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "must be seconds, or milliseconds with \"ms\" behind them, up to an hour".to_owned())
}

/// The same, not too short to be renewed in time.
pub(super) fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = parse_delay(text)?;
    let long_enough = lease >= Duration::from_secs(1);
    long_enough.then_some(lease).ok_or_else(|| "must be at least a second".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_have_units() {
        for (text, millis) in [("0", 0), ("1", 1000), ("1s", 1000), ("250ms", 250), ("1.5s", 1500)] {
            assert_eq!(parse_delay(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1", "1m", "ms", "nan", "inf", "3601"] {
            assert!(parse_delay(text).is_err(), "{text}");
        }
    }
}
