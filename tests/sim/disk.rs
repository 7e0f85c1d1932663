//! A disk that loses what was not synced.
//!
//! A file has what programs see and what survives a loss of power; writes become durable by `sync_data`, names by
//! `sync_directory`. At a loss of power each sector and each name that was not synced survives or not by chance,
//! so writes are lost, torn and reordered. A failed `sync_data` does what Linux does: the pages become clean
//! without having reached the disk, are still read back, and no later sync writes them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use pgwake::sink::{Disk, DiskFile, OpenMode};

use crate::log::Log;
use crate::wal::SEGMENT_LEN;

const SECTOR: usize = 512;

/// A mistake built into the disk, as if the sink had made it. The checker must catch each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    AckBeforeFsync,
    NoDirectoryFsync,
    RenameBeforeFsync,
    TruncatingReopen,
    AckAfterFailedFsync,
    SkipEqualWrites,
    HideJumps,
    /// The compressor keeps the last bytes to itself when it is told to flush.
    AckBeforeEncoderFlush,
    /// What was written is not what was meant, and nobody looks before the file gets its final name.
    RenameBeforeVerify,
    /// A file that was made ready takes the place of an unfinished segment.
    ReadyTakesAPlace,
    /// A file that was made ready is not all zeros.
    ReadyHoldsOldBytes,
    /// A sync that begins while another one runs finds nothing left to write out, and takes that for durable.
    AckBesideSync,
    /// After a restart, an unfinished segment that is as long as a finished one is taken for one.
    LengthIsTrusted,
}

pub const CANARIES: [Canary; 11] = [
    Canary::AckBeforeFsync,
    Canary::NoDirectoryFsync,
    Canary::RenameBeforeFsync,
    Canary::TruncatingReopen,
    Canary::AckAfterFailedFsync,
    Canary::SkipEqualWrites,
    Canary::HideJumps,
    Canary::AckBesideSync,
    Canary::ReadyTakesAPlace,
    Canary::ReadyHoldsOldBytes,
    Canary::LengthIsTrusted,
];

/// For segments that are compressed. A file is never written over there, so nothing equal can be skipped.
pub const COMPRESSED_CANARIES: [Canary; 8] = [
    Canary::AckBeforeFsync,
    Canary::NoDirectoryFsync,
    Canary::RenameBeforeFsync,
    Canary::TruncatingReopen,
    Canary::AckAfterFailedFsync,
    Canary::HideJumps,
    Canary::RenameBeforeVerify,
    Canary::AckBeforeEncoderFlush,
];

/// What is to go wrong in this life, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    None,
    /// The process, or the machine, dies at this operation.
    CrashAt(u64),
    /// It dies at the operation after this many renames: a segment has its name, but perhaps not for long.
    CrashAfterRename(u64),
    /// The operation fails, with half of a write done.
    FailAt(u64, io::ErrorKind),
    /// The next `sync_data` from this operation on fails.
    SyncFailsFrom(u64),
}

type Inode = usize;
type Ranges = Vec<(usize, usize)>;

#[derive(Debug, Default, Clone)]
struct Node {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Ranges written since the last sync; a change of length is one too.
    dirty: Ranges,
    /// For canaries: what was durable, and what was not, before the last sync.
    before_sync: Option<(Vec<u8>, Ranges)>,
    /// For canaries: what a compressor keeps to itself.
    kept: Option<(usize, Vec<u8>)>,
    /// For canaries: a bit of this byte is wrong, and nobody sees it.
    wrong: Option<usize>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, Inode),
    Rename(String, String, Inode),
    Remove(String),
}

#[derive(Debug)]
pub struct DiskState {
    nodes: Vec<Node>,
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    changes: Vec<NameChange>,
    locked: bool,
    pub fault: DiskFault,
    pub canary: Option<Canary>,
    pub operations: u64,
    renames: u64,
    pub crashed: bool,
    /// A write or sync failed in this life.
    pub failed: bool,
    pub violation: Option<String>,
    pub log: Log,
    unsynced_seal: Option<Inode>,
    /// How long a segment is that a file was made ready for, and how many times it is asked for before it is.
    ready: Option<(u64, u64)>,
    /// How many files that were made ready were used.
    pub ready_taken: u64,
}

