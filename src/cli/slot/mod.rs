//! `pgwake slot`.

mod change;
mod list;
pub(super) mod view;

pub(super) use change::{CreateArgs, DropArgs, SlotError, run_create, run_drop};
pub(super) use list::{ListArgs, SlotWithWarning, run as run_list};
