//! An object as it is stored when an archive is encrypted.
//!
//! ```text
//! "PGWKENC2"  length of the key's name  the key's name  salt      AES-256-GCM
//! 8 bytes     1 byte                    1 to 64 bytes   32 bytes  as long as the content, and 16 bytes
//! ```
//!
//! Each object has a key of its own, HKDF-SHA-256 of the master key with the salt, the archive's cluster and the object's name: no
//! nonce can come twice, and an object that was put under another's name, or into another cluster's archive, does not open. What
//! is before the ciphertext is authenticated with it.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::Prk;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::keyring::{Keyring, MAX_ID_LEN};
use crate::pg::SystemIdentifier;

/// An object that does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It begins as none does.
    #[error("it is not encrypted")]
    NotEncrypted,
    /// The key is not at hand.
    #[error("it is encrypted with key \"{0}\", which is not among the keys that were given")]
    UnknownKey(String),
    /// It is encrypted, and no key was given.
    #[error("it is encrypted, and no key was given")]
    NoKey,
    /// It is cut off, changed, or another object's.
    #[error("it does not open with its key: it was changed, or is another object's")]
    Altered,
    /// There is no randomness to be had.
    #[error("the system gives no random numbers")]
    Random,
}

const MAGIC: &[u8; 8] = b"PGWKENC2";
const SALT_LEN: usize = 32;
const TAG_LEN: usize = 16;

/// By how much an object is longer than its content, at the most.
pub(super) const MAX_OVERHEAD: u64 = (MAGIC.len() + 1 + MAX_ID_LEN + SALT_LEN + TAG_LEN) as u64;

/// What comes before an object's name in what its key is derived with.
const INFO: &[u8] = b"pgwake archive object 2\0";

/// The object called `name` with this content, in the archive of `owner`, if it is bound to one.
pub(super) fn seal(
    keyring: &Keyring,
    owner: Option<SystemIdentifier>,
    name: &str,
    content: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let mut salt = [0; SALT_LEN];
    SystemRandom::new().fill(&mut salt).map_err(|Unspecified| EnvelopeError::Random)?;
    let (id, master) = keyring.writing(&salt);
    let id = id.as_str().as_bytes();
    let mut object = Vec::with_capacity(content.len() + usize::try_from(MAX_OVERHEAD).unwrap_or(0));
    object.extend_from_slice(MAGIC);
    object.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
    object.extend_from_slice(id);
    object.extend_from_slice(&salt);
    let header_len = object.len();
    let header = object.clone();
    object.extend_from_slice(content);
    let key = derive(&master, owner, name).map_err(|Unspecified| EnvelopeError::Random)?;
    let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(header), &mut object[header_len..]);
    object.extend_from_slice(tag.map_err(|Unspecified| EnvelopeError::Random)?.as_ref());
    Ok(object)
}

/// The content of the object called `name`.
pub(super) fn open(
    keyring: &Keyring,
    owner: Option<SystemIdentifier>,
    name: &str,
    object: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let rest = object.strip_prefix(MAGIC).ok_or(EnvelopeError::NotEncrypted)?;
    let (&id_len, rest) = rest.split_first().ok_or(EnvelopeError::Altered)?;
    let (id, rest) = rest.split_at_checked(id_len.into()).ok_or(EnvelopeError::Altered)?;
    let (salt, sealed) = rest.split_at_checked(SALT_LEN).ok_or(EnvelopeError::Altered)?;
    let known = str::from_utf8(id).ok().and_then(|id| keyring.reading(id, salt));
    let Some(master) = known else {
        let shown = String::from_utf8_lossy(&id[..id.len().min(MAX_ID_LEN)]).escape_default().to_string();
        return Err(EnvelopeError::UnknownKey(shown));
    };
    let header = &object[..object.len() - sealed.len()];
    let key = derive(&master, owner, name).map_err(|Unspecified| EnvelopeError::Altered)?;
    let mut content = sealed.to_vec();
    let opened = key.open_in_place(nonce(), Aad::from(header), &mut content);
    let len = opened.map_err(|Unspecified| EnvelopeError::Altered)?.len();
    content.truncate(len);
    Ok(content)
}

