//! A sink beside which an [`Uploader`](super::Uploader) archives what it has made durable.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::stats::Stats;
use super::{FedStream, Feed, Told};
use crate::pg::{Lsn, TimelineId, WalSegmentSize};
use crate::sink::{ArchivedLsn, ClusterStamp, DiskEntry, Sink, SinkCommand, SinkError, SinkEvent};

/// Passes everything on to the sink within, tells the archiving thread what is durable, and the driver what is archived.
#[derive(Debug)]
pub struct ArchivingSink<K> {
    inner: K,
    feed: Arc<watch::Sender<Feed>>,
    told: watch::Receiver<Told>,
    teller: Arc<watch::Sender<Told>>,
    room: Room,
}

/// How much may wait for the archive.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) stats: Arc<Stats>,
    pub(super) limit: Option<u64>,
}

impl<K> ArchivingSink<K> {
    pub(super) fn new(
        inner: K,
        feed: Arc<watch::Sender<Feed>>,
        told: watch::Receiver<Told>,
        teller: Arc<watch::Sender<Told>>,
        room: Room,
    ) -> Self {
        ArchivingSink { inner, feed, told, teller, room }
    }

    fn archived(&mut self) -> Option<Result<SinkEvent, SinkError>> {
        let (archived, failed) = {
            let told = self.told.borrow_and_update();
            (told.archived, told.error.is_some())
        };
        if failed {
            let mut error = None;
            self.teller.send_if_modified(|told| {
                error = told.error.take();
                false
            });
            let error = error?;
            return Some(Err(SinkError::Archive { class: error.class(), source: Box::new(error) }));
        }
        let archived = archived?;
        Some(Ok(SinkEvent::Archived(ArchivedLsn { timeline: archived.timeline, lsn: archived.lsn })))
    }
}

impl<K: Sink> Sink for ArchivingSink<K> {
    fn push(&mut self, command: SinkCommand) {
        self.inner.push(command);
    }

    fn has_room(&self) -> bool {
        // when more is archived that is told, and this is asked again
        let may_wait = self.room.limit.is_none_or(|limit| self.room.stats.behind_len() < limit);
        may_wait && self.inner.has_room()
    }

    fn flushes_here(&self) -> bool {
        self.inner.flushes_here()
    }

    fn written_lsn(&mut self) -> Lsn {
        self.inner.written_lsn()
    }

    async fn event(&mut self) -> Result<SinkEvent, SinkError> {
        loop {
            tokio::select! {
                biased;
                event = self.inner.event() => {
                    let event = event?;
                    if let SinkEvent::Flushed(flushed) = event {
                        self.feed.send_modify(|feed| {
                            feed.flushed(flushed.timeline(), flushed.lsn());
                            self.room.stats.flushed(feed.flushed_len);
                        });
                    }
                    return Ok(event);
                }
                changed = self.told.changed() => {
                    if changed.is_err() {
                        // the thread is gone with this sink's own half left: nothing more is told
                        return self.inner.event().await;
                    }
                    if let Some(event) = self.archived() {
                        return event;
                    }
                }
            }
        }
    }

    async fn prepare(&mut self, stamp: ClusterStamp) -> Result<Vec<DiskEntry>, SinkError> {
        let entries = self.inner.prepare(stamp).await?;
        self.feed.send_modify(|feed| feed.stamp = Some(stamp));
        Ok(entries)
    }

    async fn begin(
        &mut self,
        timeline: TimelineId,
        segment_size: WalSegmentSize,
        start_lsn: Lsn,
    ) -> Result<(), SinkError> {
        self.inner.begin(timeline, segment_size, start_lsn).await?;
        self.feed.send_modify(|feed| feed.begin(timeline, start_lsn));
        // a new stream has not heard of it
        self.told.mark_changed();
        Ok(())
    }

    async fn write_history(&mut self, timeline: TimelineId, content: Bytes) -> Result<(), SinkError> {
        self.inner.write_history(timeline, content).await
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.inner.settle().await
    }
}

impl Feed {
    pub(super) fn begin(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        self.started_lsn = start_lsn;
        if self.streams.last().is_none_or(|last| last.timeline != timeline) {
            self.streams.push(FedStream { timeline, flushed_lsn: Lsn::INVALID });
        }
    }

    pub(super) fn flushed(&mut self, timeline: TimelineId, lsn: Lsn) {
        if let Some(last) = self.streams.last_mut().filter(|last| last.timeline == timeline) {
            // a stream that resumes begins with what was flushed before
            let known_lsn = last.flushed_lsn.max(self.started_lsn);
            last.flushed_lsn = last.flushed_lsn.max(lsn);
            self.flushed_len += last.flushed_lsn.as_u64().saturating_sub(known_lsn.as_u64());
        }
    }
}
