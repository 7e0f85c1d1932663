//! What to type next: one sentence or two for each error that has a remedy.

use std::error::Error;
use std::io;

use crate::client::connect::AttemptError;
use crate::client::{ClientError, OpenError};
use crate::sink::SinkError;
use crate::standby::error::CreateError;
use crate::standby::preflight::PreflightError;
use crate::standby::programs::ProgramsError;
use crate::standby::space::SpaceError;
use crate::standby::start::StartError;
use crate::standby::workspace::WorkspaceError;
use crate::stream::ReceiveError;
use crate::stream::resume::ResumeError;
use crate::wire::auth::AuthenticationError;
use crate::wire::server_error::{ServerError, SqlState};

/// The hint for one link of an error's chain.
pub(super) fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return client(error);
    }
    if let Some(OpenError::Connect(error)) = error.downcast_ref::<OpenError>() {
        return error.failures().last().and_then(|failure| attempt(&failure.cause));
    }
    if let Some(error) = error.downcast_ref::<CreateError>() {
        return create(error);
    }
    if let Some(error) = error.downcast_ref::<ReceiveError>() {
        return receive(error);
    }
    if let Some(error) = error.downcast_ref::<SinkError>() {
        return sink(error).map(ToOwned::to_owned);
    }
    if let Some(error) = error.downcast_ref::<ResumeError>() {
        return resume(error);
    }
    if let Some(error) = error.downcast_ref::<SpaceError>() {
        return Some(space(error).to_owned());
    }
    if let Some(error) = error.downcast_ref::<ServerError>() {
        return server(error);
    }
    if let Some(error) = error.downcast_ref::<PreflightError>() {
        return preflight(error);
    }
    if let Some(error) = error.downcast_ref::<WorkspaceError>() {
        return workspace(error);
    }
    if let Some(error) = error.downcast_ref::<ProgramsError>() {
        return Some(programs(error).to_owned());
    }
    if let Some(error) = error.downcast_ref::<StartError>() {
        return start(error);
    }
    error.downcast_ref::<io::Error>().and_then(io_error).map(ToOwned::to_owned)
}

/// Why a server did not let us in.
fn attempt(error: &AttemptError) -> Option<String> {
    match error {
        AttemptError::Server(error) => server(error),
        AttemptError::Authentication(AuthenticationError::PasswordNeeded) => Some(PASSWORD_HINT.to_owned()),
        AttemptError::ConnectTcp(error) => io_error(error).map(ToOwned::to_owned),
        AttemptError::ConnectSocket(_) => Some(
            "Check the socket directory (host) and the port: on the server \"SHOW unix_socket_directories;\" tells. Over \
             the network, give the server's name with -h."
                .to_owned(),
        ),
        AttemptError::Timeout => Some(
            "Nothing answered in time: a firewall between here and there, or a server that hangs. connect_timeout says \
             how long to wait."
                .to_owned(),
        ),
        AttemptError::Resolve { .. } => Some("Check the spelling of the host name, and that it resolves from here.".to_owned()),
        _ => None,
    }
}

fn create(error: &CreateError) -> Option<String> {
    Some(match error {
        CreateError::Tablespace { location, .. } | CreateError::TablespacePlace { location } => {
            format!(
                "Say where it goes with \"--tablespace-mapping {location}=NEWDIR\": a directory that does not exist or is empty."
            )
        }
        CreateError::UnusedMapping(_) => {
            "See where the tablespaces are: \"SELECT pg_tablespace_location(oid) FROM pg_tablespace;\"."
                .to_owned()
        }
        CreateError::SlotExists(slot) => hint(&PreflightError::SlotExists(slot.clone()))?,
        CreateError::SlotLeft { slot, .. } => format!(
            "It holds WAL back on the server. Run the same command again once the server can be reached: that drops it \
             first. Or run \"SELECT pg_drop_replication_slot('{slot}');\" there."
        ),
        CreateError::NotStreaming { directory, .. } => format!(
            "Its log \"{}\" says why; pg_hba.conf and the password apply to the user that the server runs as.",
            directory.join("log/startup.log").display()
        ),
        _ => return None,
    })
}

fn receive(error: &ReceiveError) -> Option<String> {
    match error {
        ReceiveError::NoSlot(slot) => Some(format!(
            "Create it with --create-slot, which reserves WAL from now on; if it was there before, the WAL since \
             \"{slot}\" was last used may be gone: make a new base backup."
        )),
        ReceiveError::SystemChanged { .. } => Some(
            "Another cluster answers at this address. Check the connection options before anything else."
                .to_owned(),
        ),
        _ => None,
    }
}

fn sink(error: &SinkError) -> Option<&'static str> {
    Some(match error {
        SinkError::Locked { .. } => "Stop the other receiver, or receive into a directory of its own.",
        SinkError::OtherSystem { .. } | SinkError::OtherSegmentSize { .. } => {
            "Check the connection options: this is another cluster than the directory's. Each cluster needs a directory \
             of its own."
        }
        SinkError::DamagedStamp { .. } => {
            "The file says whose WAL this is. If you are sure that it is this server's, remove the file and try again."
        }
        SinkError::Diverged { .. } | SinkError::HistoryDiffers { .. } => {
            "Two servers have written the same timeline, as after a failover when the old primary was started again: find \
             out which of them is right, and receive from the other one, if at all, into a new directory."
        }
        SinkError::InvalidWal(_) => {
            "Nothing from there on was acknowledged. Look at the same place on the server with pg_waldump: if it reads it, \
             the WAL was damaged on the way, so try again; if it does not, the server's own WAL is damaged. \
             --no-verify-records takes WAL of a format that is not known here."
        }
        SinkError::WrongLength { .. } => {
            "Something else has changed this file. Move it away; the server still has it, if the slot does."
        }
        _ => return None,
    })
}

