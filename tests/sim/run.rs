//! One run: several lives of a receiver, each with its own fate, and a last one in which all must come right.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use pgwake::ErrorClass;
use pgwake::compression::{Compression, CompressionMethod};
use pgwake::pg::SlotName;
use pgwake::sink::{Layout, SegmentWriter};
use pgwake::stream::{
    Progress, ReceiveError, ReceiveOptions, ReceiveOutcome, Reconnect, StartChoice, StreamOptions, receive,
};
use tokio::sync::watch;

use crate::disk::{Canary, DiskFault, SimDisk, is_final};
use crate::hand::Taken;
use crate::log::{Kept, Log};
use crate::plain::Plain;
use crate::primary::{Counts, LIES, Primary};
use crate::sink::SimSink;
use crate::wal::SEGMENT_LEN;

/// How much of what can happen did.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    pub runs: u64,
    pub lives: u64,
    pub crashes: u64,
    pub power_losses: u64,
    pub disk_failures: u64,
    pub lies_detected: u64,
    /// Lives in which new segments are compressed.
    pub compressed: u64,
    /// Segments that were written to a file that was made ready.
    pub ready: u64,
    /// Segments that were taken out of the directory, and received again, or found to be gone on the server.
    pub taken: u64,
    pub refilled: u64,
    pub refused: u64,
    pub primary: Counts,
    pub log: String,
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Coverage {
            runs,
            lives,
            crashes,
            power_losses,
            disk_failures,
            lies_detected,
            compressed,
            ready,
            taken,
            refilled,
            refused,
            primary,
            ..
        } = self;
        write!(
            f,
            "{runs} runs, {lives} lives, {compressed} of them compressing, {crashes} crashes, {power_losses} power losses, {disk_failures} disk \
             failures, {lies_detected} lies detected, {ready} segments made ready, {taken} taken away, {refilled} received again, {refused} refused, {primary:?}"
        )
    }
}

impl Coverage {
    pub fn add(&mut self, other: &Coverage) {
        self.runs += other.runs;
        self.lives += other.lives;
        self.crashes += other.crashes;
        self.power_losses += other.power_losses;
        self.disk_failures += other.disk_failures;
        self.lies_detected += other.lies_detected;
        self.compressed += other.compressed;
        self.ready += other.ready;
        self.taken += other.taken;
        self.refilled += other.refilled;
        self.refused += other.refused;
        self.primary.connections += other.primary.connections;
        self.primary.disconnects += other.primary.disconnects;
        self.primary.silences += other.primary.silences;
        self.primary.switches += other.primary.switches;
        self.primary.forks_behind += other.primary.forks_behind;
        self.primary.shutdowns += other.primary.shutdowns;
        self.primary.lies += other.primary.lies;
        self.primary.acknowledgements += other.primary.acknowledgements;
        self.primary.removals += other.primary.removals;
    }

    pub fn is_complete(&self) -> bool {
        let primary = &self.primary;
        [
            self.crashes,
            self.power_losses,
            self.disk_failures,
            self.lies_detected,
            self.ready,
            self.refilled,
            self.refused,
            primary.disconnects,
            primary.silences,
            primary.switches,
            primary.forks_behind,
            primary.shutdowns,
            primary.acknowledgements,
            primary.removals,
        ]
        .iter()
        .all(|count| *count > 0)
    }
}

#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub log: String,
}

/// The last life must have caught up within this time.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A run with one receiver.
pub fn run_seed(seed: u64, kept: Kept, setup: Setup) -> Result<Coverage, Failure> {
    simulate(seed, kept, &[setup])
}

/// A run with as many receivers as there are setups, each with a disk of its own, on one primary.
pub fn simulate(seed: u64, kept: Kept, setups: &[Setup]) -> Result<Coverage, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O can be built").block_on(async {
        let log = Log::new(kept);
        let mut runs = Run::all(seed, &log, setups);
        let result = match &mut runs[..] {
            [one] => one.run().await,
            [one, other] => run_both(one, other).await,
            _ => Err("one receiver or two".into()),
        };
        match result {
            Ok(()) => {
                let mut coverage =
                    Coverage { primary: runs[0].primary.state.borrow().counts, ..Coverage::default() };
                for run in &runs {
                    coverage.add(&run.coverage);
                    coverage.ready += run.disk.0.borrow().ready_taken;
                }
                coverage.log = log.text();
                Ok(coverage)
            }
            Err(message) => Err(Failure { message, log: log.text() }),
        }
    })
}

