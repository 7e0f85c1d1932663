//! Settings: what a receiver cannot do without, and what it would miss one day.

use super::finding::{Finding, Fix, Level, Needs, Place, shown};
use super::{Job, Seen, Trial};
use crate::inspect::settings::{Bound, Origin};
use crate::inspect::slot_risk::span;
use crate::inspect::wal_rate::Rate;
use crate::observe::human;

pub(super) fn findings(seen: &Seen, job: Job) -> Vec<Finding> {
    let found = [
        wal_level(seen),
        max_wal_senders(seen, job),
        max_replication_slots(seen),
        wal_keep_size(seen),
        max_slot_wal_keep_size(seen),
        idle_replication_slot_timeout(seen),
        hot_standby(seen, job),
        full_page_writes(seen),
        data_checksums(seen),
        summarize_wal(seen),
        Some(wal_rate(seen)),
    ];
    let mut found: Vec<Finding> = found.into_iter().flatten().collect();
    for finding in found.iter_mut().filter(|finding| finding.level != Level::Ok) {
        let Some(setting) = seen.settings.get(finding.check) else { continue };
        if setting.pending_restart {
            finding
                .why
                .push_str(" The configuration holds another value already, which waits for a restart.");
        }
        if setting.origin == Origin::CommandLine && !finding.fixes.is_empty() {
            finding.why.push_str(
                " It is given on the server's command line (as Patroni does), so it has to be changed there.",
            );
        }
    }
    found
}

fn wal_level(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "wal_level";
    let level = seen.settings.text(CHECK)?;
    if matches!(level, "replica" | "logical") {
        return Some(Finding::ok(CHECK, level));
    }
    let why = "WAL of this level is enough for a crash, not for a standby or an archive.";
    let fix = Fix::set(&seen.settings, CHECK, "replica", Needs::Restart);
    Some(Finding::new(CHECK, Level::Problem, shown(level), why).mended_by(fix))
}

fn max_wal_senders(seen: &Seen, job: Job) -> Option<Finding> {
    const CHECK: &str = "max_wal_senders";
    let max = seen.settings.number(CHECK)?;
    let needed = job.connections();
    let raise = |used: u64| {
        let enough = used.max(max).saturating_add(needed + 2).max(10);
        let fix = Fix::set(&seen.settings, CHECK, &enough.to_string(), Needs::Restart);
        // a hot standby with a lower value than its primary stops
        if used == 0 { fix } else { fix.left_to_operator() }
    };
    let full = matches!(&seen.trial, Trial::Refused(refusal) if refusal.kind == super::RefusalKind::Full);
    let used = match &seen.walsenders {
        _ if max == 0 => {
            let why = "No replication connection is possible at all.";
            return Some(Finding::new(CHECK, Level::Problem, "0", why).mended_by(raise(0)));
        }
        Some(walsenders) => walsenders.len() as u64,
        None => {
            let why = format!("How many of them are in use cannot be seen; {} needs {needed}.", job.fed());
            return Some(Finding::new(CHECK, Level::Unknown, max.to_string(), why));
        }
    };
    let free = if full { 0 } else { max.saturating_sub(used) };
    let found = format!("{max}, {free} of them free");
    let needs = format!(
        "{} needs {needed} at once, and one more while a lost connection lingers on.",
        capitalized(job.fed())
    );
    Some(match free {
        _ if free > needed => Finding::ok(CHECK, found),
        _ if free == needed => Finding::new(CHECK, Level::Warning, found, needs).mended_by(raise(used)),
        _ => Finding::new(CHECK, Level::Problem, found, needs).mended_by(raise(used)),
    })
}

fn max_replication_slots(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "max_replication_slots";
    let max = seen.settings.number(CHECK)?;
    let why = "Without a slot, WAL is removed that a receiver has not fetched yet.";
    let Some(slots) = &seen.slots else {
        let unknown = format!("How many of them are in use cannot be seen. {why}");
        return Some(Finding::new(CHECK, Level::Unknown, max.to_string(), unknown));
    };
    let used = slots.len() as u64;
    let found = format!("{max}, {} of them free", max.saturating_sub(used));
    if used < max {
        return Some(Finding::ok(CHECK, found));
    }
    let enough = (used + 2).max(10).to_string();
    let fix = Fix::set(&seen.settings, CHECK, &enough, Needs::Restart);
    Some(Finding::new(CHECK, Level::Problem, found, why).mended_by(fix))
}

fn wal_keep_size(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "wal_keep_size";
    let Some(Bound::Bytes(len)) = seen.settings.size(CHECK) else { return None };
    if len == 0 {
        let why = "A receiver without a slot loses its place with the next checkpoints while it is away.";
        return Some(Finding::ok(CHECK, "0: only slots keep WAL for whoever is away").because(why));
    }
    let time = match span(len as f64, seen.wal_rate.expected()) {
        Some(time) => format!(", {} at the present rate", human::duration(time)),
        None => String::new(),
    };
    Some(Finding::ok(CHECK, format!("{}{time}, without a slot", human::bytes(len))))
}

/// A standby that is away for so long has often only been restarted, in seconds.
const SHORT_ABSENCE: u64 = 10 * 60;

