//! How far the stream has got.

use crate::pg::Lsn;

/// Three positions of one stream; each is the first byte *not* covered.
///
/// `apply <= flush <= write <= received` holds for what is known; [`Lsn::INVALID`] is "not known yet" and below
/// everything. Written is what the operating system has, as for PostgreSQL's walreceiver: a commit that waited for
/// `remote_write` survives the end of this process, if not that of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    received_lsn: Lsn,
    write_lsn: Lsn,
    flush_lsn: Lsn,
    archived_lsn: Lsn,
}

impl Positions {
    /// Where a stream begins: nothing received beyond `start_lsn`, nothing known to be durable.
    pub fn starting_at(start_lsn: Lsn) -> Self {
        let (flush_lsn, archived_lsn) = (Lsn::INVALID, Lsn::INVALID);
        Positions { received_lsn: start_lsn, write_lsn: start_lsn, flush_lsn, archived_lsn }
    }

    /// The byte that must come next.
    pub fn received_lsn(&self) -> Lsn {
        self.received_lsn
    }

    /// What the operating system has.
    pub fn write_lsn(&self) -> Lsn {
        self.write_lsn
    }

    /// How far the stream is durable.
    pub fn flush_lsn(&self) -> Lsn {
        self.flush_lsn
    }

    /// What is reported as applied: how far the stream is archived. After a reconnection that may be known before it is
    /// known again to be durable here.
    pub fn apply_lsn(&self) -> Lsn {
        self.archived_lsn.min(self.flush_lsn)
    }

    /// More was received. Positions never go back.
    pub(super) fn advance_received(&mut self, lsn: Lsn) {
        self.received_lsn = self.received_lsn.max(lsn);
    }

    /// More is with the operating system. Whether it did advance.
    pub(super) fn advance_write(&mut self, lsn: Lsn) -> bool {
        let lsn = lsn.min(self.received_lsn);
        let advances = lsn > self.write_lsn;
        self.write_lsn = self.write_lsn.max(lsn);
        advances
    }

    /// More is archived.
    pub(super) fn advance_archived(&mut self, lsn: Lsn) {
        self.archived_lsn = self.archived_lsn.max(lsn);
    }

    /// More is durable, and so written. Whether it did advance; `None` when it cannot be, because it was never received.
    pub(super) fn advance_flush(&mut self, lsn: Lsn) -> Option<bool> {
        if lsn > self.received_lsn {
            return None;
        }
        let advances = lsn > self.flush_lsn;
        self.flush_lsn = self.flush_lsn.max(lsn);
        self.write_lsn = self.write_lsn.max(lsn);
        Some(advances)
    }
}
