//! The heart: following a server's write-ahead log.
//!
//! [`Receiver`] decides what to do with each message, [`resume`] where to begin; neither touches a socket, a
//! file or a clock. The driver, the only `select!`, glues a stream, its receiver and a [sink](crate::sink)
//! together; a session goes from timeline to timeline on one connection; [`receive`] from connection to
//! connection. [`Upstream`] and [`Connector`] are what they need of a server, so that tests can be one.

mod background;
mod backoff;
mod connector;
mod driver;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod missing_slot;
mod observer;
mod positions;
mod receive;
mod receiver;
mod refusal;
pub mod resume;
#[cfg(test)]
mod scripted;
mod session;
mod shutdown;
mod upstream;
mod written_reports;

pub use background::{BackgroundReceive, BackgroundRequest, WalAcknowledgement, WalDurability};
pub use backoff::Backoff;
pub use connector::ServerConnector;
pub use driver::{Progress, Until};
pub use error::{ConnectFailure, ReceiveError, ReceiverError};
pub use missing_slot::MissingSlot;
pub use observer::{BatchReceived, LogObserver, Observer};
pub use positions::Positions;
pub use receive::{
    ReceiveOptions, ReceiveOutcome, Reconnect, open_sink, receive, receive_into, receive_observed,
};
pub use receiver::{Action, FlushMeaning, FlushPolicy, Moment, Receiver, ReceiverConfig};
pub use refusal::{Refusal, WalRemoved, Wanted};
pub use resume::StartChoice;
pub use session::StreamOptions;
pub use upstream::{Connector, ReplicationStream, StreamStart, Upstream};
pub use written_reports::WrittenReports;
