//! A directory in memory, for unit tests and fuzzing: every step succeeds at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile, OpenMode};

type Content = Rc<RefCell<Vec<u8>>>;

/// A directory in memory; clones show the same files.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    files: Rc<RefCell<BTreeMap<String, Content>>>,
    /// The steps taken so far, such as `sync 000000010000000000000001.partial`.
    pub steps: Rc<RefCell<Vec<String>>>,
    /// What the next step that starts with this text answers.
    pub fail: Rc<RefCell<Option<(String, io::ErrorKind)>>>,
}

/// An open file, and the name it was opened under.
#[derive(Debug, Clone)]
pub struct MemoryFile {
    name: String,
    content: Content,
    disk: MemoryDisk,
}

impl MemoryDisk {
    /// The content of a file.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.files.borrow().get(name).map(|content| content.borrow().clone())
    }

    /// Puts a file there.
    pub fn put(&self, name: &str, content: &[u8]) {
        self.files.borrow_mut().insert(name.into(), Rc::new(RefCell::new(content.to_vec())));
    }

    /// Changes what is in a file that may be open.
    pub fn overwrite(&self, name: &str, content: &[u8]) {
        if let Some(file) = self.files.borrow().get(name) {
            *file.borrow_mut() = content.to_vec();
        }
    }

    /// The names of all files, sorted.
    pub fn names(&self) -> Vec<String> {
        self.files.borrow().keys().cloned().collect()
    }

    fn step(&self, text: String) -> io::Result<()> {
        let mut fail = self.fail.borrow_mut();
        if let Some((_, kind)) = fail.take_if(|(prefix, _)| text.starts_with(prefix.as_str())) {
            return Err(kind.into());
        }
        self.steps.borrow_mut().push(text);
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn sync_data(&self) -> io::Result<()> {
        self.disk.step(format!("sync {}", self.name))
    }

    fn open_again(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    fn fill_from(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some((_, kind)) = self.disk.fail.borrow_mut().take_if(|(prefix, _)| prefix == "read") {
            return Err(kind.into());
        }
        let content = self.content.borrow();
        let rest = content.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("memory").join(name)
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.files.borrow().keys().filter(|name| !name.contains('/')).cloned().collect())
    }

    fn len_of(&mut self, name: &str) -> io::Result<u64> {
        let files = self.files.borrow();
        let content = files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(content.borrow().len() as u64)
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> io::Result<MemoryFile> {
        let existing = self.files.borrow().get(name).cloned();
        let content = match (existing, mode) {
            (Some(content), _) => content,
            (None, OpenMode::Existing | OpenMode::ToRead) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::ExistingOrNew) => {
                self.step(format!("create {name}"))?;
                let content = Content::default();
                self.files.borrow_mut().insert(name.into(), Rc::clone(&content));
                content
            }
        };
        Ok(MemoryFile { name: name.into(), content, disk: self.clone() })
    }

    fn len(&mut self, file: &MemoryFile) -> io::Result<u64> {
        Ok(file.content.borrow().len() as u64)
    }

    fn set_len(&mut self, file: &mut MemoryFile, len: u64) -> io::Result<()> {
        file.content.borrow_mut().resize(len as usize, 0);
        Ok(())
    }

    fn write_at(&mut self, file: &mut MemoryFile, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        let bytes = chunks.concat();
        self.step(format!("write {} {offset}+{}", file.name, bytes.len()))?;
        let mut content = file.content.borrow_mut();
        let end = offset as usize + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(&bytes);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step(format!("rename {from} {to}"))?;
        let mut files = self.files.borrow_mut();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.into(), content);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.step(format!("remove {name}"))?;
        self.files.borrow_mut().remove(name).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&mut self, name: &str) -> io::Result<()> {
        self.step(format!("sync_directory {name}").trim_end().to_owned())
    }

    fn sync_earlier(&mut self) -> io::Result<()> {
        self.step("sync_earlier".to_owned())
    }

    fn lock(&mut self, name: &str) -> io::Result<Option<MemoryFile>> {
        self.open(name, OpenMode::ExistingOrNew).map(Some)
    }
}
