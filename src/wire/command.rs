//! Replication commands as text.
//!
//! The grammar is PostgreSQL's `repl_gram.y`. What differs between versions is asked of [`ServerVersion`].

use crate::pg::version::BaseBackupSyntax;
use crate::pg::{ChecksumAlgorithm, Lsn, ServerVersion, SlotName, TimelineId};

/// `'text'`, as `repl_scanner.l` reads it: the quote doubled, a backslash nothing special.
pub fn quote_string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `"name"`, the quote doubled.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `SHOW name`.
pub fn show(name: &str) -> String {
    format!("SHOW {name}")
}

/// `TIMELINE_HISTORY n`.
pub fn timeline_history(timeline: TimelineId) -> String {
    format!("TIMELINE_HISTORY {timeline}")
}

/// How long a slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotPersistence {
    /// Until it is dropped.
    Permanent,
    /// Until the connection that made it ends.
    Temporary,
}

/// From when on a slot holds WAL back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalReservation {
    /// From its creation.
    Immediate,
    /// From its first use.
    FirstUse,
}

/// `CREATE_REPLICATION_SLOT … PHYSICAL`.
pub fn create_physical_slot(
    version: ServerVersion,
    slot: &SlotName,
    persistence: SlotPersistence,
    reservation: WalReservation,
) -> String {
    let temporary = if persistence == SlotPersistence::Temporary { " TEMPORARY" } else { "" };
    let reserve = match (reservation, version.has_slot_option_list()) {
        (WalReservation::FirstUse, _) => "",
        (WalReservation::Immediate, true) => " (RESERVE_WAL)",
        (WalReservation::Immediate, false) => " RESERVE_WAL",
    };
    format!("CREATE_REPLICATION_SLOT {}{temporary} PHYSICAL{reserve}", quote_identifier(slot.as_str()))
}

/// `READ_REPLICATION_SLOT slot` (15).
pub fn read_slot(slot: &SlotName) -> String {
    format!("READ_REPLICATION_SLOT {}", quote_identifier(slot.as_str()))
}

/// What dropping a slot does when it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropWhenActive {
    /// The server answers with an error (55006).
    Fail,
    /// The server waits until nobody uses it.
    Wait,
}

/// `DROP_REPLICATION_SLOT slot`.
pub fn drop_slot(slot: &SlotName, when_active: DropWhenActive) -> String {
    let wait = if when_active == DropWhenActive::Wait { " WAIT" } else { "" };
    format!("DROP_REPLICATION_SLOT {}{wait}", quote_identifier(slot.as_str()))
}

/// `START_REPLICATION` of WAL.
pub fn start_replication(slot: Option<&SlotName>, start_lsn: Lsn, timeline: TimelineId) -> String {
    let slot = slot.map_or_else(String::new, |slot| format!(" SLOT {}", quote_identifier(slot.as_str())));
    format!("START_REPLICATION{slot} PHYSICAL {start_lsn} TIMELINE {timeline}")
}

/// How the server spreads the checkpoint that a backup begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointMode {
    /// As fast as it can.
    Fast,
    /// At the pace of its scheduled checkpoints.
    Spread,
}

/// What is asked of `BASE_BACKUP`. Server versions spell it differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackup {
    /// Shown in `backup_label`.
    pub label: String,
    /// Whether sizes are estimated first, by walking the whole tree, so that progress can be shown.
    pub estimate_size: bool,
    /// How the checkpoint at the start is spread.
    pub checkpoint: CheckpointMode,
    /// Whether the server appends the WAL of the backup to its archive.
    pub include_wal: bool,
    /// Whether the server waits until the last WAL of the backup is archived.
    pub wait_for_archive: bool,
    /// An upper bound for the rate, in kB/s, 32 to 1048576.
    pub max_rate_kb: Option<u32>,
    /// Whether tablespace links come as a file `tablespace_map` and not as symlinks.
    pub tablespace_map: bool,
    /// Whether the server checks data page checksums as it reads.
    pub verify_checksums: bool,
    /// What is asked of the manifest, or no manifest.
    pub manifest: Option<ManifestOptions>,
    /// Whether only what changed since the uploaded manifest is sent (17).
    pub incremental: bool,
    /// Where the archives go, if not to the client (15): only their names, the manifest and progress come then.
    pub target: Option<ServerTarget>,
    /// How the server compresses the archives (15).
    pub compression: Option<ServerCompression>,
}

