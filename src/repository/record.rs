//! What is known of a backup: a JSON object, the last of its objects.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::keys::{self, MAX_PIECES};
use super::name::BackupName;
use super::sums::{self, Sum};
use crate::backup::{ArchiveContent, ArchiveEnd, ArchiveName, DirectoryModes, WalRange};
use crate::pg::version::BaseBackupSyntax;
use crate::pg::{ChecksumAlgorithm, Lsn, ServerVersion, SystemIdentifier, TimelineId, Timestamp};

/// A backup that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRecord {
    /// Its name.
    pub name: BackupName,
    /// The backup that it is incremental to; `None` for a full one.
    pub parent: Option<BackupName>,
    /// What the user called it.
    pub label: String,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The server that it was taken from.
    pub server_version: ServerVersion,
    /// Where recovery begins.
    pub start: BackupPoint,
    /// Where it is consistent.
    pub stop: BackupPoint,
    /// Where the WAL that makes it consistent is.
    pub wal: WalPlace,
    /// That WAL, the newest timeline first.
    pub wal_ranges: Vec<WalRange>,
    /// The manifest's checksums.
    pub manifest_checksums: ChecksumAlgorithm,
    /// The server's `data_directory_mode`.
    pub modes: DirectoryModes,
    /// Its archives in the order in which the server sent them, the data directory's last, and then the manifest.
    pub streams: Vec<StreamRecord>,
    /// Files in the manifest.
    pub file_count: u64,
    /// Their bytes.
    pub byte_count: u64,
    /// The checksum of the list of checksums.
    pub sums: Sum,
}

/// A position of the log, and when the server was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupPoint {
    /// The timeline.
    pub timeline: TimelineId,
    /// The position.
    pub lsn: Lsn,
    /// By the server's clock where it could be asked, else by that of who took the backup.
    pub at: Timestamp,
}

/// Where a backup's own WAL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalPlace {
    /// In the archive, like all WAL.
    Archive,
    /// In the data directory's archive, below `pg_wal`.
    Included,
}

/// A sequence of bytes that the backup consists of, in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRecord {
    /// What it is.
    pub content: StreamContent,
    /// In how many pieces.
    pub piece_count: u32,
    /// How many bytes it has.
    pub len: u64,
    /// How many bytes its pieces have in the store.
    pub stored_len: u64,
}

/// What a sequence of bytes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamContent {
    /// The tar archive of a tablespace.
    Tablespace {
        /// Its OID.
        oid: u32,
        /// Where it was on the server, in any encoding.
        location: Bytes,
    },
    /// The tar archive of the data directory.
    DataDirectory,
    /// The backup manifest.
    Manifest,
}

impl StreamContent {
    /// How the names of its pieces begin.
    pub fn stream_name(&self) -> String {
        match self {
            StreamContent::Tablespace { oid, .. } => keys::tablespace_stream(*oid),
            StreamContent::DataDirectory => keys::BASE_STREAM.to_owned(),
            StreamContent::Manifest => keys::MANIFEST_STREAM.to_owned(),
        }
    }

    /// The archive, as a server would have announced it; `None` for the manifest.
    pub fn archive_name(&self) -> Option<ArchiveName> {
        match self {
            StreamContent::Tablespace { oid, location } => {
                Some(ArchiveName::tablespace(*oid, location.clone()))
            }
            StreamContent::DataDirectory => Some(ArchiveName::data_directory()),
            StreamContent::Manifest => None,
        }
    }

    /// What an archive of the server's holds.
    pub fn of_archive(content: &ArchiveContent) -> Self {
        match content {
            ArchiveContent::DataDirectory => StreamContent::DataDirectory,
            ArchiveContent::Tablespace { oid, location } => {
                StreamContent::Tablespace { oid: *oid, location: location.clone() }
            }
        }
    }
}

/// The format of records that this program reads and writes.
const FORMAT: u32 = 1;

/// The longest record taken, in bytes.
pub(super) const MAX_LEN: u64 = 16 << 20;

/// The most archives: as many as a backup may have tablespaces.
const MAX_ARCHIVES: usize = 4097;

