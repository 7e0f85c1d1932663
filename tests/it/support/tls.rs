//! Certificates for tests: an authority, and what it signs.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

/// A certificate authority that exists for one test.
#[derive(Debug)]
pub(crate) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, as PEM.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    serial: u64,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("generate a key");
        let mut params = CertificateParams::new(Vec::new()).expect("an authority's parameters");
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("sign the authority's certificate");
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    /// The authority's own certificate: what a client puts in `sslrootcert`.
    pub(crate) fn cert_pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate whose common name is `name`, valid for the host names and addresses in `hosts`.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> Credentials {
        let serial = fastrand::u64(1..u64::MAX >> 1);
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names for a certificate");
        params.distinguished_name = common_name(name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("generate a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("sign a certificate");
        Credentials { cert_pem: certificate.pem(), key_pem: key.serialize_pem(), serial }
    }

    /// A revocation list with these certificates on it.
    pub(crate) fn revoke(&self, revoked: &[&Credentials]) -> String {
        let entry = |credentials: &&Credentials| RevokedCertParams {
            serial_number: SerialNumber::from(credentials.serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).and_then(|list| list.pem()).expect("sign a revocation list")
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
