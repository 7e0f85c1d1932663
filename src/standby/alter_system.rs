//! Settings of a server that runs, changed with `ALTER SYSTEM`: all of them, or none.
//!
//! The command cannot stand in a transaction, and a role may be allowed one setting and not the next. So what was there is
//! read first, and written back when one of them, or the reload, fails.

use std::path::Path;

use super::configuration::ConfigurationError;
use super::follow_error::FollowError;
use crate::backup::standby_files::{AUTO_CONF_NAME, Setting, read_to_replace, setting_value};
use crate::client::{ClientError, Sql};
use crate::wire::command::quote_string;

/// Changes `settings` of the server that runs on `directory`, and has them read.
pub(super) async fn alter_system(
    sql: &Sql,
    directory: &Path,
    settings: &[Setting],
) -> Result<(), FollowError> {
    let before = read_to_replace(&directory.join(AUTO_CONF_NAME)).map_err(ConfigurationError::from)?;
    let before = before.unwrap_or_default();
    let mut changed = 0;
    let altered = async {
        for setting in settings {
            set(sql, setting.name(), Some(setting.value())).await?;
            changed += 1;
        }
        sql.execute("SELECT pg_reload_conf()").await
    };
    let Err(source) = altered.await else { return Ok(()) };
    for setting in settings[..changed].iter().rev() {
        let old = setting_value(&before, setting.name());
        if let Err(restore) = set(sql, setting.name(), old.as_deref()).await {
            let name = setting.name().to_owned();
            return Err(FollowError::HalfAltered { name, restore: Box::new(restore), source });
        }
    }
    Err(FollowError::AlterSystem(source))
}

async fn set(sql: &Sql, name: &str, value: Option<&str>) -> Result<(), ClientError> {
    let command = match value {
        Some(value) => format!("ALTER SYSTEM SET {name} = {}", quote_string(value)),
        None => format!("ALTER SYSTEM RESET {name}"),
    };
    sql.execute(&command).await
}
