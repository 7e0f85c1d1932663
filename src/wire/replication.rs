//! What travels inside CopyBoth while WAL is streamed.
//!
//! PostgreSQL's manual, "Streaming Replication Protocol", names the messages; `walsender.c` writes and reads them.

use bytes::{BufMut, Bytes, BytesMut};

use super::reader::{MalformedMessage, Reader};
use crate::pg::Lsn;

/// The most WAL that one message can carry, in bytes: `MAX_SEND_SIZE`, 16 blocks of the largest block size.
pub const MAX_WAL_DATA_LEN: usize = 16 * 32768;

/// Where the WAL begins in the payload of a message that carries some, in bytes.
pub const WAL_DATA_AT: usize = 1 + 8 + 8 + 8;

/// A point in time as the protocol writes it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PgTimestamp(pub i64);

impl PgTimestamp {
    /// Seconds from the Unix epoch to PostgreSQL's.
    const EPOCH_OFFSET_SECS: i64 = 946_684_800;

    /// The wall clock's time; times out of range are moved to the range's end.
    pub fn from_system_time(time: std::time::SystemTime) -> Self {
        let micros = match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        };
        PgTimestamp(micros.saturating_sub(Self::EPOCH_OFFSET_SECS * 1_000_000))
    }

    /// Microseconds from `earlier` until this; negative when it is later.
    pub fn micros_since(self, earlier: PgTimestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A message from the primary while it streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationMessage {
    /// A piece of the write-ahead log.
    WalData(WalData),
    /// A sign of life.
    PrimaryKeepalive(PrimaryKeepalive),
    /// The answer to a primary status request (19).
    PrimaryStatus(PrimaryStatus),
}

/// A piece of the write-ahead log (PostgreSQL called it XLogData up to 18).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalData {
    /// Where the bytes belong.
    pub start_lsn: Lsn,
    /// How far the primary could send at this moment: its flush position.
    pub wal_end_lsn: Lsn,
    /// The primary's clock.
    pub sent_at: PgTimestamp,
    /// The bytes; never none.
    pub data: Bytes,
}

impl WalData {
    /// The first byte after this piece.
    pub fn end_lsn(&self) -> Lsn {
        // parse() refused data that would go past the limit
        self.start_lsn + self.data.len() as u64
    }
}

/// A sign of life, and perhaps a request to show one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrimaryKeepalive {
    /// How far the primary has sent.
    pub wal_end_lsn: Lsn,
    /// The primary's clock.
    pub sent_at: PgTimestamp,
    /// Whether the primary wants a status update at once.
    pub reply_requested: bool,
}

/// The answer to a primary status request (19).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrimaryStatus {
    /// The primary's write position.
    pub lsn: Lsn,
    /// The oldest transaction that is committing.
    pub oldest_xid_in_commit: u64,
    /// The next transaction that will be assigned.
    pub next_xid: u64,
    /// The primary's clock.
    pub sent_at: PgTimestamp,
}

/// Why a message inside CopyBoth cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplicationMessageError {
    /// Fields missing or left over.
    #[error(transparent)]
    Malformed(#[from] MalformedMessage),
    /// A type that no supported version sends.
    #[error("unexpected replication message of type {:?}", char::from(*.0))]
    UnknownType(u8),
    /// No WAL, or more than a server ever sends, or beyond [`Lsn::LIMIT`].
    #[error("WAL data at {start_lsn} has an invalid length of {len}")]
    WalLength {
        /// Where it would have begun.
        start_lsn: Lsn,
        /// Its length in bytes.
        len: usize,
    },
}

impl ReplicationMessage {
    /// When the primary sent it, by its own clock.
    pub fn sent_at(&self) -> PgTimestamp {
        match self {
            ReplicationMessage::WalData(wal) => wal.sent_at,
            ReplicationMessage::PrimaryKeepalive(keepalive) => keepalive.sent_at,
            ReplicationMessage::PrimaryStatus(status) => status.sent_at,
        }
    }

