//! Authentication: what the server asks and what it gets, as a state machine without I/O.
//!
//! Answers to `pg_fe_sendauth` and `check_expected_areq` in libpq's `fe-auth.c`, and to `fe-auth-scram.c` by way of
//! `postgres-protocol`. Two invariants hold whatever the server sends:
//!
//! - once SCRAM has begun, [`Progress::Done`] means that the server has proved that it knows the password, too;
//! - under `channel_binding=require`, [`Progress::Done`] means that this proof is bound to our TLS channel.
//!
//! Departures: libpq lets a server break off SCRAM and say "you are in" (unless `require_auth` forbids it) and ask
//! for a second method after the first; here both are errors. Iteration counts and message lengths are bounded.

mod require;

pub use require::{AuthMethod, RequireAuth, RequireAuthError};

use std::io;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use super::backend::AuthenticationRequest;

/// `channel_binding`: whether SCRAM must be bound to the TLS channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBindingMode {
    /// It is not.
    Disable,
    /// It is, if the server can.
    Prefer,
    /// It is, or there is no connection.
    Require,
}

/// What carries the connection, as far as authentication is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// No TLS.
    Plain,
    /// TLS.
    Tls {
        /// The `tls-server-end-point` value of RFC 5929, or `None` when the server's certificate has none: its
        /// signature algorithm does not say which digest to use.
        end_point: Option<Vec<u8>>,
    },
}

/// The client's side of one authentication.
pub struct Authenticator {
    user: String,
    password: Option<String>,
    channel: Channel,
    channel_binding: ChannelBindingMode,
    require_auth: RequireAuth,
    method: AuthMethod,
    state: State,
}

enum State {
    /// Nothing was asked yet.
    Start,
    /// The password, or its hash, is on its way.
    PasswordSent,
    /// SCRAM's first message is on its way.
    ScramBegun { scram: ScramSha256, bound: bool },
    /// SCRAM's proof is on its way.
    ScramProved { scram: ScramSha256, bound: bool },
    /// The server has proved itself.
    ScramVerified { bound: bool },
    /// The server has let us in, or something went wrong: nothing is answered any more.
    Ended,
}

/// What one request led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The server has more to ask; what is to be sent was appended to the output.
    Continue,
    /// The server has let us in, by a way that is allowed.
    Done,
}

/// The most SCRAM iterations done for a server: each costs, and the server chooses (CVE-2026-42198).
/// `postgres-protocol` has the same bound; PostgreSQL's default is 4096.
pub const MAX_SCRAM_ITERATIONS: u32 = 100_000;

/// The longest SASL message taken, in bytes; a server's are about 100.
pub const MAX_SASL_MESSAGE_LEN: usize = 4096;

