//! `BASE_BACKUP`: the data directory as a stream of archives.
//!
//! The answer, in every version: a result set with the start, one with the tablespaces, the copy (one from 15 on,
//! before that one for each archive and one for the manifest), a result set with the end, and only then the completion
//! that says that all went well. `basebackup.c` and `basebackup_copy.c` write it.

use std::time::Duration;

use bytes::Bytes;

use super::connection::Pace;
use super::{ClientError, Connection};
use crate::pg::version::BaseBackupSyntax;
use crate::pg::{Lsn, TimelineId};
use crate::wire::backend::{BackendMessage, DataRow};
use crate::wire::command::BaseBackup;
use crate::wire::frame::Placement;

const NAME: &str = "BASE_BACKUP";

/// The most tablespaces that a backup is taken to have.
const MAX_TABLESPACES: usize = 4096;

/// How long a server may be silent once a backup has begun. From 15 on it reports progress each second; before that it
/// has nothing to wait for but its disk. Archiving, where it was asked to wait for that, takes as long as it takes: from
/// 15 on that is inside the copy, between the last archive, of which it is not known here where it ends, and the manifest.
const COPY_SILENCE_TIMEOUT: Duration = Duration::from_secs(300);

/// What a message in the copy begins with that begins an archive.
const ARCHIVE_BEGINS: u8 = b'n';

/// The longest location of a tablespace, in bytes (`MAXPGPATH`).
const MAX_LOCATION_LEN: usize = 1024;

/// Where a backup begins: recovery needs WAL from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupStart {
    /// The redo position of the backup's checkpoint.
    pub lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

/// Where a backup ends: recovery needs WAL up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupEnd {
    /// The first byte after the end-of-backup record.
    pub lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

/// A tablespace, in the order of the archives; the data directory itself is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its object id; `None` for the data directory.
    pub oid: Option<u32>,
    /// Its directory on the server, any encoding; relative for an in-place tablespace; `None` for the data directory.
    pub location: Option<Bytes>,
    /// Its size in kB, an estimate; `None` unless it was asked for.
    pub size_kb: Option<u64>,
}

/// What comes next of a backup.
#[derive(Debug)]
pub enum BackupStep {
    /// A copy begins: from 15 on the only one; before that one for each tablespace, then the manifest's.
    CopyBegin,
    /// The payload of a CopyData message.
    CopyData(Bytes),
    /// The copy is complete.
    CopyEnd,
    /// The server says where the backup ends, and not yet whether it succeeded.
    EndPosition(BackupEnd),
    /// The server has completed the backup. Nothing follows.
    Completed(BackupEnd),
}

/// How far the answer has come: what an error interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupStage {
    /// A copy is to begin.
    BeforeCopy,
    /// A copy is under way.
    Copy,
    /// All copies are complete: the end is to be told.
    BeforeEnd,
    /// The end was told.
    BeforeCompletion,
}

/// A backup whose start is known: the checkpoint is over.
pub struct BackupOpening<'a> {
    connection: &'a mut Connection,
    start: BackupStart,
    end_silence: Option<Duration>,
}

/// A backup under way. Dropped before [`BackupStep::End`], it leaves the connection unusable.
pub struct BaseBackupStream<'a> {
    connection: &'a mut Connection,
    start: BackupStart,
    tablespaces: Vec<Tablespace>,
    stage: BackupStage,
    /// As far as the server says so, from 15 on.
    archives_begun: usize,
    end: Option<BackupEnd>,
    end_silence: Option<Duration>,
}

