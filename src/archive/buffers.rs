//! Long buffers, used again.
//!
//! Segments and the pieces of backups are 16 MB, as they are and as they are stored, and come as fast as they go. Given back to
//! the allocator, memory of that length is either kept by it, for each thread, or fetched from the kernel again and zeroed
//! page by page. Here as much is kept as was in use at a time, within a bound, until none was
//! taken for a while.

use std::convert::Infallible;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

/// What is shorter is the allocator's, in bytes.
pub(super) const LONG_LEN: usize = 1 << 20;

/// The lengths of buffers that are kept, in bytes: what most segments and pieces are compressed, and what they are otherwise, which
/// may be a little more than they were.
const USUAL_LENS: [usize; 2] = [8 << 20, (16 << 20) + (256 << 10)];

/// What devices want memory to be aligned to, in bytes, at the most.
const ALIGNMENT: usize = 4096;

/// How many buffers of each length are kept.
const MAX_KEPT: usize = 6;

/// The memory of those that nobody uses at the moment, the process's.
static KEPT: [Mutex<Vec<Box<[u8]>>>; USUAL_LENS.len()] = [const { Mutex::new(Vec::new()) }; USUAL_LENS.len()];

/// How many were taken so far.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// How long none has to be taken before those that nobody uses are given back.
const IDLE: Duration = Duration::from_secs(10);

/// A buffer, its content at the start of a page of memory.
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    len: usize,
}

fn kept(class: usize) -> MutexGuard<'static, Vec<Box<[u8]>>> {
    KEPT[class].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back what nobody uses, again and again, whenever none was taken for a while.
pub(super) async fn give_back() -> Infallible {
    loop {
        let taken = TAKEN.load(Ordering::Relaxed);
        tokio::time::sleep(IDLE).await;
        if TAKEN.load(Ordering::Relaxed) == taken {
            (0..USUAL_LENS.len()).for_each(|class| *kept(class) = Vec::new());
        }
    }
}

impl Buffer {
    /// A buffer of `len` bytes; what is in them is left from before.
    pub(crate) fn take(len: usize) -> Self {
        let class = USUAL_LENS.iter().position(|usual_len| (LONG_LEN..=*usual_len).contains(&len));
        TAKEN.fetch_add(u64::from(class.is_some()), Ordering::Relaxed);
        let memory = class.and_then(|class| kept(class).pop()).unwrap_or_else(|| {
            // untouched, it takes no memory
            let whole_len = class.map_or(len, |class| USUAL_LENS[class]);
            vec![0; whole_len + ALIGNMENT].into_boxed_slice()
        });
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Buffer { memory, start, len }
    }

    /// Drops all but the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The same as bytes that are shared; the buffer goes back when nobody has any of them.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let Some(class) = USUAL_LENS.iter().position(|usual_len| memory.len() == usual_len + ALIGNMENT)
        else {
            return;
        };
        let mut kept = kept(class);
        if kept.len() < MAX_KEPT {
            kept.push(memory);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_that_was_asked_for_at_the_start_of_a_page() {
        for len in [0, 5, LONG_LEN - 1, LONG_LEN, USUAL_LENS[0] + 1, USUAL_LENS[1], USUAL_LENS[1] + 1] {
            let mut buffer = Buffer::take(len);
            assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
            buffer.truncate(3);
            assert_eq!(buffer[..], [7; 3][..len.min(3)]);
            let bytes = buffer.into_bytes();
            assert_eq!(bytes.len(), len.min(3));
        }
    }

    /// What is shared is nobody else's until the last part of it is gone; the tests of other modules use the same ones.
    #[test]
    fn no_two_have_the_same_memory() {
        let mut buffer = Buffer::take(LONG_LEN);
        buffer.fill(7);
        let part = buffer.into_bytes().slice(3..5);
        let mut others: Vec<Buffer> = (0..2 * MAX_KEPT).map(|_| Buffer::take(LONG_LEN)).collect();
        others.iter_mut().for_each(|other| other.fill(9));
        assert_eq!(part[..], [7, 7]);
        drop(others);
        assert!(kept(0).len() <= MAX_KEPT);
    }
}
