//! The archive beside `pgwake receive`.

use std::path::Path;
use std::time::Duration;

use super::super::human;
use crate::archive::{ArchiveError, ArchiveStore, ArchiveUrl, Standing, UploadOptions, Uploader};

/// How long an archive's first answer is waited for.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than a lease, within which it shows whether another receiver lives that has it.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the rest may take when receiving has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

/// An archive that is away is waited for while WAL is received; one that cannot be used, or that another receiver has, ends the
/// run before it begins.
pub(in crate::cli) async fn open_archive(
    store: ArchiveStore,
    url: &ArchiveUrl,
    options: UploadOptions,
    directory: &Path,
) -> Result<Uploader, ArchiveError> {
    let mut uploader = Uploader::start(store, directory, options)?;
    if uploader.settled(SILENCE_TIMEOUT, CHECK_TIMEOUT + options.lease).await? == Standing::Looking {
        tracing::warn!("archive {url} does not answer yet; what is received waits in the directory");
    }
    Ok(uploader)
}

/// Receiving has ended: what is left goes up, as far as time allows.
pub(in crate::cli) async fn finish_archive(uploader: Option<Uploader>) -> Result<(), ArchiveError> {
    let Some(uploader) = uploader else { return Ok(()) };
    match uploader.finish(FAREWELL_TIMEOUT).await? {
        Some(0) => {}
        Some(behind) => {
            let behind = human::bytes(behind);
            tracing::warn!("{behind} of WAL are not in the archive yet; the next run puts them there");
        }
        None => tracing::warn!("the archive was never reached; the next run puts there what it lacks"),
    }
    Ok(())
}
