//! From settings to a connection that waits for its first command.
//!
//! Answers to `PQconnectPoll` in libpq's `fe-connect.c`: hosts in turn, the addresses of each in turn, the kinds of
//! encryption that `sslmode` allows in turn. As there, a server that cannot be reached, does not accept connections
//! now, or is not what `target_session_attrs` asks for gives way to the next host; one that refuses us does not.
//!
//! Settings are borrowed and never changed: a reconnect asks for the same protection as the first connection
//! (CVE-2020-25694).

mod backend;
mod error;
mod local_stream;
mod protection;
mod socket;
mod startup;
mod stream;
mod target;

pub use backend::Backend;
pub use error::{AttemptError, ConnectError, HostFailure, Peer, WrongServer};
pub use local_stream::LocalStream;
pub use protection::{Carrier, Protection};
pub use stream::Stream;

use std::collections::BTreeMap;

use self::socket::Address;
use self::startup::{Parts, Session, StartupError, TlsAnswer};
use super::conninfo::{HostSpec, LoadBalanceHosts, Settings, SslMode, TargetSessionAttrs};
use super::tls::{TlsClient, TlsError};
use super::{ClientError, Connection};
use crate::wire::auth::AuthenticationError;
use crate::wire::backend::BackendKey;
use crate::wire::frame::FrameDecoder;
use crate::wire::server_error::{ServerError, SqlState};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// SQL.
    Sql,
    /// A walsender without a database (`replication=true`).
    PhysicalReplication,
    /// A walsender in a database (`replication=database`): takes replication commands and SQL.
    LogicalReplication,
}

impl Purpose {
    /// The database in the startup packet, and in the password file.
    pub fn database(self, settings: &Settings) -> &str {
        match self {
            Purpose::Sql | Purpose::LogicalReplication => &settings.dbname,
            Purpose::PhysicalReplication => "replication",
        }
    }
}

/// A connection that waits for its first command.
#[derive(Debug)]
pub struct Connected {
    /// Its bytes.
    pub stream: Stream,
    /// What was received beyond the last message of the startup.
    pub decoder: FrameDecoder,
    /// The settings that the server reported.
    pub parameters: BTreeMap<String, String>,
    /// How to cancel a command.
    pub backend_key: Option<BackendKey>,
    /// What the server said on the way.
    pub notices: Vec<ServerError>,
    /// Which of the hosts it is, and which of its addresses.
    pub host: HostSpec,
    /// Its place, as messages name it.
    pub peer: Peer,
    /// How it is protected, and how the role proved who it is.
    pub protection: Protection,
}

impl Connected {
    /// The connection with its commands.
    pub fn into_connection(self) -> Result<Connection, ClientError> {
        let backend = Backend::of(self.backend_key.as_ref(), &self.stream);
        let connection = Connection::new(Box::new(self.stream), self.decoder, self.parameters, self.host)?;
        let backend_pid = self.backend_key.map(|key| key.process_id);
        let connection = connection.protected_by(self.protection).served_by(backend, backend_pid);
        Ok(connection.having_said(self.notices))
    }
}

/// Connects to the first host that will do.
pub async fn connect(settings: &Settings, purpose: Purpose) -> Result<Connected, ConnectError> {
    let mut hosts: Vec<&HostSpec> = settings.hosts.iter().collect();
    if settings.load_balance_hosts == LoadBalanceHosts::Random {
        fastrand::shuffle(&mut hosts);
    }
    let wanted: &[TargetSessionAttrs] = match &settings.target_session_attrs {
        TargetSessionAttrs::PreferStandby => &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
        wanted => std::slice::from_ref(wanted),
    };
    let mut failures = Vec::new();
    for &wanted in wanted {
        failures.clear();
        for host in &hosts {
            let mut attempts = Attempts { settings, purpose, wanted, host, failures: &mut failures };
            match attempts.run().await {
                Outcome::Connected(connected) => return Ok(*connected),
                Outcome::NextHost | Outcome::NextAddress => {}
                Outcome::Stop => return Err(failed(failures)),
            }
        }
    }
    Err(failed(failures))
}

