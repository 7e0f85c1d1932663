//! Segments that recovery will ask for next, fetched before it does.
//!
//! A server that recovers runs its `restore_command` once for each segment, one after the other. The first one that finds its
//! segment leaves a [prefetcher](run) behind, which keeps the next few in a directory beside the target, so that the ones after
//! it have no more to do than a rename. Its directory is locked by it, and holds no more than it was told to; it ends, and
//! takes the directory away, when nothing was asked for a while.
//!
//! What is in the directory under a segment's name is whole and durable. Segments of which there are only parts are never in it:
//! they may have grown by the time they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::ArchiveError;
use super::fetch::{self, sync_directory, write_durably};
use super::identity::ClusterIdentity;
use super::store::ArchiveStore;
use crate::pg::WalFileName;

/// Where segments wait for a server that recovers.
#[derive(Debug, Clone)]
pub struct Prefetched {
    directory: PathBuf,
}

/// What a server calls the file that it asks for.
const RECOVERY_TARGET: &str = "RECOVERYXLOG";

const DIRECTORY_PREFIX: &str = ".pgwake.fetch.";
const LOCK: &str = "lock";
const ASKED: &str = "asked";
const BEGUN_SUFFIX: &str = ".begun";

/// How many segments are fetched at once.
const IN_FLIGHT: usize = 3;

/// How often the prefetcher looks what was asked for, and whoever waits for it whether it is there.
const LOOK: Duration = Duration::from_millis(3);

/// When a prefetcher that is asked for nothing ends.
const IDLE: Duration = Duration::from_secs(20);

/// When a segment that was not there is looked for again.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);

/// How long a segment is waited for that is being fetched.
const PATIENCE: Duration = Duration::from_secs(120);

