use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::super::disk::{DiskFile, OpenMode};
use super::super::{Layout, RealDisk, RealFile};
use super::shared::QUICK_SYNC;
use super::*;
use crate::pg::SystemIdentifier;

fn stamp() -> ClusterStamp {
    let segment_size = WalSegmentSize::from_bytes(1 << 20).unwrap();
    ClusterStamp { system_identifier: SystemIdentifier::new(1), segment_size }
}

#[tokio::test]
async fn what_is_pushed_becomes_durable_and_is_published() {
    let directory = tempfile::tempdir().unwrap();
    let writer = SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
    let mut sink = SinkThread::spawn(writer, SinkLimits { queued_bytes: 10 }).unwrap();
    sink.prepare(stamp()).await.unwrap();
    sink.begin(TimelineId::FIRST, stamp().segment_size, Lsn::new(1 << 20)).await.unwrap();
    sink.push(SinkCommand::Write { lsn: Lsn::new(1 << 20), data: Bytes::from(vec![7; 1 << 20]) });
    sink.push(SinkCommand::Seal);
    loop {
        match sink.event().await.unwrap() {
            SinkEvent::Flushed(flushed) if flushed.lsn() == Lsn::new(2 << 20) => break,
            _ => {}
        }
    }
    assert!(sink.has_room());
    let names: Vec<String> = sink.prepare(stamp()).await.unwrap().into_iter().map(|e| e.name).collect();
    assert!(names.contains(&"000000010000000000000001".to_owned()), "{names:?}");
}

/// The driver asks whether there is room, and waits for an event when there is none: in between, room may be made.
#[tokio::test]
async fn room_that_is_made_at_once_is_told_of_too() {
    let directory = tempfile::tempdir().unwrap();
    let writer = SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
    let mut sink = SinkThread::spawn(writer, SinkLimits { queued_bytes: 10 }).unwrap();
    sink.prepare(stamp()).await.unwrap();
    let start = 1 << 20;
    sink.begin(TimelineId::FIRST, stamp().segment_size, Lsn::new(start)).await.unwrap();
    let shared = Arc::clone(&sink.shared);
    for number in 0..2000 {
        let held = shared.writer();
        sink.push(SinkCommand::Write { lsn: Lsn::new(start + number * 20), data: Bytes::from(vec![7; 20]) });
        sink.written_lsn();
        assert!(!sink.has_room(), "what cannot be written yet waits");
        drop(held);
        if number % 2 == 0 {
            while !shared.lock().jobs.is_empty() {
                std::thread::yield_now();
            }
        }
        let event = tokio::time::timeout(std::time::Duration::from_secs(20), sink.event());
        let event = event.await.expect("room is told of").unwrap();
        assert!(matches!(event, SinkEvent::Room), "{event:?}");
        while shared.lock().working {
            std::thread::yield_now();
        }
        sink.written_lsn();
    }
}

#[tokio::test]
async fn a_stream_that_ends_where_the_last_one_did_is_published_too() {
    let directory = tempfile::tempdir().unwrap();
    let writer = SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
    let mut sink = SinkThread::spawn(writer, SinkLimits::default()).unwrap();
    sink.prepare(stamp()).await.unwrap();
    let (start, end) = (Lsn::new(1 << 20), Lsn::new((1 << 20) + 9));
    for _ in 0..2 {
        sink.begin(TimelineId::FIRST, stamp().segment_size, start).await.unwrap();
        sink.push(SinkCommand::Write { lsn: start, data: Bytes::from_static(b"the same.") });
        sink.push(SinkCommand::Flush);
        loop {
            let event = tokio::time::timeout(std::time::Duration::from_secs(20), sink.event());
            match event.await.expect("the position is published").unwrap() {
                SinkEvent::Written => assert_eq!(sink.written_lsn(), end),
                event => {
                    let published = matches!(event, SinkEvent::Flushed(flushed) if flushed.lsn() == end);
                    assert!(published, "{event:?}");
                    break;
                }
            }
        }
    }
}

