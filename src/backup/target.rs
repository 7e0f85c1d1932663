//! Where a backup goes, and how.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::checksum::ChecksumAlgorithm;
use super::tar_stream::ArchiveEnd;
pub use crate::FileOwner;

/// Everything that the caller decides about a backup before its first byte arrives.
#[derive(Debug, Clone)]
pub struct BackupTarget {
    /// The data directory in the making: exists, and holds nothing that the server sends.
    pub directory: PathBuf,
    /// The tablespaces that the server announced in its second result set, the data directory's own row left out.
    pub tablespaces: Vec<TablespaceTarget>,
    /// Where `pg_wal` shall point; exists and is empty. `None`: `pg_wal` is a directory like any other.
    pub wal_directory: Option<PathBuf>,
    /// The server's `data_directory_mode`.
    pub modes: DirectoryModes,
    /// Which permissions members get.
    pub member_modes: MemberModes,
    /// Whom files and directories shall belong to, when that is not who runs this.
    pub owner: Option<FileOwner>,
    /// How the backup becomes durable.
    pub sync: SyncMethod,
    /// What the server was asked to list and how.
    pub manifest: ManifestPolicy,
    /// How archives end: by the server's version.
    pub archive_end: ArchiveEnd,
    /// Whether the server was asked to append WAL.
    pub wal_members: WalMembers,
    /// What makes a standby of the backup, when that is wanted.
    pub standby: Option<StandbyFiles>,
    /// Those of the directories that the caller holds open.
    pub held: HeldPlaces,
}

/// Directories that somebody holds open: their names, and what leads into them wherever the names lead to by now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldPlaces(pub Vec<(PathBuf, PathBuf)>);

impl HeldPlaces {
    /// What leads into the directory of this name.
    pub fn leading_to<'a>(&'a self, name: &'a Path) -> &'a Path {
        self.0.iter().find(|(held, _)| held == name).map_or(name, |(_, path)| path)
    }
}

/// What makes a standby of a backup as it is written (`-R`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyFiles {
    /// The file that says whom to follow: `postgresql.auto.conf`, or before 12 `recovery.conf`. It is appended to, or made.
    pub configuration: &'static str,
    /// What it says.
    pub lines: Bytes,
    /// An empty file beside it: `standby.signal`, from 12 on.
    pub signal: Option<&'static str>,
}

/// Which permissions members get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemberModes {
    /// Those that they have on the server, without what the directory's mode does not allow.
    #[default]
    Restricted,
    /// Those that they have on the server, as `pg_basebackup` gives them; the directory's own mode keeps others out.
    AsSent,
}

/// A tablespace, on the server and here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceTarget {
    /// Its OID, which names its archive and its link.
    pub oid: u32,
    /// `spclocation`, byte for byte: the link in the data directory's archive must say the same.
    pub location: Vec<u8>,
    /// Where it goes.
    pub place: TablespacePlace,
}

/// Where a tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TablespacePlace {
    /// To this directory, which exists and is empty; `pg_tblspc/<oid>` becomes a link to it.
    Directory(PathBuf),
    /// To `pg_tblspc/<oid>` itself. Servers from 16 on announce such tablespaces, with that relative location; older
    /// ones send them as plain directories, unannounced.
    InPlace,
}

/// Whether the group may read (`SHOW data_directory_mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DirectoryModes {
    /// 0700: the owner alone.
    #[default]
    OwnerOnly,
    /// 0750: the group may read.
    GroupRead,
}

/// How a backup becomes durable (`--sync-method`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SyncMethod {
    /// `fsync` of each file in the background, of each directory at the end.
    #[default]
    Fsync,
    /// `syncfs` at the end: one call, which also waits for what others wrote to the same file system. It reports
    /// failed writeback since Linux 5.8.
    Syncfs,
    /// Not at all.
    None,
}

/// What is expected of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestPolicy {
    /// It was requested, with this checksum for each file; without it the backup fails.
    Required(ChecksumAlgorithm),
    /// It was not requested, and must not come.
    Absent,
}

/// Whether members in `pg_wal` are expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WalMembers {
    /// WAL comes on another connection: only the directories of `pg_wal` are sent.
    #[default]
    Refused,
    /// The `WAL` option was given: segments and history files come in the archive, and are not in the manifest.
    Accepted,
}

impl DirectoryModes {
    /// The mode of a file whose header says `mode`: the owner can read and write, nobody else more than the policy.
    pub const fn file_mode(self, mode: u32) -> u32 {
        mode & self.mask() | 0o600
    }

    /// The mode of a directory whose header says `mode`.
    pub const fn directory_mode(self, mode: u32) -> u32 {
        mode & self.mask() | 0o700
    }

    /// The mode of a directory or file that no header describes: everything the policy allows.
    pub const fn default_directory_mode(self) -> u32 {
        self.mask()
    }

    /// The mode of a file that no header describes.
    pub const fn default_file_mode(self) -> u32 {
        self.mask() & 0o640
    }

    const fn mask(self) -> u32 {
        match self {
            DirectoryModes::OwnerOnly => 0o700,
            DirectoryModes::GroupRead => 0o750,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_never_exceed_the_policy() {
        use DirectoryModes::{GroupRead, OwnerOnly};
        for mode in 0..=0o7777 {
            for policy in [OwnerOnly, GroupRead] {
                assert_eq!(policy.file_mode(mode) & !policy.mask(), 0);
                assert_eq!(policy.file_mode(mode) & 0o600, 0o600);
                assert_eq!(policy.directory_mode(mode) & 0o700, 0o700);
            }
        }
        assert_eq!((OwnerOnly.file_mode(0o644), GroupRead.file_mode(0o644)), (0o600, 0o640));
        // A private key stays private even where the group may read.
        assert_eq!(GroupRead.file_mode(0o600), 0o600);
        assert_eq!((OwnerOnly.default_file_mode(), GroupRead.default_file_mode()), (0o600, 0o640));
    }
}
