//! One connection to a server, after it has let us in.
//!
//! Receives into one large buffer and hands out slices of it; sends what is queued whenever it waits to receive, so
//! that neither side can block the other. Reading a message is cancel-safe: a future that is dropped loses nothing.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::ClientError;
use super::connect::{Backend, Carrier, Protection};
use super::conninfo::HostSpec;
use crate::pg::ServerVersion;
use crate::wire::auth::AuthMethod;
use crate::wire::backend::BackendMessage;
use crate::wire::frame::{FrameDecoder, Placement};
use crate::wire::frontend;
use crate::wire::server_error::ServerError;

/// Anything that carries the protocol's bytes: a socket, TLS over one, or a pipe in a test.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// Called with each notice and warning of the server, whenever it comes.
pub type NoticeHandler = Box<dyn FnMut(&ServerError) + Send>;

/// An authenticated connection that waits for a command.
///
/// The verbs are in the modules beside this one: each sends one command and reads its answer to the end. A command
/// that the server refuses leaves the connection usable; a copy that was not read to its end does not.
pub struct Connection {
    transport: Box<dyn Transport>,
    decoder: FrameDecoder,
    outgoing: BytesMut,
    parameters: BTreeMap<String, String>,
    version: ServerVersion,
    host: HostSpec,
    protection: Protection,
    backend: Backend,
    backend_pid: Option<u32>,
    notice_handler: NoticeHandler,
    /// What the server said while the connection was made, until somebody is told.
    startup_notices: Vec<ServerError>,
    phase: Phase,
    answer_timeout: Option<Duration>,
    received_len: u64,
    pace: Pace,
    /// How much had been received when it was last left to gather.
    gathered_at: u64,
}

/// How what is received is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As soon as any of it is there.
    Prompt,
    /// Much is coming, and it may gather for a moment ([`GATHER_PAUSE`]).
    Bulk,
}

/// Where the connection stands between commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A command may be sent.
    Ready,
    /// An answer has not been read to its end.
    Busy,
    /// An error ended the answer; what is left up to ReadyForQuery is skipped before the next command.
    Draining,
}

/// How much is received ahead while something large is sent, in bytes.
const MAX_READ_AHEAD_LEN: usize = 1 << 20;

/// How long nobody watches the socket when all that had come of a copy has been taken.
///
/// A server sends 8 KiB at a time, and who takes each at once is woken for each, which costs the server more than sending it.
/// A blocking call, because to wait in any other way is to be woken. The kernel makes some 70 µs of it, in which half as much
/// comes as a Unix socket holds: the server never waits.
const GATHER_PAUSE: Duration = Duration::from_micros(20);

impl Connection {
    /// Takes over a connection that has just become ready for its first command.
    ///
    /// `decoder` holds what was received beyond the startup's last message; `parameters` what the server reported,
    /// `server_version` among it; `host` is where it leads.
    pub fn new(
        transport: Box<dyn Transport>,
        decoder: FrameDecoder,
        parameters: BTreeMap<String, String>,
        host: HostSpec,
    ) -> Result<Self, ClientError> {
        let reported = parameters.get("server_version").ok_or(ClientError::NoServerVersion)?;
        let version = reported.parse().map_err(ClientError::ServerVersion)?;
        if parameters.get("integer_datetimes").is_some_and(|value| value != "on") {
            return Err(ClientError::FloatDatetimes);
        }
        Ok(Connection {
            transport,
            decoder,
            outgoing: BytesMut::new(),
            parameters,
            version,
            host,
            protection: Protection { carrier: Carrier::Local, method: AuthMethod::None },
            backend: Backend::Unknown,
            backend_pid: None,
            notice_handler: Box::new(log_notice),
            startup_notices: Vec::new(),
            phase: Phase::Ready,
            answer_timeout: None,
            received_len: 0,
            pace: Pace::Prompt,
            gathered_at: 0,
        })
    }

    /// The server's version.
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// The one of the hosts, and of its addresses, that this connection leads to. With [`Settings::pinned_to`] a further
    /// connection leads there too.
    ///
    /// [`Settings::pinned_to`]: super::Settings::pinned_to
    pub fn host(&self) -> &HostSpec {
        &self.host
    }

