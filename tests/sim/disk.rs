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
use pgwake::sink::{Disk, OpenMode};

use crate::log::Log;

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
}

pub const CANARIES: [Canary; 7] = [
    Canary::AckBeforeFsync,
    Canary::NoDirectoryFsync,
    Canary::RenameBeforeFsync,
    Canary::TruncatingReopen,
    Canary::AckAfterFailedFsync,
    Canary::SkipEqualWrites,
    Canary::HideJumps,
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

#[derive(Debug, Default, Clone)]
struct Node {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Ranges written since the last sync; a change of length is one too.
    dirty: Vec<(usize, usize)>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, Inode),
    Rename(String, String, Inode),
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
}

#[derive(Debug, Clone)]
pub struct SimDisk(pub Rc<RefCell<DiskState>>);

#[derive(Debug)]
pub struct SimFile {
    inode: Inode,
    locks: Option<SimDisk>,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some(disk) = &self.locks {
            disk.0.borrow_mut().locked = false;
        }
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
        })))
    }

    /// A new process begins.
    pub fn begin_life(&self, fault: DiskFault) {
        let mut state = self.0.borrow_mut();
        (state.fault, state.operations, state.renames) = (fault, 0, 0);
        (state.crashed, state.failed, state.unsynced_seal) = (false, false, None);
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
        }
        state.names = names.clone();
        state.durable_names = names;
    }

    /// What programs see.
    pub fn seen(&self) -> Image {
        let state = self.0.borrow();
        state.names.iter().map(|(name, inode)| (name.clone(), state.nodes[*inode].seen.clone())).collect()
    }

    /// Whether the durable content of one of `names` has `bytes` at `offset`: what would survive the worst crash.
    pub fn has_durable(&self, names: &[String], offset: usize, bytes: &[u8]) -> bool {
        let state = self.0.borrow();
        names.iter().filter_map(|name| state.durable_names.get(name)).any(|inode| {
            state.nodes[*inode].durable.get(offset..offset + bytes.len()).is_some_and(|found| found == bytes)
        })
    }
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
            if state.canary == Some(Canary::TruncatingReopen) && name.ends_with(".partial") {
                state.nodes[inode] = Node::default();
            }
            return Ok(SimFile { inode, locks: None });
        }
        if mode == OpenMode::Existing {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step(|| format!("create {name}"))?;
        state.nodes.push(Node::default());
        let inode = state.nodes.len() - 1;
        state.names.insert(name.into(), inode);
        state.changes.push(NameChange::Create(name.into(), inode));
        Ok(SimFile { inode, locks: None })
    }

    fn len(&mut self, file: &SimFile) -> io::Result<u64> {
        Ok(self.0.borrow().nodes[file.inode].seen.len() as u64)
    }

    fn set_len(&mut self, file: &mut SimFile, len: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let node = &mut state.nodes[file.inode];
        let old = node.seen.len();
        node.seen.resize(len as usize, 0);
        node.dirty.push((old, len as usize));
        Ok(())
    }

    fn read_at(&mut self, file: &SimFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.0.borrow();
        let rest = state.nodes[file.inode].seen.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&mut self, file: &mut SimFile, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let offset = offset as usize;
        let len: usize = chunks.iter().map(Bytes::len).sum();
        let name = state.name_of(file.inode).to_owned();
        if name.len() == 24 {
            state.violation = Some(format!("P3: {name} was written under its final name"));
        }
        let result = state.step(|| format!("write {name} {offset}+{len}"));
        // a write that fails, or dies, leaves its first half
        let written = if result.is_ok() { len } else { len / 2 };
        let skip_equal = state.canary == Some(Canary::SkipEqualWrites);
        let node = &mut state.nodes[file.inode];
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
        result
    }

    fn sync_data(&mut self, file: &mut SimFile) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let name = state.name_of(file.inode).to_owned();
        let mut result = state.step(|| format!("sync {name}"));
        let operations = state.operations;
        let sync_fails = matches!(state.fault, DiskFault::SyncFailsFrom(at) if operations >= at);
        if result.is_ok() && sync_fails && !state.nodes[file.inode].dirty.is_empty() {
            state.fault = DiskFault::None;
            state.failed = true;
            state.log.add(|| "it fails".into());
            result = Err(io::Error::from_raw_os_error(5));
        }
        match (result, state.canary) {
            (Ok(()), Some(Canary::AckBeforeFsync)) => Ok(()),
            (Ok(()), Some(Canary::RenameBeforeFsync)) if state.nodes[file.inode].seen.len() == 1 << 20 => {
                state.unsynced_seal = Some(file.inode);
                Ok(())
            }
            (Ok(()), _) => {
                state.sync(file.inode);
                Ok(())
            }
            (Err(error), canary) => {
                if !state.crashed {
                    // clean pages that never reached the disk
                    state.nodes[file.inode].dirty.clear();
                    if canary == Some(Canary::AckAfterFailedFsync) {
                        return Ok(());
                    }
                }
                Err(error)
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step(|| format!("rename {from} {to}"))?;
        state.renames += 1;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        if state.names.insert(to.into(), inode).is_some() {
            state.violation = Some(format!("P3: {to} was replaced"));
        }
        state.changes.push(NameChange::Rename(from.into(), to.into(), inode));
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
        Ok(Some(SimFile { inode: file.inode, locks: Some(self.clone()) }))
    }
}
