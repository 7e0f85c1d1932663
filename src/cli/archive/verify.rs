//! `pgwake verify --archive`.

use super::EncryptionArgs;
use crate::ErrorClass;
use crate::archive::{Access, ArchiveUrl, VerifyReport, audit};
use crate::cli::Exit;
use crate::cli::{block_on, human, report};
use crate::repository::RepositoryError;
use crate::repository::verify::{BackupProblem, BackupProblemKind, BackupsReport, verify};

/// What `pgwake verify --archive` looks at.
struct Verified {
    backups: BackupsReport,
    wal: VerifyReport,
}

/// Runs the command.
pub(in crate::cli) fn run(url: &ArchiveUrl, encryption: &EncryptionArgs, json: bool) -> Exit {
    block_on(json, async {
        let verified = async {
            let store = encryption.open(url, Access::Read)?;
            let backups =
                verify(&store, |record| tracing::info!("looking at backup {}", record.name)).await?;
            let wal = audit(&store).await?;
            Ok::<_, RepositoryError>(Verified { backups, wal })
        };
        match verified.await {
            Ok(verified) => tell(&verified, json),
            Err(error) => report::failure(&error, error.class(), json),
        }
    })
}

fn tell(verified: &Verified, json: bool) -> Exit {
    let sound = verified.backups.problems.is_empty() && verified.wal.problems.is_empty();
    let exit = if sound { Exit::Done } else { Exit::Integrity };
    exit.or(if json { report::print_json(&as_json(verified, exit)) } else { report::print(&text(verified)) })
}

fn as_json(verified: &Verified, exit: Exit) -> serde_json::Value {
    let Verified { backups, wal } = verified;
    let list: Vec<_> = backups
        .backups
        .iter()
        .map(|backup| {
            serde_json::json!({ "name": backup.name, "files": backup.file_count, "bytes": backup.byte_count })
        })
        .collect();
    let problems: Vec<_> = backups
        .problems
        .iter()
        .map(|problem| {
            serde_json::json!({
                "backup": problem.backup,
                "timeline": null,
                "lsn": null,
                "file": null,
                "problem": sentence(problem),
                "hint": hint(&problem.kind),
            })
        })
        .chain(wal.problems.iter().map(|problem| {
            serde_json::json!({
                "backup": null,
                "timeline": problem.timeline,
                "lsn": problem.lsn,
                "file": problem.file,
                "problem": problem.kind.to_string(),
                "hint": super::super::wal_verify::hint(&problem.kind),
            })
        }))
        .collect();
    serde_json::json!({
        "system_identifier": wal.system_identifier,
        "wal_segment_size": wal.segment_size.as_u64(),
        "backups": list,
        "wal_objects": wal.file_count,
        "wal_bytes": wal.byte_count,
        "timelines": wal.timelines,
        "problems": problems,
        "exit_code": exit.code(),
    })
}

fn text(verified: &Verified) -> String {
    let Verified { backups, wal } = verified;
    let mut text = format!("system {}\n", wal.system_identifier);
    for backup in &backups.backups {
        let (files, bytes) = (backup.file_count, human::bytes(backup.byte_count));
        text.push_str(&format!("backup {}: {files} files, {bytes}\n", backup.name));
    }
    for timeline in &wal.timelines {
        text.push_str(&super::super::wal_verify::timeline_line(timeline));
    }
    for problem in &backups.problems {
        text.push_str(&format!("problem: {}\n", sentence(problem)));
        if let Some(hint) = hint(&problem.kind) {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    for problem in &wal.problems {
        let hint = super::super::wal_verify::hint(&problem.kind);
        text.push_str(&format!("problem: {problem}\n  hint: {hint}\n"));
    }
    let count = backups.problems.len() + wal.problems.len();
    let verdict = match count {
        0 => "nothing is wrong".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    let (backups, objects) = (backups.backups.len(), wal.file_count);
    text.push_str(&format!("{backups} backups and {objects} objects of WAL read: {verdict}\n"));
    text
}

/// With what is behind it.
fn sentence(problem: &BackupProblem) -> String {
    let told = report::one_line(&problem.kind);
    match &problem.backup {
        // where it does not name the backup itself
        Some(name) if !told.contains(name.as_str()) => format!("backup {name}: {told}"),
        _ => told,
    }
}

fn hint(kind: &BackupProblemKind) -> Option<&'static str> {
    Some(match kind {
        BackupProblemKind::Damaged(error) if error.class() == ErrorClass::Integrity => {
            "It cannot be restored. Take a new full backup; until then older ones serve."
        }
        BackupProblemKind::Damaged(_) => return None,
        BackupProblemKind::Chain(_) | BackupProblemKind::Ancestor(_) => {
            "It cannot be restored. Take a new full backup."
        }
        BackupProblemKind::WalMissing => {
            "It cannot be restored, unless that WAL is found elsewhere. Take a new backup."
        }
    })
}
