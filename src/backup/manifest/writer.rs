//! The manifest written: the same bytes as the server's and `pg_combinebackup`'s, gathered in memory. No I/O.
//!
//! Answers to `AddFileToBackupManifest` in PostgreSQL's `backup_manifest.c` and `write_manifest.c` of
//! `pg_combinebackup`, which write the same. What is listed is handed over in pieces ([`ManifestWriter::take`]), so
//! memory does not grow with the cluster.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::pg::{ChecksumAlgorithm, Lsn, SystemIdentifier};

use super::parser::WalRange;

/// One file, as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestEntry<'a> {
    /// The path below the data directory, in whatever encoding.
    pub path: &'a [u8],
    /// Its size in bytes.
    pub size: u64,
    /// Its time of modification, in seconds since 1970.
    pub modified_at: i64,
    /// The algorithm of its checksum.
    pub algorithm: ChecksumAlgorithm,
    /// The checksum; empty where there is none, and then the algorithm is not named either.
    pub checksum: &'a [u8],
}

/// How positions are printed: it changed with 19.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LsnStyle {
    /// `0/3000028`.
    Plain,
    /// `0/03000028`.
    Padded,
}

/// A manifest of version 2 in the making.
#[derive(Debug)]
pub struct ManifestWriter {
    text: Vec<u8>,
    checksum: Sha256,
    is_first: bool,
}

impl ManifestWriter {
    /// The beginning of a manifest.
    pub fn begin(system_identifier: SystemIdentifier) -> Self {
        let text = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n\"Files\": ["
        );
        ManifestWriter { text: text.into_bytes(), checksum: Sha256::new(), is_first: true }
    }

    /// Lists a file.
    pub fn add(&mut self, entry: &ManifestEntry<'_>) {
        let mut line = String::with_capacity(200 + entry.path.len());
        line.push_str(if self.is_first { "\n" } else { ",\n" });
        self.is_first = false;
        match std::str::from_utf8(entry.path) {
            Ok(path) => {
                line.push_str("{ \"Path\": ");
                push_json_string(&mut line, path);
            }
            Err(_) => {
                line.push_str("{ \"Encoded-Path\": \"");
                push_hex(&mut line, entry.path);
                line.push('"');
            }
        }
        let _ = write!(line, ", \"Size\": {}, \"Last-Modified\": \"", entry.size);
        push_time(&mut line, entry.modified_at);
        line.push('"');
        if !entry.checksum.is_empty() {
            let _ = write!(line, ", \"Checksum-Algorithm\": \"{}\", \"Checksum\": \"", entry.algorithm);
            push_hex(&mut line, entry.checksum);
            line.push('"');
        }
        line.push_str(" }");
        self.text.extend_from_slice(line.as_bytes());
    }

    /// How much has gathered.
    pub fn pending_len(&self) -> usize {
        self.text.len()
    }

    /// What has gathered, to be written where the manifest goes.
    pub fn take(&mut self) -> Vec<u8> {
        self.checksum.update(&self.text);
        std::mem::take(&mut self.text)
    }

    /// The rest, with the manifest's checksum of itself.
    pub fn finish(mut self, wal_ranges: &[WalRange], style: LsnStyle) -> Vec<u8> {
        let mut rest = String::from("\n],\n\"WAL-Ranges\": [\n");
        for (number, range) in wal_ranges.iter().enumerate() {
            rest.push_str(if number == 0 { "" } else { ",\n" });
            let _ = write!(
                rest,
                "{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                range.timeline,
                style.show(range.start_lsn),
                style.show(range.end_lsn)
            );
        }
        rest.push_str("\n],\n");
        self.text.extend_from_slice(rest.as_bytes());
        self.checksum.update(&self.text);
        let mut last = String::from("\"Manifest-Checksum\": \"");
        push_hex(&mut last, &self.checksum.finalize());
        last.push_str("\"}\n");
        self.text.extend_from_slice(last.as_bytes());
        self.text
    }
}

impl LsnStyle {
    /// A position in this style.
    pub fn show(self, lsn: Lsn) -> String {
        match self {
            LsnStyle::Plain => lsn.to_string(),
            LsnStyle::Padded => format!("{:X}/{:08X}", lsn.as_u64() >> 32, lsn.as_u64() as u32),
        }
    }
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(line, "{byte:02x}");
    }
}

/// `escape_json`: everything below a blank, the quote and the backslash.
fn push_json_string(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '\u{8}' => line.push_str("\\b"),
            '\u{c}' => line.push_str("\\f"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(line, "\\u{:04x}", u32::from(control));
            }
            other => line.push(other),
        }
    }
    line.push('"');
}

const SECONDS_PER_DAY: i64 = 86_400;

