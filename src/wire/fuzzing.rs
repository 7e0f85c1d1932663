//! Bodies of the fuzz targets; `tests/corpus.rs` replays the committed corpus through them.

use bytes::{Bytes, BytesMut};

use super::auth::{Authenticator, Channel, ChannelBindingMode, Progress, RequireAuth};
use super::backend::{AuthenticationRequest, BackendMessage};
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

/// A server that authenticates us as it likes: the first byte chooses our policy, frames follow.
///
/// SCRAM is never completed by chance, so "done" after it began, or under `channel_binding=require`, is a bug.
pub fn fuzz_authentication(data: &[u8]) {
    let Some((&policy, messages)) = data.split_first() else { return };
    let binding = match policy & 3 {
        0 => ChannelBindingMode::Disable,
        1 => ChannelBindingMode::Require,
        _ => ChannelBindingMode::Prefer,
    };
    let channel = match policy >> 2 & 3 {
        0 => Channel::Plain,
        1 => Channel::Tls { end_point: None },
        _ => Channel::Tls { end_point: Some(vec![policy; 32]) },
    };
    let requirements = ["", "scram-sha-256", "!password", "none", "md5,scram-sha-256"];
    let requirement = requirements[usize::from(policy >> 4) % requirements.len()];
    let require_auth = RequireAuth::parse(requirement).unwrap_or_default();
    let mut authenticator =
        Authenticator::new("user", Some("password".to_owned()), channel, binding, require_auth.clone());
    let (mut decoder, mut out) = (FrameDecoder::new(), BytesMut::new());
    decoder.buffer_mut().extend_from_slice(messages);
    let (mut scram_begun, mut password_sent) = (false, false);
    while let Ok(Some(frame)) = decoder.next_frame() {
        let Ok(BackendMessage::Authentication(request)) = BackendMessage::parse(frame) else { return };
        let Ok(progress) = authenticator.handle_request(&request, &mut out) else { return };
        scram_begun |= matches!(request, AuthenticationRequest::Sasl { .. });
        password_sent |= !out.is_empty();
        if progress == Progress::Done {
            assert!(!scram_begun && binding != ChannelBindingMode::Require);
            assert!(password_sent || !require_auth.is_required());
            return;
        }
    }
}
