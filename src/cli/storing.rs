//! Receiving into a directory whose disk may be full for a while, or slow.
//!
//! A sink that could not write is poisoned, and stays so. What is done here is what an operator would do by hand: wait
//! until there is room, and start again from what the disk holds. As long as that takes nobody acknowledges anything, and
//! the slot keeps on the server what was not stored.

use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::metering::Meter;
use super::{human, report, service};
use crate::archive::Uploader;
use crate::compression::Compression;
use crate::handover::Handover;
use crate::pg::{Lsn, TimelineId};
use crate::sink::{FullDisk, Layout, RealDisk};
use crate::stream::{
    Backoff, Progress, ReceiveError, ReceiveOptions, ReceiveOutcome, Reconnect, ServerConnector, open_sink,
    receive_observed,
};

/// Where WAL goes, and how it gets there.
pub(super) struct Storing<'a> {
    pub(super) options: &'a ReceiveOptions,
    pub(super) directory: &'a Path,
    pub(super) compression: Compression,
    pub(super) archive: Option<&'a Uploader>,
    pub(super) meter: &'a Meter,
    pub(super) progress: &'a watch::Sender<Progress>,
    /// Where the thread that receives finds syncs to do.
    pub(super) handover: &'a Handover,
}

/// How long is waited at least between two attempts to store something; at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How often a full disk is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// When it is tried again although no room is seen: a quota may have been raised.
const BLIND_INTERVAL: Duration = Duration::from_secs(60);

/// How far WAL is durable. A position says nothing without its timeline: after a failover a lower one is further on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Durable {
    timeline: Option<TimelineId>,
    lsn: Lsn,
}

impl Durable {
    fn is_beyond(self, before: Durable) -> bool {
        self.lsn.is_valid() && (self.timeline, self.lsn) > (before.timeline, before.lsn)
    }
}

impl Storing<'_> {
    /// Receives until `shutdown` resolves, or what ends it is none that room heals.
    pub(super) async fn run(
        &self,
        connector: &mut ServerConnector,
        shutdown: impl Future<Output = ()>,
    ) -> Result<ReceiveOutcome, ReceiveError> {
        let (stop, stopped) = watch::channel(false);
        let told = async {
            shutdown.await;
            stop.send_replace(true);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            result = self.through_full_disks(connector, stopped) => result,
            never = told => match never {},
        }
    }

    async fn through_full_disks(
        &self,
        connector: &mut ServerConnector,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<ReceiveOutcome, ReceiveError> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT, self.options.seed);
        let (mut durable, mut told_at) = (Durable::default(), None);
        loop {
            let received = self.once(connector, stopped.clone()).await;
            let error = match received {
                Err(error) if error.is_out_of_room() && self.options.reconnect == Reconnect::Always => error,
                other => return other,
            };
            self.meter.count_error(error.class());
            let full = FullDisk::of(self.directory);
            durable = self.forget_what_was_not_stored(durable);
            if told_at.is_none_or(|told| durable.is_beyond(told)) {
                backoff.reset();
                tracing::warn!(
                    error = report::one_line(&error),
                    "no room for WAL: what comes is acknowledged only once there is some, and commits that wait for this \
                     receiver wait until then"
                );
                told_at = Some(durable);
            }
            service::out_of_room();
            let stop = async { drop(stopped.wait_for(|stop| *stop).await) };
            tokio::select! {
                biased;
                () = stop => return Ok(ReceiveOutcome { progress: *self.progress.borrow() }),
                () = room(&full, backoff.next_wait()) => {}
            }
        }
    }

    /// What was received and did not fit has to come again. An attempt that brought nothing takes nothing back of what is
    /// durable since one before; returns how far that goes.
    fn forget_what_was_not_stored(&self, before: Durable) -> Durable {
        let progress = *self.progress.borrow();
        let now = Durable { timeline: progress.timeline, lsn: progress.flush_lsn };
        let durable = if now.is_beyond(before) { now } else { before };
        self.progress.send_modify(|progress| {
            (progress.received_lsn, progress.flush_lsn) = (durable.lsn, durable.lsn);
            progress.timeline = durable.timeline;
        });
        durable
    }

    /// From what the directory holds, with a sink of its own, which takes the directory before anybody is connected to.
    async fn once(
        &self,
        connector: &mut ServerConnector,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<ReceiveOutcome, ReceiveError> {
        let disk = self.meter.disk(RealDisk::new(self.directory));
        let check = self.options.stream.record_check;
        let sink = open_sink(disk, Layout::Archive, check, self.compression)?;
        let mut sink = sink.with_handover(Some(self.handover.clone()));
        let mut observer = self.meter.observer();
        let stop = async { drop(stopped.wait_for(|stop| *stop).await) };
        let (options, progress) = (self.options, self.progress);
        let receiving = pin!(async {
            let Some(uploader) = self.archive else {
                return receive_observed(options, connector, &mut sink, progress, &mut *observer, stop).await;
            };
            let mut sink = uploader.beside(sink);
            receive_observed(options, connector, &mut sink, progress, &mut *observer, stop).await
        });
        tokio::select! {
            biased;
            received = receiving => received,
            never = raise_alarms(self.progress.subscribe()) => match never {},
        }
    }
}

