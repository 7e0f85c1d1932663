//! The payloads of BASE_BACKUP's COPY, as events. No I/O.
//!
//! Answers to `bbsink_copystream` in PostgreSQL's `basebackup_copy.c`: from version 15 on, one COPY carries all
//! archives and then the manifest, each payload behind a tag byte. Up to 14 there is one COPY for each tablespace
//! in the order of the result set, raw and without tags, and one more for the manifest. Both come out as the same
//! events, in the same order: archives, then at most one manifest, then nothing.

use bytes::{Buf, Bytes};

use super::path::parse_oid;

/// The longest name of an archive, in bytes. The server writes `base.tar` or `<oid>.tar`, with `.gz`, `.lz4` or
/// `.zst` behind it when it compresses.
pub const MAX_ARCHIVE_NAME_LEN: usize = 64;

/// The longest location of a tablespace, in bytes: PostgreSQL's `MAXPGPATH`.
pub const MAX_LOCATION_LEN: usize = 1024;

/// The most archives in one backup: more tablespaces than any cluster has.
pub const MAX_ARCHIVE_COUNT: u32 = 1 << 20;

/// What a payload meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveEvent {
    /// An archive begins; the one before it, if any, is over.
    ArchiveBegin(ArchiveName),
    /// Bytes of the current archive.
    ArchiveData(Bytes),
    /// The archives are over and the manifest begins.
    ManifestBegin,
    /// Bytes of the manifest.
    ManifestData(Bytes),
    /// How many uncompressed bytes the server has read so far, over all archives.
    Progress {
        /// The count.
        bytes: u64,
    },
}

/// Which archive begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveName {
    /// The file name the server gives it, such as `base.tar` or `16384.tar.zst`: no slash, no leading dot.
    pub file_name: String,
    /// What it holds.
    pub content: ArchiveContent,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveContent {
    /// The data directory itself.
    DataDirectory,
    /// One tablespace.
    Tablespace {
        /// Its OID, from the archive's name.
        oid: u32,
        /// Where it lies on the server: absolute, or relative to the data directory when it is in place.
        location: Bytes,
    },
}

/// Why the stream is not one that a server sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveStreamError {
    /// A payload without a tag.
    #[error("backup message is empty")]
    EmptyMessage,
    /// A tag that is none of `n`, `d`, `m`, `p`.
    #[error("unknown backup message type {:?}", char::from(*.0))]
    UnknownTag(u8),
    /// Data before the first archive.
    #[error("archive data before an archive")]
    DataBeforeArchive,
    /// An archive after the manifest began.
    #[error("archive after the backup manifest")]
    ArchiveAfterManifest,
    /// The manifest twice.
    #[error("backup manifest sent twice")]
    SecondManifest,
    /// The manifest before any archive.
    #[error("backup manifest before an archive")]
    ManifestBeforeArchive,
    /// The data directory's archive is the last; something followed it.
    #[error("archive after the one of the data directory")]
    ArchiveAfterDataDirectory,
    /// The COPY ended before the data directory's archive came.
    #[error("backup ended without the archive of the data directory")]
    NoDataDirectory,
    /// A string without its NUL, or a field cut short.
    #[error("backup message of type {:?} is cut short", char::from(*.0))]
    CutShort(u8),
    /// Bytes behind the last field.
    #[error("backup message of type {:?} has bytes left over", char::from(*.0))]
    LeftOver(u8),
    /// A name that is empty, too long, starts with a dot, or holds a slash, backslash or control character.
    #[error("unacceptable archive name \"{}\"", .0.escape_ascii())]
    ArchiveName(Vec<u8>),
    /// A name that does not go with its location: `base.tar` has none, `<oid>.tar` has one.
    #[error("archive \"{0}\" does not go with its tablespace location")]
    NameAndLocation(String),
    /// A location longer than [`MAX_LOCATION_LEN`].
    #[error("tablespace location of archive \"{0}\" is too long")]
    LocationTooLong(String),
    /// More than [`MAX_ARCHIVE_COUNT`] archives.
    #[error("too many archives")]
    TooManyArchives,
    /// A COPY too many from a server of version 14 or older.
    #[error("unexpected COPY after the backup's last")]
    UnexpectedCopy,
    /// A progress count that is negative.
    #[error("backup progress is negative")]
    NegativeProgress,
}

