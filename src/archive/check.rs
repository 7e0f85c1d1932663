//! Whether the WAL in a row of files is valid. Several rows can be checked at once.
//!
//! A row is checked beyond its end, into the file that follows, until a record that begins there has ended: so
//! nothing falls between two rows, whoever checks the next.

use std::path::Path;

use super::file::{ArchivedFile, OpenFileError, WalContent};
use super::problem::{Problem, ProblemKind};
use crate::compression::CompressionMethod;
use crate::pg::{Lsn, SystemIdentifier, TimelineHistory, WalChecker, WalError};

/// Files of one timeline, each the next segment after the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) files: &'a [ArchivedFile],
    /// The file after the last of them, if it is there.
    pub(super) next: Option<&'a ArchivedFile>,
    /// The timeline's history, if that is known.
    pub(super) history: Option<&'a TimelineHistory>,
}

/// What came of a row.
#[derive(Debug, Default)]
pub(super) struct RowOutcome {
    pub(super) problems: Vec<Problem>,
    /// The end of the last whole record.
    pub(super) end_lsn: Lsn,
    /// Bytes of WAL read.
    pub(super) byte_count: u64,
    /// Unfinished compressed files in which the segment is whole.
    pub(super) whole_unfinished: Vec<String>,
}

pub(super) struct RowCheck<'a> {
    pub(super) directory: &'a Path,
    pub(super) system_identifier: SystemIdentifier,
    pub(super) row: Row<'a>,
}

impl RowCheck<'_> {
    pub(super) fn run(&self) -> Result<RowOutcome, OpenFileError> {
        let mut outcome = RowOutcome::default();
        let mut checker = None;
        for file in self.row.files {
            let at = checker.take().filter(|checker: &WalChecker| checker.next_lsn() == file.start_lsn());
            let mut file_checker = at.unwrap_or_else(|| self.checker(file));
            let result = self.check_file(file, &mut file_checker, &mut outcome.byte_count);
            outcome.end_lsn = file_checker.checked_lsn();
            match result {
                Ok(None) => {
                    let is_whole = file_checker.next_lsn() == file.segment().end_lsn();
                    if is_whole && file.is_partial && file.compression != CompressionMethod::None {
                        outcome.whole_unfinished.push(file.name.clone());
                    }
                    checker = Some(file_checker);
                }
                Ok(Some(kind)) => {
                    let lsn =
                        if let ProblemKind::InvalidWal(error) = &kind { error.lsn } else { file.start_lsn() };
                    let file_name = if lsn < file.start_lsn() { None } else { Some(file.name.clone()) };
                    outcome.problems.push(Problem { timeline: file.timeline(), lsn, file: file_name, kind });
                }
                Err(error) => return Err(error),
            }
        }
        if let (Some(mut checker), Some(next)) = (checker, self.row.next)
            && checker.next_lsn() == next.start_lsn()
            && let Err(error) = self.check_into(next, &mut checker)?
        {
            let file = Some(next.name.clone()).filter(|_| error.lsn >= next.start_lsn());
            let kind = ProblemKind::InvalidWal(error);
            outcome.problems.push(Problem { timeline: next.timeline(), lsn: error.lsn, file, kind });
        }
        Ok(outcome)
    }

    fn checker(&self, file: &ArchivedFile) -> WalChecker {
        let size = file.segment().size();
        let checker = WalChecker::new(self.system_identifier, size, file.timeline(), file.start_lsn());
        match self.row.history {
            Some(history) => checker.with_history(history.clone()),
            None => checker,
        }
    }

    /// Reads all of a file; says what is wrong with it.
    fn check_file(
        &self,
        file: &ArchivedFile,
        checker: &mut WalChecker,
        byte_count: &mut u64,
    ) -> Result<Option<ProblemKind>, OpenFileError> {
        let segment_len = file.segment().size().as_u64();
        let data_len = if file.is_partial { Some(data_len(file, self.directory)?) } else { None };
        let mut content = file.open(self.directory)?;
        let mut len = 0;
        let mut failure: Option<WalError> = None;
        loop {
            let piece = match content.next_piece() {
                Ok([]) => break,
                Ok(piece) => piece,
                Err(OpenFileError::Damaged { source, .. }) => {
                    return Ok(Some(ProblemKind::Compression { reason: source.to_string() }));
                }
                Err(error) => return Err(error),
            };
            let lsn = file.start_lsn() + len;
            len += piece.len() as u64;
            *byte_count += piece.len() as u64;
            if len > segment_len || failure.is_some() {
                continue;
            }
            // what is zero up to the end of an unfinished file was not received
            let received =
                data_len.map_or(u64::MAX, |data_len| data_len.saturating_sub(lsn - file.start_lsn()));
            let (received, _) =
                piece.split_at(piece.len().min(usize::try_from(received).unwrap_or(usize::MAX)));
            if !received.is_empty() {
                failure = checker.push(lsn, received).err();
            }
        }
        if let Some(failure) = failure {
            return Ok(Some(ProblemKind::InvalidWal(failure)));
        }
        let is_wrong = if file.is_partial { len > segment_len } else { len != segment_len };
        if is_wrong {
            return Ok(Some(ProblemKind::WrongLength { len, segment_len }));
        }
        if data_len.is_some_and(|data_len| data_len < len) {
            take_zeros(checker, file.start_lsn() + len);
        }
        Ok(None)
    }

    /// Goes on into `file` until a record that begins in it has ended.
    fn check_into(
        &self,
        file: &ArchivedFile,
        checker: &mut WalChecker,
    ) -> Result<Result<(), WalError>, OpenFileError> {
        // an unfinished file ends where it ends; whoever checks it as a row of its own knows how to take that
        if file.is_partial {
            return Ok(Ok(()));
        }
        let mut content = file.open(self.directory)?;
        loop {
            let lsn = checker.next_lsn();
            let piece = match content.next_piece() {
                Ok([]) | Err(OpenFileError::Damaged { .. }) => return Ok(Ok(())),
                Ok(piece) => piece,
                Err(error) => return Err(error),
            };
            if lsn >= file.segment().end_lsn() {
                return Ok(Ok(()));
            }
            if let Err(error) = checker.push(lsn, piece) {
                return Ok(Err(error));
            }
            if checker.last_record_lsn().is_some_and(|lsn| lsn >= file.start_lsn()) {
                return Ok(Ok(()));
            }
        }
    }
}

