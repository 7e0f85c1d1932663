//! Hints for receiving: the stream, where to begin, and the directory.

use std::io;

use super::super::receive::SetupError;
use crate::observe::metrics::ListenError;
use crate::sink::{Operation, SinkError};
use crate::stream::resume::ResumeError;
use crate::stream::{ReceiveError, ReceiverError, Refusal, WalRemoved, Wanted};

pub(super) fn receive(error: &ReceiveError) -> Option<String> {
    let hint = match error {
        ReceiveError::NoSlot(slot) => {
            return Some(format!(
                "Create it with --create-slot, which reserves WAL from now on; if it was there before, the WAL since \
                 \"{slot}\" was last used may be gone: make a new base backup."
            ));
        }
        ReceiveError::SystemChanged { .. } => {
            "Another cluster answers at this address. Check the connection options before anything else."
        }
        ReceiveError::Refused { refusal, .. } => return Some(refused(refusal)),
        ReceiveError::Silent { .. } | ReceiveError::Stream { source: ReceiverError::Timeout { .. }, .. } => {
            "The server hangs, or something between here and there dropped the connection without a word."
        }
        ReceiveError::Stream { source: ReceiverError::ShutdownHeldUp { .. }, .. } => {
            "The disk hangs: look at it, with dmesg say. The server shuts down without us, and keeps what is not durable here \
             as long as a slot holds it."
        }
        ReceiveError::Stream { source: ReceiverError::NoRoom { all_durable: true, .. }, .. } => {
            "What waits for the archive is at its limit: see to the store, or give --spool-limit more. The server is not waited upon \
             meanwhile, so that it can shut down, and keeps the WAL as long as a slot holds it."
        }
        ReceiveError::Stream { source: ReceiverError::NoRoom { .. }, .. } => {
            "The disk hangs: look at it, with dmesg say. The server keeps the WAL as long as a slot holds it."
        }
        ReceiveError::TimelineOrder { .. }
        | ReceiveError::TimelineGap { .. }
        | ReceiveError::HistoryMismatch { .. }
        | ReceiveError::NoNextTimeline { .. }
        | ReceiveError::History { .. } => {
            "The server contradicts itself, or what was received: find out which servers were promoted, and when, before \
             receiving from the right one, if need be into a new directory."
        }
        ReceiveError::Stream { source, .. }
            if !matches!(source, ReceiverError::FlushedBeyondReceived { .. }) =>
        {
            "The stream makes no sense: connect to the server itself, not through a pooler or balancer."
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::SlotTaken(slot) => format!(
            "Another standby or receiver is using it: stop that one, or choose another slot. After a lost connection the \
             server may take as long as its wal_sender_timeout to notice; \"SELECT active_pid FROM pg_replication_slots \
             WHERE slot_name = '{slot}';\" tells who it is, and pg_terminate_backend() ends it."
        ),
        Refusal::SlotLogical(_) => {
            "Name another slot; --create-slot makes one if there is none of that name.".to_owned()
        }
        Refusal::SlotInvalidated(slot) => format!(
            "Drop it with \"SELECT pg_drop_replication_slot('{slot}');\" and make a new one with --create-slot. If the \
             server still has the WAL that comes next, receiving goes on; if not, it says so. max_slot_wal_keep_size and \
             idle_replication_slot_timeout on the server say when a slot is given up."
        ),
        Refusal::WalRemoved(WalRemoved { wanted: Wanted::Continuation, .. }) => {
            "There is a hole from there on. If another archive or server has these segments, put them into the directory and \
             try again; else begin with a new base backup and a new directory. A slot that is not invalidated keeps WAL."
                .to_owned()
        }
        Refusal::WalRemoved(WalRemoved { wanted: Wanted::Missing { .. }, .. }) => {
            "There is a hole in the directory. If another archive or server has these segments, put them into the directory and \
             try again. If they were moved elsewhere on purpose, move what lies before them there, too. Else begin with a new \
             base backup and a new directory."
                .to_owned()
        }
        Refusal::WalRemoved(_) => {
            "The server no longer has this WAL. With a replication slot made beforehand it would have been kept; restore the \
             segment from an archive, or start over with a new copy."
                .to_owned()
        }
    }
}

pub(super) fn setup(error: &SetupError) -> Option<String> {
    match error {
        SetupError::CreateDirectory { path, source } if source.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(path);
            Some(format!(
                "Make \"{}\" first: no more than one level is made, so that WAL does not go beside a disk that is not \
                 mounted.",
                parent.display()
            ))
        }
        _ => None,
    }
}

