//! Certificates of every kind, good and bad, for the servers in these tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::harness::Lab;
use crate::support::dir::own;
use crate::support::{Cluster, Stop, Tool};

/// An authority whose key we have in a file, too, for `openssl`.
pub(super) struct Ca {
    pub(super) certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate (perhaps with its issuers) and its key, as PEM.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Ca {
    pub(super) fn new(name: &str) -> Ca {
        let (key, params) = (KeyPair::generate().expect("a key"), ca_params(name));
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Ca { certificate, key: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub(super) fn intermediate(&self, name: &str) -> Ca {
        let (key, params) = (KeyPair::generate().expect("a key"), ca_params(name));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Ca { certificate, key: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// A server's certificate with serial number 7.
    pub(super) fn server(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let (key, params) = server_params(names, change);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    /// A revocation list with these serial numbers on it.
    pub(super) fn revoke(&self, serials: &[u64], until: i32) -> String {
        let entry = |&serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a revocation list")
    }

    /// What `openssl` makes of a shell script that finds `ca.crt` and `ca.key` and leaves `out.crt` and `out.key`.
    pub(super) fn openssl(&self, lab: &Lab, script: &str) -> Pair {
        lab.file("ca.crt", 0o644, &self.certificate);
        lab.file("ca.key", 0o600, &self.key);
        Tool::new("/bin/sh").args(["-ec", script]).dir(lab.dir.path()).run().succeeded();
        let read = |name: &str| std::fs::read_to_string(lab.dir.join(name)).expect("what openssl has made");
        Pair { certificate: read("out.crt"), key: read("out.key") }
    }
}

/// A certificate that nobody else has signed.
pub(super) fn self_signed(names: &[&str]) -> Pair {
    let (key, params) = server_params(names, |_| {});
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    Pair { certificate, key: key.serialize_pem() }
}

fn server_params(
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> (KeyPair, CertificateParams) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = named("localhost");
    params.serial_number = Some(SerialNumber::from(7));
    change(&mut params);
    (KeyPair::generate().expect("a key"), params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Gives a server another certificate.
pub(super) fn install(cluster: &Cluster, pair: &Pair) {
    for (name, pem) in [("server.crt", &pair.certificate), ("server.key", &pair.key)] {
        let path = cluster.dir().file("pem.tmp", 0o600, pem);
        let place = cluster.data_dir().join(name);
        std::fs::rename(path, &place).expect("put a certificate into the data directory");
        own(&place);
    }
    cluster.stop(Stop::Fast);
    cluster.start();
}
