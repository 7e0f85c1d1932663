//! A base backup as fast as a server sends it: counted and dropped.
//!
//! Invariant: a backup that is measured to its end was a whole one; archives are split into files only where the server
//! does not compress them.

use std::pin::pin;
use std::time::{Duration, Instant};

use super::cpu::HiddenCpu;
use super::error::MeasureError;
use super::meter::{Meter, Span};
use super::wal::Ended;
use crate::backup::tar_header::MemberKind;
use crate::backup::tar_stream::{TarEvent, TarStream};
use crate::backup::{ArchiveEnd, ArchiveEvent, ArchiveStream, ManifestRequest};
use crate::client::{BackupEnd, BackupStart, BackupStep, Connection, Tablespace};
use crate::observe::progress::CopyProgress;
use crate::pg::version::BaseBackupSyntax;
use crate::standby::copy::archive_names;
use crate::wire::command::BaseBackup;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRequest {
    /// What is asked of the server.
    pub command: BaseBackup,
    /// For how long, from the first byte; a whole one unless it is said.
    pub duration: Option<Duration>,
    /// Up to how many bytes.
    pub max_bytes: Option<u64>,
}

/// What was measured.
#[derive(Debug)]
pub struct BackupMeasured {
    /// Where the backup began.
    pub start: BackupStart,
    /// Where it ended; `None` if it was broken off.
    pub end: Option<BackupEnd>,
    /// How long it took to begin: the checkpoint, and the look at all files' sizes.
    pub until_start: Duration,
    /// What came, and what it cost. With a target from the beginning, for hardly anything comes that would tell when the
    /// copy began.
    pub transfer: Span,
    /// What the server has read so far, before it compressed it.
    pub source_bytes: u64,
    /// How much of that by the second; `None` where it is too little to tell.
    pub source_rate: Option<f64>,
    /// How many archives began.
    pub archives: u64,
    /// How many files began; `None` where they come compressed, or not at all.
    pub files: Option<u64>,
    /// The bytes of the manifest, which are among those that came.
    pub manifest_bytes: u64,
    /// Why the server's processor time is not known.
    pub hidden_cpu: Option<HiddenCpu>,
    /// Why it ended.
    pub ended: Ended,
}

/// Lets the server back itself up, until it is done, one of the request's bounds is reached, or `interrupted` says which
/// signal came. Broken off, it leaves the connection unusable.
pub async fn measure_backup(
    connection: &mut Connection,
    request: &BackupRequest,
    progress: &CopyProgress,
    interrupted: impl Future<Output = &'static str>,
) -> Result<BackupMeasured, MeasureError> {
    let mut interrupted = pin!(interrupted);
    let (version, backend) = (connection.version(), connection.backend());
    progress.set_phase("waiting for a checkpoint on the server");
    let mut meter = Meter::start(backend);
    let asked = Instant::now();
    let begun = tokio::select! {
        biased;
        signal = &mut interrupted => return Err(MeasureError::Interrupted(signal)),
        begun = connection.base_backup(&request.command) => begun,
    };
    let mut stream =
        begun.map_err(|source| MeasureError::Client { during: "begin a base backup", source })?;
    let until_start = asked.elapsed();
    let sizes = stream.tablespaces().iter().filter_map(|tablespace| tablespace.size_kb);
    progress.set_total(sizes.fold(0, u64::saturating_add).saturating_mul(1024));
    progress.set_phase("receiving a base backup");
    let mut counting = Counting::new(request, version.base_backup_syntax(), stream.tablespaces());
    if request.command.target.is_none() {
        let _ = meter.lap();
    }
    let began = Instant::now();
    let mut time_is_over = pin!(tokio::time::sleep(request.duration.unwrap_or(FOR_EVER)));
    let mut end = None;
    let ended = loop {
        let step = tokio::select! {
            biased;
            signal = &mut interrupted => break Ended::Interrupted(signal),
            () = &mut time_is_over => break Ended::Duration,
            step = stream.next() => step,
        };
        let step =
            step.map_err(|source| MeasureError::Client { during: "receive the base backup", source })?;
        match step {
            BackupStep::CopyBegin => counting.begin_copy()?,
            BackupStep::CopyData(payload) => counting.take(payload, &mut meter)?,
            BackupStep::CopyEnd | BackupStep::EndPosition(_) => {}
            BackupStep::Completed(position) => {
                end = Some(position);
                break Ended::Complete;
            }
        }
        progress.set_done(counting.source_bytes());
        if request.max_bytes.is_some_and(|max| meter.bytes() >= max) {
            break Ended::MaxBytes;
        }
        // under a flood of messages no timer is looked at
        if request.duration.is_some_and(|duration| began.elapsed() >= duration) {
            break Ended::Duration;
        }
    };
    let transfer = meter.lap();
    if end.is_some() {
        counting.finish()?;
    }
    Ok(BackupMeasured {
        start: stream.start(),
        end,
        until_start,
        transfer,
        source_bytes: counting.source_bytes(),
        source_rate: match request.command.target {
            Some(_) => counting.reading.rate(),
            None => transfer.per_second(counting.source_bytes()),
        },
        archives: counting.archives,
        files: counting.files(),
        manifest_bytes: counting.manifest_bytes,
        hidden_cpu: meter.hidden_cpu(),
        ended,
    })
}

