//! The command line of `pg_receivewal`: every option, in the order that the original looks at it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::pg_tool::compression::CompressionSpec;
use crate::cli::pg_tool::connection::{ConnectionOptions, PasswordPrompt};
use crate::cli::pg_tool::getopt::{LongOption, ShortOption, Value, long, short};
use crate::cli::pg_tool::values::{parse_status_interval, refuse_operands};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::pg::Lsn;

/// What was asked for.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) connection: ConnectionOptions,
    pub(super) job: Job,
    pub(super) compression: CompressionSpec,
    pub(super) verbose: bool,
}

/// What to do.
#[derive(Debug)]
pub(super) enum Job {
    CreateSlot { slot: String, when_it_exists: WhenItExists },
    DropSlot { slot: String },
    Receive(Receive),
}

/// What `--create-slot` does when there is such a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenItExists {
    Fail,
    Succeed,
}

/// How to receive.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) directory: PathBuf,
    pub(super) slot: Option<String>,
    pub(super) endpos: Option<Lsn>,
    pub(super) durability: Durability,
    pub(super) status_interval: Duration,
    pub(super) when_lost: WhenLost,
}

/// How much is synced, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// `--no-sync`.
    None,
    /// Each segment, and what the server asks for.
    Segments,
    /// `--synchronous`: all, at once.
    Synchronous,
}

/// What to do when the connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenLost {
    Reconnect,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Directory,
    Dbname,
    Endpos,
    Host,
    Port,
    Username,
    NoLoop,
    NoPassword,
    Password,
    StatusInterval,
    Slot,
    Verbose,
    Compress,
    CreateSlot,
    DropSlot,
    IfNotExists,
    Synchronous,
    NoSync,
    HelpOrVersion,
}

const SHORT: [ShortOption<Key>; 13] = [
    short(b'd', Value::Required, Key::Dbname),
    short(b'D', Value::Required, Key::Directory),
    short(b'E', Value::Required, Key::Endpos),
    short(b'h', Value::Required, Key::Host),
    short(b'n', Value::None, Key::NoLoop),
    short(b'p', Value::Required, Key::Port),
    short(b's', Value::Required, Key::StatusInterval),
    short(b'S', Value::Required, Key::Slot),
    short(b'U', Value::Required, Key::Username),
    short(b'v', Value::None, Key::Verbose),
    short(b'w', Value::None, Key::NoPassword),
    short(b'W', Value::None, Key::Password),
    short(b'Z', Value::Required, Key::Compress),
];

/// In the original's order, which shows where a prefix is ambiguous.
const LONG: [LongOption<Key>; 20] = [
    long("help", Value::None, Key::HelpOrVersion),
    long("version", Value::None, Key::HelpOrVersion),
    long("directory", Value::Required, Key::Directory),
    long("dbname", Value::Required, Key::Dbname),
    long("endpos", Value::Required, Key::Endpos),
    long("host", Value::Required, Key::Host),
    long("port", Value::Required, Key::Port),
    long("username", Value::Required, Key::Username),
    long("no-loop", Value::None, Key::NoLoop),
    long("no-password", Value::None, Key::NoPassword),
    long("password", Value::None, Key::Password),
    long("status-interval", Value::Required, Key::StatusInterval),
    long("slot", Value::Required, Key::Slot),
    long("verbose", Value::None, Key::Verbose),
    long("compress", Value::Required, Key::Compress),
    long("create-slot", Value::None, Key::CreateSlot),
    long("drop-slot", Value::None, Key::DropSlot),
    long("if-not-exists", Value::None, Key::IfNotExists),
    long("synchronous", Value::None, Key::Synchronous),
    long("no-sync", Value::None, Key::NoSync),
];

/// As they were given, before it is known whether they go together.
#[derive(Debug, Default)]
struct Given {
    connection: ConnectionOptions,
    directory: Option<OsString>,
    endpos: Option<Lsn>,
    slot: Option<String>,
    compress: String,
    status_interval: Option<u64>,
    no_loop: bool,
    verbose: bool,
    create_slot: bool,
    drop_slot: bool,
    if_not_exists: bool,
    synchronous: bool,
    no_sync: bool,
}

impl Options {
    /// Reads the command line; what is wrong with it is said.
    pub(super) fn parse(tool: &Invocation) -> Result<Self, Failed> {
        let mut given = Given::default();
        let operands = tool.options(&SHORT, &LONG, |key, value| given.take(tool, key, value))?;
        refuse_operands(tool, &operands)?;
        given.put_together(tool)
    }
}

