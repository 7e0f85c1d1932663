//! `-R`: what makes a standby of the backup (`GenerateRecoveryConfig`).

use bytes::Bytes;

use super::options::{Options, SlotPlan, WalMethod};
use crate::backup::{StandbyFiles, standby_files};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::client::Connection;
use crate::client::conninfo::{Settings, SystemEnvironment};

/// What the original writes for this connection.
pub(super) fn standby_files(
    tool: &Invocation,
    options: &Options,
    settings: &Settings,
    connection: &Connection,
) -> Result<Option<StandbyFiles>, Failed> {
    if !options.write_recovery_conf {
        return Ok(None);
    }
    let version = connection.version();
    let dbname = options.connection.dbname(settings).filter(|_| version.has_slot_synchronisation());
    let conninfo = settings.to_recovery_conninfo(version.major(), dbname.as_deref(), &SystemEnvironment);
    let setting = |name: &str, value: &str| {
        standby_files::Setting::new(name, value)
            .map(|setting| format!("{setting}\n"))
            .map_err(|error| tool.error(format!("could not write recovery configuration: {error}")))
    };
    let mut lines = String::new();
    if !version.has_standby_signal() {
        lines.push_str("standby_mode = 'on'\n");
    }
    lines.push_str(&setting("primary_conninfo", &conninfo)?);
    if let WalMethod::Stream(SlotPlan::Existing(slot) | SlotPlan::Create(slot)) = &options.wal {
        lines.push_str(&setting("primary_slot_name", slot)?);
    }
    let lines = Bytes::from(lines);
    Ok(Some(if version.has_standby_signal() {
        let (configuration, signal) = (standby_files::AUTO_CONF_NAME, standby_files::STANDBY_SIGNAL_NAME);
        StandbyFiles { configuration, lines, signal: Some(signal) }
    } else {
        StandbyFiles { configuration: "recovery.conf", lines, signal: None }
    }))
}
