//! Messages to the server, over `postgres-protocol`'s encoders.
//!
//! The encoders fail only for strings with a zero byte in them and for bodies above two gigabytes. What could hold
//! a zero byte is checked where it comes from; the rest is [`EncodeError`].

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;

use super::replication::StandbyStatusUpdate;

/// A message that the protocol cannot carry: a string with a zero byte in it, or one that is too long.
#[derive(Debug, thiserror::Error)]
#[error("could not encode a message to the server")]
pub struct EncodeError(#[from] std::io::Error);

/// A simple Query.
pub fn query(text: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
    Ok(frontend::query(text, out)?)
}

/// A status update inside CopyBoth.
pub fn standby_status_update(update: &StandbyStatusUpdate, out: &mut BytesMut) {
    out.put_u8(b'd');
    out.put_u32(4 + StandbyStatusUpdate::LEN as u32);
    update.encode(out);
}

/// A piece of what is copied to the server, as CopyData.
pub fn copy_data(data: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    frontend::CopyData::new(data)?.write(out);
    Ok(())
}

/// The end of what is copied.
pub fn copy_done(out: &mut BytesMut) {
    frontend::copy_done(out);
}

/// An orderly farewell.
pub fn terminate(out: &mut BytesMut) {
    frontend::terminate(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;
    use crate::wire::replication::PgTimestamp;

    #[test]
    fn a_status_update_is_a_copy_data_message_of_34_bytes() {
        let update = StandbyStatusUpdate {
            write_lsn: Lsn::new(3),
            flush_lsn: Lsn::new(2),
            apply_lsn: Lsn::INVALID,
            sent_at: PgTimestamp(-1),
            reply_requested: true,
        };
        let mut out = BytesMut::new();
        standby_status_update(&update, &mut out);
        let expected = b"d\0\0\0\x26r\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01";
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn zero_bytes_cannot_cut_a_query_short() {
        assert!(query("SELECT 1\0DROP", &mut BytesMut::new()).is_err());
    }
}
