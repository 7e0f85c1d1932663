//! What an archive may hold that is kept, to be unpacked by somebody else.
//!
//! Names and kinds are checked where headers are read. Here it is seen to that nothing in an archive leads elsewhere: a server
//! that was asked for a map of its tablespaces (`TABLESPACE_MAP`) sends no links (`sendDir` in `basebackup.c`), and the map,
//! which recovery makes links of, says what the server announced.

use super::error::{BackupError, MemberRule};
use super::path::MemberPath;
use super::tablespace_map::{MapEscapes, TablespaceMap, TablespaceMapError, TablespaceMapParser};
use super::tar_header::{MemberKind, TarMember};
use super::tar_stream::{TarError, TarEvent};

/// The map's name, at the top of the data directory.
pub(super) const TABLESPACE_MAP_NAME: &str = "tablespace_map";

/// A tablespace, as the server announced it: its OID and its location.
pub type AnnouncedTablespace = (u32, Vec<u8>);

/// The tablespaces that a server announced, and how it writes their map.
#[derive(Debug)]
pub struct Announced {
    /// All of them.
    pub tablespaces: Vec<AnnouncedTablespace>,
    /// By the server's version.
    pub escapes: MapEscapes,
}

/// One archive as it is read: [`see`](Self::see) every event, then [`finish`](Self::finish).
#[derive(Debug)]
pub(super) struct KeptMembers {
    content: KeptContent,
    map: Map,
}

/// What the archive is of.
#[derive(Debug)]
pub(super) enum KeptContent {
    /// A tablespace: there is no map in it.
    Tablespace,
    /// The data directory of a cluster with these tablespaces.
    DataDirectory(Announced),
}

#[derive(Debug)]
enum Map {
    NotYet,
    Coming(TablespaceMapParser),
    Compared,
}

/// Why an archive is not kept.
#[derive(Debug)]
pub(super) enum KeptError {
    Tar(TarError),
    Member(MemberPath, MemberRule),
    Map(TablespaceMapError),
}

impl KeptMembers {
    pub(super) fn new(content: KeptContent) -> Self {
        KeptMembers { content, map: Map::NotYet }
    }

    pub(super) fn see(&mut self, event: &TarEvent) -> Result<(), KeptError> {
        match (event, &mut self.map) {
            (TarEvent::Member(member), _) => self.begin(member),
            (TarEvent::Data(data), Map::Coming(parser)) => Ok(parser.push(data)?),
            (TarEvent::MemberEnd, Map::Coming(_)) => {
                let Map::Coming(parser) = std::mem::replace(&mut self.map, Map::Compared) else {
                    return Ok(());
                };
                self.compare(&parser.finish()?)
            }
            (TarEvent::Data(_) | TarEvent::MemberEnd | TarEvent::End, _) => Ok(()),
        }
    }

    /// The archive is complete. Without a map there must be nothing that needs one.
    pub(super) fn finish(mut self) -> Result<(), KeptError> {
        match self.map {
            Map::Compared => Ok(()),
            Map::NotYet | Map::Coming(_) => self.compare(&TablespaceMap::default()),
        }
    }

    fn begin(&mut self, member: &TarMember) -> Result<(), KeptError> {
        let refused = |rule| Err(KeptError::Member(member.path.clone(), rule));
        let map_escapes = match &self.content {
            KeptContent::DataDirectory(announced)
                if member.path.as_bytes() == TABLESPACE_MAP_NAME.as_bytes() =>
            {
                Some(announced.escapes)
            }
            _ => None,
        };
        match (&member.kind, &self.map, map_escapes) {
            (MemberKind::Symlink { .. }, ..) => refused(MemberRule::KeptLink),
            (MemberKind::File { .. }, Map::NotYet, Some(escapes)) => {
                self.map = Map::Coming(TablespaceMapParser::new(escapes));
                Ok(())
            }
            (_, _, Some(_)) => refused(MemberRule::Repeated),
            _ => Ok(()),
        }
    }

    fn compare(&mut self, map: &TablespaceMap) -> Result<(), KeptError> {
        self.map = Map::Compared;
        let KeptContent::DataDirectory(announced) = &self.content else { return Ok(()) };
        let announced = announced.tablespaces.iter();
        Ok(map.check(announced.map(|(oid, location)| (*oid, location.as_slice())))?)
    }
}

impl KeptError {
    /// The same, of the archive of this name.
    pub(super) fn of(self, archive: &str) -> BackupError {
        let archive = archive.to_owned();
        match self {
            KeptError::Tar(source) => BackupError::Tar { archive, source },
            KeptError::Member(path, source) => BackupError::Member { archive, path, source },
            KeptError::Map(error) => BackupError::TablespaceMap(error),
        }
    }
}

impl From<TarError> for KeptError {
    fn from(error: TarError) -> Self {
        KeptError::Tar(error)
    }
}

impl From<TablespaceMapError> for KeptError {
    fn from(error: TablespaceMapError) -> Self {
        KeptError::Map(error)
    }
}
