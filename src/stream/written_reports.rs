//! When the server hears that WAL was written: at once, or together with the news that it is durable.
//!
//! Each status update wakes the walsender, which costs a busy machine about as much as the disk takes for a commit's WAL. A
//! commit that waits for the flush gains nothing by hearing of the write before it. So where the server's commits wait for
//! the flush, one update tells of both, if the flush is [done at once](crate::sink::Sink::flushes_here).

/// When to tell of what was written and is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WrittenReports {
    /// As soon as the operating system has it.
    #[default]
    AtOnce,
    /// With the flush that was asked for, if nothing else is done before that.
    WithFlush,
}

impl WrittenReports {
    /// What suits the commits of a server whose `synchronous_commit` is `value`, unless they say otherwise themselves.
    pub fn for_synchronous_commit(value: &str) -> Self {
        match value {
            "on" | "remote_apply" => WrittenReports::WithFlush,
            _ => WrittenReports::AtOnce,
        }
    }
}