/// Runs `task` as `pgwake receive` is run.
fn handing_over<F>(task: impl FnOnce(Handover) -> F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handover = Handover::default();
    crate::handover::block_on(&runtime, &handover, task(handover.clone())).unwrap()
}

fn sink_in(directory: &std::path::Path, handover: Handover) -> SinkThread<RealDisk> {
    let writer = SegmentWriter::open(RealDisk::new(directory), Layout::Archive).unwrap();
    SinkThread::spawn(writer, SinkLimits::default()).unwrap().with_handover(Some(handover))
}

/// Whoever syncs, all is published, the segments' ends too.
#[test]
fn what_the_tasks_own_thread_syncs_is_published() {
    let directory = tempfile::tempdir().unwrap();
    handing_over(async |handover| {
        let mut sink = sink_in(directory.path(), handover);
        sink.prepare(stamp()).await.unwrap();
        let start = Lsn::new(1 << 20);
        sink.begin(TimelineId::FIRST, stamp().segment_size, start).await.unwrap();
        let mut lsn = start;
        for turn in 0..300_u64 {
            let rest = stamp().segment_size.segment_at(lsn).end_lsn() - lsn;
            let len = (turn % 7 * 3000 + 1).min(rest);
            sink.push(SinkCommand::Write { lsn, data: Bytes::from(vec![7; len as usize]) });
            lsn = lsn + len;
            sink.push(if len == rest { SinkCommand::Seal } else { SinkCommand::Flush });
            while sink.seen.is_none_or(|flushed| flushed.lsn() < lsn) {
                sink.event().await.unwrap();
            }
        }
        sink.settle().await.unwrap();
        assert!(lsn > Lsn::new(3 << 20));
        drop(sink);
        // work that was left somewhere holds nothing back
        SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
    });
}

#[test]
fn a_sync_that_was_left_is_done_when_the_sink_goes() {
    let directory = tempfile::tempdir().unwrap();
    handing_over(async |handover| {
        let mut sink = sink_in(directory.path(), handover);
        sink.prepare(stamp()).await.unwrap();
        let start = Lsn::new(1 << 20);
        sink.begin(TimelineId::FIRST, stamp().segment_size, start).await.unwrap();
        sink.push(SinkCommand::Write { lsn: start, data: Bytes::from_static(b"WAL") });
        sink.push(SinkCommand::Flush);
        let shared = Arc::clone(&sink.shared);
        drop(sink);
        assert_eq!(shared.lock().flushed.map(FlushedLsn::lsn), Some(start + 3));
    });
}

#[test]
fn a_failure_on_the_tasks_own_thread_ends_the_sink() {
    let directory = tempfile::tempdir().unwrap();
    handing_over(async |handover| {
        let mut sink = sink_in(directory.path(), handover);
        sink.push(SinkCommand::Flush);
        assert!(matches!(sink.event().await, Err(SinkError::OutOfOrder { .. })));
        assert!(matches!(sink.event().await, Err(SinkError::ThreadEnded)));
        assert!(matches!(sink.prepare(stamp()).await, Err(SinkError::ThreadEnded)));
    });
}

#[tokio::test]
async fn an_error_ends_the_thread_and_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let writer = SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
    let mut sink = SinkThread::spawn(writer, SinkLimits::default()).unwrap();
    sink.push(SinkCommand::Flush);
    assert!(matches!(sink.event().await, Err(SinkError::OutOfOrder { .. })));
    assert!(matches!(sink.event().await, Err(SinkError::ThreadEnded)));
    assert!(matches!(sink.prepare(stamp()).await, Err(SinkError::ThreadEnded)));
}

/// A disk of the operating system whose syncs take their time, now and then a long one.
struct SlowDisk(RealDisk, Arc<Trouble>);

#[derive(Clone)]
struct SlowFile(RealFile, Arc<Trouble>);

/// What else such a disk may be up to.
#[derive(Default)]
struct Trouble {
    is_full: AtomicBool,
    holds_syncs: AtomicBool,
    /// One is held.
    is_syncing: AtomicBool,
    always_slow: AtomicBool,
    syncing: AtomicUsize,
    /// How many there were at a time.
    most_syncing: AtomicUsize,
    writes: AtomicUsize,
}