impl Given {
    fn take(&mut self, tool: &Invocation, key: Key, value: OsString) -> Result<(), Failed> {
        let text = value.to_string_lossy().into_owned();
        match key {
            Key::Directory => self.directory = Some(value),
            Key::Dbname => self.connection.dbname = Some(value),
            Key::Endpos => {
                let endpos = parse_endpos(&text);
                self.endpos = Some(
                    endpos.ok_or_else(|| tool.error(format!("could not parse end position \"{text}\"")))?,
                );
            }
            Key::Host => self.connection.host = Some(value),
            Key::Port => self.connection.port = Some(value),
            Key::Username => self.connection.user = Some(value),
            Key::NoLoop => self.no_loop = true,
            Key::NoPassword => self.connection.prompt = PasswordPrompt::Never,
            Key::Password => self.connection.prompt = PasswordPrompt::Always,
            Key::StatusInterval => self.status_interval = Some(parse_status_interval(tool, &text)?),
            Key::Slot => self.slot = Some(text),
            Key::Verbose => self.verbose = true,
            Key::Compress => self.compress = text,
            Key::CreateSlot => self.create_slot = true,
            Key::DropSlot => self.drop_slot = true,
            Key::IfNotExists => self.if_not_exists = true,
            Key::Synchronous => self.synchronous = true,
            Key::NoSync => self.no_sync = true,
            // known, so that it can be abbreviated, and only of use as the first argument
            Key::HelpOrVersion => return Err(tool.hint_help()),
        }
        Ok(())
    }

    fn put_together(self, tool: &Invocation) -> Result<Options, Failed> {
        if self.drop_slot && self.create_slot {
            return Err(tool.usage_error("cannot use --create-slot together with --drop-slot"));
        }
        if self.slot.is_none() && (self.drop_slot || self.create_slot) {
            let action = if self.drop_slot { "--drop-slot" } else { "--create-slot" };
            return Err(tool.usage_error(format!("{action} needs a slot to be specified using --slot")));
        }
        if self.synchronous && self.no_sync {
            return Err(tool.usage_error("cannot use --synchronous together with --no-sync"));
        }
        if self.directory.is_none() && !self.drop_slot && !self.create_slot {
            return Err(tool.usage_error("no target directory specified"));
        }
        let compression = CompressionSpec::parse(&self.compress).map_err(|error| tool.error(error))?;
        let job = match (self.slot, self.directory) {
            (Some(slot), _) if self.drop_slot => Job::DropSlot { slot },
            (Some(slot), _) if self.create_slot => {
                let when_it_exists =
                    if self.if_not_exists { WhenItExists::Succeed } else { WhenItExists::Fail };
                Job::CreateSlot { slot, when_it_exists }
            }
            (slot, directory) => Job::Receive(Receive {
                directory: directory.unwrap_or_default().into(),
                slot,
                endpos: self.endpos.filter(|lsn| lsn.is_valid()),
                durability: match (self.synchronous, self.no_sync) {
                    (true, _) => Durability::Synchronous,
                    (_, true) => Durability::None,
                    _ => Durability::Segments,
                },
                status_interval: Duration::from_secs(self.status_interval.unwrap_or(10)),
                when_lost: if self.no_loop { WhenLost::Fail } else { WhenLost::Reconnect },
            }),
        };
        Ok(Options { connection: self.connection, job, compression, verbose: self.verbose })
    }
}

/// C's `sscanf("%X/%X")`: what comes behind is passed over, up to PostgreSQL 19.
fn parse_endpos(text: &str) -> Option<Lsn> {
    let (high, low) = text.split_once('/')?;
    let half = |text: &str| {
        let text = text.trim_start();
        let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
        let value = u64::from_str_radix(&text[..end], 16).ok()?;
        Some((value, end == text.len()))
    };
    let ((high, true), (low, _)) = (half(high)?, half(low)?) else { return None };
    (high <= u32::MAX.into() && low <= u32::MAX.into()).then(|| Lsn::new(high << 32 | low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_c_reads_them() {
        let lsn = |text: &str| parse_endpos(text).map(Lsn::as_u64);
        assert_eq!(lsn("1/2"), Some(1 << 32 | 2));
        assert_eq!(lsn(" 0x1/0xFfrest"), Some(1 << 32 | 0xff));
        for wrong in ["", "1", "1/", "/1", "x/1", "1 /1"] {
            assert_eq!(lsn(wrong), None, "{wrong}");
        }
    }
}
