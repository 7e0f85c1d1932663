//! `tablespace_map`: where the links of tablespaces lead, in a backup that is kept as archives. No I/O.
//!
//! Answers to `do_pg_backup_start` in PostgreSQL's `xlog.c`, which writes a line `OID PATH` for each tablespace, and
//! `read_tablespace_map` in `xlogrecovery.c`, which makes links of them. In a path a backslash stands before each line break,
//! and before each backslash where the server does that ([`MapEscapes`]). Of a map no more is held than its lines can have, one at
//! a time, and what they say.

use std::collections::BTreeMap;

use super::path::parse_oid;

/// The longest path, in bytes (`MAXPGPATH`).
const MAX_PATH_LEN: usize = 1024;

/// The longest line without its escapes: an OID, a blank, a path.
const MAX_LINE_LEN: usize = 10 + 1 + MAX_PATH_LEN;

/// The most lines: as many tablespaces as a backup is taken to have.
const MAX_LINES: usize = 4096;

/// What a map says: for each tablespace the path of its directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablespaceMap {
    paths: BTreeMap<u32, Vec<u8>>,
}

/// Why the content is no map that a server would follow, or not the one of this backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    /// Longer than an OID and a path.
    #[error("line of tablespace_map is too long")]
    LineTooLong,
    /// More lines than there can be tablespaces.
    #[error("tablespace_map has too many lines")]
    TooManyLines,
    /// Not an OID, a blank and a path.
    #[error("invalid line in tablespace_map: \"{}\"", .0.escape_ascii())]
    InvalidLine(Vec<u8>),
    /// The last line does not end.
    #[error("tablespace_map ends in the middle of a line")]
    Truncated,
    /// Two lines for one tablespace.
    #[error("tablespace {0} is in tablespace_map twice")]
    Repeated(u32),
    /// A link that the server has not announced, or not to there.
    #[error("tablespace_map has tablespace {0} in a place that was not announced")]
    NotAnnounced(u32),
    /// A tablespace that would have no link.
    #[error("tablespace {0} is missing in tablespace_map")]
    Missing(u32),
}

/// What a backslash stands before in a map; anything else goes without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapEscapes {
    /// Line breaks. A backslash before anything else is one of the path.
    LineBreaks,
    /// Line breaks and backslashes. Before anything else it is passed over, as recovery does.
    Backslashes,
}

/// Reads a map as it comes: [`push`](Self::push) every piece, then [`finish`](Self::finish).
#[derive(Debug)]
pub struct TablespaceMapParser {
    escapes: MapEscapes,
    line: Vec<u8>,
    /// The last byte was a backslash, and nothing that one stood before.
    is_escaped: bool,
    map: TablespaceMap,
}

impl TablespaceMapParser {
    /// At the beginning of the file.
    pub fn new(escapes: MapEscapes) -> Self {
        TablespaceMapParser { escapes, line: Vec::new(), is_escaped: false, map: TablespaceMap::default() }
    }

    /// Takes the next piece. After an error the parser is of no further use.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), TablespaceMapError> {
        for &byte in piece {
            match byte {
                b'\n' | b'\r' if !self.is_escaped => self.end_line()?,
                b'\n' | b'\r' => self.add(byte)?,
                b'\\' if !self.is_escaped => {
                    self.is_escaped = true;
                    continue;
                }
                _ if self.is_escaped && self.escapes == MapEscapes::LineBreaks => {
                    self.add(b'\\')?;
                    if byte == b'\\' {
                        continue;
                    }
                    self.add(byte)?;
                }
                _ => self.add(byte)?,
            }
            self.is_escaped = false;
        }
        Ok(())
    }

    fn add(&mut self, byte: u8) -> Result<(), TablespaceMapError> {
        if self.line.len() == MAX_LINE_LEN {
            return Err(TablespaceMapError::LineTooLong);
        }
        self.line.push(byte);
        Ok(())
    }

    /// The file is over.
    pub fn finish(self) -> Result<TablespaceMap, TablespaceMapError> {
        if self.line.is_empty() && !self.is_escaped {
            Ok(self.map)
        } else {
            Err(TablespaceMapError::Truncated)
        }
    }

    fn end_line(&mut self) -> Result<(), TablespaceMapError> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(());
        }
        let Some((oid, path)) = parse_line(&line) else { return Err(TablespaceMapError::InvalidLine(line)) };
        if self.map.paths.len() == MAX_LINES {
            return Err(TablespaceMapError::TooManyLines);
        }
        match self.map.paths.insert(oid, path.to_vec()) {
            None => Ok(()),
            Some(_) => Err(TablespaceMapError::Repeated(oid)),
        }
    }
}

impl TablespaceMap {
    /// The tablespaces with the paths of their directories.
    pub fn paths(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.paths.iter().map(|(oid, path)| (*oid, path.as_slice()))
    }

    /// Compares it with what the server announced when the backup began. Tablespaces within the data directory, whose
    /// locations are relative, need no link.
    pub fn check<'a>(
        &self,
        announced: impl IntoIterator<Item = (u32, &'a [u8])>,
    ) -> Result<(), TablespaceMapError> {
        let announced: BTreeMap<u32, &[u8]> = announced.into_iter().collect();
        if let Some((oid, _)) = self.paths().find(|(oid, path)| announced.get(oid) != Some(path)) {
            return Err(TablespaceMapError::NotAnnounced(oid));
        }
        let is_missing =
            |(oid, path): &(&u32, &&[u8])| path.starts_with(b"/") && !self.paths.contains_key(oid);
        match announced.iter().find(is_missing) {
            Some((oid, _)) => Err(TablespaceMapError::Missing(*oid)),
            None => Ok(()),
        }
    }
}