/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// What the payloads hold.
struct Counting {
    stream: ArchiveStream,
    /// The archive that is being split into files.
    tar: Option<TarStream>,
    splits: bool,
    end: ArchiveEnd,
    archives: u64,
    file_count: u64,
    archive_bytes: u64,
    manifest_bytes: u64,
    /// What the server says that it has read; those before 15 say nothing.
    reading: Reading,
}

/// How far the server says that it has read, and when.
#[derive(Debug, Default)]
struct Reading {
    first: Option<(Instant, u64)>,
    last: Option<(Instant, u64)>,
}

/// The server tells once a second.
const SHORTEST_READING: Duration = Duration::from_millis(900);

impl Reading {
    fn take(&mut self, now: Instant, bytes: u64) {
        self.first.get_or_insert((now, bytes));
        self.last = Some((now, bytes.max(self.bytes())));
    }

    fn bytes(&self) -> u64 {
        self.last.map_or(0, |(_, bytes)| bytes)
    }

    /// Bytes by the second, from the first time it told to the last.
    fn rate(&self) -> Option<f64> {
        let ((began, first), (ended, last)) = (self.first?, self.last?);
        let elapsed = ended - began;
        (elapsed >= SHORTEST_READING).then(|| last.saturating_sub(first) as f64 / elapsed.as_secs_f64())
    }
}

impl Counting {
    fn new(request: &BackupRequest, syntax: BaseBackupSyntax, tablespaces: &[Tablespace]) -> Self {
        let manifest = match request.command.manifest {
            Some(_) => ManifestRequest::Requested,
            None => ManifestRequest::NotRequested,
        };
        let (stream, end) = match syntax {
            BaseBackupSyntax::Options => (ArchiveStream::tagged(), ArchiveEnd::Terminated),
            BaseBackupSyntax::Keywords => {
                (ArchiveStream::untagged(archive_names(tablespaces), manifest), ArchiveEnd::Unterminated)
            }
        };
        Counting {
            stream,
            tar: None,
            splits: request.command.compression.is_none() && request.command.target.is_none(),
            end,
            archives: 0,
            file_count: 0,
            archive_bytes: 0,
            manifest_bytes: 0,
            reading: Reading::default(),
        }
    }

    fn source_bytes(&self) -> u64 {
        // what is not compressed was read when it is here
        let here = if self.splits { self.archive_bytes } else { 0 };
        self.reading.bytes().max(here)
    }

    fn files(&self) -> Option<u64> {
        self.splits.then_some(self.file_count)
    }

    fn begin_copy(&mut self) -> Result<(), MeasureError> {
        match self.stream.begin_copy()? {
            Some(event) => self.handle(event),
            None => Ok(()),
        }
    }

    fn take(&mut self, payload: bytes::Bytes, meter: &mut Meter) -> Result<(), MeasureError> {
        let event = self.stream.decode(payload)?;
        if let ArchiveEvent::ArchiveData(data) | ArchiveEvent::ManifestData(data) = &event {
            meter.count(data.len());
        }
        self.handle(event)
    }

    fn handle(&mut self, event: ArchiveEvent) -> Result<(), MeasureError> {
        match event {
            ArchiveEvent::ArchiveBegin(_) => {
                self.end_archive()?;
                self.archives += 1;
                self.tar = self.splits.then(TarStream::new);
            }
            ArchiveEvent::ArchiveData(data) => {
                self.archive_bytes += data.len() as u64;
                if let Some(tar) = &mut self.tar {
                    tar.push(data);
                    while let Some(event) = tar.poll()? {
                        if let TarEvent::Member(member) = event
                            && matches!(member.kind, MemberKind::File { .. })
                        {
                            self.file_count += 1;
                        }
                    }
                }
            }
            ArchiveEvent::ManifestBegin => self.end_archive()?,
            ArchiveEvent::ManifestData(data) => self.manifest_bytes += data.len() as u64,
            ArchiveEvent::Progress { bytes } => self.reading.take(Instant::now(), bytes),
        }
        Ok(())
    }

    fn end_archive(&mut self) -> Result<(), MeasureError> {
        match self.tar.take() {
            Some(tar) => Ok(tar.finish(self.end)?),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), MeasureError> {
        self.end_archive()?;
        Ok(self.stream.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_only_from_what_was_told_twice() {
        let began = Instant::now();
        let mut reading = Reading::default();
        assert_eq!((reading.bytes(), reading.rate()), (0, None));
        reading.take(began, 100);
        assert_eq!((reading.bytes(), reading.rate()), (100, None));
        reading.take(began + Duration::from_millis(1), 90_000);
        assert_eq!(reading.rate(), None, "told twice, but at once");
        reading.take(began + Duration::from_secs(2), 1100);
        assert_eq!((reading.bytes(), reading.rate()), (90_000, Some(44_950.0)), "it never goes back");
    }
}
