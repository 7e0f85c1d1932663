//! One connection from its first byte to its first ReadyForQuery.
//!
//! Answers to the states from `CONNECTION_MADE` to `CONNECTION_OK` of `PQconnectPoll` in libpq's `fe-connect.c`, and
//! to `pqGetNegotiateProtocolVersion3` and `build_startup_packet` in `fe-protocol3.c`.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{AttemptError, Purpose, Stream};
use crate::client::conninfo::{HostSpec, ProtocolVersion, Settings, SslNegotiation};
use crate::client::tls::{TlsClient, TlsError};
use crate::wire::auth::{AuthMethod, Authenticator, Channel, Progress};
use crate::wire::backend::{BackendKey, BackendMessage, NegotiateProtocolVersion};
use crate::wire::frame::{Frame, FrameDecoder, FrameError};
use crate::wire::frontend;
use crate::wire::server_error::{ServerError, fit_for_a_person};

/// A connection that is being made.
pub(super) struct Session {
    stream: Stream,
    decoder: FrameDecoder,
    pub(super) parameters: BTreeMap<String, String>,
    backend_key: Option<BackendKey>,
    notices: Vec<ServerError>,
    method: AuthMethod,
    /// Whether a message has come.
    heard: Heard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Something,
}

/// The parts of a connection that is ready.
pub(super) struct Parts {
    pub(super) stream: Stream,
    pub(super) decoder: FrameDecoder,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) backend_key: Option<BackendKey>,
    pub(super) notices: Vec<ServerError>,
    pub(super) method: AuthMethod,
}

/// What an ErrorResponse ends: until the server has let us in, another kind of encryption may do better.
#[derive(Debug)]
pub(super) enum StartupError {
    /// The server refused before it let us in.
    Refused(AttemptError),
    /// Anything else.
    Failed(AttemptError),
}

impl From<AttemptError> for StartupError {
    fn from(error: AttemptError) -> Self {
        Self::Failed(error)
    }
}

/// How many settings a server may report before it is ready.
const MAX_PARAMETERS: usize = 256;
/// How many notices are kept.
const MAX_NOTICES: usize = 4;
/// The longest text without a frame, in bytes, as far as more of it is waited for.
const MAX_UNFRAMED_LEN: usize = 4 << 10;
/// How much is received at once.
const RECEIVE_LEN: usize = 8 << 10;

/// What the server says to an SSLRequest.
pub(super) enum TlsAnswer {
    /// TLS may begin.
    Yes,
    /// The connection goes on in the clear, or not at all.
    No,
}

/// Asks whether the server has TLS.
pub(super) async fn request_tls(stream: &mut Stream) -> Result<TlsAnswer, AttemptError> {
    let mut request = BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(AttemptError::send)?;
    stream.flush().await.map_err(AttemptError::send)?;
    // one byte more than there can be: what comes before TLS must not be taken for what comes inside it
    let mut answer = [0; 2];
    match (stream.read(&mut answer).await.map_err(AttemptError::receive)?, answer[0]) {
        (0, _) => Err(AttemptError::Closed),
        (1, b'S') => Ok(TlsAnswer::Yes),
        (1, b'N') => Ok(TlsAnswer::No),
        (_, b'S' | b'N') => Err(AttemptError::Tls(TlsError::UnencryptedData)),
        // what it says cannot be trusted: nobody has proved anything yet (CVE-2024-10977)
        (_, b'E') => Err(AttemptError::Tls(TlsError::ErrorResponse)),
        (_, byte) => Err(AttemptError::Tls(TlsError::InvalidResponse(byte))),
    }
}

/// Sends the startup packet and goes on until the server is ready.
pub(super) async fn start(
    stream: Stream,
    tls: Option<(&TlsClient, Option<Vec<u8>>)>,
    settings: &Settings,
    host: &HostSpec,
    purpose: Purpose,
) -> Result<Session, StartupError> {
    let (tls, channel) = match tls {
        Some((client, end_point)) => (Some(client), Channel::Tls { end_point }),
        None => (None, Channel::Plain),
    };
    let database = purpose.database(settings);
    let password = settings.password_for(host, database).map(|password| password.expose().to_owned());
    let require_auth = settings.require_auth.clone();
    let mut authenticator =
        Authenticator::new(settings.user.clone(), password, channel, settings.channel_binding, require_auth);
    let mut session = Session {
        stream,
        decoder: FrameDecoder::for_startup(),
        parameters: BTreeMap::new(),
        backend_key: None,
        notices: Vec::new(),
        method: AuthMethod::None,
        heard: Heard::Nothing,
    };
    let mut packet = BytesMut::new();
    startup_packet(settings, purpose, &mut packet)?;
    session.send(&packet).await?;
    session.authenticate(&mut authenticator, settings).await?;
    session.method = authenticator.method();
    check_client_certificate(tls, settings)?;
    session.wait_until_ready().await?;
    Ok(session)
}

