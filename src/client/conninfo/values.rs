//! The values that options have.

use super::ConnInfoError;

/// An enum with a text for each variant, and the option's error for any other text.
macro_rules! option_values {
    ($(#[$doc:meta])* $name:ident of $keyword:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The text in connection strings.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            pub(super) fn parse(value: &str) -> Result<Self, ConnInfoError> {
                match value {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(ConnInfoError::InvalidValue { keyword: $keyword, value: value.to_owned() }),
                }
            }
        }
    };
}

option_values! {
    /// How much protection a TCP connection must have, from none to all.
    SslMode of "sslmode" {
        /// No TLS.
        Disable = "disable",
        /// TLS only if the server refuses a plain connection.
        Allow = "allow",
        /// TLS if the server has it.
        Prefer = "prefer",
        /// TLS, with any certificate; like `verify-ca` if a root certificate is there.
        Require = "require",
        /// TLS, with a certificate that a trusted authority signed.
        VerifyCa = "verify-ca",
        /// As before, and for the host's name.
        VerifyFull = "verify-full",
    }
}

option_values! {
    /// How TLS begins.
    SslNegotiation of "sslnegotiation" {
        /// The server is asked first, in the clear.
        Postgres = "postgres",
        /// At once, with ALPN; servers from 17.
        Direct = "direct",
    }
}

option_values! {
    /// Whether a client certificate is sent.
    SslCertMode of "sslcertmode" {
        /// Never.
        Disable = "disable",
        /// When the server asks and there is one.
        Allow = "allow",
        /// Always: a server that does not ask for it is refused.
        Require = "require",
    }
}

option_values! {
    /// Which servers will do, of several.
    TargetSessionAttrs of "target_session_attrs" {
        /// Any.
        Any = "any",
        /// One whose sessions can write.
        ReadWrite = "read-write",
        /// One whose sessions cannot.
        ReadOnly = "read-only",
        /// One that is not in recovery.
        Primary = "primary",
        /// One that is.
        Standby = "standby",
        /// One that is in recovery if there is one, else any.
        PreferStandby = "prefer-standby",
    }
}

option_values! {
    /// In which order hosts and addresses are tried.
    LoadBalanceHosts of "load_balance_hosts" {
        /// As written.
        Disable = "disable",
        /// At random.
        Random = "random",
    }
}

/// A version of TLS that pgwake speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// The versions of TLS that options may ask for: `Some(None)` is one that is older than pgwake speaks.
pub(super) fn parse_tls_version(
    keyword: &'static str,
    value: &str,
) -> Result<Option<TlsVersion>, ConnInfoError> {
    match value.to_ascii_lowercase().as_str() {
        "tlsv1" | "tlsv1.1" => Ok(None),
        "tlsv1.2" => Ok(Some(TlsVersion::V1_2)),
        "tlsv1.3" => Ok(Some(TlsVersion::V1_3)),
        _ => Err(ConnInfoError::InvalidValue { keyword, value: value.to_owned() }),
    }
}

/// A version of the frontend/backend protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// 3.0, which every server speaks.
    V3_0,
    /// 3.2, from PostgreSQL 18: cancel keys of any length.
    V3_2,
}

impl ProtocolVersion {
    /// The number in the startup packet.
    pub fn code(self) -> u32 {
        match self {
            Self::V3_0 => 3 << 16,
            Self::V3_2 => 3 << 16 | 2,
        }
    }

    pub(super) fn parse(keyword: &'static str, value: &str) -> Result<Self, ConnInfoError> {
        match value {
            "3.0" => Ok(Self::V3_0),
            "3.2" | "latest" => Ok(Self::V3_2),
            _ => Err(ConnInfoError::InvalidValue { keyword, value: value.to_owned() }),
        }
    }
}

impl std::fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V3_0 => "3.0",
            Self::V3_2 => "3.2",
        })
    }
}

/// A number as C's `strtol` reads it, with spaces around (`pqParseIntParam`).
pub(super) fn parse_integer(keyword: &'static str, value: &str) -> Result<i32, ConnInfoError> {
    let trimmed = value.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0B');
    trimmed.parse().map_err(|_| ConnInfoError::InvalidInteger { keyword, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_c_does() {
        for (text, expected) in
            [("5", Some(5)), (" +5\t", Some(5)), ("-1", Some(-1)), ("5s", None), ("", None)]
        {
            assert_eq!(parse_integer("port", text).ok(), expected, "{text:?}");
        }
        assert_eq!(
            parse_integer("port", "99999999999").unwrap_err().to_string(),
            "invalid integer value \"99999999999\" for connection option \"port\""
        );
    }

    #[test]
    fn says_which_option_has_no_such_value() {
        assert_eq!(SslMode::parse("Require").unwrap_err().to_string(), "invalid sslmode value: \"Require\"");
        assert_eq!(SslMode::parse("verify-ca").unwrap(), SslMode::VerifyCa);
        assert_eq!(parse_tls_version("ssl_min_protocol_version", "tlsV1.3").unwrap(), Some(TlsVersion::V1_3));
    }
}
