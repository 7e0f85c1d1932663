use super::*;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// A manifest with a right checksum, from what stands before the last line.
fn seal(body: &str) -> String {
    use std::fmt::Write;
    let mut manifest = body.to_owned();
    let digest = Sha256::digest(body.as_bytes());
    manifest += "\"Manifest-Checksum\": \"";
    digest.iter().for_each(|byte| write!(manifest, "{byte:02x}").unwrap());
    manifest + "\"}\n"
}

const HEAD: &str =
    "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7710876330348008478,\n";
const FILES: &str = "\"Files\": [\n\
    { \"Path\": \"base/1/1259\", \"Size\": 106496, \"Last-Modified\": \"2026-01-31 10:00:00 GMT\", \
    \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"5b9a769c\" },\n\
    { \"Encoded-Path\": \"ff2f61\", \"Size\": 0, \"Last-Modified\": \"2026-01-31 10:00:00 GMT\" }\n],\n";
const RANGES: &str =
    "\"WAL-Ranges\": [\n{ \"Timeline\": 2, \"Start-LSN\": \"0/B00000\", \"End-LSN\": \"0/C00028\" }\n],\n";

type Listed = Vec<(Vec<u8>, u64, ChecksumAlgorithm, Vec<u8>)>;

fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<(Listed, ManifestSummary), ManifestError> {
    let mut parser = ManifestParser::new();
    let mut files = Vec::new();
    for chunk in chunks {
        parser.push(chunk, |file| {
            files.push((file.path.to_vec(), file.size, file.algorithm, file.checksum.to_vec()));
            Ok::<(), ManifestError>(())
        })?;
    }
    parser.finish().map(|summary| (files, summary))
}

fn read_text(text: &str) -> Result<(Listed, ManifestSummary), ManifestError> {
    read([text.as_bytes()])
}

#[test]
fn reads_version_2() {
    let (files, summary) = read_text(&seal(&[HEAD, FILES, RANGES].concat())).unwrap();
    assert_eq!(
        files,
        [
            (b"base/1/1259".to_vec(), 106_496, ChecksumAlgorithm::Crc32c, vec![0x5b, 0x9a, 0x76, 0x9c]),
            (b"\xff/a".to_vec(), 0, ChecksumAlgorithm::None, vec![]),
        ]
    );
    assert_eq!(summary.version, 2);
    assert_eq!(summary.system_identifier, Some(SystemIdentifier::new(7_710_876_330_348_008_478)));
    assert_eq!((summary.file_count, summary.total_size), (2, 106_496));
    let [range] = summary.wal_ranges[..] else { panic!("one range") };
    assert_eq!((range.timeline.as_u32(), range.end_lsn), (2, Lsn::new(0xC0_0028)));
}

#[test]
fn reads_version_1_and_no_files() {
    let head = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n";
    let (files, summary) = read_text(&seal(&[head, "\"Files\": [],\n", RANGES].concat())).unwrap();
    assert_eq!((files.len(), summary.version, summary.system_identifier), (0, 1, None));
}