fn failed(failures: Vec<HostFailure>) -> ConnectError {
    match failures.last().map(|failure| &failure.cause) {
        Some(AttemptError::Authentication(AuthenticationError::PasswordNeeded)) => {
            ConnectError::PasswordNeeded { failures }
        }
        _ => ConnectError::Failed { failures },
    }
}

/// The attempts at one host.
struct Attempts<'a> {
    settings: &'a Settings,
    purpose: Purpose,
    wanted: TargetSessionAttrs,
    host: &'a HostSpec,
    failures: &'a mut Vec<HostFailure>,
}

/// How an attempt ended; why is in the list of failures.
enum Outcome {
    Connected(Box<Connected>),
    NextAddress,
    NextHost,
    Stop,
}

/// A way to send what follows the first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    Tls,
}

/// How one attempt with one kind of encryption ended.
enum Attempt {
    Ready(Session),
    /// The other kind may do better.
    OtherEncryption(AttemptError),
    NextAddress(AttemptError),
    NextHost(AttemptError),
    Stop(AttemptError),
}

impl Attempts<'_> {
    async fn run(&mut self) -> Outcome {
        let timeout = self.settings.connect_timeout;
        let mut addresses = match within(timeout, socket::resolve(self.host)).await {
            Some(Ok(addresses)) => addresses,
            Some(Err(cause)) => return self.fail(None, cause, Outcome::NextHost),
            None => return self.fail(None, AttemptError::Timeout, Outcome::NextHost),
        };
        if self.settings.load_balance_hosts == LoadBalanceHosts::Random {
            fastrand::shuffle(&mut addresses);
        }
        for address in addresses {
            let outcome = match within(timeout, self.try_address(&address)).await {
                Some(outcome) => outcome,
                None => self.fail(Some(&address), AttemptError::Timeout, Outcome::NextAddress),
            };
            if !matches!(outcome, Outcome::NextAddress) {
                return outcome;
            }
        }
        Outcome::NextHost
    }

    /// Tries each kind of encryption that `sslmode` allows, in its order.
    async fn try_address(&mut self, address: &Address) -> Outcome {
        let kinds = allowed_encryption(address, self.settings.tls.mode);
        for (index, &kind) in kinds.iter().enumerate() {
            let alternative = kinds.get(index + 1).copied();
            match self.attempt(address, kind, alternative).await {
                Attempt::Ready(session) => return Outcome::Connected(self.connected(session, address)),
                Attempt::OtherEncryption(cause) if alternative.is_some() => {
                    self.fail(Some(address), cause, Outcome::NextAddress);
                }
                Attempt::NextAddress(cause) => return self.fail(Some(address), cause, Outcome::NextAddress),
                Attempt::NextHost(cause) => return self.fail(Some(address), cause, Outcome::NextHost),
                Attempt::OtherEncryption(cause) | Attempt::Stop(cause) => {
                    return self.fail(Some(address), cause, Outcome::Stop);
                }
            }
        }
        Outcome::Stop
    }

    /// One socket: encryption, startup, and whether the server is the right kind.
    async fn attempt(
        &self,
        address: &Address,
        encryption: Encryption,
        alternative: Option<Encryption>,
    ) -> Attempt {
        let mut stream = match socket::open(address, self.settings).await {
            Ok(stream) => stream,
            Err(cause @ (AttemptError::ConnectTcp(_) | AttemptError::ConnectSocket(_))) => {
                return Attempt::NextAddress(cause);
            }
            Err(cause) => return Attempt::Stop(cause),
        };
        let mut tls = None;
        if encryption == Encryption::Tls {
            let answer = if startup::is_direct(self.settings) {
                Ok(TlsAnswer::Yes)
            } else {
                startup::request_tls(&mut stream).await
            };
            match answer {
                Ok(TlsAnswer::Yes) => {
                    let client = match TlsClient::new(&self.settings.tls, self.host.name.as_deref()) {
                        Ok(client) => client,
                        Err(error) => return Attempt::OtherEncryption(AttemptError::Tls(error)),
                    };
                    match handshake(&client, stream).await {
                        Ok((encrypted, end_point)) => {
                            stream = encrypted;
                            tls = Some((client, end_point));
                        }
                        Err(error) => return Attempt::OtherEncryption(AttemptError::Tls(error)),
                    }
                }
                // the same connection goes on in the clear
                Ok(TlsAnswer::No) if alternative == Some(Encryption::Plain) => {}
                Ok(TlsAnswer::No) => {
                    return Attempt::OtherEncryption(AttemptError::Tls(TlsError::NotSupported));
                }
                Err(cause) => return Attempt::Stop(cause),
            }
        }
        let tls = tls.as_ref().map(|(client, end_point)| (client, end_point.clone()));
        let encrypted = tls.is_some();
        let session = startup::start(stream, tls, self.settings, self.host, self.purpose).await;
        match session {
            Ok(session) => self.check_target(session).await,
            Err(error) => classify(error, encrypted || encryption == Encryption::Plain),
        }
    }

    async fn check_target(&self, mut session: Session) -> Attempt {
        match target::check(&mut session, self.wanted).await {
            Ok(()) => Attempt::Ready(session),
            Err(cause @ (AttemptError::WrongServer(_) | AttemptError::SessionQuery { .. })) => {
                session.close().await;
                Attempt::NextHost(cause)
            }
            Err(cause) => Attempt::Stop(cause),
        }
    }

    fn connected(&self, session: Session, address: &Address) -> Box<Connected> {
        let Parts { stream, decoder, parameters, backend_key, notices, method } = session.into_parts();
        let (host, peer) = (address.pin(self.host), address.peer(self.host));
        let protection = Protection { carrier: stream.carrier(), method };
        Box::new(Connected { stream, decoder, parameters, backend_key, notices, host, peer, protection })
    }

    fn fail(&mut self, address: Option<&Address>, cause: AttemptError, outcome: Outcome) -> Outcome {
        let peer = address.map(|address| address.peer(self.host));
        self.failures.push(HostFailure { peer, cause });
        outcome
    }
}