/// The decoder for one BASE_BACKUP.
#[derive(Debug)]
pub struct ArchiveStream {
    position: Position,
    archive_count: u32,
    /// `Some` for servers up to 14: what their unnamed COPYs are, last one first.
    unnamed: Option<Unnamed>,
}

#[derive(Debug)]
struct Unnamed {
    archives: std::vec::IntoIter<ArchiveName>,
    manifest: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Start,
    Tablespace,
    DataDirectory,
    Manifest,
}

/// Whether a manifest was asked for; a server up to 14 gives no other sign of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestRequest {
    /// `MANIFEST 'yes'`.
    Requested,
    /// No manifest.
    NotRequested,
}

impl ArchiveStream {
    /// For servers from 15 on: one COPY, tagged payloads.
    pub fn tagged() -> Self {
        ArchiveStream { position: Position::Start, archive_count: 0, unnamed: None }
    }

    /// For servers up to 14: a COPY for each of `archives` (in the order of the result set, the data directory
    /// last), then one for the manifest. Call [`begin_copy`](Self::begin_copy) at each CopyOutResponse.
    pub fn untagged(archives: Vec<ArchiveName>, manifest: ManifestRequest) -> Self {
        let unnamed =
            Unnamed { archives: archives.into_iter(), manifest: manifest == ManifestRequest::Requested };
        ArchiveStream { position: Position::Start, archive_count: 0, unnamed: Some(unnamed) }
    }

    /// A CopyOutResponse came. Up to version 14 each one begins an archive or the manifest; from 15 on there is
    /// one, and it begins nothing by itself.
    pub fn begin_copy(&mut self) -> Result<Option<ArchiveEvent>, ArchiveStreamError> {
        let Some(unnamed) = &mut self.unnamed else {
            return if self.position == Position::Start {
                Ok(None)
            } else {
                Err(ArchiveStreamError::UnexpectedCopy)
            };
        };
        if let Some(archive) = unnamed.archives.next() {
            return self.begin_archive(archive).map(Some);
        }
        if !std::mem::take(&mut unnamed.manifest) {
            return Err(ArchiveStreamError::UnexpectedCopy);
        }
        self.begin_manifest().map(Some)
    }

    /// Decodes one CopyData payload. Data is sliced, not copied.
    pub fn decode(&mut self, mut payload: Bytes) -> Result<ArchiveEvent, ArchiveStreamError> {
        if self.unnamed.is_some() {
            return self.data(payload);
        }
        if payload.is_empty() {
            return Err(ArchiveStreamError::EmptyMessage);
        }
        match payload.get_u8() {
            b'd' => self.data(payload),
            b'n' => {
                let archive = decode_archive_name(payload)?;
                self.begin_archive(archive)
            }
            b'm' if payload.is_empty() => self.begin_manifest(),
            b'm' => Err(ArchiveStreamError::LeftOver(b'm')),
            b'p' => decode_progress(payload),
            tag => Err(ArchiveStreamError::UnknownTag(tag)),
        }
    }

    /// The last COPY ended: everything a backup needs must have come.
    pub fn finish(&self) -> Result<(), ArchiveStreamError> {
        match self.position {
            Position::Start | Position::Tablespace => Err(ArchiveStreamError::NoDataDirectory),
            Position::DataDirectory | Position::Manifest => Ok(()),
        }
    }

    fn data(&self, data: Bytes) -> Result<ArchiveEvent, ArchiveStreamError> {
        match self.position {
            Position::Start => Err(ArchiveStreamError::DataBeforeArchive),
            Position::Tablespace | Position::DataDirectory => Ok(ArchiveEvent::ArchiveData(data)),
            Position::Manifest => Ok(ArchiveEvent::ManifestData(data)),
        }
    }

    fn begin_archive(&mut self, archive: ArchiveName) -> Result<ArchiveEvent, ArchiveStreamError> {
        match self.position {
            Position::Start | Position::Tablespace => {}
            Position::DataDirectory => return Err(ArchiveStreamError::ArchiveAfterDataDirectory),
            Position::Manifest => return Err(ArchiveStreamError::ArchiveAfterManifest),
        }
        if self.archive_count == MAX_ARCHIVE_COUNT {
            return Err(ArchiveStreamError::TooManyArchives);
        }
        self.archive_count += 1;
        self.position = match archive.content {
            ArchiveContent::DataDirectory => Position::DataDirectory,
            ArchiveContent::Tablespace { .. } => Position::Tablespace,
        };
        Ok(ArchiveEvent::ArchiveBegin(archive))
    }

