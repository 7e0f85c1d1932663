//! The process that serves a connection, as far as it can be known from this end.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::Stream;
use crate::wire::backend::BackendKey;

/// The process that serves a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The server, or something before it, is on this host, and gave the process this number. It may run apart from the
    /// processes that are seen here, as in a container.
    Here {
        /// Its process id.
        process_id: u32,
    },
    /// On another host.
    Elsewhere,
    /// Its number was not told.
    Unknown,
}

impl Backend {
    /// What the server said of it, and where the stream leads.
    pub(super) fn of(key: Option<&BackendKey>, stream: &Stream) -> Self {
        match (key, is_here(stream)) {
            (None, _) => Backend::Unknown,
            (Some(key), true) => Backend::Here { process_id: key.process_id },
            (Some(_), false) => Backend::Elsewhere,
        }
    }
}

/// Whether the other end is on this host: a connection has one address at both ends only there.
fn is_here(stream: &Stream) -> bool {
    let both_ends = |stream: &TcpStream| {
        let ip = |address: std::io::Result<SocketAddr>| address.map(|address| address.ip()).ok();
        ip(stream.local_addr()).is_some_and(|local| Some(local) == ip(stream.peer_addr()))
    };
    match stream {
        Stream::Unix(_) => true,
        Stream::Tcp(stream) => both_ends(stream),
        Stream::Tls(stream) => both_ends(stream.get_ref().0.get_ref()),
        Stream::Other(_) => false,
    }
}
