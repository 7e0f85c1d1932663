//! The manifest's file, read into a [`Listing`].

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::super::manifest::{ManifestError, ManifestParser, ManifestSummary};
use super::error::VerifyError;
use super::listing::{Listing, NotListed};

const PIECE_LEN: usize = 128 << 10;

/// Reads it. Nothing in it is believed before its own checksum was right.
pub(super) fn read_manifest(path: &Path) -> Result<(Listing, ManifestSummary), VerifyError> {
    let failed = |operation| move |source| VerifyError::File { operation, path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed("open"))?;
    let mut listing = Listing::default();
    let mut parser = ManifestParser::new();
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let len = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("read")(error)),
        };
        parser.push(&piece[..len], |file| {
            listing.insert(&file).map_err(|refused| match refused {
                NotListed::Duplicate => VerifyError::DuplicatePath { path: file.path.into() },
                NotListed::TooMany => VerifyError::TooManyFiles,
            })
        })?;
    }
    let summary = parser.finish().map_err(|error: ManifestError| VerifyError::Manifest(error))?;
    Ok((listing, summary))
}
