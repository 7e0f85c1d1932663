//! The bodies of the fuzz targets. Each asserts what must hold for every input; `tests/corpus.rs` replays the corpora.

use bytes::{Buf, Bytes};

use super::archive_stream::{ArchiveEvent, ArchiveStream};
use super::backup_label::BackupLabel;
use super::combine::incremental_file::{IncrementalHeader, IncrementalHeaderError, IncrementalHeaderParser};
use super::combine::label::{ChainLabel, without_incremental_lines};
use super::combine::plan::{BlockSource, ReconstructionPlan};
use super::manifest::{ManifestError, ManifestParser, ManifestSummary};
use super::tablespace_map::{MapEscapes, TablespaceMap, TablespaceMapError, TablespaceMapParser};
use super::tar_header::MemberKind;
use super::tar_rewriter::{Added, TarRewriter};
use super::tar_stream::{ArchiveEnd, TarError, TarEvent, TarStream};
use super::target::StandbyFiles;
use super::verify::{ArchiveFault, index_archive_with};

/// Payloads, each behind its length in four bytes (big-endian): no data before an archive, none after the manifest
/// but its own, and only plain names.
pub fn fuzz_archive_stream(data: &[u8]) {
    let mut rest = Bytes::copy_from_slice(data);
    let mut stream = ArchiveStream::tagged();
    let (mut archives, mut manifests) = (0u32, 0u32);
    while let Ok(len) = rest.try_get_u32() {
        let payload = rest.split_to(rest.len().min(len as usize));
        let payload_len = payload.len();
        let Ok(event) = stream.decode(payload) else { return };
        match event {
            ArchiveEvent::ArchiveBegin(archive) => {
                archives += 1;
                assert!(manifests == 0 && !archive.file_name.contains(['/', '\\', '\0']));
                assert!(!archive.file_name.is_empty() && !archive.file_name.starts_with('.'));
            }
            ArchiveEvent::ArchiveData(data) => {
                assert!(archives > 0 && manifests == 0 && data.len() + 1 == payload_len);
            }
            ArchiveEvent::ManifestBegin => manifests += 1,
            ArchiveEvent::ManifestData(_) => assert_eq!(manifests, 1),
            ArchiveEvent::Progress { bytes } => assert!(bytes <= i64::MAX as u64),
        }
        assert!(manifests <= 1 && (stream.finish().is_ok() || archives == 0 || manifests == 0));
    }
}

/// An archive, read whole and in pieces (their size from the first byte): the same members and contents, contents as
/// long as announced, names beneath the target. Without a look at the contents: the same files, where they are.
pub fn fuzz_tar(data: &[u8]) {
    let [piece, archive @ ..] = data else { return };
    let archive = Bytes::copy_from_slice(archive);
    let whole = read_tar(std::iter::once(archive.clone()));
    let piece = usize::from(*piece) + 1;
    let starts = (0..archive.len()).step_by(piece);
    let pieces = read_tar(starts.map(|start| archive.slice(start..archive.len().min(start + piece))));
    assert_eq!(whole.0, pieces.0);
    assert_eq!(whole.1.is_ok(), pieces.1.is_ok());
    let (indexed, ended) = index_tar(&archive);
    assert_eq!(whole.1.is_ok(), ended.is_ok(), "{:?} and {ended:?}", whole.1);
    let files: Members = whole.0.iter().filter(|member| member.3).cloned().collect();
    if whole.1.is_ok() {
        assert_eq!(indexed, files);
    } else {
        // what is cut short is noticed before its content is looked for
        assert!(files.starts_with(&indexed), "{indexed:?} of {files:?}");
    }
    let starts = (0..archive.len()).step_by(piece);
    let rewritten = rewrite(starts.map(|start| archive.slice(start..archive.len().min(start + piece))));
    assert_eq!(rewrite(std::iter::once(archive.clone())), rewritten);
    if let Some(rewritten) = rewritten {
        let again = read_tar(std::iter::once(Bytes::from(rewritten)));
        assert!(again.1.is_ok(), "what was rewritten cannot be read: {:?}", again.1);
        let signal =
            |members: &Members| members.iter().filter(|member| member.0 == b"standby.signal").count();
        assert_eq!(again.0.len() - signal(&again.0), whole.0.len() - signal(&whole.0) + added(&whole.0));
        assert_eq!(signal(&again.0), 1);
    }
}

