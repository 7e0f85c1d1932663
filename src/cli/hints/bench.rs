//! Hints for what cannot be measured.

use crate::measure::MeasureError;
use crate::wire::server_error::SqlState;

pub(super) fn measure(error: &MeasureError) -> Option<String> {
    let hint = match error {
        MeasureError::NoSlot(_) => {
            "See which there are with \"pgwake slot list\", or leave --slot out: the oldest WAL that the server has is read then."
        }
        MeasureError::SlotEmpty(_) => "Leave --slot out: the oldest WAL that the server has is read then.",
        MeasureError::SlotUnknown(slot) => {
            return Some(format!(
                "Say --start-lsn with what \"SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{slot}';\" \
                 shows there, or let the role connect to a database."
            ));
        }
        MeasureError::StartBeyondServer { .. } => {
            "Check the LSN and the connection options, or leave --start-lsn out: the oldest WAL that the server has is read then."
        }
        MeasureError::WalRemoved { .. } => {
            "Begin later, or leave --start-lsn and --slot out: the oldest WAL that the server has is read then. \
             wal_keep_size, or a slot, makes it keep more."
        }
        MeasureError::Client { source, .. }
            if matches!(source.sqlstate(), Some(SqlState::FEATURE_NOT_SUPPORTED)) =>
        {
            "The server does not do this: a slot has to be a physical one, and what --compression names has to be built into \
             the server."
        }
        MeasureError::InvalidWal(_) => {
            "Look at the same place on the server with pg_waldump: if it reads it, the WAL was damaged on the way; if it does \
             not, the server's own WAL is damaged."
        }
        MeasureError::UnexpectedPosition { .. }
        | MeasureError::NoNextTimeline(_)
        | MeasureError::Archives(_)
        | MeasureError::Tar(_) => {
            "What came makes no sense: connect to the server itself, not through a pooler or balancer."
        }
        _ => return None,
    };
    Some(hint.to_owned())
}
