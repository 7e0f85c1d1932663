//! What makes a copy a standby: `standby.signal`, `primary_conninfo`, `primary_slot_name`, a passfile.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::create::CreateRequest;
use super::error::CreateError;
use super::preflight::Preflight;
use super::workspace::{Owner, Workspace, WorkspaceError, chown};
use crate::backup::confined::FileError;
use crate::backup::standby_files::{
    AUTO_CONF_NAME, PassfileEntry, PassfileError, STANDBY_SIGNAL_NAME, Secrecy, Setting, SettingError,
    read_to_replace, replace_file, setting_value, write_settings, write_standby_signal,
};
use crate::client::conninfo::{
    HostSpec, PrimaryConninfo, PrimaryConninfoError, PrimaryConninfoOptions, Settings, SystemEnvironment,
};

/// The file in the data directory with the password that `primary_conninfo` leads to.
pub const PASSFILE_NAME: &str = "primary.passfile";

/// Why the configuration was not written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// A value that no configuration file can hold.
    #[error("a connection option cannot stand in postgresql.auto.conf")]
    Setting(#[from] SettingError),
    /// A connection option that the standby needs and does not know.
    #[error("the standby cannot connect as this program does")]
    Conninfo(#[from] PrimaryConninfoError),
    /// A password, host or role that no passfile can hold.
    #[error("the password cannot stand in a password file")]
    Passfile(#[from] PassfileError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file could not be given to its owner.
    #[error(transparent)]
    Owner(#[from] WorkspaceError),
    /// A file could not be made durable.
    #[error("could not fsync \"{}\"", .path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What can be known before the copy: whether the passfile's path can stand in `primary_conninfo`.
pub(super) fn check(request: &CreateRequest, target: &Path) -> Result<(), CreateError> {
    match is_passfile_unnameable(&request.settings, target) {
        true => Err(CreateError::UnprintablePath),
        false => Ok(()),
    }
}

/// Writes it, durably, into the data directory in the making.
pub(super) fn write(
    request: &CreateRequest,
    preflight: &Preflight,
    workspace: &Workspace,
) -> Result<(), ConfigurationError> {
    let data = workspace.held_data();
    let passfile = render_passfile(&request.settings)?;
    // named by where it will be
    let passfile_path = passfile.is_some().then(|| workspace.target().join(PASSFILE_NAME));
    let primary_conninfo = primary_conninfo(request, preflight, passfile_path.as_deref())?;
    for keyword in primary_conninfo.omitted {
        tracing::warn!(
            "connection option {keyword} is unknown to PostgreSQL {} and was left out of primary_conninfo",
            preflight.version.major()
        );
    }
    let mut settings = vec![
        Setting::new("primary_conninfo", &primary_conninfo.conninfo)?,
        Setting::new("primary_slot_name", request.slot.as_str())?,
    ];
    settings.extend(unpinned(&data)?);
    let is_given =
        |name: &str| request.standby_settings.iter().any(|given| given.name().eq_ignore_ascii_case(name));
    if let Some(command) = effective_setting(&data, "restore_command")?
        && !command.is_empty()
        && !is_given("restore_command")
    {
        tracing::warn!(
            "the standby keeps its primary's restore_command, which has to work here too (--set restore_command= takes it away): \
             \"{}\"",
            command.escape_debug()
        );
    }
    settings.extend(request.standby_settings.iter().cloned());
    write_auto_conf(&data, &settings, workspace.owner())?;
    // the server copied may be a standby itself, and its password is none of ours
    write_passfile(&data, passfile.as_deref(), workspace.owner())?;
    write_standby_signal(&data)?;
    give(&data.join(STANDBY_SIGNAL_NAME), workspace.owner())
}

/// At most one of them may be set.
pub(crate) const RECOVERY_TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_time",
    "recovery_target_name",
    "recovery_target_xid",
];

/// What a server once restored to, and must not as a standby: it follows its primary from timeline to timeline, and ends nowhere.
/// Nothing for a server that was told none of it.
pub(crate) fn unpinned(data: &Path) -> Result<Vec<Setting>, ConfigurationError> {
    let mut settings = Vec::new();
    if effective_setting(data, "recovery_target_timeline")?.is_some_and(|timeline| timeline != "latest") {
        settings.push(Setting::new("recovery_target_timeline", "latest")?);
    }
    for name in RECOVERY_TARGETS {
        if effective_setting(data, name)?.is_some_and(|target| !target.is_empty()) {
            settings.push(Setting::new(name, "")?);
        }
    }
    Ok(settings)
}

/// What the configuration files in a data directory say of a setting. Files that they include, or that are elsewhere, are not
/// looked into.
pub(crate) fn effective_setting(data: &Path, name: &str) -> Result<Option<String>, ConfigurationError> {
    for file in [AUTO_CONF_NAME, CONF_NAME] {
        let content = read_to_replace(&data.join(file))?.unwrap_or_default();
        if let Some(value) = setting_value(&content, name) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

const CONF_NAME: &str = "postgresql.conf";

/// Puts the passfile into a data directory, or takes away the one that is there.
pub(crate) fn write_passfile(
    data: &Path,
    content: Option<&[u8]>,
    owner: Option<Owner>,
) -> Result<(), ConfigurationError> {
    let path = data.join(PASSFILE_NAME);
    let Some(content) = content else {
        return match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FileError::new("remove file", path, source).into())
            }
            _ => Ok(()),
        };
    };
    replace_file(&path, content, Secrecy::Secret)?;
    give(&path, owner)
}

/// How the standby will connect: to be asked before anything is made, too.
pub(super) fn primary_conninfo(
    request: &CreateRequest,
    preflight: &Preflight,
    passfile: Option<&Path>,
) -> Result<PrimaryConninfo, ConfigurationError> {
    let own = PrimaryConninfoOptions {
        major: preflight.version.major(),
        passfile,
        application_name: Some(&request.application_name),
        dbname: None,
    };
    Ok(request.settings.to_primary_conninfo(&own, &SystemEnvironment)?)
}

/// The first file that the standby's server has to read and its user may not, by the permissions on the way to it.
pub(super) fn unreadable_file(files: &[PathBuf], owner: Owner) -> Option<PathBuf> {
    let may = |path: &Path, wanted: u32| {
        let Ok(metadata) = std::fs::metadata(path) else { return true };
        let shift = if metadata.uid() == owner.uid {
            6
        } else if metadata.gid() == owner.gid {
            3
        } else {
            0
        };
        metadata.mode() >> shift & wanted == wanted
    };
    let (read, search) = (0o4, 0o1);
    let readable =
        |file: &PathBuf| may(file, read) && file.ancestors().skip(1).all(|directory| may(directory, search));
    files.iter().find(|file| !readable(file)).cloned()
}

/// Whether a password would have to go to a file whose path cannot stand in `primary_conninfo`.
pub(crate) fn is_passfile_unnameable(settings: &Settings, directory: &Path) -> bool {
    let wanted = settings.hosts.iter().any(|host| settings.password_for(host, "replication").is_some());
    wanted && directory.to_str().is_none()
}

/// A line for each host whose password is known; `None` when no password is needed.
pub(crate) fn render_passfile(settings: &Settings) -> Result<Option<Vec<u8>>, ConfigurationError> {
    let mut content = Vec::new();
    for host in &settings.hosts {
        let Some(password) = settings.password_for(host, "replication") else { continue };
        for name in passfile_names(host) {
            let entry = PassfileEntry {
                host: &name,
                port: &host.port.to_string(),
                // any: slot synchronisation connects to a database too
                database: "",
                user: &settings.user,
                password: password.expose(),
            };
            let line = entry.render()?;
            if !content.split_inclusive(|&byte| byte == b'\n').any(|other| other == line) {
                content.extend(line);
            }
        }
    }
    Ok((!content.is_empty()).then_some(content))
}

fn passfile_names(host: &HostSpec) -> Vec<String> {
    host.passfile_names().iter().map(ToString::to_string).collect()
}

/// Writes settings into a data directory's `postgresql.auto.conf`.
pub(crate) fn write_auto_conf(
    data: &Path,
    settings: &[Setting],
    owner: Option<Owner>,
) -> Result<(), ConfigurationError> {
    write_settings(data, settings)?;
    give(&data.join(AUTO_CONF_NAME), owner)
}

/// Gives a file to its owner; the change is made durable like the file before it.
pub(crate) fn give(path: &Path, owner: Option<Owner>) -> Result<(), ConfigurationError> {
    if owner.is_none() {
        return Ok(());
    }
    chown(path, owner)?;
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| ConfigurationError::Sync { path: path.to_owned(), source })
}
