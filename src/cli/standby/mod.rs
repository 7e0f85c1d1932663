//! The commands for a standby that is there: one file each.

pub(super) mod follow;
pub(super) mod promote;
pub(super) mod server;
pub(super) mod status;
pub(super) mod wait;
