//! Where the WAL of a backup is: a directory or an archive, and which segments are in it.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::archives::parse_archive_name;
use super::checksums::read_at;
use super::problem::{ArchiveFault, WalFault};
use super::tar_index::{self, MAX_ARCHIVED_SEGMENTS};
use crate::compression::CompressionMethod;
use crate::pg::WalSegmentSize;
use crate::pg::version::WalFormat;
use crate::pg::wal_page::{LONG_PAGE_HEADER_LEN, WalSegmentHeader};

/// The length of a segment's name.
pub(super) const NAME_LEN: usize = 24;

/// A directory or an archive.
#[derive(Debug)]
pub(super) enum WalPlace {
    /// Segments as files.
    Directory { path: PathBuf, links: Links },
    /// Segments as members.
    Archive { path: PathBuf, method: CompressionMethod },
}

/// Whether a segment may be a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// In a directory that somebody named.
    Follow,
    /// In a backup.
    Refuse,
}

impl WalPlace {
    /// `pg_wal`, which itself may be a link, as `pg_basebackup --waldir` makes it.
    pub(super) fn of_plain_backup(directory: &Path) -> Self {
        WalPlace::Directory { path: directory.join("pg_wal"), links: Links::Refuse }
    }

    /// One of a backup's archives.
    pub(super) fn of_archive(directory: &Path, name: &[u8], method: CompressionMethod) -> Self {
        let name = std::ffi::OsString::from_vec(name.to_vec());
        WalPlace::Archive { path: directory.join(name), method }
    }

    /// Where somebody says that it is.
    pub(super) fn named(path: &Path) -> Self {
        let name = path.file_name().map_or(&b""[..], |name| name.as_bytes());
        match parse_archive_name(name) {
            Some((_, method)) if path.is_file() => WalPlace::Archive { path: path.to_owned(), method },
            _ => WalPlace::Directory { path: path.to_owned(), links: Links::Follow },
        }
    }
}

/// A segment's name, if that is one.
pub(super) fn segment_name(path: &[u8]) -> Option<&[u8; NAME_LEN]> {
    let name: &[u8; NAME_LEN] = path.strip_prefix(b"pg_wal/").unwrap_or(path).try_into().ok()?;
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    name.iter().all(is_digit).then_some(name)
}

/// The header at a segment's start, if it says how WAL is cut.
pub(super) fn segment_header(head: &[u8]) -> Option<(WalSegmentHeader, WalSegmentSize)> {
    let head = head.first_chunk::<LONG_PAGE_HEADER_LEN>()?;
    WalFormat::of_magic(u16::from_le_bytes([head[0], head[1]]))?;
    let header = WalSegmentHeader::parse(head);
    let size = WalSegmentSize::from_bytes(header.segment_len.into()).ok()?;
    Some((header, size))
}

/// Segments that can be read at any place and in any order.
#[derive(Debug)]
pub(super) struct SegmentSet {
    store: Store,
    /// Where each is in an archive, and how long.
    segments: HashMap<[u8; NAME_LEN], (u64, u64)>,
}

#[derive(Debug)]
enum Store {
    Directory { path: PathBuf, links: Links },
    Archive(Arc<File>),
}

/// A segment, to be read.
#[derive(Debug)]
pub(super) struct OpenSegment {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl OpenSegment {
    /// As much as there is from `at` on, up to the buffer's length.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
        let most = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = buffer.len().min(most);
        read_at(&self.file, &mut buffer[..len], self.offset + at)
    }
}

impl SegmentSet {
    /// The segments in a directory, or in its `pg_wal` where it has none itself.
    pub(super) fn of_directory(path: &Path, links: Links) -> Result<Self, WalFault> {
        let mut found = Self::list(path, links)?;
        if found.segments.is_empty() && links == Links::Follow {
            let inner = Self::list(&path.join("pg_wal"), Links::Refuse);
            found = inner.ok().filter(|inner| !inner.segments.is_empty()).unwrap_or(found);
        }
        Ok(found)
    }

    fn list(path: &Path, links: Links) -> Result<Self, WalFault> {
        let failed = |source| WalFault::Open { path: path.as_os_str().as_bytes().into(), source };
        let mut segments = HashMap::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = segment_name(name.as_bytes())
                && segments.len() < MAX_ARCHIVED_SEGMENTS
            {
                segments.insert(*name, (0, u64::MAX));
            }
        }
        Ok(SegmentSet { store: Store::Directory { path: path.to_owned(), links }, segments })
    }

    /// The segments in an archive that is not compressed.
    pub(super) fn of_archive(file: File) -> Result<Self, ArchiveFault> {
        let mut segments = HashMap::new();
        tar_index::index(&file, |member| {
            if let Some(name) = segment_name(member.path.as_bytes()) {
                if segments.len() == MAX_ARCHIVED_SEGMENTS {
                    return Err(ArchiveFault::TooManySegments);
                }
                segments.insert(*name, (member.offset, member.len));
            }
            Ok(())
        })?;
        Ok(SegmentSet { store: Store::Archive(Arc::new(file)), segments })
    }

    pub(super) fn contains(&self, name: &[u8; NAME_LEN]) -> bool {
        self.segments.contains_key(name)
    }

    /// How WAL is cut here, and whose it is: as the first segment that is WAL has it.
    pub(super) fn header(&self) -> Option<(WalSegmentHeader, WalSegmentSize)> {
        let mut names: Vec<_> = self.segments.keys().collect();
        names.sort_unstable();
        names.into_iter().find_map(|name| {
            let mut head = [0; LONG_PAGE_HEADER_LEN];
            let len = self.open(name).ok()?.read(&mut head, 0).ok()?;
            segment_header(&head[..len])
        })
    }

    pub(super) fn open(&self, name: &[u8; NAME_LEN]) -> Result<OpenSegment, WalFault> {
        let text = || String::from_utf8_lossy(name).into_owned();
        let &(offset, len) = self.segments.get(name).ok_or_else(|| WalFault::Missing { name: text() })?;
        let file = match &self.store {
            Store::Archive(file) => Arc::clone(file),
            Store::Directory { path, links } => {
                let path = path.join(text());
                let links = if *links == Links::Refuse { OFlags::NOFOLLOW } else { OFlags::empty() };
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | links;
                let opened = rustix::fs::open(&path, flags, Mode::empty());
                let path = || path.as_os_str().as_bytes().into();
                Arc::new(
                    opened.map_err(|error| WalFault::Open { path: path(), source: error.into() })?.into(),
                )
            }
        };
        Ok(OpenSegment { file, offset, len })
    }
}
