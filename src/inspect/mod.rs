//! What a server says of itself when it is asked in SQL.
//!
//! Questions only: nothing here changes a server, prints, or decides. A role that may not know something gets `None`
//! where that can be told apart from an answer; a question that fails says what was asked. What follows from the
//! answers for a server that is to feed somebody is in [`fitness`], without asking any more.

pub mod fitness;
pub mod hba;
pub mod oldest_wal;
pub mod overrides;
pub mod recovery;
pub mod replication;
pub mod role;
pub mod server;
pub mod settings;
pub mod slot_risk;
pub mod slots;
mod sql;
mod survey;
pub mod sync_standbys;
pub mod wal_rate;

pub use sql::{InspectError, ask, ask_one};
pub use survey::{Survey, survey};
