//! Framing: a tag byte, a length, a body.

use bytes::{Buf, Bytes, BytesMut};

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

/// Cuts a stream of bytes into [`Frame`]s, however it was split on its way.
///
/// Bytes are received into [`FrameDecoder::buffer_mut`]; bodies are handed out as slices of the same memory.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    max_body_len: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        FrameDecoder { buffer: BytesMut::new(), max_body_len: MAX_BODY_LEN }
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

    /// Where received bytes are appended.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// How many bytes wait to become frames.
    pub fn buffered_len(&self) -> usize {
        self.buffer.len()
    }

    /// How many more bytes the frame at the front needs; at least one when [`Self::next_frame`] has none.
    pub fn missing_len(&self) -> usize {
        let frame_len = match self.buffer.first_chunk::<HEADER_LEN>() {
            // the length was checked by next_frame before it answered "not yet"
            Some(&[_, a, b, c, d]) => 1 + (u32::from_be_bytes([a, b, c, d]) as usize).min(MAX_BODY_LEN),
            None => HEADER_LEN,
        };
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
        self.buffer.advance(HEADER_LEN);
        Ok(Some(Frame { tag, body: self.buffer.split_to(body_len).freeze() }))
    }
}

#[cfg(test)]
mod tests {
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

    proptest! {
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