/// The files of an archive as they are found without reading them; their contents are read afterwards.
fn index_tar(archive: &[u8]) -> (Members, Result<(), ArchiveFault>) {
    let mut files = Members::new();
    let read = |buffer: &mut [u8], offset: u64| {
        let rest = archive.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    };
    let ended = index_archive_with(archive.len() as u64, read, |file| {
        let content = &archive[file.offset as usize..][..file.len as usize];
        files.push((file.path.as_bytes().to_vec(), file.len, crc32c::crc32c(content), true));
        Ok(())
    });
    (files, ended)
}

/// How many files a standby's configuration adds to these: one, where it can be appended to none.
fn added(members: &Members) -> usize {
    usize::from(!members.iter().any(|member| member.0 == b"postgresql.auto.conf" && member.3))
}

/// The archive with a standby's configuration in it, unless it cannot be read.
fn rewrite(chunks: impl Iterator<Item = Bytes>) -> Option<Vec<u8>> {
    let standby = StandbyFiles {
        configuration: "postgresql.auto.conf",
        lines: Bytes::from_static(b"x = 'y'\n"),
        signal: Some("standby.signal"),
    };
    let mut rewriter = TarRewriter::new(Some(standby), Added { mode: 0o600, mtime: 0 });
    let mut out = Vec::new();
    for chunk in chunks {
        rewriter.push(chunk, &mut out).ok()?;
    }
    rewriter.finish(ArchiveEnd::Unterminated, [], &mut out).ok()?;
    Some(out.concat())
}

/// Name, announced length, CRC of the content, and whether it is a file, of each member up to the end or the first error.
type Members = Vec<(Vec<u8>, u64, u32, bool)>;

fn read_tar(chunks: impl Iterator<Item = Bytes>) -> (Members, Result<(), TarError>) {
    let mut members = Members::new();
    let result = try_read_tar(chunks, &mut members);
    (members, result)
}

fn try_read_tar(chunks: impl Iterator<Item = Bytes>, members: &mut Members) -> Result<(), TarError> {
    let mut stream = TarStream::new();
    let mut remaining = 0;
    for chunk in chunks {
        stream.push(chunk);
        while let Some(event) = stream.poll()? {
            match event {
                TarEvent::Member(member) => {
                    assert_eq!(remaining, 0, "a member began inside another");
                    remaining = if let MemberKind::File { len } = member.kind { len } else { 0 };
                    let path = member.path.as_path();
                    assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                    let is_file = matches!(member.kind, MemberKind::File { .. });
                    members.push((member.path.as_bytes().to_vec(), remaining, 0, is_file));
                }
                TarEvent::Data(data) => {
                    assert!(!data.is_empty() && data.len() as u64 <= remaining);
                    remaining -= data.len() as u64;
                    if let Some((_, _, crc, _)) = members.last_mut() {
                        *crc = crc32c::crc32c_append(*crc, &data);
                    }
                }
                TarEvent::MemberEnd => assert_eq!(remaining, 0, "a member ended short"),
                TarEvent::End => assert_eq!(remaining, 0),
            }
        }
    }
    stream.finish(ArchiveEnd::Unterminated)?;
    assert_eq!(remaining, 0, "the archive ended inside a member");
    Ok(())
}

/// A manifest, read whole and byte by byte: the same files and summary, or the same error. What is accepted is JSON,
/// with as many files.
pub fn fuzz_manifest(data: &[u8]) {
    let whole = read_manifest(std::iter::once(data));
    let bytes = read_manifest(data.chunks(1));
    assert_eq!(whole, bytes);
    if let (files, Ok(summary)) = whole {
        assert_eq!(files.len() as u64, summary.file_count);
        // Values are compared where the oracle keeps them: it wants UTF-8, and bounds numbers differently.
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(data) {
            let listed = json.get("Files").and_then(serde_json::Value::as_array).map(Vec::len);
            assert_eq!(listed, Some(files.len()));
        } else {
            assert!(std::str::from_utf8(data).is_err() || has_leading_zero(data), "accepted what is no JSON");
        }
    }
}

/// The one liberty of our lexer: numbers may start with zeros.
fn has_leading_zero(data: &[u8]) -> bool {
    data.windows(2).any(|pair| pair[0] == b'0' && pair[1].is_ascii_digit())
}

type Files = Vec<(Vec<u8>, u64, Vec<u8>)>;

