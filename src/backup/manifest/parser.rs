//! The manifest's grammar: versions 1 and 2, one file at a time. No I/O.
//!
//! Answers to `json_parse_manifest_incremental_chunk` in PostgreSQL's `src/common/parse_manifest.c`. Stricter: a
//! field given twice is an error, the fields that every server writes must be there, and nothing may follow.

use crate::pg::{Lsn, SystemIdentifier, TimelineId};

use super::super::checksum::{ChecksumAlgorithm, MAX_CHECKSUM_LEN};
use super::field::{Field, Scope};
use super::json::{JsonError, Lexer, Token};
use super::self_checksum::{SelfChecksum, SelfChecksumError};

/// The most WAL ranges: one for each timeline that the backup spans.
pub const MAX_WAL_RANGES: usize = 1 << 16;

/// The longest path, in bytes: PostgreSQL's `MAXPGPATH`.
pub const MAX_MANIFEST_PATH_LEN: usize = 1024;

/// One entry of `Files`, borrowed from the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestFile<'a> {
    /// The path below the data directory; `pg_tblspc/<oid>/…` in a tablespace. Decoded, in whatever encoding.
    pub path: &'a [u8],
    /// Its size in bytes.
    pub size: u64,
    /// The algorithm of its checksum.
    pub algorithm: ChecksumAlgorithm,
    /// The checksum; empty for [`ChecksumAlgorithm::None`].
    pub checksum: &'a [u8],
}

/// WAL that recovery of the backup needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// On which timeline.
    pub timeline: TimelineId,
    /// The first byte.
    pub start_lsn: Lsn,
    /// The byte after the last.
    pub end_lsn: Lsn,
}

impl WalRange {
    /// Whether `ranges`, newest timeline first as a manifest lists them, lead from `start` to `end` without a break.
    pub fn lead(ranges: &[WalRange], start: (TimelineId, Lsn), end: (TimelineId, Lsn)) -> bool {
        let (Some(first), Some(last)) = (ranges.last(), ranges.first()) else { return false };
        let joined = ranges
            .windows(2)
            .all(|pair| pair[1].timeline < pair[0].timeline && pair[1].end_lsn == pair[0].start_lsn);
        let forward = ranges.iter().all(|range| range.start_lsn <= range.end_lsn);
        joined
            && forward
            && (first.timeline, first.start_lsn) == start
            && (last.timeline, last.end_lsn) == end
    }
}

/// What a manifest says besides its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestSummary {
    /// 1 up to server 16, then 2.
    pub version: u8,
    /// The cluster; from version 2 on.
    pub system_identifier: Option<SystemIdentifier>,
    /// Newest timeline first.
    pub wal_ranges: Vec<WalRange>,
    /// How many files it lists.
    pub file_count: u64,
    /// Their sizes added up.
    pub total_size: u64,
}

