//! The arguments of `pg_basebackup`, each by itself: what is known, and what was given.

use std::ffi::OsString;

use super::mapping::TablespaceMapping;
use super::rate::parse_max_rate;
use crate::backup::SyncMethod;
use crate::cli::pg_tool::compression::MethodAndDetail;
use crate::cli::pg_tool::connection::{ConnectionOptions, PasswordPrompt};
use crate::cli::pg_tool::getopt::{LongOption, ShortOption, Value, long, short};
use crate::cli::pg_tool::values::{parse_status_interval, refuse_operands};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::wire::command::CheckpointMode;

/// As they were given, before it is known whether they go together.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) connection: ConnectionOptions,
    pub(super) pgdata: Option<OsString>,
    pub(super) format: Option<Format>,
    pub(super) target: Option<String>,
    pub(super) incremental: Option<OsString>,
    pub(super) mapping: TablespaceMapping,
    pub(super) waldir: Option<OsString>,
    pub(super) wal: Wal,
    pub(super) compress: Compress,
    pub(super) slot: Option<String>,
    pub(super) label: Option<String>,
    pub(super) checkpoint: Option<CheckpointMode>,
    pub(super) max_rate_kb: Option<u32>,
    pub(super) sync_method: SyncMethod,
    pub(super) manifest_checksums: Option<String>,
    pub(super) status_interval: Option<u64>,
    pub(super) create_slot: bool,
    pub(super) no_slot: bool,
    pub(super) write_recovery_conf: bool,
    pub(super) no_clean: bool,
    pub(super) no_sync: bool,
    pub(super) verbose: bool,
    pub(super) progress: bool,
    pub(super) no_verify_checksums: bool,
    pub(super) no_estimate_size: bool,
    pub(super) no_manifest: bool,
    pub(super) manifest_force_encode: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Tar,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Wal {
    None,
    Fetch,
    #[default]
    Stream,
}

/// What `-Z` said.
#[derive(Debug, Default)]
pub(super) struct Compress {
    pub(super) given: Option<MethodAndDetail>,
    pub(super) place: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Client,
    Server,
}

impl Given {
    /// Reads the command line, in order; what is wrong with an argument is said.
    pub(super) fn read(tool: &Invocation) -> Result<Self, Failed> {
        let mut given = Given::default();
        let operands = tool.options(&SHORT, &LONG, |key, value| given.take(tool, key, value))?;
        refuse_operands(tool, &operands)?;
        Ok(given)
    }

    fn take(&mut self, tool: &Invocation, key: Key, value: OsString) -> Result<(), Failed> {
        let text = value.to_string_lossy().into_owned();
        match key {
            Key::Pgdata => self.pgdata = Some(value),
            Key::Format => {
                self.format = Some(match text.as_str() {
                    "p" | "plain" => Format::Plain,
                    "t" | "tar" => Format::Tar,
                    _ => {
                        return Err(tool.error(format!(
                            "invalid output format \"{text}\", must be \"plain\" or \"tar\""
                        )));
                    }
                });
            }
            Key::Checkpoint => {
                self.checkpoint = Some(match text.to_ascii_lowercase().as_str() {
                    "fast" => CheckpointMode::Fast,
                    "spread" => CheckpointMode::Spread,
                    _ => {
                        return Err(tool.error(format!(
                            "invalid checkpoint argument \"{text}\", must be \"fast\" or \"spread\""
                        )));
                    }
                });
            }
            Key::WalMethod => {
                self.wal = match text.as_str() {
                    "n" | "none" => Wal::None,
                    "f" | "fetch" => Wal::Fetch,
                    "s" | "stream" => Wal::Stream,
                    _ => {
                        return Err(tool.error(format!(
                            "invalid wal-method option \"{text}\", must be \"fetch\", \"stream\", or \"none\""
                        )));
                    }
                };
            }
            Key::CreateSlot => self.create_slot = true,
            Key::Incremental => self.incremental = Some(value),
            Key::MaxRate => {
                self.max_rate_kb = Some(parse_max_rate(&text).map_err(|error| tool.error(error))?);
            }
            Key::WriteRecoveryConf => self.write_recovery_conf = true,
            Key::Slot => self.slot = Some(text),
            Key::Target => self.target = Some(text),
            Key::TablespaceMapping => self.mapping.add(&value).map_err(|error| tool.error(error))?,
            Key::Gzip => {
                let given = Some(MethodAndDetail { method: "gzip".to_owned(), detail: None });
                self.compress = Compress { given, place: None };
            }
            Key::Compress => self.compress = Compress::parse(&text),
            Key::Label => self.label = Some(text),
            Key::NoClean => self.no_clean = true,
            Key::NoSync => self.no_sync = true,
            Key::Dbname => self.connection.dbname = Some(value),
            Key::Host => self.connection.host = Some(value),
            Key::Port => self.connection.port = Some(value),
            Key::Username => self.connection.user = Some(value),
            Key::NoPassword => self.connection.prompt = PasswordPrompt::Never,
            Key::Password => self.connection.prompt = PasswordPrompt::Always,
            Key::StatusInterval => self.status_interval = Some(parse_status_interval(tool, &text)?),
            Key::Verbose => self.verbose = true,
            Key::Progress => self.progress = true,
            Key::Waldir => self.waldir = Some(value),
            Key::NoSlot => self.no_slot = true,
            Key::NoVerifyChecksums => self.no_verify_checksums = true,
            Key::NoEstimateSize => self.no_estimate_size = true,
            Key::NoManifest => self.no_manifest = true,
            Key::ManifestForceEncode => self.manifest_force_encode = true,
            Key::ManifestChecksums => self.manifest_checksums = Some(text),
            Key::SyncMethod => {
                self.sync_method = match text.as_str() {
                    "fsync" => SyncMethod::Fsync,
                    "syncfs" => SyncMethod::Syncfs,
                    _ => return Err(tool.error(format!("unrecognized sync method: {text}"))),
                };
            }
            // known, so that it can be abbreviated, and only of use as the first argument
            Key::HelpOrVersion => return Err(tool.hint_help()),
        }
        Ok(())
    }
}