fn read_manifest<'a>(
    mut chunks: impl Iterator<Item = &'a [u8]>,
) -> (Files, Result<ManifestSummary, ManifestError>) {
    let mut parser = ManifestParser::new();
    let mut files = Files::new();
    let pushed = chunks.try_for_each(|chunk| {
        parser.push(chunk, |file| {
            assert!(!file.path.is_empty());
            files.push((file.path.to_vec(), file.size, file.checksum.to_vec()));
            Ok::<(), ManifestError>(())
        })
    });
    (files, pushed.and_then(|()| parser.finish()))
}

/// A label: what is read from it can be written down and read again.
pub fn fuzz_backup_label(data: &[u8]) {
    let Ok(label) = BackupLabel::parse(data) else { return };
    let again = format!(
        "START WAL LOCATION: {} (file {:08X}0000000000000001)\nCHECKPOINT LOCATION: {}\nSTART TIMELINE: {}\n",
        label.start_lsn,
        label.start_timeline.as_u32(),
        label.checkpoint_lsn,
        label.start_timeline
    );
    let again = BackupLabel::parse(again.as_bytes()).expect("what was read can be read again");
    assert_eq!(
        (again.start_lsn, again.checkpoint_lsn, again.start_timeline),
        (label.start_lsn, label.checkpoint_lsn, label.start_timeline)
    );
}

/// A label, as a link of a chain: what is read is in what goes into a full backup's label, which names no other.
pub fn fuzz_chain_label(data: &[u8]) {
    let full = without_incremental_lines(data);
    assert!(full.len() <= data.len());
    let Ok(label) = ChainLabel::parse(data) else { return };
    assert_eq!(ChainLabel::parse(&full), Ok(ChainLabel { incremental_from: None, ..label }));
    assert_eq!(without_incremental_lines(&full), full);
}

/// A map of tablespaces, read whole and byte by byte: the same map, or the same error. What is read can be written down
/// and read again.
pub fn fuzz_tablespace_map(data: &[u8]) {
    let whole = read_tablespace_map(std::iter::once(data));
    assert_eq!(whole, read_tablespace_map(data.chunks(1)));
    let Ok(map) = whole else { return };
    let mut again = Vec::new();
    for (oid, path) in map.paths() {
        again.extend_from_slice(format!("{oid} ").as_bytes());
        again.extend(path.iter().flat_map(|&byte| [b'\\', byte]));
        again.push(b'\n');
    }
    assert_eq!(read_tablespace_map(std::iter::once(&again[..])).as_ref(), Ok(&map));
    assert_eq!(map.check(map.paths()), Ok(()));
}

fn read_tablespace_map<'a>(
    mut pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<TablespaceMap, TablespaceMapError> {
    let mut parser = TablespaceMapParser::new(MapEscapes::Backslashes);
    pieces.try_for_each(|piece| parser.push(piece))?;
    parser.finish()
}

/// An incremental file and an older one (the first two bytes say where one ends), read whole and byte by byte: the same
/// header, or the same error. What is planned from them stays within the files.
pub fn fuzz_incremental_file(data: &[u8]) {
    let [high, low, data @ ..] = data else { return };
    let (newest, older) = data.split_at(data.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
    let headers = [newest, older].map(|file| {
        let whole = read_header(std::iter::once(file));
        assert_eq!(whole, read_header(file.chunks(1)));
        whole
    });
    let [Ok(newest), older] = headers else { return };
    let mut plan = ReconstructionPlan::new(2, &newest);
    if let Ok(older) = &older {
        plan.add_incremental(1, older);
    }
    let full_len = data.len() as u64 * 1000;
    plan.add_full(0, full_len);
    let lens = [full_len, older.map_or(0, |older| older.file_len()), newest.file_len()];
    assert_eq!(plan.block_length(), newest.rebuilt_block_length());
    let mut next = 0;
    for run in plan.runs() {
        assert!(run.first_block == next && run.block_count > 0);
        next += run.block_count;
        if let BlockSource::File { source, offset } = run.source {
            assert!(offset + u64::from(run.block_count) * 8192 <= lens[source]);
        }
    }
    assert_eq!(next, plan.block_length());
}

fn read_header<'a>(
    mut pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<IncrementalHeader, IncrementalHeaderError> {
    let mut parser = IncrementalHeaderParser::new();
    pieces.try_for_each(|piece| parser.push(piece))?;
    parser.finish()
}
