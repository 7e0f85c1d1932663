use proptest::prelude::*;

use super::*;
use crate::pg::wal_builder::WalBuilder;

const SEGMENT_LEN: u64 = 1 << 20;
const SYSTEM: SystemIdentifier = SystemIdentifier::new(7_710_876_330_348_008_478);

fn segment_size() -> WalSegmentSize {
    WalSegmentSize::from_bytes(SEGMENT_LEN).unwrap()
}

fn start_lsn() -> Lsn {
    Lsn::new(3 * SEGMENT_LEN)
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn builder() -> WalBuilder {
    WalBuilder::new(SYSTEM, segment_size(), timeline(1), start_lsn())
}

fn checker() -> WalChecker {
    WalChecker::new(SYSTEM, segment_size(), timeline(1), start_lsn())
}

/// All at once.
fn check(bytes: &[u8]) -> Result<Lsn, WalError> {
    let mut checker = checker();
    checker.push(start_lsn(), bytes).map(|()| checker.checked_lsn())
}

/// All there is to WAL: short and long records, headers across pages, full pages, a switch, a broken-off record.
fn varied() -> WalBuilder {
    varied_with(|builder| builder.broken_off_record(&vec![2; 30_000], 9_000))
}

fn varied_with(extra: impl Fn(&mut WalBuilder)) -> WalBuilder {
    let mut builder = builder();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..40 {
        for _ in 0..20 {
            let body: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
            builder.record(&body);
        }
        match round % 8 {
            1 => {
                builder.record(&vec![1; 30_000]);
            }
            3 => builder.fill_page(),
            5 => extra(&mut builder),
            _ => {}
        }
    }
    builder.switch();
    builder.record(b"after the switch");
    builder
}

#[test]
fn takes_what_servers_write() {
    let wal = varied();
    assert_eq!(check(wal.bytes()), Ok(wal.end_lsn()));
    for format in WalFormat::ALL {
        let mut wal = builder().with_format(format);
        wal.broken_off_record(&vec![2; 30_000], 9_000);
        wal.record(b"next");
        assert_eq!(check(wal.bytes()), Ok(wal.end_lsn()), "{:04X}", format.magic);
    }
}

#[test]
fn headers_may_lie_across_pages_and_segments() {
    // a record's first 8 or 16 bytes on one page, the others on the next
    for room in [8, 16, 24] {
        for page_end in [8192, SEGMENT_LEN as usize] {
            let mut wal = builder();
            wal.record(&[]);
            while page_end - (wal.bytes().len() % page_end) > 20_000 {
                wal.record(&[5; 5000]);
            }
            let to_page_end = |wal: &WalBuilder| page_end - wal.bytes().len() % page_end;
            while to_page_end(&wal) > 8192 {
                wal.record(&[5; 100]);
            }
            wal.record(&vec![5; to_page_end(&wal) - 24 - room]);
            assert_eq!(to_page_end(&wal), room);
            let record = wal.record(&[6; 100]);
            wal.record(b"next");
            assert_eq!(check(wal.bytes()), Ok(wal.end_lsn()), "{room} bytes of {record}");
        }
    }
}

#[test]
fn a_stream_may_begin_in_a_record() {
    let mut wal = builder();
    wal.record(&vec![1; 2 * SEGMENT_LEN as usize]);
    wal.record(b"next");
    let second = start_lsn() + SEGMENT_LEN;
    let bytes = &wal.bytes()[SEGMENT_LEN as usize..];
    let mut checker = WalChecker::new(SYSTEM, segment_size(), timeline(1), second);
    checker.push(second, bytes).unwrap();
    assert_eq!(checker.checked_lsn(), wal.end_lsn());
    // and the rest must be as long as each page says
    let mut damaged = bytes.to_vec();
    damaged[8192 + 16] ^= 1;
    let mut checker = WalChecker::new(SYSTEM, segment_size(), timeline(1), second);
    let error = checker.push(second, &damaged).unwrap_err();
    assert_eq!(error.lsn, second + 8192);
    assert!(matches!(error.kind, WalErrorKind::ContinuationLen { .. }), "{error}");
}

#[test]
fn a_stream_may_end_and_begin_where_a_record_was_broken_off() {
    let mut wal = builder();
    while wal.bytes().len() < SEGMENT_LEN as usize - 9000 {
        wal.record(&[4; 500]);
    }
    wal.broken_off_record(&vec![1; 40_000], 9_000);
    wal.record(b"next");
    assert_eq!(check(wal.bytes()), Ok(wal.end_lsn()));
    let second = start_lsn() + SEGMENT_LEN;
    let mut checker = WalChecker::new(SYSTEM, segment_size(), timeline(1), second);
    checker.push(second, &wal.bytes()[SEGMENT_LEN as usize..]).unwrap();
    assert_eq!(checker.checked_lsn(), wal.end_lsn());
}

#[test]
fn a_timeline_may_change_at_a_page_but_not_back() {
    let mut wal = builder();
    wal.set_timeline(timeline(2));
    let later = WalChecker::new(SYSTEM, segment_size(), timeline(3), start_lsn());
    for _ in 0..50 {
        wal.record(&[1; 1000]);
    }
    let switch_lsn = wal.end_lsn();
    wal.set_timeline(timeline(3));
    for _ in 0..50 {
        wal.record(&[1; 1000]);
    }
    assert_eq!(later.clone().push(start_lsn(), wal.bytes()), Ok(()));
    let history = |switch_lsn: Lsn| {
        let text = format!("1\t0/1000\tx\n2\t{switch_lsn}\tx\n");
        TimelineHistory::parse(timeline(3), text.as_bytes()).unwrap()
    };
    let told = |switch_lsn| later.clone().with_history(history(switch_lsn)).push(start_lsn(), wal.bytes());
    assert_eq!(told(switch_lsn), Ok(()));
    let error = told(start_lsn() + 8192).unwrap_err();
    assert_eq!(error.kind, WalErrorKind::PageTimeline { found: 2, expected: 3 });
    let mut earlier = WalChecker::new(SYSTEM, segment_size(), timeline(2), start_lsn());
    let error = earlier.push(start_lsn(), wal.bytes()).unwrap_err();
    assert!(matches!(error.kind, WalErrorKind::PageTimeline { found: 3, .. }), "{error}");
    wal.set_timeline(timeline(2));
    wal.record(&[1; 10_000]);
    let error = later.clone().push(start_lsn(), wal.bytes()).unwrap_err();
    assert_eq!(error.kind, WalErrorKind::TimelineBack { found: 2, previous: 3 });
}

#[test]
fn names_what_is_wrong_and_where() {
    let mut wal = builder();
    wal.record(b"first");
    let lsn = wal.record(&[7; 100]);
    let at = (lsn - start_lsn()) as usize;
    wal.switch();
    let damaged = |offset: usize, byte: u8| {
        let mut bytes = wal.bytes().to_vec();
        bytes[offset] = byte;
        check(&bytes).unwrap_err()
    };
    let error = damaged(at + 50, 0);
    assert_eq!(error.lsn, lsn);
    assert!(matches!(error.kind, WalErrorKind::Checksum { .. }));
    assert_eq!(damaged(at, 3).kind, WalErrorKind::RecordTooShort { found: 3 });
    assert!(matches!(damaged(at + 3, 0x70).kind, WalErrorKind::RecordTooLong { .. }));
    assert!(matches!(damaged(at + 8, 1).kind, WalErrorKind::PreviousLink { .. }));
    assert!(matches!(damaged(24, 1).kind, WalErrorKind::SystemIdentifier { .. }));
    assert!(matches!(damaged(34, 1).kind, WalErrorKind::SegmentLen { .. }));
    assert!(matches!(damaged(37, 0x21).kind, WalErrorKind::PageLen { found: 0x2100 }));
    let error = damaged(500_003, 1);
    assert_eq!((error.lsn, error.kind), (start_lsn() + 500_003, WalErrorKind::AfterSwitch));
    let end = start_lsn() + 8192;
    let cut = check(&wal.bytes()[..500]).unwrap();
    assert!(cut > lsn && cut < end);
    // zeros, as where a server has not written yet
    let mut unfinished = builder();
    unfinished.record(b"first");
    let mut bytes = unfinished.bytes().to_vec();
    bytes.resize(20_000, 0);
    let error = check(&bytes).unwrap_err();
    assert_eq!((error.lsn, error.kind), (unfinished.end_lsn(), WalErrorKind::RecordTooShort { found: 0 }));
}

#[test]
fn pages_must_continue_what_is_unfinished_and_nothing_else() {
    let mut wal = builder();
    wal.record(&[1; 10_000]);
    wal.fill_page();
    wal.record(b"on a page of its own");
    let damaged = |offset: usize, byte: u8| {
        let mut bytes = wal.bytes().to_vec();
        bytes[offset] = byte;
        check(&bytes).unwrap_err().kind
    };
    assert_eq!(damaged(8192 + 2, 0), WalErrorKind::NotContinued);
    assert!(matches!(damaged(8192 + 16, 0), WalErrorKind::ContinuationLen { .. }));
    assert_eq!(damaged(2 * 8192 + 2, 1), WalErrorKind::UnexpectedContinuation);
    assert_eq!(damaged(2 * 8192 + 2, 4), WalErrorKind::BreakOff);
    // breaking off without the record that says so
    assert_eq!(damaged(8192 + 2, 5), WalErrorKind::BreakOff);
    assert!(check(wal.bytes()).is_ok());
}

#[test]
fn an_error_stays() {
    let mut checker = checker();
    let error = checker.push(start_lsn(), &[0; 40]).unwrap_err();
    assert_eq!(checker.push(start_lsn() + 40, &[]), Err(error));
    let mut checker = WalChecker::new(SYSTEM, segment_size(), timeline(1), start_lsn());
    let error = checker.push(start_lsn() + 1, &[1]).unwrap_err();
    assert!(matches!(error.kind, WalErrorKind::NotContiguous { .. }));
}

#[test]
fn every_flipped_bit_is_found() {
    // the bytes of a record that was broken off have no checksum
    let wal = varied_with(|builder| {
        builder.record(&vec![2; 40_000]);
    });
    let bytes = &wal.bytes()[..200_000];
    let mut records = vec![false; bytes.len()];
    mark_checked(bytes, &mut records);
    let mut random = fastrand::Rng::with_seed(5);
    let mut tried = 0;
    while tried < 3000 {
        let (offset, bit) = (random.usize(..bytes.len() - 50_000), random.u32(..8));
        if !records[offset] {
            continue;
        }
        tried += 1;
        let mut damaged = bytes.to_vec();
        damaged[offset] ^= 1 << bit;
        assert!(check(&damaged).is_err(), "bit {bit} of byte {offset}");
    }
}

/// Marks what carries something: not the gaps between records, nor unused fields of page headers.
fn mark_checked(bytes: &[u8], marks: &mut [bool]) {
    let mut checker = checker();
    for (offset, mark) in marks.iter_mut().enumerate() {
        let in_gap = matches!(checker.state, State::Padding { .. });
        checker.push(start_lsn() + offset as u64, &bytes[offset..=offset]).unwrap();
        let in_page = offset % 8192;
        let page = &bytes[offset - in_page..];
        let len_unused = in_page >= 16 && page[2] & 1 == 0 && in_page < 20;
        *mark = !in_gap && !len_unused && !(20..24).contains(&in_page);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_split_gives_the_same_verdict(
        cuts in prop::collection::vec(1usize..40_000, 1..60),
        damage in prop::option::of((0usize..300_000, any::<u8>())),
    ) {
        let mut bytes = varied().bytes().to_vec();
        bytes.truncate(300_000);
        if let Some((offset, byte)) = damage {
            bytes[offset] = byte;
        }
        let mut whole = checker();
        let verdict = whole.push(start_lsn(), &bytes);
        let mut split = checker();
        let mut at = 0;
        let mut split_verdict = Ok(());
        for cut in cuts.iter().cycle() {
            let end = bytes.len().min(at + cut % if at % 3 == 0 { 50 } else { 40_000 } + 1);
            split_verdict = split.push(start_lsn() + at as u64, &bytes[at..end]);
            at = end;
            if split_verdict.is_err() || at == bytes.len() {
                break;
            }
        }
        prop_assert_eq!(split_verdict, verdict);
        prop_assert_eq!(split.checked_lsn(), whole.checked_lsn());
    }
}