    /// How it is protected, and how the role proved who it is.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// The process id of the server's end, if the server has told it.
    pub fn backend_pid(&self) -> Option<u32> {
        self.backend_pid
    }

    /// Says how it is protected.
    pub(super) fn protected_by(self, protection: Protection) -> Self {
        Connection { protection, ..self }
    }

    /// The process that serves this connection.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Says which process serves it.
    pub(super) fn served_by(self, backend: Backend, backend_pid: Option<u32>) -> Self {
        Connection { backend, backend_pid, ..self }
    }

    /// A setting that the server has reported, such as `server_version` or `in_hot_standby` (14).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Keeps what the server said while the connection was made, for whoever is told of notices.
    pub(super) fn having_said(self, startup_notices: Vec<ServerError>) -> Self {
        Connection { startup_notices, ..self }
    }

    /// Sends notices elsewhere than to the log; those of the startup at once.
    pub fn on_notice(&mut self, handler: NoticeHandler) {
        self.notice_handler = handler;
        self.tell_startup_notices();
    }

    fn tell_startup_notices(&mut self) {
        for notice in std::mem::take(&mut self.startup_notices) {
            (self.notice_handler)(&notice);
        }
    }

    /// How long the server may be silent while an answer is awaited; `None`, as at the beginning: for ever. After
    /// [`ClientError::Silent`] the connection is of no further use.
    ///
    /// `BASE_BACKUP`'s first answer may take as long as a checkpoint, and `DROP_REPLICATION_SLOT … WAIT` as long as
    /// somebody uses the slot: these two are never bounded by it.
    pub fn set_answer_timeout(&mut self, timeout: Option<Duration>) {
        self.answer_timeout = timeout;
    }

    /// How long the server may be silent while an answer is awaited.
    pub(super) fn answer_timeout(&self) -> Option<Duration> {
        self.answer_timeout
    }

