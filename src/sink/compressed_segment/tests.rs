use std::io::Write as _;

use super::super::memory_disk::MemoryDisk;
use super::super::unverified_segment::Verification;
use super::super::{ClusterStamp, Layout, RecordCheck};
use super::*;
use crate::pg::wal_builder::WalBuilder;
use crate::pg::{Lsn, SystemIdentifier, WalSegmentSize};

const ONE: TimelineId = TimelineId::FIRST;
const MIB: u64 = 1 << 20;
const NAME: &str = "000000010000000000000001";
const COMPRESSED: [CompressionMethod; 3] =
    [CompressionMethod::Gzip, CompressionMethod::Lz4, CompressionMethod::Zstd];

fn size() -> WalSegmentSize {
    WalSegmentSize::from_bytes(MIB).unwrap()
}

fn stamp() -> ClusterStamp {
    ClusterStamp { system_identifier: SystemIdentifier::new(7), segment_size: size() }
}

/// One segment of records, and a bit of the next.
fn wal() -> Vec<u8> {
    let mut wal = WalBuilder::new(stamp().system_identifier, size(), ONE, Lsn::new(MIB));
    let mut random = fastrand::Rng::with_seed(5);
    while wal.bytes().len() < MIB as usize + 1000 {
        let body: Vec<u8> = (0..random.usize(1..3000)).map(|i| random.u8(..) >> (i % 7)).collect();
        wal.record(&body);
    }
    wal.bytes().to_vec()
}

fn begin(disk: &MemoryDisk, method: CompressionMethod) -> SegmentWriter<MemoryDisk> {
    let writer = SegmentWriter::open(disk.clone(), Layout::Archive).unwrap();
    let writer = writer.with_compression(Compression { method, level: None });
    let mut writer = writer.with_record_check(RecordCheck::On);
    writer.prepare(stamp()).unwrap();
    writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
    writer
}

/// The stream from the segment's start up to `len`, flushed.
fn stream(writer: &mut SegmentWriter<MemoryDisk>, wal: &[u8], len: usize) {
    for (index, piece) in wal[..len].chunks(9_000).enumerate() {
        let lsn = Lsn::new(MIB) + index as u64 * 9_000;
        writer.write(lsn, &[Bytes::copy_from_slice(piece)]).unwrap();
        writer.flush().unwrap();
    }
}

fn content(disk: &MemoryDisk, name: &str, method: CompressionMethod) -> Vec<u8> {
    let file = disk.read(name).unwrap_or_else(|| panic!("{name} is not in {:?}", disk.names()));
    if method == CompressionMethod::None {
        return file;
    }
    let (mut plain, mut piece) = (Vec::new(), [0; 5000]);
    let mut decoder = Decoder::new(method, &file[..]).unwrap();
    while let Ok(len @ 1..) = decoder.read(&mut piece) {
        plain.extend_from_slice(&piece[..len]);
    }
    plain
}

fn wal_names(disk: &MemoryDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.starts_with('0')).collect()
}

#[test]
fn a_segment_is_finished_in_the_format_it_was_begun_in() {
    let wal = wal();
    let all = CompressionMethod::ALL;
    for (first, second) in all.iter().flat_map(|first| all.map(|second| (*first, second))) {
        let disk = MemoryDisk::default();
        stream(&mut begin(&disk, first), &wal, 300_000);
        let mut writer = begin(&disk, second);
        stream(&mut writer, &wal, 90_000);
        let partial = partial_name(NAME, first);
        assert_eq!(wal_names(&disk), [&partial[..]], "{first} to {second}");
        assert!(content(&disk, &partial, first) == wal[..300_000], "{first} to {second}");
        writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
        stream(&mut writer, &wal, MIB as usize);
        seal(&mut writer).unwrap();
        let name = format!("{NAME}{}", first.suffix());
        assert!(content(&disk, &name, first) == wal[..MIB as usize], "{first} to {second}");
        writer.write(Lsn::new(2 * MIB), &[Bytes::copy_from_slice(&wal[MIB as usize..])]).unwrap();
        writer.flush().unwrap();
        assert!(disk.names().contains(&partial_name("000000010000000000000002", second)));
        // a finished one is compared, and left alone
        disk.steps.borrow_mut().clear();
        let mut writer = begin(&disk, second);
        stream(&mut writer, &wal, MIB as usize);
        seal(&mut writer).unwrap();
        assert!(!disk.steps.borrow().iter().any(|step| step.starts_with("write 000000010000000000000001")));
    }
}