#[test]
fn refuses_what_servers_do_not_write() {
    use ManifestError as E;
    let file = |fields: &str| seal(&format!("{HEAD}\"Files\": [{{{fields}}}],\n{RANGES}"));
    let range = |fields: &str| seal(&format!("{HEAD}{FILES}\"WAL-Ranges\": [{{{fields}}}],\n"));
    let version = |number| seal(&format!("{{\"PostgreSQL-Backup-Manifest-Version\": {number},\n"));
    let good = seal(&[HEAD, FILES, RANGES].concat());
    for (manifest, expected) in [
        (version("3"), E::Version(b"3".to_vec())),
        (version("\"1\""), E::Value("PostgreSQL-Backup-Manifest-Version")),
        (seal(&format!("{{{FILES}\n")), E::VersionNotFirst),
        (seal(&[HEAD, FILES, FILES].concat()), E::DuplicateField("Files")),
        (seal(&[HEAD, FILES].concat()), E::MissingField("WAL-Ranges")),
        (seal(&[HEAD, RANGES].concat()), E::MissingField("Files")),
        (
            seal(&format!("{}{FILES}{RANGES}", version("2").lines().next().unwrap())),
            E::MissingField("System-Identifier"),
        ),
        (
            seal(&format!("{HEAD}\"Extra\": 1,\n")),
            E::UnknownField { field: b"Extra".to_vec(), place: "top level" },
        ),
        (file(r#""Size": 1"#), E::MissingField("Path")),
        (file(r#""Path": "a""#), E::MissingField("Size")),
        (file(r#""Path": "a", "Encoded-Path": "61", "Size": 1"#), E::DuplicateField("Path")),
        (file(r#""Path": "a", "Path": "a", "Size": 1"#), E::DuplicateField("Path")),
        (file(r#""Path": "", "Size": 1"#), E::Value("Path")),
        (file(r#""Encoded-Path": "", "Size": 1"#), E::Value("Encoded-Path")),
        (file(r#""Encoded-Path": "6", "Size": 1"#), E::Value("Encoded-Path")),
        (file(r#""Encoded-Path": "6g", "Size": 1"#), E::Value("Encoded-Path")),
        (file(r#""Path": "a", "Size": "1""#), E::Value("Size")),
        (file(r#""Path": "a", "Size": 18446744073709551616"#), E::Value("Size")),
        (file(r#""Path": 1"#), E::Value("Path")),
        (file(r#""Path": "a", "Size": 1, "Checksum": "00""#), E::MissingField("Checksum-Algorithm")),
        (file(r#""Path": "a", "Size": 1, "Checksum-Algorithm": "SHA256""#), E::MissingField("Checksum")),
        (
            file(r#""Path": "a", "Size": 1, "Checksum-Algorithm": "MD5""#),
            E::ChecksumAlgorithm(b"MD5".to_vec()),
        ),
        (
            file(r#""Path": "a", "Checksum": "0g""#),
            E::FileChecksum { path: b"a".to_vec(), checksum: b"0g".to_vec() },
        ),
        (file(r#""Checksum": "0""#), E::FileChecksum { path: Vec::new(), checksum: b"0".to_vec() }),
        (
            file(r#""Path": "a", "Timeline": 1"#),
            E::UnknownField { field: b"Timeline".to_vec(), place: "a file" },
        ),
        (range(r#""Timeline": 1, "Start-LSN": "0/1""#), E::MissingField("End-LSN")),
        (range(r#""Timeline": 1, "End-LSN": "0/1""#), E::MissingField("Start-LSN")),
        (range(r#""Start-LSN": "0/1", "End-LSN": "0/1""#), E::MissingField("Timeline")),
        (range(r#""Timeline": 0"#), E::Value("Timeline")),
        (range(r#""Timeline": 4294967296"#), E::Value("Timeline")),
        (range(r#""Start-LSN": "x""#), E::Value("Start-LSN")),
        (range(r#""Timeline": 1, "Start-LSN": "0/2", "End-LSN": "0/1""#), E::Value("End-LSN")),
        (good.replace("106496", "106497"), E::SelfChecksumMismatch),
        (good.replacen("}\n,", "}\n, ", 1).replace("\"}\n", "\"}\n\n"), E::SelfChecksumMismatch),
        (good.trim_end().to_owned(), E::SelfChecksum(SelfChecksumError::NoFinalNewline)),
        (good.trim_end().trim_end_matches('}').to_owned(), E::UnexpectedEnd),
        (String::new(), E::UnexpectedEnd),
        (good.clone() + "{", E::Unexpected { found: "object", expected: "the end" }),
        ("[]".to_owned(), E::Unexpected { found: "array", expected: "an object" }),
        (seal(&format!("{HEAD}\"Files\": [{{}}],\n")), E::MissingField("Path")),
        (
            seal(&format!("{HEAD}\"Files\": {{}},\n")),
            E::Unexpected { found: "object", expected: "a value of the right type" },
        ),
    ] {
        assert_eq!(read_text(&manifest).map(|_| ()), Err(expected), "{manifest}");
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let text = seal(&[HEAD, FILES, RANGES].concat());
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]);
        prop_assert_eq!(read(chunks), read_text(&text));
    }

    #[test]
    fn any_flipped_bit_is_found(byte in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut text = seal(&[HEAD, FILES, RANGES].concat()).into_bytes();
        let index = byte.index(text.len());
        text[index] ^= 1 << bit;
        // The case of a hexadecimal digit is the one thing that carries no information.
        let same = text[index].is_ascii_hexdigit() && (text[index] ^ (1 << bit)).eq_ignore_ascii_case(&text[index]);
        prop_assert!(same || read([&text[..]]).is_err());
    }
}

#[test]
fn ranges_lead_from_the_start_to_the_end_without_a_break() {
    let timeline = |number| TimelineId::new(number).unwrap();
    let range = |number, start, end| WalRange {
        timeline: timeline(number),
        start_lsn: Lsn::new(start),
        end_lsn: Lsn::new(end),
    };
    let leads = |ranges: &[WalRange]| {
        WalRange::lead(ranges, (timeline(1), Lsn::new(10)), (timeline(3), Lsn::new(40)))
    };
    assert!(leads(&[range(3, 30, 40), range(2, 20, 30), range(1, 10, 20)]));
    assert!(leads(&[range(3, 20, 40), range(1, 10, 20)]));
    assert!(!leads(&[]));
    assert!(!leads(&[range(3, 10, 40)]), "it begins on another timeline");
    assert!(!leads(&[range(3, 21, 40), range(1, 10, 20)]), "a break");
    assert!(!leads(&[range(3, 20, 39), range(1, 10, 20)]), "it ends before");
    assert!(!leads(&[range(3, 20, 40), range(1, 11, 20)]), "it begins behind");
    assert!(!leads(&[range(1, 10, 20), range(3, 20, 40)]), "oldest first");
    assert!(!leads(&[range(3, 50, 40), range(1, 10, 50)]), "one goes back");
}
