//! Framing: a tag byte, a length, a body.

use bytes::buf::Limit;
use bytes::{Buf, BufMut as _, Bytes, BytesMut};

use super::receive_buffers::ReceiveBuffers;

/// The longest body taken, in bytes, with the exception of [`MAX_SHORT_BODY_LEN`]'s tags.
///
/// Data rows, COPY data, errors and notices may be long: a `TIMELINE_HISTORY` row or a manifest chunk, say. The
/// longest that a walsender really sends is a WAL message of 131,097 bytes. libpq sets the same kind of bound for
/// the same reason in `pqParseInput3` (`VALID_LONG_MESSAGE_TYPE`), but lets the long ones be a gigabyte.
pub const MAX_BODY_LEN: usize = 16 << 20;

/// The longest body of a message that is never long, in bytes: all but rows, COPY data, errors and notices.
pub const MAX_SHORT_BODY_LEN: usize = 30_000;

/// One message as it came: its type, and its body without tag and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message type.
    pub tag: u8,
    /// The body; shares the memory it was received into.
    pub body: Bytes,
}

/// What came cannot be the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length below the four bytes that it counts itself.
    #[error("message of type {:?} has an invalid length of {length}", char::from(*.tag))]
    InvalidLength {
        /// The message type.
        tag: u8,
        /// The length field, which includes itself.
        length: u32,
    },
    /// A body above the bound for its type.
    #[error("message of type {:?} is too long: {body_len} bytes", char::from(*.tag))]
    TooLong {
        /// The message type.
        tag: u8,
        /// The body's length as announced.
        body_len: usize,
    },
}

/// Tag and length.
const HEADER_LEN: usize = 5;

/// Which frames are received to where their payload begins on a page of memory.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// Where the payload begins, in bytes from the frame's start.
    at: usize,
    /// A frame at least this long, in bytes, gets a place of its own.
    min_len: usize,
    /// A frame longer than this, in bytes, does not: more than a walsender sends.
    max_len: usize,
}

impl Placement {
    /// WAL, behind tag, length and what `XLogData` says of it.
    pub const WAL: Placement = Placement {
        at: HEADER_LEN + super::replication::WAL_DATA_AT,
        min_len: 64 << 10,
        max_len: HEADER_LEN + super::replication::WAL_DATA_AT + super::replication::MAX_WAL_DATA_LEN,
    };

    /// The content of a backup's archives, `payload_at` bytes into a CopyData message. A message is as long as the server's
    /// buffer (`SINK_BUFFER_LENGTH`), 32 KiB or a block, and begins with a file's content or goes on with it.
    pub const fn archive(payload_at: usize) -> Placement {
        let at = HEADER_LEN + payload_at;
        Placement { at, min_len: 32 << 10, max_len: at + (64 << 10) }
    }

    fn covers(self, frame_len: usize) -> bool {
        (self.min_len..=self.max_len).contains(&frame_len)
    }
}

/// Cuts a stream of bytes into [`Frame`]s, however it was split on its way.
///
/// Bytes are received into [`FrameDecoder::room`]; bodies are handed out as slices of the same memory. While frames are
/// large, which is when WAL is caught up with or a file is copied, each is received by itself, and to where its
/// [payload](Placement) begins on a page of memory: so it can go to a device without being copied once more. No byte is moved
/// for that, because the room ends where the next frame begins, or probably does.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    buffers: ReceiveBuffers,
    max_body_len: usize,
    placement: Placement,
    /// How long the last frame was, if it was one to be placed; the next one is likely to be as long.
    placed_len: Option<usize>,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        FrameDecoder {
            buffer: BytesMut::new(),
            buffers: ReceiveBuffers::default(),
            max_body_len: MAX_BODY_LEN,
            placement: Placement::WAL,
            placed_len: None,
        }
    }
}

impl FrameDecoder {
    /// A decoder that has received nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder for a server that has proved nothing yet: no message is long, as for libpq up to the first
    /// ReadyForQuery.
    pub fn for_startup() -> Self {
        FrameDecoder { max_body_len: MAX_SHORT_BODY_LEN, ..Self::default() }
    }

    /// The startup is over: from now on messages with data may be long.
    pub fn allow_long_messages(&mut self) {
        self.max_body_len = MAX_BODY_LEN;
    }

