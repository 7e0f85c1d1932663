//! Messages from the server.

use bytes::Bytes;

use super::frame::Frame;
use super::reader::{MalformedMessage, Reader};
use super::server_error::ServerError;

/// A message from the server, outside of what CopyData carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendMessage {
    /// `R`: what the server wants to see before it lets the client in, or that it has.
    Authentication(AuthenticationRequest),
    /// `K`: how to cancel this connection's command.
    BackendKeyData(BackendKey),
    /// `v`: the server knows less than the startup packet asked for.
    NegotiateProtocolVersion(NegotiateProtocolVersion),
    /// `S`: a setting, at the start and whenever it changes.
    ParameterStatus {
        /// The setting's name.
        name: String,
        /// Its value.
        value: String,
    },
    /// `Z`: the server waits for the next command.
    ReadyForQuery,
    /// `T`: the columns of the rows that follow.
    RowDescription(RowDescription),
    /// `D`: a row.
    DataRow(DataRow),
    /// `C`: a command, or a part of a replication command, is done; its tag.
    CommandComplete(String),
    /// `I`: the query string held no command.
    EmptyQueryResponse,
    /// `G`: the server waits for CopyData.
    CopyInResponse,
    /// `H`: CopyData follows.
    CopyOutResponse,
    /// `W`: CopyData flows both ways.
    CopyBothResponse,
    /// `d`: a piece of what is copied.
    CopyData(Bytes),
    /// `c`: the server has no more to copy.
    CopyDone,
    /// `E`: the command, or the connection, failed.
    ErrorResponse(ServerError),
    /// `N`: something worth knowing.
    NoticeResponse(ServerError),
    /// `A`: a NOTIFY from elsewhere; of no interest here.
    NotificationResponse,
    /// `1`: a statement was understood. This one and those below are the extended protocol's.
    ParseComplete,
    /// `2`: its parameters were.
    BindComplete,
    /// `3`: it is closed.
    CloseComplete,
    /// `n`: it answers with no rows.
    NoData,
    /// `s`: it has more rows than were asked for.
    PortalSuspended,
    /// `t`: the types of its parameters.
    ParameterDescription,
}

/// The kinds of `R` message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthenticationRequest {
    /// The server has seen enough.
    Ok,
    /// The password, as it is.
    CleartextPassword,
    /// The password, hashed with the role's name and this salt.
    Md5Password {
        /// Four random bytes.
        salt: [u8; 4],
    },
    /// A SASL exchange by one of these mechanisms.
    Sasl {
        /// Names, in the server's order of preference.
        mechanisms: Vec<String>,
    },
    /// The next challenge of a SASL exchange.
    SaslContinue(Bytes),
    /// The last message of a SASL exchange.
    SaslFinal(Bytes),
    /// A method that pgwake does not speak: Kerberos, GSSAPI, SSPI …
    Unsupported {
        /// `AUTH_REQ_…` in PostgreSQL's `protocol.h`.
        code: u32,
    },
}

/// How to cancel what a connection is doing. The key has four bytes up to protocol 3.0, up to 256 from 3.2.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendKey {
    /// The server process's id.
    pub process_id: u32,
    /// The secret.
    pub secret: Bytes,
}

impl std::fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendKey").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

/// What the server could not grant of the startup packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiateProtocolVersion {
    /// The newest minor version of protocol 3 that the server speaks. Servers from 18 send the whole version
    /// number here (`3 << 16 | minor`); this is the minor part.
    pub newest_minor: u32,
    /// `_pq_.` options that the server does not know.
    pub unrecognized_options: Vec<String>,
}

/// The columns of a result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowDescription {
    /// Names, in order.
    pub columns: Vec<String>,
    /// The object ids of their types.
    pub type_oids: Vec<u32>,
}

/// A row of a result: its values in text format, in the columns' order; `None` is NULL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DataRow {
    /// The values.
    pub values: Vec<Option<Bytes>>,
}

/// The most columns that a result can have (`MaxTupleAttributeNumber`).
const MAX_COLUMNS: i16 = 1664;
/// The most SASL mechanisms read.
const MAX_MECHANISMS: usize = 16;
/// The most unrecognized protocol options read.
const MAX_OPTIONS: u32 = 64;
/// The longest cancel key, in bytes (protocol 3.2).
const MAX_CANCEL_KEY_LEN: usize = 256;

