//! What `pgwake standby create` did, as lines for people and as JSON for programs.
//!
//! A path need not be UTF-8, and JSON must be: what cannot be said is replaced.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::pg::{Lsn, SlotName, SystemIdentifier, TimelineId};
use crate::standby::create::{self, CreateRequest};
use crate::standby::preflight::Preflight;
use crate::standby::streaming::StreamingEvidence;

/// A standby that was made.
#[derive(Debug, Serialize)]
pub(super) struct Created<'a> {
    directory: Cow<'a, str>,
    slot: &'a SlotName,
    system_identifier: SystemIdentifier,
    timeline: TimelineId,
    start_lsn: Lsn,
    end_lsn: Lsn,
    file_count: u64,
    byte_count: u64,
    seconds: f64,
    streaming: Option<StreamingEvidence>,
}

impl<'a> Created<'a> {
    pub(super) fn new(created: &'a create::Created) -> Self {
        Created {
            directory: created.directory.to_string_lossy(),
            slot: &created.slot,
            system_identifier: created.system_identifier,
            timeline: created.timeline,
            start_lsn: created.start_lsn,
            end_lsn: created.end_lsn,
            file_count: created.file_count,
            byte_count: created.byte_count,
            seconds: created.seconds,
            streaming: created.streaming,
        }
    }
}

impl fmt::Display for Created<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (directory, megabytes) = (&self.directory, self.byte_count >> 20);
        writeln!(
            f,
            "standby created in \"{directory}\": {} files, {megabytes} MB, {:.1} s",
            self.file_count, self.seconds
        )?;
        writeln!(
            f,
            "  timeline {}, backup from {} to {}, replication slot \"{}\"",
            self.timeline, self.start_lsn, self.end_lsn, self.slot
        )?;
        match self.streaming {
            Some(StreamingEvidence::Streaming) => writeln!(f, "  started; the primary shows it streaming"),
            Some(StreamingEvidence::SlotInUse) => {
                writeln!(f, "  started; the primary shows its slot in use (this role may not see more)")
            }
            None => writeln!(f, "  start it with: pg_ctl start -D \"{directory}\""),
        }
    }
}

/// A look at what could be made.
#[derive(Debug, Serialize)]
pub(super) struct DryRun<'a> {
    directory: Cow<'a, str>,
    slot: &'a SlotName,
    slot_exists: bool,
    server_version: String,
    system_identifier: SystemIdentifier,
    timeline: TimelineId,
    wal_segment_size: u64,
    size: Option<u64>,
}

impl<'a> DryRun<'a> {
    pub(super) fn new(request: &'a CreateRequest, found: &Preflight) -> Self {
        DryRun {
            directory: request.directory.to_string_lossy(),
            slot: &request.slot,
            slot_exists: found.slot_exists,
            server_version: found.version.to_string(),
            system_identifier: found.system.system_identifier,
            timeline: found.system.timeline,
            wal_segment_size: found.segment_size.as_u64(),
            size: found.size,
        }
    }
}

impl fmt::Display for DryRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (directory, version) = (&self.directory, &self.server_version);
        writeln!(f, "nothing stands against it (nothing was made):")?;
        writeln!(f, "  server {version}, system {}, timeline {}", self.system_identifier, self.timeline)?;
        match self.size {
            Some(bytes) => writeln!(f, "  {} MB to copy into \"{directory}\"", bytes >> 20)?,
            None => writeln!(f, "  to copy into \"{directory}\"; this role may not see the size")?,
        }
        let verb = if self.slot_exists { "use" } else { "create" };
        writeln!(f, "  would {verb} replication slot \"{}\"", self.slot)
    }
}
