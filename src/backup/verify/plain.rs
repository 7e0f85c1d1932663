//! A backup in plain format: what is there, and how long it is.

use std::os::fd::AsFd as _;

use super::checksums::Task;
use super::control::{CONTROL_FILE, READ_LEN, check_control_file};
use super::findings::Findings;
use super::ignored::Ignored;
use super::listing::Listing;
use super::problem::{Place, Problem};
use super::tree::{BackupTree, Entry};
use crate::pg::{ControlFile, SystemIdentifier};

/// The walk over a backup's directory (`verify_plain_backup_directory`).
pub(super) struct PlainWalk<'a> {
    pub(super) tree: &'a mut BackupTree,
    pub(super) listing: &'a Listing,
    pub(super) ignored: &'a mut Ignored,
    pub(super) findings: &'a Findings<'a>,
    /// As it is in messages.
    pub(super) directory: &'a [u8],
    /// From version 2 of the manifest on.
    pub(super) system_identifier: Option<SystemIdentifier>,
    /// Filled in.
    pub(super) control: Option<ControlFile>,
    /// Files whose checksums are worth a look.
    pub(super) tasks: Vec<Task>,
}

impl PlainWalk<'_> {
    /// Walks from the top down. What is left to do is a list of paths, so no depth takes more than its own.
    pub(super) fn run(&mut self) {
        let mut directories: Vec<Box<[u8]>> = vec![Box::default()];
        while let Some(path) = directories.pop() {
            if self.findings.has_stopped() {
                return;
            }
            let above = directories.len();
            self.directory(&path, &mut directories);
            // the first one next
            directories[above..].reverse();
        }
    }

    fn directory(&mut self, path: &[u8], directories: &mut Vec<Box<[u8]>>) {
        let (directory, names) = match self.tree.names(path) {
            Ok(listed) => listed,
            Err(source) => {
                self.findings.tell(Problem::OpenDirectory { path: self.full_path(path), source });
                self.ignored.add(path);
                return;
            }
        };
        let mut entry_path = Vec::with_capacity(path.len() + 64);
        for name in names {
            entry_path.clear();
            if !path.is_empty() {
                entry_path.extend_from_slice(path);
                entry_path.push(b'/');
            }
            entry_path.extend_from_slice(&name);
            if self.ignored.covers(&entry_path) {
                continue;
            }
            match self.tree.look(directory.as_fd(), path, &name) {
                Ok(Entry::Directory) => directories.push(entry_path.as_slice().into()),
                Ok(Entry::File { len }) => self.file(&entry_path, len),
                Ok(Entry::Other) => {
                    self.findings.tell(Problem::NotRegular { path: entry_path.as_slice().into() });
                }
                Err(source) => {
                    self.findings.tell(Problem::Stat { path: entry_path.as_slice().into(), source });
                    self.ignored.add(&entry_path);
                }
            }
            if self.findings.has_stopped() {
                return;
            }
        }
    }

    fn file(&mut self, path: &[u8], found: u64) {
        let Some(file) = self.listing.find(path) else {
            self.findings.tell(Problem::Unlisted { path: path.into(), place: Place::Disk });
            return;
        };
        file.meet();
        if found != file.size {
            file.condemn();
            let listed = file.size;
            self.findings.tell(Problem::Size { path: path.into(), place: Place::Disk, found, listed });
        }
        if path == CONTROL_FILE {
            self.control_file(path);
        }
        if file.has_checksum_to_check() {
            self.findings.expect(file.size);
            self.tasks.push(Task::of_file(file.id));
        }
    }

    /// Only a manifest of version 2 says whose it is, but the WAL is compared with it all the same.
    fn control_file(&mut self, path: &[u8]) {
        let content = self.tree.open_file(path).and_then(|file| read_front(&file));
        let checked = match content {
            Ok(content) => check_control_file(&content, self.system_identifier),
            Err(source) => {
                // an earlier version's is only read for its checksum, later
                if self.system_identifier.is_some() {
                    self.findings.tell(Problem::Open { path: self.full_path(path), source });
                }
                return;
            }
        };
        match checked {
            Ok(control) => self.control = Some(control),
            Err(fault) if self.system_identifier.is_some() => {
                self.findings.tell(Problem::ControlFile { path: self.full_path(path), fault });
            }
            Err(_) => {}
        }
    }

    fn full_path(&self, path: &[u8]) -> Box<[u8]> {
        if path.is_empty() { self.directory.into() } else { [self.directory, b"/", path].concat().into() }
    }
}

fn read_front(file: &std::fs::File) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(READ_LEN);
    std::io::Read::read_to_end(&mut std::io::Read::take(file, READ_LEN as u64), &mut content)?;
    Ok(content)
}
