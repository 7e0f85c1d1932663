//! Where the server's programs are.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory with `postgres` and `pg_ctl` of one major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    directory: PathBuf,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// Nowhere that packages and builds usually put them.
    #[error("could not find the programs of PostgreSQL {major}")]
    NotFound {
        /// The version wanted.
        major: u16,
    },
    /// The directory that was named holds another version.
    #[error("\"{}\" is of PostgreSQL {found}, and the standby needs {major}", .program.display())]
    WrongVersion {
        /// The program asked.
        program: PathBuf,
        /// What it said.
        found: String,
        /// The version wanted.
        major: u16,
    },
    /// The directory that was named has no program that runs.
    #[error("could not run \"{}\"", .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Programs {
    /// Those in `directory`, or else the first found where packages and builds usually put them.
    pub fn find(major: u16, directory: Option<&Path>) -> Result<Self, ProgramsError> {
        if let Some(directory) = directory {
            let program = directory.join("postgres");
            let found = match version_of(&program) {
                Ok(found) => found,
                Err(source) => return Err(ProgramsError::Run { program, source }),
            };
            return match major_of(&found) {
                Some(it) if it == major => Ok(Programs { directory: directory.to_owned() }),
                _ => Err(ProgramsError::WrongVersion { program, found, major }),
            };
        }
        let is_right = |directory: &PathBuf| {
            let version = version_of(&directory.join("postgres"));
            version.is_ok_and(|version| major_of(&version) == Some(major))
        };
        let directory = usual_places(major, std::env::var_os("PATH").as_deref()).into_iter().find(is_right);
        directory.map(|directory| Programs { directory }).ok_or(ProgramsError::NotFound { major })
    }

    /// The path of one of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Debian, Red Hat, what comes first on the PATH, a build from source, macOS's two package managers.
fn usual_places(major: u16, path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut places = vec![
        PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        PathBuf::from(format!("/usr/pgsql-{major}/bin")),
    ];
    places.extend(path.into_iter().flat_map(std::env::split_paths));
    places.extend([
        PathBuf::from("/usr/local/pgsql/bin"),
        PathBuf::from(format!("/opt/homebrew/opt/postgresql@{major}/bin")),
        PathBuf::from(format!("/opt/local/lib/postgresql{major}/bin")),
    ]);
    places
}

/// What `postgres --version` says, without the program's name: `15.18 (Debian …)`.
fn version_of(program: &Path) -> io::Result<String> {
    let output =
        Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().rsplit_once("(PostgreSQL) ").map_or(text.trim(), |(_, version)| version);
    Ok(version.to_owned())
}

fn major_of(version: &str) -> Option<u16> {
    version.parse().ok().map(crate::pg::ServerVersion::major)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn fake(directory: &Path, says: &str) {
        let program = directory.join("postgres");
        std::fs::write(&program, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_directory_of_another_major_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fake(directory.path(), "postgres (PostgreSQL) 17.12 (Debian 17.12-1)");
        assert!(Programs::find(17, Some(directory.path())).is_ok());
        let error = Programs::find(15, Some(directory.path())).unwrap_err();
        assert!(
            error.to_string().ends_with("is of PostgreSQL 17.12 (Debian 17.12-1), and the standby needs 15")
        );
        assert!(matches!(
            Programs::find(15, Some(Path::new("/nonexistent"))),
            Err(ProgramsError::Run { .. })
        ));
        assert!(matches!(Programs::find(999, None), Err(ProgramsError::NotFound { major: 999 })));
    }
}
