//! Bodies of the fuzz targets; `tests/corpus.rs` replays the committed corpus through them.

use super::wal_page::{LONG_PAGE_HEADER_LEN, WalSegmentHeader};
use super::{
    ControlFile, Lsn, TimelineHistory, TimelineId, WalChecker, WalEvent, WalFileName, WalScanner,
    WalSegmentSize,
};

/// A timeline history: no input panics, and what is understood is in order.
pub fn fuzz_timeline_history(data: &[u8]) {
    let Some(timeline) = TimelineId::new(u32::MAX) else { return };
    let Ok(history) = TimelineHistory::parse(timeline, data) else { return };
    for pair in history.ancestors().windows(2) {
        assert!(pair[0].timeline < pair[1].timeline && pair[0].end_lsn <= pair[1].end_lsn);
    }
    for entry in history.ancestors() {
        assert_eq!(history.switch_point(entry.timeline), Some(entry.end_lsn));
        assert!(history.successor_of(entry.timeline).is_some_and(|next| next > entry.timeline));
    }
    // the same words as one line of other parsers
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(lsn) = text.parse::<Lsn>() {
            assert_eq!(lsn.to_string().parse::<Lsn>(), Ok(lsn));
        }
        if let Ok(name) = WalFileName::parse(text, WalSegmentSize::DEFAULT) {
            assert_eq!(name.to_string(), text);
        }
    }
}

/// A control file: no input panics.
pub fn fuzz_control_file(data: &[u8]) {
    let _ = ControlFile::parse(data);
}

/// WAL: no input panics, and the verdict does not depend on how the bytes are cut.
///
/// # Panics
/// When it does.
pub fn fuzz_wal(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    let Some(header) = data.first_chunk::<LONG_PAGE_HEADER_LEN>() else { return };
    // the header's own word for what is expected, so that an input gets past it
    let system_identifier = WalSegmentHeader::parse(header).system_identifier;
    let segment_size = WalSegmentSize::from_bytes(1 << 20).expect("1 MB is a segment size");
    let position = u64::from_le_bytes([0, 0, header[10], header[11], header[12], 0, 0, 0]);
    let start_lsn = segment_size.segment_at(Lsn::new(position)).start_lsn();
    let timeline = TimelineId::new(u32::from(header[4])).unwrap_or(TimelineId::FIRST);
    let mut whole = WalChecker::new(system_identifier, segment_size, timeline, start_lsn);
    let verdict = whole.push(start_lsn, data);
    let mut pieces = WalChecker::new(system_identifier, segment_size, timeline, start_lsn);
    let mut lsn = start_lsn;
    let mut pieces_verdict = Ok(());
    for piece in data.chunks(usize::from(*cut) * 37 + 1) {
        pieces_verdict = pieces_verdict.and_then(|()| pieces.push(lsn, piece));
        lsn = lsn + piece.len() as u64;
    }
    assert_eq!(verdict, pieces_verdict);
    assert_eq!(whole.checked_lsn(), pieces.checked_lsn());
    assert!(whole.checked_lsn() <= lsn);
    // what a server can be told to stop at is found wherever a segment is cut
    let mut scanner = WalScanner::new(segment_size);
    for (index, segment) in data.chunks(1 << 20).enumerate() {
        scanner.push(start_lsn + ((index as u64) << 20), segment, |event| match event {
            WalEvent::Commit { lsn, .. } => assert!(lsn >= start_lsn),
            WalEvent::RestorePoint { lsn, name, .. } => assert!(lsn >= start_lsn && name.len() <= 64),
        });
    }
}
