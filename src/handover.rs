//! A task that now and then has to wait for a disk, and must not: another thread goes on with it when that takes too long.
//!
//! A commit that waits for a receiver waits for every thread that is woken on the way. To leave an fsync to a thread of its
//! own wakes that one first, and then the task again: on a busy machine each costs as much as the fsync. So the task's own
//! thread does it, between two polls of the task, and leaves the task where another thread finds it meanwhile. That one, the
//! stand-in, looks now and then; if the work is not done [soon](TICK), it takes the task and goes on with it, and the thread that
//! comes back from the disk finds the task gone and becomes the stand-in.
//!
//! So what is quick costs no wake-up, and what hangs holds up nothing for longer than two ticks. Who has work that is known
//! to be slow gives it to a thread of its own and does not ask here.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Runtime;

/// Something that may block.
pub trait Work: Send + Sync {
    /// Does it. The task is polled afterwards, and finds what came of it.
    fn run(&self);
    /// It is done, but the task is elsewhere by now and has to be woken.
    fn wake(&self);
}

/// Where a task leaves work for the thread that polls it. Clones are the same place.
#[derive(Clone, Default)]
pub struct Handover {
    asked: Arc<Mutex<Option<Arc<dyn Work>>>>,
}

impl Handover {
    /// Asks for `work` to be done as soon as the task waits. What was asked for before and is not done is forgotten.
    pub fn ask(&self, work: Arc<dyn Work>) {
        *lock(&self.asked) = Some(work);
    }

    fn take(&self) -> Option<Arc<dyn Work>> {
        lock(&self.asked).take()
    }
}

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}

/// How often the stand-in looks whether the same work is still under way.
const TICK: Duration = Duration::from_millis(10);

/// After so many looks at nothing new it sleeps until it is woken.
const IDLE_TICKS: u32 = 3;

/// Runs `task` to its end on this thread and a second one, each of which may do the work that the task leaves in `handover`.
/// The error is that there can be no second thread.
pub fn block_on<F>(runtime: &Runtime, handover: &Handover, task: F) -> io::Result<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let relay = Relay {
        runtime,
        handover,
        state: Mutex::new(State { left: None, turn: 0, output: None, ended: false, asleep: false }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new().name("stand-in".into()).spawn_scoped(scope, || relay.stand_in())?;
        relay.go_on(Box::pin(task));
        relay.stand_in();
        Ok::<_, io::Error>(())
    })?;
    let state = relay.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    // a panic of either thread has ended the scope
    Ok(state.output.expect("the task has ended"))
}

/// The two threads, and the task between them.
struct Relay<'a, F: Future> {
    runtime: &'a Runtime,
    handover: &'a Handover,
    state: Mutex<State<F>>,
    changed: Condvar,
}

struct State<F: Future> {
    /// The task, while the thread that polled it is at work.
    left: Option<Pin<Box<F>>>,
    /// How many times it was left.
    turn: u64,
    output: Option<F::Output>,
    ended: bool,
    /// The stand-in has to be woken.
    asleep: bool,
}

impl<F> Relay<'_, F>
where
    F: Future + Send,
    F::Output: Send,
{
    /// Polls the task until it ends, or somebody else has taken it.
    fn go_on(&self, mut task: Pin<Box<F>>) {
        let _end = EndOnPanic(self);
        loop {
            let polled = poll_fn(|cx| match task.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                Poll::Pending => self.handover.take().map_or(Poll::Pending, |work| Poll::Ready(Err(work))),
            });
            let work = match self.runtime.block_on(polled) {
                Ok(output) => return self.end(Some(output)),
                Err(work) => work,
            };
            self.leave(task);
            work.run();
            let Some(left) = lock(&self.state).left.take() else {
                work.wake();
                return;
            };
            task = left;
        }
    }

    fn leave(&self, task: Pin<Box<F>>) {
        let mut state = lock(&self.state);
        state.left = Some(task);
        state.turn += 1;
        if std::mem::take(&mut state.asleep) {
            self.changed.notify_all();
        }
    }

    /// Looks after a task that was left for too long, until it has ended.
    fn stand_in(&self) {
        let (mut seen_turn, mut idle_ticks) = (0, 0);
        let mut state = lock(&self.state);
        while !state.ended {
            let is_new = std::mem::replace(&mut seen_turn, state.turn) != state.turn;
            idle_ticks = if is_new { 0 } else { idle_ticks + 1 };
            if !is_new && let Some(task) = state.left.take() {
                drop(state);
                self.go_on(task);
                state = lock(&self.state);
            } else if idle_ticks < IDLE_TICKS {
                let waited = self.changed.wait_timeout(state, TICK);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state.asleep = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                // the first look at work that has just begun
                (seen_turn, idle_ticks) = (state.turn.wrapping_sub(1), 0);
            }
        }
    }

    fn end(&self, output: Option<F::Output>) {
        let mut state = lock(&self.state);
        state.ended = true;
        state.output = output;
        self.changed.notify_all();
    }
}