/// The most ranges of WAL.
const MAX_RANGES: usize = 1 << 16;

#[derive(Serialize, Deserialize)]
struct Content {
    format: u32,
    name: String,
    parent: Option<String>,
    label: String,
    system_identifier: String,
    server_version: String,
    start: PointContent,
    stop: PointContent,
    wal: WalPlace,
    wal_ranges: Vec<RangeContent>,
    data_directory_mode: String,
    manifest_checksums: String,
    archives: Vec<ArchiveRecord>,
    manifest: PiecesContent,
    files: u64,
    bytes: u64,
    stored_bytes: u64,
    sha256sums: String,
}

#[derive(Serialize, Deserialize)]
struct PointContent {
    timeline: u32,
    lsn: String,
    at: String,
}

#[derive(Serialize, Deserialize)]
struct RangeContent {
    timeline: u32,
    start_lsn: String,
    end_lsn: String,
}

#[derive(Serialize, Deserialize)]
struct ArchiveRecord {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tablespace: Option<u32>,
    /// Where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    /// In hexadecimal digits, where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoded_location: Option<String>,
    #[serde(flatten)]
    pieces: PiecesContent,
}

#[derive(Serialize, Deserialize)]
struct PiecesContent {
    pieces: u32,
    bytes: u64,
    stored_bytes: u64,
}

impl BackupRecord {
    /// Bytes that the store keeps for its pieces.
    pub fn stored_len(&self) -> u64 {
        self.streams.iter().fold(0, |sum, stream| sum.saturating_add(stream.stored_len))
    }

    /// Bytes of its archives and manifest.
    pub fn stream_len(&self) -> u64 {
        self.streams.iter().fold(0, |sum, stream| sum.saturating_add(stream.len))
    }

    /// How its archives end: by the version of the server that wrote them.
    pub fn archive_end(&self) -> ArchiveEnd {
        match self.server_version.base_backup_syntax() {
            BaseBackupSyntax::Options => ArchiveEnd::Terminated,
            BaseBackupSyntax::Keywords => ArchiveEnd::Unterminated,
        }
    }

    /// Its tablespaces with their locations.
    pub fn tablespaces(&self) -> impl Iterator<Item = (u32, &Bytes, u64)> {
        self.streams.iter().filter_map(|stream| match &stream.content {
            StreamContent::Tablespace { oid, location } => Some((*oid, location, stream.len)),
            _ => None,
        })
    }

    /// The object's content.
    pub(super) fn encode(&self) -> Bytes {
        let archives = self.streams.iter().filter(|stream| stream.content != StreamContent::Manifest);
        let manifest = self.streams.iter().find(|stream| stream.content == StreamContent::Manifest);
        let content = Content {
            format: FORMAT,
            name: self.name.to_string(),
            parent: self.parent.as_ref().map(ToString::to_string),
            label: self.label.clone(),
            system_identifier: self.system_identifier.to_string(),
            server_version: self.server_version.to_string(),
            start: self.start.encode(),
            stop: self.stop.encode(),
            wal: self.wal,
            wal_ranges: self.wal_ranges.iter().map(encode_range).collect(),
            data_directory_mode: format!("{:04o}", self.modes.default_directory_mode()),
            manifest_checksums: self.manifest_checksums.to_string(),
            archives: archives.map(encode_archive).collect(),
            manifest: manifest.map_or(PiecesContent { pieces: 0, bytes: 0, stored_bytes: 0 }, encode_pieces),
            files: self.file_count,
            bytes: self.byte_count,
            stored_bytes: self.stored_len(),
            sha256sums: sums::hex(&self.sums),
        };
        let mut text =
            serde_json::to_vec_pretty(&content).expect("strings and numbers can be written as JSON");
        text.push(b'\n');
        text.into()
    }

