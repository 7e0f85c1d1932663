//! The archive beside `pgwake receive`.

use std::path::Path;
use std::time::Duration;

use super::super::{human, report};
use crate::ErrorClass;
use crate::archive::{ArchiveError, ArchiveStore, ArchiveUrl, UploadOptions, Uploader};

/// How long an archive's first answer is waited for.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the rest may take when receiving has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

/// An archive that is away is waited for while WAL is received; one that cannot be used ends the run before it begins.
pub(in crate::cli) async fn open_archive(
    url: &ArchiveUrl,
    delay: Duration,
    directory: &Path,
) -> Result<Uploader, ArchiveError> {
    let store = ArchiveStore::open(url)?;
    match tokio::time::timeout(CHECK_TIMEOUT, store.check_conditions()).await {
        Ok(Err(error)) if error.class() != ErrorClass::Transient => return Err(error),
        Ok(Err(error)) => {
            tracing::warn!(error = report::one_line(&error), "archive {url} does not answer yet");
        }
        Err(_) => tracing::warn!("archive {url} does not answer yet"),
        Ok(Ok(())) => {}
    }
    Uploader::start(store, directory, UploadOptions { delay })
}

/// Receiving has ended: what is left goes up, as far as time allows.
pub(in crate::cli) async fn finish_archive(uploader: Option<Uploader>) -> Result<(), ArchiveError> {
    let Some(uploader) = uploader else { return Ok(()) };
    let behind = uploader.finish(FAREWELL_TIMEOUT).await?;
    if behind > 0 {
        let behind = human::bytes(behind);
        tracing::warn!("{behind} of WAL are not in the archive yet; the next run puts them there");
    }
    Ok(())
}
