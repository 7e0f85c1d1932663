//! What an incremental backup builds upon: the latest backup, by whose manifest the server knows what it need not send.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use super::super::error::RepositoryError;
use super::super::listing::BackupListing;
use super::super::piece_reader::{BackupReader, Pieces};
use super::super::record::{BackupRecord, StreamContent};
use super::error::TakeError;
use crate::archive::ArchiveStore;
use crate::backup::ArchiveEvent;
use crate::backup::confined::ConfinedDirectory;
use crate::client::Connection;

/// The latest backup, on a server that can build upon it.
pub(super) async fn find(
    replication: &mut Connection,
    store: &ArchiveStore,
) -> Result<BackupRecord, TakeError> {
    let version = replication.version();
    if !version.has_incremental_backup() {
        return Err(TakeError::NoIncremental(version));
    }
    let what = "summarize_wal";
    let setting = replication.show(what).await.map_err(|source| TakeError::Query { what, source })?;
    if setting == "off" {
        return Err(TakeError::NoSummaries);
    }
    let listing = BackupListing::read(store).await?;
    listing.latest().cloned().ok_or(TakeError::NothingToBuildUpon)
}

/// Hands its manifest over. It goes through an unnamed file: it may be longer than memory should be.
pub(super) async fn upload_manifest(
    replication: &mut Connection,
    store: &ArchiveStore,
    parent: &BackupRecord,
) -> Result<(), TakeError> {
    let pieces = Pieces::of(store, parent).await?;
    let is_manifest = |content: &StreamContent| *content == StreamContent::Manifest;
    let mut reader = BackupReader::of_streams(store.clone(), parent, pieces, is_manifest);
    let directory = ConfinedDirectory::open(&std::env::temp_dir(), None);
    let directory = directory.map_err(|error| RepositoryError::Temporary(error.source))?;
    let mut file = directory.unnamed_file().map_err(RepositoryError::Temporary)?;
    while let Some(event) = reader.next().await? {
        if let ArchiveEvent::ManifestData(data) = event {
            file.write_all(&data).map_err(RepositoryError::Temporary)?;
        }
    }
    file.seek(SeekFrom::Start(0)).map_err(RepositoryError::Temporary)?;
    let uploaded = replication.upload_manifest(|piece| file.read(piece)).await;
    uploaded.map_err(|source| TakeError::UploadManifest { parent: parent.name.clone(), source })
}
