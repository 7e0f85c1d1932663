//! The whole of it: chain, tablespaces, directories, files, manifest, durability.
//!
//! Answers to `main` and `process_directory_recursively` in PostgreSQL's `pg_combinebackup.c`. The tree is walked here;
//! files are made by workers, several at once, and what they have to tell is told, and listed in the manifest, in the
//! order of the walk: warnings, steps, the first error and the manifest are the original's.
//!
//! The original writes `backup_manifest` while it copies, and `global/pg_control` in its turn. Here both get their names
//! when everything else is durable: what a run that was killed leaves behind passes for no backup, and no server starts
//! on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::chain::Chain;
use super::crew::{Crew, with_workers};
use super::error::CombineError;
use super::listing::Listing;
use super::outputs::OutputDirectories;
use super::report::{CombineObserver, CombineWarning, Reporter, StepKind};
use super::request::{CombineRequest, CopyMethod, ManifestRequest, RunMode};
use super::target::Target;
use super::tree_copy::TreeCopy;
use super::unit::Unit;
use super::worker::{Shared, Worker};
use crate::backup::SyncMethod;
use crate::backup::confined::ConfinedDirectory;
use crate::backup::path::MemberPath;
use crate::backup::syncer::Syncer;

/// Directories of the result, each with where it lies.
type MadeDirectories = Vec<(Arc<Unit>, MemberPath)>;

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
    let listing = match (request.manifest, &target.output) {
        (ManifestRequest::Write(_), Some(output)) => {
            Some(Listing::begin(chain.system_identifier, output, target.manifest_name, target.file_mode)?)
        }
        _ => None,
    };
    let forbidden = target.identities()?;
    let new_worker = || {
        let mut worker = Worker::new(&shared);
        move |job: &_| worker.work(job)
    };
    let (listing, made_directories) = with_workers(new_worker, |workers| {
        let crew = Crew::new(workers, &mut reporter, listing);
        let directory_mode = target.directory_mode;
        let made_directories = Vec::new();
        let copy = TreeCopy { shared: &shared, crew, directory_mode, forbidden, made_directories };
        let copied = copy_everything(copy, &chain, &target, &mut units);
        if copied.is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        copied
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

/// Label, data directory and tablespaces: the listing, and the directories that were made.
fn copy_everything(
    mut copy: TreeCopy<'_, '_>,
    chain: &Chain,
    target: &Target,
    units: &mut [Arc<Unit>],
) -> Result<(Option<Listing>, MadeDirectories), CombineError> {
    copy.label(&units[0], &chain.label)?;
    copy.data_directory(&units[0])?;
    for (tablespace, unit) in target.tablespaces.iter().zip(&mut units[1..]) {
        copy.tablespace(tablespace, unit, target)?;
    }
    Ok((copy.crew.finish()?, copy.made_directories))
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
