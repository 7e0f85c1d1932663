//! The keys that an archive's objects are encrypted with: one to write with, and all that may be met.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use ring::hkdf::{HKDF_SHA256, Prk, Salt};

/// A master key, and its name.
struct Key {
    id: KeyId,
    secret: [u8; KEY_LEN],
}

/// A key's name: letters, digits, `.`, `_` and `-`, at most 64 of them. It is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId(String);

/// Several keys; the first one is written with.
pub struct Keyring {
    /// Not empty.
    keys: Vec<Key>,
}

/// What is wrong with a list of keys. Shows nothing of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// There is none.
    #[error("it has no key")]
    Empty,
    /// A line that is not a name, a space, and 64 hexadecimal digits.
    #[error("line {0} is not a key's name, a space, and 64 hexadecimal digits")]
    Line(usize),
    /// Two keys of one name.
    #[error("line {0} has a name that a line before it has")]
    Twice(usize),
    /// More than anybody needs.
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
}

/// The length of a master key, in bytes.
const KEY_LEN: usize = 32;

/// The longest name of a key.
pub(super) const MAX_ID_LEN: usize = 64;

const MAX_KEYS: usize = 1000;

impl KeyId {
    /// `None`: no name of a key.
    pub fn new(text: &str) -> Option<Self> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let valid = !text.is_empty() && text.len() <= MAX_ID_LEN && text.bytes().all(is_valid);
        valid.then(|| KeyId(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Keyring {
    /// A key a line: its name, white space, 64 hexadecimal digits. Empty lines, and those that begin with `#`, say nothing.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse_line(line).ok_or(KeyringError::Line(index + 1))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyringError::Twice(index + 1));
            }
            if keys.len() == MAX_KEYS {
                return Err(KeyringError::TooMany);
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(KeyringError::Empty) } else { Ok(Keyring { keys }) }
    }

    /// What is written with, ready for an object with this salt.
    pub(super) fn writing(&self, salt: &[u8]) -> (&KeyId, Prk) {
        let key = &self.keys[0];
        (&key.id, Salt::new(HKDF_SHA256, salt).extract(&key.secret))
    }

    /// The key of this name, ready for an object with this salt.
    pub(super) fn reading(&self, id: &str, salt: &[u8]) -> Option<Prk> {
        let key = self.keys.iter().find(|key| key.id.as_str() == id)?;
        Some(Salt::new(HKDF_SHA256, salt).extract(&key.secret))
    }
}

/// Why there are no keys. Shows nothing of what was read.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    /// The file cannot be read.
    #[error("could not read key file \"{}\"", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody else may read them.
    #[error("key file \"{}\" is not taken: others than its owner may read it", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
    },
    /// The file is no list of keys.
    #[error("key file \"{}\" is no list of keys", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: KeyringError,
    },
    /// The command cannot be run.
    #[error("could not run the key command")]
    Run(#[source] io::Error),
    /// The command says that it failed.
    #[error("key command failed: {status}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
    },
    /// What the command printed is no list of keys.
    #[error("key command printed no list of keys")]
    Output(#[source] KeyringError),
}

/// The longest list of keys, in bytes.
const MAX_TEXT_LEN: u64 = 256 << 10;

impl Keyring {
    /// The keys in a file that only its owner may read. A pipe has no readers but one.
    pub fn from_file(path: &Path) -> Result<Self, KeySourceError> {
        let failed = |source| KeySourceError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_file() && metadata.mode() & 0o077 != 0 {
            return Err(KeySourceError::OpenToOthers { path: path.to_owned() });
        }
        let text = bounded_text(file).map_err(failed)?;
        Self::parse(&text).map_err(|source| KeySourceError::File { path: path.to_owned(), source })
    }

    /// The keys that `sh -c COMMAND` prints. It cannot ask anybody anything.
    pub fn from_command(command: &str) -> Result<Self, KeySourceError> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = shell.spawn().map_err(KeySourceError::Run)?;
        let text = child.stdout.take().map_or(Ok(String::new()), bounded_text);
        let status = child.wait().map_err(KeySourceError::Run)?;
        if !status.success() {
            return Err(KeySourceError::Failed { status });
        }
        Self::parse(&text.map_err(KeySourceError::Run)?).map_err(KeySourceError::Output)
    }
}

fn bounded_text(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(MAX_TEXT_LEN).read_to_string(&mut text)?;
    Ok(text)
}

fn parse_line(line: &str) -> Option<Key> {
    let (id, digits) = line.split_once(char::is_whitespace)?;
    let digits = digits.trim_start().as_bytes();
    let id = KeyId::new(id)?;
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    let mut secret = [0; KEY_LEN];
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(Key { id, secret })
}

/// Names only.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_never_shown() {
        let (one, two) = ("0f".repeat(32), "A0".repeat(32));
        let keyring = Keyring::parse(&format!("# since March\nk2 {one}\n\n  k1.old\t {two}\r\n")).unwrap();
        assert_eq!(keyring.writing(&[1; 32]).0.as_str(), "k2");
        assert!(keyring.reading("k1.old", &[1; 32]).is_some() && keyring.reading("k3", &[1; 32]).is_none());
        let shown = format!("{keyring:?}");
        assert!(shown.contains("k2") && !shown.contains("0f0f") && !shown.to_lowercase().contains("a0a0"));
    }

    #[test]
    fn keys_come_from_a_file_of_ones_own_or_a_command() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, format!("k1 {}\n", "0f".repeat(32))).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keyring::from_file(&path), Err(KeySourceError::OpenToOthers { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(format!("{:?}", Keyring::from_file(&path).unwrap()), "[KeyId(\"k1\")]");
        let printed = Keyring::from_command(&format!("cat {}", path.display())).unwrap();
        assert_eq!(format!("{printed:?}"), "[KeyId(\"k1\")]");
        assert!(matches!(Keyring::from_command("echo k1; exit 1"), Err(KeySourceError::Failed { .. })));
        assert!(matches!(
            Keyring::from_command("echo k1"),
            Err(KeySourceError::Output(KeyringError::Line(1)))
        ));
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused() {
        let key = "0f".repeat(32);
        for (text, error) in [
            (String::new(), KeyringError::Empty),
            ("# k1".into(), KeyringError::Empty),
            (key.clone(), KeyringError::Line(1)),
            (format!("k1 {key}0"), KeyringError::Line(1)),
            (format!("\nk1 {}g", &key[1..]), KeyringError::Line(2)),
            (format!("k/1 {key}"), KeyringError::Line(1)),
            (format!("{} {key}", "k".repeat(65)), KeyringError::Line(1)),
            (format!("k1 {key}\nk1 {key}"), KeyringError::Twice(2)),
        ] {
            assert_eq!(Keyring::parse(&text).map(drop).unwrap_err(), error, "{text}");
        }
    }
}
