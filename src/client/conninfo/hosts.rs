//! Hosts, addresses and ports: three lists that must fit together.
//!
//! Answers to the first half of `pqConnectOptions2` in libpq's `fe-connect.c`. Departure: a port or an address that
//! cannot be one is an error at once, not when its turn comes.

use std::net::IpAddr;

use super::values::parse_integer;
use super::{ConnInfoError, Environment};

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// The host as written, if it was: certificates and password files know it by this name.
    pub name: Option<String>,
    /// Where it is.
    pub address: HostAddress,
    /// Its port; a part of a socket's name, too.
    pub port: u16,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAddress {
    /// A name for the resolver, or an address in its place.
    Name(String),
    /// An address (`hostaddr`), perhaps with a scope: the resolver is not asked.
    Address(String),
    /// The directory of a Unix socket; with `@` first, a name in the abstract namespace.
    SocketDir(String),
    /// Nothing was written: the first of the usual directories that has a socket.
    DefaultSocketDir,
}

/// Where servers put their sockets: Debian's directory, and PostgreSQL's own default.
pub(crate) const DEFAULT_SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The most hosts in one string.
const MAX_HOSTS: usize = 1000;

/// `PGPORT` of a build without options.
const DEFAULT_PORT: u16 = 5432;

impl HostSpec {
    /// Whether the server is reached through a Unix socket.
    pub fn is_socket(&self) -> bool {
        matches!(self.address, HostAddress::SocketDir(_) | HostAddress::DefaultSocketDir)
    }

    /// The server's place for people, such as `db1:5432` or `/run/postgresql:5432`; escaped.
    pub fn place(&self) -> String {
        let host = match (&self.name, &self.address) {
            (Some(name), _) => name,
            (None, HostAddress::Name(host) | HostAddress::Address(host) | HostAddress::SocketDir(host)) => {
                host
            }
            (None, HostAddress::DefaultSocketDir) => "local socket",
        };
        format!("{}:{}", host.escape_debug(), self.port)
    }

    /// The names by which a password file may know the host. Which of the usual directories is a libpq's own, and so
    /// `localhost` to it, depends on its build.
    pub(crate) fn passfile_names(&self) -> Vec<&str> {
        match &self.address {
            HostAddress::DefaultSocketDir => {
                std::iter::once("localhost").chain(DEFAULT_SOCKET_DIRS).collect()
            }
            HostAddress::SocketDir(dir) if DEFAULT_SOCKET_DIRS.contains(&dir.as_str()) => {
                vec!["localhost", dir]
            }
            HostAddress::Name(name) | HostAddress::SocketDir(name) => vec![name],
            HostAddress::Address(address) => vec![self.name.as_deref().unwrap_or(address)],
        }
    }
}

/// Pairs the three lists; each is as written, and empty when it was not.
pub(super) fn pair(host: &str, hostaddr: &str, port: &str) -> Result<Vec<HostSpec>, ConnInfoError> {
    let split = |list: &str| -> Vec<String> {
        if list.is_empty() { Vec::new() } else { list.split(',').map(str::to_owned).collect() }
    };
    let (names, addresses) = (split(host), split(hostaddr));
    let count = if addresses.is_empty() { names.len().max(1) } else { addresses.len() };
    if count > MAX_HOSTS {
        return Err(ConnInfoError::TooManyHosts { count, limit: MAX_HOSTS });
    }
    if !names.is_empty() && names.len() != count {
        return Err(ConnInfoError::HostAddressCount { hosts: names.len(), addresses: count });
    }
    let ports = split(port).iter().map(|port| parse_port(port)).collect::<Result<Vec<_>, _>>()?;
    if ports.len() > 1 && ports.len() != count {
        return Err(ConnInfoError::PortCount { ports: ports.len(), hosts: count });
    }
    (0..count)
        .map(|index| {
            let at = |list: &[String]| list.get(index).filter(|text| !text.is_empty()).cloned();
            let port = match ports.len() {
                0 => DEFAULT_PORT,
                1 => ports[0],
                _ => ports[index],
            };
            let name = at(&names);
            let address = match (at(&addresses), &name) {
                (Some(address), _) => HostAddress::Address(parse_address(address)?),
                (None, Some(name)) if is_socket_dir(name) => HostAddress::SocketDir(name.clone()),
                (None, Some(name)) => HostAddress::Name(name.clone()),
                (None, None) => HostAddress::DefaultSocketDir,
            };
            Ok(HostSpec { name, address, port })
        })
        .collect()
}

