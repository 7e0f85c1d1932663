//! `require_auth`: the methods that the server may ask for.

/// A way in, as `require_auth` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// A password in the clear (inside TLS, one hopes).
    Password,
    /// A password hashed with MD5.
    Md5,
    /// Kerberos, which pgwake does not speak.
    Gss,
    /// Windows' own, which pgwake does not speak.
    Sspi,
    /// SCRAM, with or without channel binding.
    ScramSha256,
    /// A bearer token, which pgwake does not speak.
    Oauth,
    /// None at all: trust, peer, or a certificate.
    None,
}

const METHODS: [(&str, AuthMethod); 7] = [
    ("password", AuthMethod::Password),
    ("md5", AuthMethod::Md5),
    ("gss", AuthMethod::Gss),
    ("sspi", AuthMethod::Sspi),
    ("scram-sha-256", AuthMethod::ScramSha256),
    ("oauth", AuthMethod::Oauth),
    ("none", AuthMethod::None),
];

/// Which methods the server may ask for; the default allows all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequireAuth {
    text: String,
    /// One bit for each method.
    allowed: u8,
}

/// Why a text is no list of methods, or none that could ever be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequireAuthError {
    /// No such method.
    #[error("invalid require_auth value: \"{method}\"")]
    Unknown {
        /// The word.
        method: String,
    },
    /// `!a,b`.
    #[error("require_auth method \"{method}\" cannot be mixed with negative methods")]
    PositiveAmongNegative {
        /// The word.
        method: String,
    },
    /// `a,!b`.
    #[error("negative require_auth method \"{method}\" cannot be mixed with non-negative methods")]
    NegativeAmongPositive {
        /// The word.
        method: String,
    },
    /// `a,a`.
    #[error("require_auth method \"{method}\" is specified more than once")]
    Twice {
        /// The word.
        method: String,
    },
    /// Nothing is left that pgwake speaks.
    #[error("require_auth \"{value}\" cannot be satisfied: it allows no method that is supported")]
    Unsatisfiable {
        /// The whole value.
        value: String,
    },
}

/// What pgwake can do when asked.
const SUPPORTED: u8 = AuthMethod::Password.bit()
    | AuthMethod::Md5.bit()
    | AuthMethod::ScramSha256.bit()
    | AuthMethod::None.bit();

impl RequireAuth {
    /// Reads the option; empty stands for "any".
    pub fn parse(value: &str) -> Result<Self, RequireAuthError> {
        if value.is_empty() {
            return Ok(Self::default());
        }
        let negated = value.starts_with('!');
        let mut named = 0;
        for word in value.split(',') {
            let (method, word_negated) = match word.strip_prefix('!') {
                Some(method) => (method, true),
                None => (word, false),
            };
            let owned = || word.to_owned();
            match (negated, word_negated) {
                (true, false) => return Err(RequireAuthError::PositiveAmongNegative { method: owned() }),
                (false, true) => return Err(RequireAuthError::NegativeAmongPositive { method: owned() }),
                _ => {}
            }
            let known = METHODS.iter().find(|(name, _)| *name == method);
            let (_, known) = known.ok_or_else(|| RequireAuthError::Unknown { method: owned() })?;
            if named & known.bit() != 0 {
                return Err(RequireAuthError::Twice { method: owned() });
            }
            named |= known.bit();
        }
        let allowed = if negated { !named } else { named };
        if allowed & SUPPORTED == 0 {
            return Err(RequireAuthError::Unsatisfiable { value: value.to_owned() });
        }
        Ok(RequireAuth { text: value.to_owned(), allowed })
    }

    /// Whether the server may ask for this.
    pub fn allows(&self, method: AuthMethod) -> bool {
        self.allowed & method.bit() != 0
    }

    /// Whether the server must ask for something.
    pub fn is_required(&self) -> bool {
        !self.allows(AuthMethod::None)
    }

    /// The option as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Default for RequireAuth {
    fn default() -> Self {
        RequireAuth { text: String::new(), allowed: u8::MAX }
    }
}

impl AuthMethod {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_lists_and_negations() {
        let parse = |value| RequireAuth::parse(value).unwrap();
        assert!(!parse("").is_required() && parse("").allows(AuthMethod::Gss));
        let list = parse("scram-sha-256,md5");
        assert!(list.is_required() && list.allows(AuthMethod::Md5) && !list.allows(AuthMethod::Password));
        let negation = parse("!password,!none");
        assert!(negation.is_required() && negation.allows(AuthMethod::Md5));
        assert!(!negation.allows(AuthMethod::Password));
        assert!(!parse("!password").is_required());
        assert!(!parse("none").is_required() && !parse("none").allows(AuthMethod::ScramSha256));
        assert!(!parse("gss,none").is_required());
    }

    #[test]
    fn says_what_is_wrong_as_libpq_does() {
        for (value, error) in [
            ("foo", "invalid require_auth value: \"foo\""),
            ("md5,", "invalid require_auth value: \"\""),
            ("!md5,password", "require_auth method \"password\" cannot be mixed with negative methods"),
            (
                "md5,!password",
                "negative require_auth method \"!password\" cannot be mixed with non-negative methods",
            ),
            ("md5,md5", "require_auth method \"md5\" is specified more than once"),
            (
                "gss,sspi",
                "require_auth \"gss,sspi\" cannot be satisfied: it allows no method that is supported",
            ),
            (
                "!password,!md5,!scram-sha-256,!none",
                "require_auth \"!password,!md5,!scram-sha-256,!none\" cannot be satisfied: it allows no method that is supported",
            ),
        ] {
            assert_eq!(RequireAuth::parse(value).unwrap_err().to_string(), error);
        }
    }

    proptest! {
        #[test]
        fn no_list_panics(value in "[!,a-z5-]{0,40}") {
            let _ = RequireAuth::parse(&value);
        }
    }
}
