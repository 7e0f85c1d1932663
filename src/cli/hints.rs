//! What to type next: one sentence or two for each error that has a remedy.

mod archive;
mod bench;
mod failover;
mod receiving;
mod repository;
mod server;
mod slot;

use std::error::Error;
use std::io;

use super::config::ConfigError;
use super::password_source::PasswordSourceError;
use super::prompt::PromptError;
use super::receive::SetupError;
use super::slot::SlotError;
use super::standby::server::ServerError;
use crate::archive::ArchiveError;
use crate::client::conninfo::PrimaryConninfoError;
use crate::client::{ClientError, OpenError};
use crate::measure::MeasureError;
use crate::observe::metrics::ListenError;
use crate::repository::{PruneError, RepositoryError, RestoreError, TakeError, TargetError};
use crate::sink::SinkError;
use crate::standby::error::CreateError;
use crate::standby::follow_error::FollowError;
use crate::standby::preflight::PreflightError;
use crate::standby::programs::ProgramsError;
use crate::standby::promote::PromoteError;
use crate::standby::space::SpaceError;
use crate::standby::start::StartError;
use crate::standby::wait::WaitError;
use crate::standby::workspace::WorkspaceError;
use crate::stream::ReceiveError;
use crate::stream::resume::ResumeError;
use crate::wire::server_error::SqlState;

