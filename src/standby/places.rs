//! Where everything of a copy goes: decided before any of it is made.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::create::{CreateRequest, TablespaceMapping};
use super::directories::{nearest_existing, real_place};
use super::error::CreateError;
use super::space::{SpaceNeed, check_space};
use super::workspace::{Owner, Workspace, WorkspaceError};
use crate::backup::{TablespacePlace, TablespaceTarget};
use crate::client::Tablespace;

/// The longest location of a tablespace, in bytes (`MAXPGPATH`).
const MAX_LOCATION_LEN: usize = 1024;

/// What the user has said of places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlaceRequest<'a> {
    pub(crate) tablespace_mappings: &'a [TablespaceMapping],
    pub(crate) wal_directory: Option<&'a PathBuf>,
}

impl<'a> From<&'a CreateRequest> for PlaceRequest<'a> {
    fn from(request: &'a CreateRequest) -> Self {
        PlaceRequest {
            tablespace_mappings: &request.tablespace_mappings,
            wal_directory: request.wal_directory.as_ref(),
        }
    }
}

/// Every directory that the copy fills, and how many bytes it is going to hold.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Tablespaces, in the order of the server's list.
    pub(crate) tablespaces: Vec<TablespaceTarget>,
    /// Directories outside of the data directory: the WAL's first, then the tablespaces'.
    outside: Vec<PathBuf>,
    needs: Vec<SpaceNeed>,
}

impl Places {
    /// Decides, and checks that no place is within another, or somewhere that a server has no business with.
    ///
    /// `data` is where the data directory is built, `owner` whom files shall belong to when root runs this.
    pub(crate) fn decide<'a>(
        request: impl Into<PlaceRequest<'a>>,
        tablespaces: &[Tablespace],
        target: &Path,
        workspace: &Path,
        owner: Option<Owner>,
    ) -> Result<Self, CreateError> {
        let request = request.into();
        refuse_unused_mappings(request, tablespaces)?;
        let mut places = Places { tablespaces: Vec::new(), outside: Vec::new(), needs: Vec::new() };
        places.outside.extend(request.wal_directory.cloned());
        for tablespace in tablespaces {
            let bytes = tablespace.size_kb.unwrap_or(0).saturating_mul(1024);
            let (Some(oid), Some(location)) = (tablespace.oid, &tablespace.location) else {
                places.needs.push(SpaceNeed { directory: target.to_owned(), bytes });
                continue;
            };
            let place = place_of(request, location, owner)?;
            let directory = match &place {
                TablespacePlace::Directory(directory) => {
                    places.outside.push(directory.clone());
                    directory.clone()
                }
                TablespacePlace::InPlace => target.to_owned(),
            };
            places.needs.push(SpaceNeed { directory, bytes });
            places.tablespaces.push(TablespaceTarget { oid, location: location.to_vec(), place });
        }
        places.refuse_overlap(target, workspace)?;
        Ok(places)
    }

    /// No directory may be given to two, or lie within another, within the data directory or around it.
    fn refuse_overlap(&self, target: &Path, workspace: &Path) -> Result<(), CreateError> {
        let real = |path: &Path| real_place(path).map_err(CreateError::Workspace);
        let mut taken = vec![(real(target)?, None), (real(workspace)?, None)];
        for directory in &self.outside {
            taken.push((real(directory)?, Some(directory)));
        }
        // in this order whatever lies within a directory follows it at once
        taken.sort();
        for pair in taken.windows(2) {
            let [(outer, first), (inner, second)] = pair else { continue };
            if inner.starts_with(outer)
                && let Some(directory) = second.or(*first)
            {
                return Err(CreateError::Overlap(directory.clone()));
            }
        }
        Ok(())
    }

    /// Whether there is room for all of it.
    pub(crate) fn check_space(&self) -> Result<(), CreateError> {
        let existing = |need: &SpaceNeed| -> Result<SpaceNeed, WorkspaceError> {
            Ok(SpaceNeed { directory: nearest_existing(&need.directory)?.to_owned(), bytes: need.bytes })
        };
        let needs = self.needs.iter().map(existing).collect::<Result<Vec<_>, _>>()?;
        Ok(check_space(&needs)?)
    }

    /// Makes the directories outside of the data directory, or finds them empty.
    pub(crate) fn claim(&self, workspace: &mut Workspace) -> Result<(), CreateError> {
        workspace.claim_directories(&self.outside).map_err(|(index, source)| self.refused(index, source))
    }

    /// Whether they could be had, without making anything.
    pub(crate) fn examine(&self) -> Result<(), CreateError> {
        for (index, directory) in self.outside.iter().enumerate() {
            Workspace::examine(directory).map_err(|source| self.refused(index, source))?;
        }
        Ok(())
    }

    fn refused(&self, index: usize, source: WorkspaceError) -> CreateError {
        let is_it = |target: &&TablespaceTarget| match (&target.place, self.outside.get(index)) {
            (TablespacePlace::Directory(directory), Some(outside)) => directory == outside,
            _ => false,
        };
        match self.tablespaces.iter().find(is_it) {
            Some(target) => CreateError::Tablespace { location: shown(&target.location), source },
            None => CreateError::WalDirectory(source),
        }
    }
}

fn refuse_unused_mappings(request: PlaceRequest<'_>, tablespaces: &[Tablespace]) -> Result<(), CreateError> {
    for mapping in request.tablespace_mappings {
        let is_it = |tablespace: &Tablespace| {
            tablespace.location.as_deref().is_some_and(|at| is_path(at, &mapping.from))
        };
        if !tablespaces.iter().any(is_it) {
            return Err(CreateError::UnusedMapping(mapping.from.clone()));
        }
    }
    Ok(())
}

/// By the user's mapping, or where it is on the server. The server's word is taken only for a plain absolute path, and,
/// when root runs this, only below a directory of the standby's owner: root could write anywhere.
fn place_of(
    request: PlaceRequest<'_>,
    location: &[u8],
    owner: Option<Owner>,
) -> Result<TablespacePlace, CreateError> {
    let path = Path::new(OsStr::from_bytes(location));
    let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
    let rebuilt: PathBuf = path.components().collect();
    let is_plain = path.components().all(plain) && rebuilt.as_os_str() == path.as_os_str();
    if !is_plain || location.len() > MAX_LOCATION_LEN || location.iter().any(u8::is_ascii_control) {
        return Err(CreateError::TablespaceLocation(shown(location)));
    }
    if !path.is_absolute() {
        return Ok(TablespacePlace::InPlace);
    }
    let mapping = request.tablespace_mappings.iter().find(|mapping| is_path(location, &mapping.from));
    if let Some(mapping) = mapping {
        return Ok(TablespacePlace::Directory(mapping.to.clone()));
    }
    if let Some(owner) = owner {
        let existing = nearest_existing(path)?;
        let source = |source| WorkspaceError::Io { operation: "examine", path: existing.to_owned(), source };
        if std::fs::metadata(existing).map_err(source)?.uid() != owner.uid {
            return Err(CreateError::TablespacePlace { location: shown(location) });
        }
    }
    Ok(TablespacePlace::Directory(path.to_owned()))
}

fn is_path(location: &[u8], path: &Path) -> bool {
    Path::new(OsStr::from_bytes(location)) == path
}

/// Text of a server's for a person: nothing in it moves the cursor.
pub(crate) fn shown(location: &[u8]) -> String {
    String::from_utf8_lossy(location).chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
