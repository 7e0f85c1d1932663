//! Server versions, and what they do differently, as data.

use std::fmt;
use std::str::FromStr;

/// A server's version, from its `server_version` parameter.
///
/// The questions that other modules have are methods here, so that no other module compares versions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion {
    major: u16,
    minor: u16,
}

/// How `BASE_BACKUP` is spelt and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseBackupSyntax {
    /// Up to 14: bare keywords, one CopyOut for each tablespace, tar archives without their end.
    Keywords,
    /// From 15: an option list, one CopyOut with tagged messages.
    Options,
}

impl ServerVersion {
    /// The oldest major that pgwake is tested against.
    pub const OLDEST_SUPPORTED_MAJOR: u16 = 13;
    /// The newest major that pgwake is tested against. A newer one is tried, with a warning.
    pub const NEWEST_TESTED_MAJOR: u16 = 19;

    /// A version from its two numbers.
    pub const fn new(major: u16, minor: u16) -> Self {
        ServerVersion { major, minor }
    }

    /// The major version, `17` of `17.12`.
    pub const fn major(self) -> u16 {
        self.major
    }

    /// The minor version, `12` of `17.12`; zero in development and beta versions.
    pub const fn minor(self) -> u16 {
        self.minor
    }

    /// Whether pgwake has been tested against this major or a later one.
    pub const fn is_supported(self) -> bool {
        self.major >= Self::OLDEST_SUPPORTED_MAJOR
    }

    /// Whether this major is newer than any that pgwake has been tested against.
    pub const fn is_newer_than_tested(self) -> bool {
        self.major > Self::NEWEST_TESTED_MAJOR
    }

    /// Whether `pg_receivewal` can stream from this version (9.3, whose `START_REPLICATION` names a timeline).
    pub const fn can_stream_to_receivers(self) -> bool {
        self.major > 9 || (self.major == 9 && self.minor >= 3)
    }

    /// The form of `BASE_BACKUP` (15 brought the option list and dropped the keywords).
    pub const fn base_backup_syntax(self) -> BaseBackupSyntax {
        if self.major >= 15 { BaseBackupSyntax::Options } else { BaseBackupSyntax::Keywords }
    }

    /// Whether a backslash in a tablespace's path has another one before it in `tablespace_map` (14).
    pub const fn escapes_backslashes_in_map(self) -> bool {
        self.major >= 14
    }

    /// Whether `CREATE_REPLICATION_SLOT` takes its options in parentheses (15).
    pub const fn has_slot_option_list(self) -> bool {
        self.major >= 15
    }

    /// Whether a walsender knows `SHOW` (10). Before that every server's segments had the same size.
    pub const fn has_walsender_show(self) -> bool {
        self.major >= 10
    }

    /// The setting `data_directory_mode` (11).
    pub const fn has_data_directory_mode(self) -> bool {
        self.major >= 11
    }

    /// Whether `READ_REPLICATION_SLOT` exists (15).
    pub const fn has_read_replication_slot(self) -> bool {
        self.major >= 15
    }

    /// Whether `UPLOAD_MANIFEST` and incremental backups exist (17).
    pub const fn has_incremental_backup(self) -> bool {
        self.major >= 17
    }

    /// Whether `pg_wal/summaries` belongs into a data directory (17).
    pub const fn has_wal_summaries(self) -> bool {
        self.major >= 17
    }

    /// Whether logical slots can be synchronised to standbys, which then need a database to connect to (17).
    pub const fn has_slot_synchronisation(self) -> bool {
        self.major >= 17
    }

    /// Whether `standby.signal` makes a standby, and settings say whom to follow (12; before that `recovery.conf`).
    pub const fn has_standby_signal(self) -> bool {
        self.major >= 12
    }

    /// Whether backups have a manifest (13).
    pub const fn has_backup_manifest(self) -> bool {
        self.major >= 13
    }

    /// Whether there are temporary slots (10).
    pub const fn has_temporary_slots(self) -> bool {
        self.major >= 10
    }

    /// Whether `pg_basebackup` can copy from this version (10). The original goes back to 9.1, whose servers keep WAL in
    /// `pg_xlog` and have none of the slots that end with a connection.
    pub const fn can_be_copied(self) -> bool {
        self.major >= 10
    }

    /// Whether this version and its tools print a position's lower half with eight digits (19).
    pub const fn pads_lsns(self) -> bool {
        self.major >= 19
    }

    /// Whether `pg_stat_wal` exists (14).
    pub const fn has_wal_statistics(self) -> bool {
        self.major >= 14
    }

    /// Whether slots say since when nobody uses them, and why they were invalidated (17).
    pub const fn has_slot_inactive_since(self) -> bool {
        self.major >= 17
    }

    /// Whether slots can be invalidated because nobody uses them (`idle_replication_slot_timeout`, 18).
    pub const fn has_idle_slot_timeout(self) -> bool {
        self.major >= 18
    }