#[derive(Debug, Clone)]
pub struct SimDisk(pub Rc<RefCell<DiskState>>);

#[derive(Debug, Clone)]
pub struct SimFile {
    inode: Inode,
    disk: SimDisk,
    _lock: Option<Rc<Lock>>,
}

#[derive(Debug)]
struct Lock(SimDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.0.borrow_mut().locked = false;
    }
}

/// What is on the disk at some moment.
pub type Image = BTreeMap<String, Vec<u8>>;

impl SimDisk {
    pub fn new(log: Log, canary: Option<Canary>) -> Self {
        SimDisk(Rc::new(RefCell::new(DiskState {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            locked: false,
            fault: DiskFault::None,
            canary,
            operations: 0,
            renames: 0,
            crashed: false,
            failed: false,
            violation: None,
            log,
            unsynced_seal: None,
            ready: None,
            ready_taken: 0,
        })))
    }

    /// A new process begins.
    pub fn begin_life(&self, fault: DiskFault) {
        let mut state = self.0.borrow_mut();
        (state.fault, state.operations, state.renames) = (fault, 0, 0);
        (state.crashed, state.failed, state.unsynced_seal) = (false, false, None);
        // it has no name that anybody could find it by
        state.ready = None;
        if state.canary == Some(Canary::LengthIsTrusted) {
            state.finish_what_is_long_enough();
        }
    }

    /// The machine loses power: what was not synced survives by chance.
    pub fn lose_power(&self, random: &mut fastrand::Rng) {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        let mut names = state.durable_names.clone();
        // how much survives varies between all and nothing
        let chance = random.u8(..);
        for change in std::mem::take(&mut state.changes) {
            if random.u8(..) > chance {
                continue;
            }
            match change {
                NameChange::Create(name, inode) => drop(names.insert(name, inode)),
                NameChange::Rename(from, to, inode) => {
                    names.remove(&from);
                    names.insert(to, inode);
                }
                NameChange::Remove(name) => drop(names.remove(&name)),
            }
        }
        for node in &mut state.nodes {
            let dirty = std::mem::take(&mut node.dirty);
            for (start, end) in dirty {
                let mut at = start;
                while at < end {
                    let next = ((at / SECTOR + 1) * SECTOR).min(end);
                    if random.u8(..) <= chance {
                        persist(node, at, next);
                    }
                    at = next;
                }
            }
            node.seen = node.durable.clone();
            node.kept = None;
        }
        state.names = names.clone();
        state.durable_names = names;
    }

    /// Somebody renames a file, or takes it away, while nobody else is there; that is durable at once.
    pub fn rename_by_hand(&self, from: &str, to: Option<&str>) {
        let mut state = self.0.borrow_mut();
        let inode = state.names.remove(from).expect("what is renamed is there");
        if let Some(to) = to {
            state.names.insert(to.into(), inode);
        }
        state.durable_names = state.names.clone();
    }

    /// Somebody puts a file there, durably.
    pub fn put_by_hand(&self, name: &str, content: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        state.nodes.push(Node { seen: content.clone(), durable: content, ..Node::default() });
        let inode = state.nodes.len() - 1;
        state.names.insert(name.into(), inode);
        state.durable_names.insert(name.into(), inode);
    }

    /// What programs see.
    pub fn seen(&self) -> Image {
        let state = self.0.borrow();
        state.names.iter().map(|(name, inode)| (name.clone(), state.nodes[*inode].seen.clone())).collect()
    }

    /// What a name has as long as the machine lives.
    pub fn with_seen<T>(&self, name: &str, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let state = self.0.borrow();
        state.names.get(name).map(|inode| look(&state.nodes[*inode].seen))
    }