/// What follows from a startup that failed. `other_encryption` is whether the other kind was not yet spoken.
fn classify(error: StartupError, other_encryption: bool) -> Attempt {
    match error {
        StartupError::Refused(AttemptError::Server(error))
            if error.sqlstate == SqlState::CANNOT_CONNECT_NOW =>
        {
            Attempt::NextHost(AttemptError::Server(error))
        }
        StartupError::Failed(cause @ AttemptError::NotForked { .. }) => Attempt::NextHost(cause),
        StartupError::Refused(cause) if other_encryption => Attempt::OtherEncryption(cause),
        StartupError::Refused(cause) | StartupError::Failed(cause) => Attempt::Stop(cause),
    }
}

async fn handshake(client: &TlsClient, stream: Stream) -> Result<(Stream, Option<Vec<u8>>), TlsError> {
    match stream {
        Stream::Tcp(stream) => {
            let session = client.handshake(stream).await?;
            Ok((Stream::Tls(Box::new(session.stream)), session.end_point))
        }
        // sslmode has no meaning for anything else, and allowed_encryption says so
        Stream::Unix(_) | Stream::Tls(_) | Stream::Other(_) => Err(TlsError::NotSupported),
    }
}

fn allowed_encryption(address: &Address, mode: SslMode) -> &'static [Encryption] {
    match (address, mode) {
        (Address::Socket(_), _) | (Address::Tcp(_), SslMode::Disable) => &[Encryption::Plain],
        (Address::Tcp(_), SslMode::Allow) => &[Encryption::Plain, Encryption::Tls],
        (Address::Tcp(_), SslMode::Prefer) => &[Encryption::Tls, Encryption::Plain],
        (Address::Tcp(_), SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encryption::Tls],
    }
}

/// `None` when it took too long.
async fn within<F: Future>(timeout: Option<std::time::Duration>, future: F) -> Option<F::Output> {
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, future).await.ok(),
        None => Some(future.await),
    }
}
