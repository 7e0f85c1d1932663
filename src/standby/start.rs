//! Starting a standby's server, through the `pg_ctl` of its major version.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::account::Account;
use super::programs::Programs;
use super::workspace::{Owner, chown};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `pg_ctl` could not be run.
    #[error("could not run \"{}\"", .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The directory for the server's first words could not be made.
    #[error("could not create \"{}\"", .path.display())]
    Log {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The server gave up, or did not get ready in time.
    #[error("the server on \"{}\" did not start; its log \"{}\" ends:\n{log_end}", .data_directory.display(), .log.display())]
    Failed {
        /// The data directory.
        data_directory: PathBuf,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        log_end: String,
    },
}

/// Where the server's output goes until its own logging takes over, below the data directory.
const LOG_PATH: &str = "log/startup.log";

/// How much of the log's end is shown, in bytes.
const LOG_END_LEN: u64 = 2000;

/// Variables that a server may have from whoever starts it; all others are left out: `PG*` would change its port and
/// more, and root's `HOME` is no place for it to look for certificates.
const INHERITED: [&str; 5] = ["PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR"];

/// Beginnings of others: of the locale and the linker, and those by which a restore_command finds an archive.
const INHERITED_PREFIXES: [&str; 5] = ["LC_", "LD_", "AWS_", "AZURE_", "GOOGLE_"];

/// Starts the server and waits until it takes connections, or is a standby that never will (`hot_standby = off`).
///
/// `owner` is whom the server runs as, when that is not who runs this: PostgreSQL refuses root.
pub fn start_server(
    programs: &Programs,
    data_directory: &Path,
    owner: Option<Owner>,
    timeout: Duration,
) -> Result<(), StartError> {
    let log = data_directory.join(LOG_PATH);
    prepare_log_directory(&log, owner).map_err(|source| StartError::Log { path: log.clone(), source })?;
    // the copy may have brought the primary's
    let old_len = fs::symlink_metadata(&log).map_or(0, |metadata| metadata.len());
    let program = programs.path("pg_ctl");
    let mut command = command_as(owner, &program);
    command.args(["start", "--silent", "--wait", "--timeout"]).arg(timeout.as_secs().max(1).to_string());
    command.arg("--pgdata").arg(data_directory).arg("--log").arg(&log);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().map_err(|source| StartError::Run { program, source })?;
    if status.success() {
        return Ok(());
    }
    let log_end = end_of(&log, old_len).unwrap_or_default();
    Err(StartError::Failed { data_directory: data_directory.to_owned(), log, log_end })
}

/// The program, as the owner with his groups and his home, or as ourselves.
fn command_as(owner: Option<Owner>, program: &Path) -> Command {
    let account = owner.and_then(|owner| Account::of(owner.uid));
    let mut command = match (owner, &account) {
        // std sets user and group, but not the owner's other groups (Debian's ssl-cert, say)
        (Some(Owner { uid, gid }), Some(_)) if Path::new("/usr/bin/setpriv").exists() => {
            let mut command = Command::new("/usr/bin/setpriv");
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
            command.arg("--init-groups").arg("--").arg(program);
            command
        }
        (Some(Owner { uid, gid }), _) => {
            let mut command = Command::new(program);
            command.uid(uid).gid(gid);
            command
        }
        (None, _) => Command::new(program),
    };
    command.env_clear();
    let inherited = |name: &str| {
        INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    for (name, value) in std::env::vars_os() {
        let own = owner.is_none() && matches!(name.to_str(), Some("HOME" | "USER" | "LOGNAME"));
        if own || name.to_str().is_some_and(inherited) {
            command.env(name, value);
        }
    }
    if let Some(Account { name, home }) = account {
        command.env("HOME", home).env("USER", &name).env("LOGNAME", name);
    }
    command
}

/// The file itself is `pg_ctl`'s to make, as the owner: root follows no link that the owner may have put there.
fn prepare_log_directory(log: &Path, owner: Option<Owner>) -> io::Result<()> {
    let directory = log.parent().unwrap_or(Path::new("/"));
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => chown(directory, owner).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn end_of(log: &Path, old_len: u64) -> io::Result<String> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(no_follow).open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(old_len.max(len.saturating_sub(LOG_END_LEN))))?;
    let mut bytes = Vec::new();
    file.take(LOG_END_LEN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(8)..].join("\n"))
}
