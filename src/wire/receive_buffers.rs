//! Memory to receive into, used again as soon as nobody has slices of it.
//!
//! What is received is handed on as slices of the buffer it came into, so a buffer is free when the last slice of it is
//! gone: WAL that was written, a row that was read. Giving it back to the allocator would mean to get fresh pages from
//! the kernel, zeroed one by one, as fast as WAL comes.

use std::collections::VecDeque;

use bytes::{Buf as _, BytesMut};

/// What a device wants memory to be aligned to, in bytes, at the most.
pub(super) const PAGE_LEN: usize = 4096;

/// A buffer for small messages, and for all at the beginning, in bytes.
const SMALL_LEN: usize = 256 << 10;

/// When a buffer is used up for small messages, in bytes: below this a receive would bring little.
const MIN_ROOM_LEN: usize = 64 << 10;

/// A buffer for large messages, in bytes: several of 128 KiB, each on its own pages.
const LARGE_LEN: usize = 8 * ((128 << 10) + PAGE_LEN);

/// How many used buffers are kept: what the sink's queue may hold, and a bit.
const MAX_USED: usize = 12;

/// After so many buffers of small messages the memory for large ones is given back.
const CALM_COUNT: u32 = 16;

/// Used buffers, the oldest first.
#[derive(Debug, Default)]
pub(super) struct ReceiveBuffers {
    used: VecDeque<Used>,
    /// The whole length of the buffer that is received into; 0 for one that was not made here.
    current_len: usize,
    calm_count: u32,
}

#[derive(Debug)]
struct Used {
    buffer: BytesMut,
    /// Its whole length.
    len: usize,
}

impl ReceiveBuffers {
    /// Room behind what `buffer` holds, for messages of any length.
    pub(super) fn make_any_room(&mut self, buffer: &mut BytesMut) {
        if buffer.capacity() - buffer.len() >= MIN_ROOM_LEN {
            return;
        }
        self.calm_count += 1;
        if self.calm_count >= CALM_COUNT {
            self.used.retain(|used| used.len == SMALL_LEN);
            self.used.truncate(2);
        }
        if buffer.len() >= MIN_ROOM_LEN {
            // a message longer than all that are usual
            buffer.reserve(SMALL_LEN);
            self.current_len = 0;
        } else {
            let held = self.renew(buffer, SMALL_LEN);
            buffer.extend_from_slice(&held);
        }
    }

    /// Room for the last `missing_len` bytes of a frame of `frame_len` whose others are in `buffer`; if they have to be moved for
    /// that, to a [place](Self::place).
    pub(super) fn make_room(
        &mut self,
        buffer: &mut BytesMut,
        missing_len: usize,
        frame_len: usize,
        placed_at: usize,
    ) {
        if buffer.capacity() - buffer.len() < missing_len {
            self.place(buffer, frame_len, placed_at);
        }
    }

    /// Room for a frame of `frame_len` bytes whose byte `placed_at` is to lie at a page's start. What `buffer` holds is the
    /// frame's beginning.
    pub(super) fn place(&mut self, buffer: &mut BytesMut, frame_len: usize, placed_at: usize) {
        self.calm_count = 0;
        let needed_len = frame_len + PAGE_LEN;
        let held = if buffer.capacity() - buffer.len() < needed_len {
            self.renew(buffer, LARGE_LEN.max(needed_len))
        } else {
            buffer.split()
        };
        let gap_len = (buffer.as_ptr() as usize + placed_at).wrapping_neg() % PAGE_LEN;
        buffer.resize(gap_len, 0);
        buffer.advance(gap_len);
        buffer.extend_from_slice(&held);
    }

    /// Puts an empty buffer of `len` bytes in the place of `buffer`, and returns what that held.
    fn renew(&mut self, buffer: &mut BytesMut, len: usize) -> BytesMut {
        let fresh = self.reclaim(len).unwrap_or_else(|| Used { buffer: BytesMut::with_capacity(len), len });
        let mut used = std::mem::replace(buffer, fresh.buffer);
        let used_len = std::mem::replace(&mut self.current_len, fresh.len);
        let held = used.split();
        if used_len > 0 {
            self.used.push_back(Used { buffer: used, len: used_len });
        }
        held
    }

    /// The oldest buffer, if it is free. One that is too short goes, with its last slice.
    fn reclaim(&mut self, len: usize) -> Option<Used> {
        while self.used.front().is_some_and(|oldest| oldest.len < len) {
            self.used.pop_front();
        }
        let mut oldest = self.used.pop_front()?;
        if oldest.buffer.try_reclaim(oldest.len) {
            return Some(oldest);
        }
        if self.used.len() < MAX_USED {
            self.used.push_front(oldest);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory of `count` buffers, each filled and let go of at once, and how many different ones they were.
    fn different(buffers: &mut ReceiveBuffers, buffer: &mut BytesMut, count: usize) -> usize {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..count {
            buffers.place(buffer, 131_102, 30);
            assert_eq!((buffer.as_ptr() as usize + 30) % PAGE_LEN, 0);
            seen.insert(buffer.as_ptr() as usize);
            buffer.resize(131_102, 1);
            drop(buffer.split().freeze());
        }
        seen.len()
    }

    #[test]
    fn memory_that_nobody_has_slices_of_is_used_again() {
        let mut buffers = ReceiveBuffers::default();
        assert!(
            different(&mut buffers, &mut BytesMut::new(), 1000) <= 24,
            "three buffers of eight places each at the most"
        );
    }

    #[test]
    fn memory_for_large_messages_is_given_back_when_they_are_small_again() {
        let mut buffers = ReceiveBuffers::default();
        let mut buffer = BytesMut::new();
        different(&mut buffers, &mut buffer, 100);
        let held_len = |buffers: &ReceiveBuffers| buffers.used.iter().map(|used| used.len).sum::<usize>();
        assert!(held_len(&buffers) >= LARGE_LEN);
        for _ in 0..2 * CALM_COUNT {
            buffers.make_any_room(&mut buffer);
            buffer.resize(buffer.capacity(), 1);
            drop(buffer.split());
        }
        assert!(held_len(&buffers) <= 3 * SMALL_LEN);
    }
}