    /// Reads the payload of one CopyData message. The WAL itself is not copied.
    pub fn parse(payload: Bytes) -> Result<Self, ReplicationMessageError> {
        let mut reader = Reader::new(payload);
        match reader.u8()? {
            b'w' => {
                let start_lsn = Lsn::new(reader.u64()?);
                let wal_end_lsn = Lsn::new(reader.u64()?);
                let sent_at = PgTimestamp(reader.i64()?);
                let data = reader.take_rest();
                let end_lsn = start_lsn.checked_add(data.len() as u64);
                let fits = end_lsn.is_some_and(|end_lsn| end_lsn <= Lsn::LIMIT);
                if data.is_empty() || data.len() > MAX_WAL_DATA_LEN || !fits {
                    return Err(ReplicationMessageError::WalLength { start_lsn, len: data.len() });
                }
                Ok(Self::WalData(WalData { start_lsn, wal_end_lsn, sent_at, data }))
            }
            b'k' => {
                let wal_end_lsn = Lsn::new(reader.u64()?);
                let sent_at = PgTimestamp(reader.i64()?);
                let reply_requested = reader.u8()? != 0;
                reader.finish()?;
                Ok(Self::PrimaryKeepalive(PrimaryKeepalive { wal_end_lsn, sent_at, reply_requested }))
            }
            b's' => {
                let lsn = Lsn::new(reader.u64()?);
                let oldest_xid_in_commit = reader.u64()?;
                let next_xid = reader.u64()?;
                let sent_at = PgTimestamp(reader.i64()?);
                reader.finish()?;
                Ok(Self::PrimaryStatus(PrimaryStatus { lsn, oldest_xid_in_commit, next_xid, sent_at }))
            }
            tag => Err(ReplicationMessageError::UnknownType(tag)),
        }
    }
}

/// What the receiver tells the primary. Each position is the first byte *not* covered;
/// [`Lsn::INVALID`] says nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyStatusUpdate {
    /// Received: what `remote_write` waits for.
    pub write_lsn: Lsn,
    /// Durable: what `on` waits for. The primary moves the slot's `restart_lsn` here.
    pub flush_lsn: Lsn,
    /// Applied, or durable in an archive: what `remote_apply` waits for.
    pub apply_lsn: Lsn,
    /// The receiver's clock.
    pub sent_at: PgTimestamp,
    /// Whether the primary shall answer with a keepalive at once.
    pub reply_requested: bool,
}

impl StandbyStatusUpdate {
    /// The payload's length in bytes.
    pub const LEN: usize = 34;

    /// Appends the payload of the CopyData message.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(b'r');
        out.put_u64(self.write_lsn.as_u64());
        out.put_u64(self.flush_lsn.as_u64());
        out.put_u64(self.apply_lsn.as_u64());
        out.put_i64(self.sent_at.0);
        out.put_u8(u8::from(self.reply_requested));
    }
}

/// What a standby's queries still need; all zero switches it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HotStandbyFeedback {
    /// The receiver's clock.
    pub sent_at: PgTimestamp,
    /// The oldest transaction that queries need, and its epoch.
    pub xmin: (u32, u32),
    /// The oldest transaction that catalog lookups need, and its epoch.
    pub catalog_xmin: (u32, u32),
}

impl HotStandbyFeedback {
    /// Appends the payload of the CopyData message.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(b'h');
        out.put_i64(self.sent_at.0);
        for (xid, epoch) in [self.xmin, self.catalog_xmin] {
            out.put_u32(xid);
            out.put_u32(epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wal_data(start: u64, data: &[u8]) -> Bytes {
        let mut payload = BytesMut::new();
        payload.put_u8(b'w');
        payload.put_u64(start);
        payload.put_u64(99);
        payload.put_i64(-1);
        payload.put_slice(data);
        payload.freeze()
    }

    #[test]
    fn reads_wal_and_keepalives() {
        let message = ReplicationMessage::parse(wal_data(0x0100_0000, b"wal")).unwrap();
        let ReplicationMessage::WalData(wal) = message else { panic!("{message:?}") };
        assert_eq!(wal.end_lsn(), Lsn::new(0x0100_0003));
        let message =
            ReplicationMessage::parse(Bytes::from_static(b"k\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\x01"))
                .unwrap();
        let ReplicationMessage::PrimaryKeepalive(keepalive) = message else { panic!("{message:?}") };
        assert!(keepalive.reply_requested);
        assert_eq!(keepalive.wal_end_lsn, Lsn::new(7));
    }

    #[test]
    fn refuses_wal_of_impossible_length() {
        for payload in [
            wal_data(5, b""),
            wal_data(u64::MAX, b"x"),
            wal_data(0xFFFF_FFFF_FF00_0000, b"x"),
            wal_data(5, &[0; MAX_WAL_DATA_LEN + 1]),
        ] {
            let error = ReplicationMessage::parse(payload).unwrap_err();
            assert!(matches!(error, ReplicationMessageError::WalLength { .. }), "{error:?}");
        }
    }

    #[test]
    fn timestamps_count_from_the_year_2000() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(946_684_801);
        assert_eq!(PgTimestamp::from_system_time(time), PgTimestamp(1_000_000));
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ReplicationMessage::parse(Bytes::from(payload));
        }
    }
}
