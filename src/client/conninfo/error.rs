//! What can be wrong with connection options, in libpq's words where it has some.

use std::io;
use std::path::PathBuf;

/// A connection string that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseConnInfoError {
    /// A word without a value.
    #[error("missing \"=\" after \"{token}\" in connection info string")]
    MissingEquals {
        /// The word.
        token: String,
    },
    /// A word without a value that may be a part of a password.
    #[error("missing \"=\" after the value of \"{keyword}\" in connection info string")]
    MissingEqualsAfterSecret {
        /// The option before it.
        keyword: &'static str,
    },
    /// No closing quote.
    #[error("unterminated quoted string in connection info string")]
    UnterminatedQuote,
    /// A name that libpq does not know.
    #[error("invalid connection option \"{keyword}\"")]
    InvalidOption {
        /// The name.
        keyword: String,
    },
    /// A zero byte, which the protocol cannot carry.
    #[error("value of connection option \"{keyword}\" contains a zero byte")]
    ZeroByte {
        /// The option.
        keyword: &'static str,
    },
    /// `[` without `]`.
    #[error("end of string reached when looking for matching \"]\" in IPv6 host address in URI: \"{uri}\"")]
    UnclosedIpv6 {
        /// The URI, without its password.
        uri: String,
    },
    /// `[]`.
    #[error("IPv6 host address may not be empty in URI: \"{uri}\"")]
    EmptyIpv6 {
        /// The URI, without its password.
        uri: String,
    },
    /// Something other than a port, path, query or comma after `]`.
    #[error(
        "unexpected character \"{character}\" at position {position} in URI (expected \":\" or \"/\"): \"{uri}\""
    )]
    UnexpectedUriCharacter {
        /// The character.
        character: char,
        /// Its position, from 1.
        position: usize,
        /// The URI, without its password.
        uri: String,
    },
    /// A query parameter without a value.
    #[error("missing key/value separator \"=\" in URI query parameter: \"{parameter}\"")]
    MissingUriSeparator {
        /// The parameter.
        parameter: String,
    },
    /// A query parameter with two.
    #[error("extra key/value separator \"=\" in URI query parameter: \"{parameter}\"")]
    ExtraUriSeparator {
        /// The parameter.
        parameter: String,
    },
    /// A query parameter that is no option.
    #[error("invalid URI query parameter: \"{parameter}\"")]
    InvalidUriParameter {
        /// The parameter.
        parameter: String,
    },
    /// `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("invalid percent-encoded token: \"{token}\"")]
    InvalidPercentEncoding {
        /// The part of the URI.
        token: String,
    },
    /// `%00`.
    #[error("forbidden value %00 in percent-encoded value: \"{token}\"")]
    ForbiddenZero {
        /// The part of the URI.
        token: String,
    },
    /// Spaces inside.
    #[error("unexpected spaces found in \"{token}\", use percent-encoded spaces (%20) instead")]
    UriSpaces {
        /// The part of the URI.
        token: String,
    },
    /// A password that is not percent-encoded as it should be.
    #[error("invalid percent-encoded password in URI")]
    InvalidUriPassword,
}

/// Connection options that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnInfoError {
    /// The string cannot be read.
    #[error(transparent)]
    Parse(#[from] ParseConnInfoError),
    /// A value that the option does not have.
    #[error("invalid {keyword} value: \"{value}\"")]
    InvalidValue {
        /// The option.
        keyword: &'static str,
        /// The value.
        value: String,
    },
    /// A value that is no number.
    #[error("invalid integer value \"{value}\" for connection option \"{keyword}\"")]
    InvalidInteger {
        /// The option.
        keyword: &'static str,
        /// The value.
        value: String,
    },
    /// A port outside 1 to 65535.
    #[error("invalid port number: \"{value}\"")]
    InvalidPort {
        /// The port.
        value: String,
    },
    /// A `hostaddr` that is no address.
    #[error("could not parse network address \"{value}\"")]
    InvalidHostAddress {
        /// The address.
        value: String,
    },
    /// Lists of different lengths.
    #[error("could not match {hosts} host names to {addresses} hostaddr values")]
    HostAddressCount {
        /// How many hosts.
        hosts: usize,
        /// How many addresses.
        addresses: usize,
    },
    /// Lists of different lengths.
    #[error("could not match {ports} port numbers to {hosts} hosts")]
    PortCount {
        /// How many ports.
        ports: usize,
        /// How many hosts.
        hosts: usize,
    },
    /// More hosts than anybody has.
    #[error("too many hosts: {count}, and {limit} are allowed")]
    TooManyHosts {
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// `sslrootcert=system` without verification of the name means nothing: anybody can have such a certificate.
    #[error("weak sslmode \"{sslmode}\" may not be used with sslrootcert=system (use \"verify-full\")")]
    WeakSslModeForSystemRoots {
        /// The mode.
        sslmode: String,
    },
    /// `sslnegotiation=direct` with a mode that may go without TLS.
    #[error(
        "weak sslmode \"{sslmode}\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", or \"verify-full\")"
    )]
    WeakSslModeForDirect {
        /// The mode.
        sslmode: String,
    },
    /// No TLS version between the two.
    #[error("invalid SSL protocol version range")]
    TlsVersionRange,
    /// Only versions that are no longer safe.
    #[error(
        "ssl_max_protocol_version \"{value}\" cannot be satisfied: TLSv1.2 is the oldest that pgwake speaks"
    )]
    TlsVersionTooOld {
        /// The newest version asked for.
        value: String,
    },
    /// No protocol version between the two.
    #[error("\"min_protocol_version\" is greater than \"max_protocol_version\"")]
    ProtocolVersionRange,
    /// An option that asks for protection, or anything else, that pgwake does not have.
    #[error("connection option \"{keyword}\" is not supported")]
    Unsupported {
        /// The option.
        keyword: &'static str,
    },
    /// As above, for some values only.
    #[error("connection option \"{keyword}\" with the value \"{value}\" is not supported")]
    UnsupportedValue {
        /// The option.
        keyword: &'static str,
        /// The value.
        value: String,
    },
    /// `require_auth` that cannot be read.
    #[error(transparent)]
    RequireAuth(#[from] crate::wire::auth::RequireAuthError),
    /// The service file cannot be read.
    #[error("could not read service file \"{}\"", .path.display())]
    ReadServiceFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `PGSERVICEFILE` names nothing.
    #[error("service file \"{}\" not found", .path.display())]
    ServiceFileNotFound {
        /// The file.
        path: PathBuf,
    },
    /// No file defines the service.
    #[error("definition of service \"{service}\" not found")]
    ServiceNotFound {
        /// The service.
        service: String,
    },
    /// A line that is not `option=value`.
    #[error("syntax error in service file \"{}\", line {line}", .path.display())]
    ServiceSyntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A service that names a service.
    #[error("nested \"{keyword}\" specifications not supported in service file \"{}\", line {line}", .path.display())]
    NestedService {
        /// `service` or `servicefile`.
        keyword: &'static str,
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A service that is looked up in a directory server.
    #[error("LDAP lookups are not supported in service file \"{}\", line {line}", .path.display())]
    LdapService {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Nobody to connect as.
    #[error("could not find out the name of the local user")]
    UnknownUser(#[source] io::Error),
}