    fn begin_manifest(&mut self) -> Result<ArchiveEvent, ArchiveStreamError> {
        match self.position {
            Position::DataDirectory => {}
            Position::Start | Position::Tablespace => return Err(ArchiveStreamError::ManifestBeforeArchive),
            Position::Manifest => return Err(ArchiveStreamError::SecondManifest),
        }
        self.position = Position::Manifest;
        Ok(ArchiveEvent::ManifestBegin)
    }
}

impl ArchiveName {
    /// The archive of the data directory, as a server up to 14 sends it.
    pub fn data_directory() -> Self {
        ArchiveName { file_name: "base.tar".to_owned(), content: ArchiveContent::DataDirectory }
    }

    /// The archive of a tablespace, as a server up to 14 sends it.
    pub fn tablespace(oid: u32, location: Bytes) -> Self {
        ArchiveName { file_name: format!("{oid}.tar"), content: ArchiveContent::Tablespace { oid, location } }
    }
}

fn decode_archive_name(mut payload: Bytes) -> Result<ArchiveName, ArchiveStreamError> {
    let name = take_string(&mut payload, b'n')?;
    let location = take_string(&mut payload, b'n')?;
    if !payload.is_empty() {
        return Err(ArchiveStreamError::LeftOver(b'n'));
    }
    let file_name = check_file_name(&name)?;
    if location.len() > MAX_LOCATION_LEN {
        return Err(ArchiveStreamError::LocationTooLong(file_name));
    }
    let stem = file_name.split('.').next().unwrap_or_default();
    let content = match (stem, parse_oid(stem.as_bytes()), location.is_empty()) {
        ("base", _, true) => ArchiveContent::DataDirectory,
        (_, Some(oid), false) => ArchiveContent::Tablespace { oid, location },
        _ => return Err(ArchiveStreamError::NameAndLocation(file_name)),
    };
    Ok(ArchiveName { file_name, content })
}

/// The rules of `bbstreamer`'s caller in `pg_basebackup.c`, and no control characters: a name is printed.
fn check_file_name(name: &[u8]) -> Result<String, ArchiveStreamError> {
    let acceptable = !name.is_empty()
        && name.len() <= MAX_ARCHIVE_NAME_LEN
        && name.first() != Some(&b'.')
        && name.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'\\'));
    match std::str::from_utf8(name) {
        Ok(text) if acceptable => Ok(text.to_owned()),
        _ => Err(ArchiveStreamError::ArchiveName(name.iter().copied().take(MAX_ARCHIVE_NAME_LEN).collect())),
    }
}

fn take_string(payload: &mut Bytes, tag: u8) -> Result<Bytes, ArchiveStreamError> {
    let nul = payload.iter().position(|&b| b == 0).ok_or(ArchiveStreamError::CutShort(tag))?;
    let string = payload.split_to(nul);
    payload.advance(1);
    Ok(string)
}

fn decode_progress(mut payload: Bytes) -> Result<ArchiveEvent, ArchiveStreamError> {
    let count = payload.try_get_i64().map_err(|_| ArchiveStreamError::CutShort(b'p'))?;
    if !payload.is_empty() {
        return Err(ArchiveStreamError::LeftOver(b'p'));
    }
    let bytes = u64::try_from(count).map_err(|_| ArchiveStreamError::NegativeProgress)?;
    Ok(ArchiveEvent::Progress { bytes })
}

#[cfg(test)]
mod tests {
    use super::ArchiveStreamError as E;
    use super::*;
    use proptest::prelude::*;

    fn decode(stream: &mut ArchiveStream, payload: &'static [u8]) -> Result<ArchiveEvent, E> {
        stream.decode(Bytes::from_static(payload))
    }

