use super::*;
use crate::backup::BackupError;
use crate::pg::{Lsn, TimelineId};
use crate::sink::Operation;
use crate::stream::{ConnectFailure, Refusal, WalRemoved, Wanted};
use crate::wire::server_error::ServerError;

/// The hints for an error with all its causes.
fn all(error: &(dyn Error + 'static)) -> Vec<String> {
    hints(&super::super::report::causes(error))
}

#[track_caller]
fn assert_hint(error: &(dyn Error + 'static), text: &str) {
    let found = all(error);
    assert!(
        found.len() == 1 && found[0].contains(text),
        "{error:?}: {found:?} was expected to hold {text:?}"
    );
}

fn refused(sqlstate: SqlState) -> ClientError {
    ClientError::Server(Box::new(ServerError { sqlstate, ..ServerError::default() }))
}

fn start_refused(sqlstate: SqlState) -> ReceiveError {
    let (start_lsn, timeline) = (Lsn::new(1 << 24), TimelineId::FIRST);
    ReceiveError::Start { start_lsn, timeline, source: refused(sqlstate) }
}

/// WAL that is missing at a place that is wanted for this reason.
fn removed(wanted: Wanted) -> ReceiveError {
    let wal = WalRemoved { lsn: Lsn::new(1 << 24), timeline: TimelineId::FIRST, wanted, slot: None };
    let source = Box::new(start_refused(SqlState::UNDEFINED_FILE));
    ReceiveError::Refused { refusal: Refusal::WalRemoved(wal), source }
}

fn io(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

#[test]
fn the_outermost_link_knows_best_what_was_wanted() {
    let tablespace = |source| CreateError::Tablespace { location: "/ts".to_owned(), source };
    assert_hint(&tablespace(WorkspaceError::NotEmpty("/ts".into())), "--tablespace-mapping /ts=NEWDIR");
    // another place does not help there, and the inner link is asked
    assert_hint(&tablespace(WorkspaceError::RootOwned("/ts".into())), "-o postgres");
    assert_hint(&CreateError::Workspace(WorkspaceError::NotEmpty("/d".into())), "/d/data");
    assert_hint(&CreateError::SlotExists("a".parse().unwrap()), "--use-existing-slot");
}

#[test]
fn one_sqlstate_means_this_here_and_that_there() {
    let (missing, denied) = (SqlState::UNDEFINED_FILE, SqlState::INSUFFICIENT_PRIVILEGE);
    assert_hint(&removed(Wanted::Beginning), "no longer has this WAL");
    assert_hint(&removed(Wanted::Continuation), "There is a hole");
    assert_hint(&CreateError::Wal(removed(Wanted::Beginning)), "no longer has this WAL");
    assert_hint(&CreateError::ReceiveBackup(refused(missing)), "one of its own files");
    assert_hint(&CreateError::ReceiveBackup(refused(denied)), "one of its own files");
    assert_hint(&start_refused(denied), "ALTER ROLE");
}

#[test]
fn a_slot_that_cannot_be_used_has_a_remedy_of_its_own() {
    let slot = || "witness".parse().unwrap();
    for (refusal, text) in [
        (Refusal::SlotTaken(slot()), "wal_sender_timeout"),
        (Refusal::SlotLogical(slot()), "Name another slot"),
        (Refusal::SlotInvalidated(slot()), "pg_drop_replication_slot('witness')"),
    ] {
        let source = Box::new(start_refused(SqlState::OBJECT_IN_USE));
        assert_hint(&ReceiveError::Refused { refusal, source }, text);
    }
    assert_hint(&ReceiveError::NoSlot(slot()), "Create it with --create-slot");
    assert_hint(&ReceiveError::Resume(ResumeError::SlotEmpty), "wal_status");
}

#[test]
fn what_a_receiver_stops_at_has_a_remedy() {
    let (expected, found) = ("1".parse().unwrap(), "2".parse().unwrap());
    assert_hint(&ReceiveError::SystemChanged { expected, found }, "Another cluster answers");
    let timeline = TimelineId::FIRST;
    assert_hint(&ReceiveError::NoNextTimeline { timeline }, "which servers were promoted");
    let class = crate::ErrorClass::Transient;
    let source = Box::new(OpenError::Greeting(ClientError::NoServerVersion));
    assert_hint(&ReceiveError::from(ConnectFailure { class, source }), "pooler");
    let path = || "/wal/file".into();
    for (error, text) in [
        (SinkError::Locked { path: path() }, "Stop the other receiver"),
        (SinkError::OtherSystem { expected, found }, "this is another cluster"),
        (SinkError::OtherSegmentSize { expected: 1, found: 2 }, "this is another cluster"),
        (SinkError::DamagedStamp { path: path() }, "remove the file"),
        (SinkError::Diverged { path: path(), lsn: Lsn::INVALID }, "Two servers have written"),
        (SinkError::HistoryDiffers { path: path(), timeline }, "Two servers have written"),
        (SinkError::WrongLength { path: path(), len: 1, segment_len: 2 }, "Move it away"),
    ] {
        assert_hint(&ReceiveError::Sink(error), text);
    }
    let setup = SetupError::CreateDirectory { path: "/mnt/a/b".into(), source: io(io::ErrorKind::NotFound) };
    assert_hint(&setup, "Make \"/mnt/a\" first");
}

#[test]
fn disks_that_are_full_failing_or_not_ours_are_told_wherever_they_are_met() {
    use crate::backup::confined::FileError;
    let file = |source: io::Error| {
        CreateError::Backup(BackupError::File(FileError::new("write file", "/x", source)))
    };
    assert_hint(&file(io(io::ErrorKind::StorageFull)), "Make room");
    assert_hint(&file(io(io::ErrorKind::PermissionDenied)), "usually postgres");
    assert_hint(&file(io::Error::from_raw_os_error(EIO)), "kernel's log");
    let source = io(io::ErrorKind::StorageFull);
    let write = SinkError::Io { operation: Operation::Write, path: "/x".into(), source };
    assert_hint(&ReceiveError::Sink(write), "Make room");
    let missing = BackupError::MissingManifest;
    assert_hint(&CreateError::Backup(missing), "nothing of it was kept");
}
