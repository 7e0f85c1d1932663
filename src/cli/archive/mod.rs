//! Commands that speak to an archive in object storage.

mod backup;
mod fetch;
mod list;
mod prune;
mod restore;
mod slot;
mod upload;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

pub(super) use backup::{BackupArgs, run as run_backup};
pub(super) use fetch::{FAULT, FetchArgs, run as run_fetch};
pub(super) use list::{ListArgs, run as run_list};
pub(super) use prune::{PruneArgs, run as run_prune};
pub(super) use restore::{RestoreArgs, run as run_restore};
pub(super) use slot::ArchiveSlot;
pub(super) use upload::{finish_archive, open_archive};
pub(super) use verify::run as run_verify;

use crate::archive::{Access, ArchiveError, ArchiveStore, ArchiveUrl, Keyring};

/// Which archive.
#[derive(Debug, Args)]
pub(super) struct ArchiveArgs {
    /// The archive: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIR
    ///
    /// Credentials, region and endpoint come from the provider's variables (AWS_*, GOOGLE_*, AZURE_*) and the files that those
    /// name, or from the machine's role; ~/.aws is not read. README has all of them. Behind a question mark the address takes
    /// options by their names: s3://wal/db1?endpoint=http://127.0.0.1:9000.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    pub(super) archive: ArchiveUrl,

    #[command(flatten)]
    encryption: EncryptionArgs,
}

impl ArchiveArgs {
    /// The archive, without having spoken to it.
    pub(super) fn open(&self, access: Access) -> Result<ArchiveStore, ArchiveError> {
        self.encryption.open(&self.archive, access)
    }

    /// What another command has to be told to read it, too.
    pub(super) fn encryption_words(&self) -> Vec<String> {
        self.encryption.words()
    }
}

/// What its objects are encrypted with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Encryption")]
pub(super) struct EncryptionArgs {
    /// Encrypt what is written with the first key in this file; all of its keys read
    ///
    /// A key a line: a name, a space, 64 hexadecimal digits ("openssl rand -hex 32"). Only the file's owner may be able to read it.
    #[arg(long, value_name = "FILE")]
    encryption_keys: Option<PathBuf>,

    /// The same with the lines that a shell command prints
    #[arg(long, value_name = "COMMAND", conflicts_with = "encryption_keys")]
    encryption_keys_command: Option<String>,
}

impl EncryptionArgs {
    fn words(&self) -> Vec<String> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let file = self.encryption_keys.as_ref().map(|path| absolute(path).display().to_string());
        let file = file.map(|path| vec!["--encryption-keys".to_owned(), path]);
        let command = self.encryption_keys_command.clone();
        let command = command.map(|command| vec!["--encryption-keys-command".to_owned(), command]);
        file.or(command).unwrap_or_default()
    }

    pub(super) fn open(&self, url: &ArchiveUrl, access: Access) -> Result<ArchiveStore, ArchiveError> {
        let keys = match (&self.encryption_keys, &self.encryption_keys_command) {
            (Some(path), _) => Some(Keyring::from_file(path)?),
            (None, Some(command)) => Some(Keyring::from_command(command)?),
            (None, None) => None,
        };
        Ok(ArchiveStore::open(url, access)?.with_keys(keys.map(Arc::new)))
    }
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

/// `10GB`, `512MB`, `1073741824`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10)];
    let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let number: Option<u64> = number.trim_end().parse().ok();
    let size = number.and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| "must be a number of bytes, or one with kB, MB, GB or TB behind it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_postgresqls_units() {
        for (text, size) in
            [("0", 0), ("5kB", 5 << 10), ("512 MB", 512 << 20), ("10GB", 10 << 30), ("1TB", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "-1", "1K", "GB", "99999999TB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

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