/// What to do about an error: the hint of the outermost link of its chain that has one, for it knows best what was
/// wanted. A run that left something behind needs two: what to do about that, and about why it failed.
pub(super) fn hints(chain: &[&(dyn Error + 'static)]) -> Vec<String> {
    let mut hints = Vec::new();
    for link in chain {
        let Some(hint) = hint(*link) else { continue };
        hints.push(hint);
        let left =
            matches!(create_error(*link), Some(CreateError::SlotLeft { .. } | CreateError::FilesLeft { .. }));
        if !left {
            break;
        }
    }
    hints
}

/// A link that is a [`CreateError`], or one in a box, as where it is another one's cause.
pub(super) fn create_error<'a>(link: &'a (dyn Error + 'static)) -> Option<&'a CreateError> {
    link.downcast_ref().or_else(|| link.downcast_ref::<Box<CreateError>>().map(|boxed| &**boxed))
}

/// The hint for one link; none where a deeper one knows more.
fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = create_error(error) {
        return create(error);
    }
    if let Some(error) = error.downcast_ref::<PreflightError>() {
        return preflight(error);
    }
    if let Some(error) = error.downcast_ref::<WorkspaceError>() {
        return workspace(error);
    }
    if let Some(error) = error.downcast_ref::<StartError>() {
        return start(error);
    }
    if let Some(error) = error.downcast_ref::<PrimaryConninfoError>() {
        return Some(older_libpq(error).to_owned());
    }
    if let Some(error) = error.downcast_ref::<FollowError>() {
        return failover::follow(error);
    }
    if let Some(error) = error.downcast_ref::<ServerError>() {
        return failover::server(error);
    }
    if let Some(ConfigError::Invalid { source, .. }) = error.downcast_ref::<ConfigError>() {
        return source.hint();
    }
    if let Some(error) = error.downcast_ref::<ListenError>() {
        return receiving::listen(error);
    }
    if let Some(error) = error.downcast_ref::<ReceiveError>() {
        return receiving::receive(error);
    }
    if let Some(error) = error.downcast_ref::<SetupError>() {
        return receiving::setup(error);
    }
    if let Some(error) = error.downcast_ref::<MeasureError>() {
        return bench::measure(error);
    }
    if let Some(error) = error.downcast_ref::<SlotError>() {
        return slot::slot(error);
    }
    if let Some(error) = error.downcast_ref::<TakeError>() {
        return repository::take(error);
    }
    if let Some(error) = error.downcast_ref::<RepositoryError>() {
        return repository::repository(error);
    }
    if let Some(error) = error.downcast_ref::<PruneError>() {
        return repository::prune(error);
    }
    if let Some(error) = error.downcast_ref::<TargetError>() {
        return repository::target(error);
    }
    if let Some(error) = error.downcast_ref::<RestoreError>() {
        return repository::restore(error);
    }
    fixed(error).map(ToOwned::to_owned)
}

/// Those that say nothing of the case at hand.
fn fixed(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<PromoteError>() {
        return failover::promote(error);
    }
    if let Some(error) = error.downcast_ref::<WaitError>() {
        return failover::wait(error);
    }
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return server::client(error);
    }
    if let Some(OpenError::Connect(error)) = error.downcast_ref::<OpenError>() {
        return error.failures().last().and_then(|failure| server::attempt(&failure.cause));
    }
    if let Some(PromptError::Terminal(_)) = error.downcast_ref::<PromptError>() {
        return Some(server::PASSWORD_HINT);
    }
    match error.downcast_ref::<PasswordSourceError>() {
        Some(PasswordSourceError::OpenToOthers { .. }) => {
            return Some("chmod 600 it, and consider the password known.");
        }
        Some(_) => return None,
        None => {}
    }
    if let Some(ConfigError::OpenToAll { .. }) = error.downcast_ref::<ConfigError>() {
        return Some("It may name commands to run: chmod o-w it, and see what it says.");
    }
    if let Some(error) = error.downcast_ref::<ArchiveError>() {
        return archive::archive(error);
    }
    if let Some(error) = error.downcast_ref::<SinkError>() {
        return receiving::sink(error);
    }
    if let Some(error) = error.downcast_ref::<ResumeError>() {
        return Some(receiving::resume(error));
    }
    if let Some(error) = error.downcast_ref::<SpaceError>() {
        return Some(space(error));
    }
    if let Some(error) = error.downcast_ref::<ProgramsError>() {
        return Some(programs(error));
    }
    error.downcast_ref::<io::Error>().and_then(io_error)
}

fn create(error: &CreateError) -> Option<String> {
    Some(match error {
        // neither is mended by another place
        CreateError::Tablespace { source: WorkspaceError::RootOwned(_) | WorkspaceError::Locked(_), .. } => {
            return None;
        }
        CreateError::UnreadableFile { .. } => {
            "Put it where that user may read it, and name it in the connection string (sslrootcert, sslcert, sslkey, sslcrl); \
             or run pgwake as that user."
                .to_owned()
        }
        CreateError::Tablespace { location, .. } | CreateError::TablespacePlace { location } => format!(
            "Say where it goes with \"--tablespace-mapping {location}=NEWDIR\": a directory that does not exist or is empty."
        ),
        CreateError::UnusedMapping(_) => {
            "See where the tablespaces are: \"SELECT pg_tablespace_location(oid) FROM pg_tablespace;\"."
                .to_owned()
        }
        CreateError::SlotExists(slot) => preflight(&PreflightError::SlotExists(slot.clone()))?,
        CreateError::SlotLeft { slot, .. } => format!(
            "It holds WAL back on the server. Run the same command again once the server can be reached: that drops it \
             first. Or run \"SELECT pg_drop_replication_slot('{slot}');\" there."
        ),
        CreateError::FilesLeft { .. } => "Run the same command again: that removes them first.".to_owned(),
        CreateError::BeginBackup(error) | CreateError::ReceiveBackup(error)
            if matches!(
                error.sqlstate(),
                Some(SqlState::INSUFFICIENT_PRIVILEGE | SqlState::UNDEFINED_FILE)
            ) =>
        {
            "The server could not read one of its own files: its log says more. Mend it there, and run the same command \
             again."
                .to_owned()
        }
        CreateError::Archive(_) | CreateError::ControlFile(_) => DAMAGED_HINT.to_owned(),
        CreateError::Backup(error) if error.is_integrity() => DAMAGED_HINT.to_owned(),
        CreateError::OtherSystem { .. } => {
            "Two clusters answered, as behind a balancer, a name with several addresses, or several hosts: connect to one."
                .to_owned()
        }
        CreateError::ManifestRange { .. } => {
            "The server changed under the copy, as in a failover: run the same command again.".to_owned()
        }
        CreateError::InterruptedAtStart { directory, .. } => {
            format!("See whether it runs with: pg_ctl status -D \"{}\".", directory.display())
        }
        CreateError::AskWhetherStreaming(_) => {
            "Ask it yourself: \"SELECT * FROM pg_stat_replication;\".".to_owned()
        }
        CreateError::NotStreaming { directory, .. } => format!(
            "Its log \"{}\" says why; pg_hba.conf and the password apply to the user that the server runs as.",
            directory.join("log/startup.log").display()
        ),
        _ => return None,
    })
}

/// For data that is not what it must be.
const DAMAGED_HINT: &str = "What came is not what the server has, and nothing of it was kept. Run the same command again; if it fails again, \
     look into the server's log, at its disks, and at what is between here and there.";

fn older_libpq(error: &PrimaryConninfoError) -> &'static str {
    match error.keyword {
        "sslrootcert" => {
            "Name a file with the trusted root certificates, such as sslrootcert=/etc/ssl/certs/ca-certificates.crt."
        }
        "sslcrldir" => "Put the revocation lists into one file, and name it with sslcrl.",
        _ => {
            "Leave the option out if the standby may do without it, and let the primary's pg_hba.conf demand the same."
        }
    }
}

