use super::*;
use crate::pg::WalSegmentSize;
use crate::sink::memory_disk::MemoryDisk;
use crate::sink::{Layout, SegmentWriter};

const MIB: u64 = 1 << 20;
const START: Lsn = Lsn::new(MIB);

/// A receiver, and a writer that alone can say what is durable.
struct Story {
    receiver: Receiver,
    writer: SegmentWriter<MemoryDisk>,
    elapsed: Duration,
}

impl Story {
    fn new(change: impl FnOnce(&mut ReceiverConfig)) -> Self {
        let segment_size = WalSegmentSize::from_bytes(MIB).unwrap();
        let mut config = ReceiverConfig {
            timeline: TimelineId::FIRST,
            start_lsn: START,
            segment_size,
            flush_floor: Lsn::INVALID,
            status_interval: Duration::from_secs(10),
            receive_timeout: Duration::from_secs(60),
            flush_policy: FlushPolicy::Prompt,
            flush_meaning: FlushMeaning::Durable,
            written_reports: WrittenReports::AtOnce,
        };
        change(&mut config);
        let mut writer = SegmentWriter::open(MemoryDisk::default(), Layout::Archive).unwrap();
        writer.begin(config.timeline, segment_size, config.start_lsn).unwrap();
        let elapsed = Duration::ZERO;
        Story { receiver: Receiver::new(moment(elapsed), config), writer, elapsed }
    }

    /// After the first status update.
    fn started(change: impl FnOnce(&mut ReceiverConfig)) -> Self {
        let mut story = Story::new(change);
        assert!(matches!(story.act()[..], [Action::SendStatus(_)]));
        story
    }

    fn now(&self) -> Moment {
        moment(self.elapsed)
    }

    fn wal(&mut self, start: u64, len: usize) -> Result<(), ReceiverError> {
        let end = start + len as u64;
        self.wal_with_end(start, len, end)
    }

    fn wal_with_end(&mut self, start: u64, len: usize, wal_end: u64) -> Result<(), ReceiverError> {
        let wal = WalData {
            start_lsn: Lsn::new(start),
            wal_end_lsn: Lsn::new(wal_end),
            sent_at: PgTimestamp(0),
            data: Bytes::from(vec![1; len]),
        };
        self.receiver.handle_message(self.now(), ReplicationMessage::WalData(wal))
    }

    fn keepalive(&mut self, wal_end: u64, reply_requested: bool) -> Result<(), ReceiverError> {
        let wal_end_lsn = Lsn::new(wal_end);
        let keepalive = PrimaryKeepalive { wal_end_lsn, sent_at: PgTimestamp(0), reply_requested };
        self.receiver.handle_message(self.now(), ReplicationMessage::PrimaryKeepalive(keepalive))
    }

    /// Lets time pass up to the next timeout, which must be after this many seconds.
    fn wait(&mut self, seconds: u64) -> Result<(), ReceiverError> {
        let at = self.receiver.poll_timeout().expect("a timeout is set");
        assert_eq!(at, self.elapsed + Duration::from_secs(seconds));
        self.elapsed = at;
        self.receiver.handle_timeout(self.now())
    }

    /// Takes all actions and writes, without flushing.
    fn act(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(action) = self.receiver.poll_action() {
            match &action {
                Action::Write { lsn, data } => {
                    self.writer.write(*lsn, std::slice::from_ref(data)).unwrap();
                    self.receiver.handle_written(self.writer.written_lsn());
                }
                Action::Seal => drop(self.writer.seal().unwrap()),
                _ => {}
            }
            actions.push(action);
        }
        actions
    }

    fn flush(&mut self) {
        let flushed = self.writer.flush().unwrap();
        self.receiver.handle_flushed(self.now(), flushed).unwrap();
    }

