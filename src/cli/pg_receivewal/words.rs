//! What happens, as the original tells it.

use std::time::Duration;

use tokio::sync::watch;

use crate::cli::pg_tool::Invocation;
use crate::cli::pg_tool::streaming::describe;
use crate::client::ClientError;
use crate::compression::CompressionMethod;
use crate::pg::{Lsn, TimelineId, WalFileName, WalSegmentSize};
use crate::stream::resume::{Stray, StrayReason};
use crate::stream::{Observer, Progress, ReceiveError};

/// Tells it.
pub(super) struct Words<'a> {
    pub(super) tool: &'a Invocation,
    pub(super) verbose: bool,
    /// Positions are printed as by the original of the server's version.
    pub(super) pads_lsns: bool,
    /// What the names of compressed segments end in.
    pub(super) suffix: &'static str,
    pub(super) segment_size: WalSegmentSize,
    pub(super) progress: watch::Receiver<Progress>,
    /// Where the stream began, while there is one.
    pub(super) stream_start_lsn: Option<Lsn>,
    /// The timeline of which the next stream will be.
    pub(super) switched_to: Option<TimelineId>,
}

impl Observer for Words<'_> {
    fn stray_found(&mut self, stray: &Stray) {
        let name = &stray.name;
        self.tool.warn(match stray.reason {
            StrayReason::WrongLength(len)
                if CompressionMethod::split_name(name).1 != CompressionMethod::None =>
            {
                format!("compressed segment file \"{name}\" has incorrect uncompressed size {len}, skipping")
            }
            StrayReason::WrongLength(len) => {
                format!("segment file \"{name}\" has incorrect size {len}, skipping")
            }
            StrayReason::AbandonedTimeline => {
                format!("segment file \"{name}\" is not part of the server's history, skipping")
            }
        });
    }

    fn wal_missing(&mut self, timeline: TimelineId, start_lsn: Lsn, end_lsn: Lsn) {
        let (start_lsn, end_lsn) = (self.shown(start_lsn), self.shown(end_lsn));
        self.tool.warn(format!(
            "directory has no WAL between {start_lsn} and {end_lsn} (timeline {timeline}), fetching it"
        ));
    }

    fn beginning_anew(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        let start_lsn = self.shown(start_lsn);
        self.tool.warn(format!(
            "directory was received into before, but holds no WAL; starting at {start_lsn} (timeline {timeline})"
        ));
    }

    fn stream_starting(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        // on one connection only the first stream is announced
        if self.verbose && self.switched_to != Some(timeline) {
            let start_lsn = self.shown(start_lsn);
            self.tool.info(format!("starting log streaming at {start_lsn} (timeline {timeline})"));
        }
        self.stream_start_lsn = Some(start_lsn);
        self.switched_to = None;
    }

    fn segment_finished(&mut self, timeline: TimelineId, end_lsn: Lsn) {
        if self.verbose {
            let end_lsn = self.shown(end_lsn);
            self.tool.info(format!("finished segment at {end_lsn} (timeline {timeline})"));
        }
    }

    fn timeline_switched(&mut self, timeline: TimelineId, switch_lsn: Lsn) {
        // of the timeline that was left
        self.say_unfinished();
        if self.verbose {
            let switch_lsn = self.shown(switch_lsn);
            self.tool.info(format!("switched to timeline {timeline} at {switch_lsn}"));
        }
        self.switched_to = Some(timeline);
    }

    fn disconnected(&mut self, error: &ReceiveError, wait: Duration) {
        self.say_failure(error);
        let seconds = wait.as_secs_f64().ceil();
        self.tool.info(format!("disconnected; waiting {seconds} seconds to try again"));
    }
}

impl Words<'_> {
    /// Why a connection ended, or could not be had.
    pub(super) fn say_failure(&mut self, error: &ReceiveError) {
        let ended_by_server = matches!(
            error,
            ReceiveError::Client {
                during: "receive WAL",
                source: ClientError::ShuttingDown | ClientError::Server(_)
            }
        );
        if ended_by_server {
            self.say_unfinished();
        }
        self.tool.error(describe(error));
        self.stream_start_lsn = None;
    }

    /// The end that was wanted.
    pub(super) fn say_farewell(&self, interrupted: bool) {
        let Progress { timeline: Some(timeline), received_lsn, .. } = *self.progress.borrow() else { return };
        let say_end = || match (self.verbose, interrupted) {
            (false, _) => {}
            (true, true) => self.tool.info("received interrupt signal, exiting"),
            (true, false) => {
                let end_lsn = self.shown(received_lsn);
                self.tool.info(format!("stopped log streaming at {end_lsn} (timeline {timeline})"));
            }
        };
        if !interrupted {
            say_end();
        }
        if self.stream_start_lsn.is_some_and(|start_lsn| start_lsn != received_lsn) {
            self.say_unfinished();
            say_end();
        }
    }

    /// That the segment in progress keeps its `.partial`, if there is one.
    fn say_unfinished(&self) {
        let Progress { timeline: Some(timeline), received_lsn, .. } = *self.progress.borrow() else { return };
        let begun = self.stream_start_lsn.is_some_and(|start_lsn| start_lsn < received_lsn);
        if begun && self.segment_size.offset_of(received_lsn) != 0 {
            let name = WalFileName { timeline, segment: self.segment_size.segment_at(received_lsn) };
            let suffix = self.suffix;
            self.tool.info(format!("not renaming \"{name}{suffix}.partial\", segment is not complete"));
        }
    }

    fn shown(&self, lsn: Lsn) -> String {
        if !self.pads_lsns {
            return lsn.to_string();
        }
        let (high, low) = (lsn.as_u64() >> 32, lsn.as_u64() as u32);
        format!("{high:X}/{low:08X}")
    }
}