#[test]
fn of_several_beginnings_the_one_that_goes_furthest_is_gone_on_with() {
    let wal = wal();
    for furthest in CompressionMethod::ALL {
        let disk = MemoryDisk::default();
        for method in CompressionMethod::ALL {
            let other = MemoryDisk::default();
            let len = if method == furthest { 500_000 } else { 200_000 };
            stream(&mut begin(&other, method), &wal, len);
            let mut file = other.read(&partial_name(NAME, method)).unwrap();
            if method == CompressionMethod::None {
                // as long as the original makes it
                file.resize(MIB as usize, 0);
            }
            disk.put(&partial_name(NAME, method), &file);
        }
        let mut writer = begin(&disk, CompressionMethod::Lz4);
        stream(&mut writer, &wal, 100_000);
        assert_eq!(wal_names(&disk).len(), 4, "none goes before the segment is complete");
        assert!(content(&disk, &partial_name(NAME, furthest), furthest).starts_with(&wal[..500_000]));
        writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
        stream(&mut writer, &wal, MIB as usize);
        seal(&mut writer).unwrap();
        assert_eq!(wal_names(&disk), [format!("{NAME}{}", furthest.suffix())]);
    }
}

#[test]
fn what_a_loss_of_power_tore_is_not_taken_for_another_history() {
    let wal = wal();
    for method in COMPRESSED {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let disk = MemoryDisk::default();
            let mut writer = begin(&disk, method);
            stream(&mut writer, &wal, 100_000);
            let durable_len = disk.read(&partial_name(NAME, method)).unwrap().len();
            writer.write(Lsn::new(MIB) + 100_000, &[Bytes::copy_from_slice(&wal[100_000..400_000])]).unwrap();
            writer.flush().unwrap();
            let mut file = disk.read(&partial_name(NAME, method)).unwrap();
            for sector in file[durable_len..].chunks_mut(512) {
                if random.bool() {
                    sector.fill(0);
                }
            }
            disk.put(&partial_name(NAME, method), &file);
            let mut writer = begin(&disk, method);
            stream(&mut writer, &wal, 1);
            let left = content(&disk, &partial_name(NAME, method), method);
            assert!(left.len() >= 100_000 && wal.starts_with(&left), "{method} {seed}");
            writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
            stream(&mut writer, &wal, MIB as usize);
            seal(&mut writer).unwrap();
        }
    }
}

#[test]
fn other_bytes_of_one_timeline_are_an_error_zeros_too() {
    let wal = wal();
    for method in COMPRESSED {
        for at in [5_000, 99_999] {
            let disk = MemoryDisk::default();
            let mut old = wal.clone();
            old[at] = if old[at] == 0 { 1 } else { 0 };
            let mut writer = begin(&disk, method);
            writer = writer.with_record_check(RecordCheck::Off);
            writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
            stream(&mut writer, &old, 100_000);
            drop(writer);
            let mut writer = begin(&disk, method);
            let error = writer.write(Lsn::new(MIB), &[Bytes::copy_from_slice(&wal[..200_000])]).unwrap_err();
            let place = Lsn::new(MIB) + at as u64;
            assert!(matches!(&error, SinkError::Diverged { lsn, .. } if *lsn == place), "{method} {error}");
        }
    }
}

