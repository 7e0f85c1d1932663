//! How far the stream has got.

use crate::pg::Lsn;

/// Three positions of one stream; each is the first byte *not* covered.
///
/// `apply <= flush <= write <= received` holds for what is known; [`Lsn::INVALID`] is "not known yet" and below
/// everything. Write is not kept apart from received: the design reports as written what has arrived, so that
/// `remote_write` waits for the network alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    received_lsn: Lsn,
    flush_lsn: Lsn,
    apply_lsn: Lsn,
}

impl Positions {
    /// Where a stream begins: nothing received beyond `start_lsn`, nothing known to be durable.
    pub fn starting_at(start_lsn: Lsn) -> Self {
        Positions { received_lsn: start_lsn, flush_lsn: Lsn::INVALID, apply_lsn: Lsn::INVALID }
    }

    /// The byte that must come next.
    pub fn received_lsn(&self) -> Lsn {
        self.received_lsn
    }

    /// What is reported as written: all that was received.
    pub fn write_lsn(&self) -> Lsn {
        self.received_lsn
    }

    /// How far the stream is durable.
    pub fn flush_lsn(&self) -> Lsn {
        self.flush_lsn
    }

    /// How far the stream is applied or archived; nothing does that yet.
    pub fn apply_lsn(&self) -> Lsn {
        self.apply_lsn
    }

    /// More was received. Positions never go back.
    pub(super) fn advance_received(&mut self, lsn: Lsn) {
        self.received_lsn = self.received_lsn.max(lsn);
    }

    /// More is durable. Whether it did advance; `None` when it cannot be, because it was never received.
    pub(super) fn advance_flush(&mut self, lsn: Lsn) -> Option<bool> {
        if lsn > self.received_lsn {
            return None;
        }
        let advances = lsn > self.flush_lsn;
        self.flush_lsn = self.flush_lsn.max(lsn);
        Some(advances)
    }
}