impl DiskFile for SlowFile {
    fn sync_data(&self) -> std::io::Result<()> {
        while self.1.holds_syncs.load(Ordering::SeqCst) {
            self.1.is_syncing.store(true, Ordering::SeqCst);
            std::thread::yield_now();
        }
        let took = [0, 0, 0, 0, 0, 0, 0, 300, 3_000, 12_000];
        let slow = if self.1.always_slow.load(Ordering::SeqCst) { &took[8..] } else { &took[..] };
        let syncing = self.1.syncing.fetch_add(1, Ordering::SeqCst) + 1;
        self.1.most_syncing.fetch_max(syncing, Ordering::SeqCst);
        std::thread::sleep(Duration::from_micros(slow[fastrand::usize(..slow.len())]));
        self.1.syncing.fetch_sub(1, Ordering::SeqCst);
        self.0.sync_data()
    }

    fn open_again(&self) -> std::io::Result<Self> {
        Ok(SlowFile(self.0.open_again()?, Arc::clone(&self.1)))
    }

    fn fill_from(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.fill_from(offset, buffer)
    }
}

impl Disk for SlowDisk {
    type File = SlowFile;

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path(name)
    }

    fn list(&mut self) -> std::io::Result<Vec<String>> {
        self.0.list()
    }

    fn len_of(&mut self, name: &str) -> std::io::Result<u64> {
        self.0.len_of(name)
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> std::io::Result<SlowFile> {
        Ok(SlowFile(self.0.open(name, mode)?, Arc::clone(&self.1)))
    }

    fn make_ready(&mut self, len: u64) {
        self.0.make_ready(len);
    }

    fn take_ready(&mut self, name: &str, len: u64) -> std::io::Result<Option<SlowFile>> {
        Ok(self.0.take_ready(name, len)?.map(|file| SlowFile(file, Arc::clone(&self.1))))
    }

    fn len(&mut self, file: &SlowFile) -> std::io::Result<u64> {
        self.0.len(&file.0)
    }

    fn set_len(&mut self, file: &mut SlowFile, len: u64) -> std::io::Result<()> {
        self.0.set_len(&mut file.0, len)
    }

    fn write_at(&mut self, file: &mut SlowFile, offset: u64, chunks: &[Bytes]) -> std::io::Result<()> {
        if self.1.is_full.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.1.writes.fetch_add(1, Ordering::SeqCst);
        self.0.write_at(&mut file.0, offset, chunks)
    }

    fn rename(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }

    fn sync_directory(&mut self, name: &str) -> std::io::Result<()> {
        self.0.sync_directory(name)
    }

    fn lock(&mut self, name: &str) -> std::io::Result<Option<SlowFile>> {
        Ok(self.0.lock(name)?.map(|file| SlowFile(file, Arc::clone(&self.1))))
    }
}

fn slow_disk(directory: &std::path::Path) -> SlowDisk {
    SlowDisk(RealDisk::new(directory), Arc::default())
}

/// A stream that has begun, and where.
async fn begun_on_slow_disk(directory: &std::path::Path) -> (SinkThread<SlowDisk>, Arc<Trouble>, Lsn) {
    let disk = slow_disk(directory);
    let trouble = Arc::clone(&disk.1);
    let writer = SegmentWriter::open(disk, Layout::Archive).unwrap();
    let mut sink = SinkThread::spawn(writer, SinkLimits::default()).unwrap();
    sink.prepare(stamp()).await.unwrap();
    let start = Lsn::new(1 << 20);
    sink.begin(TimelineId::FIRST, stamp().segment_size, start).await.unwrap();
    (sink, trouble, start)
}

