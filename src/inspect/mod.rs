//! What a server says of itself when it is asked in SQL.
//!
//! Questions only: nothing here changes a server, prints, or decides. A role that may not know something gets `None`
//! where that can be told apart from an answer; a question that fails says what was asked.

pub mod replication;
pub mod server;
pub mod slots;
mod sql;
mod survey;

pub use sql::{Answer, InspectError, ask, ask_all};
pub use survey::{Survey, survey};
