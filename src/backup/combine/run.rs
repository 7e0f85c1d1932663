//! The whole of it: chain, tablespaces, directories, files, manifest, durability.
//!
//! Answers to `main` and `process_directory_recursively` in PostgreSQL's `pg_combinebackup.c`. The tree is walked here;
//! files are made by workers, several at once, and what they have to tell is told, and listed in the manifest, in the
//! order of the walk: warnings, steps, the first error and the manifest are the original's.
//!
//! The original writes `backup_manifest` while it copies, and `global/pg_control` in its turn. Here both get their names
//! when everything else is durable: what a run that was killed leaves behind passes for no backup, and no server starts
//! on it.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use super::chain::Chain;
use super::error::CombineError;
use super::input::below;
use super::label::without_incremental_lines;
use super::outputs::OutputDirectories;
use super::reconstruct::INCREMENTAL_PREFIX;
use super::report::{CombineObserver, CombineWarning, Notice, Reporter, StepKind};
use super::request::{CombineRequest, CopyMethod, ManifestRequest, RunMode};
use super::tablespaces::{self, Place, Tablespace};
use super::unit::Unit;
use super::walk::{Found, Walk};
use super::worker::{Job, JobKind, MadeFile, Shared, Worker, made_file};
use crate::backup::confined::{ConfinedDirectory, FileError};
use crate::backup::manifest::{LsnStyle, ManifestEntry, ManifestWriter};
use crate::backup::path::{MemberPath, parse_oid};
use crate::backup::syncer::Syncer;
use crate::backup::{DirectoryModes, MANIFEST_NAME, MANIFEST_TEMPORARY_NAME, SyncMethod, WalRange};
use crate::pg::{ChecksumAlgorithm, SystemIdentifier};

/// How far the walk may be ahead of what has been listed. What was made meanwhile waits in memory.
const WINDOW: usize = 4096;

/// How many jobs wait for a worker.
const QUEUE_LEN: usize = 64;

/// The most workers: beyond that the disk is what there is too little of.
const MAX_WORKERS: usize = 8;

/// How much of the manifest gathers before it is written.
const MANIFEST_CHUNK_LEN: usize = 128 << 10;

const CONTROL_FILE: &str = "global/pg_control";
/// What it is called until the end. A server looks for nothing of this name.
const CONTROL_FILE_TEMPORARY: &str = "global/pg_control.pgwake.tmp";
const BACKUP_LABEL: &str = "backup_label";

/// Combines backups. When it fails, or `interrupted` becomes true, `outputs` takes away what was made.
pub fn combine(
    request: &CombineRequest,
    outputs: &mut OutputDirectories,
    observer: &mut dyn CombineObserver,
    interrupted: &AtomicBool,
) -> Result<(), CombineError> {
    let mut reporter = Reporter::new(observer, request.mode);
    if matches!(request.copy_method, CopyMethod::Clone | CopyMethod::CopyFileRange) {
        reporter.step(|| StepKind::CopyMethod(request.copy_method));
    }
    let mut chain = Chain::check(&request.inputs, &mut reporter)?;
    let target = Target::prepare(request, &mut chain, outputs, &mut reporter)?;
    if matches!(request.manifest, ManifestRequest::Write(_))
        && request.mode == RunMode::Real
        && chain.last_manifest().is_none()
    {
        return Err(CombineError::NoFinalManifest);
    }
    let backup_paths: Vec<_> = chain.backups.iter().map(|backup| backup.path.clone()).collect();
    let syncer = match (request.mode, request.sync) {
        (RunMode::Real, SyncMethod::Fsync) => Some(Syncer::start()?),
        _ => None,
    };
    let mut units = target.units(request, &mut chain)?;
    let shared = Shared {
        request,
        manifests: &chain.manifests,
        backup_paths: &backup_paths,
        file_mode: target.file_mode,
        syncer,
        interrupted,
        failed: AtomicBool::new(false),
        wants_steps: reporter.wants_steps(),
    };
    let listing = target.begin_listing(request, chain.system_identifier)?;
    let forbidden = target.identities()?;
    let (listing, made_directories) = with_workers(&shared, |crew| {
        let mut copy = TreeCopy {
            shared: &shared,
            crew,
            reporter: &mut reporter,
            listing,
            directory_mode: target.directory_mode,
            forbidden,
            made_directories: Vec::new(),
        };
        copy.label(&units[0], &chain.label)?;
        copy.data_directory(&units[0])?;
        for (tablespace, unit) in target.tablespaces.iter().zip(&mut units[1..]) {
            copy.tablespace(tablespace, unit, &target)?;
        }
        copy.drain()?;
        Ok((copy.listing, copy.made_directories))
    })?;
    let Shared { syncer, .. } = shared;
    if let Some(listing) = listing {
        let ranges = chain.last_manifest().map(|manifest| &manifest.wal_ranges[..]);
        listing.finish(ranges.unwrap_or_default(), chain.lsn_style, request.sync)?;
    }
    if request.sync != SyncMethod::None {
        reporter.step(|| StepKind::Sync(request.output.clone()));
    }
    if request.mode == RunMode::Real {
        check_interrupted(interrupted)?;
        make_durable(request.sync, syncer, &units, &made_directories)?;
        outputs.make_durable(request.sync)?;
        check_interrupted(interrupted)?;
        target.commit(request)?;
    }
    if request.copy_method == CopyMethod::Link {
        reporter.warn(CombineWarning::Linked);
    }
    Ok(())
}

