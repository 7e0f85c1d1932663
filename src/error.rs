//! The one question that every error answers.

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may go away by itself: try again.
    Transient,
    /// Somebody has to change something first.
    Operator,
    /// The data at hand cannot be trusted: stop.
    Integrity,
    /// This program is wrong.
    Bug,
}