/// Why authentication failed on our side. What the server refuses comes as an ErrorResponse.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The server wants a password and there is none.
    #[error("fe_sendauth: no password supplied")]
    PasswordNeeded,
    /// `require_auth` forbids what the server asks for.
    #[error("authentication method requirement \"{requirement}\" failed: {reason}")]
    MethodNotAllowed {
        /// The option's value.
        requirement: String,
        /// What the server did.
        reason: &'static str,
    },
    /// `channel_binding=require`, and a method that cannot.
    #[error("channel binding required but not supported by server's authentication request")]
    BindingImpossible,
    /// `channel_binding=require`, and the server let us in without.
    #[error("channel binding required, but server authenticated client without channel binding")]
    NotBound,
    /// `channel_binding=require`, and no TLS.
    #[error("channel binding required, but SSL not in use")]
    BindingWithoutTls,
    /// `channel_binding=require`, and SCRAM without it.
    #[error(
        "channel binding is required, but server did not offer an authentication method that supports channel binding"
    )]
    BindingNotOffered,
    /// `channel_binding=require`, and a certificate that has no `tls-server-end-point`.
    #[error(
        "channel binding is required, but the server certificate's signature algorithm has no digest for it"
    )]
    NoEndPoint,
    /// Only somebody in the middle offers this.
    #[error("server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection")]
    PlusWithoutTls,
    /// Nothing that we know.
    #[error("none of the server's SASL authentication mechanisms are supported")]
    NoMechanism,
    /// A method that pgwake does not have.
    #[error("{} authentication not supported", unsupported_name(*.code))]
    Unsupported {
        /// `AUTH_REQ_…` in PostgreSQL's `protocol.h`.
        code: u32,
    },
    /// A request that has no place here.
    #[error("unexpected authentication request from server: {request}")]
    Unexpected {
        /// What it asks for.
        request: &'static str,
    },
    /// The server broke off SCRAM before its proof.
    #[error("server let the client in without proving that it knows the password")]
    ServerNotVerified,
    /// A message that no honest server sends.
    #[error("SASL message from server is too long: {len} bytes")]
    MessageTooLong {
        /// Its length.
        len: usize,
    },
    /// More work than we do for a server, or none.
    #[error("SCRAM iteration count {count} from server is out of range (1 to {MAX_SCRAM_ITERATIONS})")]
    IterationCount {
        /// The count.
        count: u64,
    },
    /// The messages do not fit together, or the server does not know the password.
    #[error("SCRAM exchange with server failed")]
    Scram(#[source] io::Error),
    /// A password with a zero byte, say.
    #[error("could not encode an authentication message")]
    Encode(#[source] io::Error),
}

impl Authenticator {
    /// Ready for the server's first request.
    pub fn new(
        user: impl Into<String>,
        password: Option<String>,
        channel: Channel,
        channel_binding: ChannelBindingMode,
        require_auth: RequireAuth,
    ) -> Self {
        let password = password.filter(|password| !password.is_empty());
        Authenticator {
            user: user.into(),
            password,
            channel,
            channel_binding,
            require_auth,
            method: AuthMethod::None,
            state: State::Start,
        }
    }

    /// What the server has asked for so far.
    pub fn method(&self) -> AuthMethod {
        self.method
    }

    /// Takes one request; what is to be sent is appended to `out`.
    ///
    /// After an error, or after [`Progress::Done`], every request is an error.
    pub fn handle_request(
        &mut self,
        request: &AuthenticationRequest,
        out: &mut BytesMut,
    ) -> Result<Progress, AuthenticationError> {
        use AuthenticationRequest as Request;
        let allowed = self.check_allowed(request);
        let state = std::mem::replace(&mut self.state, State::Ended);
        allowed?;
        match (state, request) {
            (State::Start | State::PasswordSent | State::ScramVerified { .. }, Request::Ok) => {
                return Ok(Progress::Done);
            }
            (State::ScramBegun { .. } | State::ScramProved { .. }, Request::Ok) => {
                return Err(AuthenticationError::ServerNotVerified);
            }
            (State::Start, Request::CleartextPassword) => {
                let password = self.password()?.as_bytes();
                frontend::password_message(password, out).map_err(AuthenticationError::Encode)?;
                self.method = AuthMethod::Password;
                self.state = State::PasswordSent;
            }
            (State::Start, Request::Md5Password { salt }) => {
                let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), *salt);
                frontend::password_message(hash.as_bytes(), out).map_err(AuthenticationError::Encode)?;
                self.method = AuthMethod::Md5;
                self.state = State::PasswordSent;
            }
            (State::Start, Request::Sasl { mechanisms }) => {
                self.begin_scram(mechanisms, out)?;
                self.method = AuthMethod::ScramSha256;
            }
            (State::ScramBegun { mut scram, bound }, Request::SaslContinue(message)) => {
                check_server_first(message)?;
                scram.update(message).map_err(AuthenticationError::Scram)?;
                frontend::sasl_response(scram.message(), out).map_err(AuthenticationError::Encode)?;
                self.state = State::ScramProved { scram, bound };
            }
            (State::ScramProved { mut scram, bound }, Request::SaslFinal(message)) => {
                check_len(message)?;
                scram.finish(message).map_err(AuthenticationError::Scram)?;
                self.state = State::ScramVerified { bound };
            }
            (_, Request::Unsupported { code }) => {
                return Err(AuthenticationError::Unsupported { code: *code });
            }
            (_, request) => return Err(AuthenticationError::Unexpected { request: describe(request) }),
        }
        Ok(Progress::Continue)
    }

    /// What the options forbid, before anything is sent.
    fn check_allowed(&self, request: &AuthenticationRequest) -> Result<(), AuthenticationError> {
        use AuthenticationRequest as Request;
        let finished = matches!(self.state, State::PasswordSent | State::ScramVerified { .. });
        let reason = match request {
            Request::Ok if finished || !self.require_auth.is_required() => None,
            Request::Ok => Some("server did not complete authentication"),
            Request::CleartextPassword => self.forbidden(AuthMethod::Password, request),
            Request::Md5Password { .. } => self.forbidden(AuthMethod::Md5, request),
            Request::Sasl { .. } => self.forbidden(AuthMethod::ScramSha256, request),
            Request::Unsupported { code: 7 } => self.forbidden(AuthMethod::Gss, request),
            Request::Unsupported { code: 9 } => self.forbidden(AuthMethod::Sspi, request),
            Request::SaslContinue(_) | Request::SaslFinal(_) | Request::Unsupported { .. } => None,
        };
        if let Some(reason) = reason {
            let requirement = self.require_auth.as_str().to_owned();
            return Err(AuthenticationError::MethodNotAllowed { requirement, reason });
        }
        if self.channel_binding == ChannelBindingMode::Require {
            return match (request, &self.state) {
                (Request::Sasl { .. } | Request::SaslContinue(_) | Request::SaslFinal(_), _) => Ok(()),
                (Request::Ok, State::ScramVerified { bound: true }) => Ok(()),
                (Request::Ok, _) => Err(AuthenticationError::NotBound),
                _ => Err(AuthenticationError::BindingImpossible),
            };
        }
        Ok(())
    }

    fn forbidden(&self, method: AuthMethod, request: &AuthenticationRequest) -> Option<&'static str> {
        (!self.require_auth.allows(method)).then(|| describe(request))
    }

    fn password(&self) -> Result<&str, AuthenticationError> {
        self.password.as_deref().ok_or(AuthenticationError::PasswordNeeded)
    }

    fn begin_scram(&mut self, mechanisms: &[String], out: &mut BytesMut) -> Result<(), AuthenticationError> {
        let (mechanism, binding) = self.choose_mechanism(mechanisms)?;
        let scram = ScramSha256::new(self.password()?.as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), out)
            .map_err(AuthenticationError::Encode)?;
        self.state = State::ScramBegun { scram, bound: mechanism == SCRAM_SHA_256_PLUS };
        Ok(())
    }

    /// The first half of `pg_SASL_init`.
    fn choose_mechanism(
        &self,
        mechanisms: &[String],
    ) -> Result<(&'static str, ChannelBinding), AuthenticationError> {
        let required = self.channel_binding == ChannelBindingMode::Require;
        let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let plus = offered(SCRAM_SHA_256_PLUS);
        let end_point = match &self.channel {
            Channel::Plain if required => return Err(AuthenticationError::BindingWithoutTls),
            Channel::Plain if plus => return Err(AuthenticationError::PlusWithoutTls),
            Channel::Plain => None,
            Channel::Tls { .. } if self.channel_binding == ChannelBindingMode::Disable => None,
            Channel::Tls { end_point: None } if required && plus => {
                return Err(AuthenticationError::NoEndPoint);
            }
            Channel::Tls { end_point: None } => None,
            // tells a server that can bind that somebody has hidden it from us
            Channel::Tls { .. } if !plus && !required && offered(SCRAM_SHA_256) => {
                return Ok((SCRAM_SHA_256, ChannelBinding::unrequested()));
            }
            Channel::Tls { end_point } => end_point.clone().filter(|_| plus),
        };
        match end_point {
            Some(end_point) => Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point))),
            None if !plus && !offered(SCRAM_SHA_256) => Err(AuthenticationError::NoMechanism),
            None if required => Err(AuthenticationError::BindingNotOffered),
            None if !offered(SCRAM_SHA_256) => Err(AuthenticationError::NoMechanism),
            None => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        }
    }
}