    /// What an object says; `None` where it is no record, or of a later format.
    pub(super) fn decode(content: &[u8]) -> Option<Self> {
        let content: Content = serde_json::from_slice(content).ok()?;
        if content.format != FORMAT
            || content.archives.len() > MAX_ARCHIVES
            || content.wal_ranges.len() > MAX_RANGES
        {
            return None;
        }
        let mut streams: Vec<StreamRecord> =
            content.archives.iter().map(decode_archive).collect::<Option<_>>()?;
        // the data directory's is the last, and there is no second one of any
        let is_base = |stream: &StreamRecord| stream.content == StreamContent::DataDirectory;
        let mut names: Vec<String> = streams.iter().map(|stream| stream.content.stream_name()).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() != streams.len() || !streams.last().is_some_and(is_base) {
            return None;
        }
        streams.push(decode_pieces(StreamContent::Manifest, &content.manifest)?);
        let record = BackupRecord {
            name: content.name.parse().ok()?,
            parent: content.parent.map(|parent| parent.parse()).transpose().ok()?,
            label: content.label,
            system_identifier: content.system_identifier.parse().ok()?,
            server_version: content.server_version.parse().ok()?,
            start: content.start.decode()?,
            stop: content.stop.decode()?,
            wal: content.wal,
            wal_ranges: content.wal_ranges.iter().map(decode_range).collect::<Option<_>>()?,
            manifest_checksums: content.manifest_checksums.parse().ok()?,
            modes: match content.data_directory_mode.as_str() {
                "0700" => DirectoryModes::OwnerOnly,
                "0750" => DirectoryModes::GroupRead,
                _ => return None,
            },
            streams,
            file_count: content.files,
            byte_count: content.bytes,
            sums: sums::parse_hex(&content.sha256sums)?,
        };
        let forward = record.start.lsn < record.stop.lsn && record.start.timeline <= record.stop.timeline;
        (forward && record.parent.as_ref() != Some(&record.name)).then_some(record)
    }
}

impl BackupPoint {
    fn encode(self) -> PointContent {
        PointContent { timeline: self.timeline.as_u32(), lsn: self.lsn.to_string(), at: self.at.to_string() }
    }
}

impl PointContent {
    fn decode(&self) -> Option<BackupPoint> {
        Some(BackupPoint {
            timeline: TimelineId::new(self.timeline)?,
            lsn: self.lsn.parse().ok()?,
            at: self.at.parse().ok()?,
        })
    }
}

fn encode_range(range: &WalRange) -> RangeContent {
    RangeContent {
        timeline: range.timeline.as_u32(),
        start_lsn: range.start_lsn.to_string(),
        end_lsn: range.end_lsn.to_string(),
    }
}

fn decode_range(range: &RangeContent) -> Option<WalRange> {
    let (start_lsn, end_lsn): (Lsn, Lsn) = (range.start_lsn.parse().ok()?, range.end_lsn.parse().ok()?);
    let timeline = TimelineId::new(range.timeline)?;
    (start_lsn <= end_lsn).then_some(WalRange { timeline, start_lsn, end_lsn })
}

fn encode_pieces(stream: &StreamRecord) -> PiecesContent {
    PiecesContent { pieces: stream.piece_count, bytes: stream.len, stored_bytes: stream.stored_len }
}

fn decode_pieces(content: StreamContent, pieces: &PiecesContent) -> Option<StreamRecord> {
    let (piece_count, len, stored_len) = (pieces.pieces, pieces.bytes, pieces.stored_bytes);
    let fits =
        piece_count <= MAX_PIECES && len <= u64::from(piece_count) * super::piece_writer::PIECE_LEN as u64;
    fits.then_some(StreamRecord { content, piece_count, len, stored_len })
}