pub(super) fn sink(error: &SinkError) -> Option<&'static str> {
    Some(match error {
        SinkError::Locked { .. } => "Stop the other receiver, or receive into a directory of its own.",
        SinkError::OtherSystem { .. } | SinkError::OtherSegmentSize { .. } => {
            "Check the connection options: this is another cluster than the directory's. Each cluster needs a directory \
             of its own."
        }
        SinkError::DamagedStamp { .. } => {
            "The file says whose WAL this is. If you are sure that it is this server's, remove the file and try again."
        }
        SinkError::Diverged { .. } | SinkError::HistoryDiffers { .. } => {
            "Two servers have written the same timeline, as after a failover when the old primary was started again: find \
             out which of them is right, and receive from the other one, if at all, into a new directory."
        }
        SinkError::DamagedSegment { .. } => {
            "Add \".damaged\" to its name, with mv: the server is then asked for this segment again, and may still have it. \
             \"pgwake wal verify\" tells what else is wrong in the directory; --no-verify-records goes on without a look."
        }
        SinkError::NoContinuation { .. } => {
            "The server has lost WAL that is in this directory and has written other WAL since, as after it was restored from \
             a backup or a snapshot; or the WAL is damaged. What is in the directory may be all that is left of what was lost: \
             keep it, and receive into a new directory."
        }
        SinkError::InvalidWal(_) => {
            "Nothing from there on was acknowledged. Look at the same place on the server with pg_waldump: if it reads it, \
             the WAL was damaged on the way, so try again; if it does not, the server's own WAL is damaged. \
             --no-verify-records takes WAL of a format that is not known here."
        }
        SinkError::WrongLength { .. } => {
            "Something else has changed this file. Move it away; the server still has it, if the slot does."
        }
        SinkError::Io { operation: Operation::Lock, source, .. }
            if source.kind() == io::ErrorKind::NotFound =>
        {
            "There is no such directory: a link that leads nowhere, or a disk that is not mounted."
        }
        _ => return None,
    })
}

pub(super) fn resume(error: &ResumeError) -> &'static str {
    match error {
        ResumeError::NoStart => {
            "Name a slot with --slot (made with --create-slot, it holds WAL from now on), or say \"--start current\" if what \
             came before does not matter."
        }
        ResumeError::SlotEmpty => {
            "Look with \"SELECT slot_name, wal_status FROM pg_replication_slots;\" on the server. If it says \"lost\", drop the \
             slot, make a new one with --create-slot, and then a new base backup; else say \"--start current\" if what came \
             before does not matter."
        }
        ResumeError::SlotPositionUnknown => {
            "Say \"--start LSN\" with what \"SELECT restart_lsn FROM pg_replication_slots;\" shows there for the slot, or \
             \"--start current\" if what came before does not matter."
        }
        ResumeError::AheadOfServer { .. } => {
            "This server lags behind what was received from another one: wait until it has caught up, or connect to the \
             server that has the WAL."
        }
        ResumeError::StartBeyondServer { .. } => {
            "Check the LSN and the connection options. \"--start current\" begins with the segment that the server writes now."
        }
        ResumeError::TimelineAheadOfServer { .. } | ResumeError::TimelineNotInHistory { .. } => {
            "A failover went another way than this server: connect to the server that has this timeline, or receive into a \
             new directory."
        }
        ResumeError::SlotTimelineNotInHistory { .. } => {
            "The slot is from before a failover: drop it and make a new one."
        }
        ResumeError::OnlyDamaged { .. } => "Move the damaged files away, or receive into a new directory.",
    }
}

pub(super) fn listen(error: &ListenError) -> Option<String> {
    let ListenError::Listen { addr, source } = error else { return None };
    Some(match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("Another process has {addr}: name another port with --metrics, or end that process.")
        }
        io::ErrorKind::AddrNotAvailable => {
            "It has to be an address of this machine, such as 127.0.0.1:9187.".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "Ports below 1024, and directories of others, need rights: name a higher port, or another path."
                .to_owned()
        }
        _ => return None,
    })
}