impl BackendMessage {
    /// Reads a frame from the server.
    pub fn parse(frame: Frame) -> Result<Self, BackendMessageError> {
        let tag = frame.tag;
        let malformed = |cause| BackendMessageError::Malformed { tag, cause };
        if tag == b'd' {
            return Ok(Self::CopyData(frame.body));
        }
        if matches!(tag, b'E' | b'N') {
            let error = ServerError::parse(frame.body).map_err(malformed)?;
            return Ok(if tag == b'E' { Self::ErrorResponse(error) } else { Self::NoticeResponse(error) });
        }
        let mut reader = Reader::new(frame.body);
        let message = match tag {
            b'R' => AuthenticationRequest::read(&mut reader).map(Self::Authentication),
            b'K' => BackendKey::read(&mut reader).map(Self::BackendKeyData),
            b'v' => NegotiateProtocolVersion::read(&mut reader).map(Self::NegotiateProtocolVersion),
            b'S' => read_parameter(&mut reader),
            b'Z' => reader.u8().map(|_transaction_status| Self::ReadyForQuery),
            b'T' => RowDescription::read(&mut reader).map(Self::RowDescription),
            b'D' => DataRow::read(&mut reader).map(Self::DataRow),
            b'C' => reader.c_string_lossy().map(Self::CommandComplete),
            b'I' => Ok(Self::EmptyQueryResponse),
            b'G' => read_copy_formats(&mut reader).map(|()| Self::CopyInResponse),
            b'H' => read_copy_formats(&mut reader).map(|()| Self::CopyOutResponse),
            b'W' => read_copy_formats(&mut reader).map(|()| Self::CopyBothResponse),
            b'c' => Ok(Self::CopyDone),
            b'A' => Ok({
                reader.take_rest();
                Self::NotificationResponse
            }),
            b'1' => Ok(Self::ParseComplete),
            b'2' => Ok(Self::BindComplete),
            b'3' => Ok(Self::CloseComplete),
            b'n' => Ok(Self::NoData),
            b's' => Ok(Self::PortalSuspended),
            b't' => read_parameter_types(&mut reader).map(|()| Self::ParameterDescription),
            _ => return Err(BackendMessageError::UnknownType(tag)),
        };
        let message = message.map_err(malformed)?;
        reader.finish().map_err(malformed)?;
        Ok(message)
    }

    /// The message's name in PostgreSQL's manual.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Authentication(_) => "Authentication",
            Self::BackendKeyData(_) => "BackendKeyData",
            Self::NegotiateProtocolVersion(_) => "NegotiateProtocolVersion",
            Self::ParameterStatus { .. } => "ParameterStatus",
            Self::ReadyForQuery => "ReadyForQuery",
            Self::RowDescription(_) => "RowDescription",
            Self::DataRow(_) => "DataRow",
            Self::CommandComplete(_) => "CommandComplete",
            Self::EmptyQueryResponse => "EmptyQueryResponse",
            Self::CopyInResponse => "CopyInResponse",
            Self::CopyOutResponse => "CopyOutResponse",
            Self::CopyBothResponse => "CopyBothResponse",
            Self::CopyData(_) => "CopyData",
            Self::CopyDone => "CopyDone",
            Self::ErrorResponse(_) => "ErrorResponse",
            Self::NoticeResponse(_) => "NoticeResponse",
            Self::NotificationResponse => "NotificationResponse",
            Self::ParseComplete => "ParseComplete",
            Self::BindComplete => "BindComplete",
            Self::CloseComplete => "CloseComplete",
            Self::NoData => "NoData",
            Self::PortalSuspended => "PortalSuspended",
            Self::ParameterDescription => "ParameterDescription",
        }
    }
}

/// Why a frame is not a message from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackendMessageError {
    /// A type that the protocol does not have.
    #[error("unexpected message of type {:?}", char::from(*.0))]
    UnknownType(u8),
    /// A body that does not hold its type's fields.
    #[error("malformed message of type {:?}", char::from(*.tag))]
    Malformed {
        /// The message type.
        tag: u8,
        /// What is wrong with it.
        #[source]
        cause: MalformedMessage,
    },
}

impl AuthenticationRequest {
    fn read(reader: &mut Reader) -> Result<Self, MalformedMessage> {
        Ok(match reader.u32()? {
            0 => Self::Ok,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password { salt: reader.u32()?.to_be_bytes() },
            10 => Self::Sasl { mechanisms: read_mechanisms(reader)? },
            11 => Self::SaslContinue(reader.take_rest()),
            12 => Self::SaslFinal(reader.take_rest()),
            code => {
                reader.take_rest();
                Self::Unsupported { code }
            }
        })
    }
}

fn read_mechanisms(reader: &mut Reader) -> Result<Vec<String>, MalformedMessage> {
    let mut mechanisms = Vec::new();
    loop {
        let mechanism = reader.c_string()?;
        if mechanism.is_empty() {
            return Ok(mechanisms);
        }
        if mechanisms.len() == MAX_MECHANISMS {
            return Err(MalformedMessage::InvalidCount);
        }
        mechanisms.push(mechanism);
    }
}

impl BackendKey {
    fn read(reader: &mut Reader) -> Result<Self, MalformedMessage> {
        let process_id = reader.u32()?;
        let secret = reader.take_rest();
        if !(4..=MAX_CANCEL_KEY_LEN).contains(&secret.len()) {
            return Err(MalformedMessage::InvalidCount);
        }
        Ok(BackendKey { process_id, secret })
    }
}

