//! A bounds-checked cursor over the body of a message.

use bytes::Bytes;

/// What is left of a message's body. Every read takes from the front, or fails.
#[derive(Debug, Clone)]
pub struct Reader {
    rest: Bytes,
}

/// A message that ends before its fields do, or goes on after them, or holds text that is not text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMessage {
    /// A fixed-size field reaches past the end.
    #[error("message is too short for its fields")]
    TooShort,
    /// A string has no terminating zero byte.
    #[error("string in message is not terminated")]
    UnterminatedString,
    /// A string that must be readable is not UTF-8.
    #[error("string in message is not valid UTF-8")]
    NotUtf8,
    /// Bytes are left after the last field.
    #[error("message goes on after its last field")]
    TrailingBytes,
    /// A count or length that no server sends.
    #[error("message holds an invalid count or length")]
    InvalidCount,
    /// A field whose value is not one of those the protocol names.
    #[error("message holds an invalid value")]
    InvalidValue,
}

impl Reader {
    /// A cursor at the beginning of `body`.
    pub fn new(body: Bytes) -> Self {
        Reader { rest: body }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes, without copying them.
    pub fn bytes(&mut self, len: usize) -> Result<Bytes, MalformedMessage> {
        if len > self.rest.len() {
            return Err(MalformedMessage::TooShort);
        }
        Ok(self.rest.split_to(len))
    }

    /// All that is left.
    pub fn take_rest(&mut self) -> Bytes {
        self.rest.split_off(0)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedMessage> {
        let array = *self.rest.first_chunk::<N>().ok_or(MalformedMessage::TooShort)?;
        let _ = self.rest.split_to(N);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, MalformedMessage> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Two bytes, big-endian, signed.
    pub fn i16(&mut self) -> Result<i16, MalformedMessage> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// Four bytes, big-endian, signed.
    pub fn i32(&mut self) -> Result<i32, MalformedMessage> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, MalformedMessage> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes, big-endian, signed.
    pub fn i64(&mut self) -> Result<i64, MalformedMessage> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, MalformedMessage> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A string up to its zero byte, which is taken too; any encoding.
    pub fn c_string_bytes(&mut self) -> Result<Bytes, MalformedMessage> {
        let len = self.rest.iter().position(|&b| b == 0).ok_or(MalformedMessage::UnterminatedString)?;
        let string = self.rest.split_to(len);
        let _ = self.rest.split_to(1);
        Ok(string)
    }

    /// A string up to its zero byte, which must be UTF-8.
    pub fn c_string(&mut self) -> Result<String, MalformedMessage> {
        let bytes = self.c_string_bytes()?;
        String::from_utf8(bytes.into()).map_err(|_| MalformedMessage::NotUtf8)
    }

    /// A string up to its zero byte, with what is not UTF-8 replaced: for texts that are shown to a person.
    pub fn c_string_lossy(&mut self) -> Result<String, MalformedMessage> {
        Ok(String::from_utf8_lossy(&self.c_string_bytes()?).into_owned())
    }

    /// Checks that nothing is left.
    pub fn finish(self) -> Result<(), MalformedMessage> {
        if self.rest.is_empty() { Ok(()) } else { Err(MalformedMessage::TrailingBytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_to_the_end_and_no_further() {
        let mut reader = Reader::new(Bytes::from_static(b"\x01\x00\x02ab\x00\xFFz"));
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.i16(), Ok(2));
        assert_eq!(reader.c_string().unwrap(), "ab");
        assert_eq!(reader.u32(), Err(MalformedMessage::TooShort));
        assert_eq!(reader.c_string(), Err(MalformedMessage::UnterminatedString));
        assert_eq!(reader.remaining(), 2);
        assert_eq!(reader.clone().finish(), Err(MalformedMessage::TrailingBytes));
        assert_eq!(reader.bytes(2).unwrap(), Bytes::from_static(b"\xFFz"));
        assert_eq!(reader.finish(), Ok(()));
    }
}
