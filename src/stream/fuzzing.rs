//! Body of the receiver's fuzz target: a sequence of operations, read from bytes.

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::receiver::{Action, FlushMeaning, FlushPolicy, Moment, Receiver, ReceiverConfig};
use super::written_reports::WrittenReports;
use crate::pg::{Lsn, TimelineId, WalSegmentSize};
use crate::sink::memory_disk::MemoryDisk;
use crate::sink::{Layout, SegmentWriter};
use crate::wire::replication::{PgTimestamp, PrimaryKeepalive, ReplicationMessage, WalData};

/// No sequence of messages, flushes, times and commands makes the receiver panic, go back, write what does not
/// come next, or report what it may not.
///
/// # Panics
/// When one does.
pub fn fuzz_receiver(data: &[u8]) {
    let mut data = Bytes::copy_from_slice(data);
    let segment_size = WalSegmentSize::from_bytes(1 << 20).expect("1 MB is a segment size");
    let start_lsn = Lsn::new(1 << 20);
    let config = ReceiverConfig {
        timeline: TimelineId::FIRST,
        start_lsn,
        segment_size,
        flush_floor: start_lsn + u64::from(data.try_get_u8().unwrap_or(0)),
        status_interval: Duration::from_secs(10),
        receive_timeout: Duration::from_secs(60),
        flush_policy: FlushPolicy::Prompt,
        flush_meaning: FlushMeaning::Durable,
        written_reports: [WrittenReports::AtOnce, WrittenReports::WithFlush][data.len() % 2],
    };
    let mut writer = SegmentWriter::open(MemoryDisk::default(), Layout::Archive).expect("memory has room");
    writer.begin(config.timeline, segment_size, start_lsn).expect("the start is a segment's");
    let mut now = Moment { elapsed: Duration::ZERO, wall_clock: PgTimestamp(0) };
    let mut receiver = Receiver::new(now, config);
    let mut durable_lsn = Lsn::INVALID;
    let mut reported_lsn = Lsn::INVALID;
    while let (Ok(operation), Ok(argument)) = (data.try_get_u8(), data.try_get_u16()) {
        let received_lsn = receiver.positions().received_lsn();
        let offset = |lsn: Lsn| Lsn::new(lsn.as_u64().wrapping_add_signed(i64::from(argument as i16) / 4096));
        let result = match operation % 10 {
            0..=2 => receiver.handle_message(
                now,
                ReplicationMessage::WalData(WalData {
                    start_lsn: if operation < 250 { received_lsn } else { offset(received_lsn) },
                    wal_end_lsn: offset(received_lsn + u64::from(argument) * 8 + 9),
                    sent_at: PgTimestamp(0),
                    data: Bytes::from(vec![operation; usize::from(argument) * 8 + 1]),
                }),
            ),
            3 => receiver.handle_message(
                now,
                ReplicationMessage::PrimaryKeepalive(PrimaryKeepalive {
                    wal_end_lsn: offset(received_lsn),
                    sent_at: PgTimestamp(0),
                    reply_requested: operation > 127,
                }),
            ),
            4 => {
                now.elapsed += Duration::from_millis(u64::from(argument));
                receiver.handle_timeout(now)
            }
            5 => {
                let flushed = writer.flush().expect("memory can be flushed");
                durable_lsn = durable_lsn.max(flushed.lsn());
                receiver.handle_flushed(now, flushed)
            }
            6 => {
                receiver.handle_batch_end(now);
                Ok(())
            }
            7 if operation > 200 => {
                receiver.stop_at(now, offset(received_lsn));
                Ok(())
            }
            8 if operation > 240 => {
                receiver.handle_server_end(now);
                Ok(())
            }
            _ if operation & 1 == 0 => {
                receiver.pause_reading(now);
                Ok(())
            }
            _ => {
                receiver.resume_reading(now);
                Ok(())
            }
        };
        let broken = result.is_err();
        assert!(receiver.positions().received_lsn() >= received_lsn, "the received position went back");
        while let Some(action) = receiver.poll_action() {
            match action {
                // the writer refuses what does not come next, or crosses a segment's end
                Action::Write { lsn, data } => {
                    writer.write(lsn, &[data]).expect("WAL is contiguous");
                    receiver.handle_written(writer.written_lsn());
                }
                Action::Seal => durable_lsn = writer.seal().expect("the segment is full").lsn(),
                Action::Flush => {}
                Action::SendStatus(update) => {
                    assert!(!broken, "a lie was answered");
                    assert!(update.flush_lsn <= durable_lsn && update.flush_lsn <= update.write_lsn);
                    assert!(
                        update.write_lsn <= writer.written_lsn(),
                        "what nobody wrote was reported as written"
                    );
                    assert!(!update.flush_lsn.is_valid() || update.flush_lsn >= config.flush_floor);
                    assert!(update.flush_lsn >= reported_lsn, "the reported flush position went back");
                    reported_lsn = update.flush_lsn;
                }
                Action::SendCopyDone => {
                    assert!(receiver.poll_action().is_none() && receiver.poll_timeout().is_none());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_sequence_of_operations_breaks_a_promise(data in prop::collection::vec(any::<u8>(), 0..600)) {
            fuzz_receiver(&data);
        }
    }
}