impl NegotiateProtocolVersion {
    fn read(reader: &mut Reader) -> Result<Self, MalformedMessage> {
        let newest_minor = reader.u32()? & 0xFFFF;
        let count = reader.u32()?;
        if count > MAX_OPTIONS {
            return Err(MalformedMessage::InvalidCount);
        }
        let unrecognized_options = (0..count).map(|_| reader.c_string()).collect::<Result<_, _>>()?;
        Ok(NegotiateProtocolVersion { newest_minor, unrecognized_options })
    }
}

impl RowDescription {
    fn read(reader: &mut Reader) -> Result<Self, MalformedMessage> {
        let mut row = RowDescription::default();
        for _ in 0..read_column_count(reader)? {
            row.columns.push(reader.c_string_lossy()?);
            // table oid, column number
            reader.bytes(4 + 2)?;
            row.type_oids.push(reader.u32()?);
            // type length, type modifier, format
            reader.bytes(2 + 4 + 2)?;
        }
        Ok(row)
    }
}

impl DataRow {
    fn read(reader: &mut Reader) -> Result<Self, MalformedMessage> {
        let values = (0..read_column_count(reader)?)
            .map(|_| match reader.i32()? {
                -1 => Ok(None),
                len => {
                    let len = usize::try_from(len).map_err(|_| MalformedMessage::InvalidCount)?;
                    Ok(Some(reader.bytes(len)?))
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(DataRow { values })
    }

    /// The value of a column as text; `None` when it is NULL, missing or not UTF-8.
    pub fn text(&self, column: usize) -> Option<&str> {
        std::str::from_utf8(self.values.get(column)?.as_ref()?).ok()
    }
}

fn read_column_count(reader: &mut Reader) -> Result<i16, MalformedMessage> {
    let count = reader.i16()?;
    if (0..=MAX_COLUMNS).contains(&count) { Ok(count) } else { Err(MalformedMessage::InvalidCount) }
}

fn read_parameter(reader: &mut Reader) -> Result<BackendMessage, MalformedMessage> {
    let name = reader.c_string()?;
    let value = reader.c_string_lossy()?;
    Ok(BackendMessage::ParameterStatus { name, value })
}

fn read_parameter_types(reader: &mut Reader) -> Result<(), MalformedMessage> {
    for _ in 0..read_column_count(reader)? {
        reader.u32()?;
    }
    Ok(())
}

/// The overall format and one for each column. Replication copies bytes whatever they say.
fn read_copy_formats(reader: &mut Reader) -> Result<(), MalformedMessage> {
    reader.u8()?;
    for _ in 0..read_column_count(reader)? {
        reader.i16()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(tag: u8, body: &'static [u8]) -> Result<BackendMessage, BackendMessageError> {
        BackendMessage::parse(Frame { tag, body: Bytes::from_static(body) })
    }

    #[test]
    fn reads_the_rows_of_identify_system() {
        let body = b"\0\x01systemid\0\0\0\0\0\0\0\0\0\0\x19\xFF\xFF\xFF\xFF\xFF\xFF\0\0";
        let row = RowDescription { columns: vec!["systemid".to_owned()], type_oids: vec![25] };
        assert_eq!(parse(b'T', body), Ok(BackendMessage::RowDescription(row)));
        let Ok(BackendMessage::DataRow(row)) = parse(b'D', b"\0\x02\0\0\0\x0242\xFF\xFF\xFF\xFF") else {
            panic!()
        };
        assert_eq!((row.text(0), row.text(1), row.text(2)), (Some("42"), None, None));
    }

    #[test]
    fn takes_cancel_keys_of_any_length_the_protocol_allows() {
        for (len, taken) in [(3, false), (4, true), (32, true), (256, true), (257, false)] {
            let body = Bytes::from(vec![1; 4 + len]);
            assert_eq!(BackendMessage::parse(Frame { tag: b'K', body }).is_ok(), taken, "{len}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let message = parse(b'K', b"\0\0\0\x01secret").unwrap();
        assert!(!format!("{message:?}").contains("115"), "{message:?}");
    }

    #[test]
    fn refuses_what_is_not_the_protocol() {
        for (tag, body) in [
            (b'D', &b"\0\x01\xFF\xFF\xFF\xFE"[..]),
            (b'D', b"\0\x01\0\0\0\x02x"),
            (b'D', b"\xFF\xFF"),
            (b'T', b"\x7F\xFF"),
            (b'R', b"\0\0"),
            (b'R', b"\0\0\0\0x"),
            (b'R', b"\0\0\0\x0ASCRAM"),
            (b'Z', b"Ix"),
            (b'S', b"name\0value"),
            (b'1', b"x"),
            (b't', b"\0\x01\0\0"),
            (b'?', b""),
        ] {
            assert!(parse(tag, body).is_err(), "{:?} {body:?}", char::from(tag));
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(tag: u8, body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = BackendMessage::parse(Frame { tag, body: Bytes::from(body) });
        }
    }
}
