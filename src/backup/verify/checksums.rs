//! Checksums of files, on as many threads as there are.
//!
//! Answers to `verify_backup_checksums` in PostgreSQL's `pg_verifybackup.c`. Files are read with `pread` into a buffer
//! that stays in the processor's cache; mapping them would kill the process when one is cut meanwhile. Large files come
//! first, and those with CRC-32C in pieces whose checksums are put together: otherwise the last of them would keep one
//! thread busy while the others have nothing left.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::super::checksum::{ChecksumAlgorithm, RunningChecksum};
use super::error::VerifyError;
use super::findings::Findings;
use super::listing::{FileId, Listed, Listing};
use super::problem::{Place, Problem};

/// How much is read at once.
const BUFFER_LEN: usize = 256 << 10;

/// Larger files are read in pieces of this length.
const PIECE_LEN: u64 = 32 << 20;

/// The most pieces: files beyond are read whole, whatever sizes a manifest has.
const MAX_PIECES: usize = 1 << 22;

/// From this length on files are read in order of their sizes, before the others.
const SORTED_LEN: u64 = 1 << 20;

/// The most threads.
const MAX_THREADS: usize = 64;

/// A file whose checksum is to be compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) id: FileId,
    /// In which archive; meaningless for files of a directory.
    pub(super) archive: u32,
    /// Where it begins there.
    pub(super) offset: u64,
}

impl Task {
    /// A file in a directory.
    pub(super) fn of_file(id: FileId) -> Self {
        Task { id, archive: 0, offset: 0 }
    }
}

/// Where the content of files comes from.
pub(super) trait ContentSource: Sync {
    /// Opens it.
    fn open(&self, task: Task, path: &[u8]) -> io::Result<Content>;

    /// Where it is, for messages.
    fn place(&self, task: Task) -> Place;
}

/// An open file, and where in it the content begins.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
}

/// Compares the checksums of `tasks`.
pub(super) fn check(
    listing: &Listing,
    findings: &Findings<'_>,
    source: &dyn ContentSource,
    mut tasks: Vec<Task>,
    thread_count: usize,
) -> Result<(), VerifyError> {
    // the sort is stable: what is small stays in the order in which it was found
    tasks.sort_by_key(|task| {
        let len = listing.file(task.id).size;
        std::cmp::Reverse(if len < SORTED_LEN { 0 } else { len })
    });
    let mut piece_count = 0;
    let split_count = tasks.iter().take_while(|task| {
        let file = listing.file(task.id);
        let pieces = usize::try_from(file.size.div_ceil(PIECE_LEN)).unwrap_or(usize::MAX);
        piece_count = pieces.saturating_add(piece_count);
        file.size > 2 * PIECE_LEN && piece_count <= MAX_PIECES
    });
    let whole = tasks.split_off(split_count.count());
    // of other algorithms there are no pieces
    let (split, large): (Vec<Task>, Vec<Task>) =
        tasks.into_iter().partition(|task| listing.file(task.id).algorithm == ChecksumAlgorithm::Crc32c);
    let whole: Vec<Task> = large.into_iter().chain(whole).collect();
    let split: Vec<SplitFile> = split.into_iter().map(|task| SplitFile::new(task, listing)).collect();
    let pieces: Vec<(u32, u32)> = split
        .iter()
        .enumerate()
        .flat_map(|(file, split)| (0..split.checksums.len() as u32).map(move |piece| (file as u32, piece)))
        .collect();
    let (next_piece, next_whole) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut reader = Reader { listing, findings, source, buffer: vec![0; BUFFER_LEN] };
        while let Some(&(file, piece)) = pieces.get(next_piece.fetch_add(1, Ordering::Relaxed)) {
            reader.piece(&split[file as usize], piece as usize);
        }
        while let Some(task) = whole.get(next_whole.fetch_add(1, Ordering::Relaxed)) {
            reader.whole(*task);
        }
    };
    let useful = thread_count.clamp(1, MAX_THREADS).min((pieces.len() + whole.len()).max(1));
    on_threads(useful, work)
}

/// Runs `work` on so many threads, this one included.
pub(super) fn on_threads(count: usize, work: impl Fn() + Sync) -> Result<(), VerifyError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..count).map(|_| scope.spawn(&work)).collect();
        work();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| VerifyError::ThreadPanicked))
    })
}

/// A file that several threads read.
struct SplitFile {
    task: Task,
    /// Of its pieces.
    checksums: Vec<AtomicU32>,
    remaining: AtomicUsize,
    /// Something was told of it.
    failed: AtomicBool,
}