/// Why the manifest cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON.
    #[error("could not parse backup manifest")]
    Json(#[from] JsonError),
    /// JSON, but not in the shape of a manifest.
    #[error("unexpected {found} in backup manifest, expected {expected}")]
    Unexpected {
        /// What came.
        found: &'static str,
        /// What the grammar wants.
        expected: &'static str,
    },
    /// A field that no known version has.
    #[error("unrecognized field \"{}\" in {place} of backup manifest", .field.escape_ascii())]
    UnknownField {
        /// Its name, or the beginning of that.
        field: Vec<u8>,
        /// In what: the manifest itself, a file, a WAL range.
        place: &'static str,
    },
    /// A field given twice.
    #[error("field \"{0}\" is given twice in backup manifest")]
    DuplicateField(&'static str),
    /// A field that must be there is not.
    #[error("field \"{0}\" is missing in backup manifest")]
    MissingField(&'static str),
    /// A value that does not fit its field.
    #[error("invalid value of field \"{0}\" in backup manifest")]
    Value(&'static str),
    /// A checksum of an algorithm that is not known.
    #[error("unrecognized checksum algorithm: \"{}\"", .0.escape_ascii())]
    ChecksumAlgorithm(Vec<u8>),
    /// A checksum that is not hexadecimal, or too long.
    #[error("invalid checksum for file \"{}\": \"{}\"", .path.escape_ascii(), .checksum.escape_ascii())]
    FileChecksum {
        /// The file, if it was named before.
        path: Vec<u8>,
        /// What is there.
        checksum: Vec<u8>,
    },
    /// The manifest's own checksum is not one.
    #[error("invalid manifest checksum: \"{}\"", .0.escape_ascii())]
    ManifestChecksum(Vec<u8>),
    /// The version must come before everything else.
    #[error("backup manifest does not begin with its version")]
    VersionNotFirst,
    /// A version from the future.
    #[error("unexpected backup manifest version {}", .0.escape_ascii())]
    Version(Vec<u8>),
    /// More than [`MAX_WAL_RANGES`].
    #[error("too many WAL ranges in backup manifest")]
    TooManyWalRanges,
    /// It stops early.
    #[error("backup manifest ends unexpectedly")]
    UnexpectedEnd,
    /// The checksum of itself cannot be computed.
    #[error("could not check backup manifest against its own checksum")]
    SelfChecksum(#[from] SelfChecksumError),
    /// The checksum of itself is wrong.
    #[error("manifest checksum mismatch")]
    SelfChecksumMismatch,
}

/// The parser's state between chunks.
#[derive(Debug, Default)]
pub struct ManifestParser {
    lexer: Lexer,
    checksum: SelfChecksum,
    grammar: Grammar,
}

#[derive(Debug, Default)]
struct Grammar {
    expect: Expect,
    /// Fields seen in the top-level object, and in the entry being read.
    top_seen: u16,
    entry_seen: u16,
    entry: Entry,
    version: u8,
    system_identifier: Option<SystemIdentifier>,
    wal_ranges: Vec<WalRange>,
    file_count: u64,
    total_size: u64,
    manifest_checksum: Vec<u8>,
}

#[derive(Debug, Default)]
struct Entry {
    path: Vec<u8>,
    size: u64,
    algorithm: ChecksumAlgorithm,
    checksum: Vec<u8>,
    timeline: Option<TimelineId>,
    start_lsn: Lsn,
    end_lsn: Lsn,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Expect {
    #[default]
    Manifest,
    Key(Scope),
    Colon(Field),
    Value(Field),
    CommaOrEnd(Scope),
    FirstEntry(Scope),
    Entry(Scope),
    CommaOrArrayEnd(Scope),
    Nothing,
}

impl ManifestParser {
    /// A parser at the start of a manifest.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a chunk, and hands each file that it completes to `take`.
    pub fn push<E: From<ManifestError>>(
        &mut self,
        chunk: &[u8],
        mut take: impl FnMut(ManifestFile<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.checksum.update(chunk);
        let grammar = &mut self.grammar;
        self.lexer
            .push(chunk, |token| {
                if grammar.token(token).map_err(|error| Stop::Own(E::from(error)))? == Step::FileComplete {
                    take(grammar.file()).map_err(Stop::Own)?;
                }
                Ok(())
            })
            .map_err(|stop| match stop {
                Stop::Json(error) => ManifestError::from(error).into(),
                Stop::Own(error) => error,
            })
    }

    /// The manifest is over: it must be whole, and its checksum right.
    pub fn finish(self) -> Result<ManifestSummary, ManifestError> {
        self.lexer.finish()?;
        let grammar = self.grammar;
        if grammar.expect != Expect::Nothing {
            return Err(ManifestError::UnexpectedEnd);
        }
        if self.checksum.finish()?[..] != grammar.manifest_checksum {
            return Err(ManifestError::SelfChecksumMismatch);
        }
        Ok(ManifestSummary {
            version: grammar.version,
            system_identifier: grammar.system_identifier,
            wal_ranges: grammar.wal_ranges,
            file_count: grammar.file_count,
            total_size: grammar.total_size,
        })
    }
}

/// Tells the lexer's errors from everybody else's.
enum Stop<E> {
    Json(JsonError),
    Own(E),
}

impl<E> From<JsonError> for Stop<E> {
    fn from(error: JsonError) -> Self {
        Stop::Json(error)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Continue,
    FileComplete,
}

impl Grammar {
    fn file(&self) -> ManifestFile<'_> {
        ManifestFile {
            path: &self.entry.path,
            size: self.entry.size,
            algorithm: self.entry.algorithm,
            checksum: &self.entry.checksum,
        }
    }

    fn token(&mut self, token: Token<'_>) -> Result<Step, ManifestError> {
        let next = match (self.expect, token) {
            (Expect::Manifest, Token::ObjectBegin) => Expect::Key(Scope::Top),
            (Expect::Key(scope), Token::String(key)) => Expect::Colon(self.key(scope, key)?),
            (Expect::Colon(field), Token::Colon) => Expect::Value(field),
            (Expect::Value(Field::Files), Token::ArrayBegin) => Expect::FirstEntry(Scope::File),
            (Expect::Value(Field::WalRanges), Token::ArrayBegin) => Expect::FirstEntry(Scope::Range),
            (Expect::Value(field), Token::String(text)) => self.text(field, text)?,
            (Expect::Value(field), Token::Number(digits)) => self.number(field, digits)?,
            (Expect::CommaOrEnd(scope), Token::Comma) => Expect::Key(scope),
            (Expect::FirstEntry(scope) | Expect::Entry(scope), Token::ObjectBegin) => {
                self.entry_seen = 0;
                self.entry.checksum.clear();
                self.entry.algorithm = ChecksumAlgorithm::None;
                Expect::Key(scope)
            }
            (Expect::FirstEntry(_) | Expect::CommaOrArrayEnd(_), Token::ArrayEnd) => {
                Expect::CommaOrEnd(Scope::Top)
            }
            (Expect::CommaOrArrayEnd(scope), Token::Comma) => Expect::Entry(scope),
            // to be told what is missing is worth more than that a name was expected
            (Expect::Key(Scope::File), Token::ObjectEnd) if self.entry_seen == 0 => {
                return Err(ManifestError::MissingField(Field::Path.name()));
            }
            (Expect::Key(Scope::Range), Token::ObjectEnd) if self.entry_seen == 0 => {
                return Err(ManifestError::MissingField(Field::Timeline.name()));
            }
            (Expect::CommaOrEnd(Scope::File), Token::ObjectEnd) => {
                self.complete_file()?;
                self.expect = Expect::CommaOrArrayEnd(Scope::File);
                return Ok(Step::FileComplete);
            }
            (Expect::CommaOrEnd(Scope::Range), Token::ObjectEnd) => {
                self.complete_range()?;
                Expect::CommaOrArrayEnd(Scope::Range)
            }
            (Expect::CommaOrEnd(Scope::Top), Token::ObjectEnd) => {
                self.complete_manifest()?;
                Expect::Nothing
            }
            (expect, token) => {
                return Err(ManifestError::Unexpected {
                    found: describe(token),
                    expected: expect.describe(),
                });
            }
        };
        self.expect = next;
        Ok(Step::Continue)
    }

    fn key(&mut self, scope: Scope, key: &[u8]) -> Result<Field, ManifestError> {
        let field = Field::parse(scope, key).ok_or_else(|| {
            let field = key.iter().copied().take(MAX_CHECKSUM_LEN).collect();
            ManifestError::UnknownField { field, place: scope.describe() }
        })?;
        let seen = if scope == Scope::Top { &mut self.top_seen } else { &mut self.entry_seen };
        if *seen & field.bit() != 0 {
            return Err(ManifestError::DuplicateField(field.name()));
        }
        if scope == Scope::Top && *seen == 0 && field != Field::Version {
            return Err(ManifestError::VersionNotFirst);
        }
        *seen |= field.bit();
        Ok(field)
    }

    fn text(&mut self, field: Field, text: &[u8]) -> Result<Expect, ManifestError> {
        let invalid = ManifestError::Value(field.name());
        let entry = &mut self.entry;
        match field {
            Field::Path if (1..=MAX_MANIFEST_PATH_LEN).contains(&text.len()) => {
                entry.path.clear();
                entry.path.extend_from_slice(text);
            }
            Field::EncodedPath => {
                decode_hex(text, &mut entry.path, MAX_MANIFEST_PATH_LEN).ok_or(invalid.clone())?;
                if entry.path.is_empty() {
                    return Err(invalid);
                }
            }
            Field::LastModified => {}
            Field::ChecksumAlgorithm => {
                let name = std::str::from_utf8(text).ok().and_then(|name| name.parse().ok());
                entry.algorithm = name.ok_or_else(|| ManifestError::ChecksumAlgorithm(text.to_vec()))?;
            }
            Field::Checksum => {
                if decode_hex(text, &mut entry.checksum, MAX_CHECKSUM_LEN).is_none() {
                    let path = if self.has_path() { self.entry.path.clone() } else { Vec::new() };
                    return Err(ManifestError::FileChecksum { path, checksum: text.to_vec() });
                }
            }
            Field::StartLsn => entry.start_lsn = parse_lsn(text).ok_or(invalid)?,
            Field::EndLsn => entry.end_lsn = parse_lsn(text).ok_or(invalid)?,
            Field::ManifestChecksum => {
                let decoded = decode_hex(text, &mut self.manifest_checksum, MAX_CHECKSUM_LEN);
                decoded.ok_or_else(|| ManifestError::ManifestChecksum(text.to_vec()))?;
            }
            _ => return Err(invalid),
        }
        Ok(Expect::CommaOrEnd(field.scope()))
    }

    fn number(&mut self, field: Field, digits: &[u8]) -> Result<Expect, ManifestError> {
        let invalid = || ManifestError::Value(field.name());
        let number: Option<u64> = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        match field {
            Field::Version => {
                self.version = match number {
                    Some(1) => 1,
                    Some(2) => 2,
                    _ => return Err(ManifestError::Version(digits.iter().copied().take(32).collect())),
                };
            }
            Field::SystemIdentifier => {
                self.system_identifier = Some(SystemIdentifier::new(number.ok_or_else(invalid)?));
            }
            Field::Size => self.entry.size = number.ok_or_else(invalid)?,
            Field::Timeline => {
                let number = number.and_then(|number| u32::try_from(number).ok());
                self.entry.timeline = Some(number.and_then(TimelineId::new).ok_or_else(invalid)?);
            }
            _ => return Err(invalid()),
        }
        Ok(Expect::CommaOrEnd(field.scope()))
    }

    fn complete_file(&mut self) -> Result<(), ManifestError> {
        match (self.entry_has(Field::Path), self.entry_has(Field::EncodedPath)) {
            (true, true) => return Err(ManifestError::DuplicateField(Field::Path.name())),
            (false, false) => return Err(ManifestError::MissingField(Field::Path.name())),
            _ => {}
        }
        self.require_in_entry(Field::Size)?;
        match (self.entry_has(Field::ChecksumAlgorithm), self.entry_has(Field::Checksum)) {
            (false, true) => return Err(ManifestError::MissingField(Field::ChecksumAlgorithm.name())),
            (true, false) => return Err(ManifestError::MissingField(Field::Checksum.name())),
            _ => {}
        }
        self.file_count += 1;
        self.total_size = self.total_size.saturating_add(self.entry.size);
        Ok(())
    }

    fn complete_range(&mut self) -> Result<(), ManifestError> {
        let timeline =
            self.entry.timeline.take().ok_or(ManifestError::MissingField(Field::Timeline.name()))?;
        self.require_in_entry(Field::StartLsn)?;
        self.require_in_entry(Field::EndLsn)?;
        let (start_lsn, end_lsn) = (self.entry.start_lsn, self.entry.end_lsn);
        if end_lsn < start_lsn {
            return Err(ManifestError::Value(Field::EndLsn.name()));
        }
        if self.wal_ranges.len() == MAX_WAL_RANGES {
            return Err(ManifestError::TooManyWalRanges);
        }
        self.wal_ranges.push(WalRange { timeline, start_lsn, end_lsn });
        Ok(())
    }

    fn complete_manifest(&self) -> Result<(), ManifestError> {
        let identifier = (self.version >= 2).then_some(Field::SystemIdentifier);
        for field in [Field::Files, Field::WalRanges, Field::ManifestChecksum].into_iter().chain(identifier) {
            if self.top_seen & field.bit() == 0 {
                return Err(ManifestError::MissingField(field.name()));
            }
        }
        Ok(())
    }

    fn has_path(&self) -> bool {
        self.entry_has(Field::Path) || self.entry_has(Field::EncodedPath)
    }

    fn entry_has(&self, field: Field) -> bool {
        self.entry_seen & field.bit() != 0
    }

    fn require_in_entry(&self, field: Field) -> Result<(), ManifestError> {
        if self.entry_has(field) { Ok(()) } else { Err(ManifestError::MissingField(field.name())) }
    }
}

impl Expect {
    const fn describe(self) -> &'static str {
        match self {
            Expect::Manifest | Expect::Entry(_) => "an object",
            Expect::Key(_) => "a field name",
            Expect::Colon(_) => "a colon",
            Expect::Value(_) => "a value of the right type",
            Expect::CommaOrEnd(_) => "a comma or the object's end",
            Expect::FirstEntry(_) => "an object or the array's end",
            Expect::CommaOrArrayEnd(_) => "a comma or the array's end",
            Expect::Nothing => "the end",
        }
    }
}

const fn describe(token: Token<'_>) -> &'static str {
    match token {
        Token::ObjectBegin => "object",
        Token::ObjectEnd => "end of object",
        Token::ArrayBegin => "array",
        Token::ArrayEnd => "end of array",
        Token::Colon => "colon",
        Token::Comma => "comma",
        Token::String(_) => "string",
        Token::Number(_) => "number",
    }
}

fn decode_hex(text: &[u8], into: &mut Vec<u8>, max_len: usize) -> Option<()> {
    into.clear();
    if !text.len().is_multiple_of(2) || text.len() / 2 > max_len {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    for pair in text.chunks_exact(2) {
        into.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(())
}

fn parse_lsn(text: &[u8]) -> Option<Lsn> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
