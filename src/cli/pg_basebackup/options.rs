//! What the command line of `pg_basebackup` asks for, and what of it does not go together, in the order that the original
//! looks at it.

use std::path::PathBuf;
use std::time::Duration;

use super::given::{Format, Given, Place, Wal};
use super::mapping::TablespaceMapping;
use crate::backup::SyncMethod;
use crate::cli::pg_tool::compression::CompressionSpec;
use crate::cli::pg_tool::connection::ConnectionOptions;
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

const DEFAULT_LABEL: &str = "pg_basebackup base backup";

impl Options {
    /// Reads the command line; what is wrong with it is said.
    pub(super) fn parse(tool: &Invocation) -> Result<Self, Failed> {
        Given::read(tool)?.put_together(tool)
    }
}

impl Given {
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
