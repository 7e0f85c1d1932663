//! `pg_receivewal`, as PostgreSQL's tool of this name: options, messages, exit codes and files are its own.
//!
//! Answers to PostgreSQL's `pg_receivewal.c`. Departures, each for something that it gets wrong:
//! * A directory is locked while it is received into, and a hidden file `.pgwake.stamp` in it remembers the
//!   cluster, so that no second receiver and no other cluster's WAL gets in.
//! * `--endpos` ends it once everything before that position is there, not with the first message beyond it.
//! * What trying again cannot heal (a slot that does not exist, WAL that is gone) ends it. Waits grow, at random.
//! * With a slot, `--no-sync` still makes durable what it lets the server forget.

mod help;
mod options;
mod streaming;
mod words;

use options::{Job, Options, WhenItExists};

use super::pg_tool::connection::{check_version, command_failed, file_mode, plain};
use super::pg_tool::slots::{SlotUse, slot_name};
use super::pg_tool::{Failed, Invocation};
use crate::client::Connection;
use crate::handover::{self, Handover};
use crate::wire::command::{self, DropWhenActive, SlotPersistence, WalReservation};
use crate::wire::server_error::SqlState;

/// Runs the tool.
pub(super) fn run(tool: &Invocation) -> Result<(), Failed> {
    if tool.answered(help::HELP) {
        return Ok(());
    }
    let options = Options::parse(tool)?;
    if let Job::Receive(receive) = &options.job {
        check_directory(tool, receive)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |error| tool.error(format!("could not set up the program: {error}"));
    let handover = Handover::default();
    let driven =
        runtime.and_then(|runtime| handover::block_on(&runtime, &handover, drive(tool, &options, &handover)));
    driven.map_err(failed)?
}

fn check_directory(tool: &Invocation, receive: &options::Receive) -> Result<(), Failed> {
    match std::fs::read_dir(&receive.directory) {
        Ok(_) => Ok(()),
        Err(error) => {
            let (directory, reason) = (receive.directory.display(), plain(&error));
            Err(tool.error(format!("could not open directory \"{directory}\": {reason}")))
        }
    }
}

async fn drive(tool: &Invocation, options: &Options, handover: &Handover) -> Result<(), Failed> {
    let (settings, mut connection) = options.connection.connect(tool).await?;
    let file_mode = file_mode(tool, &mut connection).await?;
    let identity = connection.identify_system().await;
    let identity = identity.map_err(|error| tool.error(command_failed("IDENTIFY_SYSTEM", &error)))?;
    if identity.database.is_some() {
        let slot = match &options.job {
            Job::Receive(receive) => receive.slot.as_deref(),
            Job::CreateSlot { slot, .. } | Job::DropSlot { slot } => Some(slot.as_str()),
        };
        return Err(tool.error(format!(
            "replication connection using slot \"{}\" is unexpectedly database specific",
            slot.unwrap_or("(null)")
        )));
    }
    match &options.job {
        Job::CreateSlot { slot, when_it_exists } => {
            if options.verbose {
                tool.info(format!("creating replication slot \"{slot}\""));
            }
            create_slot(tool, &mut connection, slot, *when_it_exists).await?;
        }
        Job::DropSlot { slot } => {
            if options.verbose {
                tool.info(format!("dropping replication slot \"{slot}\""));
            }
            let name = slot_name(tool, SlotUse::Drop, slot)?;
            let dropped = connection.drop_slot(&name, DropWhenActive::Fail).await;
            dropped.map_err(|error| {
                tool.error(command_failed(&command::drop_slot(&name, DropWhenActive::Fail), &error))
            })?;
        }
        Job::Receive(receive) => {
            check_version(tool, &connection)?;
            return streaming::receive(tool, options, receive, settings, connection, file_mode, handover)
                .await;
        }
    }
    connection.close().await;
    Ok(())
}

async fn create_slot(
    tool: &Invocation,
    connection: &mut Connection,
    slot: &str,
    when_it_exists: WhenItExists,
) -> Result<(), Failed> {
    let name = slot_name(tool, SlotUse::Create { options: "" }, slot)?;
    let (persistence, reservation) = (SlotPersistence::Permanent, WalReservation::FirstUse);
    match connection.create_physical_slot(&name, persistence, reservation).await {
        Ok(()) => Ok(()),
        Err(error)
            if when_it_exists == WhenItExists::Succeed
                && error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) =>
        {
            Ok(())
        }
        Err(error) => {
            let text = command::create_physical_slot(connection.version(), &name, persistence, reservation);
            Err(tool.error(command_failed(&text, &error)))
        }
    }
}
