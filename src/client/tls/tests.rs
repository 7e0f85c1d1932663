use proptest::prelude::*;
use rustls::pki_types::CertificateDer;

use super::certificate::Certificate;
use super::names::check_host;
use super::revocation::RevocationList;

fn genuine() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec!["host".to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn the_end_point_is_the_digest_of_the_certificate() {
    use sha2::Digest;
    let der = genuine();
    let certificate = Certificate::parse(&CertificateDer::from(der.clone())).unwrap();
    assert_eq!(certificate.end_point(), Some(sha2::Sha256::digest(&der).to_vec()));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Certificate::parse(&CertificateDer::from(bytes.clone()));
        let _ = RevocationList::parse(&bytes);
    }

    #[test]
    fn no_damaged_certificate_panics(
        position in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut der = genuine();
        let position = position.index(der.len());
        der[position] = byte;
        let _ = RevocationList::parse(&der);
        for der in [der[..cut.index(der.len())].to_vec(), der] {
            if let Ok(certificate) = Certificate::parse(&CertificateDer::from(der)) {
                let _ = (certificate.end_point(), check_host(&certificate, "host"));
            }
        }
    }
}
