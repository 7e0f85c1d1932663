//! WAL that was received, as a whole: a directory of it, and an archive of it in object storage.
//!
//! [`verify`] reads every file of a directory once, and changes none. What it finds wrong is a [`Problem`] each, in the
//! order of timelines and positions; only what the operating system refuses is an error.
//!
//! An archive is a set of objects ([`layout`]) in a store ([`ArchiveStore`]), each created once. An [`Uploader`] fills it
//! from the directory that is received into, one at a time ([`lease`]); [`Catalog`] says what is there, [`audit()`] whether it is what it must be, and [`fetch()`] gets it back.

mod ancestry;
mod asking_server;
pub mod audit;
mod buffers;
pub mod catalog;
mod check;
pub mod envelope;
pub mod error;
pub mod fetch;
mod file;
#[doc(hidden)]
pub mod fuzzing;
pub mod gap;
pub mod identity;
pub mod keyring;
pub mod layout;
pub mod lease;
pub mod prefetch;
mod problem;
mod retry;
pub mod store;
pub mod store_url;
#[cfg(test)]
pub(crate) mod testing;
mod timelines;
pub mod uploader;
mod verify;
pub mod wal_object;

pub use asking_server::AskingServer;
pub use audit::audit;
pub(crate) use buffers::Buffer;
pub use catalog::{Catalog, Gap, Stretch, TimelineContent};
pub use error::ArchiveError;
pub use fetch::{AtGap, Fetched, fetch};
pub use file::{ArchivedFile, OpenFileError};
pub use identity::ClusterIdentity;
pub use keyring::{Keyring, KeyringError};
pub use prefetch::Prefetched;
pub use problem::{Problem, ProblemKind};
pub use store::{ArchiveStore, Creation};
pub use store_url::{Access, ArchiveUrl, ArchiveUrlError};
pub use uploader::{
    ArchiveWatch, Archived, ArchivingSink, Gaps, Standing, TakeOver, UploadOptions, Uploader,
};
pub use verify::{TimelineReport, VerifyError, VerifyReport, WalRange, verify};
