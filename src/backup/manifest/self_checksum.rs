//! The manifest's checksum of itself, computed as it streams by.
//!
//! Answers to `verify_manifest_checksum` in PostgreSQL's `src/common/parse_manifest.c`: SHA-256 over every byte
//! before the last line. Which line is the last is known only at the end, so the state at the start of the last two
//! lines is kept.

use sha2::{Digest, Sha256};

/// The checksum over everything up to the start of the last line.
#[derive(Debug, Default)]
pub struct SelfChecksum {
    running: Sha256,
    /// The state at the start of the current line, and of the one before it.
    current_line: Option<Sha256>,
    line_before: Option<Sha256>,
    ends_in_newline: bool,
}

/// The bytes are not lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SelfChecksumError {
    /// Fewer than two lines.
    #[error("expected at least 2 lines")]
    TooFewLines,
    /// The last byte is not a newline.
    #[error("last line not newline-terminated")]
    NoFinalNewline,
}

impl SelfChecksum {
    /// Adds bytes.
    pub fn update(&mut self, mut chunk: &[u8]) {
        if let Some(last) = chunk.last() {
            self.ends_in_newline = *last == b'\n';
        }
        // Only the last two newlines of a chunk can matter.
        let mut newlines = chunk.iter().rev().enumerate().filter(|(_, b)| **b == b'\n');
        let ends =
            [newlines.next(), newlines.next()].map(|found| found.map(|(index, _)| chunk.len() - index));
        let len = chunk.len();
        for end in ends.into_iter().rev().flatten() {
            let (line, rest) = chunk.split_at(end - (len - chunk.len()));
            self.running.update(line);
            self.line_before = self.current_line.replace(self.running.clone());
            chunk = rest;
        }
        self.running.update(chunk);
    }

    /// The checksum, once all bytes have been added.
    pub fn finish(self) -> Result<[u8; 32], SelfChecksumError> {
        let before_last_line = self.line_before.ok_or(SelfChecksumError::TooFewLines)?;
        if !self.ends_in_newline {
            return Err(SelfChecksumError::NoFinalNewline);
        }
        Ok(before_last_line.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn streamed<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<[u8; 32], SelfChecksumError> {
        let mut checksum = SelfChecksum::default();
        chunks.into_iter().for_each(|chunk| checksum.update(chunk));
        checksum.finish()
    }

    #[test]
    fn covers_all_but_the_last_line() {
        assert_eq!(streamed([&b"a\nb\nlast\n"[..]]), Ok(Sha256::digest(b"a\nb\n").into()));
        assert_eq!(streamed([&b"a\nlast"[..]]), Err(SelfChecksumError::TooFewLines));
        assert_eq!(streamed([&b"a\nb\nlast"[..]]), Err(SelfChecksumError::NoFinalNewline));
        assert_eq!(streamed([&b""[..]]), Err(SelfChecksumError::TooFewLines));
        assert_eq!(streamed([&b"\n"[..]]), Err(SelfChecksumError::TooFewLines));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(text in "[a\n]{0,40}", cuts in proptest::collection::vec(0usize..41, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(streamed(chunks), streamed([bytes]));
            if let Some(body) = bytes.strip_suffix(b"\n")
                && let Some(newline) = body.iter().rposition(|&b| b == b'\n')
            {
                prop_assert_eq!(streamed([bytes]), Ok(Sha256::digest(&bytes[..=newline]).into()));
            }
        }
    }
}