fn resume(error: &ResumeError) -> Option<String> {
    let hint = match error {
        ResumeError::NoStart => {
            "Name a slot with --slot (made with --create-slot, it holds WAL from now on), or say \"--start current\" if what \
             came before does not matter."
        }
        ResumeError::AheadOfServer { .. } => {
            "This server lags behind what was received from another one: wait until it has caught up, or connect to the \
             server that has the WAL."
        }
        ResumeError::StartBeyondServer { .. } => {
            "Check the LSN and the connection options. \"--start current\" begins with the segment that the server writes now."
        }
        ResumeError::TimelineAheadOfServer { .. } | ResumeError::TimelineNotInHistory { .. } => {
            "A failover went another way than this server: connect to the server that has this timeline, or receive into a \
             new directory."
        }
        ResumeError::SlotTimelineNotInHistory { .. } => {
            "The slot is from before a failover: drop it and make a new one."
        }
        ResumeError::OnlyDamaged { .. } => "Move the damaged files away, or receive into a new directory.",
    };
    Some(hint.to_owned())
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

/// For a password that is missing or wrong.
const PASSWORD_HINT: &str = "Check the password: it comes from the connection string, PGPASSWORD, or the password file (~/.pgpass, mode 0600), \
     where the database of a replication connection is called \"replication\".";

fn client(error: &ClientError) -> Option<String> {
    match error {
        ClientError::Server(error) => server(error),
        ClientError::Closed => Some(
            "The server may have been stopped, or something between here and there cut the connection; its log \
             says which."
                .to_owned(),
        ),
        _ => None,
    }
}

/// By SQLSTATE first: the texts are in the server's language.
fn server(error: &ServerError) -> Option<String> {
    if error.hint.is_some() {
        // the server's own is shown with its message
        return None;
    }
    let hint = match error.sqlstate {
        SqlState::INVALID_AUTHORIZATION => {
            "Let this role replicate from here: add a line such as \"host replication ROLE ADDRESS/32 scram-sha-256\" \
             to the server's pg_hba.conf, then run \"SELECT pg_reload_conf();\" there."
        }
        SqlState::INVALID_PASSWORD => PASSWORD_HINT,
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "Let the role replicate: run \"ALTER ROLE role_name REPLICATION;\" on the server as a superuser."
        }
        SqlState::TOO_MANY_CONNECTIONS => {
            "All connections for replication are taken: raise max_wal_senders on the server (ALTER SYSTEM SET \
             max_wal_senders = 10; then restart it), or stop what else replicates from it."
        }
        SqlState::CONFIGURATION_LIMIT_EXCEEDED => {
            "Drop a replication slot that nobody needs (SELECT pg_drop_replication_slot('name');), or raise \
             max_replication_slots on the server and restart it."
        }
        SqlState::DUPLICATE_OBJECT => "Choose another slot name, or drop that slot if nobody needs it.",
        SqlState::UNDEFINED_OBJECT => {
            "Create the slot first, or see which there are with \"SELECT slot_name FROM pg_replication_slots;\"."
        }
        SqlState::OBJECT_IN_USE => {
            "Another standby or receiver is using the slot. Stop it, or choose another slot name."
        }
        SqlState::UNDEFINED_FILE => {
            "The server no longer has this WAL. With a replication slot made beforehand it would have been kept; \
             restore the segment from an archive, or start over with a new copy."
        }
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => {
            "A slot that was invalidated holds no WAL any more: drop it and make a new one, with a new copy of the \
             server."
        }
        SqlState::CANNOT_CONNECT_NOW => {
            "The server is starting, stopping or recovering: try again in a moment."
        }
        SqlState::DATA_CORRUPTED => {
            "A page on the server does not match its checksum. Find out which with pg_amcheck there, before this \
             copy is needed."
        }
        _ => return None,
    };
    Some(hint.to_owned())
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
    let StartError::Failed { log_end, .. } = error else { return None };
    let hint = if log_end.contains("Address already in use") || log_end.contains("could not bind") {
        "Another server has this port: give the standby its own with \"--set port=5433\"."
    } else if log_end.contains("server configuration file") {
        "The primary keeps its configuration outside of its data directory (Debian does, in /etc/postgresql): copy \
         postgresql.conf, pg_hba.conf and pg_ident.conf into the standby's directory."
    } else if log_end.contains("could not create lock file") {
        "Give the standby a directory for its socket that it may write to: \"--set unix_socket_directories=/tmp\"."
    } else {
        return None;
    };
    Some(hint.to_owned())
}

fn io_error(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("Make room, or choose a directory on a larger file system, and run the same command again.")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("The file system is mounted read-only."),
        io::ErrorKind::ConnectionRefused => Some(
            "Nothing listens there: check host and port, and that the server runs and has listen_addresses set.",
        ),
        _ => None,
    }
}
