//! How far a copy has come: counters that the work raises, and a display that looks at them.
//!
//! The display runs on a thread of its own, so that it moves while the work waits for a disk.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::pg::Lsn;

/// How far a base backup and its WAL stream have come. Raised by the work, read by the display.
#[derive(Debug, Default)]
pub struct CopyProgress {
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    wal_lsn: AtomicU64,
    phase: Mutex<&'static str>,
}

impl CopyProgress {
    /// Says what is being done now, in a few words.
    pub fn set_phase(&self, phase: &'static str) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Sets the estimated size, in bytes.
    pub fn set_total(&self, bytes: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sets how much has been received, in bytes.
    pub fn set_done(&self, bytes: u64) {
        self.done_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sets how far the WAL stream is.
    pub fn set_wal_lsn(&self, lsn: Lsn) {
        self.wal_lsn.store(lsn.as_u64(), Ordering::Relaxed);
    }

    fn snapshot(&self) -> Snapshot {
        let done = self.done_bytes.load(Ordering::Relaxed);
        Snapshot {
            phase: *self.phase.lock().unwrap_or_else(PoisonError::into_inner),
            done,
            // the total is an estimate, and the cluster may grow under the copy
            total: self.total_bytes.load(Ordering::Relaxed).max(done),
            wal_lsn: Lsn::new(self.wal_lsn.load(Ordering::Relaxed)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Snapshot {
    phase: &'static str,
    done: u64,
    total: u64,
    wal_lsn: Lsn,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressMode {
    /// A bar on a terminal, a line every few seconds elsewhere.
    Automatic,
    /// Not at all.
    Hidden,
}

/// Shows a [`CopyProgress`] on standard error until it is dropped.
#[derive(Debug)]
pub struct ProgressDisplay {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How often the bar moves.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

impl ProgressDisplay {
    /// Begins to show.
    pub fn start(progress: Arc<CopyProgress>, mode: ProgressMode) -> Self {
        if mode == ProgressMode::Hidden {
            return ProgressDisplay { stop: None, thread: None };
        }
        let (stop, stopped) = channel();
        let show = move || match std::io::stderr().is_terminal() {
            true => show_bar(&progress, &stopped),
            false => show_lines(&progress, &stopped),
        };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(show).ok();
        ProgressDisplay { stop: Some(stop), thread }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn show_bar(progress: &CopyProgress, stopped: &Receiver<()>) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let spinner = ProgressStyle::with_template("{spinner} {wide_msg}");
    // fits into 80 columns; what does not is cut off at the message's end
    let template = "{bar:16} {bytes}/{total_bytes} {bytes_per_sec} {eta} left, {wide_msg}";
    let (Ok(spinner), Ok(style)) = (spinner, ProgressStyle::with_template(template)) else { return };
    bar.set_style(spinner);
    *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
    let mut counting = false;
    while stopped.recv_timeout(BAR_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let now = progress.snapshot();
        if now.total > 0 && !counting {
            bar.set_style(style.clone());
            bar.reset_elapsed();
            bar.reset_eta();
            counting = true;
        }
        if counting {
            bar.set_length(now.total);
            bar.set_position(now.done);
        }
        bar.set_message(match now.wal_lsn.is_valid() {
            true => format!("WAL {}, {}", now.wal_lsn, now.phase),
            false => now.phase.to_owned(),
        });
        bar.tick();
    }
    *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
    bar.finish_and_clear();
}

/// The bar that is on the terminal, for whoever else writes there.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Standard error for lines of a log: a bar that is shown there makes room for each.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogWriter;

impl std::io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let bar = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(|| std::io::stderr().write(line)),
            None => std::io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn show_lines(progress: &CopyProgress, stopped: &Receiver<()>) {
    let (mut last, mut last_at) = (progress.snapshot(), Instant::now());
    while stopped.recv_timeout(LINE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let now = progress.snapshot();
        let line = describe(&now, &last, last_at.elapsed());
        // a closed standard error is no reason to stop the work
        let _ = writeln!(std::io::stderr(), "{line}");
        (last, last_at) = (now, Instant::now());
    }
}

fn describe(now: &Snapshot, last: &Snapshot, elapsed: Duration) -> String {
    if now.total == 0 {
        return now.phase.to_owned();
    }
    let rate = (now.done.saturating_sub(last.done) as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    let percent = now.done.saturating_mul(100) / now.total.max(1);
    let mut line = format!("{}: {}/{} ({percent}%)", now.phase, HumanBytes(now.done), HumanBytes(now.total));
    if let Some(seconds) = (now.total - now.done).checked_div(rate) {
        let left = Duration::from_secs(seconds);
        line.push_str(&format!(", {}/s, {} left", HumanBytes(rate), HumanDuration(left)));
    }
    if now.wal_lsn.is_valid() {
        line.push_str(&format!(", WAL at {}", now.wal_lsn));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let progress = CopyProgress::default();
        progress.set_phase("copying");
        assert_eq!(describe(&progress.snapshot(), &progress.snapshot(), Duration::from_secs(5)), "copying");
        progress.set_total(1 << 30);
        let last = progress.snapshot();
        progress.set_done(256 << 20);
        progress.set_wal_lsn(Lsn::new(0x300_0000));
        let line = describe(&progress.snapshot(), &last, Duration::from_secs(4));
        assert_eq!(
            line,
            "copying: 256.00 MiB/1.00 GiB (25%), 64.00 MiB/s, 12 seconds left, WAL at 0/3000000"
        );
    }

    #[test]
    fn the_total_grows_with_what_was_received() {
        let progress = CopyProgress::default();
        progress.set_total(10);
        progress.set_done(20);
        assert_eq!(progress.snapshot().total, 20);
    }
}
