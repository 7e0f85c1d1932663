//! `UPLOAD_MANIFEST` (17): what an incremental backup is incremental to.

use super::{ClientError, Connection};
use crate::wire::backend::BackendMessage;
use crate::wire::frontend;

const NAME: &str = "UPLOAD_MANIFEST";

/// How much of the manifest one message carries, in bytes.
const PIECE_LEN: usize = 64 << 10;

impl Connection {
    /// `UPLOAD_MANIFEST`: hands a manifest to this connection's walsender, which keeps it until the connection ends.
    ///
    /// `read_piece` fills the buffer it is given from the manifest and says how much, zero at the end.
    pub async fn upload_manifest(
        &mut self,
        mut read_piece: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
    ) -> Result<(), UploadManifestError> {
        if !self.version().has_incremental_backup() {
            return Err(ClientError::NotSupported { command: NAME, version: self.version() }.into());
        }
        self.start_query(NAME).await?;
        match self.next_message().await? {
            BackendMessage::CopyInResponse => {}
            message => return Err(unexpected(&message).into()),
        }
        let mut piece = vec![0; PIECE_LEN];
        loop {
            // a read that fails leaves the copy open, so that the connection is of no further use
            let len = read_piece(&mut piece).map_err(UploadManifestError::Read)?;
            if len == 0 {
                break;
            }
            frontend::copy_data(&piece[..len], self.outgoing()).map_err(ClientError::from)?;
            self.send().await?;
        }
        frontend::copy_done(self.outgoing());
        self.send().await?;
        loop {
            match self.next_message().await? {
                BackendMessage::CommandComplete(_) => {}
                BackendMessage::ReadyForQuery => return Ok(()),
                message => return Err(unexpected(&message).into()),
            }
        }
    }
}

/// Why a manifest was not uploaded.
#[derive(Debug, thiserror::Error)]
pub enum UploadManifestError {
    /// The manifest could not be read.
    #[error("could not read backup manifest")]
    Read(#[source] std::io::Error),
    /// The server refused it, or the connection failed.
    #[error("could not upload manifest")]
    Client(#[from] ClientError),
}

fn unexpected(message: &BackendMessage) -> ClientError {
    ClientError::Unexpected { during: NAME, found: message.name() }
}
