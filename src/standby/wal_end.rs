//! How far a stopped standby will come by itself: the end of the last whole record in its `pg_wal`.
//!
//! Answers to what `XLogFileReadAnyTLI` and `ReadRecord` do when the server is started: the newest timeline that has a
//! history here is the goal, each segment is taken from the newest timeline that has it, and the first record that is
//! not valid is the end.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::backup::confined::FileError;
use crate::pg::wal_page::{LONG_PAGE_HEADER_LEN, WalSegmentHeader};
use crate::pg::{
    ControlFile, Lsn, TimelineHistory, TimelineId, WalChecker, WalFileName, WalSegment, WalSegmentSize,
};

/// Where the WAL of a data directory ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalEnd {
    /// The timeline that its server will be on.
    pub timeline: TimelineId,
    /// The end of the last whole record.
    pub lsn: Lsn,
}

/// How much is read at once, in bytes.
const PIECE_LEN: usize = 1 << 20;

/// Reads it, from where the control file says that recovery has come to.
pub fn find(directory: &Path, control: &ControlFile) -> Result<WalEnd, FileError> {
    let wal = directory.join("pg_wal");
    let known = control.timeline.max(control.min_recovery_timeline).unwrap_or(TimelineId::FIRST);
    let history = newest_history(&wal, known)?;
    let start_lsn = control.min_recovery_lsn.max(Some(control.redo_lsn)).unwrap_or(control.redo_lsn);
    let end = WalEnd { timeline: history.timeline(), lsn: start_lsn };
    let Some(size) = segment_size(&wal, control)? else { return Ok(end) };
    let mut segment = size.segment_at(start_lsn);
    let mut checker =
        WalChecker::new(control.system_identifier, size, history.timeline(), segment.start_lsn());
    // a later timeline without ancestors is one whose history is not here
    if history.timeline() == TimelineId::FIRST || !history.ancestors().is_empty() {
        checker = checker.with_history(history.clone());
    }
    while let Some((path, mut file)) = open(&wal, segment, &history)? {
        if !check(&mut file, &mut checker).map_err(|error| FileError::new("read file", path, error))?
            || checker.next_lsn() != segment.end_lsn()
        {
            break;
        }
        segment = segment.next();
    }
    Ok(WalEnd { lsn: end.lsn.max(checker.checked_lsn()), ..end })
}

/// Whether the checker has taken all of it.
fn check(file: &mut File, checker: &mut WalChecker) -> io::Result<bool> {
    let mut piece = vec![0; PIECE_LEN];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(true),
            len if checker.push(checker.next_lsn(), &piece[..len]).is_err() => return Ok(false),
            _ => {}
        }
    }
}

/// `findNewestTimeLine`: the last one of those that follow each other by number.
fn newest_history(wal: &Path, known: TimelineId) -> Result<TimelineHistory, FileError> {
    let mut history = read_history(wal, known)?.unwrap_or_else(|| TimelineHistory::root(known));
    let mut number = known.as_u32();
    while let Some(next) = number.checked_add(1).and_then(TimelineId::new) {
        let Some(found) = read_history(wal, next)? else { break };
        // a timeline that grew out of another one is not where this server goes
        if found.contains(known) {
            history = found;
        }
        number = next.as_u32();
    }
    Ok(history)
}

fn read_history(wal: &Path, timeline: TimelineId) -> Result<Option<TimelineHistory>, FileError> {
    let path = wal.join(timeline.history_file_name());
    match std::fs::read(&path) {
        Ok(content) => match TimelineHistory::parse(timeline, &content) {
            Ok(history) => Ok(Some(history)),
            Err(error) => Err(FileError::new("read file", path, io::Error::other(error))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read file", path, error)),
    }
}

/// How the WAL is cut, by the first segment of this cluster; `None` when there is none.
fn segment_size(wal: &Path, control: &ControlFile) -> Result<Option<WalSegmentSize>, FileError> {
    let failed = |error| FileError::new("read directory", wal, error);
    for entry in std::fs::read_dir(wal).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_segment = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            name.len() == SEGMENT_NAME_LEN && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        let mut header = [0; LONG_PAGE_HEADER_LEN];
        if !is_segment || File::open(&path).and_then(|mut file| file.read_exact(&mut header)).is_err() {
            continue;
        }
        let header = WalSegmentHeader::parse(&header);
        if header.system_identifier == control.system_identifier
            && let Ok(size) = WalSegmentSize::from_bytes(header.segment_len.into())
        {
            return Ok(Some(size));
        }
    }
    Ok(None)
}

/// Two hexadecimal digits for each of twelve bytes.
const SEGMENT_NAME_LEN: usize = 24;

fn open(
    wal: &Path,
    segment: WalSegment,
    history: &TimelineHistory,
) -> Result<Option<(PathBuf, File)>, FileError> {
    let ancestors = history.ancestors().iter().rev().map(|entry| entry.timeline);
    for timeline in std::iter::once(history.timeline()).chain(ancestors) {
        let path = wal.join(WalFileName { timeline, segment }.to_string());
        match File::open(&path) {
            Ok(file) => return Ok(Some((path, file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::new("open file", path, error)),
        }
    }
    Ok(None)
}
