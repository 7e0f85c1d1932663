//! Several workers, and the order in which what they did is told and listed: that in which it was met, whoever was first.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::CombineError;
use super::listing::Listing;
use super::report::{Notice, Reporter};
use super::worker::{Job, MadeFile};

/// How far the walk may be ahead of what has been listed. What was made meanwhile waits in memory.
const WINDOW: usize = 4096;

/// How many jobs wait for a worker.
const QUEUE_LEN: usize = 64;

/// The most workers: beyond that the disk is what there is too little of.
const MAX_WORKERS: usize = 8;

/// What a worker answers, or is about to.
pub(super) type Answer = (Vec<Notice>, Result<Option<MadeFile>, CombineError>);

/// The way to the workers and back.
pub(super) struct Workers<J> {
    jobs: SyncSender<(u64, J)>,
    answers: Receiver<(u64, Answer)>,
}

/// Runs `drive` with workers at its side, which live as long as it has their [`Workers`]. Each is what `new_worker` makes
/// on its thread.
pub(super) fn with_workers<J: Send, T, W: FnMut(&J) -> Answer>(
    new_worker: impl Fn() -> W + Sync,
    drive: impl FnOnce(Workers<J>) -> Result<T, CombineError>,
) -> Result<T, CombineError> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let (jobs, queue) = sync_channel(QUEUE_LEN);
    let (answer, answers) = channel();
    // the workers' alone: when all of them have gone nobody waits for room in it
    let queue = Arc::new(Mutex::new(queue));
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let (queue, new_worker, answer) = (Arc::clone(&queue), &new_worker, answer.clone());
            let thread = std::thread::Builder::new().name("combine".to_owned());
            let thread = thread.spawn_scoped(scope, move || work(&queue, new_worker(), &answer));
            threads.push(thread.map_err(CombineError::Thread)?);
        }
        drop((answer, queue));
        let driven = drive(Workers { jobs, answers });
        // all of them, so that a panic is this error and no other panic
        let panicked = threads.into_iter().filter_map(|thread| thread.join().err()).count() > 0;
        driven.and_then(|done| if panicked { Err(CombineError::ThreadPanicked) } else { Ok(done) })
    })
}

fn work<J>(
    queue: &Mutex<Receiver<(u64, J)>>,
    mut worker: impl FnMut(&J) -> Answer,
    answer: &Sender<(u64, Answer)>,
) {
    /// Sends an answer even if the worker panics, so that nobody waits for it.
    struct Promise<'a>(u64, &'a Sender<(u64, Answer)>);
    impl Drop for Promise<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let _ = self.1.send((self.0, (Vec::new(), Err(CombineError::ThreadPanicked))));
            }
        }
    }
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, job)) = next else { return };
        let _promise = Promise(number, answer);
        // whoever gave it has gone when this fails
        let _ = answer.send((number, worker(&job)));
    }
}

/// The workers with what they have been given, and who is told of it.
pub(super) struct Crew<'a, 'o, J = Job> {
    workers: Workers<J>,
    /// The number of the first slot.
    first: u64,
    /// What was met, in order; `None` while a worker is at it.
    slots: VecDeque<Option<Answer>>,
    reporter: &'a mut Reporter<'o>,
    listing: Option<Listing>,
}

impl<'a, 'o, J> Crew<'a, 'o, J> {
    /// Nothing has been met yet.
    pub(super) fn new(workers: Workers<J>, reporter: &'a mut Reporter<'o>, listing: Option<Listing>) -> Self {
        Crew { workers, first: 0, slots: VecDeque::new(), reporter, listing }
    }

    /// To be told when everything before it has been.
    pub(super) fn notice(&mut self, notice: Notice) -> Result<(), CombineError> {
        if matches!(notice, Notice::Step(_)) && !self.reporter.wants_steps() {
            return Ok(());
        }
        self.met((vec![notice], Ok(None)))
    }

    /// Something that needed no worker.
    pub(super) fn met(&mut self, answer: Answer) -> Result<(), CombineError> {
        self.slots.push_back(Some(answer));
        self.settle()
    }

    /// Gives a file to whichever worker is free.
    pub(super) fn job(&mut self, job: J) -> Result<(), CombineError> {
        while self.slots.len() >= WINDOW {
            self.wait()?;
        }
        let number = self.first + self.slots.len() as u64;
        self.slots.push_back(None);
        if self.workers.jobs.send((number, job)).is_err() {
            // nobody is left to work; what was done before that is told
            return self.drain().and(Err(CombineError::ThreadPanicked));
        }
        while let Ok(answer) = self.workers.answers.try_recv() {
            self.place(answer);
        }
        self.settle()
    }