    /// Whether `pg_hba_file_rules` names the file that a rule is in (16).
    pub const fn has_included_hba_files(self) -> bool {
        self.major >= 16
    }

    /// Whether data checksums can be turned on while the server runs (19).
    pub const fn has_online_checksums(self) -> bool {
        self.major >= 19
    }

    /// Whether `pg_get_wal_replay_pause_state()` tells a pause that was asked for from one that has begun (14).
    pub const fn has_wal_replay_pause_state(self) -> bool {
        self.major >= 14
    }

    /// Whether `WAIT FOR LSN` exists (19).
    pub const fn has_wait_for_lsn(self) -> bool {
        self.major >= 19
    }

    /// Whether protocol 3.2, with its long cancel keys, may be asked for (18).
    pub const fn has_protocol_3_2(self) -> bool {
        self.major >= 18
    }
}

/// How WAL is written, by the magic number of its pages (`XLOG_PAGE_MAGIC`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalFormat {
    /// The number.
    pub magic: u16,
    /// The longest record in bytes: `XLogRecordMaxSize` from 16 on, before that what the reader can allocate.
    pub max_record_len: u32,
    /// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: a crash has broken off the record that should go on in this page. 19 moved
    /// it to where a flag about full-page images had been.
    pub broken_off_flag: u16,
    /// `XLP_ALL_FLAGS`.
    pub page_flags: u16,
}

impl WalFormat {
    /// One format for each major from 13 to 19.
    pub const ALL: [WalFormat; 7] = [
        Self::like_13(0xd106),
        Self::like_13(0xd10d),
        Self::like_13(0xd110),
        Self::like_16(0xd113),
        Self::like_16(0xd116),
        Self::like_16(0xd118),
        Self::like_19(0xd122),
    ];

    /// Numbers above the newest known one that a server may come with: it is tried as the newest one.
    const NEWER: std::ops::RangeInclusive<u16> = 0xd123..=0xd1ff;

    const fn like_13(magic: u16) -> Self {
        WalFormat { magic, max_record_len: 0x3fff_ffff, broken_off_flag: 0x0008, page_flags: 0x000f }
    }

    const fn like_16(magic: u16) -> Self {
        WalFormat { max_record_len: 1020 << 20, ..Self::like_13(magic) }
    }

    const fn like_19(magic: u16) -> Self {
        WalFormat { broken_off_flag: 0x0004, page_flags: 0x0007, ..Self::like_16(magic) }
    }

    /// The major version that writes the format with this number; zero where none is known to.
    pub fn major_of_magic(magic: u16) -> u16 {
        let index = Self::ALL.iter().position(|format| format.magic == magic);
        index.map_or(0, |index| ServerVersion::OLDEST_SUPPORTED_MAJOR + index as u16)
    }

    /// The format with this number, if servers have it.
    pub fn of_magic(magic: u16) -> Option<Self> {
        if Self::NEWER.contains(&magic) {
            return Some(Self::like_19(magic));
        }
        Self::ALL.into_iter().find(|format| format.magic == magic)
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Debug for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text does not begin with a version number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not parse server version \"{}\"", .text.escape_debug())]
pub struct ParseServerVersionError {
    text: String,
}

impl FromStr for ServerVersion {
    type Err = ParseServerVersionError;

    /// Takes what servers report: `15.18 (Debian 15.18-0+deb12u1)`, `19rc1`, `20devel`, `9.6.24`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseServerVersionError { text: text.chars().take(64).collect() };
        let (major, rest) = leading_number(text).ok_or_else(error)?;
        let minor = rest.strip_prefix('.').and_then(leading_number).map_or(0, |(minor, _)| minor);
        Ok(ServerVersion { major, minor })
    }
}

fn leading_number(text: &str) -> Option<(u16, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_report() {
        for (text, version) in [
            ("15.18 (Debian 15.18-0+deb12u1)", ServerVersion::new(15, 18)),
            ("19rc1", ServerVersion::new(19, 0)),
            ("20devel", ServerVersion::new(20, 0)),
            ("9.6.24", ServerVersion::new(9, 6)),
        ] {
            assert_eq!(text.parse(), Ok(version), "{text}");
        }
        for text in ["", "devel", ".1", "99999"] {
            assert!(text.parse::<ServerVersion>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn newer_wal_formats_are_tried_and_unknown_ones_refused() {
        assert!(WalFormat::ALL.iter().all(|format| WalFormat::of_magic(format.magic) == Some(*format)));
        assert!(WalFormat::of_magic(0xd123).is_some());
        for magic in [0, 0xd101, 0xd111, 0xd200, 0xffff] {
            assert_eq!(WalFormat::of_magic(magic), None, "{magic:04X}");
        }
    }

    #[test]
    fn newer_majors_are_tried_and_older_refused() {
        assert!(ServerVersion::new(20, 0).is_newer_than_tested());
        assert!(!ServerVersion::new(12, 22).is_supported());
    }
}