/// Whether an object begins as encrypted ones do.
pub(super) fn is_sealed(object: &[u8]) -> bool {
    object.starts_with(MAGIC)
}

fn derive(master: &Prk, owner: Option<SystemIdentifier>, name: &str) -> Result<LessSafeKey, Unspecified> {
    let owner = owner.map_or_else(String::new, |owner| owner.to_string());
    // digits, and a zero byte behind them: nothing else can be read as the same
    let info = [INFO, owner.as_bytes(), b"\0", name.as_bytes()];
    Ok(LessSafeKey::new(UnboundKey::from(master.expand(&info, &AES_256_GCM)?)))
}

/// Each key seals one object.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWNER: Option<SystemIdentifier> = Some(SystemIdentifier::new(7));

    fn keyring(ids: &[&str]) -> Keyring {
        // a key's digits come from its name
        let line = |id: &&str| format!("{id} {}\n", format!("{:02x}", id.as_bytes()[0]).repeat(32));
        Keyring::parse(&ids.iter().map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn every_byte_that_changes_shows() {
        let keys = keyring(&["k1"]);
        let object = seal(&keys, OWNER, "wal/x", b"a content that is long enough").unwrap();
        assert_eq!(open(&keys, OWNER, "wal/x", &object).unwrap(), b"a content that is long enough");
        assert!(!object.windows(6).any(|window| *window == b"content"[..6]));
        for index in 0..object.len() {
            let mut damaged = object.clone();
            damaged[index] ^= 1;
            assert!(open(&keys, OWNER, "wal/x", &damaged).is_err(), "byte {index}");
            assert!(open(&keys, OWNER, "wal/x", &object[..index]).is_err(), "cut at {index}");
        }
        assert_eq!(open(&keys, OWNER, "wal/y", &object), Err(EnvelopeError::Altered), "another's name");
        for other in [None, Some(SystemIdentifier::new(77))] {
            assert_eq!(
                open(&keys, other, "wal/x", &object),
                Err(EnvelopeError::Altered),
                "another archive's"
            );
        }
        assert_eq!(open(&keys, OWNER, "wal/x", b"plain"), Err(EnvelopeError::NotEncrypted));
        assert_ne!(seal(&keys, OWNER, "wal/x", b"a content that is long enough").unwrap(), object);
    }

    #[test]
    fn a_new_key_writes_and_the_old_ones_read() {
        let old = seal(&keyring(&["a"]), OWNER, "x", b"1").unwrap();
        let rotated = keyring(&["b", "a"]);
        let new = seal(&rotated, OWNER, "x", b"2").unwrap();
        assert_eq!(
            (open(&rotated, OWNER, "x", &old).unwrap(), open(&rotated, OWNER, "x", &new).unwrap()),
            (b"1".to_vec(), b"2".to_vec())
        );
        assert_eq!(open(&keyring(&["a"]), OWNER, "x", &new), Err(EnvelopeError::UnknownKey("b".into())));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(content in proptest::collection::vec(any::<u8>(), 0..5000), name in "[a-z/]{0,80}") {
            let keys = keyring(&["k"]);
            let object = seal(&keys, OWNER, &name, &content).unwrap();
            prop_assert!(object.len() as u64 <= content.len() as u64 + MAX_OVERHEAD);
            prop_assert_eq!(open(&keys, OWNER, &name, &object).unwrap(), content);
        }

        #[test]
        fn anything_is_taken_without_harm(object in proptest::collection::vec(any::<u8>(), 0..300)) {
            let keys = keyring(&["k"]);
            let mut begun = MAGIC.to_vec();
            begun.extend_from_slice(&object);
            prop_assert!(open(&keys, OWNER, "", &object).is_err() && open(&keys, OWNER, "", &begun).is_err());
        }
    }
}
