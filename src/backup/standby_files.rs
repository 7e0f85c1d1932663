//! The files that turn a backup into a standby: settings in `postgresql.auto.conf`, a passfile, `standby.signal`.
//!
//! Rendering is pure. It answers to `GenerateRecoveryConfig` in PostgreSQL's `fe_utils/recovery_gen.c`, and to
//! `replace_auto_config_value` in `guc.c`: a setting that is given anew leaves the file where it stood before, so the
//! file never says two things. Values are quoted as `guc-file.l` unquotes them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::confined::FileError;

/// The file that `ALTER SYSTEM` writes, read after `postgresql.conf`.
pub const AUTO_CONF_NAME: &str = "postgresql.auto.conf";

/// The empty file that makes a server start as a standby.
pub const STANDBY_SIGNAL_NAME: &str = "standby.signal";

/// The longest name of a setting, in bytes: many times PostgreSQL's longest.
pub const MAX_NAME_LEN: usize = 256;

/// The longest value, in bytes.
pub const MAX_VALUE_LEN: usize = 64 << 10;

/// The longest file read, in bytes.
pub const MAX_FILE_LEN: u64 = 16 << 20;

/// A setting of the server: a name and a value that can stand in a configuration file.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    name: String,
    value: String,
}

/// Why a setting cannot stand in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Not `NAME=VALUE`.
    #[error("setting \"{}\" is not of the form NAME=VALUE", .0.escape_debug())]
    NoValue(String),
    /// Not letters, digits, `_` and `$`, in parts joined by dots.
    #[error("invalid name of setting \"{}\"", .0.escape_debug())]
    Name(String),
    /// A line break or NUL in the value; such a value cannot be written down.
    #[error("value of setting \"{0}\" holds a line break or NUL")]
    LineBreak(String),
    /// More than [`MAX_VALUE_LEN`] bytes.
    #[error("value of setting \"{0}\" is too long")]
    TooLong(String),
}

impl Setting {
    /// A setting of this name and value.
    pub fn new(name: &str, value: &str) -> Result<Self, SettingError> {
        if !is_name(name) {
            return Err(SettingError::Name(name.chars().take(MAX_NAME_LEN).collect()));
        }
        if value.bytes().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
            return Err(SettingError::LineBreak(name.to_owned()));
        }
        if value.len() > MAX_VALUE_LEN {
            return Err(SettingError::TooLong(name.to_owned()));
        }
        Ok(Setting { name: name.to_owned(), value: value.to_owned() })
    }

    /// A setting from `NAME=VALUE`, as it stands on a command line.
    pub fn parse(text: &str) -> Result<Self, SettingError> {
        let split =
            text.split_once('=').ok_or_else(|| SettingError::NoValue(text.chars().take(64).collect()));
        let (name, value) = split?;
        Setting::new(name.trim(), value.trim())
    }

    /// Its name, as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value, unquoted.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Setting {
    /// The line of a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = '", self.name)?;
        for character in self.value.chars() {
            // Inside quotes a backslash escapes; both are doubled.
            if matches!(character, '\'' | '\\') {
                write!(f, "{character}")?;
            }
            write!(f, "{character}")?;
        }
        f.write_str("'")
    }
}

impl fmt::Debug for Setting {
    /// Without the value, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The content of a `postgresql.auto.conf` with `settings` at its end, and without the lines that they replace.
/// A name that `settings` holds twice is written once, with its last value.
pub fn render_auto_conf(existing: &[u8], settings: &[Setting]) -> Vec<u8> {
    let mut content = Vec::with_capacity(existing.len() + 256);
    for line in existing.split_inclusive(|&b| b == b'\n') {
        let replaced = line_name(line)
            .is_some_and(|name| settings.iter().any(|s| s.name.as_bytes().eq_ignore_ascii_case(name)));
        if !replaced {
            content.extend_from_slice(line);
        }
    }
    if content.last().is_some_and(|&b| b != b'\n') {
        content.push(b'\n');
    }
    for (index, setting) in settings.iter().enumerate() {
        let later = &settings[index + 1..];
        if !later.iter().any(|other| other.name.eq_ignore_ascii_case(&setting.name)) {
            content.extend_from_slice(format!("{setting}\n").as_bytes());
        }
    }
    content
}

/// The value that the content of a configuration file gives a setting: the last one counts. Files that it includes are
/// not looked into.
pub fn setting_value(content: &[u8], name: &str) -> Option<String> {
    let lines = content.split(|&b| b == b'\n').rev();
    let mut of_name =
        lines.filter(|line| line_name(line).is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes())));
    let line = String::from_utf8_lossy(of_name.next()?).into_owned();
    let rest = line.trim_start()[name.len()..].trim_start();
    let rest = rest.strip_prefix('=').map_or(rest, str::trim_start);
    let Some(quoted) = rest.strip_prefix('\'') else {
        return Some(rest.split(['#', ' ', '\t', '\r']).next().unwrap_or_default().to_owned());
    };
    let mut value = String::new();
    let mut characters = quoted.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' if characters.next_if_eq(&'\'').is_some() => value.push('\''),
            '\'' => return Some(value),
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    None
}

