//! The stream that tokio-postgres is given: its startup is answered here, and then bytes pass through.
//!
//! Outwards nothing is changed. Inwards only whole messages pass, and only those that [`wire`] can read, with rows as wide
//! as their description and of types that are known: for tokio-postgres believes lengths, indexes a row by its
//! description, and asks the server about types that it does not know, as often as the server likes. What an answer may
//! take in memory is bounded here too.
//!
//! [`wire`]: crate::wire

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_postgres::types::Type;

use crate::client::{ClientError, Transport};
use crate::wire::backend::BackendMessage;
use crate::wire::frame::{Frame, FrameDecoder};

/// The most bytes that answers may take in memory from the last question on: they are about the server, not data.
const MAX_ANSWER_LEN: usize = 16 << 20;

/// What a value of a row costs in memory besides its bytes.
const VALUE_COST: usize = 32;

/// How much is received at once.
const RECEIVE_LEN: usize = 16 << 10;

/// How much is handed on at once, before more is looked at.
const ENOUGH_LEN: usize = 64 << 10;

/// AuthenticationOk and ReadyForQuery: all that a client wants to hear that takes our word for the rest.
const GREETING: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// What has come in, for those who wait for it.
#[derive(Debug, Default)]
pub(super) struct Meter {
    received_len: AtomicU64,
    answer_len: AtomicUsize,
}

impl Meter {
    /// A question is asked: what its answer may take is counted from here.
    pub(super) fn begin_answer(&self) {
        self.answer_len.store(0, Ordering::Relaxed);
    }

    /// Ends when nothing has come for so long.
    pub(super) async fn silence(&self, bound: Duration) {
        let heard = || self.received_len.load(Ordering::Relaxed);
        let mut heard_len = heard();
        let mut heard_at = tokio::time::Instant::now();
        // looked at in smaller steps, so that the bound is the bound and not its double
        let step = (bound / 8).max(Duration::from_millis(1));
        while heard_at.elapsed() < bound {
            tokio::time::sleep(step).await;
            if heard() != heard_len {
                (heard_len, heard_at) = (heard(), tokio::time::Instant::now());
            }
        }
    }
}

/// See the module.
pub(super) struct Bridge {
    transport: Box<dyn Transport>,
    incoming: FrameDecoder,
    /// What may pass, and has not been taken.
    passed: BytesMut,
    state: State,
    /// Columns of the rows that come.
    width: usize,
    meter: Arc<Meter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The greeting has not been taken: what is written is a startup packet.
    Greeting,
    /// Bytes pass.
    Open,
}

impl Bridge {
    /// Over a transport on which the server waits for a command, and what was received of it beyond that.
    pub(super) fn new(transport: Box<dyn Transport>, incoming: FrameDecoder, meter: Arc<Meter>) -> Self {
        Bridge { transport, incoming, passed: GREETING.into(), state: State::Greeting, width: 0, meter }
    }

    /// Lets whole messages pass.
    fn pass(&mut self) -> Result<(), ClientError> {
        while self.passed.len() < ENOUGH_LEN {
            let Some(frame) = self.incoming.next_frame()? else { break };
            self.check(&frame)?;
            self.passed.put_u8(frame.tag);
            // the decoder has bounded it
            self.passed.put_u32(u32::try_from(frame.body.len() + 4).unwrap_or(u32::MAX));
            self.passed.put_slice(&frame.body);
        }
        Ok(())
    }

    fn check(&mut self, frame: &Frame) -> Result<(), ClientError> {
        let mut cost = frame.body.len();
        match BackendMessage::parse(frame.clone())? {
            BackendMessage::RowDescription(row) => {
                if !row.type_oids.iter().all(|oid| Type::from_oid(*oid).is_some()) {
                    return Err(answer("a column of an unknown type"));
                }
                self.width = row.columns.len();
                cost += row.columns.len() * size_of::<tokio_postgres::Column>();
            }
            BackendMessage::DataRow(row) => {
                if row.values.len() != self.width {
                    return Err(answer("a row of another width"));
                }
                cost += row.values.len() * VALUE_COST + size_of::<tokio_postgres::Row>();
            }
            _ => {}
        }
        let before_len = self.meter.answer_len.fetch_add(cost, Ordering::Relaxed);
        if before_len.saturating_add(cost) > MAX_ANSWER_LEN {
            return Err(ClientError::AnswerTooLong { command: "SELECT" });
        }
        Ok(())
    }
}

fn answer(problem: &'static str) -> ClientError {
    ClientError::Answer { command: "SELECT", problem }
}

impl AsyncRead for Bridge {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bridge = self.get_mut();
        while bridge.passed.is_empty() {
            bridge.pass().map_err(io::Error::other)?;
            if !bridge.passed.is_empty() {
                break;
            }
            let buffer = bridge.incoming.buffer_mut();
            buffer.reserve(RECEIVE_LEN);
            let received = ready!(pin!(bridge.transport.read_buf(buffer)).poll(cx));
            match received.map_err(|error| io::Error::other(ClientError::Receive(error)))? {
                0 => return Poll::Ready(Ok(())),
                len => bridge.meter.received_len.fetch_add(len as u64, Ordering::Relaxed),
            };
        }
        let len = bridge.passed.len().min(out.remaining());
        out.put_slice(&bridge.passed[..len]);
        bridge.passed.advance(len);
        if bridge.passed.is_empty() {
            bridge.state = State::Open;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bridge {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bridge = self.get_mut();
        if bridge.state == State::Greeting {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut bridge.transport).poll_write(cx, bytes);
        written.map_err(|error| io::Error::other(ClientError::Send(error)))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.get_mut().transport).poll_flush(cx);
        flushed.map_err(|error| io::Error::other(ClientError::Send(error)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
