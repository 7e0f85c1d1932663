//! What a server says of itself when it is asked in SQL.
//!
//! Questions only: nothing here changes a server, prints, or decides. A role that may not know something gets `None`
//! where that can be told apart from an answer; a question that fails says what was asked.

pub mod recovery;
mod sql;

pub use sql::{Answer, InspectError, ask};