impl Connection {
    /// `BASE_BACKUP`: waits for the checkpoint and answers with the start and the tablespaces; the data follows.
    pub async fn base_backup(&mut self, request: &BaseBackup) -> Result<BaseBackupStream<'_>, ClientError> {
        self.open_base_backup(request).await?.tablespaces().await
    }

    /// The same, as far as the start.
    pub async fn open_base_backup(&mut self, request: &BaseBackup) -> Result<BackupOpening<'_>, ClientError> {
        let version = self.version();
        if request.incremental && !version.has_incremental_backup() {
            return Err(ClientError::NotSupported { command: "BASE_BACKUP (INCREMENTAL)", version });
        }
        let for_options = version.base_backup_syntax() == BaseBackupSyntax::Options;
        if request.target.is_some() && !for_options {
            return Err(ClientError::NotSupported { command: "BASE_BACKUP (TARGET)", version });
        }
        if request.compression.is_some() && !for_options {
            return Err(ClientError::NotSupported { command: "BASE_BACKUP (COMPRESSION)", version });
        }
        self.start_query(&request.to_command(version)).await?;
        // the checkpoint takes as long as it takes
        let mut positions = self.read_rows(None, 1, read_position, "invalid start").await?;
        let (lsn, timeline) = positions.pop().ok_or_else(|| answer("no start"))?;
        // and so does archiving
        let end_silence = if request.wait_for_archive { None } else { Some(COPY_SILENCE_TIMEOUT) };
        Ok(BackupOpening { connection: self, start: BackupStart { lsn, timeline }, end_silence })
    }

    /// One result set of at most `max_rows`, up to its CommandComplete. Of a row nothing is kept but what `read` makes
    /// of it.
    async fn read_rows<T>(
        &mut self,
        silence: Option<Duration>,
        max_rows: usize,
        read: impl Fn(&DataRow) -> Option<T>,
        problem: &'static str,
    ) -> Result<Vec<T>, ClientError> {
        match self.next_message_within(silence).await? {
            BackendMessage::RowDescription(_) => {}
            message => return Err(unexpected(&message)),
        }
        let mut rows = Vec::new();
        loop {
            match self.next_message_within(Some(COPY_SILENCE_TIMEOUT)).await? {
                BackendMessage::DataRow(row) if rows.len() < max_rows => {
                    rows.push(read(&row).ok_or_else(|| answer(problem))?);
                }
                BackendMessage::CommandComplete(_) => return Ok(rows),
                message => return Err(unexpected(&message)),
            }
        }
    }
}

impl<'a> BackupOpening<'a> {
    /// Where the backup begins.
    pub fn start(&self) -> BackupStart {
        self.start
    }

    /// What it consists of.
    pub async fn tablespaces(self) -> Result<BaseBackupStream<'a>, ClientError> {
        let BackupOpening { connection, start, end_silence } = self;
        let silence = Some(COPY_SILENCE_TIMEOUT);
        let tablespaces =
            connection.read_rows(silence, MAX_TABLESPACES, read_tablespace, "invalid tablespace").await?;
        if tablespaces.iter().filter(|tablespace| tablespace.oid.is_none()).count() != 1 {
            return Err(answer("not one data directory"));
        }
        let stage = BackupStage::BeforeCopy;
        Ok(BaseBackupStream {
            connection,
            start,
            tablespaces,
            stage,
            archives_begun: 0,
            end: None,
            end_silence,
        })
    }
}

impl BaseBackupStream<'_> {
    /// Where the backup begins.
    pub fn start(&self) -> BackupStart {
        self.start
    }

    /// The tablespaces, the data directory last.
    pub fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// Receives large pieces of files to where a device can take them from. Worth it only for who writes them as they are.
    pub fn place_content(&mut self) {
        let has_tags = self.connection.version().base_backup_syntax() == BaseBackupSyntax::Options;
        self.connection.place(Placement::archive(usize::from(has_tags)));
    }

    /// How far the answer has come.
    pub fn stage(&self) -> BackupStage {
        self.stage
    }

    /// What comes next. Cancel-safe.
    pub async fn next(&mut self) -> Result<BackupStep, ClientError> {
        loop {
            let message = self.connection.next_message_within(self.silence()).await?;
            match (self.stage, message) {
                (BackupStage::Copy, BackendMessage::CopyData(payload)) => {
                    self.archives_begun += usize::from(payload.first() == Some(&ARCHIVE_BEGINS));
                    return Ok(BackupStep::CopyData(payload));
                }
                (BackupStage::BeforeCopy | BackupStage::BeforeEnd, BackendMessage::CopyOutResponse) => {
                    self.stage = BackupStage::Copy;
                    self.connection.set_pace(Pace::Bulk);
                    return Ok(BackupStep::CopyBegin);
                }
                (BackupStage::Copy, BackendMessage::CopyDone) => {
                    self.stage = BackupStage::BeforeEnd;
                    self.connection.set_pace(Pace::Prompt);
                    return Ok(BackupStep::CopyEnd);
                }
                (BackupStage::BeforeEnd, BackendMessage::RowDescription(_)) => {}
                (BackupStage::BeforeEnd, BackendMessage::DataRow(row)) if self.end.is_none() => {
                    let (lsn, timeline) = read_position(&row).ok_or_else(|| answer("invalid end"))?;
                    self.end = Some(BackupEnd { lsn, timeline });
                }
                // of the row
                (BackupStage::BeforeEnd, BackendMessage::CommandComplete(_)) => {
                    let end = self.end.ok_or_else(|| answer("no end"))?;
                    self.stage = BackupStage::BeforeCompletion;
                    return Ok(BackupStep::EndPosition(end));
                }
                (BackupStage::BeforeCompletion, BackendMessage::CommandComplete(_)) => {}
                (BackupStage::BeforeCompletion, BackendMessage::ReadyForQuery) => {
                    let end = self.end.ok_or_else(|| answer("invalid end"))?;
                    return Ok(BackupStep::Completed(end));
                }
                (_, message) => return Err(unexpected(&message)),
            }
        }
    }
}

