//! How a connection is protected, and how the role proved who it is.

use super::Stream;
use crate::wire::auth::AuthMethod;

/// What lies between here and the server, and what was asked of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// What carries the connection.
    pub carrier: Carrier,
    /// What the server asked for; with SCRAM, that it may still have been bound to TLS or not is not said.
    pub method: AuthMethod,
}

/// What carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A Unix socket, or a pipe in a test.
    Local,
    /// TCP, in the clear.
    Tcp,
    /// TLS over TCP.
    Tls {
        /// The version, as PostgreSQL writes it.
        version: &'static str,
    },
}

impl Stream {
    /// What this is.
    pub fn carrier(&self) -> Carrier {
        match self {
            Stream::Unix(_) | Stream::Other(_) => Carrier::Local,
            Stream::Tcp(_) => Carrier::Tcp,
            Stream::Tls(stream) => {
                let version = match stream.get_ref().1.protocol_version() {
                    Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
                    Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                    _ => "TLS",
                };
                Carrier::Tls { version }
            }
        }
    }
}
