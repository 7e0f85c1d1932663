//! From a host to its addresses, from an address to a socket.
//!
//! Answers to the states up to `CONNECTION_MADE` of `PQconnectPoll` in libpq's `fe-connect.c`.

use std::io;
use std::net::SocketAddr;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, UnixStream};

use super::{AttemptError, LocalStream, Peer, Stream};
use crate::client::conninfo::{
    HostAddress, HostSpec, Settings, SystemEnvironment, default_socket_dir, user_name_of,
};

/// A place to knock.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// A Unix socket's path; `@` first stands for the abstract namespace.
    Socket(String),
    /// An address and port.
    Tcp(SocketAddr),
}

/// The longest path of a Unix socket: `sun_path` without its zero byte.
const MAX_SOCKET_PATH_LEN: usize = 107;

impl Address {
    /// How messages name it.
    pub(super) fn peer(&self, host: &HostSpec) -> Peer {
        match (self, &host.address) {
            (Address::Socket(path), _) => Peer::Socket { path: path.clone() },
            (Address::Tcp(address), HostAddress::Name(shown) | HostAddress::Address(shown)) => {
                Peer::Tcp { host: shown.clone(), address: address.ip().to_string(), port: host.port }
            }
            (Address::Tcp(address), _) => {
                let address = address.ip().to_string();
                Peer::Tcp { host: address.clone(), address, port: host.port }
            }
        }
    }
}

impl Address {
    /// The host with this address as its only one. Its name stays: certificates and password files know it by that.
    pub(super) fn pin(&self, host: &HostSpec) -> HostSpec {
        let address = match self {
            Address::Socket(_) => return host.clone(),
            Address::Tcp(SocketAddr::V6(address)) if address.scope_id() != 0 => {
                format!("{}%{}", address.ip(), address.scope_id())
            }
            Address::Tcp(address) => address.ip().to_string(),
        };
        let name = match &host.address {
            HostAddress::Name(name) => Some(name.clone()),
            _ => host.name.clone(),
        };
        HostSpec { name, address: HostAddress::Address(address), port: host.port }
    }
}

/// Every address of a host, in the resolver's order; at least one.
pub(super) async fn resolve(host: &HostSpec) -> Result<Vec<Address>, AttemptError> {
    let (HostAddress::Name(name) | HostAddress::Address(name)) = &host.address else {
        return socket_path(host).map(|path| vec![Address::Socket(path)]);
    };
    let failed = |source| AttemptError::Resolve { host: name.clone(), source };
    let found = tokio::net::lookup_host((name.as_str(), host.port)).await.map_err(failed)?;
    let found: Vec<_> = found.map(Address::Tcp).collect();
    if found.is_empty() { Err(failed(io::Error::other("no addresses"))) } else { Ok(found) }
}

fn socket_path(host: &HostSpec) -> Result<String, AttemptError> {
    let dir = match &host.address {
        HostAddress::SocketDir(dir) => dir.as_str(),
        _ => default_socket_dir(host.port, &SystemEnvironment),
    };
    let path = format!("{dir}/.s.PGSQL.{}", host.port);
    if path.len() > MAX_SOCKET_PATH_LEN {
        return Err(AttemptError::SocketPathTooLong { path, limit: MAX_SOCKET_PATH_LEN });
    }
    Ok(path)
}

/// Opens a socket with all its options set, to a server that runs as who it should.
pub(super) async fn open(address: &Address, settings: &Settings) -> Result<Stream, AttemptError> {
    match address {
        Address::Socket(path) => {
            let stream = match path.strip_prefix('@') {
                Some(name) => UnixStream::connect(format!("\0{name}")).await,
                None => UnixStream::connect(path).await,
            };
            let stream = stream.map_err(AttemptError::ConnectSocket)?;
            check_peer(&stream, settings)?;
            LocalStream::new(stream).map(Stream::Unix).map_err(AttemptError::ConnectSocket)
        }
        Address::Tcp(address) => {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let socket = socket.map_err(AttemptError::ConnectTcp)?;
            set_options(&socket, settings)?;
            socket.connect(*address).await.map(Stream::Tcp).map_err(AttemptError::ConnectTcp)
        }
    }
}

fn set_options(socket: &TcpSocket, settings: &Settings) -> Result<(), AttemptError> {
    let failed = |option| move |source| AttemptError::SocketOption { option, source };
    socket.set_nodelay(true).map_err(failed("TCP_NODELAY"))?;
    let socket = SockRef::from(socket);
    let keepalives = settings.keepalives;
    if keepalives.enabled {
        let mut parameters = TcpKeepalive::new();
        if let Some(idle) = keepalives.idle {
            parameters = parameters.with_time(idle);
        }
        if let Some(interval) = keepalives.interval {
            parameters = parameters.with_interval(interval);
        }
        if let Some(count) = keepalives.count {
            parameters = parameters.with_retries(count);
        }
        socket.set_tcp_keepalive(&parameters).map_err(failed("SO_KEEPALIVE"))?;
    }
    if let Some(timeout) = settings.tcp_user_timeout {
        socket.set_tcp_user_timeout(Some(timeout)).map_err(failed("TCP_USER_TIMEOUT"))?;
    }
    Ok(())
}

/// `requirepeer`: anybody could have put a socket there.
fn check_peer(stream: &UnixStream, settings: &Settings) -> Result<(), AttemptError> {
    let Some(required) = &settings.requirepeer else { return Ok(()) };
    let uid = stream.peer_cred().map_err(AttemptError::PeerCredentials)?.uid();
    let name = user_name_of(uid).map_err(AttemptError::PeerCredentials)?;
    if name.as_ref() == Some(required) {
        return Ok(());
    }
    let actual = name.unwrap_or_else(|| uid.to_string());
    Err(AttemptError::PeerMismatch { required: required.clone(), actual })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_host_keeps_its_name_and_has_one_address() {
        let host = |name: Option<&str>, address| HostSpec { name: name.map(str::to_owned), address, port: 7 };
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        let by_name = host(Some("db"), HostAddress::Name("db".to_owned()));
        let pinned = host(Some("db"), HostAddress::Address("10.0.0.2".to_owned()));
        assert_eq!(tcp("10.0.0.2:7").pin(&by_name), pinned);
        let scoped = host(None, HostAddress::Address("fe80::1%eth0".to_owned()));
        let pinned = host(None, HostAddress::Address("fe80::1%3".to_owned()));
        assert_eq!(tcp("[fe80::1%3]:7").pin(&scoped), pinned);
        let socket = host(None, HostAddress::DefaultSocketDir);
        assert_eq!(Address::Socket("/tmp/.s.PGSQL.7".to_owned()).pin(&socket), socket);
    }
}
