//! What lies beneath TLS is read many records at a time.
//!
//! rustls takes 4 KiB from the socket at once, and a server sends what it has in records of 8 KiB: two or three system calls
//! for each of them, and as many reports to the sender of room in the window. Here it is a copy instead, out of a buffer
//! that a few calls have filled. Nobody else reads the socket, so nothing is missing where it should be.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once, in bytes.
const BUFFER_LEN: usize = 128 << 10;

/// A stream that is read in large pieces, however small they are asked for.
#[derive(Debug)]
pub struct ReadAhead<S> {
    stream: S,
    buffer: Box<[u8]>,
    /// What of the buffer has been read and not yet been taken: `start <= end <= BUFFER_LEN`.
    start: usize,
    end: usize,
}

impl<S> ReadAhead<S> {
    pub(super) fn new(stream: S) -> Self {
        ReadAhead { stream, buffer: vec![0; BUFFER_LEN].into(), start: 0, end: 0 }
    }

    /// The stream beneath. What is read from it is missing here.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        taken: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end {
            let mut read = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            (this.start, this.end) = (0, read.filled().len());
        }
        let len = taken.remaining().min(this.end - this.start);
        taken.put_slice(&this.buffer[this.start..this.start + len]);
        this.start += len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Counts the calls that read something.
    struct Counting<'a> {
        bytes: &'a [u8],
        calls: usize,
    }

    impl AsyncRead for Counting<'_> {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            taken: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            this.calls += 1;
            let (now, rest) = this.bytes.split_at(this.bytes.len().min(taken.remaining()));
            taken.put_slice(now);
            this.bytes = rest;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn many_small_reads_are_one_large_one() {
        let bytes: Vec<u8> = (0..3 * BUFFER_LEN + 5).map(|at| (at % 251) as u8).collect();
        let mut ahead = ReadAhead::new(Counting { bytes: &bytes, calls: 0 });
        let (mut piece, mut all) = ([0; 4096], Vec::new());
        loop {
            match ahead.read(&mut piece).await.unwrap() {
                0 => break,
                len => all.extend_from_slice(&piece[..len]),
            }
        }
        assert!(all == bytes);
        assert_eq!(ahead.get_ref().calls, 5, "four that brought something, and the end");
    }

    #[tokio::test]
    async fn what_has_come_is_handed_out_at_once() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut ahead = ReadAhead::new(near);
        let mut piece = [0; 4096];
        for word in [&b"one"[..], b"two"] {
            far.write_all(word).await.unwrap();
            let len = ahead.read(&mut piece).await.unwrap();
            assert_eq!(&piece[..len], word);
            ahead.write_all(word).await.unwrap();
            let len = far.read(&mut piece).await.unwrap();
            assert_eq!(&piece[..len], word);
        }
    }
}