fn space(error: &SpaceError) -> &'static str {
    match error {
        SpaceError::NotEnough { .. } => {
            "Make room, or put the data directory, a tablespace (--tablespace-mapping) or the WAL (--waldir) on a larger file \
             system."
        }
        SpaceError::Unknown { .. } => "Check that the directory can be read.",
    }
}

fn preflight(error: &PreflightError) -> Option<String> {
    Some(match error {
        PreflightError::TooOld(version) => {
            format!("Use pg_basebackup of PostgreSQL {}, or upgrade the server.", version.major())
        }
        PreflightError::WalLevel(_) => {
            "Run \"ALTER SYSTEM SET wal_level = 'replica';\" on the server, then restart it.".to_owned()
        }
        PreflightError::NoFreeWalSenders { max, used, needed } => {
            format!(
                "Run \"ALTER SYSTEM SET max_wal_senders = {};\" on the server, then restart it.",
                (used + needed).max(max + 2)
            )
        }
        PreflightError::NoFreeSlots { max } => format!(
            "Drop a slot that nobody needs (SELECT pg_drop_replication_slot('name');), or run \"ALTER SYSTEM SET \
             max_replication_slots = {};\" on the server, then restart it.",
            max + 2
        ),
        PreflightError::SlotExists(slot) => format!(
            "It may belong to another standby. If it is meant for this one, add --use-existing-slot; else choose \
             another name, or drop it with \"SELECT pg_drop_replication_slot('{slot}');\"."
        ),
        PreflightError::SlotActive { .. } => {
            "A standby or receiver is streaming from it. Choose another slot name.".to_owned()
        }
        PreflightError::SlotUnusable { slot, .. } => format!(
            "Choose another slot name, or drop it with \"SELECT pg_drop_replication_slot('{slot}');\"."
        ),
        PreflightError::SlotEmpty(slot) => format!(
            "Drop it with \"SELECT pg_drop_replication_slot('{slot}');\": it is made anew, and holds WAL from then on."
        ),
        PreflightError::Query { .. } => return None,
    })
}

fn workspace(error: &WorkspaceError) -> Option<String> {
    Some(match error {
        WorkspaceError::NotEmpty(directory) => format!(
            "Choose a directory that does not exist or is empty. A mount point that is not empty can hold it one level \
             down: \"{}\".",
            directory.join("data").display()
        ),
        WorkspaceError::NotADirectory(_) => "Choose a directory that does not exist or is empty.".to_owned(),
        WorkspaceError::NoName(_) => {
            "Name the directory itself, such as /var/lib/postgresql/standby.".to_owned()
        }
        WorkspaceError::Locked(_) => "Wait until it is done, or stop it.".to_owned(),
        WorkspaceError::RootOwned(directory) => format!(
            "Run pgwake as the user who runs PostgreSQL, or make the empty directory first and give it to that user: \
             \"install -d -m 0700 -o postgres -g postgres {}\".",
            directory.display()
        ),
        _ => return None,
    })
}

fn programs(error: &ProgramsError) -> &'static str {
    match error {
        ProgramsError::NotFound { .. } => {
            "Install the server of that version, or say with --bindir where its programs are. The standby itself is \
             complete: without --start nothing more is needed."
        }
        ProgramsError::WrongVersion { .. } | ProgramsError::Run { .. } => {
            "Say with --bindir where the programs of the primary's major version are."
        }
    }
}

fn start(error: &StartError) -> Option<String> {
    let StartError::Failed { data_directory, log_end, .. } = error else { return None };
    let hint = if log_end.contains("Address already in use") || log_end.contains("could not bind") {
        "Another server has this port: give the standby its own with \"--set port=5433\"."
    } else if log_end.contains("server configuration file") {
        "The primary keeps its configuration outside of its data directory (Debian does, in /etc/postgresql): copy \
         postgresql.conf, pg_hba.conf and pg_ident.conf into the standby's directory."
    } else if log_end.contains("could not create lock file") {
        "Give the standby a directory for its socket that it may write to: \"--set unix_socket_directories=/tmp\"."
    } else {
        return Some(format!(
            "The standby itself is complete. Mend what the log says, then start it with: pg_ctl start -D \"{}\".",
            data_directory.display()
        ));
    };
    Some(hint.to_owned())
}

fn io_error(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("Make room, or choose a directory on a larger file system, and run the same command again.")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("The file system is mounted read-only."),
        io::ErrorKind::PermissionDenied => {
            Some("Run it as the user who may do that: the directory's owner, usually postgres.")
        }
        _ if error.raw_os_error() == Some(EIO) => {
            Some("The disk fails: see the kernel's log before anything is kept there.")
        }
        _ => None,
    }
}

/// An I/O error, for which [`io::ErrorKind`] has no name.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

#[cfg(test)]
mod tests;
