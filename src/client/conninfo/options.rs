//! Every connection option of libpq, as data.
//!
//! Answers to `PQconninfoOptions` in libpq's `fe-connect.c`, with two columns of our own: what pgwake does with
//! the option, and the major version whose libpq first knew it (a standby's walreceiver refuses options that are
//! newer than itself). An option that asks for protection which pgwake cannot give is refused, never ignored.

/// One option of libpq.
#[derive(Debug)]
pub struct OptionSpec {
    /// Its name in connection strings.
    pub keyword: &'static str,
    /// The environment variable that gives its value when the string does not.
    pub variable: Option<&'static str>,
    /// Its value when nothing else gives one.
    pub default: Option<&'static str>,
    /// What pgwake does with it.
    pub treatment: Treatment,
    /// The major version of PostgreSQL whose libpq first knew it; 13 stands for "13 or before".
    pub since_major: u16,
    /// Where it stands in a standby's `primary_conninfo`.
    pub in_primary_conninfo: InPrimaryConninfo,
}

/// What pgwake does with an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It does what it does in libpq.
    Honoured,
    /// It is accepted and changes nothing, and nobody is less safe for it.
    Harmless,
    /// It is an error, unless its value is empty or one of these, which ask for nothing.
    Refused {
        /// Values that ask for nothing that pgwake does not do.
        except: &'static [&'static str],
    },
}

/// Whether an option goes into a standby's `primary_conninfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPrimaryConninfo {
    /// When it differs from the default.
    Copied,
    /// When it differs from the default; a relative path is made absolute, for the server's directory is another.
    CopiedPath,
    /// Never, or by a rule of its own.
    Left,
}

/// The table.
pub const OPTIONS: &[OptionSpec] = &[
    option("service", Some("PGSERVICE")).left(),
    option("servicefile", Some("PGSERVICEFILE")).since(19).left(),
    option("user", Some("PGUSER")),
    option("password", Some("PGPASSWORD")).left(),
    option("passfile", Some("PGPASSFILE")).left(),
    option("channel_binding", Some("PGCHANNELBINDING")).default_value("prefer"),
    option("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    option("dbname", Some("PGDATABASE")).left(),
    option("host", Some("PGHOST")),
    option("hostaddr", Some("PGHOSTADDR")),
    option("port", Some("PGPORT")).default_value("5432"),
    option("client_encoding", Some("PGCLIENTENCODING")).left(),
    option("options", Some("PGOPTIONS")),
    option("application_name", Some("PGAPPNAME")).left(),
    option("fallback_application_name", None).left(),
    option("keepalives", None),
    option("keepalives_idle", None),
    option("keepalives_interval", None),
    option("keepalives_count", None),
    option("tcp_user_timeout", None),
    option("sslmode", Some("PGSSLMODE")).default_value("prefer"),
    option("sslnegotiation", Some("PGSSLNEGOTIATION")).default_value("postgres").since(17),
    option("sslcompression", Some("PGSSLCOMPRESSION")).default_value("0").harmless().left(),
    option("sslcert", Some("PGSSLCERT")).path(),
    option("sslkey", Some("PGSSLKEY")).path(),
    option("sslcertmode", Some("PGSSLCERTMODE")).default_value("allow").since(16),
    // read only to say what is missing when a key is encrypted, which is an error when the key is loaded
    option("sslpassword", None).left(),
    option("sslrootcert", Some("PGSSLROOTCERT")).path(),
    option("sslcrl", Some("PGSSLCRL")).path(),
    option("sslcrldir", Some("PGSSLCRLDIR")).path().since(14),
    option("sslsni", Some("PGSSLSNI")).default_value("1").since(14),
    option("requirepeer", Some("PGREQUIREPEER")),
    option("require_auth", Some("PGREQUIREAUTH")).since(16),
    option("min_protocol_version", Some("PGMINPROTOCOLVERSION")).since(18),
    option("max_protocol_version", Some("PGMAXPROTOCOLVERSION")).since(18),
    option("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")).default_value("TLSv1.2"),
    option("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    option("gssencmode", Some("PGGSSENCMODE")).default_value("prefer").refused(&["disable", "prefer"]),
    // these say how to do what is never done here
    option("krbsrvname", Some("PGKRBSRVNAME")).default_value("postgres").harmless(),
    option("gsslib", Some("PGGSSLIB")).harmless(),
    option("gssdelegation", Some("PGGSSDELEGATION")).default_value("0").harmless().since(17),
    // the purpose of the connection says it
    option("replication", None).harmless().left(),
    option("target_session_attrs", Some("PGTARGETSESSIONATTRS")).default_value("any"),
    option("load_balance_hosts", Some("PGLOADBALANCEHOSTS")).default_value("disable").since(16),
    option("scram_client_key", None).refused(&[]).since(18).left(),
    option("scram_server_key", None).refused(&[]).since(18).left(),
    option("sslkeylogfile", None).refused(&[]).since(18).left(),
    option("oauth_issuer", None).refused(&[]).since(18).left(),
    option("oauth_client_id", None).refused(&[]).since(18).left(),
    option("oauth_client_secret", None).refused(&[]).since(18).left(),
    option("oauth_scope", None).refused(&[]).since(18).left(),
    option("oauth_ca_file", Some("PGOAUTHCAFILE")).refused(&[]).since(19).left(),
];

/// Variables that set a server setting for the session rather than an option (`EnvironmentOptions` in libpq).
pub(super) const SESSION_VARIABLES: &[(&str, &str)] =
    &[("PGDATESTYLE", "datestyle"), ("PGTZ", "timezone"), ("PGGEQO", "geqo")];

/// Options whose value nobody may see.
const SECRETS: &[&str] =
    &["password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"];

/// The option of this name.
pub(super) fn find(keyword: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|spec| spec.keyword == keyword)
}

/// Whether a connection string may use the name; `requiressl` is what `sslmode` was once called.
pub(super) fn is_known(keyword: &str) -> bool {
    keyword == "requiressl" || find(keyword).is_some()
}

impl OptionSpec {
    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        SECRETS.contains(&self.keyword)
    }

    const fn default_value(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    const fn since(mut self, major: u16) -> Self {
        self.since_major = major;
        self
    }

    const fn harmless(mut self) -> Self {
        self.treatment = Treatment::Harmless;
        self
    }

    const fn refused(mut self, except: &'static [&'static str]) -> Self {
        self.treatment = Treatment::Refused { except };
        self
    }

    const fn left(mut self) -> Self {
        self.in_primary_conninfo = InPrimaryConninfo::Left;
        self
    }

    const fn path(mut self) -> Self {
        self.in_primary_conninfo = InPrimaryConninfo::CopiedPath;
        self
    }
}

const fn option(keyword: &'static str, variable: Option<&'static str>) -> OptionSpec {
    OptionSpec {
        keyword,
        variable,
        default: None,
        treatment: Treatment::Honoured,
        since_major: 13,
        in_primary_conninfo: InPrimaryConninfo::Copied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_stands_twice() {
        for (index, spec) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS[..index].iter().all(|other| other.keyword != spec.keyword), "{}", spec.keyword);
            assert!(
                spec.variable.is_none()
                    || OPTIONS[..index].iter().all(|other| other.variable != spec.variable),
                "{}",
                spec.keyword
            );
        }
    }

    #[test]
    fn secrets_are_options_and_never_reach_primary_conninfo() {
        for secret in SECRETS {
            let spec = find(secret).unwrap();
            assert!(spec.is_secret());
            assert_eq!(spec.in_primary_conninfo, InPrimaryConninfo::Left, "{secret}");
        }
    }
}