/// The original reopens its files without cutting them off: here a longer stream lay where a shorter one now ends.
#[test]
fn files_of_the_originals_with_something_stale_behind_them_are_gone_on_with() {
    let wal = wal();
    let gzip = |level, len: usize, is_whole: bool| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        gzip.write_all(&wal[..len]).unwrap();
        gzip.flush().unwrap();
        if is_whole { gzip.finish().unwrap() } else { gzip.get_ref().clone() }
    };
    let lz4 = |len: usize, is_whole: bool| {
        let info = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
        let mut lz4 = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        lz4.write_all(&wal[..len]).unwrap();
        lz4.flush().unwrap();
        if is_whole { lz4.finish().unwrap() } else { lz4.get_ref().clone() }
    };
    let overlaid = |new: &[u8], old: &[u8]| [new, old.get(new.len()..).unwrap_or_default()].concat();
    for (method, file) in [
        (CompressionMethod::Gzip, gzip(6, 400_000, false)),
        (CompressionMethod::Gzip, gzip(6, 400_000, true)),
        (CompressionMethod::Gzip, overlaid(&gzip(9, 400_000, false), &gzip(1, 700_000, false))),
        (CompressionMethod::Gzip, overlaid(&gzip(9, 400_000, true), &gzip(1, 700_000, true))),
        (CompressionMethod::Lz4, lz4(400_000, false)),
        (CompressionMethod::Lz4, lz4(400_000, true)),
        (CompressionMethod::Lz4, overlaid(&lz4(400_000, false), &lz4(700_000, true)[7..])),
        (CompressionMethod::Lz4, overlaid(&lz4(400_000, true), &lz4(700_000, true))),
    ] {
        let disk = MemoryDisk::default();
        disk.put(&partial_name(NAME, method), &file);
        let mut writer = begin(&disk, method);
        stream(&mut writer, &wal, 1);
        let left = content(&disk, &partial_name(NAME, method), method);
        // all but a record that is not whole
        assert!(left.len() > 396_000 && wal.starts_with(&left), "{method} {}", left.len());
        writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
        stream(&mut writer, &wal, MIB as usize);
        seal(&mut writer).unwrap();
        assert!(content(&disk, &format!("{NAME}{}", method.suffix()), method) == wal[..MIB as usize]);
    }
}

/// Completes a segment, and reads it back at once.
fn seal(writer: &mut SegmentWriter<MemoryDisk>) -> Result<(), SinkError> {
    writer.seal()?;
    writer.verify_all()
}

#[test]
fn acknowledgements_do_not_wait_for_reading_back() {
    let wal = wal();
    for method in COMPRESSED {
        let disk = MemoryDisk::default();
        let mut writer = begin(&disk, method);
        stream(&mut writer, &wal, MIB as usize);
        assert_eq!(writer.seal().unwrap().lsn(), Lsn::new(2 * MIB));
        let (first, second) = (NAME, "000000010000000000000002");
        assert_eq!(wal_names(&disk), [partial_name(first, method)], "durable, and not finished");
        writer.write(Lsn::new(2 * MIB), &[Bytes::copy_from_slice(&wal[MIB as usize..])]).unwrap();
        writer.flush().unwrap();
        assert_eq!(wal_names(&disk), [partial_name(first, method), partial_name(second, method)]);
        let mut steps = 1;
        while writer.verify_some().unwrap() == Verification::Pending {
            steps += 1;
        }
        assert!(steps > 2, "{steps} steps");
        let finished = format!("{first}{}", method.suffix());
        assert_eq!(wal_names(&disk), [finished.clone(), partial_name(second, method)]);
        assert!(content(&disk, &finished, method) == wal[..MIB as usize]);
    }
}

