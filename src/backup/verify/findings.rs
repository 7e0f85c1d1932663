//! Who is told of what is found, from whichever thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::problem::Problem;
use super::verifier::AfterProblem;

/// Whoever wants to know how it goes. Called from several threads at once.
pub trait VerifyObserver: Sync {
    /// Something is wrong.
    fn problem(&self, problem: Problem);

    /// So much has been read. Called often.
    fn progress(&self, progress: Progress);
}

/// How far the reading of files has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Whether it begins, goes on or is over.
    pub stage: Stage,
    /// Bytes read; of archives, as they are stored.
    pub done_len: u64,
    /// Bytes that there are to be read.
    pub total_len: u64,
}

/// Where the reading of files is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was read.
    Begin,
    /// More has been read.
    UnderWay,
    /// There is no more.
    End,
}

/// Problems and progress on their way to the observer.
pub(super) struct Findings<'a> {
    observer: &'a dyn VerifyObserver,
    after_problem: AfterProblem,
    problem_count: AtomicU64,
    has_stopped: AtomicBool,
    done_len: AtomicU64,
    total_len: AtomicU64,
}

impl std::fmt::Debug for Findings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Findings").field("problem_count", &self.problem_count).finish_non_exhaustive()
    }
}

impl<'a> Findings<'a> {
    pub(super) fn new(observer: &'a dyn VerifyObserver, after_problem: AfterProblem) -> Self {
        Findings {
            observer,
            after_problem,
            problem_count: AtomicU64::new(0),
            has_stopped: AtomicBool::new(false),
            done_len: AtomicU64::new(0),
            total_len: AtomicU64::new(0),
        }
    }

    /// Tells of a problem, unless nothing more is to be told.
    pub(super) fn tell(&self, problem: Problem) {
        let is_last = problem.is_final() || self.after_problem == AfterProblem::Stop;
        let has_stopped = match is_last {
            true => self.has_stopped.swap(true, Ordering::Relaxed),
            false => self.has_stopped.load(Ordering::Relaxed),
        };
        if !has_stopped {
            self.problem_count.fetch_add(1, Ordering::Relaxed);
            self.observer.problem(problem);
        }
    }

    /// Whether nothing more is to be looked at.
    pub(super) fn has_stopped(&self) -> bool {
        self.has_stopped.load(Ordering::Relaxed)
    }

    pub(super) fn problem_count(&self) -> u64 {
        self.problem_count.load(Ordering::Relaxed)
    }

    /// There is so much more to be read.
    pub(super) fn expect(&self, len: u64) {
        self.total_len.fetch_add(len, Ordering::Relaxed);
    }

    /// So much more was read.
    pub(super) fn read(&self, len: u64) {
        self.done_len.fetch_add(len, Ordering::Relaxed);
        self.report(Stage::UnderWay);
    }

    pub(super) fn report(&self, stage: Stage) {
        if !self.has_stopped() {
            let done_len = self.done_len();
            let total_len = self.total_len.load(Ordering::Relaxed);
            self.observer.progress(Progress { stage, done_len, total_len });
        }
    }

    pub(super) fn done_len(&self) -> u64 {
        self.done_len.load(Ordering::Relaxed)
    }
}