    /// Says what will come in large frames, from now on.
    pub fn place(&mut self, placement: Placement) {
        self.placement = placement;
        self.placed_len = None;
    }

    /// Where received bytes are appended, by whoever has them already.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Where to receive, and how much at the most.
    pub fn room(&mut self) -> Limit<&mut BytesMut> {
        let len = match (self.front_len(), self.placed_len) {
            (Some(frame_len), _) if self.placement.covers(frame_len) && frame_len > self.buffer.len() => {
                let missing_len = frame_len - self.buffer.len();
                self.buffers.make_room(&mut self.buffer, missing_len, frame_len, self.placement.at);
                missing_len
            }
            (None, Some(frame_len)) => {
                self.buffers.place(&mut self.buffer, frame_len, self.placement.at);
                frame_len - self.buffer.len()
            }
            _ => {
                self.buffers.make_any_room(&mut self.buffer);
                self.buffer.capacity() - self.buffer.len()
            }
        };
        (&mut self.buffer).limit(len)
    }

    /// The length of the frame at the front, as soon as it is known. It was checked by [`Self::next_frame`].
    fn front_len(&self) -> Option<usize> {
        let &[_, a, b, c, d] = self.buffer.first_chunk::<HEADER_LEN>()?;
        Some(1 + u32::from_be_bytes([a, b, c, d]) as usize)
    }

    /// How many bytes wait to become frames.
    pub fn buffered_len(&self) -> usize {
        self.buffer.len()
    }

    /// How many more bytes the frame at the front needs; at least one when [`Self::next_frame`] has none.
    pub fn missing_len(&self) -> usize {
        let frame_len = self.front_len().unwrap_or(HEADER_LEN).min(HEADER_LEN + MAX_BODY_LEN);
        frame_len.saturating_sub(self.buffer.len()).max(1)
    }

