//! Bodies of the fuzz targets; `tests/corpus.rs` replays the committed corpus through them.

use bytes::Bytes;

use super::backend::BackendMessage;
use super::frame::FrameDecoder;
use super::replication::ReplicationMessage;

/// Frames and messages: no input panics, and cutting it in two changes nothing.
pub fn fuzz_backend(data: &[u8]) {
    let decode = |pieces: &[&[u8]]| {
        let mut decoder = FrameDecoder::new();
        let mut seen = Vec::new();
        for piece in pieces {
            decoder.buffer_mut().extend_from_slice(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => seen.push(format!("{:?}", BackendMessage::parse(frame))),
                    Ok(None) => break,
                    Err(error) => {
                        seen.push(error.to_string());
                        return seen;
                    }
                }
            }
        }
        seen
    };
    let (front, back) = data.split_at(data.len() / 2);
    assert_eq!(decode(&[data]), decode(&[front, back]));
}

/// The payload of one CopyData message inside CopyBoth.
pub fn fuzz_replication_message(data: &[u8]) {
    if let Ok(ReplicationMessage::WalData(wal)) = ReplicationMessage::parse(Bytes::copy_from_slice(data)) {
        assert_eq!(wal.end_lsn() - wal.start_lsn, wal.data.len() as u64);
    }
}
