//! Bytes to messages and back: the PostgreSQL frontend/backend protocol, version 3.
//!
//! Nothing here touches a socket or a clock. Every length from the peer is bounded before it is used; a parser
//! never indexes a slice but reads through a [`reader::Reader`]. PostgreSQL's manual, chapter "Frontend/Backend
//! Protocol", says what each message holds.

pub mod auth;
pub mod backend;
pub mod command;
pub mod frame;
pub mod frontend;
#[doc(hidden)]
pub mod fuzzing;
pub mod reader;
mod receive_buffers;
pub mod replication;
pub mod server_error;