/// Bounds the work before it is begun.
fn check_server_first(message: &[u8]) -> Result<(), AuthenticationError> {
    check_len(message)?;
    let count = message.split(|&b| b == b',').find_map(|attribute| attribute.strip_prefix(b"i="));
    let count = count.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
    match count {
        Some(count) if !(1..=u64::from(MAX_SCRAM_ITERATIONS)).contains(&count) => {
            Err(AuthenticationError::IterationCount { count })
        }
        // what has no readable count is refused by whoever reads it
        _ => Ok(()),
    }
}

fn check_len(message: &[u8]) -> Result<(), AuthenticationError> {
    if message.len() > MAX_SASL_MESSAGE_LEN {
        return Err(AuthenticationError::MessageTooLong { len: message.len() });
    }
    Ok(())
}

fn describe(request: &AuthenticationRequest) -> &'static str {
    match request {
        AuthenticationRequest::Ok => "server let the client in",
        AuthenticationRequest::CleartextPassword => "server requested a cleartext password",
        AuthenticationRequest::Md5Password { .. } => "server requested a hashed password",
        AuthenticationRequest::Sasl { .. } => "server requested SASL authentication",
        AuthenticationRequest::SaslContinue(_) => "server continued SASL authentication",
        AuthenticationRequest::SaslFinal(_) => "server completed SASL authentication",
        AuthenticationRequest::Unsupported { code: 7 } => "server requested GSSAPI authentication",
        AuthenticationRequest::Unsupported { code: 9 } => "server requested SSPI authentication",
        AuthenticationRequest::Unsupported { .. } => "server requested an unknown authentication type",
    }
}

fn unsupported_name(code: u32) -> String {
    match code {
        1 => "Kerberos 4".to_owned(),
        2 => "Kerberos 5".to_owned(),
        4 => "crypt".to_owned(),
        7 | 8 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        code => format!("method {code}"),
    }
}

#[cfg(test)]
mod tests;
