//! Options with every default filled in and every value understood.
//!
//! Answers to `conninfo_add_defaults` and `pqConnectOptions2` in libpq's `fe-connect.c`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options::{OPTIONS, SESSION_VARIABLES, Treatment};
use super::passfile::PassfileKey;
use super::values::{parse_integer, parse_tls_version};
use super::{
    ConnInfo, ConnInfoError, Environment, HostSpec, LoadBalanceHosts, Passfile, ProtocolVersion, Secret,
    SslCertMode, SslMode, SslNegotiation, TargetSessionAttrs, TlsVersion, hosts, service,
};
use crate::wire::auth::{ChannelBindingMode, RequireAuth};

/// Everything that a connection needs to know, right by construction; what a reconnect uses again.
#[derive(Clone)]
pub struct Settings {
    /// The servers, in the order in which they were written; at least one.
    pub hosts: Vec<HostSpec>,
    /// In which order they are tried.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Which of them will do.
    pub target_session_attrs: TargetSessionAttrs,
    /// The role.
    pub user: String,
    /// The database of connections that have one.
    pub dbname: String,
    /// The password that was given, for every host; a caller that has asked for one puts it here.
    pub password: Option<Secret>,
    /// Where passwords are looked up when none was given.
    pub passfile: Passfile,
    /// `application_name`, or the fallback.
    pub application_name: Option<String>,
    /// Command-line options for the server process.
    pub options: Option<String>,
    /// The encoding of what the server says.
    pub client_encoding: Option<String>,
    /// Server settings from the environment (`PGTZ` …).
    pub session_parameters: Vec<(&'static str, String)>,
    /// How long one attempt at one address may take.
    pub connect_timeout: Option<Duration>,
    /// TCP keepalives.
    pub keepalives: Keepalives,
    /// How long sent data may stay unacknowledged.
    pub tcp_user_timeout: Option<Duration>,
    /// The operating-system user that a server behind a Unix socket must run as.
    pub requirepeer: Option<String>,
    /// Whether SCRAM must be bound to the TLS channel.
    pub channel_binding: ChannelBindingMode,
    /// The authentication methods that the server may ask for.
    pub require_auth: RequireAuth,
    /// TLS.
    pub tls: TlsSettings,
    /// The oldest protocol version that will do.
    pub min_protocol_version: ProtocolVersion,
    /// The protocol version that is asked for.
    pub max_protocol_version: ProtocolVersion,
    /// What the user should be told.
    pub warnings: Vec<Warning>,
    /// The options with service, environment and defaults filled in, for `primary_conninfo`.
    pub(super) resolved: ConnInfo,
    /// Where relative paths begin.
    pub(super) current_dir: PathBuf,
}

/// TCP keepalives; `None` leaves the system's default.
///
/// Departure from libpq: where no option says anything of them they begin after a minute, come every 10 seconds, and
/// the sixth that is lost ends the connection. The system's default would be two hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalives {
    /// Whether they are sent at all.
    pub enabled: bool,
    /// Silence before the first.
    pub idle: Option<Duration>,
    /// Time between two.
    pub interval: Option<Duration>,
    /// How many may be lost.
    pub count: Option<u32>,
}

/// TLS: what is asked of the server, and the files, which are read for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// How much protection.
    pub mode: SslMode,
    /// How it begins.
    pub negotiation: SslNegotiation,
    /// Trusted roots.
    pub roots: TlsRoots,
    /// The client's certificate; missing files are taken for "none".
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Whether it is sent.
    pub certificate_mode: SslCertMode,
    /// Revoked certificates.
    pub crl: Option<PathBuf>,
    /// The revocation list is used only if it exists: it was not named by anybody.
    pub crl_is_default: bool,
    /// A directory with such lists.
    pub crl_dir: Option<PathBuf>,
    /// Whether the host's name is sent in the clear.
    pub sni: bool,
    /// The oldest version.
    pub min_version: TlsVersion,
    /// The newest version.
    pub max_version: TlsVersion,
}

/// Where trusted root certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsRoots {
    /// The operating system.
    System,
    /// A file, which need not exist unless verification is asked for.
    File(PathBuf),
    /// Nowhere: no file is named, and there is no home directory to look in.
    Unknown,
}

