//! Hints for backups in an archive.

use super::archive;
use crate::repository::{PruneError, RepositoryError, RestoreError, TakeError, TargetError};
use crate::wire::server_error::SqlState;

pub(super) fn take(error: &TakeError) -> Option<String> {
    Some(match error {
        TakeError::TooOld(version) => {
            format!("Use pg_basebackup of PostgreSQL {}, or upgrade the server.", version.major())
        }
        TakeError::NoIncremental(_) => "Take a full one: leave --incremental away.".to_owned(),
        TakeError::NoSummaries => "Run \"ALTER SYSTEM SET summarize_wal = on;\" and \"SELECT pg_reload_conf();\" on the server. The next \
             full backup is the first that an incremental one can build upon."
            .to_owned(),
        TakeError::NothingToBuildUpon => "Take a full one first: leave --incremental away.".to_owned(),
        TakeError::UploadManifest { .. } => {
            "Take a full one: leave --incremental away.".to_owned()
        }
        TakeError::Begin(error) if error.sqlstate() == Some(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
            "Where the server lacks WAL summaries or WAL since the last backup, take a full one: leave --incremental away."
                .to_owned()
        }
        TakeError::WalNotArchived { .. } => {
            "See whether \"pgwake receive --archive\" runs and what it says (pgwake status); or let the backup carry its \
             WAL with --wal include."
                .to_owned()
        }
        TakeError::ObjectGone(_) => "Run the same command again, and prune with a longer --leftover-age: where nothing was put up for so \
             long, it takes a backup for broken off."
            .to_owned(),
        TakeError::WalGone { .. } | TakeError::ParentGone(_) => "Run the same command again.".to_owned(),
        TakeError::Stream(_) | TakeError::OtherSystem { .. } => super::DAMAGED_HINT.to_owned(),
        TakeError::Backup(error) if error.is_integrity() => super::DAMAGED_HINT.to_owned(),
        TakeError::ManifestRange { .. } => {
            "The server changed under the backup, as in a failover: run the same command again.".to_owned()
        }
        TakeError::Interrupted(_) => {
            "What was put up already is listed nowhere; \"pgwake prune\" removes it.".to_owned()
        }
        TakeError::Repository(error) => return repository(error),
        _ => return None,
    })
}

pub(super) fn repository(error: &RepositoryError) -> Option<String> {
    Some(match error {
        RepositoryError::Archive(error) => return archive::archive(error).map(ToOwned::to_owned),
        RepositoryError::Missing { .. } | RepositoryError::Damaged { .. } | RepositoryError::Content { .. } => {
            "Somebody changed the backup, or the store lost a part of it. \"pgwake verify --archive\" names everything that \
             is wrong; restore from another backup (--backup), and take a new full one."
                .to_owned()
        }
        RepositoryError::Record { .. } => {
            "A later pgwake may have made it. If not, the backup is lost: remove the object, take a new full backup."
                .to_owned()
        }
        RepositoryError::NoParent { .. } => {
            "It is of no use without that one. Choose another backup (--backup), and take a new full one.".to_owned()
        }
        RepositoryError::NoBackup { .. } => "\"pgwake list\" names those that there are.".to_owned(),
        RepositoryError::Temporary(_) => {
            "Make room in the directory for temporary files, or name another one with TMPDIR.".to_owned()
        }
        _ => return None,
    })
}

pub(super) fn target(error: &TargetError) -> Option<String> {
    Some(match error {
        TargetError::NoBackups => "Take one first: pgwake backup.".to_owned(),
        TargetError::NoBackup(_) => "\"pgwake list\" names those that there are.".to_owned(),
        TargetError::UnknownTimeline(_) | TargetError::NoneOnTimeline(_) | TargetError::NotOnTimeline { .. } => {
            "\"pgwake list\" shows which timelines can be restored, and from which backups; --target-timeline chooses one."
                .to_owned()
        }
        TargetError::WalMissing { .. } => "\"pgwake list\" shows where WAL is missing; an older backup (--backup) may do, up to the gap."
            .to_owned(),
        TargetError::LsnBeforeBackups { .. } | TargetError::TimeBeforeBackups { .. } => {
            "A backup can be restored only to where it ended, or later: \"pgwake list\" shows from when on.".to_owned()
        }
        TargetError::LsnAfterEnd { .. } | TargetError::TimeAfterEnd { .. } => {
            "Leave the target away to restore all that there is.".to_owned()
        }
        TargetError::NoRestorePoint(_) => {
            "The name has to be as it was given to pg_create_restore_point, and its WAL in the archive.".to_owned()
        }
        TargetError::Gap(error) => return archive::archive(error).map(ToOwned::to_owned),
        TargetError::Repository(error) => return repository(error),
    })
}

pub(super) fn restore(error: &RestoreError) -> Option<String> {
    Some(match error {
        RestoreError::LeftoverSlot { slot, .. } => format!(
            "Run that \"standby create\" again, which drops it; or drop it there with \"SELECT \
             pg_drop_replication_slot('{slot}');\", and choose another directory here."
        ),
        RestoreError::Place(error) => return super::create(error),
        RestoreError::Repository(error) => return repository(error),
        RestoreError::Ended { directory } | RestoreError::StillInRecovery { directory, .. } => {
            format!("Its log \"{}\" says why.", directory.join("log/startup.log").display())
        }
        RestoreError::TablespaceInUse { .. } => {
            "It may be a living server's. Restore on another machine, or from another backup (--backup); if nobody needs what is \
             there, move it away."
                .to_owned()
        }
        RestoreError::FilesLeft { .. } => "Run the same command again: that removes them first.".to_owned(),
        RestoreError::InterruptedAtStart { directory, .. } => {
            format!("See whether it runs with: pg_ctl status -D \"{}\".", directory.display())
        }
        RestoreError::Backup { source, .. } if source.is_integrity() => {
            "What the archive has is not what the manifest says. \"pgwake verify --archive\" names everything that is \
             wrong; restore from another backup (--backup)."
                .to_owned()
        }
        _ => return None,
    })
}

pub(super) fn prune(error: &PruneError) -> Option<String> {
    Some(match error {
        PruneError::Unreadable(_) => {
            "A later pgwake may have made it: prune with that one. If it is damaged, remove the object."
                .to_owned()
        }
        PruneError::NoRetention => "Say --keep-window or --keep-count.".to_owned(),
        PruneError::Repository(error) => return repository(error),
    })
}
