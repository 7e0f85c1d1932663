//! How long a process has kept a processor busy: this one, and the server's that serves a connection, where it can be seen.

use std::time::Duration;

use crate::client::Backend;

/// Why the time of the server's process cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenCpu {
    /// It runs on another host.
    OtherHost,
    /// The server did not say which process it is.
    NotTold,
    /// No process here is that one: the server may be in a container, or behind something that passes connections on.
    NotSeen,
}

/// The time of one process, asked for again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessClock {
    process: String,
    started: u64,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    /// In user mode and in the kernel, in clock ticks.
    busy: u64,
    /// In clock ticks since the system's start.
    started: u64,
}

impl ProcessClock {
    /// Of this process.
    pub(super) fn own() -> Option<Self> {
        let process = "self".to_owned();
        let started = read_stat(&process)?.started;
        Some(ProcessClock { process, started })
    }

    /// Of the process that serves a connection: one that has this number here, calls itself a walsender, and began after
    /// this process did.
    pub(super) fn of_backend(backend: Backend) -> Result<Self, HiddenCpu> {
        let process = match backend {
            Backend::Here { process_id } => process_id.to_string(),
            Backend::Elsewhere => return Err(HiddenCpu::OtherHost),
            Backend::Unknown => return Err(HiddenCpu::NotTold),
        };
        let title = std::fs::read(format!("/proc/{process}/cmdline")).map_err(|_| HiddenCpu::NotSeen)?;
        let started = read_stat(&process).ok_or(HiddenCpu::NotSeen)?.started;
        let after_us = read_stat("self").is_some_and(|own| own.started <= started);
        if after_us && is_walsender(&title) {
            Ok(ProcessClock { process, started })
        } else {
            Err(HiddenCpu::NotSeen)
        }
    }

    /// How long it was busy, to a hundredth of a second; `None` once it is gone.
    pub(super) fn busy(&self) -> Option<Duration> {
        let stat = read_stat(&self.process).filter(|stat| stat.started == self.started)?;
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        Some(Duration::from_secs_f64(stat.busy as f64 / ticks_per_second as f64))
    }
}

/// Whether a process calls itself one, as PostgreSQL lets it whatever `update_process_title` says.
fn is_walsender(title: &[u8]) -> bool {
    const PREFIX: &[u8] = b"postgres: ";
    const TYPE: &[u8] = b"walsender ";
    title.starts_with(PREFIX) && title.windows(TYPE.len()).any(|window| window == TYPE)
}

fn read_stat(process: &str) -> Option<Stat> {
    parse_stat(&std::fs::read(format!("/proc/{process}/stat")).ok()?)
}

/// The process's name is in parentheses, may hold anything, and is the last thing that does.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat { busy: number(11)?.checked_add(number(12)?)?, started: number(19)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = b"4321 (a) R (\xFF b) S 1 4321 4321 0 -1 4194624 100 0 0 0 250 50 9 9 20 0 1 0 777 1 2 3";
        assert_eq!(parse_stat(stat), Some(Stat { busy: 300, started: 777 }));
        for text in [&b""[..], b"1 (x", b"1 (x) S 1", b"1 (x) S 1 1 1 0 -1 1 1 0 0 0 -5 5 9 9 20 0 1 0 7"] {
            assert_eq!(parse_stat(text), None);
        }
    }

    #[test]
    fn a_walsender_is_known_by_its_title() {
        assert!(is_walsender(b"postgres: walsender rep [local] idle\0\0"));
        assert!(is_walsender(b"postgres: main: walsender rep 10.0.0.1(4711) streaming 0/3000000"));
        for title in
            [&b""[..], b"postgres: rep db [local] idle", b"grep\0postgres: walsender ", b"postgres: w"]
        {
            assert!(!is_walsender(title));
        }
    }

    #[test]
    fn this_process_is_seen_and_is_no_walsender() {
        assert!(ProcessClock::own().unwrap().busy().is_some());
        let hidden = |backend| ProcessClock::of_backend(backend).unwrap_err();
        assert_eq!(hidden(Backend::Here { process_id: std::process::id() }), HiddenCpu::NotSeen);
        assert_eq!(hidden(Backend::Here { process_id: u32::MAX }), HiddenCpu::NotSeen);
        assert_eq!(hidden(Backend::Elsewhere), HiddenCpu::OtherHost);
        assert_eq!(hidden(Backend::Unknown), HiddenCpu::NotTold);
    }
}
