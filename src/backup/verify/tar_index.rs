//! The members of an archive that is not compressed, found without reading their content.

use std::fs::File;
use std::io;

use bytes::Bytes;

use super::super::path::MemberPath;
use super::super::tar_header::{BLOCK_LEN, MemberKind};
use super::super::tar_stream::{ArchiveEnd, TarError, TarEvent, TarStream};
use super::checksums::read_at;
use super::problem::ArchiveFault;

/// The most WAL segments that are looked for in one archive.
pub const MAX_ARCHIVED_SEGMENTS: usize = 1 << 20;

/// A file in an archive.
#[derive(Debug)]
pub(in crate::backup) struct FileMember<'a> {
    pub(in crate::backup) path: &'a MemberPath,
    pub(in crate::backup) offset: u64,
    pub(in crate::backup) len: u64,
}

/// Hands out each regular file of an archive, in order. What is between the files is checked as it always is.
pub(super) fn index(
    file: &File,
    take: impl FnMut(FileMember<'_>) -> Result<(), ArchiveFault>,
) -> Result<(), ArchiveFault> {
    let metadata = file.metadata().map_err(|source| ArchiveFault::Read { offset: 0, source })?;
    index_with(metadata.len(), |buffer, offset| read_at(file, buffer, offset), take)
}

/// The same, wherever the archive's bytes are. `read` fills the buffer as far as there is something from an offset on.
pub(in crate::backup) fn index_with(
    archive_len: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    mut take: impl FnMut(FileMember<'_>) -> Result<(), ArchiveFault>,
) -> Result<(), ArchiveFault> {
    let failed = |offset| move |source| ArchiveFault::Read { offset, source };
    let mut stream = TarStream::new();
    let mut at = 0;
    let mut front = vec![0; 2 * BLOCK_LEN];
    loop {
        while let Some(event) = stream.poll()? {
            if let TarEvent::Member(member) = event
                && let MemberKind::File { len } = member.kind
            {
                if len > archive_len.saturating_sub(at) {
                    return Err(TarError::TruncatedMember { path: member.path }.into());
                }
                take(FileMember { path: &member.path, offset: at, len })?;
            }
        }
        let content_len = stream.skippable_len();
        if content_len > 0 {
            stream.skip_content();
            at += content_len;
            continue;
        }
        // up to the end of the next header and no further: behind it comes content
        let wanted = (at.next_multiple_of(BLOCK_LEN as u64) - at) as usize + BLOCK_LEN;
        let read_len = read(&mut front[..wanted], at).map_err(failed(at))?;
        if read_len == 0 {
            return Ok(stream.finish(ArchiveEnd::Unterminated)?);
        }
        at += read_len as u64;
        stream.push(Bytes::copy_from_slice(&front[..read_len]));
    }
}
