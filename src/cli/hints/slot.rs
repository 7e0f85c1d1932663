//! Hints for making and dropping slots.

use super::super::slot::SlotError;
use crate::wire::server_error::SqlState;

pub(super) fn slot(error: &SlotError) -> Option<String> {
    let hint = match error {
        SlotError::Create { source, .. } => match source.sqlstate()? {
            SqlState::CONFIGURATION_LIMIT_EXCEEDED => {
                "See which slots nobody uses with \"pgwake slot list\" and drop one with \"pgwake slot drop NAME\"; or raise \
                 max_replication_slots on the server and restart it."
            }
            SqlState::DUPLICATE_OBJECT => {
                "It may be another standby's or receiver's: \"pgwake slot list\" shows who uses it. Choose another name."
            }
            _ => return None,
        },
        SlotError::Drop { source, .. } if source.sqlstate() == Some(SqlState::UNDEFINED_OBJECT) => {
            "\"pgwake slot list\" shows which there are."
        }
        SlotError::InUse { .. } => {
            "Stop what uses it first; or add --wait to drop it as soon as nobody does."
        }
        SlotError::StillInUse { .. } => "Stop what uses it, and run the same command again.",
        _ => return None,
    };
    Some(hint.to_owned())
}