    /// What a name would have after the worst crash.
    pub fn with_durable<T>(&self, name: &str, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let state = self.0.borrow();
        state.durable_names.get(name).map(|inode| look(&state.nodes[*inode].durable))
    }
}

/// Whether it is the name of a segment that is complete.
pub fn is_final(name: &str) -> bool {
    name.len() >= 24
        && name.as_bytes()[..24].iter().all(u8::is_ascii_hexdigit)
        && matches!(&name[24..], "" | ".gz" | ".lz4" | ".zst")
}

fn persist(node: &mut Node, start: usize, end: usize) {
    let end = end.min(node.seen.len());
    if start >= end {
        return;
    }
    if node.durable.len() < end {
        node.durable.resize(end, 0);
    }
    node.durable[start..end].copy_from_slice(&node.seen[start..end]);
}

/// All but the last bytes; those come with the next ones.
fn keep_some_back(node: &mut Node, offset: usize, bytes: &[u8]) -> io::Result<()> {
    let (mut start, mut all) = node.kept.take().unwrap_or((offset, Vec::new()));
    if start + all.len() != offset {
        (start, all) = (offset, Vec::new());
    }
    all.extend_from_slice(bytes);
    let kept = all.split_off(all.len().saturating_sub(3));
    node.seen.truncate(start);
    node.seen.resize(start, 0);
    node.seen.extend_from_slice(&all);
    node.dirty.push((start, start + all.len()));
    node.kept = Some((start + all.len(), kept));
    Ok(())
}

fn crash_error() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

impl DiskState {
    /// Counts an operation; the fault of this life strikes here.
    fn step(&mut self, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.crashed {
            return Err(crash_error());
        }
        self.operations += 1;
        self.log.add(|| format!("disk {} {}", self.operations, text()));
        match self.fault {
            DiskFault::CrashAt(at) if self.operations >= at => Err(self.crash()),
            DiskFault::CrashAfterRename(at) if self.renames >= at => Err(self.crash()),
            DiskFault::FailAt(at, kind) if self.operations == at => {
                self.failed = true;
                self.log.add(|| format!("it fails: {kind:?}"));
                Err(kind.into())
            }
            _ => Ok(()),
        }
    }

    fn crash(&mut self) -> io::Error {
        self.crashed = true;
        self.log.add(|| "crash at this operation".into());
        crash_error()
    }

    fn finish_what_is_long_enough(&mut self) {
        let is_long = |(name, inode): (&String, &Inode)| {
            let is_long = self.nodes[*inode].seen.len() as u64 == SEGMENT_LEN;
            let finished = name.strip_suffix(".partial").filter(|finished| is_final(finished) && is_long);
            finished.map(|finished| (name.clone(), finished.to_owned(), *inode))
        };
        let long: Vec<_> = self.names.iter().filter_map(is_long).collect();
        for (partial, finished, inode) in long {
            self.names.remove(&partial);
            self.names.insert(finished.clone(), inode);
            self.changes.push(NameChange::Rename(partial, finished, inode));
        }
    }

    fn name_of(&self, inode: Inode) -> &str {
        self.names.iter().find(|(_, other)| **other == inode).map_or("?", |(name, _)| name)
    }

    fn sync(&mut self, inode: Inode) {
        let node = &mut self.nodes[inode];
        for (start, end) in std::mem::take(&mut node.dirty) {
            persist(node, start, end);
        }
        if node.durable.len() > node.seen.len() {
            node.durable.truncate(node.seen.len());
        }
    }
}

