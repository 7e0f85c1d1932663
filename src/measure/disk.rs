//! How long a directory's disk takes to acknowledge a write: `write`, `fdatasync`, and again.
//!
//! Pieces of two sizes (what one commit brings, and a full message of a walsender) into files of two kinds: one that grows,
//! so that each sync has to record its new length too, and one that was filled with zeros and synced beforehand. They take
//! turns, so that what else the disk does meanwhile falls on all of them alike. Files of the length of a segment, in a
//! directory of their own, which goes away with the [`DiskProbe`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::{DiskError, DiskOperation};
use super::latencies::Latencies;

/// What a file is before it is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Empty: every write makes it longer.
    Growing,
    /// As long as it will be, filled with zeros and synced.
    ZeroFilled,
}

/// One kind of durable write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// How much is written at once.
    pub write_len: usize,
    /// Into what.
    pub file: FileKind,
}

/// What a disk acknowledges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskMeasured {
    /// How long it took altogether.
    pub elapsed: Duration,
    /// Filling a file of [`SEGMENT_LEN`] bytes with zeros and syncing it; `None` if it did not come to that.
    pub zero_fill: Option<Duration>,
    /// Of each kind of write, how long one took; kinds that were never written are left out.
    pub series: Vec<(Series, Latencies)>,
}

/// The length of a file: that of a segment, usually.
const SEGMENT_LEN: usize = 16 << 20;

/// How often one kind of write is done before it is another's turn.
const TURN: usize = 16;

/// After so many writes of each kind no more is to be learnt, and memory is not for them.
const MAX_COUNT: usize = 100_000;

/// All kinds of writes.
const ALL: [Series; 4] = [
    Series { write_len: 8 << 10, file: FileKind::Growing },
    Series { write_len: 8 << 10, file: FileKind::ZeroFilled },
    Series { write_len: 128 << 10, file: FileKind::Growing },
    Series { write_len: 128 << 10, file: FileKind::ZeroFilled },
];

/// A directory for the files, which is removed with all that is in it when this is dropped, even while a write hangs.
#[derive(Debug)]
pub struct DiskProbe {
    directory: PathBuf,
    shared: Arc<Shared>,
}

/// What the thread that writes has seen so far.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    zero_fill: Option<Duration>,
    spans: [Vec<Duration>; ALL.len()],
}

impl DiskProbe {
    /// Makes a directory in `parent`.
    pub fn create(parent: &Path) -> Result<Self, DiskError> {
        let directory = parent.join(format!(".pgwake-bench-{:016x}", fastrand::u64(..)));
        let created = DirBuilder::new().mode(0o700).create(&directory);
        created.map_err(failed(DiskOperation::CreateDirectory, &directory))?;
        Ok(DiskProbe { directory, shared: Arc::default() })
    }

    /// Writes for `duration`, or until `interrupted` resolves. After that a write that hangs is waited for only
    /// briefly; what was measured before it counts.
    pub async fn measure(
        &self,
        duration: Duration,
        interrupted: impl Future<Output = &'static str>,
    ) -> Result<DiskMeasured, DiskError> {
        let began = Instant::now();
        let (directory, shared) = (self.directory.clone(), Arc::clone(&self.shared));
        let (done, mut result) = tokio::sync::oneshot::channel();
        // not one of the runtime's: nobody waits for it at the end
        std::thread::spawn(move || done.send(write_in_turns(&directory, &shared, duration)));
        let written = tokio::select! {
            written = &mut result => Some(written),
            _signal = interrupted => {
                self.shared.stop.store(true, Ordering::Relaxed);
                tokio::time::timeout(HANGING_WRITE, result).await.ok()
            }
        };
        if let Some(Ok(Err(error))) = written {
            return Err(error);
        }
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let spans = std::mem::take(&mut seen.spans);
        let series = ALL.into_iter().zip(spans);
        Ok(DiskMeasured {
            elapsed: began.elapsed(),
            zero_fill: seen.zero_fill,
            series: series.filter_map(|(series, spans)| Some((series, Latencies::of(spans)?))).collect(),
        })
    }
}

impl Drop for DiskProbe {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "could not remove \"{}\"", self.directory.display());
        }
    }
}

/// How long a write is waited for after an interruption.
const HANGING_WRITE: Duration = Duration::from_secs(2);

