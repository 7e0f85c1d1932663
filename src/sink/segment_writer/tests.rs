use std::io;

use super::super::memory_disk::MemoryDisk;
use super::super::{Batch, SinkCommand};
use super::*;
use crate::pg::SystemIdentifier;
use crate::pg::wal_builder::WalBuilder;

const ONE: TimelineId = TimelineId::FIRST;
const MIB: u64 = 1 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::from_bytes(MIB).unwrap()
}

fn archive(disk: &MemoryDisk) -> SegmentWriter<MemoryDisk> {
    let mut writer = SegmentWriter::open(disk.clone(), Layout::Archive).unwrap();
    writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
    disk.steps.borrow_mut().clear();
    writer
}

fn bytes(len: u64) -> Bytes {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

#[test]
fn a_new_file_is_found_again_before_the_first_acknowledgement() {
    let disk = MemoryDisk::default();
    let mut writer = archive(&disk);
    writer.write(Lsn::new(MIB), &[bytes(10), bytes(5)]).unwrap();
    assert_eq!(writer.flush().unwrap().lsn(), Lsn::new(MIB + 15));
    writer.write(Lsn::new(MIB + 15), &[bytes(5)]).unwrap();
    assert_eq!(writer.flush().unwrap().lsn(), Lsn::new(MIB + 20));
    assert_eq!(
        *disk.steps.borrow(),
        [
            "create 000000010000000000000001.partial",
            "write 000000010000000000000001.partial 0+15",
            "sync 000000010000000000000001.partial",
            "sync_earlier",
            "sync_directory",
            "write 000000010000000000000001.partial 15+5",
            "sync 000000010000000000000001.partial",
        ]
    );
}

#[test]
fn a_full_segment_is_durable_before_it_gets_its_name() {
    let disk = MemoryDisk::default();
    let mut writer = archive(&disk);
    writer.write(Lsn::new(MIB), &[bytes(MIB)]).unwrap();
    assert_eq!(writer.seal().unwrap().lsn(), Lsn::new(2 * MIB));
    assert_eq!(
        disk.steps.borrow()[2..],
        [
            "sync 000000010000000000000001.partial",
            "rename 000000010000000000000001.partial 000000010000000000000001",
            "sync_earlier",
            "sync_directory",
        ]
    );
    assert_eq!(disk.read("000000010000000000000001").unwrap(), bytes(MIB));
}

#[test]
fn pg_wal_has_final_names_full_length_and_done_marks() {
    let disk = MemoryDisk::default();
    let mut writer = SegmentWriter::open(disk.clone(), Layout::PgWal).unwrap();
    writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
    writer.write(Lsn::new(MIB), &[bytes(MIB)]).unwrap();
    writer.seal().unwrap();
    writer.write(Lsn::new(2 * MIB), &[bytes(3)]).unwrap();
    writer.flush().unwrap();
    assert_eq!(
        disk.names(),
        [
            "000000010000000000000001",
            "000000010000000000000002",
            "archive_status/000000010000000000000001.done"
        ]
    );
    assert_eq!(disk.read("000000010000000000000002").unwrap().len() as u64, MIB);
}

#[test]
fn odd_sized_leftovers_are_healed_in_place() {
    for len in [0, 1, 777, MIB - 1, MIB] {
        let disk = MemoryDisk::default();
        let mut left = bytes(MIB)[..len as usize].to_vec();
        if let Some(lost) = left.get_mut(100..500) {
            lost.fill(0);
        }
        disk.put("000000010000000000000001.partial", &left);
        let mut writer = archive(&disk);
        writer.write(Lsn::new(MIB), &[bytes(MIB)]).unwrap();
        writer.seal().unwrap();
        assert_eq!(disk.read("000000010000000000000001").unwrap(), bytes(MIB), "{len} bytes left");
    }
}

#[test]
fn equal_bytes_are_written_again_and_nothing_is_cut_off() {
    let disk = MemoryDisk::default();
    disk.put("000000010000000000000001.partial", &bytes(1000));
    let mut writer = archive(&disk);
    writer.write(Lsn::new(MIB), &[bytes(400)]).unwrap();
    writer.flush().unwrap();
    assert!(disk.steps.borrow().iter().any(|step| step.starts_with("write")));
    assert_eq!(disk.read("000000010000000000000001.partial").unwrap(), bytes(1000));
}

#[test]
fn other_bytes_of_one_timeline_are_an_error() {
    let disk = MemoryDisk::default();
    disk.put("000000010000000000000001.partial", &bytes(1000));
    let mut writer = archive(&disk);
    let mut other = bytes(1000).to_vec();
    other[700] += 1;
    let error = writer.write(Lsn::new(MIB), &[bytes(300), Bytes::from(other.split_off(300))]).unwrap_err();
    assert!(matches!(&error, SinkError::Diverged { lsn, .. } if *lsn == Lsn::new(MIB + 700)), "{error}");
    assert!(matches!(writer.flush(), Err(SinkError::Poisoned)));
}

#[test]
fn a_finished_segment_is_compared_and_never_written() {
    let disk = MemoryDisk::default();
    disk.put("000000010000000000000001", &bytes(MIB));
    let mut writer = archive(&disk);
    writer.write(Lsn::new(MIB), &[bytes(MIB)]).unwrap();
    writer.seal().unwrap();
    assert_eq!(*disk.steps.borrow(), ["sync_earlier", "sync_directory"]);

    let mut damaged = bytes(MIB).to_vec();
    damaged[5] = 0;
    disk.put("000000010000000000000001", &damaged);
    let mut writer = archive(&disk);
    let error = writer.write(Lsn::new(MIB), &[bytes(MIB)]).unwrap_err();
    assert!(matches!(error, SinkError::Diverged { .. }), "{error}");

    disk.put("000000010000000000000001", b"short");
    let error = archive(&disk).write(Lsn::new(MIB), &[bytes(1)]).unwrap_err();
    assert!(matches!(error, SinkError::WrongLength { len: 5, .. }), "{error}");
}

#[test]
fn every_failed_step_ends_acknowledgement_for_good() {
    for step in ["create", "write", "sync 0", "sync_earlier", "rename", "sync_directory"] {
        let disk = MemoryDisk::default();
        let mut writer = archive(&disk);
        *disk.fail.borrow_mut() = Some((step.into(), io::ErrorKind::StorageFull));
        let result = writer.write(Lsn::new(MIB), &[bytes(MIB)]).and_then(|()| writer.seal());
        let error = result.unwrap_err();
        assert!(
            matches!(&error, SinkError::Io { source, path, .. }
                if source.kind() == io::ErrorKind::StorageFull && path.starts_with("memory")),
            "{step}: {error}"
        );
        assert!(matches!(writer.flush(), Err(SinkError::Poisoned)), "{step}");
        assert!(matches!(writer.seal(), Err(SinkError::Poisoned)), "{step}");
        assert!(matches!(writer.begin(ONE, size(), Lsn::new(0)), Err(SinkError::Poisoned)), "{step}");
    }
}

#[test]
fn steps_out_of_order_are_refused() {
    let disk = MemoryDisk::default();
    let mut writer = SegmentWriter::open(disk, Layout::Archive).unwrap();
    assert!(matches!(writer.write(Lsn::new(0), &[bytes(1)]), Err(SinkError::OutOfOrder { .. })));
    assert!(matches!(writer.begin(ONE, size(), Lsn::new(1)), Err(SinkError::OutOfOrder { .. })));
    writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
    assert!(matches!(writer.write(Lsn::new(0), &[bytes(1)]), Err(SinkError::NotContiguous { .. })));
    assert!(matches!(writer.write(Lsn::new(MIB), &[bytes(MIB + 1)]), Err(SinkError::OutOfOrder { .. })));
    assert!(matches!(writer.seal(), Err(SinkError::OutOfOrder { .. })));
    writer.write(Lsn::new(MIB), &[bytes(MIB)]).unwrap();
    assert!(matches!(writer.write(Lsn::new(2 * MIB), &[bytes(1)]), Err(SinkError::OutOfOrder { .. })));
}

#[test]
fn what_has_gathered_is_one_write_and_one_fsync() {
    let disk = MemoryDisk::default();
    let mut writer = archive(&disk);
    let write = |lsn: u64, len| SinkCommand::Write { lsn: Lsn::new(lsn), data: bytes(len) };
    let commands = [
        write(MIB, 10),
        SinkCommand::Flush,
        write(MIB + 10, 20),
        SinkCommand::Flush,
        write(MIB + 30, MIB - 30),
        SinkCommand::Seal,
        write(2 * MIB, 7),
        SinkCommand::Flush,
        write(2 * MIB + 7, 3),
    ];
    let queued: usize = commands.iter().map(SinkCommand::weight).sum();
    let (mut published, mut written, mut written_lsn) = (Vec::new(), 0, Lsn::INVALID);
    let mut batch = Batch::default();
    batch
        .run(
            &mut writer,
            commands,
            |flushed| published.push(flushed.lsn()),
            |weight, lsn| {
                written += weight;
                written_lsn = lsn;
            },
        )
        .unwrap();
    assert_eq!(written_lsn, Lsn::new(2 * MIB + 10));
    assert!(batch.take_flush_wanted() && !batch.take_flush_wanted());
    published.push(writer.flush().unwrap().lsn());
    assert_eq!(published, [Lsn::new(2 * MIB), Lsn::new(2 * MIB + 10)]);
    assert_eq!(written, queued);
    let steps = disk.steps.borrow();
    assert_eq!(steps.iter().filter(|step| step.starts_with("write")).count(), 2);
    assert_eq!(steps.iter().filter(|step| step.starts_with("sync 0")).count(), 2);
}

#[test]
fn a_flush_is_of_what_was_written_before_it_began() {
    let disk = MemoryDisk::default();
    let mut writer = archive(&disk);
    let lsn = |offset| Lsn::new(MIB + offset);
    assert!(!writer.write_at_once(lsn(0), &[bytes(10)]).unwrap(), "the file has to be opened first");
    writer.write(lsn(0), &[bytes(10)]).unwrap();
    let pending = writer.begin_flush().unwrap();
    assert!(writer.write_at_once(lsn(10), &[bytes(5)]).unwrap());
    assert_eq!(writer.written_lsn(), lsn(15));
    let synced = pending.sync();
    assert_eq!(writer.end_flush(pending, synced).unwrap().lsn(), lsn(10));
    assert_eq!(writer.flush().unwrap().lsn(), lsn(15), "and the next one is of the rest");
    let syncs = disk.steps.borrow().iter().filter(|step| step.starts_with("sync 0")).count();
    assert_eq!(syncs, 2);
    let pending = writer.begin_flush().unwrap();
    let failed = writer.end_flush(pending, Err(io::ErrorKind::Other.into()));
    assert!(matches!(failed, Err(SinkError::Io { .. })), "{failed:?}");
    assert!(!writer.write_at_once(lsn(15), &[bytes(5)]).unwrap(), "nothing more is taken after a failure");
    assert!(matches!(writer.flush(), Err(SinkError::Poisoned)));
}

#[test]
fn preparing_again_leaves_the_open_segment_durable() {
    let disk = MemoryDisk::default();
    let mut writer = archive(&disk);
    writer.write(Lsn::new(MIB), &[bytes(10)]).unwrap();
    let stamp = ClusterStamp { system_identifier: SystemIdentifier::new(1), segment_size: size() };
    let listed = writer.prepare(stamp).unwrap();
    assert!(listed.contains(&DiskEntry { name: "000000010000000000000001.partial".into(), len: Some(10) }));
    assert!(disk.steps.borrow().iter().any(|step| step.starts_with("sync 0")));
}

#[test]
fn wal_that_does_not_check_is_neither_written_nor_acknowledged() {
    let stamp = ClusterStamp { system_identifier: SystemIdentifier::new(7), segment_size: size() };
    let mut wal = WalBuilder::new(stamp.system_identifier, size(), ONE, Lsn::new(MIB));
    for _ in 0..100 {
        wal.record(&[1; 200]);
    }
    let good_len = wal.bytes().len();
    let damaged_lsn = wal.record(&[2; 300]);
    wal.record(&[3; 300]);
    let mut bytes = wal.bytes().to_vec();
    bytes[good_len + 100] ^= 1;
    let (good, bad) = bytes.split_at(good_len);

    let disk = MemoryDisk::default();
    let name = "000000010000000000000001.partial";
    let open =
        || SegmentWriter::open(disk.clone(), Layout::Archive).unwrap().with_record_check(RecordCheck::On);
    let mut writer = open();
    assert!(writer.begin(ONE, size(), Lsn::new(MIB)).is_err(), "whose WAL it should be is not known yet");
    writer.prepare(stamp).unwrap();
    writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
    writer.write(Lsn::new(MIB), &[Bytes::copy_from_slice(good)]).unwrap();
    assert_eq!(writer.flush().unwrap().lsn(), Lsn::new(MIB + good_len as u64));
    let result = writer.write(Lsn::new(MIB + good_len as u64), &[Bytes::copy_from_slice(bad)]);
    let error = result.unwrap_err();
    assert!(matches!(&error, SinkError::InvalidWal(error) if error.lsn == damaged_lsn), "{error:?}");
    assert_eq!(error.class(), crate::ErrorClass::Integrity);
    assert!(matches!(writer.flush(), Err(SinkError::Poisoned)));
    drop(writer);
    assert_eq!(disk.read(name).unwrap(), good);
    // the next stream begins with the segment again, and so does the check
    let mut writer = open();
    writer.prepare(stamp).unwrap();
    for _ in 0..2 {
        writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
        writer.write(Lsn::new(MIB), &[Bytes::copy_from_slice(wal.bytes())]).unwrap();
    }
    assert_eq!(writer.flush().unwrap().lsn(), wal.end_lsn());
}

/// A directory that needs nothing more is told of as durable too, and what lies there may be somebody's copy.
#[test]
fn what_was_there_is_made_durable_without_a_stream() {
    let disk = MemoryDisk::default();
    let mut writer = archive(&disk);
    writer.settle().unwrap();
    writer.settle().unwrap();
    assert_eq!(*disk.steps.borrow(), ["sync_earlier", "sync_directory"]);
}