/// A password, and the connections it is for. An empty field stands for any (`*`).
#[derive(Clone, PartialEq, Eq)]
pub struct PassfileEntry<'a> {
    /// Host name, address, or directory of a socket.
    pub host: &'a str,
    /// Port.
    pub port: &'a str,
    /// Database; `replication` for connections of standbys.
    pub database: &'a str,
    /// Role.
    pub user: &'a str,
    /// The password.
    pub password: &'a str,
}

impl fmt::Debug for PassfileEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassfileEntry")
            .field("host", &self.host)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A field of a passfile entry holds what a line cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} holds a line break or NUL and cannot stand in a password file")]
pub struct PassfileError(&'static str);

impl PassfileEntry<'_> {
    /// The line of a passfile, as libpq's `passwordFromFile` reads it: fields joined by colons, a colon or backslash
    /// inside one behind a backslash.
    pub fn render(&self) -> Result<Vec<u8>, PassfileError> {
        let fields = [
            ("host", self.host),
            ("port", self.port),
            ("database", self.database),
            ("user", self.user),
            ("password", self.password),
        ];
        let mut line = Vec::new();
        for (index, (name, value)) in fields.into_iter().enumerate() {
            if value.bytes().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
                return Err(PassfileError(name));
            }
            if index > 0 {
                line.push(b':');
            }
            if value.is_empty() && name != "password" {
                line.push(b'*');
            }
            for byte in value.bytes() {
                if matches!(byte, b':' | b'\\') {
                    line.push(b'\\');
                }
                line.push(byte);
            }
        }
        line.push(b'\n');
        Ok(line)
    }
}

/// Whether a file's content matters to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Mode 0600, whatever it was.
    Secret,
    /// The mode of the file that it replaces, or 0600.
    Ordinary,
}

/// Replaces a file durably: written beside it under another name, synced, renamed, directory synced. At every moment
/// the name holds the old content or the new.
pub fn replace_file(path: &Path, content: &[u8], secrecy: Secrecy) -> Result<(), FileError> {
    let mode = match (secrecy, path.symlink_metadata()) {
        (Secrecy::Ordinary, Ok(metadata)) if metadata.is_file() => metadata.permissions().mode() & 0o777,
        (Secrecy::Secret, _) | (_, Ok(_)) => 0o600,
        (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => 0o600,
        (_, Err(error)) => return Err(FileError::new("stat", path, error)),
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".pgwake.tmp");
    let temporary = Path::new(&name);
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::new("remove file", temporary, error));
        }
        _ => {}
    }
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = create(temporary).map_err(|source| FileError::new("create file", temporary, source))?;
    let permissions = std::fs::Permissions::from_mode(mode);
    file.write_all(content)
        .and_then(|()| file.set_permissions(permissions))
        .map_err(|source| FileError::new("write to file", temporary, source))?;
    file.sync_all().map_err(|source| FileError::new("fsync file", temporary, source))?;
    std::fs::rename(temporary, path).map_err(|source| FileError::new("rename", temporary, source))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| FileError::new("fsync directory", directory, source))
}

/// Reads a file whose content is going to be written again, for the owner of its directory; `None` when there is none.
///
/// Root reads everything, and the owner can put anything there: neither a link nor a second name of somebody else's file
/// is taken for it, and nothing that is no file is waited for.
pub fn read_to_replace(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::new("read file", path, source);
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    if metadata.nlink() > 1 && rustix::process::geteuid().is_root() {
        return Err(failed(io::Error::other("it has more than one name")));
    }
    if metadata.len() > MAX_FILE_LEN {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_LEN).read_to_end(&mut content).map_err(failed)?;
    Ok(Some(content))
}

/// Rewrites `postgresql.auto.conf` in a data directory, which may lack one.
pub fn write_settings(data_directory: &Path, settings: &[Setting]) -> Result<(), FileError> {
    let path = data_directory.join(AUTO_CONF_NAME);
    let existing = read_to_replace(&path)?.unwrap_or_default();
    replace_file(&path, &render_auto_conf(&existing, settings), Secrecy::Ordinary)
}

/// Makes a data directory that of a standby.
pub fn write_standby_signal(data_directory: &Path) -> Result<(), FileError> {
    replace_file(&data_directory.join(STANDBY_SIGNAL_NAME), b"", Secrecy::Ordinary)
}

fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$'))
    };
    name.len() <= MAX_NAME_LEN && name.split('.').all(part)
}

/// The setting that a line of a configuration file gives a value to.
fn line_name(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|&b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.')));
    let name = &line[..end.unwrap_or(line.len())];
    if name.is_empty() { None } else { Some(name) }
}

#[cfg(test)]
#[path = "standby_files_tests.rs"]
mod tests;