    /// Says farewell. Errors are of no interest: the server notices the closed socket too.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.outgoing);
        let _ = self.send().await;
        let _ = poll_fn(|cx| Pin::new(&mut self.transport).poll_shutdown(cx)).await;
    }

    /// The bytes below, for somebody who goes on in another way, and what was received of them. Nothing may be under way.
    pub(super) fn into_transport(self) -> Result<(Box<dyn Transport>, FrameDecoder), ClientError> {
        match self.phase {
            Phase::Ready => Ok((self.transport, self.decoder)),
            Phase::Busy | Phase::Draining => Err(ClientError::Busy),
        }
    }

    /// Sends a Query. The answer is read by [`Self::next_message`].
    pub(super) async fn start_query(&mut self, text: &str) -> Result<(), ClientError> {
        if self.phase == Phase::Draining {
            while !matches!(self.receive(self.answer_timeout).await?, BackendMessage::ReadyForQuery) {}
            self.phase = Phase::Ready;
        }
        if self.phase == Phase::Busy {
            return Err(ClientError::Busy);
        }
        frontend::query(text, &mut self.outgoing)?;
        self.phase = Phase::Busy;
        // nobody has asked for them
        self.tell_startup_notices();
        self.send().await
    }

    /// How many bytes are queued and not sent.
    pub(super) fn unsent_len(&self) -> usize {
        self.outgoing.len()
    }

    /// What is to be sent with the next wait.
    pub(super) fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    /// Says what the next large messages will hold.
    pub(super) fn place(&mut self, placement: Placement) {
        self.decoder.place(placement);
    }

    /// Says how what comes next is to be waited for.
    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Whether a received message can be taken without waiting.
    pub(super) fn has_buffered(&self) -> bool {
        self.decoder.buffered_len() > 0
    }

    /// The next message of the current answer. An ErrorResponse is returned as [`ClientError::Server`], after which
    /// the connection can take another command (unless the error was fatal). Cancel-safe.
    pub(super) async fn next_message(&mut self) -> Result<BackendMessage, ClientError> {
        self.next_message_within(self.answer_timeout).await
    }

    /// The same, with another bound for the server's silence.
    pub(super) async fn next_message_within(
        &mut self,
        silence: Option<Duration>,
    ) -> Result<BackendMessage, ClientError> {
        match self.receive(silence).await? {
            BackendMessage::ErrorResponse(error) => {
                self.phase = if error.is_fatal() { Phase::Busy } else { Phase::Draining };
                Err(ClientError::Server(Box::new(error)))
            }
            BackendMessage::ReadyForQuery => {
                self.phase = Phase::Ready;
                Ok(BackendMessage::ReadyForQuery)
            }
            message => Ok(message),
        }
    }

    /// One message. Every byte that comes is a sign of life, though a message may take its time.
    async fn receive(&mut self, silence: Option<Duration>) -> Result<BackendMessage, ClientError> {
        let Some(after) = silence else { return poll_fn(|cx| self.poll_receive(cx)).await };
        let mut heard_len = self.received_len;
        // not registered with the timer before it is polled, which a message that is there makes unnecessary
        let mut deadline = pin!(tokio::time::sleep(after));
        poll_fn(|cx| {
            if let Poll::Ready(received) = self.poll_receive(cx) {
                return Poll::Ready(received);
            }
            if self.received_len != heard_len {
                heard_len = self.received_len;
                deadline.as_mut().reset(Instant::now() + after);
            }
            deadline.as_mut().poll(cx).map(|()| Err(ClientError::Silent { after }))
        })
        .await
    }

    /// One message, the asynchronous ones (notices, parameters, notifications) taken care of.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<BackendMessage, ClientError>> {
        loop {
            while let Some(frame) = self.decoder.next_frame()? {
                match BackendMessage::parse(frame)? {
                    BackendMessage::NoticeResponse(notice) => (self.notice_handler)(&notice),
                    BackendMessage::ParameterStatus { name, value } => self.set_parameter(name, value),
                    BackendMessage::NotificationResponse => {}
                    message => return Poll::Ready(Ok(message)),
                }
            }
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                // the server may have said why before it closed the connection: what it said, or its end, is about to be readable
                match ready!(self.poll_fill(cx)) {
                    Ok(()) => continue,
                    Err(_) => return Poll::Ready(Err(error)),
                }
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    fn set_parameter(&mut self, name: String, value: String) {
        // a server has some twenty of them: a peer that invents names without end is not one
        if self.parameters.len() < MAX_PARAMETERS || self.parameters.contains_key(&name) {
            self.parameters.insert(name, value);
        }
    }

    /// Receives once.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        let mut room = self.decoder.room();
        let received = pin!(self.transport.read_buf(&mut room)).poll(cx);
        if received.is_pending() && self.pace == Pace::Bulk && self.gathered_at != self.received_len {
            self.gathered_at = self.received_len;
            std::thread::sleep(GATHER_PAUSE);
        }
        match ready!(received) {
            Ok(0) => Poll::Ready(Err(ClientError::Closed)),
            Ok(len) => {
                self.received_len += len as u64;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(ClientError::Receive(error))),
        }
    }

    /// Sends all that is queued. What the server says meanwhile is kept for later, within a bound.
    pub(super) async fn send(&mut self) -> Result<(), ClientError> {
        poll_fn(|cx| {
            let sent = self.poll_send(cx);
            if sent.is_pending() && self.decoder.buffered_len() < MAX_READ_AHEAD_LEN {
                // registers for readability; an error shows when it is read for its own sake
                let _ = self.poll_fill(cx);
            }
            sent
        })
        .await
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.outgoing));
            match sent.map_err(ClientError::Send)? {
                0 => return Poll::Ready(Err(ClientError::Closed)),
                len => self.outgoing.advance(len),
            }
        }
        Pin::new(&mut self.transport).poll_flush(cx).map_err(ClientError::Send)
    }
}

/// How many reported settings are kept.
const MAX_PARAMETERS: usize = 256;

pub(super) fn log_notice(notice: &ServerError) {
    if notice.severity == "WARNING" {
        tracing::warn!("server: {}", notice.message);
    } else {
        tracing::info!("server: {}", notice.message);
    }
}

#[cfg(test)]
mod tests;