impl Compress {
    fn parse(text: &str) -> Self {
        let (place, rest) = match (text.strip_prefix("server-"), text.strip_prefix("client-")) {
            (Some(rest), _) => (Some(Place::Server), rest),
            (None, Some(rest)) => (Some(Place::Client), rest),
            (None, None) => (None, text),
        };
        Compress { given: Some(MethodAndDetail::split(rest)), place }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Pgdata,
    Format,
    Checkpoint,
    CreateSlot,
    Incremental,
    MaxRate,
    WriteRecoveryConf,
    Slot,
    Target,
    TablespaceMapping,
    WalMethod,
    Gzip,
    Compress,
    Label,
    NoClean,
    NoSync,
    Dbname,
    Host,
    Port,
    Username,
    NoPassword,
    Password,
    StatusInterval,
    Verbose,
    Progress,
    Waldir,
    NoSlot,
    NoVerifyChecksums,
    NoEstimateSize,
    NoManifest,
    ManifestForceEncode,
    ManifestChecksums,
    SyncMethod,
    HelpOrVersion,
}

const SHORT: [ShortOption<Key>; 25] = [
    short(b'c', Value::Required, Key::Checkpoint),
    short(b'C', Value::None, Key::CreateSlot),
    short(b'd', Value::Required, Key::Dbname),
    short(b'D', Value::Required, Key::Pgdata),
    short(b'F', Value::Required, Key::Format),
    short(b'h', Value::Required, Key::Host),
    short(b'i', Value::Required, Key::Incremental),
    short(b'l', Value::Required, Key::Label),
    short(b'n', Value::None, Key::NoClean),
    short(b'N', Value::None, Key::NoSync),
    short(b'p', Value::Required, Key::Port),
    short(b'P', Value::None, Key::Progress),
    short(b'r', Value::Required, Key::MaxRate),
    short(b'R', Value::None, Key::WriteRecoveryConf),
    short(b's', Value::Required, Key::StatusInterval),
    short(b'S', Value::Required, Key::Slot),
    short(b't', Value::Required, Key::Target),
    short(b'T', Value::Required, Key::TablespaceMapping),
    short(b'U', Value::Required, Key::Username),
    short(b'v', Value::None, Key::Verbose),
    short(b'w', Value::None, Key::NoPassword),
    short(b'W', Value::None, Key::Password),
    short(b'X', Value::Required, Key::WalMethod),
    short(b'z', Value::None, Key::Gzip),
    short(b'Z', Value::Required, Key::Compress),
];

/// In the original's order, which shows where a prefix is ambiguous.
const LONG: [LongOption<Key>; 35] = [
    long("help", Value::None, Key::HelpOrVersion),
    long("version", Value::None, Key::HelpOrVersion),
    long("pgdata", Value::Required, Key::Pgdata),
    long("format", Value::Required, Key::Format),
    long("incremental", Value::Required, Key::Incremental),
    long("checkpoint", Value::Required, Key::Checkpoint),
    long("create-slot", Value::None, Key::CreateSlot),
    long("max-rate", Value::Required, Key::MaxRate),
    long("write-recovery-conf", Value::None, Key::WriteRecoveryConf),
    long("slot", Value::Required, Key::Slot),
    long("target", Value::Required, Key::Target),
    long("tablespace-mapping", Value::Required, Key::TablespaceMapping),
    long("wal-method", Value::Required, Key::WalMethod),
    long("gzip", Value::None, Key::Gzip),
    long("compress", Value::Required, Key::Compress),
    long("label", Value::Required, Key::Label),
    long("no-clean", Value::None, Key::NoClean),
    long("no-sync", Value::None, Key::NoSync),
    long("dbname", Value::Required, Key::Dbname),
    long("host", Value::Required, Key::Host),
    long("port", Value::Required, Key::Port),
    long("username", Value::Required, Key::Username),
    long("no-password", Value::None, Key::NoPassword),
    long("password", Value::None, Key::Password),
    long("status-interval", Value::Required, Key::StatusInterval),
    long("verbose", Value::None, Key::Verbose),
    long("progress", Value::None, Key::Progress),
    long("waldir", Value::Required, Key::Waldir),
    long("no-slot", Value::None, Key::NoSlot),
    long("no-verify-checksums", Value::None, Key::NoVerifyChecksums),
    long("no-estimate-size", Value::None, Key::NoEstimateSize),
    long("no-manifest", Value::None, Key::NoManifest),
    long("manifest-force-encode", Value::None, Key::ManifestForceEncode),
    long("manifest-checksums", Value::Required, Key::ManifestChecksums),
    long("sync-method", Value::Required, Key::SyncMethod),
];