/// A disk that is full is waited for, which one that failed for another reason is not: so the reason must come through, also
/// where a sync under way ends first and finds the writer of no use any more.
#[tokio::test]
async fn a_disk_that_is_full_while_it_syncs_is_told_to_be_full() {
    let directory = tempfile::tempdir().unwrap();
    let (mut sink, trouble, start) = begun_on_slow_disk(directory.path()).await;
    let write =
        |number: u64| SinkCommand::Write { lsn: start + 3 * number, data: Bytes::from_static(b"WAL") };
    sink.push(write(0));
    sink.push(SinkCommand::Flush);
    while !matches!(sink.event().await.unwrap(), SinkEvent::Flushed(_)) {}
    trouble.holds_syncs.store(true, Ordering::SeqCst);
    sink.push(write(1));
    sink.push(SinkCommand::Flush);
    while !trouble.is_syncing.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    trouble.is_full.store(true, Ordering::SeqCst);
    sink.push(write(2));
    sink.written_lsn();
    trouble.holds_syncs.store(false, Ordering::SeqCst);
    let error = loop {
        if let Err(error) = sink.event().await {
            break error;
        }
    };
    assert!(error.is_out_of_room(), "{error}");
}

/// What one wake-up brings is one write, and nothing of it is forgotten, whatever comes next.
#[tokio::test]
async fn what_comes_together_is_written_in_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut sink, trouble, start) = begun_on_slow_disk(directory.path()).await;
    let mut pushed = Vec::new();
    let mut push = |sink: &mut SinkThread<SlowDisk>, len: usize| {
        let (lsn, byte) = (start + pushed.len() as u64, 1 + pushed.len() as u8);
        pushed.resize(pushed.len() + len, byte);
        sink.push(SinkCommand::Write { lsn, data: Bytes::from(vec![byte; len]) });
        start + pushed.len() as u64
    };
    push(&mut sink, 3);
    sink.push(SinkCommand::Flush);
    while !matches!(sink.event().await.unwrap(), SinkEvent::Flushed(_)) {}
    let before = trouble.writes.load(Ordering::SeqCst);
    for len in [5, 7] {
        push(&mut sink, len);
    }
    assert_eq!(trouble.writes.load(Ordering::SeqCst), before);
    let end_lsn = push(&mut sink, 11);
    assert_eq!(sink.written_lsn(), end_lsn);
    assert_eq!(trouble.writes.load(Ordering::SeqCst), before + 1);
    // more than is kept; then an end without a question
    push(&mut sink, MAX_AT_ONCE_LEN - 10);
    push(&mut sink, 100);
    push(&mut sink, 13);
    push(&mut sink, 2);
    drop(sink);
    assert_stored(directory.path(), &pushed);
}

/// All that was pushed, and nothing else, is in the files.
#[track_caller]
fn assert_stored(directory: &std::path::Path, expected: &[u8]) {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let segments = names.iter().filter(|path| !path.to_string_lossy().contains("stamp"));
    let stored: Vec<u8> = segments.flat_map(|path| std::fs::read(path).unwrap()).collect();
    assert!(stored.starts_with(expected), "{} bytes of {}", stored.len(), expected.len());
    assert!(stored[expected.len()..].iter().all(|byte| *byte == 0));
}

/// Two threads sync, and two run the task; whoever it is, positions only grow, none is beyond what was written, and all comes
/// to its file.
#[test]
fn a_disk_of_any_speed_gets_all_of_it_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let expected = handing_over(async |handover| {
        let writer = SegmentWriter::open(slow_disk(directory.path()), Layout::Archive).unwrap();
        let sink = SinkThread::spawn(writer, SinkLimits::default()).unwrap();
        let mut sink = sink.with_handover(Some(handover));
        sink.prepare(stamp()).await.unwrap();
        let start = Lsn::new(1 << 20);
        sink.begin(TimelineId::FIRST, stamp().segment_size, start).await.unwrap();
        let (mut lsn, mut flushed_lsn, mut expected) = (start, start, Vec::new());
        while lsn < Lsn::new(6 << 20) {
            let rest = stamp().segment_size.segment_at(lsn).end_lsn() - lsn;
            let len = [1, 300, 8192, 20_000, 150_000][fastrand::usize(..5)].min(rest);
            let data = Bytes::from(vec![fastrand::u8(1..); len as usize]);
            expected.extend_from_slice(&data);
            sink.push(SinkCommand::Write { lsn, data });
            lsn = lsn + len;
            if len == rest {
                sink.push(SinkCommand::Seal);
            }
            if fastrand::u8(..4) > 0 {
                sink.push(SinkCommand::Flush);
            }
            // as the driver does: whatever there is to hear, and sometimes until all is durable
            let patient = fastrand::u8(..3) == 0;
            if patient {
                sink.push(SinkCommand::Flush);
            }
            let patience = Duration::from_micros(if patient { 20_000_000 } else { fastrand::u64(..400) });
            let heard = tokio::time::timeout(patience, async {
                while flushed_lsn < lsn {
                    if let SinkEvent::Flushed(flushed) = sink.event().await.unwrap() {
                        assert!(flushed_lsn <= flushed.lsn() && flushed.lsn() <= lsn);
                        flushed_lsn = flushed.lsn();
                    }
                }
            });
            assert!(heard.await.is_ok() || !patient, "{lsn} never became durable");
        }
        sink.settle().await.unwrap();
        expected
    });
    assert_stored(directory.path(), &expected);
}