/// Waits at least so long, and then until the disk has grown.
async fn room(full: &FullDisk, wait: Duration) {
    let blind = Instant::now() + BLIND_INTERVAL;
    tokio::time::sleep(wait).await;
    while Instant::now() < blind {
        if full.has_grown() {
            tracing::info!("the disk has room again; going on");
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Says in the log when what came is not durable for long, for as long as this is polled.
async fn raise_alarms(mut progress: watch::Receiver<Progress>) -> Infallible {
    let began = Instant::now();
    let mut stall = Stall::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = *progress.borrow_and_update();
        match stall.look(began.elapsed(), now.received_lsn, now.flush_lsn) {
            Some(Alarm::Stalled(since)) => tracing::warn!(
                received_lsn = %now.received_lsn,
                flush_lsn = %now.flush_lsn,
                "what was received is not durable for {}: the disk is slow, or hangs; commits that wait for it wait",
                human::duration(since)
            ),
            Some(Alarm::Over(took)) => {
                tracing::info!(flush_lsn = %now.flush_lsn, "the disk goes on, after {}", human::duration(took));
            }
            None => {}
        }
    }
}

/// How long WAL may wait for the disk before it is told, and how often it is told again.
const FIRST_ALARM: Duration = Duration::from_secs(5);
const ALARM_INTERVAL: Duration = Duration::from_secs(60);

/// Since when WAL waits for the disk.
#[derive(Debug, Default)]
struct Stall {
    received_lsn: Option<Lsn>,
    flush_lsn: Lsn,
    since: Option<Duration>,
    told: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
enum Alarm {
    /// For so long nothing has become durable.
    Stalled(Duration),
    /// It goes on; so long it took.
    Over(Duration),
}

impl Stall {
    /// A stream that begins has nothing durable and may have nothing to come: only what has come since counts.
    fn look(&mut self, now: Duration, received_lsn: Lsn, flush_lsn: Lsn) -> Option<Alarm> {
        let before = self.received_lsn.replace(received_lsn);
        let moved = std::mem::replace(&mut self.flush_lsn, flush_lsn) != flush_lsn;
        let is_durable = flush_lsn >= received_lsn || before.is_some_and(|before| received_lsn < before);
        if moved || is_durable {
            let since = self.since.take();
            if !is_durable {
                self.since = Some(now);
            }
            return self.told.take().and(since).map(|since| Alarm::Over(now.saturating_sub(since)));
        }
        if before.is_some_and(|before| received_lsn > before) {
            self.since.get_or_insert(now);
        }
        let waited = now.saturating_sub(self.since?);
        let due = self.told.map_or(FIRST_ALARM, |told| told + ALARM_INTERVAL);
        if waited < due {
            return None;
        }
        self.told = Some(waited);
        Some(Alarm::Stalled(waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told at each second, of what is received and durable then.
    fn told(seen: &[(u64, u64)]) -> Vec<(usize, Alarm)> {
        let mut stall = Stall::default();
        let look = |(second, &(received, flushed)): (usize, &(u64, u64))| {
            let now = Duration::from_secs(second as u64);
            Some((second, stall.look(now, Lsn::new(received), Lsn::new(flushed))?))
        };
        seen.iter().enumerate().filter_map(look).collect()
    }

    #[test]
    fn a_disk_that_hangs_is_told_of_once_a_minute_and_when_it_goes_on() {
        let seconds = Duration::from_secs;
        let mut seen = vec![(10, 10), (20, 10)];
        seen.extend([(30, 10); 70]);
        seen.extend([(40, 30), (40, 40), (40, 40)]);
        assert_eq!(
            told(&seen),
            [
                (6, Alarm::Stalled(seconds(5))),
                (66, Alarm::Stalled(seconds(65))),
                (72, Alarm::Over(seconds(71)))
            ]
        );
    }

    #[test]
    fn a_disk_that_moves_is_not_told_of_however_far_it_is_behind() {
        let behind: Vec<_> = (1..100).map(|second| (second * 100, second)).collect();
        assert_eq!(told(&behind), []);
    }

    #[test]
    fn a_stream_that_has_brought_nothing_waits_for_no_disk() {
        assert_eq!(told(&[(100, 0); 50]), []);
        // and one that begins again, at its segment's start, waits for none any more
        let mut seen = vec![(10, 10), (20, 10)];
        seen.extend([(16, 0); 50]);
        assert_eq!(told(&seen), []);
        // what comes then counts, though nothing was durable before
        seen.push((18, 0));
        seen.extend([(18, 0); 6]);
        assert_eq!(told(&seen), [(57, Alarm::Stalled(Duration::from_secs(5)))]);
    }

    #[test]
    fn after_a_failover_a_lower_position_is_further_on() {
        let at = |timeline, lsn| Durable { timeline: TimelineId::new(timeline), lsn: Lsn::new(lsn) };
        assert!(at(1, 10).is_beyond(Durable::default()));
        assert!(at(1, 11).is_beyond(at(1, 10)));
        assert!(!at(1, 10).is_beyond(at(1, 10)));
        assert!(at(2, 5).is_beyond(at(1, 10)));
        assert!(!at(2, 0).is_beyond(at(1, 10)), "nothing of the new timeline is durable");
    }
}