fn check_interrupted(interrupted: &AtomicBool) -> Result<(), CombineError> {
    if interrupted.load(Ordering::Relaxed) { Err(CombineError::Interrupted) } else { Ok(()) }
}

/// Where everything goes.
struct Target {
    /// `None` in a dry run.
    output: Option<ConfinedDirectory>,
    shown_output: PathBuf,
    tablespaces: Vec<Tablespace>,
    /// Of the tablespaces that lie elsewhere, with their OIDs; none in a dry run.
    roots: Vec<(u32, ConfinedDirectory)>,
    /// The permission bits of new directories and files.
    directory_mode: u32,
    file_mode: u32,
}

impl Target {
    fn prepare(
        request: &CombineRequest,
        chain: &mut Chain,
        outputs: &mut OutputDirectories,
        reporter: &mut Reporter<'_>,
    ) -> Result<Self, CombineError> {
        let modes = modes_of(&chain.last().path)?;
        let mappings = &request.tablespace_mappings;
        let tablespaces = tablespaces::scan(chain.last(), &request.output, mappings, reporter)?;
        let directory_mode = modes.default_directory_mode() & !request.umask;
        let output = outputs.prepare(&request.output, directory_mode, request.mode, reporter)?;
        let mut roots = Vec::new();
        for tablespace in tablespaces.iter().filter(|tablespace| tablespace.place == Place::Elsewhere) {
            let root = outputs.prepare(&tablespace.new, directory_mode, request.mode, reporter)?;
            roots.extend(root.map(|root| (tablespace.oid, root)));
        }
        let file_mode = modes.default_file_mode() & !request.umask;
        let shown_output = request.output.clone();
        Ok(Target { output, shown_output, tablespaces, roots, directory_mode, file_mode })
    }

    /// The data directory first, then the tablespaces.
    fn units(&self, request: &CombineRequest, chain: &mut Chain) -> Result<Vec<Arc<Unit>>, CombineError> {
        let output = self.output.as_ref().map(ConfinedDirectory::handle);
        let data = Unit::data_directory(&mut chain.backups, output, request.output.clone())?;
        let mut units = vec![Arc::new(data)];
        for tablespace in &self.tablespaces {
            let root = self.roots.iter().find(|(oid, _)| *oid == tablespace.oid);
            let root = root.map(|(_, root)| root.handle());
            units.push(Arc::new(Unit::tablespace(&mut chain.backups, tablespace, root)?));
        }
        Ok(units)
    }