    #[test]
    fn reads_a_tagged_backup() {
        let mut s = ArchiveStream::tagged();
        assert_eq!(s.begin_copy(), Ok(None));
        let location = Bytes::from_static(b"/srv/ts");
        let begin = decode(&mut s, b"n16384.tar\0/srv/ts\0");
        assert_eq!(begin, Ok(ArchiveEvent::ArchiveBegin(ArchiveName::tablespace(16384, location))));
        assert_eq!(decode(&mut s, b"dxyz"), Ok(ArchiveEvent::ArchiveData(Bytes::from_static(b"xyz"))));
        assert_eq!(decode(&mut s, b"p\0\0\0\0\0\0\x01\0"), Ok(ArchiveEvent::Progress { bytes: 256 }));
        assert_eq!(s.finish(), Err(E::NoDataDirectory));
        let begin = decode(&mut s, b"nbase.tar\0\0");
        assert_eq!(begin, Ok(ArchiveEvent::ArchiveBegin(ArchiveName::data_directory())));
        assert_eq!(s.finish(), Ok(()));
        assert_eq!(decode(&mut s, b"m"), Ok(ArchiveEvent::ManifestBegin));
        assert_eq!(decode(&mut s, b"d{}"), Ok(ArchiveEvent::ManifestData(Bytes::from_static(b"{}"))));
        assert_eq!(s.finish(), Ok(()));
        assert_eq!(s.begin_copy(), Err(E::UnexpectedCopy));
    }

    #[test]
    fn reads_the_copies_of_older_servers() {
        let tablespace = ArchiveName::tablespace(7, Bytes::from_static(b"/t"));
        let archives = vec![tablespace.clone(), ArchiveName::data_directory()];
        let mut s = ArchiveStream::untagged(archives, ManifestRequest::Requested);
        assert_eq!(decode(&mut s, b"x"), Err(E::DataBeforeArchive));
        assert_eq!(s.begin_copy(), Ok(Some(ArchiveEvent::ArchiveBegin(tablespace))));
        assert_eq!(decode(&mut s, b"n"), Ok(ArchiveEvent::ArchiveData(Bytes::from_static(b"n"))));
        assert_eq!(s.begin_copy(), Ok(Some(ArchiveEvent::ArchiveBegin(ArchiveName::data_directory()))));
        assert_eq!(s.begin_copy(), Ok(Some(ArchiveEvent::ManifestBegin)));
        assert_eq!(decode(&mut s, b"m"), Ok(ArchiveEvent::ManifestData(Bytes::from_static(b"m"))));
        assert_eq!(s.begin_copy(), Err(E::UnexpectedCopy));
        let mut s =
            ArchiveStream::untagged(vec![ArchiveName::data_directory()], ManifestRequest::NotRequested);
        s.begin_copy().unwrap();
        assert_eq!(s.begin_copy(), Err(E::UnexpectedCopy));
    }

    #[test]
    fn refuses_disorder() {
        for (payloads, expected) in [
            (&[&b""[..]][..], E::EmptyMessage),
            (&[b"dx"], E::DataBeforeArchive),
            (&[b"m"], E::ManifestBeforeArchive),
            (&[b"x"], E::UnknownTag(b'x')),
            (&[b"nbase.tar\0\0", b"m", b"m"], E::SecondManifest),
            (&[b"nbase.tar\0\0", b"m", b"n1.tar\0/x\0"], E::ArchiveAfterManifest),
            (&[b"nbase.tar\0\0", b"nbase.tar\0\0"], E::ArchiveAfterDataDirectory),
            (&[b"n1.tar\0/x\0", b"m"], E::ManifestBeforeArchive),
            (&[b"nbase.tar\0\0", b"mx"], E::LeftOver(b'm')),
            (&[b"nbase.tar"], E::CutShort(b'n')),
            (&[b"nbase.tar\0"], E::CutShort(b'n')),
            (&[b"nbase.tar\0\0x"], E::LeftOver(b'n')),
            (&[b"p\0\0\0\0\0\0\0"], E::CutShort(b'p')),
            (&[b"p\0\0\0\0\0\0\0\0\0"], E::LeftOver(b'p')),
            (&[b"p\xFF\0\0\0\0\0\0\0"], E::NegativeProgress),
        ] {
            let mut s = ArchiveStream::tagged();
            let (last, first) = payloads.split_last().unwrap();
            for payload in first {
                decode(&mut s, payload).unwrap();
            }
            assert_eq!(decode(&mut s, last), Err(expected));
        }
    }