/// Something that the user should be told, and that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The password file is readable by others, so it is not used.
    #[error(
        "password file \"{}\" has group or world access; permissions should be u=rw (0600) or less",
        .path.display()
    )]
    PassfileOpenToOthers {
        /// The file.
        path: PathBuf,
    },
    /// The password file is a directory, a device …
    #[error("password file \"{}\" is not a plain file", .path.display())]
    PassfileNotPlain {
        /// The file.
        path: PathBuf,
    },
    /// The password file cannot be read.
    #[error("could not read password file \"{}\": {cause}", .path.display())]
    PassfileUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

impl Settings {
    /// Fills in service, environment and defaults, and reads every value.
    pub fn resolve(conninfo: &ConnInfo, environment: &dyn Environment) -> Result<Self, ConnInfoError> {
        let resolved = fill_in(conninfo, environment)?;
        refuse_unsupported(&resolved)?;
        let text = |keyword| resolved.value(keyword).filter(|value| !value.is_empty()).map(str::to_owned);
        let written = |keyword| resolved.value(keyword).unwrap_or("");
        let user = match text("user") {
            Some(user) => user,
            None => environment.user_name().map_err(ConnInfoError::UnknownUser)?,
        };
        let (min_protocol_version, max_protocol_version) = protocol_versions(&resolved)?;
        let name = resolved.value("application_name").or(resolved.value("fallback_application_name"));
        let mut settings = Settings {
            hosts: hosts::pair(written("host"), written("hostaddr"), written("port"))?,
            load_balance_hosts: LoadBalanceHosts::parse(written("load_balance_hosts"))?,
            target_session_attrs: TargetSessionAttrs::parse(written("target_session_attrs"))?,
            dbname: text("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: text("password").map(Secret::new),
            passfile: Passfile::default(),
            application_name: name.filter(|name| !name.is_empty()).map(str::to_owned),
            options: text("options"),
            client_encoding: text("client_encoding").map(|encoding| match encoding.as_str() {
                "auto" => "UTF8".to_owned(),
                _ => encoding,
            }),
            session_parameters: session_parameters(environment),
            connect_timeout: seconds(&resolved, "connect_timeout")?,
            keepalives: keepalives(&resolved)?,
            tcp_user_timeout: positive(&resolved, "tcp_user_timeout")?
                .map(|milliseconds| Duration::from_millis(milliseconds.into())),
            requirepeer: text("requirepeer"),
            channel_binding: channel_binding(written("channel_binding"))?,
            require_auth: RequireAuth::parse(written("require_auth"))?,
            tls: TlsSettings::resolve(&resolved, environment)?,
            min_protocol_version,
            max_protocol_version,
            warnings: Vec::new(),
            current_dir: environment.current_dir().unwrap_or_default(),
            resolved,
        };
        settings.reread_passfile(environment);
        Ok(settings)
    }

    /// Reads the password file again: a long-running program does this before it connects anew.
    pub fn reread_passfile(&mut self, environment: &dyn Environment) {
        if self.password.is_some() {
            return;
        }
        let named = self.resolved.value("passfile").filter(|path| !path.is_empty()).map(PathBuf::from);
        let Some(path) = named.or_else(|| environment.home_dir().map(|home| home.join(".pgpass"))) else {
            return;
        };
        let (passfile, warning) = Passfile::read(&path, environment);
        self.passfile = passfile;
        self.warnings.clear();
        self.warnings.extend(warning);
    }

    /// The same, but for the one host that a connection was made to: the further connections of a run must lead to the
    /// same server, whatever it has become and whatever else is in the list.
    pub fn pinned_to(&self, host: &HostSpec) -> Settings {
        Settings {
            hosts: vec![host.clone()],
            load_balance_hosts: LoadBalanceHosts::Disable,
            target_session_attrs: TargetSessionAttrs::Any,
            ..self.clone()
        }
    }

    /// The password for one host and database; `replication` is the database of a physical connection.
    pub fn password_for(&self, host: &HostSpec, database: &str) -> Option<Secret> {
        let from_file = || {
            let hosts = host.passfile_names();
            self.passfile.password(&PassfileKey {
                hosts: &hosts,
                port: host.port,
                database,
                user: &self.user,
            })
        };
        self.password.clone().or_else(from_file).filter(|password| !password.expose().is_empty())
    }
}

/// Passwords are shown as `***`.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("dbname", &self.dbname)
            .field("password", &self.password)
            .field("passfile", &self.passfile)
            .field("options", &self.resolved)
            .finish_non_exhaustive()
    }
}

