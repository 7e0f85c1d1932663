//! Hints for standbys that are there: promotion, a new primary, waiting.

use crate::cli::standby::server::ServerError;
use crate::standby::follow_error::FollowError;
use crate::standby::promote::{Objection, PromoteError};
use crate::standby::wait::{Lagging, WaitError};
use crate::wire::server_error::SqlState;

pub(super) fn server(error: &ServerError) -> Option<String> {
    Some(match error {
        ServerError::NotRunning(directory) => {
            format!("Start it with: pg_ctl start -D \"{}\".", directory.display())
        }
        ServerError::Starting(_) => "Try again in a moment.".to_owned(),
        _ => return None,
    })
}

pub(super) fn promote(error: &PromoteError) -> Option<&'static str> {
    Some(match error {
        PromoteError::NotAStandby(_) => "Nothing is to be done, unless another server was meant.",
        PromoteError::Refused(objection) => return Some(self::objection(objection)),
        PromoteError::Promote(error) if error.sqlstate() == Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
            "Connect as a superuser, or let the role: run \"GRANT EXECUTE ON FUNCTION pg_promote TO role_name;\" on the \
             primary, in the database that is connected to."
        }
        PromoteError::Timeout(_) => {
            "It goes on: \"pgwake standby status\" shows how far it is. WAL that was received is replayed first."
        }
        _ => return None,
    })
}

fn objection(objection: &Objection) -> &'static str {
    match objection {
        Objection::PrimaryLives { .. } => {
            "Two servers that take writes grow apart for ever. Stop the old primary first (pg_ctl stop -m fast), and all \
             of its WAL reaches the standby; or add --force if nobody can write there."
        }
        Objection::StandbyLives { .. } => {
            "Promote the upstream instead, or add --force if the primary behind it is gone."
        }
        Objection::Answers { .. } | Objection::Broken { .. } => {
            "Make sure that nobody can write there (stop that server), or add --force."
        }
        Objection::Connected => {
            "From here it cannot be reached: make sure on its own machine that it is stopped, or add --force."
        }
        Objection::Paused { .. } => {
            "Resume replay first (SELECT pg_wal_replay_resume();), or add --force if that WAL may be replayed."
        }
    }
}

pub(super) fn wait(error: &WaitError) -> Option<&'static str> {
    let WaitError::Timeout { source, .. } = error else { return None };
    Some(match source {
        Lagging::Paused(_) => "Resume it with \"SELECT pg_wal_replay_resume();\".",
        Lagging::NoReceiver(_) => {
            "\"pgwake standby status\" shows its upstream; the standby's log says why it does not connect there."
        }
        Lagging::Behind { .. } => "Wait for longer, or read from the primary.",
        Lagging::Primary(_) => {
            "The LSN is another cluster's, or of a timeline that this server did not take."
        }
    })
}

pub(super) fn follow(error: &FollowError) -> Option<String> {
    Some(match error {
        FollowError::OtherCluster { .. } | FollowError::OtherVersion { .. } => {
            "Name a server of the standby's own cluster, of the same major version.".to_owned()
        }
        FollowError::Itself => "Name the new primary with -d or -h and -p.".to_owned(),
        FollowError::NotAStandby(_) => {
            "An old primary that was shut down cleanly can become one: create an empty standby.signal in it, and run the \
             same command again. Where it has WAL that the new primary has not, that is refused: then use pg_rewind."
                .to_owned()
        }
        FollowError::Paused(_) => "Resume it first with \"SELECT pg_wal_replay_resume();\".".to_owned(),
        FollowError::Diverged(_) => {
            "Its WAL cannot be taken back while it is a standby: stop it and run pg_rewind, or make a new standby with \
             \"pgwake standby create\"."
                .to_owned()
        }
        FollowError::NoWal { .. } => {
            "If its present upstream lives, let the standby catch up there first. Else restore that WAL from an archive \
             (restore_command), or make a new standby with \"pgwake standby create\"."
                .to_owned()
        }
        FollowError::SlotExists(slot) => format!(
            "If it is meant for this standby, add --use-existing-slot; else choose another name with --slot, or drop it \
             with \"SELECT pg_drop_replication_slot('{slot}');\"."
        ),
        FollowError::SlotActive(_) => {
            "A standby or receiver is streaming from it; perhaps this one already. Else choose another name with --slot."
                .to_owned()
        }
        FollowError::AlterSystem(error) if error.sqlstate() == Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
            "Connect to the standby as a superuser: --standby \"user=postgres\".".to_owned()
        }
        FollowError::HalfAltered { name, .. } => format!(
            "The standby has not read it, and will at its next start or reload: as a superuser, set {name} again with ALTER \
             SYSTEM, or run the same command again."
        ),
        FollowError::UnknownTimeline => {
            "Connect to the standby as a superuser: --standby \"user=postgres\".".to_owned()
        }
        FollowError::UnreadableFile { .. } => {
            "Put it where that user may read it, and name it in the connection string; or run pgwake as that user."
                .to_owned()
        }
        FollowError::CannotSee => "Ask the standby: \"pgwake standby status\".".to_owned(),
        FollowError::NotStreaming { .. } => {
            "The standby's log says why; the new primary's pg_hba.conf and the password apply to the user that the \
             standby runs as."
                .to_owned()
        }
        _ => return None,
    })
}
