//! What it means that a server refuses a stream: the fault is the slot's, or that of the WAL it was to hold.
//!
//! Told apart by SQLSTATE, and where one of them means two things by what `READ_REPLICATION_SLOT` said before: the
//! texts are in the server's language. Only servers from 18 on refuse a slot that was invalidated; those before let
//! it in, and then miss the WAL.

use std::fmt;

use super::resume::SlotHold;
use crate::ErrorClass;
use crate::client::ClientError;
use crate::pg::{Lsn, SlotName, TimelineId};
use crate::wire::server_error::{ServerError, SqlState};

/// Why a server does not stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody else streams from it, or the server has not noticed yet that the connection before is gone.
    #[error("replication slot \"{0}\" is in use")]
    SlotTaken(SlotName),
    /// Logical decoding's, which holds WAL for something else.
    #[error("replication slot \"{0}\" is not a physical one")]
    SlotLogical(SlotName),
    /// The server gave up holding WAL for it.
    #[error("replication slot \"{0}\" was invalidated: the server holds no WAL for it any more")]
    SlotInvalidated(SlotName),
    /// The server has removed it.
    #[error("{0}")]
    WalRemoved(WalRemoved),
}

/// WAL that was asked for, and that the server no longer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRemoved {
    /// Its position.
    pub lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Why it was asked for.
    pub wanted: Wanted,
    /// The slot that was to hold it, and what it did hold.
    pub slot: Option<(SlotName, SlotHold)>,
}

/// Why a stream begins where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The directory ends there: if it cannot be had, there is a hole that nothing here can fill.
    Continuation,
    /// It is missing in the directory, which has what follows from `end_lsn` on.
    Missing {
        /// Where the directory goes on.
        end_lsn: Lsn,
    },
    /// An empty directory was to begin there.
    Beginning,
}

impl fmt::Display for WalRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WalRemoved { lsn, timeline, .. } = self;
        match self.wanted {
            Wanted::Continuation => write!(f, "directory goes on at {lsn} on timeline {timeline}")?,
            Wanted::Missing { end_lsn } => {
                write!(f, "directory has no WAL between {lsn} and {end_lsn} on timeline {timeline}")?;
            }
            Wanted::Beginning => write!(f, "WAL is wanted from {lsn} on timeline {timeline}")?,
        }
        write!(f, ", but the server has removed the WAL from there on")?;
        match &self.slot {
            Some((slot, SlotHold::From(held))) if held.restart_lsn > self.lsn => {
                write!(f, "; replication slot \"{slot}\" holds it only from {} on", held.restart_lsn)
            }
            Some((slot, SlotHold::Empty)) => {
                write!(f, "; replication slot \"{slot}\" holds none: it was invalidated, or never used")
            }
            _ => Ok(()),
        }
    }
}