#[test]
fn what_cannot_be_read_back_does_not_get_its_final_name() {
    let wal = wal();
    for method in COMPRESSED {
        let disk = MemoryDisk::default();
        let mut writer = begin(&disk, method);
        stream(&mut writer, &wal, MIB as usize);
        let mut file = disk.read(&partial_name(NAME, method)).unwrap();
        let middle = file.len() / 2;
        file[middle] ^= 0x10;
        disk.overwrite(&partial_name(NAME, method), &file);
        assert!(matches!(seal(&mut writer), Err(SinkError::Compression { .. })), "{method}");
        assert!(matches!(writer.flush(), Err(SinkError::Poisoned)));
        assert_eq!(wal_names(&disk), [partial_name(NAME, method)]);
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_not_taken_for_the_end_of_a_file() {
    let wal = wal();
    for method in COMPRESSED {
        let disk = MemoryDisk::default();
        stream(&mut begin(&disk, method), &wal, 300_000);
        let before = disk.read(&partial_name(NAME, method)).unwrap();
        let mut writer = begin(&disk, method);
        *disk.fail.borrow_mut() = Some(("read".into(), io::ErrorKind::Other));
        let error = writer.write(Lsn::new(MIB), &[Bytes::copy_from_slice(&wal[..100])]).unwrap_err();
        assert!(matches!(&error, SinkError::Io { operation: Operation::Read, .. }), "{method} {error}");
        assert!(disk.read(&partial_name(NAME, method)).unwrap() == before, "{method}");
    }
}

#[test]
fn what_was_complete_before_a_crash_gets_its_name_after_it() {
    let wal = wal();
    for method in COMPRESSED {
        let disk = MemoryDisk::default();
        let mut writer = begin(&disk, method);
        stream(&mut writer, &wal, MIB as usize);
        writer.seal().unwrap();
        writer.write(Lsn::new(2 * MIB), &[Bytes::copy_from_slice(&wal[MIB as usize..])]).unwrap();
        writer.flush().unwrap();
        drop(writer);
        let partial = partial_name(NAME, method);
        let next = partial_name("000000010000000000000002", method);
        assert_eq!(
            wal_names(&disk),
            [&partial[..], &next[..]],
            "the crash comes before the segment was read back"
        );
        disk.put(&partial_name(NAME, CompressionMethod::None), b"begun by another tool");
        disk.steps.borrow_mut().clear();

        let mut writer = SegmentWriter::open(disk.clone(), Layout::Archive).unwrap();
        let entries = writer.prepare(stamp()).unwrap();
        let finished = format!("{NAME}{}", method.suffix());
        assert!(entries.iter().any(|entry| entry.name == finished && entry.len == Some(MIB)), "{entries:?}");
        assert_eq!(wal_names(&disk), [&finished[..], &next[..]]);
        assert!(content(&disk, &finished, method) == wal[..MIB as usize]);
        let steps = disk.steps.borrow();
        let at = |wanted: &str| steps.iter().position(|step| step.starts_with(wanted));
        let written = at(&format!("write {partial}")).expect("it is written once more");
        let synced = at(&format!("sync {partial}")).expect("and synced");
        let renamed = at(&format!("rename {partial}")).expect("and renamed");
        assert!(written < synced && synced < renamed, "{steps:?}");
    }
}

#[test]
fn what_is_not_complete_or_not_right_keeps_its_name() {
    let wal = wal();
    for method in COMPRESSED {
        let partial = partial_name(NAME, method);
        // with the format's end, but not a segment long
        let short = MemoryDisk::default();
        let mut writer = begin(&short, method);
        stream(&mut writer, &wal, MIB as usize - 8);
        writer.settle().unwrap();
        // a segment long, but without the format's end, which every flush of LZ4 and Zstandard writes
        let open = MemoryDisk::default();
        let flushed_len = if method == CompressionMethod::Gzip { MIB } else { MIB - 8 };
        stream(&mut begin(&open, method), &wal, flushed_len as usize);
        // complete, but not WAL
        let foreign = MemoryDisk::default();
        let mut writer = SegmentWriter::open(foreign.clone(), Layout::Archive)
            .unwrap()
            .with_compression(Compression { method, level: None });
        writer.prepare(stamp()).unwrap();
        writer.begin(ONE, size(), Lsn::new(MIB)).unwrap();
        stream(&mut writer, &vec![7; MIB as usize], MIB as usize);
        writer.seal().unwrap();
        drop(writer);
        for (disk, what) in [(short, "short"), (open, "without an end"), (foreign, "not WAL")] {
            let writer = SegmentWriter::open(disk.clone(), Layout::Archive).unwrap();
            let mut writer = writer.with_record_check(RecordCheck::On);
            writer.prepare(stamp()).unwrap();
            assert_eq!(wal_names(&disk), [&partial[..]], "{method}, {what}");
        }
    }
}
