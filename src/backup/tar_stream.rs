//! Splits a tar archive into members, whatever the chunks it arrives in. No I/O.
//!
//! Answers to `astreamer_tar_parser` in PostgreSQL's `src/fe_utils/astreamer_tar.c`. Content is handed out as slices
//! of the chunks that came in; the only thing that is ever copied is a header that a chunk boundary cuts, so memory
//! is bounded by one block. Departure: the original ignores everything after the first zero block; here an archive
//! ends in two, and nothing but a few more zeros may follow.

use bytes::{Buf, Bytes};

use super::path::MemberPath;
use super::tar_header::{BLOCK_LEN, MemberKind, TarHeaderError, TarMember};

/// The most zeros that may follow the two blocks that end an archive: tar pads to its record size of 20 blocks.
pub const MAX_TRAILING_LEN: usize = 20 * BLOCK_LEN;

/// What the archive says next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEvent {
    /// A member begins.
    Member(TarMember),
    /// Content of the file that began last; never empty.
    Data(Bytes),
    /// The member is complete.
    MemberEnd,
    /// The two zero blocks have come.
    End,
}

/// Whether the zero blocks at the end may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveEnd {
    /// Servers from 15 on end each archive properly.
    Terminated,
    /// Servers up to 14 stop after the last member.
    Unterminated,
}

/// Why the archive is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header that cannot be used.
    #[error("invalid tar header at offset {offset}")]
    Header {
        /// Where the header starts in the archive.
        offset: u64,
        /// What is wrong with it.
        source: TarHeaderError,
    },
    /// A zero block, and then something else.
    #[error("lone zero block in archive, at offset {offset}")]
    LoneZeroBlock {
        /// Where the block after it starts.
        offset: u64,
    },
    /// Padding that is not zeros.
    #[error("padding of member is not zero, at offset {offset}")]
    Padding {
        /// Where the padding starts.
        offset: u64,
    },
    /// Bytes after the end.
    #[error("archive goes on after its end, at offset {offset}")]
    TrailingData {
        /// Where they were found.
        offset: u64,
    },
    /// The archive stops in the middle of a member.
    #[error("archive ends in the middle of member \"{path}\"")]
    TruncatedMember {
        /// The member.
        path: MemberPath,
    },
    /// The archive stops in the middle of a header.
    #[error("archive ends in the middle of a header")]
    TruncatedHeader,
    /// The archive stops without the two zero blocks.
    #[error("archive has no end")]
    NoEnd,
}

/// The splitter for one archive: [`push`](Self::push) a chunk, then [`poll`](Self::poll) until `None`.
#[derive(Debug)]
pub struct TarStream {
    chunk: Bytes,
    /// Bytes of the archive taken so far.
    offset: u64,
    state: State,
    current: Option<MemberPath>,
    /// The header that was read last, for who passes members on.
    header: Box<[u8; BLOCK_LEN]>,
}

#[derive(Debug)]
enum State {
    /// Collecting a header; `zero_blocks` of them (0 or 1) were zero just before.
    Header { block: Box<[u8; BLOCK_LEN]>, len: usize, zero_blocks: u8 },
    /// Inside a file's content, never with nothing left.
    Data { remaining: u64, padding: usize },
    /// Content complete: report it.
    MemberEnd { padding: usize },
    /// Skipping the zeros behind the content.
    Padding { remaining: usize },
    /// After the end.
    Ended { trailing: usize },
}

impl Default for TarStream {
    fn default() -> Self {
        Self::new()
    }
}

impl TarStream {
    /// A splitter at the start of an archive.
    pub fn new() -> Self {
        let header = Box::new([0; BLOCK_LEN]);
        TarStream { chunk: Bytes::new(), offset: 0, state: State::header(0), current: None, header }
    }

    /// Takes the next chunk of the archive.
    ///
    /// # Panics
    /// When the chunk before has not been polled to its end: its bytes would be lost.
    pub fn push(&mut self, chunk: Bytes) {
        assert!(self.chunk.is_empty(), "a chunk is polled to its end before the next one");
        self.chunk = chunk;
    }

