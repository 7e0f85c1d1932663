//! Which tablespaces the newest backup has, and where each goes.
//!
//! Answers to `scan_for_existing_tablespaces` in PostgreSQL's `pg_combinebackup.c`. A link in `pg_tblspc` is a tablespace
//! that lies elsewhere and has to be mapped; a directory is one in place.

use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::error::CombineError;
use super::input::{Backup, below};
use super::report::{Reporter, StepKind};
use super::request::TablespaceMapping;

use super::walk::entry_type;
use crate::backup::path::{MemberPath, parse_oid};
use crate::pg::canonical_path;

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tablespace {
    pub(super) oid: u32,
    pub(super) place: Place,
    /// Where the newest backup has it.
    pub(super) old: PathBuf,
    /// Where it goes.
    pub(super) new: PathBuf,
}

/// Whether it lies in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Elsewhere,
    InPlace,
}

/// All of them, in the order in which they are copied: the one found last comes first.
pub(super) fn scan(
    backup: &mut Backup,
    output: &Path,
    mappings: &[TablespaceMapping],
    reporter: &mut Reporter<'_>,
) -> Result<Vec<Tablespace>, CombineError> {
    let pg_tblspc = MemberPath::literal("pg_tblspc");
    let shown = backup.path_of(&pg_tblspc);
    reporter.step(|| StepKind::Scan(shown.clone()));
    let directory = backup.directory()?;
    let entries = directory.list(Some(&pg_tblspc))?;
    let mut found: Vec<Tablespace> = Vec::new();
    for entry in entries {
        let entry = entry
            .map_err(|errno| crate::backup::confined::FileError::new("read directory", &shown, errno))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let path = below(&shown, name);
        let Some(oid) = parse_oid(name) else {
            reporter.step(|| StepKind::NoTablespaceOid(path));
            continue;
        };
        let member = super::input::tablespace_member(oid);
        let tablespace = match entry_type(&entry, directory, &member)? {
            FileType::Symlink => elsewhere(oid, &path, &directory.read_link(&member)?, mappings)?,
            FileType::Directory => {
                let new = below(output, member.as_bytes());
                Tablespace { oid, place: Place::InPlace, old: path, new }
            }
            _ => {
                reporter.step(|| StepKind::NoTablespaceLink(path));
                continue;
            }
        };
        if let Some(other) = found.iter().rev().find(|other| other.new == tablespace.new) {
            let (first, path) = (other.oid, tablespace.new);
            return Err(CombineError::SharedTablespace { first, second: oid, path });
        }
        found.push(tablespace);
    }
    found.reverse();
    Ok(found)
}

fn elsewhere(
    oid: u32,
    link: &Path,
    target: &Path,
    mappings: &[TablespaceMapping],
) -> Result<Tablespace, CombineError> {
    if !target.is_absolute() {
        return Err(CombineError::RelativeLink(link.to_owned()));
    }
    let old = canonical_path(target);
    // the last one given counts
    match mappings.iter().rev().find(|mapping| mapping.old == old) {
        Some(mapping) => Ok(Tablespace { oid, place: Place::Elsewhere, old, new: mapping.new.clone() }),
        None => Err(CombineError::UnmappedTablespace(old)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mapping_counts() {
        let mapping = |old: &str, new: &str| TablespaceMapping { old: old.into(), new: new.into() };
        let mappings = [mapping("/old", "/first"), mapping("/old", "/last")];
        let found = elsewhere(5, Path::new("link"), Path::new("/old/"), &mappings).unwrap();
        assert_eq!((found.old, found.new), ("/old".into(), "/last".into()));
        let relative = elsewhere(5, Path::new("link"), Path::new("old"), &mappings).unwrap_err();
        assert_eq!(relative.to_string(), "target of symbolic link \"link\" is relative");
        let unmapped = elsewhere(5, Path::new("link"), Path::new("/other"), &mappings).unwrap_err();
        assert_eq!(unmapped.to_string(), "tablespace at \"/other\" has no tablespace mapping");
    }
}
