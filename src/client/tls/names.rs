//! Whether a certificate is for a host, by libpq's rules.
//!
//! Answers to `pgtls_verify_peer_name_matches_certificate_guts` in `fe-secure-openssl.c` and to
//! `fe-secure-common.c`: subject alternative names of both kinds are compared; the common name counts only when there
//! is none of the host's own kind; `*` stands for exactly one left-most label.

use std::net::IpAddr;

use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::CertificateProblem;
use super::certificate::Certificate;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Checks that the certificate names the host.
pub(super) fn check_host(certificate: &Certificate, host: &str) -> Result<(), CertificateProblem> {
    let address = host.parse::<IpAddr>().ok();
    let mut common_name_counts = true;
    let mut seen = Vec::new();
    for name in alternative_names(certificate)? {
        let matches = match &name {
            GeneralName::DnsName(name) => {
                common_name_counts &= address.is_some();
                let matches = dns_name_matches(name.as_str(), host)?;
                seen.push(name.as_str().to_owned());
                matches
            }
            GeneralName::IpAddress(bytes) => {
                common_name_counts &= address.is_none();
                let named = address_from(bytes.as_bytes());
                seen.extend(named.map(|named| named.to_string()));
                named.is_some() && named == address
            }
            _ => false,
        };
        if matches {
            return Ok(());
        }
    }
    if common_name_counts && let Some(name) = common_name(certificate)? {
        if dns_name_matches(&name, host)? {
            return Ok(());
        }
        seen.push(name);
    }
    let Some((first, others)) = seen.split_first() else { return Err(CertificateProblem::NoName) };
    let shown = match others.len() {
        0 => format!("\"{}\"", first.escape_debug()),
        1 => format!("\"{}\" (and 1 other name)", first.escape_debug()),
        count => format!("\"{}\" (and {count} other names)", first.escape_debug()),
    };
    Err(CertificateProblem::WrongHost { shown, host: host.to_owned() })
}

fn alternative_names(certificate: &Certificate) -> Result<Vec<GeneralName>, CertificateProblem> {
    let extension = certificate.fields().get_extension::<SubjectAltName>();
    let extension = extension.map_err(|_| CertificateProblem::Malformed)?;
    Ok(extension.map(|(_, SubjectAltName(names))| names).unwrap_or_default())
}

/// The first common name, whatever kind of string it is in.
fn common_name(certificate: &Certificate) -> Result<Option<String>, CertificateProblem> {
    let mut attributes = certificate.fields().subject().iter();
    let Some(attribute) = attributes.find(|attribute| attribute.oid == COMMON_NAME) else { return Ok(None) };
    let text = std::str::from_utf8(attribute.value.value()).map_err(|_| CertificateProblem::Malformed)?;
    Ok(Some(text.to_owned()))
}

fn dns_name_matches(name: &str, host: &str) -> Result<bool, CertificateProblem> {
    if name.contains('\0') {
        return Err(CertificateProblem::ZeroByteInName);
    }
    Ok(name.eq_ignore_ascii_case(host) || wildcard_matches(name, host))
}

/// `*.example.com` is `www.example.com`, and neither `example.com` nor `a.www.example.com`.
fn wildcard_matches(pattern: &str, host: &str) -> bool {
    let Some(suffix) = pattern.strip_prefix('*').filter(|suffix| suffix.len() > 1 && suffix.starts_with('.'))
    else {
        return false;
    };
    match host.find('.') {
        Some(first_dot) if first_dot > 0 => host[first_dot..].eq_ignore_ascii_case(suffix),
        _ => false,
    }
}

fn address_from(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(common_name: Option<&str>, names: &[&str]) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn matches_as_libpq_does() {
        for (common_name, names, host, expected) in [
            (Some("host"), &[][..], "host", true),
            (Some("HOST"), &[][..], "host", true),
            (Some("other"), &[][..], "host", false),
            (Some("host"), &["other"][..], "host", false),
            (Some("host"), &["10.0.0.1"][..], "host", true),
            (None, &["host", "other"][..], "other", true),
            (None, &["*.example.com"][..], "www.example.com", true),
            (None, &["*.example.com"][..], "WWW.Example.com", true),
            (None, &["*.example.com"][..], "example.com", false),
            (None, &["*.example.com"][..], "a.www.example.com", false),
            (None, &["*.example.com"][..], ".example.com", false),
            (None, &["10.0.0.1"][..], "10.0.0.1", true),
            (None, &["10.0.0.1"][..], "10.0.0.2", false),
            (None, &["::1"][..], "0:0::1", true),
            (Some("10.0.0.1"), &[][..], "10.0.0.1", true),
            (Some("10.0.0.1"), &["host"][..], "10.0.0.1", true),
            (Some("10.0.0.1"), &["10.0.0.2"][..], "10.0.0.1", false),
        ] {
            let certificate = certificate(common_name, names);
            let result = check_host(&certificate, host);
            assert_eq!(result.is_ok(), expected, "{common_name:?} {names:?} {host}: {result:?}");
        }
    }

    #[test]
    fn says_whose_it_is() {
        assert_eq!(
            check_host(&certificate(Some("cn"), &["a", "b", "c"]), "host").unwrap_err().to_string(),
            "server certificate for \"a\" (and 2 other names) does not match host name \"host\""
        );
        let commanding = check_host(&certificate(Some("\x1b[2J"), &[]), "host").unwrap_err().to_string();
        assert!(commanding.contains("\"\\u{1b}[2J\""), "{commanding}");
        assert_eq!(check_host(&certificate(None, &[]), "host"), Err(CertificateProblem::NoName));
        let zero = check_host(&certificate(Some("host\0.evil"), &[]), "host");
        assert_eq!(zero, Err(CertificateProblem::ZeroByteInName));
    }

    proptest! {
        #[test]
        fn a_wildcard_is_one_label(pattern in "[*.a]{0,6}", host in "[.a]{0,8}") {
            if wildcard_matches(&pattern, &host) {
                let (label, rest) = host.split_once('.').unwrap();
                prop_assert!(!label.is_empty());
                prop_assert_eq!(format!("*.{rest}"), pattern);
            }
        }
    }
}