fn write_in_turns(directory: &Path, shared: &Shared, duration: Duration) -> Result<(), DiskError> {
    let seen = || shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut files = Vec::new();
    for (number, series) in ALL.into_iter().enumerate() {
        let (file, zero_fill) = ProbeFile::create(directory.join(number.to_string()), series)?;
        if zero_fill.is_some() {
            seen().zero_fill = zero_fill;
        }
        files.push(file);
    }
    let until = Instant::now() + duration;
    for _ in 0..MAX_COUNT / TURN {
        for (number, file) in files.iter_mut().enumerate() {
            for _ in 0..TURN {
                if shared.stop.load(Ordering::Relaxed) || Instant::now() >= until {
                    return Ok(());
                }
                let span = file.write()?;
                seen().spans[number].push(span);
            }
        }
    }
    Ok(())
}

struct ProbeFile {
    path: PathBuf,
    file: File,
    kind: FileKind,
    offset: usize,
    /// Of bytes that no file system makes smaller.
    piece: Vec<u8>,
}

impl ProbeFile {
    /// The file, and how long it took to fill it, if that is its kind.
    fn create(path: PathBuf, series: Series) -> Result<(Self, Option<Duration>), DiskError> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(failed(DiskOperation::Create, &path))?;
        let piece = std::iter::repeat_with(|| fastrand::u8(1..)).take(series.write_len).collect();
        let probe = ProbeFile { path, file, kind: series.file, offset: 0, piece };
        let began = Instant::now();
        if series.file == FileKind::ZeroFilled {
            probe.put(&vec![0; SEGMENT_LEN], 0)?;
            probe.sync()?;
        }
        let zero_fill = (series.file == FileKind::ZeroFilled).then(|| began.elapsed());
        // the name too, so that no write has to wait for that
        let synced = probe.file.sync_all().and_then(|()| match probe.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        });
        synced.map_err(failed(DiskOperation::Sync, &probe.path))?;
        Ok((probe, zero_fill))
    }

    /// One durable write, and how long it took.
    fn write(&mut self) -> Result<Duration, DiskError> {
        if self.offset + self.piece.len() > SEGMENT_LEN {
            self.begin_anew()?;
        }
        let began = Instant::now();
        self.put(&self.piece, self.offset)?;
        self.sync()?;
        self.offset += self.piece.len();
        Ok(began.elapsed())
    }

    /// A file that grows begins empty again, as the next segment would; the other one is written over.
    fn begin_anew(&mut self) -> Result<(), DiskError> {
        self.offset = 0;
        if self.kind == FileKind::Growing {
            let emptied = self.file.set_len(0).and_then(|()| self.file.sync_all());
            emptied.map_err(failed(DiskOperation::Truncate, &self.path))?;
        }
        Ok(())
    }

    fn put(&self, bytes: &[u8], offset: usize) -> Result<(), DiskError> {
        let written = self.file.write_all_at(bytes, offset as u64);
        written.map_err(failed(DiskOperation::Write, &self.path))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(failed(DiskOperation::Sync, &self.path))
    }
}

fn failed(operation: DiskOperation, path: &Path) -> impl FnOnce(std::io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_is_measured_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let probe = DiskProbe::create(directory.path()).unwrap();
        let measured = probe.measure(Duration::from_millis(500), std::future::pending()).await.unwrap();
        assert_eq!(measured.series.len(), ALL.len());
        for (series, latencies) in &measured.series {
            assert!(latencies.count > 0 && latencies.p50 > Duration::ZERO, "{series:?} {latencies:?}");
        }
        assert!(measured.zero_fill.is_some());
        drop(probe);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_interruption_ends_it_with_what_was_measured() {
        let directory = tempfile::tempdir().unwrap();
        let probe = DiskProbe::create(directory.path()).unwrap();
        let soon = async {
            while probe.shared.seen.lock().unwrap().spans[3].is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            "SIGINT"
        };
        let measured = probe.measure(Duration::from_secs(3600), soon).await.unwrap();
        assert_eq!(measured.series.len(), ALL.len());
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_told() {
        let error = DiskProbe::create(Path::new("/nonexistent/directory")).unwrap_err();
        assert_eq!(error.operation, DiskOperation::CreateDirectory);
        assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_grows_begins_empty_again_at_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0");
        let (mut file, _) = ProbeFile::create(path.clone(), ALL[2]).unwrap();
        let per_file = SEGMENT_LEN / ALL[2].write_len;
        for _ in 0..per_file {
            file.write().unwrap();
        }
        assert_eq!(path.metadata().unwrap().len(), SEGMENT_LEN as u64);
        file.write().unwrap();
        assert_eq!(path.metadata().unwrap().len(), ALL[2].write_len as u64);
    }
}