impl TlsSettings {
    fn resolve(resolved: &ConnInfo, environment: &dyn Environment) -> Result<Self, ConnInfoError> {
        let text = |keyword| resolved.value(keyword).filter(|value| !value.is_empty());
        let written = |keyword| resolved.value(keyword).unwrap_or("");
        let in_home = |name: &str| environment.home_dir().map(|home| home.join(".postgresql").join(name));
        let mode = SslMode::parse(written("sslmode"))?;
        let negotiation = SslNegotiation::parse(written("sslnegotiation"))?;
        let sslmode = || mode.as_str().to_owned();
        let roots = match text("sslrootcert") {
            Some("system") if mode != SslMode::VerifyFull => {
                return Err(ConnInfoError::WeakSslModeForSystemRoots { sslmode: sslmode() });
            }
            Some("system") => TlsRoots::System,
            Some(path) => TlsRoots::File(path.into()),
            None => in_home("root.crt").map_or(TlsRoots::Unknown, TlsRoots::File),
        };
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            return Err(ConnInfoError::WeakSslModeForDirect { sslmode: sslmode() });
        }
        let (min_version, max_version) = tls_versions(resolved)?;
        let path = |keyword| text(keyword).map(PathBuf::from);
        let crl_is_default = text("sslcrl").is_none() && text("sslcrldir").is_none();
        Ok(TlsSettings {
            mode,
            negotiation,
            roots,
            certificate: path("sslcert").or_else(|| in_home("postgresql.crt")),
            key: path("sslkey").or_else(|| in_home("postgresql.key")),
            certificate_mode: SslCertMode::parse(written("sslcertmode"))?,
            crl: if crl_is_default { in_home("root.crl") } else { path("sslcrl") },
            crl_is_default,
            crl_dir: path("sslcrldir"),
            sni: written("sslsni").starts_with('1'),
            min_version,
            max_version,
        })
    }

    /// The file that roots are read from, if it is a file.
    pub fn root_file(&self) -> Option<&Path> {
        match &self.roots {
            TlsRoots::File(path) => Some(path),
            TlsRoots::System | TlsRoots::Unknown => None,
        }
    }
}

/// What is written, then the service, then the environment, then the defaults.
fn fill_in(conninfo: &ConnInfo, environment: &dyn Environment) -> Result<ConnInfo, ConnInfoError> {
    let mut resolved = conninfo.clone();
    service::apply(&mut resolved, environment)?;
    for spec in OPTIONS {
        let value = spec.variable.and_then(|name| environment.variable(name));
        let value = value.or_else(|| {
            let require = spec.keyword == "sslmode" && environment.variable("PGREQUIRESSL")?.starts_with('1');
            require.then(|| "require".to_owned())
        });
        if let Some(value) = value.filter(|value| !value.contains('\0')) {
            resolved.set_default(spec, value);
        }
        let with_system_roots = || {
            resolved.value("sslrootcert").map(str::to_owned).or_else(|| environment.variable("PGSSLROOTCERT"))
        };
        let default = match spec.keyword {
            // certificates of public authorities prove nothing without the name
            "sslmode" if with_system_roots().as_deref() == Some("system") => Some("verify-full"),
            _ => spec.default,
        };
        if let Some(default) = default {
            resolved.set_default(spec, default.to_owned());
        }
    }
    Ok(resolved)
}

fn refuse_unsupported(resolved: &ConnInfo) -> Result<(), ConnInfoError> {
    for spec in OPTIONS {
        let (Treatment::Refused { except }, Some(value)) = (spec.treatment, resolved.value(spec.keyword))
        else {
            continue;
        };
        if except.contains(&value) {
            continue;
        }
        match (spec.keyword, value) {
            ("gssencmode", "require") => {
                return Err(ConnInfoError::UnsupportedValue {
                    keyword: spec.keyword,
                    value: value.to_owned(),
                });
            }
            ("gssencmode", _) => {
                return Err(ConnInfoError::InvalidValue { keyword: spec.keyword, value: value.to_owned() });
            }
            (_, "") => {}
            _ => return Err(ConnInfoError::Unsupported { keyword: spec.keyword }),
        }
    }
    Ok(())
}