    fn begin_listing(
        &self,
        request: &CombineRequest,
        system_identifier: SystemIdentifier,
    ) -> Result<Option<Listing>, CombineError> {
        match (request.manifest, &self.output) {
            (ManifestRequest::Write(_), Some(output)) => {
                let writer = ManifestWriter::begin(system_identifier);
                Listing::begin(writer, output, self.file_mode).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Device and inode of everything that is written into.
    fn identities(&self) -> Result<HashSet<(u64, u64)>, CombineError> {
        let written = self.output.iter().chain(self.roots.iter().map(|(_, root)| root));
        written.map(|directory| directory.identity().map_err(CombineError::from)).collect()
    }

    /// The last names, and the end.
    fn commit(&self, request: &CombineRequest) -> Result<(), CombineError> {
        let Some(mut output) = self.output.as_ref().map(ConfinedDirectory::handle) else { return Ok(()) };
        let sync = request.sync != SyncMethod::None;
        let global = MemberPath::literal("global");
        let [control, temporary] = [CONTROL_FILE, CONTROL_FILE_TEMPORARY].map(MemberPath::literal);
        output.rename(&temporary, &control)?;
        if sync {
            output.sync_beneath(&global)?;
        }
        if matches!(request.manifest, ManifestRequest::Write(_)) {
            let [manifest, temporary] = [MANIFEST_NAME, MANIFEST_TEMPORARY_NAME].map(MemberPath::literal);
            output.rename(&temporary, &manifest)?;
        }
        if sync {
            output.sync()?;
        }
        Ok(())
    }
}

/// Who may read the newest backup may read the result.
fn modes_of(path: &Path) -> Result<DirectoryModes, CombineError> {
    let metadata = std::fs::metadata(path).map_err(|source| FileError::new("stat file", path, source))?;
    let group = DirectoryModes::GroupRead.default_directory_mode();
    Ok(if metadata.mode() & group == group { DirectoryModes::GroupRead } else { DirectoryModes::OwnerOnly })
}

/// The manifest, on its way to disk.
struct Listing {
    writer: ManifestWriter,
    file: ListingFile,
}

struct ListingFile {
    file: File,
    path: PathBuf,
}

impl Listing {
    fn begin(writer: ManifestWriter, output: &ConfinedDirectory, mode: u32) -> Result<Self, CombineError> {
        let member = MemberPath::literal(MANIFEST_TEMPORARY_NAME);
        let path = output.path_of(&member);
        let file = output.handle().create_file(&member, mode);
        let file = file.map_err(|error| FileError::new("open file", &path, error.source))?;
        Ok(Listing { writer, file: ListingFile { file, path } })
    }

    fn add(&mut self, made: &MadeFile) -> Result<(), CombineError> {
        self.writer.add(&ManifestEntry {
            path: &made.path,
            size: made.size,
            modified_at: made.modified_at,
            algorithm: made.algorithm,
            checksum: &made.checksum,
        });
        if self.writer.pending_len() >= MANIFEST_CHUNK_LEN {
            self.file.write(&self.writer.take())?;
        }
        Ok(())
    }

    fn finish(self, ranges: &[WalRange], style: LsnStyle, sync: SyncMethod) -> Result<(), CombineError> {
        let Listing { writer, mut file } = self;
        file.write(&writer.finish(ranges, style))?;
        if sync == SyncMethod::Fsync {
            file.file.sync_all().map_err(|source| FileError::new("fsync file", &file.path, source))?;
        }
        Ok(())
    }
}

impl ListingFile {
    fn write(&mut self, text: &[u8]) -> Result<(), CombineError> {
        self.file.write_all(text).map_err(|source| FileError::new("write file", &self.path, source).into())
    }
}

/// What a worker answers, or is about to.
type Answer = (Vec<Notice>, Result<Option<MadeFile>, CombineError>);

/// The workers, and what they have been given.
struct Crew {
    jobs: SyncSender<(u64, Job)>,
    answers: Receiver<(u64, Answer)>,
    /// The number of the first slot.
    first: u64,
    /// What was met, in order; `None` while a worker is at it.
    slots: VecDeque<Option<Answer>>,
}

/// Runs `drive` with workers at its side.
fn with_workers<T>(
    shared: &Shared<'_>,
    drive: impl FnOnce(Crew) -> Result<T, CombineError>,
) -> Result<T, CombineError> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let (jobs, queue) = sync_channel(QUEUE_LEN);
    let (answer, answers) = channel();
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        for _ in 0..count {
            let (queue, answer) = (&queue, answer.clone());
            let thread = std::thread::Builder::new().name("combine".to_owned());
            thread.spawn_scoped(scope, move || work(shared, queue, &answer)).map_err(CombineError::Thread)?;
        }
        drop(answer);
        let result = drive(Crew { jobs, answers, first: 0, slots: VecDeque::new() });
        if result.is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        result
    })
}

