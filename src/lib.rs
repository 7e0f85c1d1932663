//! pgwake follows a PostgreSQL primary in its wake.
//!
//! Data flows one way; only positions flow back:
//!
//! ```text
//! socket ─▶ wire ─▶ stream::Receiver ─Action▶ sink ─Flushed▶ Positions ─▶ status update ─▶ socket
//!           frames   decides, no I/O           makes durable   what is durable, and where
//! ```
//!
//! Modules depend one way: `cli` → {`standby`, `backup`, `stream`, [`archive`], [`measure`]} → {`client`, `sink`} → [`wire`] → [`pg`].
//! What decides ([`pg`], `wire`, the receiver, resume, tar, the manifest) touches no socket, file, clock or
//! thread: bytes and time are its arguments.

pub mod archive;
pub mod backup;
#[doc(hidden)]
pub mod cli;
pub mod client;
pub mod compression;
mod direct;
mod error;
pub mod handover;
pub mod inspect;
pub mod measure;
pub mod observe;
mod owner;
pub mod pg;
pub mod repository;
pub mod sink;
pub mod standby;
pub mod stream;
pub mod wire;

pub use error::ErrorClass;
pub use owner::FileOwner;
