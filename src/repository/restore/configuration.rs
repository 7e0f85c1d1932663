//! What makes a server recover: `restore_command`, the target, and the file that asks for it.

use std::io;
use std::path::Path;

use super::error::RestoreError;
use super::files::text_of;
use super::target::{RecoveryTarget, Selection};
use super::{RestoreRequest, Role};
use crate::FileOwner;
use crate::archive::AtGap;
use crate::backup::confined::FileError;
use crate::backup::standby_files::{
    STANDBY_SIGNAL_NAME, Secrecy, Setting, replace_file, write_standby_signal,
};
use crate::client::conninfo::{PrimaryConninfoOptions, SystemEnvironment};
use crate::standby::configuration::{
    ConfigurationError, PASSFILE_NAME, RECOVERY_TARGETS, effective_setting, give, is_passfile_unnameable,
    render_passfile, unpinned, write_auto_conf, write_passfile,
};

/// The empty file that makes a server recover, and become a primary.
const RECOVERY_SIGNAL_NAME: &str = "recovery.signal";

/// What can be known before anything is made.
pub(super) fn check(request: &RestoreRequest, target: &Path) -> Result<(), RestoreError> {
    restore_command(request)?;
    if let Role::Standby(standby) = &request.role
        && is_passfile_unnameable(&standby.settings, target)
    {
        return Err(RestoreError::UnprintablePath(target.to_owned()));
    }
    Ok(())
}

/// Writes it, durably, into the data directory in the making.
pub(super) fn write(
    request: &RestoreRequest,
    selection: &Selection,
    data: &Path,
    target: &Path,
    owner: Option<FileOwner>,
) -> Result<(), RestoreError> {
    let mut settings = recovery_settings(request, selection)?;
    let mut passfile = None;
    if let Role::Standby(standby) = &request.role {
        passfile = render_passfile(&standby.settings)?;
        let passfile_path = passfile.is_some().then(|| target.join(PASSFILE_NAME));
        let own = PrimaryConninfoOptions {
            major: selection.record().server_version.major(),
            passfile: passfile_path.as_deref(),
            application_name: standby.application_name.as_deref(),
            dbname: None,
        };
        let line = standby.settings.to_primary_conninfo(&own, &SystemEnvironment)?;
        for keyword in line.omitted {
            tracing::warn!(
                "connection option {keyword} is unknown to this PostgreSQL and was left out of primary_conninfo"
            );
        }
        settings.push(Setting::new("primary_conninfo", &line.conninfo)?);
        let slot = standby.slot.as_ref().map_or("", |slot| slot.as_str());
        settings.push(Setting::new("primary_slot_name", slot)?);
    }
    settings.extend(request.settings.iter().cloned());
    write_auto_conf(data, &settings, owner)?;
    if let Role::Standby(_) = &request.role {
        // the server that was backed up may have been a standby itself, and its password is none of ours
        write_passfile(data, passfile.as_deref(), owner)?;
    }
    if matches!(request.role, Role::Primary) {
        warn_of_waiting(data)?;
    }
    signal(request, data, owner)
}

/// Takes the timeline and the target back, once recovery has ended: a standby that is made from here would be pinned to them.
pub(super) fn forget_target(data: &Path, owner: Option<FileOwner>) -> Result<(), ConfigurationError> {
    let settings = unpinned(data)?;
    if settings.is_empty() { Ok(()) } else { write_auto_conf(data, &settings, owner) }
}

/// Nobody that the server's commits have waited for streams from a restored one yet.
fn warn_of_waiting(data: &Path) -> Result<(), RestoreError> {
    let names = effective_setting(data, "synchronous_standby_names")?.unwrap_or_default();
    let commit = effective_setting(data, "synchronous_commit")?.unwrap_or_default();
    if !names.trim().is_empty() && !matches!(commit.as_str(), "off" | "local") {
        tracing::warn!(
            "every commit will wait until a standby or receiver of synchronous_standby_names streams from here, which is \"{}\": \
             begin that, or run \"ALTER SYSTEM SET synchronous_standby_names = '';\" and \"SELECT pg_reload_conf();\" \
             (--set synchronous_standby_names= does it beforehand)",
            names.escape_debug()
        );
    }
    Ok(())
}

/// A backup of a standby has a signal of its own.
fn signal(request: &RestoreRequest, data: &Path, owner: Option<FileOwner>) -> Result<(), RestoreError> {
    let [recovery, standby] = [RECOVERY_SIGNAL_NAME, STANDBY_SIGNAL_NAME].map(|name| data.join(name));
    let (made, other) = match request.role {
        Role::Standby(_) => {
            write_standby_signal(data)?;
            (standby, recovery)
        }
        Role::Primary => {
            replace_file(&recovery, b"", Secrecy::Ordinary)?;
            (recovery, standby)
        }
    };
    match std::fs::remove_file(&other) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::new("remove file", other, error).into());
        }
        _ => {}
    }
    Ok(give(&made, owner)?)
}

/// All targets are written down: one that the server had once would contradict this one.
fn recovery_settings(request: &RestoreRequest, selection: &Selection) -> Result<Vec<Setting>, RestoreError> {
    let is_standby = matches!(request.role, Role::Standby(_));
    let timeline = match (is_standby, selection.is_known) {
        // it follows its primary
        (true, _) => "latest".to_owned(),
        (false, true) => selection.history.timeline().to_string(),
        (false, false) => "current".to_owned(),
    };
    let wanted = match &request.target {
        RecoveryTarget::Latest => None,
        RecoveryTarget::Lsn(target) => Some(("recovery_target_lsn", target.to_string())),
        RecoveryTarget::Time(target) => Some(("recovery_target_time", target.to_postgres_text())),
        RecoveryTarget::Name(target) => Some(("recovery_target_name", target.clone())),
    };
    let others =
        RECOVERY_TARGETS.iter().filter(|name| wanted.as_ref().is_none_or(|(wanted, _)| wanted != *name));
    let mut settings = vec![
        ("restore_command", restore_command(request)?),
        ("recovery_target_timeline", timeline),
        ("recovery_target_inclusive", "on".to_owned()),
        ("recovery_target_action", request.action.word().to_owned()),
    ];
    // the server takes them in this order, and no other one behind the one that is wanted, not even an empty one
    settings.extend(others.map(|name| (*name, String::new())));
    settings.extend(wanted);
    let settings = settings.iter().map(|(name, value)| Setting::new(name, value));
    Ok(settings.collect::<Result<_, _>>()?)
}

/// Calls this program again, by its path. The server puts the names in, runs it by a shell, and takes `%` for the
/// beginning of something.
fn restore_command(request: &RestoreRequest) -> Result<String, RestoreError> {
    let mut words = vec![text_of(&request.program)?.to_owned()];
    words.extend(["wal", "fetch", "--archive"].map(str::to_owned));
    words.push(request.archive_url.clone());
    words.extend(request.fetch_options.iter().cloned());
    if request.target != RecoveryTarget::Latest || request.at_gap == AtGap::End {
        // a target lies before it, also where the server reads ahead; and one that does not get there says so
        words.push("--end-at-gap".to_owned());
    }
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    Ok(format!("{} %f %p", quoted.join(" ").replace('%', "%%")))
}

/// A word for the shell.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:=,@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_word_each() {
        assert_eq!(quote("s3://wal/db1"), "s3://wal/db1");
        assert_eq!(quote("s3://wal/db1?a=b&c=d"), "'s3://wal/db1?a=b&c=d'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
    }
}