fn session_parameters(environment: &dyn Environment) -> Vec<(&'static str, String)> {
    let usable = |value: &String| !value.eq_ignore_ascii_case("default") && !value.contains('\0');
    let given = |&(variable, setting): &(&str, &'static str)| {
        environment.variable(variable).filter(usable).map(|value| (setting, value))
    };
    SESSION_VARIABLES.iter().filter_map(given).collect()
}

fn channel_binding(value: &str) -> Result<ChannelBindingMode, ConnInfoError> {
    match value {
        "disable" => Ok(ChannelBindingMode::Disable),
        "prefer" => Ok(ChannelBindingMode::Prefer),
        "require" => Ok(ChannelBindingMode::Require),
        _ => Err(ConnInfoError::InvalidValue { keyword: "channel_binding", value: value.to_owned() }),
    }
}

/// A number, when it is above zero: zero and less stand for the system's default, or for no limit.
fn positive(resolved: &ConnInfo, keyword: &'static str) -> Result<Option<u32>, ConnInfoError> {
    let Some(value) = resolved.value(keyword) else { return Ok(None) };
    Ok(u32::try_from(parse_integer(keyword, value)?).ok().filter(|&number| number > 0))
}

fn seconds(resolved: &ConnInfo, keyword: &'static str) -> Result<Option<Duration>, ConnInfoError> {
    Ok(positive(resolved, keyword)?.map(|seconds| Duration::from_secs(seconds.into())))
}

fn keepalives(resolved: &ConnInfo) -> Result<Keepalives, ConnInfoError> {
    let enabled = match resolved.value("keepalives") {
        Some(value) => parse_integer("keepalives", value)? != 0,
        None => true,
    };
    let keywords = ["keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"];
    if keywords.iter().all(|keyword| resolved.value(keyword).is_none()) {
        return Ok(Keepalives {
            enabled,
            idle: Some(Duration::from_secs(60)),
            interval: Some(Duration::from_secs(10)),
            count: Some(6),
        });
    }
    Ok(Keepalives {
        enabled,
        idle: seconds(resolved, "keepalives_idle")?,
        interval: seconds(resolved, "keepalives_interval")?,
        count: positive(resolved, "keepalives_count")?,
    })
}

fn tls_versions(resolved: &ConnInfo) -> Result<(TlsVersion, TlsVersion), ConnInfoError> {
    let version = |keyword| match resolved.value(keyword).filter(|value| !value.is_empty()) {
        Some(value) => parse_tls_version(keyword, value).map(Some),
        None => Ok(None),
    };
    let (min, max) = (version("ssl_min_protocol_version")?, version("ssl_max_protocol_version")?);
    let max = match max {
        None => TlsVersion::V1_3,
        Some(Some(max)) => max,
        Some(None) if min.flatten().is_some() => return Err(ConnInfoError::TlsVersionRange),
        Some(None) => {
            let value = resolved.value("ssl_max_protocol_version").unwrap_or("").to_owned();
            return Err(ConnInfoError::TlsVersionTooOld { value });
        }
    };
    // an older minimum is met by every version that is spoken
    let min = min.flatten().unwrap_or(TlsVersion::V1_2);
    if min > max { Err(ConnInfoError::TlsVersionRange) } else { Ok((min, max)) }
}

fn protocol_versions(resolved: &ConnInfo) -> Result<(ProtocolVersion, ProtocolVersion), ConnInfoError> {
    let version =
        |keyword| resolved.value(keyword).map(|value| ProtocolVersion::parse(keyword, value)).transpose();
    let min = version("min_protocol_version")?.unwrap_or(ProtocolVersion::V3_0);
    let max = version("max_protocol_version")?.unwrap_or(min);
    if min > max { Err(ConnInfoError::ProtocolVersionRange) } else { Ok((min, max)) }
}

#[cfg(test)]
mod tests;
