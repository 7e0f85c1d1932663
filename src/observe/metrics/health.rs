//! Idle or stuck?
//!
//! A server that has nothing to send is no reason to worry; one that is not there for long, WAL that has come and does not
//! become durable, and WAL that the server has and does not send, are.

use std::time::Duration;

use super::Phase;
use super::snapshot::Snapshot;
use crate::observe::human;

/// How long what may pass by itself is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthLimits {
    /// Without a server, with WAL that is not durable, with WAL that does not come.
    pub stuck_after: Duration,
    /// How long a server may be silent before the receiver gives it up; zero: for ever.
    pub receive_timeout: Duration,
}

/// Whether a receiver does what it is there for, and a line that says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It receives, or would if there were something to receive.
    Well(String),
    /// Somebody should look.
    Ill(String),
}

/// How much later than a silent server is given up somebody else would notice: a receiver that does not even do that hangs.
const GRACE: Duration = Duration::from_secs(5);

pub(super) fn judge(snapshot: &Snapshot, limits: HealthLimits) -> Health {
    let long = |span: Option<Duration>| span.filter(|span| *span >= limits.stuck_after);
    match snapshot.phase {
        Phase::Failed => return Health::Ill("receiving has failed, and ends".to_owned()),
        Phase::Stopping if long(snapshot.unflushed).is_none() => return Health::Well("stopping".to_owned()),
        _ => {}
    }
    if let Some(span) = long(snapshot.unflushed) {
        return ill("WAL that has arrived is not durable since", span);
    }
    if let Some(span) = long(snapshot.archive.and_then(|archive| archive.oldest_age)) {
        return ill("WAL is durable here and not in the archive since", span);
    }
    if let Some(span) = long(snapshot.away) {
        return ill("no server has been streaming for", span);
    }
    if let Some(span) = snapshot.away {
        return Health::Well(format!("connecting for {}", human::duration(span)));
    }
    let silent = snapshot.silent.unwrap_or_default();
    let receive_lag = snapshot.receive_lag.unwrap_or(0);
    if receive_lag > 0 && long(Some(silent)).is_some() {
        return ill("the server has WAL that does not come, and has been silent for", silent);
    }
    // while it waits for the disk it does not listen
    let listens = snapshot.unflushed.is_none() && !limits.receive_timeout.is_zero();
    if listens && silent > limits.receive_timeout + GRACE {
        return ill("nothing was done about a server that has been silent for", silent);
    }
    match snapshot.flush_lag.unwrap_or(0) {
        0 => Health::Well(format!("idle, heard of the server {} ago", human::duration(silent))),
        lag => Health::Well(format!("streaming, {} not yet durable", human::bytes(lag))),
    }
}

fn ill(what: &str, span: Duration) -> Health {
    Health::Ill(format!("{what} {}", human::duration(span)))
}

#[cfg(test)]
mod tests {
    use super::super::ReceiverMetrics;
    use super::*;

    const LIMITS: HealthLimits =
        HealthLimits { stuck_after: Duration::from_secs(60), receive_timeout: Duration::from_secs(90) };

    fn told(change: impl FnOnce(&mut Snapshot)) -> (bool, String) {
        let mut snapshot = ReceiverMetrics::new(LIMITS).snapshot();
        snapshot.phase = Phase::Streaming;
        snapshot.away = None;
        snapshot.silent = Some(Duration::from_secs(1));
        change(&mut snapshot);
        match judge(&snapshot, LIMITS) {
            Health::Well(text) => (true, text),
            Health::Ill(text) => (false, text),
        }
    }

    fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn idle_is_told_from_stuck() {
        type Change = fn(&mut Snapshot);
        fn archive(now: &mut Snapshot, seconds: u64) {
            let oldest_age = secs(seconds);
            now.archive = Some(super::super::ArchiveReading { oldest_age, ..Default::default() });
        }
        let cases: [(Change, bool, &str); 15] = [
            (|now| archive(now, 59), true, "idle"),
            (|now| archive(now, 60), false, "WAL is durable here and not in the archive since"),
            (|_| {}, true, "idle"),
            (|now| now.flush_lag = Some(1 << 20), true, "streaming, 1.00 MiB not yet durable"),
            (|now| now.away = secs(59), true, "connecting for 59.0 s"),
            (|now| now.away = secs(60), false, "no server has been streaming for 1 min 0 s"),
            (|now| now.unflushed = secs(59), true, "idle"),
            (|now| now.unflushed = secs(60), false, "WAL that has arrived is not durable since"),
            (|now| now.silent = secs(61), true, "idle"),
            (
                |now| (now.silent, now.receive_lag) = (secs(61), Some(1)),
                false,
                "the server has WAL that does not come",
            ),
            (|now| now.silent = secs(96), false, "nothing was done about a server"),
            (|now| (now.silent, now.unflushed) = (secs(96), secs(1)), true, "idle"),
            (|now| now.phase = Phase::Failed, false, "receiving has failed"),
            (|now| (now.phase, now.away) = (Phase::Stopping, secs(99)), true, "stopping"),
            (|now| (now.phase, now.unflushed) = (Phase::Stopping, secs(99)), false, "WAL that has arrived"),
        ];
        for (number, (change, well, text)) in cases.into_iter().enumerate() {
            let told = told(change);
            assert!(told.0 == well && told.1.starts_with(text), "case {number}: {told:?}");
        }
    }

    #[test]
    fn a_server_that_may_be_silent_for_ever_is_only_missed_when_it_has_something() {
        let mut snapshot = ReceiverMetrics::new(LIMITS).snapshot();
        (snapshot.phase, snapshot.away) = (Phase::Streaming, None);
        snapshot.silent = secs(100_000);
        let limits = HealthLimits { receive_timeout: Duration::ZERO, ..LIMITS };
        assert!(matches!(judge(&snapshot, limits), Health::Well(_)));
        snapshot.receive_lag = Some(1);
        assert!(matches!(judge(&snapshot, limits), Health::Ill(_)));
    }
}
