//! Exit codes.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or a receiver that was told to stop.
    Done,
    /// 1: failed; the same may work later, or after what the hint says.
    Failed,
    /// 2: the command line makes no sense.
    Usage,
    /// 3: data is not what it must be. Do not try again: find out why.
    Integrity,
}

impl Exit {
    /// This one, or where all is done that which `other` says: what was done may not have been told.
    #[must_use]
    pub(super) fn or(self, other: Exit) -> Exit {
        if self == Exit::Done { other } else { self }
    }

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Integrity => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