fn work(shared: &Shared<'_>, queue: &Mutex<Receiver<(u64, Job)>>, answer: &Sender<(u64, Answer)>) {
    /// Sends an answer even if the worker panics, so that nobody waits for it.
    struct Promise<'a>(u64, &'a Sender<(u64, Answer)>, bool);
    impl Drop for Promise<'_> {
        fn drop(&mut self) {
            if !self.2 {
                let _ = self.1.send((self.0, (Vec::new(), Err(CombineError::Interrupted))));
            }
        }
    }
    let mut worker = Worker::new(shared);
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, job)) = next else { return };
        let mut promise = Promise(number, answer, false);
        let made = worker.work(&job);
        promise.2 = answer.send((number, made)).is_ok();
    }
}

/// The tree on its way from the backups to the result.
struct TreeCopy<'a, 'o> {
    shared: &'a Shared<'a>,
    crew: Crew,
    reporter: &'a mut Reporter<'o>,
    listing: Option<Listing>,
    directory_mode: u32,
    forbidden: HashSet<(u64, u64)>,
    /// To be made durable in the end.
    made_directories: Vec<(Arc<Unit>, MemberPath)>,
}

impl TreeCopy<'_, '_> {
    /// The newest backup's label, as that of a full one. It is the manifest's first file.
    fn label(&mut self, unit: &Arc<Unit>, label: &[u8]) -> Result<(), CombineError> {
        self.reporter.step(|| StepKind::GenerateLabel(unit.shown_output.clone()));
        let Some(output) = &unit.output else { return Ok(()) };
        let member = MemberPath::literal(BACKUP_LABEL);
        let path = unit.shown_output(&member);
        let file = output.handle().create_file(&member, self.shared.file_mode);
        let mut file = file.map_err(|error| FileError::new("open file", &path, error.source))?;
        let content = without_incremental_lines(label);
        file.write_all(&content).map_err(|source| FileError::new("write file", &path, source))?;
        let metadata = file.metadata().map_err(|source| FileError::new("stat file", &path, source))?;
        let algorithm = self.shared.request.checksum();
        let mut checksum = algorithm.start();
        checksum.update(&content);
        let checksum = checksum.finish().as_bytes().to_vec();
        if let Some(listing) = &mut self.listing {
            listing.add(&made_file(BACKUP_LABEL.into(), &metadata, algorithm, checksum))?;
        }
        if let Some(syncer) = &self.shared.syncer {
            syncer.sync(file, path)?;
        }
        Ok(())
    }

    fn data_directory(&mut self, unit: &Arc<Unit>) -> Result<(), CombineError> {
        self.notice(Notice::Step(StepKind::ProcessBackup(unit.shown_newest().clone())))?;
        self.tree(unit)
    }