    /// This went wrong here, behind everything that was met before: if something of that goes wrong, too, it is told
    /// instead.
    pub(super) fn fail(&mut self, error: impl Into<CombineError>) -> Result<(), CombineError> {
        self.slots.push_back(Some((Vec::new(), Err(error.into()))));
        self.drain()
    }

    /// Waits until everything that was met has been made, told and listed.
    pub(super) fn finish(mut self) -> Result<Option<Listing>, CombineError> {
        self.drain()?;
        Ok(self.listing)
    }

    fn drain(&mut self) -> Result<(), CombineError> {
        self.settle()?;
        while !self.slots.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), CombineError> {
        let answer = self.workers.answers.recv().map_err(|_| CombineError::ThreadPanicked)?;
        self.place(answer);
        self.settle()
    }

    fn place(&mut self, (number, answer): (u64, Answer)) {
        let place = (number - self.first) as usize;
        self.slots[place] = Some(answer);
    }

    /// Tells and lists what is complete, up to the first that is not.
    fn settle(&mut self) -> Result<(), CombineError> {
        while let Some(Some(_)) = self.slots.front() {
            let Some(Some((notices, made))) = self.slots.pop_front() else { break };
            self.first += 1;
            notices.into_iter().for_each(|notice| self.reporter.tell(notice));
            if let (Some(made), Some(listing)) = (made?, &mut self.listing) {
                listing.add(&made)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{CombineObserver, CombineWarning, Step};
    use super::super::request::RunMode;
    use super::*;

    /// Remembers the paths of warnings.
    #[derive(Default)]
    struct Ear(Vec<String>);

    impl CombineObserver for Ear {
        fn warn(&mut self, warning: &CombineWarning) {
            if let CombineWarning::SymbolicLink(path) = warning {
                self.0.push(path.display().to_string());
            }
        }
        fn step(&mut self, _: &Step) {}
        fn wants_steps(&self) -> bool {
            false
        }
    }

    /// Gives out `jobs` in order; what was told, and how it ended.
    fn crewed(jobs: u32, worker: impl Fn(&u32) -> Answer + Sync) -> (Vec<String>, Result<(), CombineError>) {
        let mut ear = Ear::default();
        let mut reporter = Reporter::new(&mut ear, RunMode::Real);
        let ended = with_workers(
            || &worker,
            |workers| {
                let mut crew = Crew::new(workers, &mut reporter, None);
                (0..jobs).try_for_each(|job| crew.job(job))?;
                crew.finish().map(drop)
            },
        );
        (ear.0, ended)
    }

    fn told(job: u32) -> Answer {
        (vec![Notice::Warning(CombineWarning::SymbolicLink(job.to_string().into()))], Ok(None))
    }

    #[test]
    fn what_was_done_is_told_in_the_order_in_which_it_was_met() {
        // the even ones take longer
        let (order, ended) = crewed(3 * WINDOW as u32, |job| {
            for _ in 0..(job + 1) % 2 * 20 {
                std::thread::yield_now();
            }
            told(*job)
        });
        ended.unwrap();
        let expected: Vec<String> = (0..3 * WINDOW).map(|job| job.to_string()).collect();
        assert!(order == expected, "{} were told", order.len());
    }

    #[test]
    fn the_first_failure_in_that_order_is_told_whoever_failed_first() {
        let (order, ended) = crewed(1000, |job| match job {
            500 => {
                std::thread::sleep(std::time::Duration::from_millis(20));
                (Vec::new(), Err(CombineError::NotRegular("first".into())))
            }
            501.. => (Vec::new(), Err(CombineError::NotRegular("later".into()))),
            job => told(*job),
        });
        assert_eq!(order.len(), 500);
        assert_eq!(ended.unwrap_err().to_string(), "\"first\" is not a regular file");
    }

    /// One, or all of them.
    #[test]
    fn a_worker_that_panics_is_a_defect_and_nobody_waits_for_it() {
        for fatal in [7..8, 7..1_000_000] {
            let (order, ended) = crewed(5 * WINDOW as u32, |job| {
                assert!(!fatal.contains(job), "which this is about");
                told(*job)
            });
            let error = ended.unwrap_err();
            assert!(matches!(error, CombineError::ThreadPanicked), "{error}");
            assert_eq!(error.class(), crate::ErrorClass::Bug);
            assert_eq!(order.len(), 7);
        }
    }
}