fn encode_archive(stream: &StreamRecord) -> ArchiveRecord {
    let (mut tablespace, mut location, mut encoded_location) = (None, None, None);
    if let StreamContent::Tablespace { oid, location: bytes } = &stream.content {
        tablespace = Some(*oid);
        match std::str::from_utf8(bytes) {
            Ok(text) => location = Some(text.to_owned()),
            Err(_) => encoded_location = Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
    ArchiveRecord {
        name: stream.content.stream_name(),
        tablespace,
        location,
        encoded_location,
        pieces: encode_pieces(stream),
    }
}

fn decode_archive(archive: &ArchiveRecord) -> Option<StreamRecord> {
    let content = match (archive.tablespace, &archive.location, &archive.encoded_location) {
        (None, None, None) => StreamContent::DataDirectory,
        (Some(oid), Some(text), None) => {
            StreamContent::Tablespace { oid, location: Bytes::copy_from_slice(text.as_bytes()) }
        }
        (Some(oid), None, Some(digits)) => {
            StreamContent::Tablespace { oid, location: decode_hex(digits)?.into() }
        }
        _ => return None,
    };
    let acceptable = match &content {
        StreamContent::Tablespace { oid, location } => *oid > 0 && !location.is_empty(),
        _ => true,
    };
    if !acceptable || archive.name != content.stream_name() {
        return None;
    }
    decode_pieces(content, &archive.pieces)
}

fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A backup of a cluster with two tablespaces.
    pub(in crate::repository) fn example(name: &str, parent: Option<&str>, lsn: u64) -> BackupRecord {
        let timeline = TimelineId::FIRST;
        let name: BackupName = name.parse().unwrap();
        let at = |second: i64| {
            let text = name.as_str();
            let micros = format!(
                "{}-{}-{}T{}:{}:{}Z",
                &text[..4],
                &text[4..6],
                &text[6..8],
                &text[9..11],
                &text[11..13],
                &text[13..15]
            );
            let begun: Timestamp = micros.parse().unwrap();
            Timestamp::from_unix_micros(begun.unix_micros() + second * 1_000_000)
        };
        let stream =
            |content| StreamRecord { content, piece_count: 2, len: 20_000_000, stored_len: 5_000_000 };
        let location = |bytes: &'static [u8]| Bytes::from_static(bytes);
        let (start_lsn, end_lsn) = (Lsn::new(lsn), Lsn::new(lsn + 0x100));
        BackupRecord {
            parent: parent.map(|parent| parent.parse().unwrap()),
            label: "nightly".to_owned(),
            system_identifier: SystemIdentifier::new(7_710_876_330_348_008_478),
            server_version: ServerVersion::new(17, 6),
            start: BackupPoint { timeline, lsn: start_lsn, at: at(0) },
            stop: BackupPoint { timeline, lsn: end_lsn, at: at(7) },
            wal: WalPlace::Archive,
            wal_ranges: vec![WalRange { timeline, start_lsn, end_lsn }],
            manifest_checksums: ChecksumAlgorithm::Crc32c,
            modes: DirectoryModes::OwnerOnly,
            streams: vec![
                stream(StreamContent::Tablespace { oid: 16384, location: location(b"/srv/ts") }),
                stream(StreamContent::Tablespace { oid: 16385, location: location(b"/srv/\xff") }),
                stream(StreamContent::DataDirectory),
                stream(StreamContent::Manifest),
            ],
            file_count: 900,
            byte_count: 58_000_000,
            sums: [0xab; 32],
            name,
        }
    }

    #[test]
    fn records_survive_and_what_contradicts_itself_is_none() {
        let record = example("20261126T134500Z-3f9a1c07", Some("20261125T134500Z-00000001"), 0x200_0028);
        let content = record.encode();
        assert_eq!(BackupRecord::decode(&content), Some(record));
        let text = std::str::from_utf8(&content).unwrap();
        for (from, to) in [
            ("\"format\": 1", "\"format\": 2"),
            ("\"0/2000128\"", "\"0/2000028\""),
            ("\"0700\"", "\"0777\""),
            ("base.tar", "../base.tar"),
            ("16384.tar", "16385.tar"),
            ("\"tablespace\": 16384", "\"tablespace\": 16385"),
            ("\"pieces\": 2", "\"pieces\": 1"),
            ("20261125T134500Z-00000001", "20261126T134500Z-3f9a1c07"),
            ("2f7372762fff", "2f7372762ff"),
            ("\"wal\": \"archive\"", "\"wal\": \"lost\""),
        ] {
            assert!(text.contains(from), "{from}");
            assert_eq!(BackupRecord::decode(text.replace(from, to).as_bytes()), None, "{from}");
        }
        assert_eq!(BackupRecord::decode(b"{}"), None);
    }
}
