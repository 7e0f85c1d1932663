//! WAL that was pushed and is not written yet, because more of it may follow in the same breath.

use bytes::Bytes;

use super::super::queue::SinkCommand;
use crate::pg::Lsn;

/// Bytes that follow one upon the other, as they were received.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    chunks: Vec<Bytes>,
    lsn: Lsn,
    len: usize,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether bytes at `lsn` come next, and keep all of it shorter than `max_len`.
    pub(super) fn can_take(&self, lsn: Lsn, len: usize, max_len: usize) -> bool {
        self.end_lsn() == lsn && self.len + len < max_len
    }

    /// Takes what comes next; anything, as long as there is nothing.
    pub(super) fn push(&mut self, lsn: Lsn, data: Bytes) {
        if self.is_empty() {
            self.lsn = lsn;
        }
        self.len += data.len();
        self.chunks.push(data);
    }

    pub(super) fn lsn(&self) -> Lsn {
        self.lsn
    }

    pub(super) fn end_lsn(&self) -> Lsn {
        self.lsn + self.len as u64
    }

    pub(super) fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// It was written. Its room is kept.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.len = 0;
    }

    /// As commands, for somebody else to write.
    pub(super) fn take_commands(&mut self) -> impl Iterator<Item = SinkCommand> + use<> {
        let Gathered { chunks, mut lsn, .. } = std::mem::take(self);
        chunks.into_iter().map(move |data| {
            let at = lsn;
            lsn = lsn + data.len() as u64;
            SinkCommand::Write { lsn: at, data }
        })
    }
}