/// Two receivers at once: when nothing goes wrong any more, both have the same.
async fn run_both(one: &mut Run, other: &mut Run) -> Result<(), String> {
    let (first, second) = tokio::join!(one.live_a_while(), other.live_a_while());
    first.and(second)?;
    let (first, second) = tokio::join!(one.live_to_the_end(), other.live_to_the_end());
    first.and(second)?;
    let (first, second) = (one.finished_segments(), other.finished_segments());
    let common = first.iter().filter(|(name, _)| second.contains_key(*name));
    let different: Vec<&String> =
        common.filter(|(name, content)| second[*name] != **content).map(|(name, _)| name).collect();
    if different.is_empty() { Ok(()) } else { Err(format!("{different:?} are not the same in both")) }
}

/// How one receiver stores segments, and what mistake is built into its disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    pub canary: Option<Canary>,
    pub storage: Storage,
}

/// What of the formats is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    #[default]
    Plain,
    Always(CompressionMethod),
    /// Another one in each life.
    Changing,
}

pub struct Run {
    storage: Storage,
    random: fastrand::Rng,
    /// What decides about taking segments away, apart from all else.
    pub hand: fastrand::Rng,
    pub taken: Option<Taken>,
    pub disk: SimDisk,
    pub primary: Primary,
    pub coverage: Coverage,
    pub log: Log,
}

