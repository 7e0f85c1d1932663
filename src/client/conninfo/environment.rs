//! What of the world outside goes into connection settings, and nothing else of it.

use std::io;
use std::path::{Path, PathBuf};

/// Variables and files, as the settings may see them. Tests bring their own.
pub trait Environment {
    /// A variable, if it is set (to the empty string, perhaps).
    fn variable(&self, name: &str) -> Option<String>;
    /// A whole file. Bytes that are not UTF-8 are replaced: they cannot match what a user wrote.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// What kind of thing is there, links followed.
    fn status(&self, path: &Path) -> io::Result<FileStatus>;
    /// The user's home directory.
    fn home_dir(&self) -> Option<PathBuf>;
    /// The name of the user that the program runs as.
    fn user_name(&self) -> io::Result<String>;
    /// Where relative paths begin.
    fn current_dir(&self) -> io::Result<PathBuf>;
}

/// What is known of a file before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStatus {
    /// Whether it is a plain file.
    pub is_file: bool,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
}

/// The process's own environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnvironment;

/// The longest configuration file read, in bytes.
const MAX_FILE_LEN: u64 = 16 << 20;

impl Environment for SystemEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        use io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MAX_FILE_LEN).read_to_end(&mut bytes)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path)?;
        Ok(FileStatus { is_file: metadata.is_file(), mode: metadata.mode() & 0o7777, owner: metadata.uid() })
    }

    fn home_dir(&self) -> Option<PathBuf> {
        std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
    }

    fn user_name(&self) -> io::Result<String> {
        let uid = rustix::process::geteuid().as_raw();
        user_name_of(uid)?.ok_or_else(|| io::Error::other(format!("local user with ID {uid} does not exist")))
    }

    fn current_dir(&self) -> io::Result<PathBuf> {
        std::env::current_dir()
    }
}

/// The name of a user of this machine, or `None` when nobody has that number.
///
/// Stands for `getpwuid`, which needs `unsafe`: the file first, then whatever `getent` asks (LDAP, say).
pub(crate) fn user_name_of(uid: u32) -> io::Result<Option<String>> {
    let find = |passwd: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
            (id.parse() == Ok(uid)).then(|| name.to_owned())
        })
    };
    if let Ok(passwd) = std::fs::read("/etc/passwd")
        && let Some(name) = find(&String::from_utf8_lossy(&passwd))
    {
        return Ok(Some(name));
    }
    let output = std::process::Command::new("getent").arg("passwd").arg(uid.to_string()).output()?;
    Ok(find(&String::from_utf8_lossy(&output.stdout)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// An environment made of maps.
    #[derive(Debug, Default, Clone)]
    pub(crate) struct FakeEnvironment {
        pub(crate) variables: BTreeMap<String, String>,
        pub(crate) files: BTreeMap<PathBuf, (u32, String)>,
    }

    impl FakeEnvironment {
        pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
            self.variables.insert(name.to_owned(), value.to_owned());
            self
        }

        pub(crate) fn with_file(mut self, path: &str, mode: u32, content: &str) -> Self {
            self.files.insert(path.into(), (mode, content.to_owned()));
            self
        }
    }

    impl Environment for FakeEnvironment {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).cloned()
        }

        fn read(&self, path: &Path) -> io::Result<String> {
            self.files.get(path).map(|file| file.1.clone()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn status(&self, path: &Path) -> io::Result<FileStatus> {
            let (mode, _) = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(FileStatus { is_file: true, mode: *mode, owner: 1000 })
        }

        fn home_dir(&self) -> Option<PathBuf> {
            Some("/home/me".into())
        }

        fn user_name(&self) -> io::Result<String> {
            Ok("me".to_owned())
        }

        fn current_dir(&self) -> io::Result<PathBuf> {
            Ok("/srv".into())
        }
    }

    #[test]
    fn the_local_user_has_a_name() {
        assert_eq!(user_name_of(0).unwrap().as_deref(), Some("root"));
        assert!(SystemEnvironment.user_name().is_ok());
        assert_eq!(user_name_of(4_000_000_123).unwrap(), None);
    }
}
