//! Passes an archive on with something added: the configuration of a standby, files at its end, its end itself. No I/O.
//!
//! Answers to `astreamer_recovery_injector`, `astreamer_inject_file` and `astreamer_tar_archiver` in PostgreSQL's
//! `src/fe_utils` and `src/bin/pg_basebackup`. Members that nothing is done to go through byte for byte, headers
//! included, where the original writes headers anew; of what is added, the bytes are the original's.

use bytes::Bytes;

use super::tar_header::{BLOCK_LEN, MemberKind, NewMember, TarMember, resize};
use super::tar_stream::{ArchiveEnd, TarError, TarEvent, TarStream};
use super::target::StandbyFiles;

/// The owner and group that PostgreSQL's tools write for files of their own making.
const OWNER: (u32, u32) = (0o4000, 0o2000);

/// Zeros to pad with, and to end with.
static ZEROS: [u8; 2 * BLOCK_LEN] = [0; 2 * BLOCK_LEN];

/// A file to be put into an archive.
#[derive(Debug, Clone)]
pub struct AddedFile {
    /// Its name.
    pub name: &'static str,
    /// Its content.
    pub content: Bytes,
}

/// What new members have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Permission bits.
    pub mode: u32,
    /// Modification time, in seconds since 1970.
    pub mtime: u64,
}

/// An archive on its way: [`push`](Self::push) every chunk, then [`finish`](Self::finish).
#[derive(Debug)]
pub struct TarRewriter {
    tar: TarStream,
    standby: Option<StandbyFiles>,
    configured: Configured,
    member: Member,
    added: Added,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Configured {
    NotYet,
    Already,
}

/// What happens to the member at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    /// It is passed on.
    Passed { len: u64 },
    /// The lines of the standby's configuration go to its end.
    Extended { len: u64 },
    /// It is replaced by one at the end.
    Skipped,
}

impl TarRewriter {
    /// For an archive that begins. `standby` belongs into the data directory's.
    pub fn new(standby: Option<StandbyFiles>, added: Added) -> Self {
        let (configured, member) = (Configured::NotYet, Member::Passed { len: 0 });
        TarRewriter { tar: TarStream::new(), standby, configured, member, added }
    }

    /// Takes a chunk; what is to be written instead goes to `out`.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) -> Result<(), TarError> {
        self.push_seen(chunk, out, |_| Ok(()))
    }

    /// The same, for who wants to see what is in the archive, and may refuse it.
    pub(super) fn push_seen<E: From<TarError>>(
        &mut self,
        chunk: Bytes,
        out: &mut Vec<Bytes>,
        mut see: impl FnMut(&TarEvent) -> Result<(), E>,
    ) -> Result<(), E> {
        self.tar.push(chunk);
        while let Some(event) = self.tar.poll()? {
            see(&event)?;
            match event {
                TarEvent::Member(member) => self.begin_member(&member, out),
                TarEvent::Data(data) if self.member != Member::Skipped => out.push(data),
                TarEvent::MemberEnd => self.end_member(out),
                TarEvent::Data(_) | TarEvent::End => {}
            }
        }
        Ok(())
    }

    /// The archive is over: adds what belongs to its end, `files` last.
    pub fn finish(
        self,
        end: ArchiveEnd,
        files: impl IntoIterator<Item = AddedFile>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), TarError> {
        self.tar.finish(end)?;
        let mut own = Vec::new();
        if let Some(StandbyFiles { configuration, lines, signal }) = self.standby {
            if self.configured == Configured::NotYet {
                own.push(AddedFile { name: configuration, content: lines });
            }
            own.extend(signal.map(|name| AddedFile { name, content: Bytes::new() }));
        }
        for file in own.into_iter().chain(files) {
            add_file(&file, self.added, out);
        }
        out.push(Bytes::from_static(&ZEROS));
        Ok(())
    }

    fn begin_member(&mut self, member: &TarMember, out: &mut Vec<Bytes>) {
        let len = if let MemberKind::File { len } = member.kind { len } else { 0 };
        let is = |name: &str| member.path.as_bytes() == name.as_bytes();
        let mut header = *self.tar.header();
        self.member = match &self.standby {
            Some(standby) if standby.signal.is_some_and(is) => Member::Skipped,
            Some(standby) if is(standby.configuration) && matches!(member.kind, MemberKind::File { .. }) => {
                resize(&mut header, len + standby.lines.len() as u64, self.added.mtime);
                Member::Extended { len }
            }
            _ => Member::Passed { len },
        };
        if self.member != Member::Skipped {
            out.push(Bytes::copy_from_slice(&header));
        }
    }

    fn end_member(&mut self, out: &mut Vec<Bytes>) {
        match (self.member, &self.standby) {
            (Member::Skipped, _) => {}
            (Member::Extended { len }, Some(standby)) => {
                out.push(standby.lines.clone());
                pad(len + standby.lines.len() as u64, out);
                self.configured = Configured::Already;
            }
            (Member::Passed { len } | Member::Extended { len }, _) => pad(len, out),
        }
    }
}

/// A whole member.
pub(super) fn add_file(file: &AddedFile, added: Added, out: &mut Vec<Bytes>) {
    let len = file.content.len() as u64;
    let Added { mode, mtime } = added;
    let (uid, gid) = OWNER;
    let header = NewMember { name: file.name, len, mode, uid, gid, mtime }.header();
    out.push(Bytes::copy_from_slice(&header));
    if !file.content.is_empty() {
        out.push(file.content.clone());
    }
    pad(len, out);
}

/// The zeros behind content of this length.
fn pad(len: u64, out: &mut Vec<Bytes>) {
    let padding = (len.next_multiple_of(BLOCK_LEN as u64) - len) as usize;
    if padding > 0 {
        out.push(Bytes::from_static(&ZEROS[..padding]));
    }
}

#[cfg(test)]
#[path = "tar_rewriter_tests.rs"]
mod tests;
