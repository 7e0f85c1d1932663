//! What a service manager hears of a receiver: systemd's `sd_notify(3)`, for units of `Type=notify`.
//!
//! Ready is a receiver that has begun to look after its connection, not one that has it: a primary that is away must not
//! make the unit fail to start. The watchdog is told by the task that receives, so that it hears of a task that hangs.

use std::convert::Infallible;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::pg::Lsn;
use crate::stream::Progress;

/// How often the status line may change.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Everything is set up.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("connecting")]);
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("making durable what was received")]);
}

/// Nothing fits on the disk.
pub(super) fn out_of_room() {
    tell(&[NotifyState::Status("no room on the disk: waiting for some")]);
}

/// Tells how far it has got, and that it is alive, for as long as this is polled.
pub(super) async fn keep_telling(mut progress: watch::Receiver<Progress>) -> Infallible {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return std::future::pending().await;
    }
    let watchdog = sd_notify::watchdog_enabled();
    let interval = watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 3).min(STATUS_INTERVAL));
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        if progress.has_changed().unwrap_or(false) {
            let status = status(*progress.borrow_and_update());
            tell(&[NotifyState::Status(&status)]);
        }
    }
}

fn status(progress: Progress) -> String {
    let Some(timeline) = progress.timeline else { return "connecting".to_owned() };
    let Progress { received_lsn, flush_lsn, server_wal_end_lsn, .. } = progress;
    let durable = if flush_lsn == Lsn::INVALID { "nothing yet".to_owned() } else { flush_lsn.to_string() };
    let behind = super::human::bytes(server_wal_end_lsn.saturating_since(received_lsn));
    format!("timeline {timeline}: received {received_lsn}, durable {durable}, {behind} behind")
}

fn tell(states: &[NotifyState<'_>]) {
    // whoever started us may not listen any more
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "service manager could not be told");
    }
}
