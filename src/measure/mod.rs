//! What a server can send, and what a disk acknowledges: measured, and nothing kept.
//!
//! The verbs of [`client`](crate::client) are used as receiving and copying use them, but what comes is counted and
//! dropped. Nobody shall suffer from it: a WAL stream holds no slot, and reports as flushed nothing at all, so that no
//! slot moves, no commit counts on it, and a shutdown of the server waits only for what it was sent.

mod backup;
mod cpu;
mod disk;
mod error;
mod latencies;
mod meter;
mod wal;
mod wal_start;

pub use backup::{BackupMeasured, BackupRequest, measure_backup};
pub use cpu::HiddenCpu;
pub use disk::{DiskMeasured, DiskProbe, FileKind, Series};
pub use error::{DiskError, DiskOperation, MeasureError};
pub use latencies::Latencies;
pub use meter::Span;
pub use wal::{CheckCost, Ended, WalMeasured, WalRequest, measure_wal};
pub use wal_start::{SourceServer, Starts, WalStart, find_starts};
