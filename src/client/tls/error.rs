//! Why there is no TLS, in libpq's words where it has some.

use std::io;
use std::path::PathBuf;

use rustls::CertificateError;

/// What went wrong with TLS, before, during or after the handshake.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Verification was asked for, and there is nothing to verify with.
    #[error(
        "root certificate file \"{}\" does not exist\nEither provide the file, use the system's trusted roots with sslrootcert=system, or change sslmode to disable server certificate verification.",
        .path.display()
    )]
    RootsMissing {
        /// The file.
        path: PathBuf,
    },
    /// Verification was asked for, and nobody knows where the roots are.
    #[error(
        "could not get home directory to locate root certificate file\nEither provide the file, use the system's trusted roots with sslrootcert=system, or change sslmode to disable server certificate verification."
    )]
    RootsUnknown,
    /// The operating system has no roots.
    #[error("could not load system root certificate paths")]
    SystemRoots,
    /// A file that cannot be read.
    #[error("could not read {what} file \"{}\"", .path.display())]
    Read {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that does not hold what it should.
    #[error("could not read {what} file \"{}\": no {what} in it", .path.display())]
    Empty {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A certificate without a key.
    #[error("certificate present, but not private key file \"{}\"", .path.display())]
    KeyMissing {
        /// The file.
        path: PathBuf,
    },
    /// The key's path leads to something else.
    #[error("private key file \"{}\" is not a regular file", .path.display())]
    KeyNotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Others can read the key.
    #[error(
        "private key file \"{}\" has group or world access; file must have permissions u=rw (0600) or less if owned by the current user, or permissions u=rw,g=r (0640) or less if owned by root",
        .path.display()
    )]
    KeyOpenToOthers {
        /// The file.
        path: PathBuf,
    },
    /// The key needs a password.
    #[error("private key file \"{}\" is encrypted, which is not supported", .path.display())]
    KeyEncrypted {
        /// The file.
        path: PathBuf,
    },
    /// The key cannot be used.
    #[error("could not load private key file \"{}\"", .path.display())]
    KeyInvalid {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The key is another certificate's.
    #[error("certificate does not match private key file \"{}\"", .path.display())]
    KeyMismatch {
        /// The file.
        path: PathBuf,
    },
    /// `verify-full` with nothing but an address.
    #[error("host name must be specified for a verified SSL connection")]
    HostNameNeeded,
    /// The versions or algorithms asked for do not go together.
    #[error("could not set up TLS")]
    Configuration(#[source] rustls::Error),
    /// The server's certificate is not one that will do.
    #[error("SSL error: certificate verify failed: {0}")]
    Certificate(CertificateProblem),
    /// The two sides do not agree.
    #[error("SSL error: {0}")]
    Protocol(rustls::Error),
    /// The connection broke.
    #[error("SSL SYSCALL error: {0}")]
    Io(io::Error),
    /// `sslnegotiation=direct` with a server that may not be PostgreSQL at all.
    #[error("direct SSL connection was established without ALPN protocol negotiation extension")]
    NoAlpn,
    /// The server has no TLS.
    #[error("server does not support SSL, but SSL was required")]
    NotSupported,
    /// Something came before TLS that pretends to have come inside it (CVE-2021-23222).
    #[error("received unencrypted data after SSL response")]
    UnencryptedData,
    /// The server could not even begin.
    #[error("server sent an error response during SSL exchange")]
    ErrorResponse,
    /// Not PostgreSQL.
    #[error("received invalid response to SSL negotiation: {}", char::from(*.0).escape_default())]
    InvalidResponse(u8),
    /// `sslcertmode=require`, and the server does not want to know.
    #[error("server did not request an SSL certificate")]
    CertificateNotRequested,
    /// `sslcertmode=require`, and there was none to send.
    #[error("server accepted connection without a valid SSL certificate")]
    CertificateNotSent,
}

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// It cannot be read.
    #[error("certificate cannot be parsed")]
    Malformed,
    /// No trusted root has signed it.
    #[error("unable to get local issuer certificate")]
    UnknownIssuer,
    /// It is too old.
    #[error("certificate has expired")]
    Expired,
    /// It is too new.
    #[error("certificate is not yet valid")]
    NotYetValid,
    /// Its issuer took it back.
    #[error("certificate revoked")]
    Revoked,
    /// There are revocation lists, and none from its issuer that is valid today.
    #[error("unable to get certificate CRL")]
    NoRevocationList,
    /// The revocation list is too old.
    #[error("CRL has expired")]
    RevocationListExpired,
    /// It is somebody else's.
    #[error("server certificate for {shown} does not match host name \"{host}\"")]
    WrongHost {
        /// The names in the certificate.
        shown: String,
        /// The name that was asked for.
        host: String,
    },
    /// A name with a zero byte in it, which fools those who stop there.
    #[error("SSL certificate's name contains embedded null")]
    ZeroByteInName,
    /// No name at all.
    #[error("could not get server's host name from server certificate")]
    NoName,
    /// Anything else that rustls finds.
    #[error("{0}")]
    Other(String),
}

impl CertificateProblem {
    /// For rustls, which hands it back from the handshake.
    pub(super) fn into_rustls(self) -> rustls::Error {
        CertificateError::Other(rustls::OtherError(std::sync::Arc::new(self))).into()
    }

    pub(super) fn from_rustls(error: &CertificateError) -> Self {
        match error {
            CertificateError::Other(other) => match other.0.downcast_ref::<CertificateProblem>() {
                Some(problem) => problem.clone(),
                None => Self::Other(other.to_string()),
            },
            CertificateError::BadEncoding => Self::Malformed,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            other => Self::Other(other.to_string()),
        }
    }
}

impl TlsError {
    /// What tokio-rustls reports from a handshake.
    pub(super) fn from_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(error)) => {
                Self::Certificate(CertificateProblem::from_rustls(error))
            }
            Some(error) => Self::Protocol(error.clone()),
            None => Self::Io(error),
        }
    }
}
