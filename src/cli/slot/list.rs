//! `pgwake slot list`.

use clap::Args;
use serde::Serialize;

use super::super::connection::{ConnectError, ConnectionArgs, ConnectionArgsError};
use super::super::exit::Exit;
use super::super::grid::wrap;
use super::super::{block_on, report, width};
use super::view;
use crate::ErrorClass;
use crate::inspect::InspectError;
use crate::inspect::slots::{ReplicationSlot, Slots, slots_and_server};

/// Show all replication slots, the WAL that each one holds, and who uses it
///
/// Warns of slots that nobody uses and that make the server keep WAL, that are about to be lost, or that are lost.
#[derive(Debug, Args)]
#[command(after_help = "\
--json prints one object: in_recovery, lsn, sees_all_statistics, max_slot_wal_keep_size (bytes, null: no bound) and \
slots, each with name, type, database, temporary, active, used_by (pid, application_name, address), restart_lsn, \
held_bytes, wal_status, safe_wal_size, inactive_since, inactive_seconds, invalidation_reason, synced and warning. \
null stands for what does not apply, or may not be seen.")]
pub(in crate::cli) struct ListArgs {
    /// Print the slots as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error(transparent)]
    Arguments(#[from] ConnectionArgsError),
    #[error(transparent)]
    Prompt(#[from] super::super::prompt::PromptError),
    #[error("could not list the replication slots")]
    Connect(#[from] ConnectError),
    #[error("could not list the replication slots")]
    Ask(#[from] InspectError),
}

/// Runs the command.
pub(in crate::cli) fn run(args: &ListArgs) -> Exit {
    block_on(args.json, async {
        match list(args).await {
            Ok(found) if args.json => report::print_json(&Listed::new(&found)),
            Ok(found) => report::print(&text(&found, width::of_output())),
            Err(ListError::Arguments(error)) => report::usage(&error, args.json),
            Err(error) => {
                let class = match &error {
                    ListError::Connect(error) => error.class(),
                    ListError::Ask(error) => error.class(),
                    ListError::Arguments(_) | ListError::Prompt(_) => ErrorClass::Operator,
                };
                report::failure(&error, class, args.json)
            }
        }
    })
}

async fn list(args: &ListArgs) -> Result<Slots, ListError> {
    let mut settings = args.connection.settings("pgwake slot")?;
    settings.connect_timeout = settings.connect_timeout.or(Some(super::change::ANSWER_TIMEOUT));
    args.connection.ask_password_if_told(&mut settings).await?;
    let mut sql = args.connection.connect_sql(&mut settings).await?;
    sql.set_answer_timeout(settings.connect_timeout);
    let found = slots_and_server(&sql).await?;
    sql.close().await;
    Ok(found)
}

/// The answer for people.
fn text(found: &Slots, width: Option<usize>) -> String {
    let Slots { server, slots } = found;
    if slots.is_empty() {
        return "no replication slots\n".to_owned();
    }
    let mut grid = view::new_grid();
    slots.iter().for_each(|slot| view::push(&mut grid, slot, ""));
    let mut text = grid.render(width);
    for slot in slots {
        if let Some(warning) = view::warning(slot, server) {
            text.push_str(&wrap(&format!("warning: {warning}"), width));
        }
    }
    if let Some(hidden) = view::hidden(slots, server) {
        text.push_str(&wrap(&format!("note: {hidden}"), width));
    }
    text
}

/// The answer for programs.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    in_recovery: bool,
    lsn: Option<crate::pg::Lsn>,
    sees_all_statistics: bool,
    max_slot_wal_keep_size: Option<u64>,
    slots: Vec<SlotWithWarning<'a>>,
}

/// A slot and what to be warned of.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct SlotWithWarning<'a> {
    #[serde(flatten)]
    slot: &'a ReplicationSlot,
    warning: Option<String>,
}

impl<'a> SlotWithWarning<'a> {
    pub(in crate::cli) fn new(
        slot: &'a ReplicationSlot,
        server: &crate::inspect::server::ServerState,
    ) -> Self {
        SlotWithWarning { slot, warning: view::warning(slot, server) }
    }
}

impl<'a> Listed<'a> {
    fn new(found: &'a Slots) -> Self {
        let server = &found.server;
        Listed {
            in_recovery: server.in_recovery,
            lsn: server.lsn,
            sees_all_statistics: server.sees_all_statistics,
            max_slot_wal_keep_size: server.max_slot_wal_keep_size,
            slots: found.slots.iter().map(|slot| SlotWithWarning::new(slot, server)).collect(),
        }
    }
}