impl BaseBackupStream<'_> {
    /// How long the server may be silent now.
    fn silence(&self) -> Option<Duration> {
        let is_only_copy = self.connection.version().base_backup_syntax() == BaseBackupSyntax::Options;
        match self.stage {
            BackupStage::BeforeCopy => Some(COPY_SILENCE_TIMEOUT),
            // it waits behind the last archive
            BackupStage::Copy if !is_only_copy || self.archives_begun < self.tablespaces.len() => {
                Some(COPY_SILENCE_TIMEOUT)
            }
            BackupStage::Copy | BackupStage::BeforeEnd | BackupStage::BeforeCompletion => self.end_silence,
        }
    }
}

fn read_position(row: &DataRow) -> Option<(Lsn, TimelineId)> {
    Some((row.text(0)?.parse().ok()?, row.text(1)?.parse().ok()?))
}

fn read_tablespace(row: &DataRow) -> Option<Tablespace> {
    let [oid, location, size] = row.values.as_slice() else { return None };
    let oid = match oid {
        Some(_) => Some(row.text(0)?.parse().ok()?),
        None => None,
    };
    // a user tablespace has both, the data directory neither
    if oid.is_some() != location.is_some() || location.as_ref().is_some_and(|at| !is_location(at)) {
        return None;
    }
    let size_kb = match size {
        Some(_) => Some(row.text(2)?.parse().ok()?),
        None => None,
    };
    // copied, because a slice would keep all that was received with it
    let location = location.as_deref().map(Bytes::copy_from_slice);
    Some(Tablespace { oid, location, size_kb })
}

/// Whether a tablespace can be there: the place is shown on terminals, and stands in a file by lines.
fn is_location(location: &[u8]) -> bool {
    location.len() <= MAX_LOCATION_LEN && !location.iter().any(u8::is_ascii_control)
}

fn answer(problem: &'static str) -> ClientError {
    ClientError::Answer { command: NAME, problem }
}

fn unexpected(message: &BackendMessage) -> ClientError {
    ClientError::Unexpected { during: NAME, found: message.name() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_have_places_that_can_be_shown() {
        let read = |location: &[u8]| {
            let oid = Some(Bytes::from_static(b"16384"));
            let values = vec![oid, Some(Bytes::copy_from_slice(location)), Some(Bytes::from_static(b"7"))];
            read_tablespace(&DataRow { values })
        };
        let space = read("/räume/1".as_bytes()).unwrap();
        assert_eq!((space.oid, space.size_kb), (Some(16384), Some(7)));
        assert!(read(&[b'x'; MAX_LOCATION_LEN]).is_some());
        for location in [&[b'x'; MAX_LOCATION_LEN + 1][..], b"/a\nb", b"/\x1b[2J", b"/\x7f"] {
            assert_eq!(read(location), None);
        }
    }
}