    /// The write and flush positions of the one status update that is due, and whether it asks for an answer.
    fn status(&mut self) -> (u64, u64, bool) {
        match self.act()[..] {
            [Action::SendStatus(update)] => {
                assert_eq!(update.apply_lsn, Lsn::INVALID);
                (update.write_lsn.as_u64(), update.flush_lsn.as_u64(), update.reply_requested)
            }
            ref actions => panic!("{actions:?}"),
        }
    }
}

fn moment(elapsed: Duration) -> Moment {
    Moment { elapsed, wall_clock: PgTimestamp(0) }
}

#[test]
fn the_first_message_claims_nothing_durable() {
    let mut story = Story::new(|_| {});
    assert_eq!(story.status(), (MIB, 0, false));
    assert_eq!(story.act(), []);
}

#[test]
fn write_is_reported_when_a_batch_came_and_flush_when_it_is_durable() {
    let mut story = Story::started(|_| {});
    story.wal(MIB, 100).unwrap();
    story.wal(MIB + 100, 50).unwrap();
    story.receiver.handle_batch_end(story.now());
    let actions = story.act();
    assert!(
        matches!(&actions[..], [Action::Write { .. }, Action::Write { .. }, Action::Flush,
            Action::SendStatus(update)] if update.write_lsn == START + 150 && !update.flush_lsn.is_valid()),
        "{actions:?}"
    );
    story.flush();
    assert_eq!(story.status(), (MIB + 150, MIB + 150, false));
    story.flush();
    story.receiver.handle_batch_end(story.now());
    assert_eq!(story.act(), [], "nothing new, nothing said");
}

/// A hundred bytes come; what is due of actions beyond those that write and flush them.
fn a_commit(story: &mut Story, start: u64) -> Vec<Action> {
    story.wal(start, 100).unwrap();
    story.receiver.handle_batch_end(story.now());
    let mut actions = story.act();
    assert!(matches!(actions[..2], [Action::Write { .. }, Action::Flush]), "{actions:?}");
    actions.split_off(2)
}

#[test]
fn write_and_flush_are_reported_in_one_if_the_flush_comes_first() {
    let mut story = Story::started(|config| config.written_reports = WrittenReports::WithFlush);
    assert_eq!(a_commit(&mut story, MIB), []);
    story.flush();
    assert_eq!(story.status(), (MIB + 100, MIB + 100, false));
    assert!(!story.receiver.handle_no_flush(), "all is told");
    // more comes while the disk is at work
    assert_eq!(a_commit(&mut story, MIB + 100), []);
    let pending = story.writer.begin_flush().unwrap();
    assert_eq!(a_commit(&mut story, MIB + 200), []);
    let synced = pending.sync();
    let flushed = story.writer.end_flush(pending, synced).unwrap();
    story.receiver.handle_flushed(story.now(), flushed).unwrap();
    assert_eq!(story.status(), (MIB + 300, MIB + 200, false));
    story.flush();
    assert_eq!(story.status(), (MIB + 300, MIB + 300, false));
}

#[test]
fn a_flush_that_takes_long_holds_up_no_report_of_what_was_written() {
    let mut story = Story::started(|config| config.written_reports = WrittenReports::WithFlush);
    assert_eq!(a_commit(&mut story, MIB), []);
    assert!(story.receiver.handle_no_flush());
    assert_eq!(story.status(), (MIB + 100, 0, false));
    assert!(!story.receiver.handle_no_flush(), "once is enough");
    assert_eq!(story.act(), []);
    story.flush();
    assert_eq!(story.status(), (MIB + 100, MIB + 100, false));
}

#[test]
fn below_the_floor_the_write_alone_is_told_when_all_is_durable() {
    let mut story = Story::started(|config| {
        config.written_reports = WrittenReports::WithFlush;
        config.flush_floor = START + 1000;
    });
    assert_eq!(a_commit(&mut story, MIB), []);
    story.flush();
    assert_eq!(story.status(), (MIB + 100, 0, false));
}