    /// The next event, or `None` when more bytes are needed. After an error the stream is of no further use.
    pub fn poll(&mut self) -> Result<Option<TarEvent>, TarError> {
        loop {
            match &mut self.state {
                State::MemberEnd { padding } => {
                    self.state = State::after_content(*padding);
                    self.current = None;
                    return Ok(Some(TarEvent::MemberEnd));
                }
                _ if self.chunk.is_empty() => return Ok(None),
                State::Data { remaining, padding } => {
                    let len = self.chunk.len().min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                    let data = self.chunk.split_to(len);
                    *remaining -= len as u64;
                    self.offset += len as u64;
                    if *remaining == 0 {
                        self.state = State::MemberEnd { padding: *padding };
                    }
                    return Ok(Some(TarEvent::Data(data)));
                }
                State::Padding { remaining } => {
                    let len = self.chunk.len().min(*remaining);
                    if self.chunk[..len].iter().any(|&b| b != 0) {
                        return Err(TarError::Padding { offset: self.offset });
                    }
                    self.chunk.advance(len);
                    self.offset += len as u64;
                    *remaining -= len;
                    if *remaining == 0 {
                        self.state = State::header(0);
                    }
                }
                State::Ended { trailing } => {
                    *trailing += self.chunk.len();
                    if *trailing > MAX_TRAILING_LEN || self.chunk.iter().any(|&b| b != 0) {
                        return Err(TarError::TrailingData { offset: self.offset });
                    }
                    self.offset += self.chunk.len() as u64;
                    self.chunk.clear();
                }
                State::Header { block, len, .. } => {
                    let taken = self.chunk.len().min(BLOCK_LEN - *len);
                    block[*len..*len + taken].copy_from_slice(&self.chunk[..taken]);
                    self.chunk.advance(taken);
                    self.offset += taken as u64;
                    *len += taken;
                    if *len == BLOCK_LEN
                        && let Some(event) = self.header_complete()?
                    {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// The header of the member that began last, as it came.
    pub fn header(&self) -> &[u8; BLOCK_LEN] {
        &self.header
    }

    /// How much of the content of the file that began last has not come yet, once there is nothing to poll.
    pub fn skippable_len(&self) -> u64 {
        match self.state {
            State::Data { remaining, .. } if self.chunk.is_empty() => remaining,
            _ => 0,
        }
    }

    /// The content that has not come is passed over: the next chunk begins behind it.
    pub fn skip_content(&mut self) {
        let len = self.skippable_len();
        if let State::Data { padding, .. } = self.state
            && len > 0
        {
            self.offset += len;
            self.state = State::MemberEnd { padding };
        }
    }

    /// The archive is over: it must not stop in the middle of anything.
    pub fn finish(self, end: ArchiveEnd) -> Result<(), TarError> {
        debug_assert!(
            self.chunk.is_empty(),
            "the last chunk is polled to its end before the archive is finished"
        );
        if let Some(path) = self.current {
            return Err(TarError::TruncatedMember { path });
        }
        match (self.state, end) {
            (State::Ended { .. }, _) => Ok(()),
            (State::Header { len: 0, zero_blocks: 0, .. }, ArchiveEnd::Unterminated) => Ok(()),
            (State::Header { len: 0, .. }, _) => Err(TarError::NoEnd),
            // Without its padding the last member may have lost more than padding.
            (_, _) => Err(TarError::TruncatedHeader),
        }
    }

    fn header_complete(&mut self) -> Result<Option<TarEvent>, TarError> {
        let State::Header { block, zero_blocks, .. } = &self.state else { return Ok(None) };
        let offset = self.offset - BLOCK_LEN as u64;
        if block.iter().all(|&b| b == 0) {
            let ended = *zero_blocks == 1;
            self.state = if ended { State::Ended { trailing: 0 } } else { State::header(1) };
            return Ok(ended.then_some(TarEvent::End));
        }
        if *zero_blocks > 0 {
            return Err(TarError::LoneZeroBlock { offset });
        }
        let member = TarMember::parse(block).map_err(|source| TarError::Header { offset, source })?;
        let len = if let MemberKind::File { len } = member.kind { len } else { 0 };
        let padding = (len.next_multiple_of(BLOCK_LEN as u64) - len) as usize;
        self.header.copy_from_slice(&block[..]);
        self.state =
            if len == 0 { State::MemberEnd { padding } } else { State::Data { remaining: len, padding } };
        self.current = Some(member.path.clone());
        Ok(Some(TarEvent::Member(member)))
    }
}

impl State {
    fn header(zero_blocks: u8) -> Self {
        State::Header { block: Box::new([0; BLOCK_LEN]), len: 0, zero_blocks }
    }

    fn after_content(padding: usize) -> Self {
        if padding == 0 { State::header(0) } else { State::Padding { remaining: padding } }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tar_header::tests::{header, link};
    use super::*;
    use proptest::prelude::*;

    /// All events of an archive that arrives in `chunks`, contents joined.
    fn read(chunks: impl IntoIterator<Item = Bytes>, end: ArchiveEnd) -> Result<Vec<TarEvent>, TarError> {
        let mut stream = TarStream::new();
        let mut events: Vec<TarEvent> = Vec::new();
        for chunk in chunks {
            stream.push(chunk);
            while let Some(event) = stream.poll()? {
                match (events.last_mut(), event) {
                    (Some(TarEvent::Data(before)), TarEvent::Data(data)) => {
                        *before = [before.as_ref(), data.as_ref()].concat().into();
                    }
                    (_, event) => events.push(event),
                }
            }
        }
        stream.finish(end).map(|()| events)
    }

    fn read_whole(archive: &[u8], end: ArchiveEnd) -> Result<Vec<TarEvent>, TarError> {
        read([Bytes::copy_from_slice(archive)], end)
    }

    fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
        let mut archive = header(name, b'0', content.len() as u64).to_vec();
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK_LEN), 0);
        archive
    }

    const END: [u8; 2 * BLOCK_LEN] = [0; 2 * BLOCK_LEN];

    fn sample() -> Vec<u8> {
        let mut archive = file(b"backup_label", b"START");
        archive.extend_from_slice(&header(b"base/", b'5', 0));
        archive.extend_from_slice(&link(b"pg_tblspc/1/", b"/srv"));
        archive.extend(file(b"base/empty", b""));
        archive.extend(file(b"base/full", &[7; 1024]));
        archive.extend_from_slice(&END);
        archive
    }

    #[test]
    fn reports_members_in_order() {
        let events = read_whole(&sample(), ArchiveEnd::Terminated).unwrap();
        let shape: String = events
            .iter()
            .map(|event| match event {
                TarEvent::Member(_) => 'm',
                TarEvent::Data(_) => 'd',
                TarEvent::MemberEnd => 'e',
                TarEvent::End => '.',
            })
            .collect();
        assert_eq!(shape, "mdememememde.");
    }

    #[test]
    fn content_is_sliced_not_copied() {
        let archive = Bytes::from(file(b"x", &[7; 4096]));
        let inside = archive.as_ptr_range();
        let mut stream = TarStream::new();
        stream.push(archive);
        assert!(matches!(stream.poll(), Ok(Some(TarEvent::Member(_)))));
        let Ok(Some(TarEvent::Data(data))) = stream.poll() else { panic!("no content") };
        assert!(inside.contains(&data.as_ptr()));
    }

    #[test]
    fn content_can_be_passed_over() {
        let archive = [&file(b"x", &[7; 700])[..], &file(b"y", b"z"), &END].concat();
        let mut stream = TarStream::new();
        assert_eq!(stream.skippable_len(), 0);
        stream.skip_content();
        stream.push(Bytes::copy_from_slice(&archive[..600]));
        let mut events = 0;
        while stream.poll().unwrap().is_some() {
            events += 1;
        }
        assert_eq!((events, stream.skippable_len()), (2, 612));
        stream.skip_content();
        assert_eq!(stream.poll(), Ok(Some(TarEvent::MemberEnd)));
        stream.push(Bytes::copy_from_slice(&archive[512 + 700..]));
        while let Some(event) = stream.poll().unwrap() {
            events += 1;
            if let TarEvent::Data(data) = event {
                assert_eq!(&data[..], b"z");
            }
        }
        assert_eq!(events, 6);
        stream.finish(ArchiveEnd::Terminated).unwrap();
    }

    #[test]
    fn ends_are_told_apart() {
        let member = file(b"x", b"y");
        let unterminated = |archive: &[u8]| read_whole(archive, ArchiveEnd::Unterminated);
        assert!(unterminated(&member).is_ok());
        assert!(unterminated(&[&member[..], &END].concat()).is_ok());
        assert!(unterminated(&[]).is_ok());
        assert_eq!(read_whole(&member, ArchiveEnd::Terminated), Err(TarError::NoEnd));
        assert_eq!(unterminated(&[&member[..], &[0; 512]].concat()), Err(TarError::NoEnd));
        let path = MemberPath::parse(b"x").unwrap();
        assert_eq!(unterminated(&header(b"x", b'0', 1)), Err(TarError::TruncatedMember { path }));
        assert_eq!(unterminated(&member[..513]), Err(TarError::TruncatedHeader));
        assert_eq!(unterminated(&member[..100]), Err(TarError::TruncatedHeader));
    }

    #[test]
    fn nothing_may_follow_the_end() {
        let archive = sample();
        let read = |tail: &[u8]| read_whole(&[&archive, tail].concat(), ArchiveEnd::Terminated);
        assert!(read(&[0; MAX_TRAILING_LEN]).is_ok());
        assert!(matches!(read(&[0; MAX_TRAILING_LEN + 1]), Err(TarError::TrailingData { .. })));
        assert!(matches!(read(&file(b"x", b"")), Err(TarError::TrailingData { .. })));
        let lone = [&[0; 512][..], &file(b"x", b""), &END].concat();
        assert_eq!(read_whole(&lone, ArchiveEnd::Terminated), Err(TarError::LoneZeroBlock { offset: 512 }));
        let mut padded = file(b"x", b"y");
        padded[1023] = 1;
        assert_eq!(read_whole(&padded, ArchiveEnd::Unterminated), Err(TarError::Padding { offset: 513 }));
    }

    /// Members as the `tar` crate reads them: name, kind, content.
    fn oracle(archive: &[u8]) -> Vec<(Vec<u8>, u8, Vec<u8>)> {
        use std::io::Read;
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let kind = entry.header().entry_type().as_byte();
            let mut content = entry.link_name_bytes().map(|name| name.to_vec()).unwrap_or_default();
            entry.read_to_end(&mut content).unwrap();
            (entry.path_bytes().to_vec(), kind, content)
        });
        entries.collect()
    }

    fn ours(events: &[TarEvent]) -> Vec<(Vec<u8>, u8, Vec<u8>)> {
        let mut members: Vec<(Vec<u8>, u8, Vec<u8>)> = Vec::new();
        for event in events {
            match event {
                TarEvent::Member(member) => {
                    let (kind, content) = match &member.kind {
                        MemberKind::File { .. } => (b'0', Vec::new()),
                        MemberKind::Directory => (b'5', Vec::new()),
                        MemberKind::Symlink { target } => (b'2', target.to_vec()),
                    };
                    members.push((member.path.as_bytes().to_vec(), kind, content));
                }
                TarEvent::Data(data) => members.last_mut().unwrap().2.extend_from_slice(data),
                TarEvent::MemberEnd | TarEvent::End => {}
            }
        }
        members
    }

    fn build(members: &[(String, u8, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in members {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_mode(0o600);
            header.set_mtime(1);
            header.set_uid(1);
            header.set_gid(1);
            header.set_device_major(0).unwrap();
            header.set_device_minor(0).unwrap();
            match kind {
                0 => {
                    header.set_size(content.len() as u64);
                    header.set_cksum();
                    builder.append(&header, &content[..]).unwrap();
                }
                1 => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_size(0);
                    header.set_cksum();
                    builder.append(&header, &[][..]).unwrap();
                }
                _ => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_link_name("/srv/ts").unwrap();
                    header.set_size(0);
                    header.set_cksum();
                    builder.append(&header, &[][..]).unwrap();
                }
            }
        }
        builder.into_inner().unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_the_tar_crate_whatever_the_split(
            members in proptest::collection::vec(
                ("[a-z]{1,40}(/[a-z]{1,40}){0,4}", 0u8..3, proptest::collection::vec(any::<u8>(), 0..1500)), 0..6),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let archive = Bytes::from(build(&members));
            let whole = read([archive.clone()], ArchiveEnd::Terminated).unwrap();
            prop_assert_eq!(ours(&whole), oracle(&archive));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(archive.len() + 1)).collect();
            cuts.extend([0, archive.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| archive.slice(pair[0]..pair[1]));
            prop_assert_eq!(read(chunks, ArchiveEnd::Terminated).unwrap(), whole);
        }

        #[test]
        fn any_truncation_is_noticed(cut in any::<prop::sample::Index>()) {
            let archive = sample();
            let cut = cut.index(archive.len());
            prop_assert!(read_whole(&archive[..cut], ArchiveEnd::Terminated).is_err());
        }
    }
}