    fn tablespace(
        &mut self,
        tablespace: &Tablespace,
        unit: &mut Arc<Unit>,
        target: &Target,
    ) -> Result<(), CombineError> {
        self.notice(Notice::Step(StepKind::ProcessTablespace(tablespace.old.clone())))?;
        let member = super::input::tablespace_member(tablespace.oid);
        let link = below(&target.shown_output, member.as_bytes());
        let output = target.output.as_ref();
        match tablespace.place {
            Place::Elsewhere => {
                let target = tablespace.new.clone();
                self.notice(Notice::Step(StepKind::CreateSymlink {
                    link: link.clone(),
                    target: target.clone(),
                }))?;
                if let Some(output) = output
                    && let Err(error) = output.handle().create_symlink(&member, &target)
                {
                    return self.fail(CombineError::Symlink { link, target, source: error.source });
                }
            }
            Place::InPlace => {
                self.notice(Notice::Step(StepKind::CreateDirectory(link.clone())))?;
                if let Some(output) = output {
                    let mut output = output.handle();
                    let made = output.create_directory(&member, self.directory_mode);
                    let opened = made.and_then(|()| output.open_beneath(&member));
                    let root = match opened {
                        Ok(root) => root,
                        Err(error) => {
                            return self.fail(FileError::new("create directory", link, error.source));
                        }
                    };
                    Arc::get_mut(unit).expect("nobody works on it yet").output = Some(root);
                }
            }
        }
        self.tree(unit)
    }

    /// Everything in the newest backup's directory.
    fn tree(&mut self, unit: &Arc<Unit>) -> Result<(), CombineError> {
        let shown = unit.shown_newest();
        let Some(newest) = unit.inputs[unit.newest()].as_ref().map(ConfinedDirectory::handle) else {
            return self.fail(FileError::new("open directory", shown, rustix::io::Errno::NOENT));
        };
        let mut walk = match Walk::new(newest, shown.clone(), self.forbidden.clone()) {
            Ok(walk) => walk,
            Err(error) => return self.fail(error),
        };
        loop {
            self.shared.check()?;
            match walk.next() {
                Ok(Some(found)) => self.visit(unit, &mut walk, &found)?,
                Ok(None) => return Ok(()),
                Err(error) => return self.fail(error),
            }
        }
    }

    fn visit(&mut self, unit: &Arc<Unit>, walk: &mut Walk, found: &Found) -> Result<(), CombineError> {
        let (directory, name) = found.path.split();
        let is_link = found.kind == FileType::Symlink;
        let is_directory = found.kind == FileType::Directory;
        let may_be_tablespace = unit.is_data_directory() && directory == b"pg_tblspc";
        if may_be_tablespace && (is_link || is_directory) && parse_oid(name).is_some() {
            return Ok(());
        }
        match found.kind {
            FileType::Directory => {
                self.directory(unit, &found.path)?;
                walk.enter(&found.path).or_else(|error| self.fail(error))
            }
            FileType::Symlink => {
                let path = unit.shown_input(unit.newest(), &found.path);
                self.notice(Notice::Warning(CombineWarning::SymbolicLink(path)))
            }
            FileType::RegularFile => self.file(unit, &found.path, directory, name),
            _ => {
                let path = unit.shown_input(unit.newest(), &found.path);
                self.notice(Notice::Warning(CombineWarning::SpecialFile(path)))
            }
        }
    }

    fn directory(&mut self, unit: &Arc<Unit>, path: &MemberPath) -> Result<(), CombineError> {
        let shown = unit.shown_output(path);
        self.notice(Notice::Step(StepKind::CreateDirectory(shown.clone())))?;
        let Some(output) = &unit.output else { return Ok(()) };
        let made = output.handle().create_directory(path, self.directory_mode);
        if let Err(error) = made {
            return self.fail(FileError::new("create directory", shown, error.source));
        }
        self.made_directories.push((Arc::clone(unit), path.clone()));
        Ok(())
    }