fn check_client_certificate(tls: Option<&TlsClient>, settings: &Settings) -> Result<(), AttemptError> {
    use crate::client::conninfo::SslCertMode;
    match tls {
        Some(client) => client.check_certificate_sent().map_err(AttemptError::Tls),
        None if settings.tls.certificate_mode == SslCertMode::Require => {
            Err(AttemptError::Tls(TlsError::CertificateNotRequested))
        }
        None => Ok(()),
    }
}

fn startup_packet(settings: &Settings, purpose: Purpose, out: &mut BytesMut) -> Result<(), AttemptError> {
    let mut body = BytesMut::new();
    body.put_u32(settings.max_protocol_version.code());
    let replication = match purpose {
        Purpose::Sql => None,
        Purpose::PhysicalReplication => Some("true"),
        Purpose::LogicalReplication => Some("database"),
    };
    let fixed = [
        ("user", Some(settings.user.as_str())),
        ("database", Some(purpose.database(settings))),
        ("replication", replication),
        ("options", settings.options.as_deref()),
        ("application_name", settings.application_name.as_deref()),
        ("client_encoding", settings.client_encoding.as_deref()),
    ];
    let session = settings.session_parameters.iter().map(|(name, value)| (*name, Some(value.as_str())));
    for (name, value) in fixed.into_iter().chain(session) {
        let Some(value) = value else { continue };
        for text in [name, value] {
            if text.contains('\0') {
                return Err(AttemptError::Encode(std::io::Error::other("string contains a zero byte")));
            }
            body.put_slice(text.as_bytes());
            body.put_u8(0);
        }
    }
    body.put_u8(0);
    let len = u32::try_from(body.len() + 4);
    out.put_u32(len.map_err(|error| AttemptError::Encode(std::io::Error::other(error)))?);
    out.put_slice(&body);
    Ok(())
}

impl Session {
    pub(super) fn into_parts(self) -> Parts {
        let Session { stream, mut decoder, parameters, backend_key, notices, method, .. } = self;
        decoder.allow_long_messages();
        Parts { stream, decoder, parameters, backend_key, notices, method }
    }

