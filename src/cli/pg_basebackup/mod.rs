//! `pg_basebackup`, as PostgreSQL's tool of this name: options, messages, exit codes and files are its own.
//!
//! Answers to PostgreSQL's `pg_basebackup.c`. Departures, each for something that it gets wrong:
//! * Signals end a run as errors do: what it made is taken away, and the exit code is 1.
//! * A slot that `-C` made for a backup that failed is dropped.
//! * Every file of a plain backup is compared with the manifest as it comes; archives are read on their way.
//! * What a server sends is confined to the target: names, links, archive names, locations of tablespaces.
//! * Files are made durable while others arrive, and a failure to make anything durable fails the backup.
//! * WAL that streams in is checked, and tells the server how far it is durable only where a slot has to move on.
//! * Servers before 10 are refused, where the original goes back to 9.1.
//! * `pg_wal.tar` is compressed with every method; the last segment that was streamed is marked as done.
//!
//! Not departures: directories above the target that were made for it stay, and the way to the target is believed. Who runs
//! this as root where another user can rename directories lets that user say where root writes. `standby create`, which is
//! meant for such places, works from held descriptors; here the files are root's own, and nobody's standby.

mod directories;
mod given;
mod help;
mod mapping;
mod options;
mod progress;
mod rate;
mod receiving;
mod recovery;
mod sink;
mod slot;
mod wal;

use options::{Destination, Options};

use super::pg_tool::connection::{command_failed, file_mode};
use super::pg_tool::{Failed, Invocation};
use super::signals::Signals;
use crate::backup::DirectoryModes;
use crate::client::Connection;
use directories::Made;
use receiving::{Run, Session};

/// Runs the tool.
pub(super) fn run(tool: &Invocation) -> Result<(), Failed> {
    if tool.answered(help::HELP) {
        return Ok(());
    }
    let options = Options::parse(tool)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| tool.error(format!("could not set up the program: {error}")))?;
    let result = runtime.block_on(drive(tool, &options));
    // the resolver, or somebody who does not type a password, is not waited for
    runtime.shutdown_background();
    result
}

async fn drive(tool: &Invocation, options: &Options) -> Result<(), Failed> {
    let (named, mut connection) = options.connection.connect(tool).await?;
    let mut signals = Signals::listen()
        .map_err(|error| tool.error(format!("could not set up signal handling: {error}")))?;
    // further connections lead to the server that the backup comes from, whatever else is in the list
    let settings = named.pinned_to(connection.host());
    refuse_too_old(tool, &connection)?;
    let mut made = Made::new(options.clean_up);
    let mut run = Run::default();
    let work = async {
        let modes = match file_mode(tool, &mut connection).await? {
            0o640 => DirectoryModes::GroupRead,
            _ => DirectoryModes::OwnerOnly,
        };
        prepare_directories(tool, options, modes, &mut made)?;
        let segment_size = connection.wal_segment_size().await;
        segment_size.map_err(|error| tool.error(command_failed("SHOW wal_segment_size", &error)))?;
        if let Destination::Plain { wal_directory: Some(directory), .. } = &options.destination {
            let changed = &mut made.changed_parents;
            made.wal = Some(directories::check_or_create(tool, directory, modes, changed)?);
        }
        let session = Session { tool, options, settings: &settings, named: &named, modes };
        session.back_up(&mut connection, &mut made, &mut run).await
    };
    let result = tokio::select! {
        biased;
        signal = signals.received() => Err(tool.error(format!("interrupted by {signal}"))),
        result = work => result,
    };
    if result.is_err() {
        run.stop().await;
        if let Some(slot) = &run.slot {
            slot.say_doubt(tool);
        }
        made.take_back(tool);
        if let Some(slot) = &run.slot {
            slot.take_back(tool, &settings).await;
        }
    }
    result
}

/// Nothing is made for a server that cannot be copied from.
fn refuse_too_old(tool: &Invocation, connection: &Connection) -> Result<(), Failed> {
    let version = connection.version();
    if version.can_be_copied() {
        return Ok(());
    }
    let failed = tool.error(format!("incompatible server version {version}"));
    tool.hint("Servers before version 10 keep their WAL in another place: take PostgreSQL's own pg_basebackup for them.");
    Err(failed)
}

fn prepare_directories(
    tool: &Invocation,
    options: &Options,
    modes: DirectoryModes,
    made: &mut Made,
) -> Result<(), Failed> {
    if let Some(directory) = options.destination.directory() {
        made.base = Some(directories::check_or_create(tool, directory, modes, &mut made.changed_parents)?);
    }
    Ok(())
}
