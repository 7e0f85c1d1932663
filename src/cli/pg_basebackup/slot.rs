//! The slot of a run that failed: a slot that nobody uses holds WAL back until the server's disk is full.

use std::time::Duration;

use tokio::sync::watch;

use crate::cli::pg_tool::Invocation;
use crate::cli::pg_tool::connection::{libpq_text, show_notices, with_causes};
use crate::client::conninfo::Settings;
use crate::client::{Purpose, open};
use crate::pg::SlotName;
use crate::wire::command::DropWhenActive;

/// How long it is tried: the server may not have noticed yet that the stream is over.
const DROP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a run that was broken off waits for the server to say whether it has made the slot.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the server has come with the slot that `-C` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotCreation {
    /// It was not asked, or has refused: a slot of this name is somebody else's.
    NotMade,
    /// It was asked, and has not answered.
    Asked,
    /// It has made the slot, which is this run's.
    Made,
}

/// The slot that `-C` asks for, from before the server is asked.
#[derive(Debug)]
pub(super) struct OwnSlot {
    name: SlotName,
    creation: watch::Receiver<SlotCreation>,
}

impl OwnSlot {
    /// Whoever asks the server says in the sender how far it has come.
    pub(super) fn new(name: SlotName) -> (Self, watch::Sender<SlotCreation>) {
        let (sender, creation) = watch::channel(SlotCreation::NotMade);
        (OwnSlot { name, creation }, sender)
    }

    /// Waits for an answer that is about to come. None will when whoever asks has given up.
    pub(super) async fn wait_for_answer(&mut self) {
        let answered = self.creation.wait_for(|creation| *creation != SlotCreation::Asked);
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
    }

    /// Says what has to be looked after where the answer is missing: the slot may be this run's, or of somebody who made
    /// one of the same name, and whose it is does not show.
    pub(super) fn say_doubt(&self, tool: &Invocation) {
        if *self.creation.borrow() == SlotCreation::Asked {
            tool.hint(format!(
                "The server may have made the slot before its answer was lost. If replication slot \"{}\" is there and \
                 nobody else's, drop it: it holds WAL back.",
                self.name
            ));
        }
    }

    /// Drops the slot if it is there and this run's.
    pub(super) async fn take_back(&self, tool: &Invocation, settings: &Settings) {
        let creation = *self.creation.borrow();
        if creation == SlotCreation::Made {
            drop_own(tool, settings, &self.name).await;
        }
    }
}

/// Drops what `-C` has made, on a connection of its own, and says so.
async fn drop_own(tool: &Invocation, settings: &Settings, slot: &SlotName) {
    tool.info(format!("dropping replication slot \"{slot}\""));
    let attempt = async {
        let connection = open(settings, Purpose::PhysicalReplication).await;
        let mut connection = connection.map_err(|error| with_causes(&error))?;
        show_notices(tool, &mut connection);
        let dropped = connection.drop_slot(slot, DropWhenActive::Wait).await;
        dropped.map_err(|error| libpq_text(&error))
    };
    let reason = match tokio::time::timeout(DROP_TIMEOUT, attempt).await {
        Ok(Ok(())) => return,
        Ok(Err(reason)) => reason,
        Err(_) => format!("no answer for {} seconds", DROP_TIMEOUT.as_secs()),
    };
    let _ = tool.error(format!("could not drop replication slot \"{slot}\": {reason}"));
    tool.hint("The slot holds WAL back on the server: drop it there.");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> (OwnSlot, watch::Sender<SlotCreation>) {
        let (slot, creation) = OwnSlot::new("mine".parse().unwrap());
        creation.send_replace(SlotCreation::Asked);
        (slot, creation)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_is_waited_for() {
        let (mut slot, creation) = asked();
        let answer = async {
            tokio::time::sleep(ANSWER_TIMEOUT / 2).await;
            creation.send_replace(SlotCreation::Made);
        };
        tokio::join!(slot.wait_for_answer(), answer);
        assert_eq!(*slot.creation.borrow(), SlotCreation::Made);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_not_waited_for_for_ever() {
        let begun = tokio::time::Instant::now();
        let (mut slot, creation) = asked();
        slot.wait_for_answer().await;
        assert_eq!(begun.elapsed(), ANSWER_TIMEOUT);
        // whoever asked has lost the connection
        drop(creation);
        slot.wait_for_answer().await;
        assert_eq!(begun.elapsed(), ANSWER_TIMEOUT);
        assert_eq!(*slot.creation.borrow(), SlotCreation::Asked);
    }
}
