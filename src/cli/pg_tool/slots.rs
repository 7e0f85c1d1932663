//! Names of slots, as they are typed.

use super::{Failed, Invocation};
use crate::pg::SlotName;

/// What a slot is named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum SlotUse {
    /// With these options behind `PHYSICAL`.
    Create {
        options: &'static str,
    },
    Drop,
    /// A stream, which the tool looks the slot up for.
    Stream,
    /// A stream beside a base backup.
    Backup,
}

/// Servers cut names to this length, and say so.
const MAX_SLOT_NAME_LEN: usize = 63;

/// The name as a server takes it. One that no slot can have is refused in the server's words, without asking it.
pub(in crate::cli) fn slot_name(tool: &Invocation, wanted: SlotUse, given: &str) -> Result<SlotName, Failed> {
    let mut name = given;
    if given.len() > MAX_SLOT_NAME_LEN {
        let end = (0..=MAX_SLOT_NAME_LEN).rev().find(|&index| given.is_char_boundary(index));
        name = &given[..end.unwrap_or(0)];
        tool.raw(format_args!("NOTICE:  identifier \"{given}\" will be truncated to \"{name}\""));
    }
    name.parse().map_err(|_| {
        let missing = format!("replication slot \"{name}\" does not exist");
        let refused = |command: &str, reason: &str| {
            format!("could not send replication command \"{command}\": ERROR:  {reason}")
        };
        tool.error(match (wanted, name) {
            (SlotUse::Stream, _) => missing,
            (SlotUse::Drop, _) => refused(&format!("DROP_REPLICATION_SLOT \"{given}\""), &missing),
            (SlotUse::Backup, _) => refused("START_REPLICATION", &missing),
            (SlotUse::Create { options }, name) => {
                let reason = match name {
                    "" => "replication slot name \"\" is too short".to_owned(),
                    _ => format!(
                        "replication slot name \"{name}\" contains invalid character\nHINT:  Replication slot names \
                         may only contain lower case letters, numbers, and the underscore character."
                    ),
                };
                refused(&format!("CREATE_REPLICATION_SLOT \"{given}\" PHYSICAL{options}"), &reason)
            }
        })
    })
}
