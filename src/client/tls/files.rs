//! Certificates, keys and revocation lists from files.
//!
//! Answers to the file handling of `initialize_SSL` in libpq's `fe-secure-openssl.c`. Departure: a revocation list
//! that was named and cannot be read is an error; libpq goes on without it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::TlsError;
use super::revocation::RevocationList;
use crate::client::conninfo::{SslMode, TlsRoots, TlsSettings};

/// Trusted roots; `None` when there are none and none are needed.
pub(super) fn roots(settings: &TlsSettings) -> Result<Option<Vec<CertificateDer<'static>>>, TlsError> {
    let path = match &settings.roots {
        TlsRoots::System => {
            let found = rustls_native_certs::load_native_certs().certs;
            return if found.is_empty() { Err(TlsError::SystemRoots) } else { Ok(Some(found)) };
        }
        TlsRoots::File(path) => path,
        TlsRoots::Unknown if settings.mode < SslMode::VerifyCa => return Ok(None),
        TlsRoots::Unknown => return Err(TlsError::RootsUnknown),
    };
    match std::fs::metadata(path) {
        Ok(_) => certificates("root certificate", path).map(Some),
        Err(_) if settings.mode < SslMode::VerifyCa => Ok(None),
        Err(_) => Err(TlsError::RootsMissing { path: path.clone() }),
    }
}

/// Every certificate in a PEM file; at least one.
pub(super) fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect();
    if found.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned() });
    }
    Ok(found)
}

/// Revocation lists; `None` when nobody has any.
pub(super) fn revocation_lists(settings: &TlsSettings) -> Result<Option<Vec<RevocationList>>, TlsError> {
    const WHAT: &str = "certificate revocation list";
    let mut lists = Vec::new();
    if let Some(path) = &settings.crl {
        if settings.crl_is_default && std::fs::metadata(path).is_err() {
            return Ok(None);
        }
        lists.extend(parse_lists(&read(WHAT, path)?));
        if lists.is_empty() {
            return Err(TlsError::Empty { what: WHAT, path: path.clone() });
        }
    }
    if let Some(dir) = &settings.crl_dir {
        let failed = |source| TlsError::Read { what: WHAT, path: dir.clone(), source };
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if is_hashed_name(&path) {
                lists.extend(parse_lists(&read(WHAT, &path)?));
            }
        }
    } else if settings.crl.is_none() {
        return Ok(None);
    }
    Ok(Some(lists))
}

fn parse_lists(bytes: &[u8]) -> Vec<RevocationList> {
    let lists = CertificateRevocationListDer::pem_slice_iter(bytes).filter_map(Result::ok);
    lists.filter_map(|der| RevocationList::parse(&der)).collect()
}

/// `9bb9e3c3.r0`, as `openssl rehash` names them.
fn is_hashed_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    name.split_once(".r").is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// A private key that nobody else can read.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let owned = || path.to_owned();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(TlsError::KeyMissing { path: owned() });
        }
        Err(source) => return Err(TlsError::Read { what: "private key", path: owned(), source }),
    };
    if !metadata.is_file() {
        return Err(TlsError::KeyNotRegular { path: owned() });
    }
    // root may let a group read it, as Debian does with "ssl-cert"
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(TlsError::KeyOpenToOthers { path: owned() });
    }
    let bytes = read("private key", path)?;
    if is_encrypted(&bytes) {
        return Err(TlsError::KeyEncrypted { path: owned() });
    }
    PrivateKeyDer::from_pem_slice(&bytes)
        .ok()
        .or_else(|| PrivateKeyDer::try_from(bytes).ok())
        .ok_or_else(|| TlsError::Empty { what: "private key", path: owned() })
}

fn is_encrypted(bytes: &[u8]) -> bool {
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED")
}

/// The longest file read, in bytes.
const MAX_FILE_LEN: u64 = 16 << 20;

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    use io::Read;
    let mut bytes = Vec::new();
    let result = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_LEN).read_to_end(&mut bytes));
    result.map(|_| bytes).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}