#[test]
fn wal_is_cut_where_segments_end() {
    let mut story = Story::started(|_| {});
    story.wal(MIB, MIB as usize - 10).unwrap();
    story.wal(2 * MIB - 10, 30).unwrap();
    let kinds: Vec<(u64, usize)> = story
        .act()
        .iter()
        .filter(|action| !matches!(action, Action::SendStatus(_)))
        .map(|action| match action {
            Action::Write { lsn, data } => (lsn.as_u64(), data.len()),
            Action::Seal => (0, 0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [(MIB, MIB as usize - 10), (2 * MIB - 10, 10), (0, 0), (2 * MIB, 20)]);
}

#[test]
fn no_flush_below_what_was_acknowledged_before() {
    let mut story = Story::started(|config| config.flush_floor = START + 100);
    story.wal(MIB, 60).unwrap();
    story.receiver.handle_batch_end(story.now());
    story.act();
    story.flush();
    assert_eq!(story.act(), []);
    story.keepalive(MIB + 60, true).unwrap();
    assert_eq!(story.status(), (MIB + 60, 0, false));
    story.wal(MIB + 60, 40).unwrap();
    story.receiver.handle_batch_end(story.now());
    story.act();
    story.flush();
    assert_eq!(story.status(), (MIB + 100, MIB + 100, false));
}

#[test]
fn lies_about_positions_end_the_stream() {
    for (start, len, wal_end, expected) in [
        (MIB + 1, 5, MIB + 6, ReceiverError::UnexpectedPosition { expected: START, found: START + 1 }),
        (
            2 * MIB,
            5,
            3 * MIB,
            ReceiverError::UnexpectedPosition { expected: START, found: Lsn::new(2 * MIB) },
        ),
        (0, 5, MIB, ReceiverError::UnexpectedPosition { expected: START, found: Lsn::new(0) }),
        (MIB, 5, MIB + 4, ReceiverError::WalEndBeforeData { end_lsn: START + 5, wal_end_lsn: START + 4 }),
    ] {
        let mut story = Story::started(|_| {});
        assert_eq!(story.wal_with_end(start, len, wal_end), Err(expected));
        assert_eq!(story.act(), []);
        assert_eq!(story.receiver.poll_timeout(), None);
        assert_eq!(story.wal(MIB, 5), Err(ReceiverError::MessageAfterEnd));
    }
    let mut story = Story::started(|_| {});
    let expected = ReceiverError::SentButNotReceived { sent_lsn: START + 1, received_lsn: START };
    assert_eq!(story.keepalive(MIB + 1, true), Err(expected));
    assert_eq!(story.act(), []);
}

#[test]
fn nothing_may_come_after_copy_done() {
    let mut story = Story::started(|_| {});
    story.receiver.handle_server_end(story.now());
    assert_eq!(story.act(), [Action::SendCopyDone]);
    assert_eq!(story.wal(MIB, 1), Err(ReceiverError::MessageAfterEnd));
}

#[test]
fn a_ping_is_answered_at_once_and_moves_the_flush() {
    let mut story = Story::started(|_| {});
    story.wal(MIB, 10).unwrap();
    story.keepalive(MIB + 10, true).unwrap();
    let actions = story.act();
    assert!(matches!(actions[1..], [Action::Flush, Action::SendStatus(_)]), "{actions:?}");
    story.flush();
    assert_eq!(story.status(), (MIB + 10, MIB + 10, false));
    story.keepalive(MIB + 10, true).unwrap();
    assert_eq!(story.status(), (MIB + 10, MIB + 10, false));
}

#[test]
fn pings_that_come_as_fast_as_they_are_answered_are_slowed_down_while_a_flush_runs() {
    let mut story = Story::started(|_| {});
    story.wal(MIB, 10).unwrap();
    story.keepalive(MIB + 10, true).unwrap();
    assert_eq!(story.act().len(), 3);
    for _ in 0..3 {
        story.keepalive(MIB + 10, true).unwrap();
        assert_eq!(story.act(), []);
        story.elapsed = story.receiver.poll_timeout().expect("the answer is due");
        assert_eq!(story.elapsed.as_millis() % PING_ANSWER_INTERVAL.as_millis(), 0);
        story.receiver.handle_timeout(story.now()).unwrap();
        assert_eq!(story.status(), (MIB + 10, 0, false));
    }
    story.keepalive(MIB + 10, true).unwrap();
    story.flush();
    assert_eq!(story.status(), (MIB + 10, MIB + 10, false), "the flush is the answer");
}

/// Answers every ping of a server that shuts down, from `story.elapsed` on, until that says otherwise.
fn shut_down(
    story: &mut Story,
    at_most: Duration,
    mut progress: impl FnMut(&mut Story),
) -> Result<(), ReceiverError> {
    let began = story.elapsed;
    while story.elapsed - began < at_most {
        story.keepalive(story.receiver.positions().received_lsn().as_u64(), true)?;
        progress(story);
        story.elapsed += PING_ANSWER_INTERVAL;
        story.receiver.handle_timeout(story.now()).unwrap();
        story.act();
    }
    Ok(())
}

#[test]
fn a_server_that_shuts_down_does_not_wait_for_a_disk_that_hangs() {
    let hour = Duration::from_secs(3600);
    let mut story = Story::started(|_| {});
    story.wal(MIB, 10).unwrap();
    let error = shut_down(&mut story, hour, |_| {}).unwrap_err();
    let expected = ReceiverError::ShutdownHeldUp {
        flush_lsn: START,
        received_lsn: START + 10,
        after: Duration::from_secs(60),
    };
    assert_eq!(error, expected);
    assert!(
        (Duration::from_secs(60)..Duration::from_secs(61)).contains(&story.elapsed),
        "{:?}",
        story.elapsed
    );
    assert_eq!(story.act(), []);
}

#[test]
fn a_slow_disk_or_a_server_that_only_asks_ends_no_stream() {
    let hour = Duration::from_secs(3600);
    // slow, but it comes along
    let mut story = Story::started(|_| {});
    let mut end = MIB;
    let mut next_at = Duration::ZERO;
    let slow = |story: &mut Story| {
        if story.elapsed >= next_at {
            story.act();
            story.flush();
            story.wal(end, 10).unwrap();
            end += 10;
            next_at = story.elapsed + Duration::from_secs(50);
        }
    };
    shut_down(&mut story, hour, slow).unwrap();
    // a disk that hangs, and a server with the shortest of timeouts
    let mut story = Story::started(|_| {});
    story.wal(MIB, 10).unwrap();
    for _ in 0..1000 {
        story.keepalive(MIB + 10, true).unwrap();
        story.act();
        story.elapsed += Duration::from_millis(700);
        story.receiver.handle_timeout(story.now()).unwrap();
        story.act();
    }
}

#[test]
fn what_nobody_waits_for_is_flushed_on_an_idle_stream_too() {
    for status_interval in [Duration::ZERO, Duration::from_secs(10)] {
        let mut story = Story::started(|config| {
            config.flush_policy = FlushPolicy::Lazy;
            config.status_interval = status_interval;
            config.receive_timeout = Duration::ZERO;
        });
        story.wal(MIB, 10).unwrap();
        story.receiver.handle_batch_end(story.now());
        assert!(!story.act().contains(&Action::Flush));
        story.elapsed = story.receiver.poll_timeout().expect("a flush is due");
        assert_eq!(story.elapsed, LAZY_FLUSH_INTERVAL);
        story.receiver.handle_timeout(story.now()).unwrap();
        assert!(story.act().contains(&Action::Flush));
    }
}

#[test]
fn the_status_interval_bounds_our_silence() {
    let mut story = Story::started(|config| config.receive_timeout = Duration::ZERO);
    for _ in 0..3 {
        story.wait(10).unwrap();
        assert_eq!(story.status(), (MIB, 0, false));
    }
    let mut story = Story::started(|config| {
        config.receive_timeout = Duration::ZERO;
        config.status_interval = Duration::ZERO;
    });
    assert_eq!(story.receiver.poll_timeout(), None);
    story.keepalive(MIB, true).unwrap();
    assert_eq!(story.status(), (MIB, 0, false));
}

#[test]
fn a_silent_server_is_asked_once_and_then_given_up() {
    let mut story = Story::started(|config| config.status_interval = Duration::ZERO);
    story.wait(30).unwrap();
    assert_eq!(story.status(), (MIB, 0, true));
    story.keepalive(MIB, false).unwrap();
    story.wait(30).unwrap();
    assert_eq!(story.status(), (MIB, 0, true));
    assert_eq!(story.wait(30), Err(ReceiverError::Timeout { after: Duration::from_secs(60) }));
}

#[test]
fn silence_does_not_count_while_nobody_listens() {
    let mut story = Story::started(|config| config.status_interval = Duration::ZERO);
    story.receiver.pause_reading(story.now());
    for _ in 0..100 {
        // its pings are not heard, so it hears of us unasked
        story.elapsed += PAUSED_STATUS_INTERVAL;
        assert_eq!(story.receiver.poll_timeout(), Some(story.elapsed));
        story.receiver.handle_timeout(story.now()).unwrap();
        assert_eq!(story.status(), (MIB, 0, false));
    }
    story.receiver.resume_reading(story.now());
    story.wait(30).unwrap();
    assert!(story.status().2);
}

/// How long nothing is read before the stream is broken off, with `progress` every 50 seconds.
fn pause(story: &mut Story, mut progress: impl FnMut(&mut Story)) -> (ReceiverError, Duration) {
    let began = story.elapsed;
    story.receiver.pause_reading(story.now());
    let mut next_at = began + Duration::from_secs(50);
    loop {
        story.elapsed = story.receiver.poll_timeout().expect("an end");
        if let Err(error) = story.receiver.handle_timeout(story.now()) {
            assert_eq!(story.act(), []);
            return (error, story.elapsed - began);
        }
        story.act();
        if story.elapsed >= next_at {
            next_at += Duration::from_secs(50);
            progress(story);
        }
    }
}

/// It may be shutting down, and be waiting for us to say that all is flushed.
#[test]
fn a_server_is_not_left_unread_for_ever() {
    let seconds = Duration::from_secs;
    let mut story = Story::started(|_| {});
    story.wal(MIB, 10).unwrap();
    story.act();
    story.flush();
    let (error, lasted) = pause(&mut story, |_| {});
    assert_eq!(error, ReceiverError::NoRoom { all_durable: true, after: seconds(60) });
    assert_eq!(lasted, seconds(60));
    // a disk that hangs is waited for longer, and one that is only slow as long as it likes
    let mut story = Story::started(|_| {});
    story.wal(MIB, 10).unwrap();
    let (error, lasted) = pause(&mut story, |_| {});
    assert_eq!(error, ReceiverError::NoRoom { all_durable: false, after: seconds(180) });
    assert_eq!(lasted, seconds(180));
    let mut story = Story::started(|_| {});
    story.wal(MIB, 210).unwrap();
    let mut slow = Story::new(|_| {}).writer;
    let mut flushes = (0..20).map(|step| {
        slow.write(START + 10 * step, &[Bytes::from_static(&[1; 10])]).unwrap();
        slow.flush().unwrap()
    });
    let (_, lasted) = pause(&mut story, |story| {
        if let Some(flushed) = flushes.next() {
            story.receiver.handle_flushed(story.now(), flushed).unwrap();
        }
    });
    assert!(lasted >= seconds(20 * 50 + 180), "{lasted:?}");
}

#[test]
fn stopping_waits_until_all_is_durable_and_reported() {
    let mut story = Story::started(|_| {});
    story.wal(MIB, 10).unwrap();
    story.receiver.stop(story.now());
    assert!(matches!(story.act()[..], [Action::Write { .. }, Action::Flush, Action::SendStatus(_)]));
    story.wal(MIB + 10, 10).unwrap();
    assert_eq!(story.act(), [], "what comes after the wish to stop is passed over");
    story.flush();
    let actions = story.act();
    assert!(
        matches!(actions[..], [Action::SendStatus(update), Action::SendCopyDone] if update.flush_lsn == START + 10),
        "{actions:?}"
    );
    assert_eq!(story.receiver.poll_timeout(), None);
}

#[test]
fn a_stop_position_is_exact() {
    let mut story = Story::started(|_| {});
    story.receiver.stop_at(story.now(), START + 15);
    story.wal(MIB, 10).unwrap();
    assert!(!story.receiver.is_stopped_by_us());
    story.wal(MIB + 10, 10).unwrap();
    let actions = story.act();
    assert!(
        matches!(&actions[1..], [Action::Write { data, .. }, Action::Flush, Action::SendStatus(_)] if data.len() == 5)
    );
    story.flush();
    assert!(matches!(story.act()[..], [Action::SendStatus(_), Action::SendCopyDone]));

    // reached already: no further message is needed
    let mut story = Story::started(|_| {});
    story.wal(MIB, 10).unwrap();
    story.act();
    story.receiver.stop_at(story.now(), START + 10);
    assert!(story.receiver.is_stopped_by_us());
    story.flush();
    assert!(matches!(story.act()[..], [Action::Flush, Action::SendStatus(_), Action::SendCopyDone]));
}

#[test]
fn durability_of_what_was_never_received_is_a_bug() {
    let mut story = Story::started(|_| {});
    story.writer.write(START, &[Bytes::from_static(b"x")]).unwrap();
    let flushed = story.writer.flush().unwrap();
    let error = story.receiver.handle_flushed(story.now(), flushed).unwrap_err();
    assert!(matches!(error, ReceiverError::FlushedBeyondReceived { .. }));
    assert_eq!(story.act(), []);
}

#[test]
fn while_catching_up_progress_is_reported_in_steps() {
    let mut story = Story::started(|config| {
        config.segment_size = WalSegmentSize::from_bytes(64 * MIB).unwrap();
        config.start_lsn = Lsn::new(64 * MIB);
    });
    let far = 86 * MIB;
    let mut end = 64 * MIB;
    let mut take = |story: &mut Story, len: u64, wal_end: u64| {
        story.wal_with_end(end, len as usize, wal_end.max(end + len)).unwrap();
        story.receiver.handle_batch_end(story.now());
        end += len;
        let mut others = 0;
        while let Some(action) = story.receiver.poll_action() {
            match action {
                Action::Write { lsn, data } => story.receiver.handle_written(lsn + data.len() as u64),
                _ => others += 1,
            }
        }
        others
    };
    assert_eq!(take(&mut story, MIB, far), 0, "too little to speak of");
    assert_eq!(take(&mut story, CATCH_UP_STEP_LEN - MIB, far), 2, "a flush and a report");
    assert_eq!(take(&mut story, MIB, far), 0);
    story.elapsed += CATCH_UP_STEP_TIME;
    assert_eq!(story.receiver.poll_timeout(), Some(story.elapsed));
    story.receiver.handle_timeout(story.now()).unwrap();
    let actions: Vec<Action> = std::iter::from_fn(|| story.receiver.poll_action()).collect();
    assert!(matches!(&actions[..], [Action::Flush, Action::SendStatus(_)]), "{actions:?}");
    assert_eq!(take(&mut story, MIB, far), 0);
    assert_eq!(take(&mut story, 100, far), 2, "near the end every byte counts");
}
