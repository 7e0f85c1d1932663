//! Revocation lists.
//!
//! Read here because neither webpki nor `x509-cert` takes lists of version 1, which is what `openssl ca -gencrl` makes
//! unless told otherwise.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::UnixTime;
use x509_cert::der::asn1::{AnyRef, BitString};
use x509_cert::der::{self, Decode, Reader, SliceReader, Tag, Tagged};
use x509_cert::ext::Extensions;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::Time;

use super::certificate::{Certificate, seconds, signed_part};

/// A revocation list and the bytes that were signed.
#[derive(Debug, Clone)]
pub(super) struct RevocationList {
    signed: Vec<u8>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
    issuer: Name,
    this_update: Time,
    next_update: Option<Time>,
    revoked: Vec<SerialNumber>,
    /// Whether it says something critical that we do not understand: that it is partial, say.
    conditional: bool,
}

impl RevocationList {
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let signed = signed_part(der)?;
        Self::read(der, signed).ok()
    }

    /// `CertificateList` of RFC 5280, 5.1.
    fn read(der: &[u8], signed: Vec<u8>) -> der::Result<Self> {
        let [_, algorithm, signature] =
            elements(AnyRef::from_der(der)?)?.try_into().map_err(|_| Tag::Sequence.value_error())?;
        let (algorithm, signature) = (algorithm.decode_as()?, signature.decode_as()?);
        let mut fields = elements(AnyRef::from_der(&signed)?)?.into_iter().peekable();
        let mut next = |wanted: fn(Tag) -> bool| fields.next_if(|field| wanted(field.tag()));
        let missing = || Tag::Sequence.value_error();
        let is_time = |tag| matches!(tag, Tag::UtcTime | Tag::GeneralizedTime);
        let is_sequence = |tag| tag == Tag::Sequence;
        let _version = next(|tag| tag == Tag::Integer);
        let _algorithm = next(is_sequence).ok_or_else(missing)?;
        let issuer = next(is_sequence).ok_or_else(missing)?.decode_as()?;
        let this_update = next(is_time).ok_or_else(missing)?.decode_as()?;
        let next_update = match next(is_time) {
            Some(time) => Some(time.decode_as()?),
            None => None,
        };
        let revoked = next(is_sequence).map(revoked_serials).transpose()?.unwrap_or_default();
        let extensions = next(|tag| matches!(tag, Tag::ContextSpecific { .. }));
        let conditional = match extensions {
            Some(extensions) => {
                Extensions::from_der(extensions.value())?.iter().any(|extension| extension.critical)
            }
            None => false,
        };
        Ok(RevocationList {
            algorithm,
            signature,
            issuer,
            this_update,
            next_update,
            revoked,
            conditional,
            signed,
        })
    }

    /// Whether it speaks for this authority, about all that it has signed.
    pub(super) fn is_of(&self, issuer: &Certificate, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        !self.conditional
            && &self.issuer == issuer.fields().subject()
            && issuer.has_signed(&self.signed, &self.algorithm, &self.signature, algorithms)
    }

    pub(super) fn is_current(&self, now: UnixTime) -> bool {
        seconds(self.this_update) <= now.as_secs()
            && self.next_update.is_none_or(|next| now.as_secs() <= seconds(next))
    }

    pub(super) fn revokes(&self, certificate: &Certificate) -> bool {
        self.revoked.contains(certificate.fields().serial_number())
    }
}

fn revoked_serials(list: AnyRef<'_>) -> der::Result<Vec<SerialNumber>> {
    let serial = |entry| {
        let entry = elements(entry)?;
        entry.first().ok_or_else(|| der::Error::from(Tag::Sequence.value_error()))?.decode_as()
    };
    elements(list)?.into_iter().map(serial).collect()
}

/// What a sequence holds.
fn elements(sequence: AnyRef<'_>) -> der::Result<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(sequence.value())?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        elements.push(AnyRef::decode(&mut reader)?);
    }
    Ok(elements)
}