    fn file(
        &mut self,
        unit: &Arc<Unit>,
        path: &MemberPath,
        directory: &[u8],
        name: &[u8],
    ) -> Result<(), CombineError> {
        if directory.is_empty() && (name == BACKUP_LABEL.as_bytes() || name == MANIFEST_NAME.as_bytes()) {
            return Ok(());
        }
        let is_data = unit.is_data_directory();
        let is_wal = is_data && (directory == b"pg_wal" || directory.starts_with(b"pg_wal/"));
        let may_be_incremental = !is_data
            || directory == b"global"
            || directory.starts_with(b"base/")
            || directory.starts_with(b"pg_tblspc/");
        let checksum = if is_wal { ChecksumAlgorithm::None } else { self.shared.request.checksum() };
        let (kind, output) = match name.strip_prefix(INCREMENTAL_PREFIX) {
            Some(bare) if may_be_incremental => {
                let output = [directory, if directory.is_empty() { b"" } else { b"/" }, bare].concat();
                let output = MemberPath::parse(&output).ok().filter(|_| !bare.is_empty());
                let Some(output) = output else {
                    return self.fail(CombineError::Name(unit.shown_input(unit.newest(), path)));
                };
                (JobKind::Reconstruct, output)
            }
            _ => (JobKind::Copy, path.clone()),
        };
        let made_as = if is_data && output.as_bytes() == CONTROL_FILE.as_bytes() {
            MemberPath::literal(CONTROL_FILE_TEMPORARY)
        } else {
            output.clone()
        };
        let unit = Arc::clone(unit);
        self.job(Job { unit, input: path.clone(), output, made_as, kind, checksum })
    }

    /// To be told when everything before it has been.
    fn notice(&mut self, notice: Notice) -> Result<(), CombineError> {
        if matches!(notice, Notice::Step(_)) && !self.shared.wants_steps {
            return Ok(());
        }
        self.crew.slots.push_back(Some((vec![notice], Ok(None))));
        self.settle()
    }

    fn job(&mut self, job: Job) -> Result<(), CombineError> {
        while self.crew.slots.len() >= WINDOW {
            self.wait()?;
        }
        let number = self.crew.first + self.crew.slots.len() as u64;
        self.crew.slots.push_back(None);
        if self.crew.jobs.send((number, job)).is_err() {
            // nobody is left to work
            return Err(CombineError::Interrupted);
        }
        while let Ok(answer) = self.crew.answers.try_recv() {
            self.place(answer);
        }
        self.settle()
    }

    /// This went wrong here, behind everything that was met before: if something of that goes wrong, too, it is told
    /// instead.
    fn fail(&mut self, error: impl Into<CombineError>) -> Result<(), CombineError> {
        self.crew.slots.push_back(Some((Vec::new(), Err(error.into()))));
        self.drain()
    }

    /// Waits until everything that was met has been made.
    fn drain(&mut self) -> Result<(), CombineError> {
        self.settle()?;
        while !self.crew.slots.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), CombineError> {
        let answer = self.crew.answers.recv().map_err(|_| CombineError::Interrupted)?;
        self.place(answer);
        self.settle()
    }

    fn place(&mut self, (number, answer): (u64, Answer)) {
        let place = (number - self.crew.first) as usize;
        self.crew.slots[place] = Some(answer);
    }

    /// Tells and lists what is complete, up to the first that is not.
    fn settle(&mut self) -> Result<(), CombineError> {
        while let Some(Some(_)) = self.crew.slots.front() {
            let Some(Some((notices, made))) = self.crew.slots.pop_front() else { break };
            self.crew.first += 1;
            notices.into_iter().for_each(|notice| self.reporter.tell(notice));
            if let (Some(made), Some(listing)) = (made?, &mut self.listing) {
                listing.add(&made)?;
            }
        }
        Ok(())
    }
}

/// Everything but the last names. With `syncfs` the manifest, too.
fn make_durable(
    sync: SyncMethod,
    syncer: Option<Syncer>,
    units: &[Arc<Unit>],
    made_directories: &[(Arc<Unit>, MemberPath)],
) -> Result<(), CombineError> {
    let roots = || units.iter().filter_map(|unit| unit.output.as_ref());
    match sync {
        SyncMethod::None => {}
        SyncMethod::Syncfs => roots().try_for_each(ConfinedDirectory::sync_file_system)?,
        SyncMethod::Fsync => {
            if let Some(syncer) = syncer {
                syncer.finish()?;
            }
            for (unit, path) in made_directories {
                if let Some(output) = &unit.output {
                    output.handle().sync_beneath(path)?;
                }
            }
            roots().try_for_each(ConfinedDirectory::sync)?;
        }
    }
    Ok(())
}
