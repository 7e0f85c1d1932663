//! Bodies of the fuzz targets; `tests/corpus.rs` replays the committed corpus through them.

use super::{ControlFile, Lsn, TimelineHistory, TimelineId, WalFileName, WalSegmentSize};

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
