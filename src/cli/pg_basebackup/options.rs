//! The command line of `pg_basebackup`: every option, in the order that the original looks at it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::mapping::TablespaceMapping;
use super::rate::parse_max_rate;
use crate::backup::SyncMethod;
use crate::cli::pg_tool::compression::{CompressionSpec, MethodAndDetail};
use crate::cli::pg_tool::connection::{ConnectionOptions, PasswordPrompt};
use crate::cli::pg_tool::getopt::{LongOption, ShortOption, Value, long, short};
use crate::cli::pg_tool::values::{parse_status_interval, refuse_operands};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::compression::ArchiveCompression;
use crate::wire::command::{CheckpointMode, ManifestNames, ManifestOptions, ServerCompression, ServerTarget};

/// What was asked for.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) connection: ConnectionOptions,
    pub(super) destination: Destination,
    pub(super) wal: WalMethod,
    pub(super) server_compression: Option<ServerCompression>,
    pub(super) manifest: Option<ManifestOptions>,
    pub(super) incremental: Option<PathBuf>,
    pub(super) label: String,
    pub(super) checkpoint: CheckpointMode,
    pub(super) max_rate_kb: Option<u32>,
    pub(super) verify_checksums: bool,
    pub(super) estimate_size: bool,
    pub(super) write_recovery_conf: bool,
    pub(super) sync: SyncMethod,
    pub(super) clean_up: CleanUp,
    pub(super) verbose: bool,
    pub(super) show_progress: bool,
    pub(super) status_interval: Duration,
}

/// Where the backup goes.
#[derive(Debug)]
pub(super) enum Destination {
    /// A data directory.
    Plain { directory: PathBuf, wal_directory: Option<PathBuf>, mapping: TablespaceMapping },
    /// A directory of archives.
    Tar { directory: PathBuf, compression: Option<ArchiveCompression> },
    /// One archive to standard output.
    Stdout { compression: Option<ArchiveCompression> },
    /// The server knows.
    Server(ServerTarget),
}

impl Destination {
    /// The directory that the backup goes to, if there is one.
    pub(super) fn directory(&self) -> Option<&PathBuf> {
        match self {
            Destination::Plain { directory, .. } | Destination::Tar { directory, .. } => Some(directory),
            Destination::Stdout { .. } | Destination::Server(_) => None,
        }
    }
}

/// How the WAL of the backup comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WalMethod {
    None,
    Fetch,
    Stream(SlotPlan),
}

/// Which slot holds WAL for the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SlotPlan {
    /// `--no-slot`.
    None,
    /// One for this run.
    Temporary,
    /// `-S`.
    Existing(String),
    /// `-C -S`.
    Create(String),
}

/// What becomes of what a failed run has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CleanUp {
    Remove,
    /// `-n`.
    Leave,
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

const DEFAULT_LABEL: &str = "pg_basebackup base backup";

/// As they were given, before it is known whether they go together.
#[derive(Debug, Default)]
struct Given {
    connection: ConnectionOptions,
    pgdata: Option<OsString>,
    format: Option<Format>,
    target: Option<String>,
    incremental: Option<OsString>,
    mapping: TablespaceMapping,
    waldir: Option<OsString>,
    wal: Wal,
    compress: Compress,
    slot: Option<String>,
    label: Option<String>,
    checkpoint: Option<CheckpointMode>,
    max_rate_kb: Option<u32>,
    sync_method: SyncMethod,
    manifest_checksums: Option<String>,
    status_interval: Option<u64>,
    create_slot: bool,
    no_slot: bool,
    write_recovery_conf: bool,
    no_clean: bool,
    no_sync: bool,
    verbose: bool,
    progress: bool,
    no_verify_checksums: bool,
    no_estimate_size: bool,
    no_manifest: bool,
    manifest_force_encode: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Tar,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Wal {
    None,
    Fetch,
    #[default]
    Stream,
}

/// What `-Z` said.
#[derive(Debug, Default)]
struct Compress {
    given: Option<MethodAndDetail>,
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Client,
    Server,
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

