//! TLS with libpq's meaning of its options.
//!
//! Answers to `pgtls_open_client` and `initialize_SSL` in libpq's `fe-secure-openssl.c`. Files are read for each
//! connection, as libpq does, so that a certificate can be renewed under a running program. Differences that come
//! with rustls: no TLS below 1.2, no RSA keys below 2048 bits, no SHA-1 signatures, no encrypted keys.

mod certificate;
mod client_auth;
mod error;
mod files;
mod names;
mod read_ahead;
mod revocation;
mod verifier;

pub use error::{CertificateProblem, TlsError};
pub use read_ahead::ReadAhead;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use self::certificate::Certificate;
use self::client_auth::ClientAuth;
use self::verifier::{Trust, Verifier};
use super::conninfo::{SslCertMode, SslMode, SslNegotiation, TlsSettings, TlsVersion};

/// The protocol's name in ALPN.
const ALPN: &[u8] = b"postgresql";

/// Everything that one handshake needs.
#[derive(Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    client_auth: Arc<ClientAuth>,
    negotiation: SslNegotiation,
    certificate_mode: SslCertMode,
}

/// A connection inside TLS.
#[derive(Debug)]
pub struct TlsSession<S> {
    /// The bytes inside.
    pub stream: TlsStream<ReadAhead<S>>,
    /// The `tls-server-end-point` of the server's certificate, for SCRAM-SHA-256-PLUS.
    pub end_point: Option<Vec<u8>>,
}

impl TlsClient {
    /// Reads the files and decides what will be asked of the server. `host` is the name that the user wrote.
    pub fn new(settings: &TlsSettings, host: Option<&str>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = files::roots(settings)?;
        let trust = match roots {
            Some(roots) => Some(Trust::new(&roots, files::revocation_lists(settings)?)),
            None => None,
        };
        let verified_host = match (settings.mode, host) {
            (SslMode::VerifyFull, None) => return Err(TlsError::HostNameNeeded),
            (SslMode::VerifyFull, Some(host)) => Some(host.to_owned()),
            _ => None,
        };
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Verifier { trust, host: verified_host, algorithms };
        let client_auth = Arc::new(ClientAuth::load(settings, &provider)?);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(settings))
            .map_err(TlsError::Configuration)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&client_auth) as Arc<_>);
        let name = host.filter(|_| settings.sni).and_then(|host| ServerName::try_from(host.to_owned()).ok());
        config.enable_sni = name.is_some();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(TlsClient {
            config: Arc::new(config),
            // an address is never sent as a name
            server_name: name.unwrap_or(ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            client_auth,
            negotiation: settings.negotiation,
            certificate_mode: settings.certificate_mode,
        })
    }

    /// Speaks TLS on a connection whose server is ready for it.
    pub async fn handshake<S>(&self, stream: S) -> Result<TlsSession<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        let connecting = connector.connect(self.server_name.clone(), ReadAhead::new(stream));
        let stream = connecting.await.map_err(TlsError::from_handshake)?;
        let (_, connection) = stream.get_ref();
        if self.negotiation == SslNegotiation::Direct && connection.alpn_protocol().is_none() {
            return Err(TlsError::NoAlpn);
        }
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        let end_point = certificate.and_then(|der| Certificate::parse(der).ok()?.end_point());
        Ok(TlsSession { stream, end_point })
    }

    /// Enforces `sslcertmode=require` once the server has let us in.
    pub fn check_certificate_sent(&self) -> Result<(), TlsError> {
        match self.certificate_mode {
            SslCertMode::Require => self.client_auth.check_sent(),
            SslCertMode::Allow | SslCertMode::Disable => Ok(()),
        }
    }
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::V1_2, &rustls::version::TLS12), (TlsVersion::V1_3, &rustls::version::TLS13)];
    let asked = settings.min_version..=settings.max_version;
    all.into_iter().filter(|(version, _)| asked.contains(version)).map(|(_, version)| version).collect()
}

/// A certificate, and the same bytes as a revocation list.
#[doc(hidden)]
pub fn fuzz_certificate(data: &[u8]) {
    if let Ok(certificate) = Certificate::parse(&data.into()) {
        let _ = (certificate.end_point(), certificate.is_authority());
        for host in ["host", "127.0.0.1"] {
            let _ = names::check_host(&certificate, host);
        }
    }
    let _ = revocation::RevocationList::parse(data);
}

#[cfg(test)]
mod tests;