fn parse_line(line: &[u8]) -> Option<(u32, &[u8])> {
    let blank = line.iter().position(|&byte| byte == b' ')?;
    let (oid, path) = (&line[..blank], &line[blank + 1..]);
    let is_path = !path.is_empty() && path.len() <= MAX_PATH_LEN && !path.contains(&0);
    Some((parse_oid(oid)?, path)).filter(|_| is_path)
}

#[cfg(test)]
mod tests {
    use super::TablespaceMapError as E;
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<TablespaceMap, E> {
        parse_with(MapEscapes::Backslashes, pieces)
    }

    fn parse_with<'a>(
        escapes: MapEscapes,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<TablespaceMap, E> {
        let mut parser = TablespaceMapParser::new(escapes);
        pieces.into_iter().try_for_each(|piece| parser.push(piece))?;
        parser.finish()
    }

    /// As the server writes it.
    fn written(paths: &BTreeMap<u32, Vec<u8>>) -> Vec<u8> {
        let mut text = Vec::new();
        for (oid, path) in paths {
            text.extend_from_slice(format!("{oid} ").as_bytes());
            for &byte in path {
                if matches!(byte, b'\n' | b'\r' | b'\\') {
                    text.push(b'\\');
                }
                text.push(byte);
            }
            text.push(b'\n');
        }
        text
    }

    #[test]
    fn reads_what_the_server_writes() {
        let map = parse([&b"16385 /srv/with a blank\n16386 /srv/b\\\\s\\\nn\n"[..]]).unwrap();
        let paths: Vec<_> = map.paths().collect();
        assert_eq!(paths, [(16385, &b"/srv/with a blank"[..]), (16386, b"/srv/b\\s\nn")]);
        let old = b"16385 /srv/b\\s\\\\t\\\nn\\x\n";
        for piece in 1..old.len() {
            let old = parse_with(MapEscapes::LineBreaks, old.chunks(piece)).unwrap();
            assert_eq!(old.paths().next(), Some((16385, &b"/srv/b\\s\\\\t\nn\\x"[..])));
        }
        // recovery would go there
        let passed_over = parse([&b"16385 /srv/b\\s\n"[..]]).unwrap();
        assert_eq!(passed_over.paths().next(), Some((16385, &b"/srv/bs"[..])));
        assert_eq!(parse([]), Ok(TablespaceMap::default()));
        assert_eq!(parse([&b"\n\r\n"[..]]), Ok(TablespaceMap::default()));
    }

    #[test]
    fn refuses_what_is_no_map() {
        let line = |line: &str| E::InvalidLine(line.into());
        let long = format!("1 /{}\n", "x".repeat(2 * MAX_PATH_LEN));
        let many: String = (1..=MAX_LINES + 1).map(|oid| format!("{oid} /x\n")).collect();
        for (text, expected) in [
            ("x /a\n", line("x /a")),
            ("0 /a\n", line("0 /a")),
            ("01 /a\n", line("01 /a")),
            ("4294967296 /a\n", line("4294967296 /a")),
            (" /a\n", line(" /a")),
            ("1\n", line("1")),
            ("1 \n", line("1 ")),
            ("1 /a\0b\n", line("1 /a\0b")),
            ("1 /a", E::Truncated),
            ("1 /a\n\\", E::Truncated),
            ("1 /a\\\n", E::Truncated),
            ("1 /a\n1 /b\n", E::Repeated(1)),
            (&long, E::LineTooLong),
            (&many, E::TooManyLines),
        ] {
            assert_eq!(parse([text.as_bytes()]), Err(expected), "{text}");
        }
    }

    #[test]
    fn is_compared_with_what_was_announced() {
        let map = parse([&b"1 /a\n2 /b\n"[..]]).unwrap();
        let (a, b, c): (&[u8], &[u8], &[u8]) = (b"/a", b"/b", b"/c");
        assert_eq!(map.check([(1, a), (2, b)]), Ok(()));
        assert_eq!(map.check([(1, a), (2, b), (3, &b"pg_tblspc/3"[..])]), Ok(()));
        assert_eq!(map.check([(1, a)]), Err(E::NotAnnounced(2)));
        assert_eq!(map.check([(1, a), (2, c)]), Err(E::NotAnnounced(2)));
        assert_eq!(map.check([(1, a), (2, b), (3, c)]), Err(E::Missing(3)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            paths in proptest::collection::btree_map(1u32.., proptest::collection::vec(1u8.., 1..40), 0..6),
            piece in 1usize..20,
        ) {
            let text = written(&paths);
            prop_assert_eq!(parse(text.chunks(piece)), Ok(TablespaceMap { paths }));
        }

        #[test]
        fn any_split_gives_the_same(
            text in proptest::collection::vec(proptest::sample::select(&b"019 /\\\n\rx\0"[..]), 0..60),
            piece in 1usize..20,
        ) {
            prop_assert_eq!(parse(text.chunks(piece)), parse([&text[..]]));
        }
    }
}