    fn put_together(mut self, tool: &Invocation) -> Result<Options, Failed> {
        let target = self.target.take().filter(|target| target != "client");
        if target.is_some() && self.format.is_some() {
            return Err(tool.usage_error("cannot specify both format and backup target"));
        }
        let format = self.format.unwrap_or(Format::Plain);
        match (&self.pgdata, &target) {
            (None, None) => return Err(tool.usage_error("must specify output directory or backup target")),
            (Some(_), Some(_)) => {
                return Err(tool.usage_error("cannot specify both output directory and backup target"));
            }
            _ => {}
        }
        let compression = self.client_compression(tool, target.is_some(), format)?;
        let to_stdout = format == Format::Tar && self.pgdata.as_ref().is_some_and(|pgdata| pgdata == "-");
        if self.wal == Wal::Stream {
            if target.is_some() {
                return Err(tool.usage_error("WAL cannot be streamed when a backup target is specified"));
            }
            if to_stdout {
                return Err(tool.usage_error("cannot stream write-ahead logs in tar mode to stdout"));
            }
        }
        let wal = self.wal_method(tool)?;
        let wal_directory = self.wal_directory(tool, target.is_some(), format)?;
        self.check_incompatible(tool)?;
        let manifest = (!self.no_manifest).then(|| ManifestOptions {
            names: if self.manifest_force_encode { ManifestNames::Encoded } else { ManifestNames::Plain },
            checksums: self.manifest_checksums.take(),
        });
        let directory = self.pgdata.take().map(PathBuf::from).unwrap_or_default();
        let server_compression = self.server_compression(target.is_some());
        let destination = match (target, format) {
            (Some(target), _) => Destination::Server(server_target(&target)),
            (None, Format::Plain) => Destination::Plain { directory, wal_directory, mapping: self.mapping },
            (None, Format::Tar) if to_stdout => Destination::Stdout { compression },
            (None, Format::Tar) => Destination::Tar { directory, compression },
        };
        Ok(Options {
            connection: self.connection,
            destination,
            wal,
            server_compression,
            manifest,
            incremental: self.incremental.map(PathBuf::from),
            label: self.label.unwrap_or_else(|| DEFAULT_LABEL.to_owned()),
            checkpoint: self.checkpoint.unwrap_or(CheckpointMode::Spread),
            max_rate_kb: self.max_rate_kb,
            verify_checksums: !self.no_verify_checksums,
            estimate_size: !self.no_estimate_size,
            write_recovery_conf: self.write_recovery_conf,
            sync: if self.no_sync { SyncMethod::None } else { self.sync_method },
            clean_up: if self.no_clean { CleanUp::Leave } else { CleanUp::Remove },
            verbose: self.verbose,
            show_progress: self.progress,
            status_interval: Duration::from_secs(self.status_interval.unwrap_or(10)),
        })
    }

    /// What the client compresses with. What the server is asked for is the server's to judge.
    fn client_compression(
        &self,
        tool: &Invocation,
        has_target: bool,
        format: Format,
    ) -> Result<Option<ArchiveCompression>, Failed> {
        let place = self.compress.place.unwrap_or(if has_target { Place::Server } else { Place::Client });
        let (Place::Client, Some(given)) = (place, &self.compress.given) else { return Ok(None) };
        let spec = CompressionSpec::judge(given).map_err(|error| tool.error(error))?;
        if has_target {
            return Err(
                tool.usage_error("client-side compression is not possible when a backup target is specified")
            );
        }
        let compression = spec.archive_compression();
        if format == Format::Plain && compression.is_some() {
            return Err(tool.usage_error("only tar mode backups can be compressed"));
        }
        Ok(compression)
    }

    fn server_compression(&mut self, has_target: bool) -> Option<ServerCompression> {
        let by_server = match self.compress.place {
            Some(place) => place == Place::Server,
            None => has_target,
        };
        let given = self.compress.given.take().filter(|_| by_server)?;
        Some(ServerCompression { algorithm: given.method, detail: given.detail })
    }

    fn wal_method(&mut self, tool: &Invocation) -> Result<WalMethod, Failed> {
        if self.slot.is_some() && self.wal != Wal::Stream {
            return Err(tool.usage_error("replication slots can only be used with WAL streaming"));
        }
        if self.no_slot && self.slot.is_some() {
            return Err(tool.usage_error("--no-slot cannot be used with slot name"));
        }
        if self.create_slot {
            if self.slot.is_none() {
                return Err(tool.usage_error("--create-slot needs a slot to be specified using --slot"));
            }
            if self.no_slot {
                return Err(tool.usage_error("--create-slot and --no-slot are incompatible options"));
            }
        }
        Ok(match self.wal {
            Wal::None => WalMethod::None,
            Wal::Fetch => WalMethod::Fetch,
            Wal::Stream => WalMethod::Stream(match self.slot.take() {
                Some(slot) if self.create_slot => SlotPlan::Create(slot),
                Some(slot) => SlotPlan::Existing(slot),
                None if self.no_slot => SlotPlan::None,
                None => SlotPlan::Temporary,
            }),
        })
    }

    fn wal_directory(
        &mut self,
        tool: &Invocation,
        has_target: bool,
        format: Format,
    ) -> Result<Option<PathBuf>, Failed> {
        let Some(directory) = self.waldir.take() else { return Ok(None) };
        if has_target {
            let text = "WAL directory location cannot be specified along with a backup target";
            return Err(tool.usage_error(text));
        }
        if format != Format::Plain {
            return Err(tool.usage_error("WAL directory location can only be specified in plain mode"));
        }
        let directory = crate::pg::canonical_path(directory);
        if !directory.is_absolute() {
            return Err(tool.usage_error("WAL directory location must be an absolute path"));
        }
        Ok(Some(directory))
    }

    fn check_incompatible(&self, tool: &Invocation) -> Result<(), Failed> {
        for (first, second, both) in [
            ("--progress", "--no-estimate-size", self.progress && self.no_estimate_size),
            ("--no-manifest", "--manifest-checksums", self.no_manifest && self.manifest_checksums.is_some()),
            ("--no-manifest", "--manifest-force-encode", self.no_manifest && self.manifest_force_encode),
        ] {
            if both {
                return Err(tool.usage_error(format!("{first} and {second} are incompatible options")));
            }
        }
        Ok(())
    }
}

fn server_target(text: &str) -> ServerTarget {
    let (name, detail) =
        text.split_once(':').map_or((text, None), |(name, detail)| (name, Some(detail.to_owned())));
    ServerTarget { name: name.to_owned(), detail }
}
