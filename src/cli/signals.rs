//! The signals that ask a program to end, as a future.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// All of them, listened for from the moment this is made.
///
/// A terminal that goes away (a lost ssh session, most often) sends SIGHUP: the run has to be taken back then too. Who
/// starts a program under `nohup`, or from a script in the background, has had SIGHUP or SIGQUIT ignored: they stay so.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    quit: Option<Signal>,
    /// SIGHUP where it does not mean that a terminal went away.
    reload: Option<Signal>,
}

impl Signals {
    /// Begins to listen; from now on none of them ends the process by itself.
    pub(super) fn listen() -> io::Result<Self> {
        let ignored = ignored_signals();
        let unless_ignored = |kind: SignalKind| match ignored & mask(kind) {
            0 => signal(kind).map(Some),
            _ => Ok(None),
        };
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: unless_ignored(SignalKind::hangup())?,
            quit: unless_ignored(SignalKind::quit())?,
            reload: None,
        })
    }

    /// The same for a program that runs for as long as it can. Without a terminal nobody's terminal can have gone away: SIGHUP
    /// is then what a service manager or a script for log files sends to whoever may have something to open anew, and is
    /// no reason to end.
    pub(super) fn listen_as_service() -> io::Result<Self> {
        let mut signals = Signals::listen()?;
        if !has_terminal() {
            signals.reload = signals.hangup.take();
        }
        Ok(signals)
    }

    /// Waits for any, and says which.
    pub(super) async fn received(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                () = next(&mut self.hangup) => return "SIGHUP",
                () = next(&mut self.quit) => return "SIGQUIT",
                () = next(&mut self.reload) => {
                    tracing::info!("received SIGHUP, and go on: nothing is read or opened anew before the next start");
                }
            }
        }
    }
}

/// Whether the process has a controlling terminal, wherever its standard streams lead.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The signals that this process ignores, a bit for each; none where the system does not tell.
fn ignored_signals() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| parse_ignored(&status))
}

fn parse_ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn mask(kind: SignalKind) -> u64 {
    1 << (kind.as_raw_value() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let ignored = parse_ignored("Name:\tpgwake\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001005\n");
        assert_eq!(ignored & mask(SignalKind::hangup()), 1);
        assert_eq!(ignored & mask(SignalKind::quit()), 4);
        assert_eq!(ignored & mask(SignalKind::terminate()), 0);
        assert_eq!(parse_ignored("nothing of the kind"), 0);
    }
}