    /// The next whole frame, or `None` until more bytes have come.
    ///
    /// A length out of bounds is an error as soon as the header is there: nothing is ever reserved for it.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(&[tag, a, b, c, d]) = self.buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        let Some(body_len) = (length as usize).checked_sub(4) else {
            return Err(FrameError::InvalidLength { tag, length });
        };
        let max_len = match tag {
            b'D' | b'd' | b'E' | b'N' | b'T' => self.max_body_len,
            _ => MAX_SHORT_BODY_LEN,
        };
        if body_len > max_len {
            return Err(FrameError::TooLong { tag, body_len });
        }
        if self.buffer.len() < HEADER_LEN + body_len {
            return Ok(None);
        }
        let frame_len = HEADER_LEN + body_len;
        self.placed_len = self.placement.covers(frame_len).then_some(frame_len);
        self.buffer.advance(HEADER_LEN);
        Ok(Some(Frame { tag, body: self.buffer.split_to(body_len).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::receive_buffers::PAGE_LEN;
    use super::*;
    use proptest::prelude::*;

    fn encode(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, body) in frames {
            bytes.push(*tag);
            bytes.extend((body.len() as u32 + 4).to_be_bytes());
            bytes.extend(body);
        }
        bytes
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_the_body_comes() {
        let feed = |bytes: &[u8]| {
            let mut decoder = FrameDecoder::new();
            decoder.buffer_mut().extend_from_slice(bytes);
            decoder.next_frame()
        };
        assert_eq!(feed(b"Z\0\0\0\x03"), Err(FrameError::InvalidLength { tag: b'Z', length: 3 }));
        assert_eq!(feed(b"Z\0\x01\0\0"), Err(FrameError::TooLong { tag: b'Z', body_len: 65_532 }));
        assert_eq!(feed(b"d\xFF\xFF\xFF\xFF"), Err(FrameError::TooLong { tag: b'd', body_len: 0xFFFF_FFFB }));
        assert_eq!(feed(b"d\0\x01\0\0"), Ok(None));
    }

    #[test]
    fn nothing_is_long_before_the_server_is_ready() {
        let mut decoder = FrameDecoder::for_startup();
        decoder.buffer_mut().extend_from_slice(b"E\0\x01\0\0");
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLong { tag: b'E', body_len: 65_532 }));
        decoder.allow_long_messages();
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    /// Receives as a connection does: as much as there is room for, or less.
    fn receive(decoder: &mut FrameDecoder, rest: &mut &[u8], most: usize) {
        let mut room = decoder.room();
        let len = rest.len().min(room.remaining_mut()).min(most);
        assert!(len > 0 || rest.is_empty(), "there is always room");
        room.put_slice(&rest[..len]);
        *rest = &rest[len..];
    }

    #[test]
    fn wal_that_is_caught_up_with_begins_on_pages_of_memory() {
        let bodies = [1000, 131_097, 131_097, 131_097, 22, 131_097, 131_097, 70_001, 131_097, 131_097];
        let frames: Vec<_> = bodies.iter().map(|len| (b'd', vec![*len as u8; *len])).collect();
        let bytes = encode(&frames);
        for most in [usize::MAX, 8192, 1] {
            let mut decoder = FrameDecoder::new();
            let (mut rest, mut aligned, mut held) = (&bytes[..], 0, Vec::new());
            while !rest.is_empty() {
                receive(&mut decoder, &mut rest, most);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    let at = frame.body.as_ptr() as usize + super::super::replication::WAL_DATA_AT;
                    aligned += usize::from(frame.body.len() > 1000 && at.is_multiple_of(PAGE_LEN));
                    held.push((frame.tag, frame.body.to_vec()));
                }
            }
            assert!(held == frames, "with {most} at a time");
            // all but the first, and those behind one of another length
            assert!(aligned >= 4, "{aligned} are aligned with {most} at a time");
        }
    }

    #[test]
    fn what_archives_hold_begins_on_pages_of_memory() {
        // a member's header, its content, the rest of that, its padding
        let bodies = [[513, 32_769, 32_769, 32_769, 32_769, 9001, 201]; 3].concat();
        let frames: Vec<_> = bodies.iter().map(|len| (b'd', vec![*len as u8; *len])).collect();
        let bytes = encode(&frames);
        for most in [usize::MAX, 8192, 1] {
            let mut decoder = FrameDecoder::new();
            decoder.place(Placement::archive(1));
            let (mut rest, mut aligned, mut held) = (&bytes[..], 0, Vec::new());
            while !rest.is_empty() {
                receive(&mut decoder, &mut rest, most);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    let at = frame.body.as_ptr() as usize + 1;
                    aligned += usize::from(frame.body.len() > 32_768 && at.is_multiple_of(PAGE_LEN));
                    held.push((frame.tag, frame.body.to_vec()));
                }
            }
            assert!(held == frames, "with {most} at a time");
            // with all that there is at a time, the beginning of each file comes with what is before it
            assert!(aligned >= if most == usize::MAX { 3 } else { 9 }, "{aligned} with {most} at a time");
        }
    }

    proptest! {
        #[test]
        fn any_room_gives_the_same_frames(
            lens in prop::collection::vec(prop_oneof![0_usize..300, 60_000..140_000_usize, Just(131_097)], 1..12),
            most in prop::collection::vec(prop_oneof![1_usize..50, Just(8192), Just(usize::MAX)], 1..20),
        ) {
            let frames: Vec<_> = lens.iter().map(|len| (b'd', vec![*len as u8; *len])).collect();
            let bytes = encode(&frames);
            let mut most = most.iter().cycle();
            let (mut decoder, mut rest, mut seen, mut held) = (FrameDecoder::new(), &bytes[..], 0, Vec::new());
            while !rest.is_empty() {
                // one byte at a time would take all day
                let most = (*most.next().unwrap()).max(rest.len() / 1000);
                receive(&mut decoder, &mut rest, most);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    prop_assert!(frame.body == frames[seen].1);
                    seen += 1;
                    held.push(frame.body);
                    held.truncate(3);
                }
            }
            prop_assert_eq!(seen, frames.len());
        }

        #[test]
        fn any_split_gives_the_same_frames(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
            splits in prop::collection::vec(1usize..97, 1..200),
        ) {
            let bytes = encode(&frames);
            let mut decoder = FrameDecoder::new();
            let mut seen = Vec::new();
            let mut rest = &bytes[..];
            let mut splits = splits.iter().cycle();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*splits.next().unwrap()).min(rest.len()));
                rest = after;
                decoder.buffer_mut().extend_from_slice(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push((frame.tag, frame.body.to_vec()));
                }
                prop_assert!(rest.is_empty() || decoder.buffered_len() == 0 || decoder.missing_len() >= 1);
            }
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(decoder.buffered_len(), 0);
        }
    }
}
