//! `pg_combinebackup`, as PostgreSQL's tool of this name: options, messages, exit codes and files are its own.
//!
//! Answers to PostgreSQL's `pg_combinebackup.c`; what it does is in [`backup::combine`](crate::backup::combine), which
//! lists the departures. Signals are waited for here: the work goes on in a thread of its own, is told to stop, and what
//! it made is taken away.

mod help;
mod options;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use options::{Detail, Options};

use super::pg_tool::connection::with_causes;
use super::pg_tool::{Failed, Invocation};
use super::signals::Signals;
use crate::backup::combine::{
    CombineError, CombineObserver, CombineWarning, OutputDirectories, Removal, RunMode, Step, combine,
};
use crate::backup::manifest::ManifestError;

/// Runs the tool.
pub(super) fn run(tool: &Invocation) -> Result<(), Failed> {
    if tool.answered(help::HELP) {
        return Ok(());
    }
    // read by setting it, while there is one thread
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    let options = Options::parse(tool, umask.bits())?;
    if options.request.mode == RunMode::DryRun {
        tool.info("executing in dry-run mode");
        tool.detail("The target directory will not be modified.");
    }
    allow_many_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| tool.error(format!("could not set up the program: {error}")))?;
    runtime.block_on(until_interrupted(tool, options))
}

/// The work, beside an ear for signals.
async fn until_interrupted(tool: &Invocation, options: Options) -> Result<(), Failed> {
    let set_up = |error: std::io::Error| tool.error(format!("could not set up the program: {error}"));
    let mut signals = Signals::listen().map_err(set_up)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut work = {
        let (tool, interrupted) = (tool.clone(), Arc::clone(&interrupted));
        tokio::task::spawn_blocking(move || work(&tool, &options, &interrupted))
    };
    loop {
        tokio::select! {
            result = &mut work => {
                return result.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            }
            _ = signals.received() => interrupted.store(true, Ordering::Relaxed),
        }
    }
}

/// Combines, and takes away what was made when that fails.
fn work(tool: &Invocation, options: &Options, interrupted: &AtomicBool) -> Result<(), Failed> {
    let mut outputs = OutputDirectories::new();
    let mut words = Words { tool, detail: options.detail };
    match combine(&options.request, &mut outputs, &mut words, interrupted) {
        Ok(()) => {
            outputs.keep();
            Ok(())
        }
        Err(error) => {
            let failed = tool.error(describe(&error));
            if error.class() == crate::ErrorClass::Bug {
                tool.hint("This is a defect of pgwake: please report it, with what stands above.");
            }
            outputs.remove(&mut |removal| tell_removal(tool, &removal));
            Err(failed)
        }
    }
}

/// What is told, in the tool's manner.
struct Words<'a> {
    tool: &'a Invocation,
    detail: Detail,
}

impl CombineObserver for Words<'_> {
    fn warn(&mut self, warning: &CombineWarning) {
        self.tool.warn(warning);
        if *warning == CombineWarning::ChecksumsDiffer {
            self.tool.hint(
                "Disable, and optionally reenable, checksums on the output directory to avoid failures.",
            );
        }
    }

    fn step(&mut self, step: &Step) {
        self.tool.info(step);
    }

    fn wants_steps(&self) -> bool {
        self.detail == Detail::Steps
    }
}

fn tell_removal(tool: &Invocation, removal: &Removal<'_>) {
    match removal {
        Removal::Directory(_) | Removal::Contents(_) => tool.info(removal),
        Removal::DirectoryFailed(error) | Removal::ContentsFailed(error) => {
            tool.warn(with_causes(error));
            tool.error(removal);
        }
    }
}

/// An error in the original's words.
fn describe(error: &CombineError) -> String {
    match error {
        // which says it all
        CombineError::Manifest(error @ ManifestError::SelfChecksumMismatch) => error.to_string(),
        error => with_causes(error),
    }
}

/// A chain of hundreds of backups is read from hundreds of files at once. Where more are not allowed it fails when it
/// gets there.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
