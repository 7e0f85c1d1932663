//! The functions on the hot path, one by one: `cargo bench --bench decode`.

use std::hint::black_box;

use bytes::{BufMut as _, Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgwake::backup::tar_stream::{TarEvent, TarStream};
use pgwake::pg::wal_builder::WalBuilder;
use pgwake::pg::{Lsn, SystemIdentifier, TimelineId, WalChecker, WalSegmentSize};
use pgwake::wire::backend::BackendMessage;
use pgwake::wire::frame::FrameDecoder;
use pgwake::wire::replication::ReplicationMessage;

/// How a walsender sends: CopyData messages of `payload_len` bytes, `total_len` in all.
fn copy_data(payload: &[u8], total_len: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    while bytes.len() < total_len {
        bytes.put_u8(b'd');
        bytes.put_u32(4 + payload.len() as u32);
        bytes.put_slice(payload);
    }
    bytes.freeze()
}

fn decode_frames(stream: &Bytes, mut each: impl FnMut(Bytes)) {
    let mut decoder = FrameDecoder::new();
    for piece in stream.chunks(128 << 10) {
        decoder.buffer_mut().extend_from_slice(piece);
        while let Ok(Some(frame)) = decoder.next_frame() {
            if let Ok(BackendMessage::CopyData(payload)) = BackendMessage::parse(frame) {
                each(payload);
            }
        }
    }
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire");
    let mut wal = vec![0; 25 + (128 << 10)];
    wal[0] = b'w';
    wal[8] = 1;
    for (name, payload) in [("backup, 32 KiB messages", vec![b'd'; 32 << 10]), ("WAL, 128 KiB messages", wal)]
    {
        let stream = copy_data(&payload, 16 << 20);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                decode_frames(&stream, |payload| {
                    let _ = black_box(ReplicationMessage::parse(payload));
                });
            });
        });
    }
    group.finish();
}

fn archive(member_len: usize, count: usize) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    let content = vec![7; member_len];
    for number in 0..count {
        let mut header = tar::Header::new_ustar();
        header.set_size(member_len as u64);
        header.set_mode(0o600);
        let path = format!("base/1/{number}");
        builder.append_data(&mut header, path, content.as_slice()).expect("a member fits into an archive");
    }
    builder.into_inner().expect("an archive can be ended").into()
}

fn tar_members(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tar");
    for (name, archive) in
        [("files of 8 KiB", archive(8 << 10, 1000)), ("files of 8 MiB", archive(8 << 20, 2))]
    {
        group.throughput(Throughput::Bytes(archive.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut stream = TarStream::new();
                let mut rest = archive.clone();
                while !rest.is_empty() {
                    stream.push(rest.split_to(rest.len().min(32 << 10)));
                    while let Ok(Some(event)) = stream.poll() {
                        if let TarEvent::Data(data) = event {
                            black_box(data.len());
                        }
                    }
                }
            });
        });
    }
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    let data = vec![7; 32 << 10];
    group.throughput(Throughput::Bytes(data.len() as u64));
    for algorithm in [pgwake::backup::ChecksumAlgorithm::Crc32c, pgwake::backup::ChecksumAlgorithm::Sha256] {
        group.bench_function(format!("{algorithm:?}"), |bencher| {
            bencher.iter(|| {
                let mut running = algorithm.start();
                running.update(&data);
                black_box(running.finish())
            });
        });
    }
    group.finish();
}

/// Records as OLTP makes them (mostly 60 to 200 bytes), and as a load with full-page images does.
fn wal_records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("WAL check");
    let (system_identifier, size) = (SystemIdentifier::new(1), WalSegmentSize::DEFAULT);
    let start_lsn = Lsn::new(size.as_u64());
    let timeline = TimelineId::FIRST;
    for (name, body_len, image_every) in
        [("records of 60 to 200 bytes", 36..176, usize::MAX), ("with full-page images", 36..176, 6)]
    {
        let mut random = fastrand::Rng::with_seed(1);
        let mut wal = WalBuilder::new(system_identifier, size, timeline, start_lsn);
        for number in 1.. {
            let image_len = if number % image_every == 0 { 8000 } else { 0 };
            let body: Vec<u8> =
                (0..random.usize(body_len.clone()) + image_len).map(|_| random.u8(..)).collect();
            wal.record(&body);
            if wal.bytes().len() > 15 << 20 {
                break;
            }
        }
        group.throughput(Throughput::Bytes(wal.bytes().len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut checker = WalChecker::new(system_identifier, size, timeline, start_lsn);
                let mut lsn = start_lsn;
                for piece in wal.bytes().chunks(128 << 10) {
                    checker.push(lsn, piece).expect("the WAL is valid");
                    lsn = lsn + piece.len() as u64;
                }
                black_box(checker.checked_lsn())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, frames, tar_members, checksums, wal_records);
criterion_main!(benches);
