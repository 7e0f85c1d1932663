//! gzip, and the marks in it.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::encoder::GZIP_WINDOW_BITS;
use super::mark::{MARK_LEN, find_mark, marked_checksum};

const INPUT_LEN: usize = 64 << 10;

/// One gzip member. What lies behind its end is not looked at.
pub(super) struct Inflate<R> {
    source: R,
    source_ended: bool,
    inflate: Decompress,
    /// Compressed bytes; those before `at` are used up.
    input: Vec<u8>,
    at: usize,
    /// Where the next mark begins in `input`.
    mark_at: Option<usize>,
    plain_len: u64,
    checksum: u32,
    trusted_len: u64,
    is_marked: bool,
    ended: bool,
}

impl<R: Read> Inflate<R> {
    pub(super) fn new(source: R) -> Self {
        Inflate {
            source,
            source_ended: false,
            inflate: Decompress::new_gzip(GZIP_WINDOW_BITS),
            input: Vec::new(),
            at: 0,
            mark_at: None,
            plain_len: 0,
            checksum: 0,
            trusted_len: 0,
            is_marked: false,
            ended: false,
        }
    }

    pub(super) fn trusted_len(&self) -> u64 {
        self.trusted_len
    }

    pub(super) fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// Up to where `input` can be given away: a mark must be looked at when all before it is out, and nothing later.
    fn limit(&self) -> usize {
        match self.mark_at {
            Some(mark_at) => mark_at + MARK_LEN,
            None if self.source_ended => self.input.len(),
            None => (self.input.len() + 1).saturating_sub(MARK_LEN).max(self.at),
        }
    }

    /// Compares a mark up to whose end all is out, or reads on. `false`: there is no more.
    fn advance(&mut self) -> io::Result<bool> {
        if let Some(mark_at) = self.mark_at.take() {
            let checksum = marked_checksum(&self.input[mark_at..mark_at + MARK_LEN]);
            if checksum == Some(self.checksum) {
                (self.trusted_len, self.is_marked) = (self.plain_len, true);
            }
        } else if self.source_ended {
            return Ok(false);
        } else {
            self.input.drain(..self.at);
            self.at = 0;
            let len = self.input.len();
            self.input.resize(len + INPUT_LEN, 0);
            let read = self.source.read(&mut self.input[len..]);
            self.input.truncate(len + *read.as_ref().unwrap_or(&0));
            self.source_ended = read? == 0;
        }
        self.mark_at = find_mark(&self.input, self.at);
        Ok(true)
    }
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let limit = self.limit();
            let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(&self.input[self.at..limit], buffer, FlushDecompress::None);
            // zlib counts what it got out even when it meets an error behind it
            let taken = (self.inflate.total_in() - in_before) as usize;
            let len = (self.inflate.total_out() - out_before) as usize;
            self.at += taken;
            self.plain_len += len as u64;
            self.checksum = crc32c::crc32c_append(self.checksum, &buffer[..len]);
            if matches!(status, Ok(Status::StreamEnd)) {
                // its own checksum and length were right
                (self.ended, self.trusted_len) = (true, self.plain_len);
            }
            match status {
                _ if len > 0 => return Ok(len),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                Ok(_) if taken > 0 || self.ended => {}
                Ok(_) if self.at < limit => return Err(io::ErrorKind::InvalidData.into()),
                Ok(_) if self.advance()? => {}
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(0)
    }
}