impl Run {
    fn all(seed: u64, log: &Log, setups: &[Setup]) -> Vec<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let disks: Vec<SimDisk> =
            setups.iter().map(|setup| SimDisk::new(log.clone(), setup.canary)).collect();
        let primaries = Primary::new(log.clone(), &disks, random.fork());
        let others: Vec<fastrand::Rng> = setups[1..].iter().map(|_| random.fork()).collect();
        let randoms = std::iter::once(random).chain(others);
        let parts = setups.iter().zip(disks).zip(primaries).zip(randoms);
        parts
            .map(|(((setup, disk), primary), random)| Run {
                storage: setup.storage,
                hand: fastrand::Rng::with_seed(random.get_seed()),
                taken: None,
                random,
                disk,
                primary,
                coverage: Coverage { runs: 1, ..Coverage::default() },
                log: log.clone(),
            })
            .collect()
    }

    async fn run(&mut self) -> Result<(), String> {
        self.live_a_while().await?;
        self.live_to_the_end().await
    }

    async fn live_a_while(&mut self) -> Result<(), String> {
        for _ in 0..self.random.u32(1..6) {
            self.live().await?;
        }
        Ok(())
    }

    fn finished_segments(&self) -> BTreeMap<String, Rc<Vec<u8>>> {
        let plain = Plain::default();
        let segments = self.disk.seen().into_iter().filter(|(name, _)| is_final(name));
        segments.map(|(name, content)| (name[..24].to_owned(), plain.of(&name, &content))).collect()
    }

    fn compression(&mut self) -> Compression {
        let method = match self.storage {
            Storage::Plain => CompressionMethod::None,
            Storage::Always(method) => method,
            Storage::Changing => CompressionMethod::ALL[self.random.usize(..4)],
        };
        Compression { method, level: Some(1) }
    }

    /// One process, from its start to whatever ends it.
    async fn live(&mut self) -> Result<(), String> {
        let at = self.random.u64(1..150);
        let fault = match self.random.u8(..10) {
            0..3 => DiskFault::None,
            3..5 => DiskFault::CrashAt(at),
            5 => DiskFault::CrashAfterRename(self.random.u64(1..4)),
            6..8 => DiskFault::SyncFailsFrom(at),
            8 => DiskFault::FailAt(at, io::ErrorKind::StorageFull),
            _ => DiskFault::FailAt(at, io::ErrorKind::Other),
        };
        let ms = [10, 1_000, 100_000][self.random.usize(..3)];
        let lifetime = Duration::from_millis(self.random.u64(..ms));
        let killed_after = (self.random.u8(..5) == 0).then(|| Duration::from_millis(self.random.u64(..ms)));
        {
            let side = &mut self.primary.state.borrow_mut().sides[self.primary.side];
            side.lie = (self.random.u8(..4) == 0).then(|| LIES[self.random.usize(..LIES.len())]);
            side.lied = false;
        }
        self.see_whether_it_is_back();
        self.log.add(|| format!("life begins: {fault:?}, lifetime {lifetime:?}, killed {killed_after:?}"));
        let result = self.process(fault, tokio::time::sleep(lifetime), killed_after).await;
        self.check()?;
        self.judge(result)?;
        let crashed = self.disk.0.borrow().crashed;
        self.coverage.crashes += u64::from(crashed);
        if self.random.u8(..10) < if crashed { 6 } else { 2 } {
            self.coverage.power_losses += 1;
            self.log.add(|| "power is lost".into());
            self.disk.lose_power(&mut self.random);
            self.check()?;
            self.take_a_segment();
        }
        self.check()
    }

    /// Nothing goes wrong any more: all that the primary has must be acknowledged, and survive.
    async fn live_to_the_end(&mut self) -> Result<(), String> {
        {
            let mut state = self.primary.state.borrow_mut();
            state.honest = true;
            let side = &mut state.sides[self.primary.side];
            (side.lie, side.lied) = (None, false);
        }
        if self.is_missed() {
            self.put_back();
        }
        self.log.add(|| "last life begins".into());
        let primary = self.primary.clone();
        let is_whole = self.whole_again();
        let caught_up = async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if !is_whole() {
                    continue;
                }
                let state = primary.state.borrow();
                let slot_lsn = state.sides[primary.side].checker.slot_lsn;
                if slot_lsn == state.limit_lsn && state.flush_lsn == state.limit_lsn {
                    return;
                }
            }
        };
        let life = self.process(DiskFault::None, caught_up, None);
        let result = tokio::time::timeout(PATIENCE, life).await.map_err(|_| "it never caught up")?;
        self.see_whether_it_is_back();
        self.check()?;
        self.judge(result)?;
        self.disk.lose_power(&mut self.random);
        self.check()
    }

    /// `None`: it was killed.
    async fn process(
        &mut self,
        fault: DiskFault,
        shutdown: impl Future<Output = ()>,
        killed_after: Option<Duration>,
    ) -> Option<Result<ReceiveOutcome, ReceiveError>> {
        self.coverage.lives += 1;
        self.disk.begin_life(fault);
        self.primary.state.borrow_mut().sides[self.primary.side].checker.begin_life();
        let compression = self.compression();
        self.coverage.compressed += u64::from(compression.method != CompressionMethod::None);
        let writer = match SegmentWriter::open(self.disk.clone(), Layout::Archive) {
            Ok(writer) => writer.with_compression(compression),
            Err(error) => return Some(Err(error.into())),
        };
        let canary = self.disk.0.borrow().canary;
        let mut sink = SimSink::new(writer, self.random.fork(), canary);
        let base_lsn = self.primary.state.borrow().base_lsn;
        // in its last life it is to go on for ever
        let stops = !self.primary.state.borrow().honest && self.random.u8(..6) == 0;
        let options = ReceiveOptions {
            stop_lsn: stops.then(|| base_lsn + self.random.u64(..3 * SEGMENT_LEN)),
            stream: StreamOptions {
                slot: Some("slot".parse::<SlotName>().expect("a slot name")),
                ..Default::default()
            },
            start: StartChoice::At(base_lsn),
            reconnect: Reconnect::Always,
            seed: self.random.u64(..),
            ..Default::default()
        };
        let (progress, _) = watch::channel(Progress::default());
        let mut connector = self.primary.clone();
        let killed = async {
            match killed_after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = killed => {
                self.disk.0.borrow_mut().crashed = true;
                None
            }
            result = receive(&options, &mut connector, &mut sink, &progress, shutdown) => Some(result),
        }
    }

    /// Whether the life ended as it should.
    fn judge(&mut self, result: Option<Result<ReceiveOutcome, ReceiveError>>) -> Result<(), String> {
        let disk = self.disk.0.borrow();
        self.coverage.disk_failures += u64::from(disk.failed);
        let lied = self.primary.state.borrow().sides[self.primary.side].lied;
        match result {
            None => Ok(()),
            Some(_) if disk.crashed => Ok(()),
            Some(Ok(outcome)) => {
                self.log.add(|| format!("life ends: {:?}", outcome.progress));
                if disk.failed { Err("a failure of the disk went unnoticed".into()) } else { Ok(()) }
            }
            Some(Err(error)) => {
                self.log.add(|| format!("life ends: {error}: {:?}", std::error::Error::source(&error)));
                match error.class() {
                    ErrorClass::Integrity
                        if self.is_missed() && matches!(error, ReceiveError::Refused { .. }) =>
                    {
                        drop(disk);
                        self.coverage.refused += 1;
                        self.put_back();
                        Ok(())
                    }
                    ErrorClass::Integrity if lied => {
                        self.coverage.lies_detected += 1;
                        Ok(())
                    }
                    ErrorClass::Operator if disk.failed => Ok(()),
                    class => Err(format!("unexpected {class:?} error: {error}: {error:?}")),
                }
            }
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let image = self.disk.seen();
        let state = &mut *self.primary.state.borrow_mut();
        let checker = &mut state.sides[self.primary.side].checker;
        checker.check_image(&image, &state.wal);
        let violation = checker.violation.clone().or_else(|| self.disk.0.borrow().violation.clone());
        violation.map_or(Ok(()), Err)
    }
}