impl Prefetched {
    /// Beside the file that a recovering server wants; `None` for other targets. Each archive has a directory of its own.
    pub fn beside(target: &Path, archive: &str) -> Option<Self> {
        if target.file_name()? != RECOVERY_TARGET {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        archive.hash(&mut hasher);
        let name = format!("{DIRECTORY_PREFIX}{:016x}", hasher.finish());
        Some(Prefetched { directory: target.with_file_name(name) })
    }

    /// Says what is asked for, and gives it to `target` if it is there, or about to be.
    pub fn take(&self, name: &str, target: &Path) -> Result<bool, ArchiveError> {
        if !self.directory.is_dir() {
            return Ok(false);
        }
        // a prefetcher that does not hear of it ends a little early
        let _ = self.ask(name);
        let began = Instant::now();
        while !self.rename(name, target)? {
            let is_begun = self.path(&format!("{name}{BEGUN_SUFFIX}")).exists();
            if !is_begun || began.elapsed() > PATIENCE || !self.is_served() {
                // it may have become whole between the two looks
                return self.rename(name, target);
            }
            std::thread::sleep(LOOK);
        }
        Ok(true)
    }

    /// Makes the directory, and says what was asked for; whether somebody has to be started who fetches what comes next.
    pub fn wants_server(&self, name: &str) -> bool {
        let made = std::fs::DirBuilder::new().mode(0o700).create(&self.directory);
        let there = made.is_ok() || self.directory.is_dir();
        there && self.ask(name).is_ok() && !self.is_served()
    }

    fn rename(&self, name: &str, target: &Path) -> Result<bool, ArchiveError> {
        match std::fs::rename(self.path(name), target) {
            Ok(()) => {
                let synced = sync_directory(target);
                synced.map_err(|source| ArchiveError::file("fsync directory of", target, source))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(ArchiveError::file("rename a prefetched file to", target, source)),
        }
    }

    fn ask(&self, name: &str) -> io::Result<()> {
        std::fs::write(self.path(ASKED), name)
    }

    fn is_served(&self) -> bool {
        match self.lock() {
            Ok(lock) => lock.is_none(),
            Err(_) => false,
        }
    }

    /// `None`: somebody else has it.
    fn lock(&self) -> io::Result<Option<File>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.path(LOCK))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Fetches what will be asked for until nothing is asked any more. At most `count` segments are kept.
pub async fn run(store: &ArchiveStore, prefetched: &Prefetched, count: usize) -> Result<(), ArchiveError> {
    let locked = prefetched.lock();
    let locked = locked.map_err(|source| ArchiveError::file("lock", prefetched.path(LOCK), source))?;
    let Some(_lock) = locked else { return Ok(()) };
    let identity = ClusterIdentity::of(store).await?;
    let mut server = Server {
        store,
        prefetched,
        count,
        identity,
        asked: None,
        asked_at: Instant::now(),
        kept: BTreeSet::new(),
        missing: BTreeMap::new(),
        begun: BTreeSet::new(),
        tasks: JoinSet::new(),
    };
    server.clear();
    let result = server.serve().await;
    // what is on its way writes into a directory that is not there any more, and fails
    let _ = std::fs::remove_dir_all(&prefetched.directory);
    result
}

struct Server<'a> {
    store: &'a ArchiveStore,
    prefetched: &'a Prefetched,
    count: usize,
    identity: ClusterIdentity,
    asked: Option<WalFileName>,
    asked_at: Instant,
    /// Whole, under their names.
    kept: BTreeSet<WalFileName>,
    missing: BTreeMap<WalFileName, Instant>,
    begun: BTreeSet<WalFileName>,
    tasks: JoinSet<(WalFileName, Result<bool, ArchiveError>)>,
}

impl Server<'_> {
    /// What another prefetcher has left.
    fn clear(&self) {
        let Ok(entries) = std::fs::read_dir(&self.prefetched.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name != LOCK && name != ASKED {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    async fn serve(&mut self) -> Result<(), ArchiveError> {
        loop {
            if !self.look() || self.asked_at.elapsed() > IDLE {
                return Ok(());
            }
            self.start();
            tokio::select! {
                Some(done) = self.tasks.join_next() => {
                    let (file, fetched) = done.map_err(|_| ArchiveError::ThreadEnded)?;
                    self.begun.remove(&file);
                    let _ = std::fs::remove_file(self.prefetched.path(&format!("{file}{BEGUN_SUFFIX}")));
                    // whoever asks for it says why it cannot be had
                    if matches!(fetched, Ok(true)) {
                        self.kept.insert(file);
                    } else {
                        self.missing.insert(file, Instant::now());
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// What was asked for last. `false`: the directory is gone.
    fn look(&mut self) -> bool {
        let Ok(asked) = std::fs::read_to_string(self.prefetched.path(ASKED)) else { return false };
        let Ok(file) = WalFileName::parse(&asked, self.identity.segment_size) else { return true };
        if self.asked != Some(file) {
            (self.asked, self.asked_at) = (Some(file), Instant::now());
            let wanted = self.wanted();
            self.missing.clear();
            let kept = std::mem::take(&mut self.kept);
            for other in kept {
                if wanted.contains(&other) {
                    self.kept.insert(other);
                } else if other != file {
                    let _ = std::fs::remove_file(self.prefetched.path(&other.to_string()));
                }
            }
        }
        true
    }

    /// Those behind what was asked for.
    fn wanted(&self) -> Vec<WalFileName> {
        let next = |file: &WalFileName| Some(WalFileName { segment: file.segment.next(), ..*file });
        let all = std::iter::successors(self.asked.as_ref().and_then(next), next);
        all.take(self.count).collect()
    }

    fn start(&mut self) {
        for file in self.wanted() {
            if self.tasks.len() >= IN_FLIGHT || self.kept.len() + self.begun.len() >= self.count {
                return;
            }
            if self.missing.get(&file).is_some_and(|at| at.elapsed() < MISSING_INTERVAL) {
                // there is nothing behind it either
                return;
            }
            if self.kept.contains(&file) || !self.begun.insert(file) {
                continue;
            }
            let (store, prefetched, identity) = (self.store.clone(), self.prefetched.clone(), self.identity);
            let _ = std::fs::write(prefetched.path(&format!("{file}{BEGUN_SUFFIX}")), b"");
            self.tasks.spawn(async move {
                let fetched = keep(&store, &prefetched, identity, file).await;
                (file, fetched)
            });
        }
    }
}

/// `false`: it is not there as a whole.
async fn keep(
    store: &ArchiveStore,
    prefetched: &Prefetched,
    identity: ClusterIdentity,
    file: WalFileName,
) -> Result<bool, ArchiveError> {
    let Some(content) = fetch::read_whole_object(store, file).await? else { return Ok(false) };
    let place = prefetched.path(&file.to_string());
    let work = move || {
        let wal = fetch::decode_whole(file, &content)?;
        identity.check_segment(file, &wal)?;
        write_durably(&place, &wal)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| ArchiveError::ThreadEnded)??;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::super::testing::segment_beginning;
    use super::super::{layout, wal_object};
    use super::*;
    use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};

    const MIB: u64 = 1 << 20;

    fn file(number: u64) -> WalFileName {
        let size = WalSegmentSize::from_bytes(MIB).unwrap();
        WalFileName { timeline: TimelineId::FIRST, segment: size.segment_at(Lsn::new(number * MIB)) }
    }

    fn identity() -> ClusterIdentity {
        ClusterIdentity {
            system_identifier: SystemIdentifier::new(3),
            segment_size: WalSegmentSize::from_bytes(MIB).unwrap(),
            major: 17,
        }
    }

    fn segment(number: u64) -> Vec<u8> {
        let mut wal = vec![number as u8; MIB as usize];
        segment_beginning(&mut wal, identity(), file(number));
        wal
    }

    async fn archive(segments: std::ops::Range<u64>) -> ArchiveStore {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db");
        identity().claim(&store).await.unwrap();
        for number in segments {
            let content = wal_object::encode(&segment(number)).unwrap();
            store.create(&layout::segment_key(file(number)), content).await.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn what_comes_next_is_there_when_it_is_asked_for_and_no_more() {
        let store = archive(1..30).await;
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("RECOVERYXLOG");
        assert!(Prefetched::beside(&directory.path().join("x"), "a").is_none());
        let prefetched = Prefetched::beside(&target, "a").unwrap();
        assert!(!prefetched.take(&file(1).to_string(), &target).unwrap());
        assert!(prefetched.wants_server(&file(1).to_string()));
        let recovery = async {
            let mut hits = 0;
            let began = Instant::now();
            for number in 2..30 {
                let name = file(number).to_string();
                while !prefetched.path(&name).exists() {
                    assert!(began.elapsed() < Duration::from_secs(20), "{name} does not come");
                    tokio::time::sleep(LOOK).await;
                }
                assert!(!prefetched.wants_server(&file(number - 1).to_string()), "two of them");
                let here = std::fs::read_dir(&prefetched.directory).unwrap().flatten();
                let whole = here.filter(|entry| entry.file_name().len() == 24).count();
                assert!(whole <= 4, "{whole} segments are kept");
                hits += usize::from(prefetched.take(&name, &target).unwrap());
                assert!(std::fs::read(&target).unwrap() == segment(number));
            }
            hits
        };
        let served = run(&store, &prefetched, 4);
        tokio::select! {
            ended = served => panic!("{ended:?}"),
            hits = recovery => assert_eq!(hits, 28),
        }
        // what is not there is not waited for
        let began = Instant::now();
        assert!(!prefetched.take(&file(30).to_string(), &target).unwrap());
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn it_ends_with_its_directory() {
        let store = archive(1..5).await;
        let directory = tempfile::tempdir().unwrap();
        let prefetched = Prefetched::beside(&directory.path().join("RECOVERYXLOG"), "a").unwrap();
        assert!(prefetched.wants_server(&file(1).to_string()));
        std::fs::write(prefetched.path("000000010000000000000009"), b"left").unwrap();
        let watching = async {
            while !prefetched.path(&file(2).to_string()).exists() {
                tokio::time::sleep(LOOK).await;
            }
            assert!(!prefetched.path("000000010000000000000009").exists());
            std::fs::remove_dir_all(&prefetched.directory).unwrap();
        };
        let (ended, ()) = tokio::join!(run(&store, &prefetched, 4), watching);
        ended.unwrap();
        assert!(!prefetched.directory.exists());
    }
}