impl Refusal {
    /// What a refusal of the server's says; `None` when it is nothing of this kind.
    pub(super) fn of(source: &ClientError, wal: WalRemoved) -> Option<Refusal> {
        let slot = wal.slot.as_ref();
        if source.server_error().is_some_and(ServerError::is_walsender_stopping) {
            return None;
        }
        match source.sqlstate()? {
            SqlState::UNDEFINED_FILE => Some(Refusal::WalRemoved(wal)),
            SqlState::OBJECT_IN_USE => slot.map(|(slot, _)| Refusal::SlotTaken(slot.clone())),
            // a slot whose state could be read is a physical one; of the others none is refused for being invalid
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => slot.map(|(slot, held)| match held {
                SlotHold::Unknown => Refusal::SlotLogical(slot.clone()),
                _ => Refusal::SlotInvalidated(slot.clone()),
            }),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Refusal::SlotTaken(_) => ErrorClass::Transient,
            Refusal::WalRemoved(WalRemoved {
                wanted: Wanted::Continuation | Wanted::Missing { .. }, ..
            }) => ErrorClass::Integrity,
            _ => ErrorClass::Operator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::resume::SlotPosition;
    use super::*;

    fn refusal(sqlstate: SqlState, slot: Option<SlotHold>, wanted: Wanted) -> Option<Refusal> {
        let source = ClientError::Server(Box::new(ServerError { sqlstate, ..ServerError::default() }));
        let slot = slot.map(|held| ("witness".parse().unwrap(), held));
        let (lsn, timeline) = (Lsn::new(5 << 20), TimelineId::FIRST);
        Refusal::of(&source, WalRemoved { lsn, timeline, wanted, slot })
    }

    fn held_from(lsn: u64) -> SlotHold {
        SlotHold::From(SlotPosition { restart_lsn: Lsn::new(lsn), timeline: TimelineId::FIRST })
    }

    #[test]
    fn one_sqlstate_is_told_apart_by_what_the_slot_holds() {
        let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
        let with = |held| refusal(state, Some(held), Wanted::Continuation);
        assert_eq!(with(SlotHold::Unknown), Some(Refusal::SlotLogical("witness".parse().unwrap())));
        assert_eq!(with(SlotHold::Empty), Some(Refusal::SlotInvalidated("witness".parse().unwrap())));
        assert_eq!(with(held_from(1)), Some(Refusal::SlotInvalidated("witness".parse().unwrap())));
        assert_eq!(refusal(state, None, Wanted::Continuation), None, "no slot was named");
        assert_eq!(refusal(SqlState::SYNTAX_ERROR, Some(SlotHold::Empty), Wanted::Continuation), None);
    }

    #[test]
    fn a_server_that_is_being_stopped_says_nothing_of_the_slot() {
        let stopping = ServerError {
            sqlstate: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            routine: Some("exec_replication_command".into()),
            ..ServerError::default()
        };
        let source = ClientError::Server(Box::new(stopping));
        let slot = Some(("witness".parse().unwrap(), held_from(1)));
        let (lsn, timeline, wanted) = (Lsn::new(5 << 20), TimelineId::FIRST, Wanted::Continuation);
        assert_eq!(Refusal::of(&source, WalRemoved { lsn, timeline, wanted, slot }), None);
        // it comes back, and is tried again
        assert_eq!(source.class(), ErrorClass::Transient);
    }

    #[test]
    fn missing_wal_is_told_with_what_the_slot_holds_instead() {
        let told = |slot, wanted| refusal(SqlState::UNDEFINED_FILE, slot, wanted).unwrap().to_string();
        let gap =
            "directory goes on at 0/500000 on timeline 1, but the server has removed the WAL from there on";
        assert_eq!(told(None, Wanted::Continuation), gap);
        assert_eq!(told(Some(SlotHold::Unknown), Wanted::Continuation), gap);
        assert_eq!(told(Some(held_from(1 << 20)), Wanted::Continuation), gap);
        let ahead = told(Some(held_from(8 << 20)), Wanted::Continuation);
        assert_eq!(ahead, format!("{gap}; replication slot \"witness\" holds it only from 0/800000 on"));
        let empty = told(Some(SlotHold::Empty), Wanted::Continuation);
        assert_eq!(
            empty,
            format!("{gap}; replication slot \"witness\" holds none: it was invalidated, or never used")
        );
        assert!(told(None, Wanted::Beginning).starts_with("WAL is wanted from 0/500000"));
        let missing = told(None, Wanted::Missing { end_lsn: Lsn::new(7 << 20) });
        assert_eq!(
            missing,
            "directory has no WAL between 0/500000 and 0/700000 on timeline 1, but the server has removed the WAL from there on"
        );
    }

    #[test]
    fn a_hole_is_for_nobody_to_try_again_and_a_taken_slot_is() {
        let class = |state, wanted| refusal(state, Some(SlotHold::Unknown), wanted).unwrap().class();
        assert_eq!(class(SqlState::OBJECT_IN_USE, Wanted::Continuation), ErrorClass::Transient);
        assert_eq!(class(SqlState::UNDEFINED_FILE, Wanted::Continuation), ErrorClass::Integrity);
        let missing = Wanted::Missing { end_lsn: Lsn::new(7 << 20) };
        assert_eq!(class(SqlState::UNDEFINED_FILE, missing), ErrorClass::Integrity);
        assert_eq!(class(SqlState::UNDEFINED_FILE, Wanted::Beginning), ErrorClass::Operator);
    }
}
