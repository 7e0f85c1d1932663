//! `pg_verifybackup`, as PostgreSQL's tool of this name: options, messages and exit codes are its own.
//!
//! Answers to PostgreSQL's `pg_verifybackup.c` of 19. Departures, besides those of
//! [`backup::verify`](crate::backup::verify):
//! * What is wrong with WAL stands in a `detail:` line behind `WAL parsing failed for timeline N`, where the original
//!   has lines of `pg_waldump` before it. No other program is needed, for tar-format backups neither.
//! * Backups of 13 to 19 are all verified; the original wants one of its own version.
//! * JSON that is none is told in other words.

mod help;
mod options;
mod progress;
mod words;

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use options::{Options, Output};
use progress::ProgressLine;

use super::pg_tool::{Failed, Invocation};
use crate::backup::verify::{Problem, Progress, VerifyObserver, verify};

const NO_WAL_HINT: &str = "Specify the correct path using the option -w/--wal-path.  Or you must use \
                           -n/--no-parse-wal when verifying a tar-format backup.";

/// Runs the tool.
pub(super) fn run(tool: &Invocation) -> Result<(), Failed> {
    if tool.answered(help::HELP) {
        return Ok(());
    }
    let Options { request, output } = Options::parse(tool)?;
    let progress = (output == Output::Progress).then(|| Mutex::new(ProgressLine::new()));
    let reporter = Reporter { tool, progress, lines: Mutex::new(()) };
    match verify(&request, &reporter) {
        Err(error) => Err(tool.error(words::error(&error))),
        Ok(report) if report.problem_count > 0 => Err(Failed),
        Ok(_) => {
            if output != Output::Quiet {
                // the exit code says it, too, where standard output is closed
                let _ = std::io::stdout().write_all(b"backup successfully verified\n");
            }
            Ok(())
        }
    }
}

/// Says what is found, at once.
struct Reporter<'a> {
    tool: &'a Invocation,
    progress: Option<Mutex<ProgressLine>>,
    /// An error and its detail stay together.
    lines: Mutex<()>,
}

impl VerifyObserver for Reporter<'_> {
    fn problem(&self, problem: Problem) {
        let _together = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Failed = self.tool.error(words::problem(&problem));
        if let Some(detail) = words::detail(&problem) {
            self.tool.detail(detail);
        }
        if matches!(problem, Problem::NoWalArchive) {
            self.tool.hint(NO_WAL_HINT);
        }
    }

    fn progress(&self, progress: Progress) {
        if let Some(line) = &self.progress
            && let Ok(mut line) = line.try_lock()
        {
            line.show(progress);
        }
    }
}
