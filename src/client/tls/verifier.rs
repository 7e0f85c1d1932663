//! Whether a server's certificate will do.
//!
//! Answers to what `initialize_SSL` in libpq's `fe-secure-openssl.c` asks of OpenSSL: the chain is verified whenever
//! there are roots, whatever the mode; the name only under `verify-full`. webpki verifies the chain, with two cases
//! beside it that OpenSSL takes and webpki does not:
//!
//! - a self-signed certificate that stands itself among the trusted roots;
//! - a version-1 certificate that a trusted root has signed, which is what the commands in PostgreSQL's manual make.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, SignatureScheme};

use super::certificate::Certificate;
use super::revocation::RevocationList;
use super::{CertificateProblem, names};

/// What is asked of a server's certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` asks nothing but that the server has the key.
    pub(super) trust: Option<Trust>,
    /// The name that must be in the certificate.
    pub(super) host: Option<String>,
    /// What the provider can verify.
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Trusted roots, and what they have taken back.
#[derive(Debug)]
pub(super) struct Trust {
    anchors: Arc<RootCertStore>,
    roots: Vec<Certificate>,
    /// `None` when revocation is not checked; else every certificate must have a list, even if it is not on it.
    revocation: Option<Vec<RevocationList>>,
}

/// The most certificates between a server's and a root.
const MAX_DEPTH: usize = 8;

impl Trust {
    pub(super) fn new(roots: &[CertificateDer<'static>], revocation: Option<Vec<RevocationList>>) -> Self {
        let mut anchors = RootCertStore::empty();
        anchors.add_parsable_certificates(roots.iter().cloned());
        let roots = roots.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        Trust { anchors: Arc::new(anchors), roots, revocation }
    }

    fn check(
        &self,
        certificate: &Certificate,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), CertificateProblem> {
        if !self.check_simple(certificate, now, algorithms)? {
            let parsed = rustls::server::ParsedCertificate::try_from(der).map_err(problem)?;
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.anchors,
                intermediates,
                now,
                algorithms.all,
            )
            .map_err(problem)?;
        }
        match &self.revocation {
            Some(lists) => self.check_revocation(certificate, intermediates, lists, now, algorithms),
            None => Ok(()),
        }
    }

    /// The two cases that webpki does not take; `false` leaves the decision to it.
    fn check_simple(
        &self,
        certificate: &Certificate,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<bool, CertificateProblem> {
        let is_root = self.roots.iter().any(|root| root.der() == certificate.der());
        if is_root && certificate.is_signed_by(certificate, algorithms) {
            return certificate.check_time(now).map(|()| true);
        }
        if !certificate.is_version_1() {
            return Ok(false);
        }
        let issued = |root: &&Certificate| {
            root.is_authority()
                && (!root.is_version_1() || root.is_signed_by(root, algorithms))
                && certificate.is_signed_by(root, algorithms)
        };
        let root = self.roots.iter().find(issued).ok_or(CertificateProblem::UnknownIssuer)?;
        root.check_time(now)?;
        certificate.check_time(now).map(|()| true)
    }

    /// Every certificate up to the root needs a current list of its issuer, and must not be on it
    /// (`X509_V_FLAG_CRL_CHECK_ALL`).
    fn check_revocation(
        &self,
        certificate: &Certificate,
        intermediates: &[CertificateDer<'_>],
        lists: &[RevocationList],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), CertificateProblem> {
        let sent = intermediates.iter().take(MAX_DEPTH).filter_map(|der| Certificate::parse(der).ok());
        let issuers: Vec<Certificate> = self.roots.iter().cloned().chain(sent).collect();
        let mut current = certificate;
        for _ in 0..MAX_DEPTH {
            let issuer = issuers.iter().find(|issuer| current.is_signed_by(issuer, algorithms));
            let issuer = issuer.ok_or(CertificateProblem::UnknownIssuer)?;
            check_listed(current, issuer, lists, now, algorithms)?;
            if self.roots.iter().any(|root| root.der() == issuer.der()) {
                return Ok(());
            }
            current = issuer;
        }
        Err(CertificateProblem::UnknownIssuer)
    }
}

fn check_listed(
    certificate: &Certificate,
    issuer: &Certificate,
    lists: &[RevocationList],
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), CertificateProblem> {
    let lists: Vec<_> = lists.iter().filter(|list| list.is_of(issuer, algorithms)).collect();
    if lists.is_empty() {
        return Err(CertificateProblem::NoRevocationList);
    }
    if lists.iter().any(|list| list.revokes(certificate)) {
        return Err(CertificateProblem::Revoked);
    }
    if !lists.iter().any(|list| list.is_current(now)) {
        return Err(CertificateProblem::RevocationListExpired);
    }
    Ok(())
}

fn problem(error: Error) -> CertificateProblem {
    match error {
        Error::InvalidCertificate(error) => CertificateProblem::from_rustls(&error),
        error => CertificateProblem::Other(error.to_string()),
    }
}

impl Verifier {
    fn check(
        &self,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateProblem> {
        let certificate = Certificate::parse(der)?;
        if let Some(trust) = &self.trust {
            trust.check(&certificate, der, intermediates, now, &self.algorithms)?;
        }
        match &self.host {
            Some(host) => names::check_host(&certificate, host),
            None => Ok(()),
        }
    }

    /// That the server has the certificate's key. rustls does it by way of webpki, which takes no version 1.
    fn check_signature(
        &self,
        message: &[u8],
        der: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        only_first: OnlyFirst,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = algorithms.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let algorithms = match only_first {
            OnlyFirst::Yes => algorithms.get(..1).unwrap_or_default(),
            OnlyFirst::No => algorithms,
        };
        let certificate = Certificate::parse(der).map_err(CertificateProblem::into_rustls)?;
        if certificate.has_signed_handshake(message, signed.signature(), algorithms) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        Err(rustls::CertificateError::BadSignature.into())
    }
}

/// A scheme stands for one algorithm in TLS 1.3, and for several in TLS 1.2.
#[derive(Clone, Copy)]
enum OnlyFirst {
    Yes,
    No,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.check(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(problem) => Err(problem.into_rustls()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss, OnlyFirst::No)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // PKCS#1 v1.5 and SHA-1 have no place in TLS 1.3
        if matches!(
            dss.scheme,
            SignatureScheme::RSA_PKCS1_SHA1
                | SignatureScheme::RSA_PKCS1_SHA256
                | SignatureScheme::RSA_PKCS1_SHA384
                | SignatureScheme::RSA_PKCS1_SHA512
                | SignatureScheme::ECDSA_SHA1_Legacy
        ) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.check_signature(message, cert, dss, OnlyFirst::Yes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