impl SplitFile {
    fn new(task: Task, listing: &Listing) -> Self {
        let count = listing.file(task.id).size.div_ceil(PIECE_LEN) as usize;
        SplitFile {
            task,
            checksums: (0..count).map(|_| AtomicU32::new(0)).collect(),
            remaining: AtomicUsize::new(count),
            failed: AtomicBool::new(false),
        }
    }

    fn checksum(&self, len: u64) -> u32 {
        let mut start = 0;
        let mut whole = 0;
        for checksum in &self.checksums {
            let piece_len = PIECE_LEN.min(len - start);
            whole = crc32c::crc32c_combine(whole, checksum.load(Ordering::Relaxed), piece_len as usize);
            start += piece_len;
        }
        whole
    }
}

struct Reader<'a> {
    listing: &'a Listing,
    findings: &'a Findings<'a>,
    source: &'a dyn ContentSource,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn whole(&mut self, task: Task) {
        let file = self.listing.file(task.id);
        let mut checksum = file.algorithm.start();
        if let Some(read) = self.read(task, &file, 0, file.size, &mut checksum) {
            let place = || self.source.place(task);
            if let Some(problem) = compare(&file, place, read, checksum.finish().as_bytes()) {
                self.findings.tell(problem);
            }
        }
    }

    fn piece(&mut self, split: &SplitFile, piece: usize) {
        let file = self.listing.file(split.task.id);
        let start = piece as u64 * PIECE_LEN;
        let len = PIECE_LEN.min(file.size - start);
        let mut checksum = ChecksumAlgorithm::Crc32c.start();
        if !split.failed.load(Ordering::Relaxed) {
            match self.read(split.task, &file, start, len, &mut checksum) {
                Some(read) if read == len => {}
                failed => {
                    let is_first = !split.failed.swap(true, Ordering::Relaxed);
                    if let (true, Some(read)) = (is_first, failed) {
                        let place = || self.source.place(split.task);
                        let problem = compare(&file, place, start + read, &[]);
                        problem.into_iter().for_each(|problem| self.findings.tell(problem));
                    }
                }
            }
        }
        let crc = checksum.finish();
        let crc = crc.as_bytes().try_into().map_or(0, u32::from_ne_bytes);
        split.checksums[piece].store(crc, Ordering::Relaxed);
        // whoever is last sees what all have stored
        let is_last = split.remaining.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last && !split.failed.load(Ordering::Relaxed) && !self.findings.has_stopped() {
            let whole = split.checksum(file.size).to_ne_bytes();
            let place = || self.source.place(split.task);
            if let Some(problem) = compare(&file, place, file.size, &whole) {
                self.findings.tell(problem);
            }
        }
    }

    /// How much could be read; `None` when that was told of, or nobody wants to know any more. At the end of a file in
    /// a directory it is looked whether the file goes on.
    fn read(
        &mut self,
        task: Task,
        file: &Listed<'_>,
        start: u64,
        len: u64,
        checksum: &mut RunningChecksum,
    ) -> Option<u64> {
        let tell = |problem| {
            self.findings.tell(problem);
            None
        };
        let content = match self.source.open(task, file.path) {
            Ok(content) => content,
            Err(source) => return tell(Problem::Open { path: file.path.into(), source }),
        };
        let may_go_on = start + len == file.size && matches!(self.source.place(task), Place::Disk);
        let mut read = 0;
        loop {
            if self.findings.has_stopped() {
                return None;
            }
            let wanted = if may_go_on { u64::MAX } else { len - read };
            let wanted = self.buffer.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            let buffer = &mut self.buffer[..wanted];
            let more = match content.file.read_at(buffer, content.offset + start + read) {
                Ok(more) => more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return tell(Problem::Read { path: file.path.into(), source }),
            };
            checksum.update(&buffer[..more]);
            read += more as u64;
            self.findings.read(more as u64);
            // where less comes than there is room for, a file ends
            let is_over = read > len || (read == len && (!may_go_on || more < wanted));
            if more == 0 || is_over {
                return Some(read);
            }
        }
    }
}

/// Fills the buffer as far as the file goes.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// What was read of a file, beside what the manifest says of it.
pub(super) fn compare(
    file: &Listed<'_>,
    place: impl FnOnce() -> Place,
    read: u64,
    checksum: &[u8],
) -> Option<Problem> {
    let path = || Box::from(file.path);
    if read != file.size {
        return Some(Problem::LenRead { path: path(), place: place(), listed: file.size, read });
    }
    if checksum.len() != file.checksum.len() {
        let (listed, expected) = (file.checksum.len(), checksum.len());
        return Some(Problem::ChecksumLen { path: path(), place: place(), listed, expected });
    }
    (checksum != file.checksum).then(|| Problem::Checksum { path: path(), place: place() })
}