/// A place for archives that the server knows: `blackhole`, or `server` with a directory of its as the detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTarget {
    /// `TARGET`.
    pub name: String,
    /// `TARGET_DETAIL`.
    pub detail: Option<String>,
}

/// What `--compress=server-…` of `pg_basebackup` asks for. The server judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCompression {
    /// `COMPRESSION`: `gzip`, `lz4`, `zstd` …
    pub algorithm: String,
    /// `COMPRESSION_DETAIL`, such as `level=3,workers=2`.
    pub detail: Option<String>,
}

/// What is asked of a backup's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestOptions {
    /// How names are written.
    pub names: ManifestNames,
    /// The name of a checksum algorithm, which the server judges; `None`: the server's choice.
    pub checksums: Option<String>,
}

/// How a manifest writes the names of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ManifestNames {
    /// As they are, when they are UTF-8.
    #[default]
    Plain,
    /// All of them in hexadecimal digits.
    Encoded,
}

impl ManifestOptions {
    /// A manifest with these checksums.
    pub fn with_checksums(algorithm: ChecksumAlgorithm) -> Self {
        ManifestOptions { names: ManifestNames::Plain, checksums: Some(algorithm.name().to_owned()) }
    }

    fn word(&self) -> &'static str {
        match self.names {
            ManifestNames::Plain => "MANIFEST 'yes'",
            ManifestNames::Encoded => "MANIFEST 'force-encode'",
        }
    }
}

impl BaseBackup {
    /// The command for a server of `version`.
    pub fn to_command(&self, version: ServerVersion) -> String {
        match version.base_backup_syntax() {
            BaseBackupSyntax::Options => self.option_list(),
            BaseBackupSyntax::Keywords => self.keywords(),
        }
    }

    fn option_list(&self) -> String {
        let mut command = format!("BASE_BACKUP (LABEL {}", quote_string(&self.label));
        let mut option = |text: &str| {
            command.push_str(", ");
            command.push_str(text);
        };
        if self.estimate_size {
            option("PROGRESS");
        }
        if self.checkpoint == CheckpointMode::Fast {
            option("CHECKPOINT 'fast'");
        }
        if self.include_wal {
            option("WAL");
        }
        if !self.wait_for_archive {
            option("WAIT 0");
        }
        if let Some(rate) = self.max_rate_kb {
            option(&format!("MAX_RATE {rate}"));
        }
        if self.tablespace_map {
            option("TABLESPACE_MAP");
        }
        // always sent: a second backup on one connection would otherwise inherit the first one's choice
        option(if self.verify_checksums { "VERIFY_CHECKSUMS 1" } else { "VERIFY_CHECKSUMS 0" });
        if let Some(manifest) = &self.manifest {
            option(manifest.word());
            if let Some(checksums) = &manifest.checksums {
                option(&format!("MANIFEST_CHECKSUMS {}", quote_string(checksums)));
            }
        }
        if self.incremental {
            option("INCREMENTAL");
        }
        if let Some(ServerTarget { name, detail }) = &self.target {
            option(&format!("TARGET {}", quote_string(name)));
            if let Some(detail) = detail {
                option(&format!("TARGET_DETAIL {}", quote_string(detail)));
            }
        }
        if let Some(ServerCompression { algorithm, detail }) = &self.compression {
            option(&format!("COMPRESSION {}", quote_string(algorithm)));
            if let Some(detail) = detail {
                option(&format!("COMPRESSION_DETAIL {}", quote_string(detail)));
            }
        }
        command.push(')');
        command
    }

