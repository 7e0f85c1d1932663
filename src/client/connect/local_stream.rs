//! A Unix socket that wakes nobody because the other end has read.
//!
//! Whoever waits for a Unix socket to take more is told each time that the other end takes something out of it, however much
//! room there was before. A receiver sends two status updates a commit, and would be woken by each, for nothing. So what is
//! waited for is what comes; room only while there is none, by a descriptor of its own, because a registration is for both.
//! TCP tells of room only to who has found none.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

/// A connected Unix socket.
#[derive(Debug)]
pub struct LocalStream {
    socket: UnixStream,
    /// The same socket. What reads a pipe, and waits for nothing but what comes, reads any descriptor.
    incoming: pipe::Receiver,
    /// The same socket, while it takes no more: what writes to a pipe, and waits for nothing but room.
    room: Option<pipe::Sender>,
}

impl LocalStream {
    /// Takes over a socket that has just been connected.
    pub(super) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        // it stays one that does not block
        let socket = stream.into_std()?;
        let incoming = pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(socket.try_clone()?))?;
        Ok(LocalStream { socket, incoming, room: None })
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.incoming).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let room = match &mut this.room {
            Some(room) => room,
            none => match this.socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let twin = OwnedFd::from(this.socket.try_clone()?);
                    none.insert(pipe::Sender::from_owned_fd_unchecked(twin)?)
                }
                written => return Poll::Ready(written),
            },
        };
        let written = Pin::new(room).poll_write(cx, bytes);
        this.room.take_if(|_| written.is_ready());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (LocalStream, tokio::net::UnixStream) {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        (LocalStream::new(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn what_is_sent_arrives_however_little_room_there_is() {
        let (mut ours, mut theirs) = pair();
        let sent: Vec<u8> = (0..5_000_000_u32).map(|i| (i / 7) as u8).collect();
        let copy = sent.clone();
        let sending = tokio::spawn(async move {
            ours.write_all(&copy).await.unwrap();
            assert!(ours.room.is_none(), "room is there, and still waited for");
            ours
        });
        // nothing is taken before there is no room
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let mut received = vec![0; sent.len()];
        theirs.read_exact(&mut received).await.unwrap();
        assert!(received == sent);
        let mut ours = sending.await.unwrap();
        theirs.write_all(b"back").await.unwrap();
        let mut back = [0; 4];
        ours.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");
        ours.shutdown().await.unwrap();
        assert_eq!(theirs.read(&mut back).await.unwrap(), 0);
        drop(theirs);
        assert_eq!(ours.read(&mut back).await.unwrap(), 0);
        assert_eq!(ours.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