    async fn authenticate(
        &mut self,
        authenticator: &mut Authenticator,
        settings: &Settings,
    ) -> Result<(), StartupError> {
        let mut out = BytesMut::new();
        let mut negotiated = false;
        loop {
            let request = match self.next_message().await? {
                BackendMessage::Authentication(request) => request,
                BackendMessage::ErrorResponse(error) => {
                    return Err(StartupError::Refused(AttemptError::Server(error)));
                }
                BackendMessage::NegotiateProtocolVersion(answer) if !negotiated => {
                    check_negotiation(&answer, settings)?;
                    negotiated = true;
                    continue;
                }
                message => return Err(AttemptError::Unexpected { found: message.name() }.into()),
            };
            let progress = authenticator.handle_request(&request, &mut out);
            match progress.map_err(AttemptError::Authentication)? {
                Progress::Continue => self.send(&out.split()).await?,
                Progress::Done => return Ok(()),
            }
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), AttemptError> {
        loop {
            match self.next_message().await? {
                BackendMessage::ReadyForQuery => return Ok(()),
                BackendMessage::BackendKeyData(key) => self.backend_key = Some(key),
                BackendMessage::ErrorResponse(error) => return Err(AttemptError::Server(error)),
                message => return Err(AttemptError::Unexpected { found: message.name() }),
            }
        }
    }

    /// Sends a query and returns its first value; an error of the server is the answer's own.
    pub(super) async fn ask(&mut self, query: &str) -> Result<Result<String, ServerError>, AttemptError> {
        let mut out = BytesMut::new();
        frontend::query(query, &mut out)
            .map_err(|error| AttemptError::Encode(std::io::Error::other(error)))?;
        self.send(&out).await?;
        let mut answer = Ok(String::new());
        loop {
            match self.next_message().await? {
                BackendMessage::DataRow(row) if answer.is_ok() => {
                    answer = Ok(row.text(0).unwrap_or("").to_owned());
                }
                BackendMessage::ErrorResponse(error) if error.is_fatal() => {
                    return Err(AttemptError::Server(error));
                }
                BackendMessage::ErrorResponse(error) => answer = Err(error),
                BackendMessage::RowDescription(_) | BackendMessage::CommandComplete(_) => {}
                BackendMessage::ReadyForQuery => return Ok(answer),
                message => return Err(AttemptError::Unexpected { found: message.name() }),
            }
        }
    }

    /// Says farewell to a server that is not the one that was asked for.
    pub(super) async fn close(mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        let _ = self.send(&out).await;
        let _ = self.stream.shutdown().await;
    }

    /// One message; settings and notices are kept on the way.
    async fn next_message(&mut self) -> Result<BackendMessage, AttemptError> {
        loop {
            while let Some(frame) = self.next_frame().await? {
                self.heard = Heard::Something;
                match BackendMessage::parse(frame).map_err(AttemptError::Message)? {
                    BackendMessage::ParameterStatus { name, value } => {
                        if self.parameters.len() < MAX_PARAMETERS {
                            self.parameters.insert(name, value);
                        }
                    }
                    BackendMessage::NoticeResponse(notice) => {
                        if self.notices.len() < MAX_NOTICES {
                            self.notices.push(notice);
                        }
                    }
                    message => return Ok(message),
                }
            }
            let buffer = self.decoder.buffer_mut();
            buffer.reserve(RECEIVE_LEN);
            if self.stream.read_buf(buffer).await.map_err(AttemptError::receive)? == 0 {
                return Err(AttemptError::Closed);
            }
        }
    }

    /// The next frame, if it is there. A postmaster that cannot start a process for a client writes an `E`, its reason and
    /// a zero, as servers did before version 7.4 (`report_fork_failure_to_client`): the reason is taken for a length.
    async fn next_frame(&mut self) -> Result<Option<Frame>, AttemptError> {
        match self.decoder.next_frame() {
            Err(error @ FrameError::TooLong { tag: b'E', .. }) if self.heard == Heard::Nothing => {
                let text = self.unframed_text().await;
                Err(if text.is_empty() {
                    AttemptError::Frame(error)
                } else {
                    AttemptError::NotForked { text }
                })
            }
            frame => frame.map_err(AttemptError::Frame),
        }
    }

    /// What stands behind the first byte, up to a zero or the end.
    async fn unframed_text(&mut self) -> String {
        let buffer = self.decoder.buffer_mut();
        while !buffer.contains(&0) && buffer.len() < MAX_UNFRAMED_LEN {
            if self.stream.read_buf(buffer).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let text = buffer[1..].split(|&byte| byte == 0).next().unwrap_or_default();
        fit_for_a_person(text.trim_ascii_end())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), AttemptError> {
        self.stream.write_all(bytes).await.map_err(AttemptError::send)?;
        self.stream.flush().await.map_err(AttemptError::send)
    }
}

fn check_negotiation(answer: &NegotiateProtocolVersion, settings: &Settings) -> Result<(), AttemptError> {
    let problem = |problem| Err(AttemptError::Negotiation { problem });
    let asked_minor = settings.max_protocol_version.code() & 0xFFFF;
    if !answer.unrecognized_options.is_empty() {
        return problem("server reported an unsupported parameter that was not requested");
    }
    if answer.newest_minor > asked_minor {
        return problem("server requested downgrade to a higher-numbered version");
    }
    if answer.newest_minor == asked_minor {
        return problem("server negotiated but asks for no changes");
    }
    // 3.1 never was
    if answer.newest_minor == 1 {
        return problem("server requested downgrade to a version that does not exist");
    }
    if settings.min_protocol_version > ProtocolVersion::V3_0 {
        return Err(AttemptError::ProtocolTooOld {
            newest_minor: answer.newest_minor,
            min: settings.min_protocol_version,
        });
    }
    Ok(())
}

/// Whether TLS begins without a question.
pub(super) fn is_direct(settings: &Settings) -> bool {
    settings.tls.negotiation == SslNegotiation::Direct
}
