//! The client's certificate, and whether the server has asked for it.
//!
//! Answers to the second half of `initialize_SSL` and to `cert_cb` in libpq's `fe-secure-openssl.c`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use x509_cert::der::Encode;

use super::certificate::Certificate;
use super::{TlsError, files};
use crate::client::conninfo::{SslCertMode, TlsSettings};

/// Sends the certificate, if there is one, to a server that asks, and remembers both.
#[derive(Debug)]
pub(super) struct ClientAuth {
    key: Option<Arc<CertifiedKey>>,
    requested: AtomicBool,
    sent: AtomicBool,
}

impl ClientAuth {
    /// Reads certificate and key. A certificate file that is not there is no error: the server may not need it.
    pub(super) fn load(settings: &TlsSettings, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let key = match settings.certificate_mode {
            SslCertMode::Disable => None,
            SslCertMode::Allow | SslCertMode::Require => load_key(settings, provider)?,
        };
        Ok(ClientAuth { key, requested: AtomicBool::new(false), sent: AtomicBool::new(false) })
    }

    /// Enforces `sslcertmode=require` once the server has let us in.
    pub(super) fn check_sent(&self) -> Result<(), TlsError> {
        if !self.requested.load(Ordering::Relaxed) {
            return Err(TlsError::CertificateNotRequested);
        }
        if !self.sent.load(Ordering::Relaxed) {
            return Err(TlsError::CertificateNotSent);
        }
        Ok(())
    }
}

fn load_key(
    settings: &TlsSettings,
    provider: &CryptoProvider,
) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
    let Some(path) = &settings.certificate else { return Ok(None) };
    match std::fs::metadata(path) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(TlsError::Read { what: "certificate", path: path.clone(), source }),
    }
    let chain = files::certificates("certificate", path)?;
    let key_path = settings.key.as_deref().unwrap_or(path);
    let der = files::private_key(key_path)?;
    let key = provider
        .key_provider
        .load_private_key(der)
        .map_err(|source| TlsError::KeyInvalid { path: key_path.to_owned(), source })?;
    let certificate = Certificate::parse(&chain[0]).map_err(TlsError::Certificate)?;
    let certified = certificate.fields().subject_public_key_info().to_der().ok();
    if key.public_key().is_some_and(|public| Some(public.as_ref()) != certified.as_deref()) {
        return Err(TlsError::KeyMismatch { path: key_path.to_owned() });
    }
    Ok(Some(Arc::new(CertifiedKey::new(chain, key))))
}

impl ResolvesClientCert for ClientAuth {
    /// Like OpenSSL, takes no hint from the authorities that the server names.
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::Relaxed);
        let key = self.key.clone().filter(|key| key.key.choose_scheme(schemes).is_some())?;
        self.sent.store(true, Ordering::Relaxed);
        Some(key)
    }

    fn has_certs(&self) -> bool {
        // so that resolve is called and knows that it was asked
        true
    }
}
