//! The heart: following a server's write-ahead log.
//!
//! [`Receiver`] decides what to do with each message, [`resume`] where to begin; neither touches a socket, a
//! file or a clock. The driver glues them to a connection and a [sink](crate::sink).

mod backoff;
mod error;
mod positions;
mod receiver;
pub mod resume;

pub use backoff::Backoff;
pub use error::{ConnectFailure, ReceiveError, ReceiverError};
pub use positions::Positions;
pub use receiver::{Action, Moment, Receiver, ReceiverConfig};