/// `%Y-%m-%d %H:%M:%S GMT`, in the Gregorian calendar.
fn push_time(line: &mut String, seconds: i64) {
    let (days, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    // Years are counted from the first of March, so that the leap day is a year's last: eras of 400 years, each of
    // 146,097 days, the first of which began on 0000-03-01, 719,468 days before 1970.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (400 * era + year_of_era, month + 3),
        _ => (400 * era + year_of_era + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ = write!(line, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} GMT");
}

#[cfg(test)]
mod tests {
    use super::super::{ManifestError, ManifestParser};
    use super::*;
    use crate::pg::TimelineId;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> WalRange {
        let timeline = TimelineId::new(2).unwrap();
        WalRange { timeline, start_lsn: Lsn::new(start), end_lsn: Lsn::new(end) }
    }

    #[test]
    fn writes_what_pg_combinebackup_writes() {
        let mut writer = ManifestWriter::begin(SystemIdentifier::new(7_712_238_886_358_688_657));
        let (algorithm, checksum) = (ChecksumAlgorithm::Crc32c, &[0xbf, 0x4a, 0x1c, 0x1c][..]);
        let modified_at = 1_795_645_547;
        writer.add(&ManifestEntry { path: b"backup_label", size: 227, modified_at, algorithm, checksum });
        let mut text = writer.take();
        let path = b"pg_wal/000000010000000000000007";
        writer.add(&ManifestEntry { path, size: 16_777_216, modified_at, algorithm, checksum: b"" });
        writer.add(&ManifestEntry { path: b"\xff\"", size: 0, modified_at, algorithm, checksum });
        text.extend(writer.finish(&[range(0x700_0028, 0x700_0128), range(1, 2)], LsnStyle::Padded));
        let text = String::from_utf8(text).unwrap();
        let (front, _) = text.split_once("\"Manifest-Checksum\"").unwrap();
        assert_eq!(
            front,
            "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7712238886358688657,\n\"Files\": [\n\
             { \"Path\": \"backup_label\", \"Size\": 227, \"Last-Modified\": \"2026-11-25 22:25:47 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"bf4a1c1c\" },\n\
             { \"Path\": \"pg_wal/000000010000000000000007\", \"Size\": 16777216, \
             \"Last-Modified\": \"2026-11-25 22:25:47 GMT\" },\n\
             { \"Encoded-Path\": \"ff22\", \"Size\": 0, \"Last-Modified\": \"2026-11-25 22:25:47 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"bf4a1c1c\" }\n],\n\"WAL-Ranges\": [\n\
             { \"Timeline\": 2, \"Start-LSN\": \"0/07000028\", \"End-LSN\": \"0/07000128\" },\n\
             { \"Timeline\": 2, \"Start-LSN\": \"0/00000001\", \"End-LSN\": \"0/00000002\" }\n],\n"
        );
    }

    #[test]
    fn times_are_the_calendars() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 GMT"),
            (951_782_399, "2000-02-28 23:59:59 GMT"),
            (951_782_400, "2000-02-29 00:00:00 GMT"),
            (4_107_542_400, "2100-03-01 00:00:00 GMT"),
            (-1, "1969-12-31 23:59:59 GMT"),
            (1_798_761_599, "2026-12-31 23:59:59 GMT"),
            (1_798_761_600, "2027-01-01 00:00:00 GMT"),
        ] {
            let mut line = String::new();
            push_time(&mut line, seconds);
            assert_eq!(line, expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            files in proptest::collection::vec(
                (proptest::collection::vec(1u8.., 1..40), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..5)), 0..6),
            style in prop_oneof![Just(LsnStyle::Plain), Just(LsnStyle::Padded)],
        ) {
            let identifier = SystemIdentifier::new(7);
            let mut writer = ManifestWriter::begin(identifier);
            let mut text = Vec::new();
            for (path, size, checksum) in &files {
                let algorithm = ChecksumAlgorithm::Sha256;
                writer.add(&ManifestEntry { path, size: *size, modified_at: 1, algorithm, checksum });
                text.extend(writer.take());
            }
            text.extend(writer.finish(&[range(5, 9)], style));
            let mut parser = ManifestParser::new();
            let mut read = Vec::new();
            parser.push(&text, |file| {
                read.push((file.path.to_vec(), file.size, file.checksum.to_vec()));
                Ok::<(), ManifestError>(())
            }).unwrap();
            let summary = parser.finish().unwrap();
            prop_assert_eq!(read, files);
            prop_assert_eq!(summary.system_identifier, Some(identifier));
            prop_assert_eq!(summary.wal_ranges, vec![range(5, 9)]);
        }
    }
}
