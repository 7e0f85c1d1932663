//! What is compared, and under what circumstances.

use std::fmt;
use std::time::Duration;

use crate::pgbench::Script;
use crate::side_by_side::setting;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Receiver {
    Nobody,
    Original,
    Standby,
    Pgwake,
}

/// What the receiver's disk is like. The primary's is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disk {
    /// As it is.
    Itself,
    /// As it is, and strace looks on as it does where the disk is slow: what that costs is not the slow disk's.
    Watched,
    /// Every fsync and fdatasync takes [`SLOW_SYNC`] longer.
    Slow,
}

pub(crate) const SLOW_SYNC: Duration = Duration::from_millis(5);

/// Who is waited for, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Contender {
    pub(crate) receiver: Receiver,
    /// `synchronous_commit`.
    pub(crate) level: &'static str,
    pub(crate) disk: Disk,
}

/// The circumstances: `PGWAKE_BENCH_SCRIPT` (`insert`, or pgbench's own: `tpcb`), `PGWAKE_BENCH_DELAY_MS` (one way, on the link
/// between primary and receiver), `PGWAKE_BENCH_SLOW` (1: with a slow disk). Less of it: `PGWAKE_BENCH_CLIENTS` (one number
/// of them), `PGWAKE_BENCH_ONLY` (values of `synchronous_commit`, with commas between).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Situation {
    pub(crate) script: Script,
    pub(crate) delay: Duration,
    pub(crate) slow: bool,
}

impl Situation {
    pub(crate) fn from_environment() -> Self {
        let script = std::env::var("PGWAKE_BENCH_SCRIPT").unwrap_or_else(|_| "insert".into());
        Situation {
            script: Script::parse(&script).expect("PGWAKE_BENCH_SCRIPT is insert or tpcb"),
            delay: Duration::from_millis(setting("PGWAKE_BENCH_DELAY_MS", 0) as u64),
            slow: setting("PGWAKE_BENCH_SLOW", 0) > 0,
        }
    }

    pub(crate) fn clients(self) -> &'static [usize] {
        match setting("PGWAKE_BENCH_CLIENTS", 0) {
            1 => &[1],
            8 => &[8],
            32 => &[32],
            64 => &[64],
            _ if self.slow => &[1, 8, 32],
            _ => &[1, 8, 32, 64],
        }
    }

    pub(crate) fn contenders(self) -> Vec<Contender> {
        use Disk::{Itself, Slow, Watched};
        use Receiver::{Nobody, Original, Pgwake, Standby};
        let contender = |(receiver, level, disk)| Contender { receiver, level, disk };
        let on_the_disk_itself = [
            (Nobody, "local", Itself),
            (Original, "on", Itself),
            (Standby, "on", Itself),
            (Pgwake, "on", Itself),
            (Standby, "remote_write", Itself),
            (Pgwake, "remote_write", Itself),
        ];
        let on_a_slow_disk = [
            (Nobody, "local", Itself),
            (Original, "on", Slow),
            (Pgwake, "on", Slow),
            (Original, "remote_write", Watched),
            (Original, "remote_write", Slow),
            (Pgwake, "remote_write", Watched),
            (Pgwake, "remote_write", Slow),
        ];
        let all: Vec<_> = if self.slow {
            on_a_slow_disk.map(contender).into()
        } else {
            on_the_disk_itself.map(contender).into()
        };
        match std::env::var("PGWAKE_BENCH_ONLY") {
            Ok(wanted) => {
                all.into_iter().filter(|one| wanted.split(',').any(|word| word == one.level)).collect()
            }
            Err(_) => all,
        }
    }

    /// As it is called in the results.
    pub(crate) fn name(self) -> String {
        let script = self.script.name();
        match (self.slow, self.delay) {
            (true, _) => format!("{script}, slow disk"),
            (false, Duration::ZERO) => script.to_owned(),
            (false, delay) => format!("{script}, link of {} ms", delay.as_millis()),
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (script, circumstance) = name.split_once(", ").map_or((name, None), |(s, c)| (s, Some(c)));
        let script = Script::parse(script)?;
        let (delay, slow) = match circumstance {
            None => (0, false),
            Some("slow disk") => (0, true),
            Some(link) => (link.strip_prefix("link of ")?.strip_suffix(" ms")?.parse().ok()?, false),
        };
        Some(Situation { script, delay: Duration::from_millis(delay), slow })
    }

    /// As a person is told.
    pub(crate) fn title(self) -> String {
        let script = self.script.title();
        match (self.slow, self.delay) {
            (true, _) => format!("{script}; every durable write of the receiver takes 5 ms longer"),
            (false, Duration::ZERO) => script.to_owned(),
            (false, delay) => format!("{script}; over a link that delays {} ms each way", delay.as_millis()),
        }
    }
}

impl Contender {
    /// Without what it is waited for.
    pub(crate) fn name(self) -> String {
        let name = match self.receiver {
            Receiver::Nobody => "nobody",
            Receiver::Original => "pg_receivewal",
            Receiver::Standby => "standby",
            Receiver::Pgwake => "pgwake",
        };
        match self.disk {
            Disk::Itself => name.to_owned(),
            Disk::Watched => format!("{name} watched"),
            Disk::Slow => format!("{name} slow"),
        }
    }

    pub(crate) fn parse(name: &str, level: &str) -> Option<Self> {
        let situations =
            [true, false].map(|slow| Situation { script: Script::Insert, delay: Duration::ZERO, slow });
        let mut all = situations.into_iter().flat_map(Situation::contenders);
        all.find(|contender| contender.name() == name && contender.level == level)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.receiver {
            Receiver::Nobody => return f.write_str("nobody (`local`)"),
            Receiver::Original => "`pg_receivewal --synchronous`",
            Receiver::Standby => "standby",
            Receiver::Pgwake => "`pgwake receive`",
        };
        let disk = match self.disk {
            Disk::Itself => "",
            Disk::Watched => ", the disk as it is",
            Disk::Slow => ", slow disk",
        };
        write!(f, "{name}, `{}`{disk}", self.level)
    }
}
