//! Zstandard frames, one behind the other.

use std::io::{self, Read};

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

const INPUT_LEN: usize = 64 << 10;

/// All frames of a file.
pub(super) struct ZstdFrames<R> {
    source: R,
    decoder: Decoder<'static>,
    /// Compressed bytes; those before `at` are used up.
    input: Vec<u8>,
    at: usize,
    /// The first bytes of the frame that is under way, up to its flags.
    header: Vec<u8>,
    frame_count: u64,
    plain_len: u64,
    trusted_len: u64,
    is_marked: bool,
}

/// Where a frame's header has its flags, and the one for a checksum (RFC 8878, 3.1.1.1.1).
const FLAGS_AT: usize = 4;
const HAS_CHECKSUM: u8 = 1 << 2;

impl<R: Read> ZstdFrames<R> {
    pub(super) fn new(source: R) -> io::Result<Self> {
        Ok(ZstdFrames {
            source,
            decoder: Decoder::new()?,
            input: Vec::new(),
            at: 0,
            header: Vec::new(),
            frame_count: 0,
            plain_len: 0,
            trusted_len: 0,
            is_marked: false,
        })
    }

    pub(super) fn trusted_len(&self) -> u64 {
        self.trusted_len
    }

    pub(super) fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// One step; says how much came out.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut input = InBuffer::around(&self.input[self.at..]);
        let mut output = OutBuffer::around(buffer);
        let hint = self.decoder.run(&mut input, &mut output);
        let (taken, len) = (input.pos(), output.pos());
        let missing = (FLAGS_AT + 1).saturating_sub(self.header.len()).min(taken);
        self.header.extend_from_slice(&self.input[self.at..self.at + missing]);
        self.at += taken;
        self.plain_len += len as u64;
        if hint.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? == 0
            && !self.header.is_empty()
        {
            if self.header.get(FLAGS_AT).is_some_and(|flags| flags & HAS_CHECKSUM != 0) {
                (self.trusted_len, self.is_marked) = (self.plain_len, true);
            }
            self.frame_count += 1;
            self.header.clear();
        }
        Ok(len)
    }
}

impl<R: Read> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.header.is_empty() || self.at < self.input.len() {
                let before = self.at;
                let len = self.step(buffer)?;
                if len > 0 || buffer.is_empty() {
                    return Ok(len);
                }
                if self.at > before {
                    continue;
                }
            }
            (self.at, self.input) = (0, std::mem::take(&mut self.input));
            self.input.resize(INPUT_LEN, 0);
            let read = self.source.read(&mut self.input);
            self.input.truncate(*read.as_ref().unwrap_or(&0));
            if read? == 0 {
                let is_whole = self.header.is_empty() && self.frame_count > 0;
                return if is_whole { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}