impl DiskFile for SimFile {
    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        let name = state.name_of(self.inode).to_owned();
        let mut result = state.step(|| format!("sync {name}"));
        let operations = state.operations;
        let sync_fails = matches!(state.fault, DiskFault::SyncFailsFrom(at) if operations >= at);
        if result.is_ok() && sync_fails && !state.nodes[self.inode].dirty.is_empty() {
            state.fault = DiskFault::None;
            state.failed = true;
            state.log.add(|| "it fails".into());
            result = Err(io::Error::from_raw_os_error(5));
        }
        match (result, state.canary) {
            (Ok(()), Some(Canary::AckBeforeFsync)) => Ok(()),
            (Ok(()), Some(Canary::RenameBeforeFsync)) => {
                let node = &mut state.nodes[self.inode];
                let before = (node.durable.clone(), node.dirty.clone());
                node.before_sync.get_or_insert(before);
                state.sync(self.inode);
                Ok(())
            }
            (Ok(()), _) => {
                state.sync(self.inode);
                Ok(())
            }
            (Err(error), canary) => {
                if !state.crashed {
                    // clean pages that never reached the disk
                    state.nodes[self.inode].dirty.clear();
                    if canary == Some(Canary::AckAfterFailedFsync) {
                        return Ok(());
                    }
                }
                Err(error)
            }
        }
    }

    fn open_again(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    fn fill_from(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.0.borrow();
        let node = &state.nodes[self.inode];
        let mut whole = Vec::new();
        let seen = match &node.kept {
            Some((at, kept)) => {
                whole.extend_from_slice(&node.seen[..*at]);
                whole.extend_from_slice(kept);
                &whole
            }
            None => &node.seen,
        };
        let rest = seen.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        if let Some(at) = node.wrong.and_then(|at| at.checked_sub(offset as usize)).filter(|at| *at < len) {
            buffer[at] ^= 1;
        }
        Ok(len)
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("sim").join(name)
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut state = self.0.borrow_mut();
        state.step(|| "list".into())?;
        Ok(state.names.keys().cloned().collect())
    }

    fn len_of(&mut self, name: &str) -> io::Result<u64> {
        let mut state = self.0.borrow_mut();
        state.step(|| format!("stat {name}"))?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(state.nodes[inode].seen.len() as u64)
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> io::Result<SimFile> {
        let mut state = self.0.borrow_mut();
        if let Some(&inode) = state.names.get(name) {
            let is_ready = state.ready.is_some_and(|(_, after)| state.operations >= after);
            if state.canary == Some(Canary::ReadyTakesAPlace) && is_ready && name.ends_with(".partial") {
                return Err(io::ErrorKind::NotFound.into());
            }
            if state.canary == Some(Canary::TruncatingReopen) && name.ends_with(".partial") {
                state.nodes[inode] = Node::default();
            }
            return Ok(SimFile { inode, disk: self.clone(), _lock: None });
        }
        if mode != OpenMode::ExistingOrNew {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step(|| format!("create {name}"))?;
        state.nodes.push(Node::default());
        let inode = state.nodes.len() - 1;
        state.names.insert(name.into(), inode);
        state.changes.push(NameChange::Create(name.into(), inode));
        Ok(SimFile { inode, disk: self.clone(), _lock: None })
    }

    fn make_ready(&mut self, len: u64) {
        let mut state = self.0.borrow_mut();
        // now and then it takes longer than the segment does that is being written
        let operations = state.operations;
        state.ready.get_or_insert((len, operations + operations % 64));
    }

    fn take_ready(&mut self, name: &str, len: u64) -> io::Result<Option<SimFile>> {
        let mut state = self.0.borrow_mut();
        let operations = state.operations;
        let is_taken = state.names.contains_key(name) && state.canary != Some(Canary::ReadyTakesAPlace);
        let is_ready = |ready: &mut (u64, u64)| *ready == (len, ready.1.min(operations));
        if is_taken || state.ready.take_if(is_ready).is_none() {
            return Ok(None);
        }
        state.step(|| format!("link {name}"))?;
        state.ready_taken += 1;
        let mut content = vec![0; len as usize];
        if state.canary == Some(Canary::ReadyHoldsOldBytes) {
            content.fill(7);
        }
        state.nodes.push(Node { seen: content.clone(), durable: content, ..Node::default() });
        let inode = state.nodes.len() - 1;
        state.names.insert(name.into(), inode);
        state.changes.push(NameChange::Create(name.into(), inode));
        Ok(Some(SimFile { inode, disk: self.clone(), _lock: None }))
    }

    fn len(&mut self, file: &SimFile) -> io::Result<u64> {
        Ok(self.0.borrow().nodes[file.inode].seen.len() as u64)
    }

    fn set_len(&mut self, file: &mut SimFile, len: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let node = &mut state.nodes[file.inode];
        let old = node.seen.len();
        node.kept = None;
        node.seen.resize(len as usize, 0);
        node.dirty.push((old, len as usize));
        Ok(())
    }

    fn write_at(&mut self, file: &mut SimFile, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let offset = offset as usize;
        let len: usize = chunks.iter().map(Bytes::len).sum();
        let name = state.name_of(file.inode).to_owned();
        if is_final(&name) {
            state.violation = Some(format!("P3: {name} was written under its final name"));
        }
        let result = state.step(|| format!("write {name} {offset}+{len}"));
        // a write that fails, or dies, leaves its first half
        let written = if result.is_ok() { len } else { len / 2 };
        let canary = state.canary;
        let skip_equal = canary == Some(Canary::SkipEqualWrites);
        let node = &mut state.nodes[file.inode];
        if canary == Some(Canary::AckBeforeEncoderFlush) && written == len && name.ends_with(".partial") {
            return keep_some_back(node, offset, &chunks.concat());
        }
        if canary == Some(Canary::RenameBeforeVerify) && name.contains(".partial") && offset > 0 {
            node.wrong.get_or_insert(offset + written / 2);
        }
        node.before_sync = None;
        let skip_equal = skip_equal && offset + written <= node.seen.len();
        if node.seen.len() < offset + written {
            node.seen.resize(offset + written, 0);
        }
        let mut at = offset;
        let mut left = written;
        for chunk in chunks {
            let part = &chunk[..chunk.len().min(left)];
            if !(skip_equal && node.seen[at..at + part.len()] == *part) {
                node.seen[at..at + part.len()].copy_from_slice(part);
                node.dirty.push((at, at + part.len()));
            }
            (at, left) = (at + part.len(), left - part.len());
        }
        if let Some(at) = node.wrong.filter(|at| (offset..offset + written).contains(at)) {
            node.seen[at] ^= 1;
        }
        result
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step(|| format!("rename {from} {to}"))?;
        state.renames += 1;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        let replaced = state.names.insert(to.into(), inode).is_some();
        if replaced && !to.ends_with(".partial") {
            state.violation = Some(format!("P3: {to} was replaced"));
        }
        state.changes.push(NameChange::Rename(from.into(), to.into(), inode));
        if state.canary == Some(Canary::RenameBeforeFsync) && is_final(to) {
            let node = &mut state.nodes[inode];
            if let Some((durable, dirty)) = node.before_sync.take() {
                (node.durable, node.dirty) = (durable, dirty);
                state.unsynced_seal = Some(inode);
            }
        }
        if state.canary == Some(Canary::AckBeforeEncoderFlush) && is_final(to) {
            let node = &mut state.nodes[inode];
            let (seen, kept) = (node.seen.len(), node.kept.take());
            if let Some((offset, bytes)) = kept {
                node.seen.truncate(seen.min(offset));
                node.seen.extend_from_slice(&bytes);
                node.durable = node.seen.clone();
            }
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step(|| format!("remove {name}"))?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.changes.push(NameChange::Remove(name.into()));
        Ok(())
    }

    fn sync_directory(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let result = state.step(|| format!("sync_directory {name}"));
        if let Some(inode) = state.unsynced_seal.take_if(|_| result.is_ok()) {
            state.sync(inode);
        }
        result?;
        if state.canary != Some(Canary::NoDirectoryFsync) {
            state.changes.clear();
            state.durable_names = state.names.clone();
        }
        Ok(())
    }

    fn lock(&mut self, name: &str) -> io::Result<Option<SimFile>> {
        let file = self.open(name, OpenMode::ExistingOrNew)?;
        let mut state = self.0.borrow_mut();
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(SimFile { _lock: Some(Rc::new(Lock(self.clone()))), ..file }))
    }
}