/// The directory that stands for "no host": the first with this port's socket in it.
pub(crate) fn default_socket_dir(port: u16, environment: &dyn Environment) -> &'static str {
    let has = |dir: &&&str| environment.status(format!("{dir}/.s.PGSQL.{port}").as_ref()).is_ok();
    DEFAULT_SOCKET_DIRS.iter().find(has).unwrap_or(&DEFAULT_SOCKET_DIRS[0])
}

fn is_socket_dir(name: &str) -> bool {
    name.starts_with(['/', '@'])
}

fn parse_port(port: &str) -> Result<u16, ConnInfoError> {
    if port.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let number = parse_integer("port", port)?;
    let valid = u16::try_from(number).ok().filter(|&number| number != 0);
    valid.ok_or_else(|| ConnInfoError::InvalidPort { value: port.to_owned() })
}

fn parse_address(address: String) -> Result<String, ConnInfoError> {
    let without_scope = address.split_once('%').map_or(address.as_str(), |(front, _)| front);
    match without_scope.parse::<IpAddr>() {
        Ok(_) => Ok(address),
        Err(_) => Err(ConnInfoError::InvalidHostAddress { value: address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HostAddress::{Address, DefaultSocketDir, Name, SocketDir};
    use proptest::prelude::*;

    fn paired(host: &str, hostaddr: &str, port: &str) -> Vec<(Option<String>, HostAddress, u16)> {
        pair(host, hostaddr, port)
            .unwrap()
            .into_iter()
            .map(|spec| (spec.name, spec.address, spec.port))
            .collect()
    }

    #[test]
    fn pairs_as_libpq_does() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(paired("", "", ""), [(None, DefaultSocketDir, 5432)]);
        assert_eq!(paired("a", "", "1"), [(some("a"), Name("a".into()), 1)]);
        assert_eq!(
            paired("a,/s,,@x", "", "7"),
            [
                (some("a"), Name("a".into()), 7),
                (some("/s"), SocketDir("/s".into()), 7),
                (None, DefaultSocketDir, 7),
                (some("@x"), SocketDir("@x".into()), 7),
            ]
        );
        assert_eq!(
            paired("a,b", "", "1,"),
            [(some("a"), Name("a".into()), 1), (some("b"), Name("b".into()), 5432)]
        );
        assert_eq!(
            paired("a,b", "::1,", "1"),
            [(some("a"), Address("::1".into()), 1), (some("b"), Name("b".into()), 1)]
        );
        assert_eq!(paired("", "127.0.0.1", ""), [(None, Address("127.0.0.1".into()), 5432)]);
    }

    #[test]
    fn says_what_does_not_fit() {
        let error = |host, hostaddr, port| pair(host, hostaddr, port).unwrap_err().to_string();
        assert_eq!(error("a,b", "::1", ""), "could not match 2 host names to 1 hostaddr values");
        assert_eq!(error("a,b", "", "1,2,3"), "could not match 3 port numbers to 2 hosts");
        assert_eq!(error("a", "", "1,2"), "could not match 2 port numbers to 1 hosts");
        assert_eq!(error("a", "", "0"), "invalid port number: \"0\"");
        assert_eq!(error("a", "", "65536"), "invalid port number: \"65536\"");
        assert_eq!(error("a", "", "x"), "invalid integer value \"x\" for connection option \"port\"");
        assert_eq!(error("a", "b", ""), "could not parse network address \"b\"");
        assert!(error(&"a,".repeat(1000), "", "").starts_with("too many hosts"));
    }

    proptest! {
        #[test]
        fn no_lists_panic(host in "[a,/@]{0,9}", hostaddr in "[1.:,]{0,9}", port in "[1,]{0,9}") {
            let _ = pair(&host, &hostaddr, &port);
        }
    }
}