fn max_slot_wal_keep_size(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "max_slot_wal_keep_size";
    match seen.settings.size(CHECK)? {
        Bound::Unlimited => {
            let why = "A slot that nobody fetches from fills the disk in the end, and the server stops. \
                       How much room there is cannot be seen in SQL.";
            let found = "no limit";
            let idle = |slots: &Vec<_>| slots.iter().any(super::slots::is_forgotten);
            if !seen.slots.as_ref().is_some_and(idle) {
                return Some(Finding::ok(CHECK, found).because(why));
            }
            let fix = Fix::set(&seen.settings, CHECK, "100GB", Needs::Reload).left_to_operator();
            let why = format!("{why} Choose what the disk has room for.");
            Some(Finding::new(CHECK, Level::Warning, found, why).mended_by(fix))
        }
        Bound::Bytes(len) => {
            let Some(time) = span(len as f64, seen.wal_rate.expected()) else {
                return Some(Finding::ok(CHECK, human::bytes(len)));
            };
            let found = format!("{}, {} at the present rate", human::bytes(len), human::duration(time));
            if time.as_secs() >= SHORT_ABSENCE {
                return Some(Finding::ok(CHECK, found));
            }
            let why =
                "A standby or receiver that is away for longer loses its place, and has to be made anew.";
            let hour = seen.wal_rate.expected().unwrap_or(0.0) * 3600.0;
            let enough = format!("{}MB", (hour / f64::from(1 << 20)).ceil().max(1.0));
            let fix = Fix::set(&seen.settings, CHECK, &enough, Needs::Reload).left_to_operator();
            Some(Finding::new(CHECK, Level::Warning, found, why).mended_by(fix))
        }
    }
}

fn idle_replication_slot_timeout(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "idle_replication_slot_timeout";
    let timeout = seen.settings.time(CHECK)?;
    if timeout.is_zero() {
        return Some(Finding::ok(CHECK, "off: no slot is given up for idleness"));
    }
    let found = human::duration(timeout);
    if timeout.as_secs() >= SHORT_ABSENCE {
        let why = "A slot that nobody uses for so long is given up at the next checkpoint.";
        return Some(Finding::ok(CHECK, found).because(why));
    }
    let why =
        "A standby or receiver that is away for longer finds its slot invalidated, and has to be made anew.";
    let fix = Fix::set(&seen.settings, CHECK, "1d", Needs::Reload);
    Some(Finding::new(CHECK, Level::Warning, found, why).mended_by(fix))
}

fn hot_standby(seen: &Seen, job: Job) -> Option<Finding> {
    const CHECK: &str = "hot_standby";
    if seen.settings.is_on(CHECK)? || job != Job::Standby {
        return Some(Finding::ok(CHECK, shown(seen.settings.text(CHECK)?)));
    }
    let why = "A standby takes its settings from here: it will follow, but answer no query.";
    let fix = Fix::set(&seen.settings, CHECK, "on", Needs::Restart);
    Some(Finding::new(CHECK, Level::Warning, "off", why).mended_by(fix))
}

fn full_page_writes(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "full_page_writes";
    if seen.settings.is_on(CHECK)? {
        return Some(Finding::ok(CHECK, "on"));
    }
    let why = "A crash can tear a page so that no WAL mends it, here and on a standby; a standby cannot be copied, nor \
               pg_rewind used.";
    let fix = Fix::set(&seen.settings, CHECK, "on", Needs::Reload);
    Some(Finding::new(CHECK, Level::Warning, "off", why).mended_by(fix))
}

fn data_checksums(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "data_checksums";
    let text = seen.settings.text(CHECK)?;
    if text != "off" {
        return Some(Finding::ok(CHECK, shown(text)));
    }
    let mut why = "A page that the disk has damaged is copied to the standby, and nobody notices.".to_owned();
    if seen.settings.is_on("wal_log_hints") == Some(false) {
        why.push_str(" Nor can pg_rewind make a standby of this server after a failover.");
    }
    let fix = if seen.version.has_online_checksums() {
        Fix::sql("SELECT pg_enable_data_checksums();").left_to_operator()
    } else {
        why.push_str(" They are turned on while the server is stopped, which reads and writes all of it.");
        Fix::new(Place::Shell, "pg_checksums --enable --progress -D DATA_DIRECTORY", Needs::Restart)
    };
    Some(Finding::new(CHECK, Level::Warning, "off", why).mended_by(fix))
}

fn summarize_wal(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "summarize_wal";
    if seen.settings.is_on(CHECK)? {
        return Some(Finding::ok(CHECK, "on"));
    }
    let why =
        "Only incremental backups need it; ALTER SYSTEM SET summarize_wal = 'on' and a reload turn it on.";
    Some(Finding::ok(CHECK, "off: no incremental backups").because(why))
}

fn wal_rate(seen: &Seen) -> Finding {
    const CHECK: &str = "WAL rate";
    let rate = |rate: Rate| format!("{}/s", human::bytes(rate.bytes_per_second as u64));
    let time = |rate: Rate| {
        std::time::Duration::try_from_secs_f64(rate.seconds)
            .map_or_else(|_| "a time".to_owned(), human::duration)
    };
    let moment = seen.wal_rate.moment.map(|moment| format!("{} within {}", rate(moment), time(moment)));
    let average = seen.wal_rate.average;
    let average = average.map(|average| format!("{} on average over {}", rate(average), time(average)));
    let found: Vec<String> = [moment, average].into_iter().flatten().collect();
    if found.is_empty() {
        let why = "Without SQL nobody says how fast WAL is written, so no time that is left can be told.";
        return Finding::new(CHECK, Level::Unknown, "not measured", why);
    }
    Finding::ok(CHECK, found.join("; "))
        .because("Times that are left are told at the greater of these rates.")
}

pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