    #[test]
    fn refuses_names_that_are_paths() {
        for name in
            ["", ".", "..", ".tar", "../base.tar", "a/b.tar", "/base.tar", "a\\b", "base tar", "b\u{7}"]
        {
            let payload = Bytes::from(format!("n{name}\0\0"));
            assert!(
                matches!(ArchiveStream::tagged().decode(payload), Err(E::ArchiveName(_))),
                "{name:?} was taken"
            );
        }
        for (name, location) in
            [("base.tar", "/x"), ("1.tar", ""), ("x.tar", "/x"), ("x.tar", ""), ("01.tar", "/x")]
        {
            let payload = Bytes::from(format!("n{name}\0{location}\0"));
            assert_eq!(ArchiveStream::tagged().decode(payload), Err(E::NameAndLocation(name.to_owned())));
        }
        let long = Bytes::from(format!("n1.tar\0/{}\0", "x".repeat(MAX_LOCATION_LEN)));
        assert_eq!(ArchiveStream::tagged().decode(long), Err(E::LocationTooLong("1.tar".to_owned())));
        let long = Bytes::from(format!("n{}\0\0", "x".repeat(MAX_ARCHIVE_NAME_LEN + 1)));
        assert!(
            matches!(ArchiveStream::tagged().decode(long), Err(E::ArchiveName(name)) if name.len() == 64)
        );
    }

    /// Archives by name, and the manifest, whole.
    type Assembled = (Vec<(String, Vec<u8>)>, Vec<u8>);

    /// What the events of these payloads make up.
    fn assembled(payloads: impl IntoIterator<Item = Vec<u8>>) -> Result<Assembled, E> {
        let mut stream = ArchiveStream::tagged();
        let (mut archives, mut manifest) = (Vec::new(), Vec::new());
        for payload in payloads {
            match stream.decode(Bytes::from(payload))? {
                ArchiveEvent::ArchiveBegin(archive) => archives.push((archive.file_name, Vec::new())),
                ArchiveEvent::ArchiveData(data) => {
                    let archive: Option<&mut (String, Vec<u8>)> = archives.last_mut();
                    archive.expect("data comes in an archive").1.extend_from_slice(&data);
                }
                ArchiveEvent::ManifestData(data) => manifest.extend_from_slice(&data),
                ArchiveEvent::ManifestBegin | ArchiveEvent::Progress { .. } => {}
            }
        }
        stream.finish().map(|()| (archives, manifest))
    }

    /// `content` in messages of `piece` bytes, progress between them.
    fn messages(content: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let progress = |count: usize| [&b"p"[..], &(count as u64).to_be_bytes()].concat();
        let pieces = content.chunks(piece).enumerate();
        pieces.flat_map(|(count, data)| [[b"d", data].concat(), progress(count)]).collect()
    }

    proptest! {
        #[test]
        fn any_split_of_the_contents_gives_the_same(
            space in proptest::collection::vec(any::<u8>(), 0..50),
            base in proptest::collection::vec(any::<u8>(), 0..50),
            manifest in proptest::collection::vec(any::<u8>(), 0..50),
            piece in 1usize..20,
        ) {
            let mut payloads = vec![b"n7.tar\0/t\0".to_vec()];
            payloads.extend(messages(&space, piece));
            payloads.push(b"nbase.tar\0\0".to_vec());
            payloads.extend(messages(&base, piece));
            payloads.push(b"m".to_vec());
            payloads.extend(messages(&manifest, piece));
            let archives = vec![("7.tar".to_owned(), space), ("base.tar".to_owned(), base)];
            prop_assert_eq!(assembled(payloads), Ok((archives, manifest)));
        }

        #[test]
        fn any_payloads_keep_their_order(
            payloads in proptest::collection::vec(
                (proptest::sample::select(&b"ndmpx"[..]), proptest::collection::vec(0u8..3, 0..10)), 0..8),
        ) {
            let mut bytes = Vec::new();
            for (tag, rest) in payloads {
                bytes.extend_from_slice(&(rest.len() as u32 + 1).to_be_bytes());
                bytes.push(tag);
                bytes.extend_from_slice(&rest);
            }
            crate::backup::fuzzing::fuzz_archive_stream(&bytes);
        }
    }
}
