//! `--password-file` and `--password-command`: where a password is that nobody types.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::client::conninfo::Secret;

/// Why there is no password. Shows nothing of what was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PasswordSourceError {
    #[error("could not read password file \"{}\"", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("password file \"{}\" is not taken: others than its owner may read it", path.display())]
    OpenToOthers { path: PathBuf },
    #[error("password file \"{}\" has no password on its first line", path.display())]
    EmptyFile { path: PathBuf },
    #[error("could not run the password command")]
    Run(#[source] io::Error),
    #[error("password command failed: {status}")]
    Failed { status: ExitStatus },
    #[error("password command printed no password on its first line")]
    EmptyOutput,
}

/// The longest password, in bytes, with its line's end.
const MAX_PASSWORD_LEN: usize = 1024;

/// The file's first line. Who else may read it is looked at in the file that is read, not in what has its name now; a pipe
/// (`<(…)`, `/dev/stdin`) has no readers but one.
pub(super) fn from_file(path: &Path) -> Result<Secret, PasswordSourceError> {
    let failed = |source| PasswordSourceError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(PasswordSourceError::OpenToOthers { path: path.to_owned() });
    }
    let password = first_line(file).map_err(failed)?;
    password.ok_or_else(|| PasswordSourceError::EmptyFile { path: path.to_owned() })
}

/// The first line that `sh -c COMMAND` prints. What it complains of is seen; it cannot ask anybody anything.
pub(super) fn from_command(command: &str) -> Result<Secret, PasswordSourceError> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(PasswordSourceError::Run)?;
    // whatever it prints beyond that finds nobody who reads
    let password = child.stdout.take().map_or(Ok(None), first_line);
    let status = child.wait().map_err(PasswordSourceError::Run)?;
    if !status.success() {
        return Err(PasswordSourceError::Failed { status });
    }
    password.map_err(PasswordSourceError::Run)?.ok_or(PasswordSourceError::EmptyOutput)
}

/// `None` when there is nothing on it.
fn first_line(source: impl Read) -> io::Result<Option<Secret>> {
    let mut bytes = Vec::new();
    source.take(MAX_PASSWORD_LEN as u64 + 1).read_to_end(&mut bytes)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > MAX_PASSWORD_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first line is too long for a password"));
    }
    let password = str::from_utf8(line);
    let password =
        password.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "password is not valid UTF-8"))?;
    Ok(Some(password).filter(|password| !password.is_empty()).map(Secret::new))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_password_is_the_first_line_of_a_file_that_only_its_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let read = |mode, content: &str| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            from_file(&path).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(read(0o600, "right one \r\nmore\n").unwrap(), "right one ");
        assert_eq!(read(0o400, "right").unwrap(), "right");
        assert!(matches!(read(0o600, "\nright\n"), Err(PasswordSourceError::EmptyFile { .. })));
        assert!(matches!(read(0o600, &"x".repeat(2000)), Err(PasswordSourceError::Read { .. })));
        assert!(matches!(read(0o640, "right"), Err(PasswordSourceError::OpenToOthers { .. })));
        assert!(from_file(&directory.path().join("none")).is_err());
    }

    #[test]
    fn a_password_is_the_first_line_that_a_command_prints() {
        let run = |command: &str| from_command(command).map(|secret| secret.expose().to_owned());
        assert_eq!(run("echo right; echo wrong").unwrap(), "right");
        assert_eq!(run("printf right").unwrap(), "right");
        assert!(matches!(run("echo right; exit 3"), Err(PasswordSourceError::Failed { .. })));
        assert!(matches!(run("true"), Err(PasswordSourceError::EmptyOutput)));
        assert!(matches!(run("cat"), Err(PasswordSourceError::EmptyOutput)), "it has no input");
        assert!(run("exec yes no-end | tr -d '\\n'").is_err());
    }
}