/// On a disk that is always slow, several syncs run at a time, in whatever order they end; a hung one holds up no write.
#[test]
fn a_slow_disk_syncs_several_times_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let disk = slow_disk(directory.path());
    let trouble = Arc::clone(&disk.1);
    trouble.always_slow.store(true, Ordering::SeqCst);
    let expected = handing_over(async |handover| {
        let writer = SegmentWriter::open(disk, Layout::Archive).unwrap();
        let sink = SinkThread::spawn(writer, SinkLimits::default()).unwrap();
        let mut sink = sink.with_handover(Some(handover));
        sink.prepare(stamp()).await.unwrap();
        let start = Lsn::new(1 << 20);
        sink.begin(TimelineId::FIRST, stamp().segment_size, start).await.unwrap();
        let (mut lsn, mut flushed_lsn, mut expected) = (start, start, Vec::new());
        let patience = Duration::from_secs(20);
        // so much is known of it, otherwise that is found out after some syncs
        sink.shared.lock().sync_time = 2 * QUICK_SYNC;
        while lsn < Lsn::new(3 << 20) {
            let rest = stamp().segment_size.segment_at(lsn).end_lsn() - lsn;
            let len = [1, 300, 8192, 8192, 8192, 8192, 8192, 150_000][fastrand::usize(..8)].min(rest);
            let data = Bytes::from(vec![fastrand::u8(1..); len as usize]);
            expected.extend_from_slice(&data);
            sink.push(SinkCommand::Write { lsn, data });
            lsn = lsn + len;
            sink.push(if len == rest { SinkCommand::Seal } else { SinkCommand::Flush });
            let heard = async {
                loop {
                    if let SinkEvent::Flushed(flushed) = sink.event().await.unwrap() {
                        assert!(flushed_lsn < flushed.lsn() && flushed.lsn() <= lsn);
                        flushed_lsn = flushed.lsn();
                    }
                }
            };
            // several pushes while one sync runs
            let _ = tokio::time::timeout(Duration::from_millis(1), heard).await;
        }
        sink.settle().await.unwrap();
        let most = trouble.most_syncing.load(Ordering::SeqCst);
        assert!(most > 2, "at the most {most} syncs at a time");
        // whatever is large is not written where it is pushed
        trouble.holds_syncs.store(true, Ordering::SeqCst);
        for len in [10, 10, 200_000, 10] {
            sink.push(SinkCommand::Write { lsn, data: Bytes::from(vec![7; len]) });
            lsn = lsn + len as u64;
            expected.extend_from_slice(&vec![7; len]);
            sink.push(SinkCommand::Flush);
            tokio::time::timeout(patience, async {
                while sink.written_lsn() < lsn {
                    sink.event().await.unwrap();
                }
            })
            .await
            .expect("what is pushed is written while syncs hang");
        }
        trouble.holds_syncs.store(false, Ordering::SeqCst);
        sink.settle().await.unwrap();
        expected
    });
    assert_stored(directory.path(), &expected);
}