/// A record that was received whole may end in zeros.
fn take_zeros(checker: &mut WalChecker, end_lsn: Lsn) {
    const ZEROS: [u8; 8192] = [0; 8192];
    loop {
        let mut further = checker.clone();
        let len = (end_lsn.saturating_since(further.next_lsn())).min(ZEROS.len() as u64) as usize;
        if len == 0 || further.push(further.next_lsn(), &ZEROS[..len]).is_err() {
            if further.checked_lsn() > checker.checked_lsn() {
                *checker = further;
            }
            return;
        }
        *checker = further;
    }
}

/// How far a file has something other than zeros.
fn data_len(file: &ArchivedFile, directory: &Path) -> Result<u64, OpenFileError> {
    let mut content = file.open(directory)?;
    let (mut len, mut data_len) = (0, 0);
    loop {
        match content.next_piece() {
            Ok([]) | Err(OpenFileError::Damaged { .. }) => return Ok(data_len),
            Ok(piece) => {
                if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
                    data_len = len + last as u64 + 1;
                }
                len += piece.len() as u64;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The first difference of two files, within the first `len` bytes and what both have. Where one is unfinished, its
/// zeros differ from nothing.
pub(super) fn first_difference(
    one: &ArchivedFile,
    other: &ArchivedFile,
    directory: &Path,
    len: u64,
) -> Result<Option<u64>, OpenFileError> {
    let has_holes = one.is_partial || other.is_partial;
    let (mut one, mut other) = (one.open(directory)?, other.open(directory)?);
    let mut at = 0;
    while at < len {
        let pieces = match (one.next_piece(), other.next_piece()) {
            (Ok(one), Ok(other)) => (one, other),
            (Err(error @ OpenFileError::Io { .. }), _) | (_, Err(error @ OpenFileError::Io { .. })) => {
                return Err(error);
            }
            // told where that file is checked
            _ => return Ok(None),
        };
        let most = pieces.0.len().min(pieces.1.len()).min(usize::try_from(len - at).unwrap_or(usize::MAX));
        let (one, other) = (&pieces.0[..most], &pieces.1[..most]);
        let differs = |(one, other): (&u8, &u8)| one != other && !(has_holes && (*one == 0 || *other == 0));
        if one != other
            && let Some(index) = one.iter().zip(other).position(differs)
        {
            return Ok(Some(at + index as u64));
        }
        if most < WalContent::PIECE_LEN {
            return Ok(None);
        }
        at += most as u64;
    }
    Ok(None)
}