    fn keywords(&self) -> String {
        let mut command = format!("BASE_BACKUP LABEL {}", quote_string(&self.label));
        let mut keyword = |wanted: bool, text: &str| {
            if wanted {
                command.push(' ');
                command.push_str(text);
            }
        };
        keyword(self.estimate_size, "PROGRESS");
        keyword(self.checkpoint == CheckpointMode::Fast, "FAST");
        keyword(self.include_wal, "WAL");
        keyword(!self.wait_for_archive, "NOWAIT");
        if let Some(rate) = self.max_rate_kb {
            keyword(true, &format!("MAX_RATE {rate}"));
        }
        keyword(self.tablespace_map, "TABLESPACE_MAP");
        keyword(!self.verify_checksums, "NOVERIFY_CHECKSUMS");
        if let Some(manifest) = &self.manifest {
            keyword(true, manifest.word());
            if let Some(checksums) = &manifest.checksums {
                keyword(true, &format!("MANIFEST_CHECKSUMS {}", quote_string(checksums)));
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotName {
        "standby1".parse().unwrap()
    }

    #[test]
    fn slots_are_created_in_both_syntaxes() {
        let create = |major, persistence, reservation| {
            create_physical_slot(ServerVersion::new(major, 0), &slot(), persistence, reservation)
        };
        assert_eq!(
            create(14, SlotPersistence::Permanent, WalReservation::Immediate),
            "CREATE_REPLICATION_SLOT \"standby1\" PHYSICAL RESERVE_WAL"
        );
        assert_eq!(
            create(15, SlotPersistence::Temporary, WalReservation::Immediate),
            "CREATE_REPLICATION_SLOT \"standby1\" TEMPORARY PHYSICAL (RESERVE_WAL)"
        );
        assert_eq!(
            create(18, SlotPersistence::Permanent, WalReservation::FirstUse),
            "CREATE_REPLICATION_SLOT \"standby1\" PHYSICAL"
        );
    }

    #[test]
    fn base_backup_is_spelt_for_the_server() {
        let backup = BaseBackup {
            label: "it's".to_owned(),
            estimate_size: true,
            checkpoint: CheckpointMode::Fast,
            include_wal: false,
            wait_for_archive: false,
            max_rate_kb: Some(1024),
            tablespace_map: false,
            verify_checksums: true,
            manifest: Some(ManifestOptions::with_checksums(ChecksumAlgorithm::Crc32c)),
            incremental: false,
            target: None,
            compression: None,
        };
        assert_eq!(
            backup.to_command(ServerVersion::new(14, 23)),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 1024 MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        assert_eq!(
            backup.to_command(ServerVersion::new(15, 18)),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT 0, MAX_RATE 1024, VERIFY_CHECKSUMS 1, \
             MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
        );
        let compression =
            ServerCompression { algorithm: "zstd".to_owned(), detail: Some("level=3".to_owned()) };
        let target = ServerTarget { name: "server".to_owned(), detail: Some("/it's".to_owned()) };
        let backup = BaseBackup {
            manifest: Some(ManifestOptions { names: ManifestNames::Encoded, checksums: None }),
            target: Some(target),
            compression: Some(compression),
            ..backup
        };
        assert!(backup.to_command(ServerVersion::new(15, 18)).ends_with(
            "MANIFEST 'force-encode', TARGET 'server', TARGET_DETAIL '/it''s', COMPRESSION 'zstd', \
             COMPRESSION_DETAIL 'level=3')"
        ));
    }

    #[test]
    fn streaming_names_slot_position_and_timeline() {
        let lsn = "0/3000000".parse().unwrap();
        assert_eq!(
            start_replication(Some(&slot()), lsn, TimelineId::FIRST),
            "START_REPLICATION SLOT \"standby1\" PHYSICAL 0/3000000 TIMELINE 1"
        );
        assert_eq!(
            start_replication(None, lsn, TimelineId::FIRST),
            "START_REPLICATION PHYSICAL 0/3000000 TIMELINE 1"
        );
    }
}