/// A panic of one thread is the end for both.
struct EndOnPanic<'a, 'b, F>(&'a Relay<'b, F>)
where
    F: Future + Send,
    F::Output: Send;

impl<F> Drop for EndOnPanic<'_, '_, F>
where
    F: Future + Send,
    F::Output: Send,
{
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(None);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // no code that holds one can panic halfway through a change
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread::ThreadId;
    use std::time::Instant;

    use tokio::sync::Notify;

    use super::*;

    /// Work that takes a time.
    struct Nap {
        takes: Duration,
        done: AtomicU64,
        notify: Notify,
        by: Mutex<Vec<ThreadId>>,
    }

    impl Nap {
        fn of(takes: Duration) -> Arc<Self> {
            let (done, notify, by) = (AtomicU64::new(0), Notify::new(), Mutex::new(Vec::new()));
            Arc::new(Nap { takes, done, notify, by })
        }

        /// Asks for it, and waits for its end.
        async fn taken(self: &Arc<Self>, handover: &Handover) {
            let before = self.done.load(Ordering::SeqCst);
            handover.ask(Arc::clone(self) as Arc<dyn Work>);
            let mut notified = std::pin::pin!(self.notify.notified());
            poll_fn(|cx| {
                let woken = notified.as_mut().poll(cx);
                if self.done.load(Ordering::SeqCst) > before { Poll::Ready(()) } else { woken }
            })
            .await;
        }
    }

    impl Work for Nap {
        fn run(&self) {
            std::thread::sleep(self.takes);
            self.by.lock().unwrap().push(std::thread::current().id());
            self.done.fetch_add(1, Ordering::SeqCst);
        }

        fn wake(&self) {
            self.notify.notify_one();
        }
    }

    fn run<F>(handover: &Handover, task: F) -> F::Output
    where
        F: Future + Send,
        F::Output: Send,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        block_on(&runtime, handover, task).unwrap()
    }

    #[test]
    fn quick_work_is_done_by_the_tasks_own_thread() {
        let (handover, nap) = (Handover::default(), Nap::of(Duration::ZERO));
        let done = run(&handover, async {
            for _ in 0..1000 {
                nap.taken(&handover).await;
            }
            nap.done.load(Ordering::SeqCst)
        });
        assert_eq!(done, 1000);
        let me = std::thread::current().id();
        let by_me = nap.by.lock().unwrap().iter().filter(|id| **id == me).count();
        // on a machine that is busy, anything may take long
        assert!(by_me > 0, "{by_me}");
    }

    #[test]
    fn a_task_goes_on_while_its_work_hangs_and_hears_of_its_end() {
        let (handover, nap) = (Handover::default(), Nap::of(Duration::from_millis(400)));
        for _ in 0..2 {
            let (ticks, threads) = run(&handover, async {
                let (mut ticks, mut threads) = (0, Vec::new());
                let mut taken = std::pin::pin!(nap.taken(&handover));
                let mut interval = tokio::time::interval(Duration::from_millis(5));
                loop {
                    tokio::select! {
                        biased;
                        () = &mut taken => return (ticks, threads),
                        _ = interval.tick() => ticks += 1,
                    }
                    threads.push(std::thread::current().id());
                }
            });
            assert!(ticks > 5, "only {ticks} ticks in 400 ms");
            let me = std::thread::current().id();
            assert!(threads.iter().any(|id| *id != me), "nobody else went on with it");
        }
    }

    #[test]
    fn a_task_may_end_while_its_work_hangs() {
        let (handover, nap) = (Handover::default(), Nap::of(Duration::from_millis(300)));
        let started_at = Instant::now();
        let ended_after = run(&handover, async {
            let slept = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! {
                () = nap.taken(&handover) => panic!("it takes longer"),
                () = slept => started_at.elapsed(),
            }
        });
        assert!(ended_after < Duration::from_millis(250), "{ended_after:?}");
    }

    #[test]
    fn both_threads_take_turns_at_hanging() {
        let (handover, nap) = (Handover::default(), Nap::of(Duration::from_millis(20)));
        run(&handover, async {
            for _ in 0..20 {
                nap.taken(&handover).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let mut by = nap.by.lock().unwrap().clone();
        by.dedup();
        assert!(by.len() > 10, "{by:?}");
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_on_the_other_thread_is_a_panic() {
        let (handover, nap) = (Handover::default(), Nap::of(Duration::from_millis(100)));
        run(&handover, async {
            tokio::select! {
                () = nap.taken(&handover) => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => panic!("on the stand-in"),
            }
        });
    }
}
