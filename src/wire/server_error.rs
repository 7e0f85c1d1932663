//! What the server says when something failed, or is worth knowing.

use std::fmt;

use bytes::Bytes;

use super::reader::{MalformedMessage, Reader};

/// An ErrorResponse or a NoticeResponse.
///
/// Displayed as libpq shows it, `ERROR:  text`, with `DETAIL:` and `HINT:` on lines of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE` …, never translated (`V`), or what stands for it (`S`).
    pub severity: String,
    /// The SQLSTATE, five characters (`C`).
    pub sqlstate: SqlState,
    /// The primary message (`M`), in the server's language.
    pub message: String,
    /// More about the cause (`D`).
    pub detail: Option<String>,
    /// What to do (`H`).
    pub hint: Option<String>,
    /// The function of the server's that says so (`R`): tells apart what has the same SQLSTATE, in every language.
    pub routine: Option<Box<str>>,
}

/// A SQLSTATE: how a program tells one error from another.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// 42710: an object of this name exists.
    pub const DUPLICATE_OBJECT: SqlState = SqlState(*b"42710");
    /// 42704: no object of this name exists (a replication slot, say).
    pub const UNDEFINED_OBJECT: SqlState = SqlState(*b"42704");
    /// 42501: the role may not do this.
    pub const INSUFFICIENT_PRIVILEGE: SqlState = SqlState(*b"42501");
    /// 0A000: the command is not for this, such as `READ_REPLICATION_SLOT` for a logical slot.
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState(*b"0A000");
    /// 42601: the server does not understand the command.
    pub const SYNTAX_ERROR: SqlState = SqlState(*b"42601");
    /// 53300: no connection, or no walsender, is free.
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState(*b"53300");
    /// 53400: a configured limit is reached, such as `max_replication_slots`.
    pub const CONFIGURATION_LIMIT_EXCEEDED: SqlState = SqlState(*b"53400");
    /// 55000: the object is not in the state that this needs, such as an invalidated slot.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: SqlState = SqlState(*b"55000");
    /// 55006: the object is in use.
    pub const OBJECT_IN_USE: SqlState = SqlState(*b"55006");
    /// 58P01: a file is missing, such as a WAL segment that has been removed.
    pub const UNDEFINED_FILE: SqlState = SqlState(*b"58P01");
    /// 28000: `pg_hba.conf` has no line for this connection, or the role may not log in.
    pub const INVALID_AUTHORIZATION: SqlState = SqlState(*b"28000");
    /// 28P01: wrong password.
    pub const INVALID_PASSWORD: SqlState = SqlState(*b"28P01");
    /// 3D000: no database of this name.
    pub const INVALID_CATALOG_NAME: SqlState = SqlState(*b"3D000");
    /// 57P03: the server is starting up, shutting down or in recovery.
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState(*b"57P03");
    /// 57P01: an administrator ended this connection.
    pub const ADMIN_SHUTDOWN: SqlState = SqlState(*b"57P01");
    /// XX001: data on the server does not match its checksum.
    pub const DATA_CORRUPTED: SqlState = SqlState(*b"XX001");

    /// A state from its code; anything but five bytes is no state.
    pub fn new(code: &[u8]) -> Option<Self> {
        code.try_into().ok().map(SqlState)
    }

    /// Whether it may pass by itself: the server is short of something (class 53: memory, disk, connections), or somebody
    /// has interfered (class 57: a command was cancelled, the server is stopped, starts or has crashed).
    pub fn may_pass(self) -> bool {
        matches!(&self.0[..2], b"53" | b"57") && self != SqlState::CONFIGURATION_LIMIT_EXCEEDED
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many fields are read at the most; the protocol names 18.
const MAX_FIELDS: usize = 64;

/// How much is kept of a field's text, in bytes.
const MAX_TEXT_LEN: usize = 8 << 10;

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse. Unknown fields are skipped, as the manual asks.
    ///
    /// The texts are made fit for a terminal: they may come from somebody who has proved nothing yet.
    pub fn parse(body: Bytes) -> Result<Self, MalformedMessage> {
        let mut reader = Reader::new(body);
        let mut error = ServerError::default();
        for _ in 0..MAX_FIELDS {
            match reader.u8()? {
                0 => {
                    reader.finish()?;
                    return Ok(error);
                }
                b'V' => error.severity = read_text(&mut reader)?,
                b'S' if error.severity.is_empty() => error.severity = read_text(&mut reader)?,
                b'C' => error.sqlstate = SqlState::new(&reader.c_string_bytes()?).unwrap_or_default(),
                b'M' => error.message = read_text(&mut reader)?,
                b'D' => error.detail = Some(read_text(&mut reader)?),
                b'H' => error.hint = Some(read_text(&mut reader)?),
                b'R' => error.routine = Some(read_text(&mut reader)?.into()),
                _ => drop(reader.c_string_bytes()?),
            }
        }
        Err(MalformedMessage::InvalidCount)
    }

    /// One of which somebody else has read the fields. The texts are made fit for a terminal here, too.
    pub fn of(
        severity: &str,
        sqlstate: &str,
        message: &str,
        detail: Option<&str>,
        hint: Option<&str>,
    ) -> Self {
        let text = |text: &str| fit_for_a_person(text.as_bytes());
        ServerError {
            severity: text(severity),
            sqlstate: SqlState::new(sqlstate.as_bytes()).unwrap_or_default(),
            message: text(message),
            detail: detail.map(text),
            hint: hint.map(text),
            routine: None,
        }
    }

    /// Whether it is a walsender's that takes no more commands, because its server is being stopped. The SQLSTATE is that of
    /// a slot which was invalidated.
    pub fn is_walsender_stopping(&self) -> bool {
        self.sqlstate == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            && self.routine.as_deref() == Some("exec_replication_command")
    }

    /// Whether the server closes the connection with this error.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

fn read_text(reader: &mut Reader) -> Result<String, MalformedMessage> {
    Ok(fit_for_a_person(&reader.c_string_bytes()?))
}

/// A peer's text as it may be shown.
pub(crate) fn fit_for_a_person(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let short = text.char_indices().take_while(|(at, character)| at + character.len_utf8() <= MAX_TEXT_LEN);
    let fit = |character: char| match character {
        '\n' | '\t' => character,
        _ if character.is_control() => char::REPLACEMENT_CHARACTER,
        _ => character,
    };
    short.map(|(_, character)| fit(character)).collect()
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:  {}", self.severity, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "\nDETAIL:  {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nHINT:  {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_what_a_server_sends() {
        let body = b"SFEHLER\0VERROR\0C42710\0Mreplication slot \"a\" already exists\0DSome detail.\0HDo this.\0Fslot.c\0L1\0\0";
        let error = ServerError::parse(Bytes::from_static(body)).unwrap();
        assert_eq!(error.sqlstate, SqlState::DUPLICATE_OBJECT);
        assert_eq!(
            error.to_string(),
            "ERROR:  replication slot \"a\" already exists\nDETAIL:  Some detail.\nHINT:  Do this."
        );
        assert!(!error.is_fatal());
    }

    #[test]
    fn a_walsender_that_stops_is_told_from_a_slot_that_was_invalidated() {
        let of = |routine: &str, code: &str| {
            let body = format!("SFEHLER\0VERROR\0C{code}\0MText\0Fwalsender.c\0L1\0R{routine}\0\0");
            ServerError::parse(Bytes::from(body)).unwrap().is_walsender_stopping()
        };
        assert!(of("exec_replication_command", "55000"));
        assert!(!of("ReplicationSlotAcquire", "55000"));
        assert!(!of("exec_replication_command", "42601"));
    }

    #[test]
    fn no_text_commands_a_terminal() {
        let body = b"SERROR\x1b[2J\0C42710\0M\x1b]0;owned\x07a\r\tb\x7f\nc\xc2\x9b5n\0D\x08\0H\x1b[1m\0\0";
        let error = ServerError::parse(Bytes::from_static(body)).unwrap();
        assert_eq!(
            error.to_string(),
            "ERROR\u{fffd}[2J:  \u{fffd}]0;owned\u{fffd}a\u{fffd}\tb\u{fffd}\nc\u{fffd}5n\n\
             DETAIL:  \u{fffd}\nHINT:  \u{fffd}[1m"
        );
    }

    #[test]
    fn no_text_is_longer_than_anybody_reads() {
        let body = [b"M", "é".repeat(MAX_TEXT_LEN).as_bytes(), b"x\0\0"].concat();
        let error = ServerError::parse(Bytes::from(body)).unwrap();
        assert_eq!(error.message, "é".repeat(MAX_TEXT_LEN / 2));
    }

    #[test]
    fn what_passes_is_told_from_what_somebody_has_to_mend() {
        for (code, passes) in [
            (b"53200", true),  // out of memory
            (b"53300", true),  // too many connections
            (b"53400", false), // max_replication_slots
            (b"57014", true),  // pg_cancel_backend()
            (b"57P02", true),  // another process has crashed
            (b"57P03", true),
            (b"28P01", false),
            (b"55000", false),
            (b"58P01", false),
            (b"XX000", false),
        ] {
            assert_eq!(SqlState::new(code).unwrap().may_pass(), passes, "{}", code.escape_ascii());
        }
    }

    #[test]
    fn refuses_bodies_without_end() {
        for body in [&b""[..], b"MX", b"MX\0", b"MX\0\0x"] {
            assert!(ServerError::parse(Bytes::from_static(body)).is_err(), "{body:?}");
        }
    }
}
