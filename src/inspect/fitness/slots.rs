//! Slots: who of them is lost, who soon, and who fills the disk.

use super::finding::{Finding, Fix, Level, shown};
use super::seen::Seen;
use crate::inspect::slot_risk::{TimeLeft, span, time_left};
use crate::inspect::slots::{ReplicationSlot, WalStatus};
use crate::observe::human;

/// More slots than this are counted only: no server has so many.
const MAX_SLOTS: usize = 1000;

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let Some(slots) = &seen.slots else { return Vec::new() };
    slots.iter().take(MAX_SLOTS).map(|slot| finding(seen, slot)).collect()
}

/// Whether it holds WAL that nobody fetches.
pub(super) fn is_forgotten(slot: &ReplicationSlot) -> bool {
    !slot.active && !slot.temporary && slot.held_bytes.is_some() && !slot.is_lost()
}

fn finding(seen: &Seen, slot: &ReplicationSlot) -> Finding {
    let (level, why) = judge(seen, slot);
    let mut finding = Finding::new("slot", level, found(slot), why);
    finding.object = Some(shown(&slot.name));
    let Some(name) = slot.slot_name().filter(|_| level == Level::Warning && !slot.active) else {
        return finding;
    };
    let drop = Fix::sql(format!("SELECT pg_drop_replication_slot('{name}');"));
    // whose it was, and whether somebody still looks for it, only the operator knows
    finding.mended_by(drop.left_to_operator())
}

fn found(slot: &ReplicationSlot) -> String {
    let mut words = vec![match (slot.active, slot.idle_time()) {
        (true, _) => "in use".to_owned(),
        (false, Some(time)) => format!("unused for {}", human::duration(time)),
        (false, None) => "unused".to_owned(),
    }];
    words.extend(slot.held_bytes.map(|len| format!("holds {}", human::bytes(len))));
    words.extend(slot.wal_status.map(|status| status.as_str().to_owned()));
    words.extend(slot.invalidation_reason.as_ref().map(|reason| format!("invalidated: {}", shown(reason))));
    if let Some(safe) = slot.safe_wal_size.filter(|_| !slot.is_lost()) {
        words.push(format!("{} more are safe", human::bytes(u64::try_from(safe).unwrap_or(0))));
    }
    words.join(", ")
}

/// Less than this is soon, in seconds.
const SOON: u64 = 3600;

fn judge(seen: &Seen, slot: &ReplicationSlot) -> (Level, String) {
    let rate = seen.wal_rate.expected();
    if slot.is_lost() {
        let why = "WAL that its owner needs has been removed: a standby or receiver that has it has to be made anew, \
                   with another slot or after this one was dropped.";
        return (Level::Warning, why.to_owned());
    }
    if slot.wal_status == Some(WalStatus::Unreserved) {
        let why =
            "It holds more than it may, and is lost with the next checkpoint unless its owner catches up.";
        return (Level::Warning, why.to_owned());
    }
    if slot.held_bytes.is_none() {
        let why = if slot.active { "" } else { "It was never used, and holds nothing." };
        return (Level::Ok, why.to_owned());
    }
    let left = time_left(slot, &seen.settings, rate);
    let (soon, end) = match left {
        TimeLeft::UntilLost(time) => {
            let end = format!(
                "At the present rate it is lost in {}, unless its WAL is fetched.",
                human::duration(time)
            );
            (time.as_secs() < SOON, end)
        }
        TimeLeft::UntilIdle(time) => {
            let end = format!("It is given up for idleness in {}, with a checkpoint.", human::duration(time));
            (time.as_secs() < SOON, end)
        }
        TimeLeft::AtRest => (false, "It has a limit, and at present no WAL is written.".to_owned()),
        TimeLeft::UntilDiskFull => (false, until_disk_full(rate)),
    };
    match slot.active {
        true if !soon => (Level::Ok, end),
        true => (Level::Warning, end),
        false if slot.temporary => (Level::Ok, end),
        false => (Level::Warning, format!("Nobody fetches what it holds back. {end}")),
    }
}

fn until_disk_full(rate: Option<f64>) -> String {
    const GIB: f64 = (1u64 << 30) as f64;
    let limit = "Nothing limits it but the disk, and how much room is there cannot be seen in SQL";
    match span(GIB, rate) {
        Some(time) => format!("{limit}: at the present rate a GiB is filled in {}.", human::duration(time)),
        None => format!("{limit}."),
    }
}
