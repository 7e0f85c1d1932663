//! Starting a standby's server, through the `pg_ctl` of its major version.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

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
    /// The file for the server's first words could not be made.
    #[error("could not create \"{}\"", .path.display())]
    Log {
        /// The file.
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
    prepare_log(&log, owner).map_err(|source| StartError::Log { path: log.clone(), source })?;
    let program = programs.path("pg_ctl");
    let mut command = Command::new(&program);
    command.args(["start", "--silent", "--wait", "--timeout"]).arg(timeout.as_secs().max(1).to_string());
    command.arg("--pgdata").arg(data_directory).arg("--log").arg(&log);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // the server would take its port and more from these
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    if let Some(Owner { uid, gid }) = owner {
        command.uid(uid).gid(gid);
    }
    let status = command.status().map_err(|source| StartError::Run { program, source })?;
    if status.success() {
        return Ok(());
    }
    let log_end = end_of(&log).unwrap_or_default();
    Err(StartError::Failed { data_directory: data_directory.to_owned(), log, log_end })
}

fn prepare_log(log: &Path, owner: Option<Owner>) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let directory = log.parent().unwrap_or(Path::new("/"));
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => chown(directory, owner).map_err(io::Error::other)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    chown(log, owner).map_err(io::Error::other)
}

fn end_of(log: &Path) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_END_LEN)))?;
    let mut bytes = Vec::new();
    file.take(LOG_END_LEN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(8)..].join("\n"))
}
