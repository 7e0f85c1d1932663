//! An X.509 certificate as far as we look into it ourselves: names, keys, signatures, and the channel binding.
//!
//! webpki, which does the rest, takes no version-1 certificates. The commands in PostgreSQL's manual make just those, so
//! their signatures are checked here.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::certificate::{TbsCertificate, Version};
use x509_cert::der::asn1::{AnyRef, BitString, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Header, Reader, SliceReader, Tag, Tagged};
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::Time;

use super::CertificateProblem;

/// A certificate and the bytes it was read from.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    der: Vec<u8>,
    signed: Vec<u8>,
    parsed: x509_cert::Certificate,
}

impl Certificate {
    pub(super) fn parse(der: &CertificateDer<'_>) -> Result<Self, CertificateProblem> {
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| CertificateProblem::Malformed)?;
        let signed = signed_part(der).ok_or(CertificateProblem::Malformed)?;
        Ok(Certificate { der: der.to_vec(), signed, parsed })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn fields(&self) -> &TbsCertificate {
        self.parsed.tbs_certificate()
    }

    pub(super) fn is_version_1(&self) -> bool {
        self.fields().version() == Version::V1
    }

    /// Whether it may sign others: as version 3 says, or as a root of version 1 does by being trusted.
    pub(super) fn is_authority(&self) -> bool {
        let constraints = self.fields().get_extension::<BasicConstraints>();
        self.is_version_1() || matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))))
    }

    pub(super) fn check_time(&self, now: UnixTime) -> Result<(), CertificateProblem> {
        let validity = self.fields().validity();
        if now.as_secs() < seconds(validity.not_before) {
            return Err(CertificateProblem::NotYetValid);
        }
        if now.as_secs() > seconds(validity.not_after) {
            return Err(CertificateProblem::Expired);
        }
        Ok(())
    }

    /// Whether `issuer` has signed it.
    pub(super) fn is_signed_by(&self, issuer: &Certificate, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        self.fields().issuer() == issuer.fields().subject()
            && issuer.has_signed(
                &self.signed,
                self.parsed.signature_algorithm(),
                self.parsed.signature(),
                algorithms,
            )
    }

    /// Whether a signature in a handshake is by this certificate's key, under one of the algorithms.
    pub(super) fn has_signed_handshake(
        &self,
        message: &[u8],
        signature: &[u8],
        algorithms: &[&dyn rustls::pki_types::SignatureVerificationAlgorithm],
    ) -> bool {
        let key = self.fields().subject_public_key_info();
        let Some(key_algorithm) = value_of(&key.algorithm) else { return false };
        algorithms.iter().any(|algorithm| {
            *algorithm.public_key_alg_id() == *key_algorithm
                && algorithm.verify_signature(key.subject_public_key.raw_bytes(), message, signature).is_ok()
        })
    }

    pub(super) fn has_signed(
        &self,
        message: &[u8],
        algorithm: &AlgorithmIdentifierOwned,
        signature: &BitString,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> bool {
        let Some(wanted) = value_of(algorithm) else { return false };
        let matching: Vec<_> =
            algorithms.all.iter().copied().filter(|known| *known.signature_alg_id() == *wanted).collect();
        self.has_signed_handshake(message, signature.raw_bytes(), &matching)
    }

    /// The `tls-server-end-point` of RFC 5929: a digest of the certificate by the digest of its own signature, but
    /// SHA-256 at least. `None` for signatures that have no digest of their own (Ed25519).
    ///
    /// Answers to `pgtls_get_peer_certificate_hash`.
    pub(super) fn end_point(&self) -> Option<Vec<u8>> {
        let algorithm = self.parsed.signature_algorithm();
        let oid = if algorithm.oid == RSASSA_PSS { pss_digest(algorithm)? } else { algorithm.oid };
        let (_, digest) = DIGESTS.iter().find(|(oids, _)| oids.contains(&oid))?;
        Some(digest(&self.der))
    }
}

type Digester = fn(&[u8]) -> Vec<u8>;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// Signature algorithms, and digests for RSA-PSS, by the digest that the channel binding takes.
const DIGESTS: [(&[ObjectIdentifier], Digester); 4] = [
    (
        &[
            ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.4"), // MD5 with RSA
            ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5"), // SHA-1 with RSA
            ObjectIdentifier::new_unwrap("1.2.840.10045.4.1"),    // ECDSA with SHA-1
            ObjectIdentifier::new_unwrap("1.3.14.3.2.26"),        // SHA-1
            ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11"), // SHA-256 with RSA
            ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"),  // ECDSA with SHA-256
            ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1"), // SHA-256
        ],
        |der| Sha256::digest(der).to_vec(),
    ),
    (
        &[
            ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.14"),
            ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.1"),
            ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.4"),
        ],
        |der| Sha224::digest(der).to_vec(),
    ),
    (
        &[
            ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12"),
            ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3"),
            ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2"),
        ],
        |der| Sha384::digest(der).to_vec(),
    ),
    (
        &[
            ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13"),
            ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4"),
            ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3"),
        ],
        |der| Sha512::digest(der).to_vec(),
    ),
];

/// The digest in RSASSA-PSS's parameters: `[0]`, SHA-1 when it is not there.
fn pss_digest(algorithm: &AlgorithmIdentifierOwned) -> Option<ObjectIdentifier> {
    let sha1 = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
    let Some(parameters) = &algorithm.parameters else { return Some(sha1) };
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    if reader.is_finished() {
        return Some(sha1);
    }
    let first = AnyRef::decode(&mut reader).ok()?;
    match first.tag() {
        Tag::ContextSpecific { number, .. } if number.value() == 0 => {
            Some(AlgorithmIdentifierOwned::from_der(first.value()).ok()?.oid)
        }
        _ => Some(sha1),
    }
}

/// The first element of a signed structure: what the signature is over.
pub(super) fn signed_part(der: &[u8]) -> Option<Vec<u8>> {
    let mut reader = SliceReader::new(der).ok()?;
    Header::decode(&mut reader).ok()?;
    reader.tlv_bytes().ok().map(<[u8]>::to_vec)
}

/// An algorithm without its outer tag and length, as rustls compares them.
fn value_of(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    Some(AnyRef::from_der(&der).ok()?.value().to_vec())
}

pub(super) fn seconds(time: Time) -> u64 {
    time.to_unix_duration().as_secs()
}
