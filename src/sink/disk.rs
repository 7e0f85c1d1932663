//! What the sink asks of a directory, so that a simulated one can stand in its place.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

/// A file in the directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskEntry {
    /// Its name.
    pub name: String,
    /// Its length in bytes; of an unfinished segment without the zeros behind its WAL, to the page; of a finished compressed
    /// segment that of what is in it, 0 when that cannot be read; `None` where it does not matter.
    pub len: Option<u64>,
}

/// What opening does about a file that exists, or does not. No mode truncates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist. `ErrorKind::NotFound` says that it does not, and no other error does.
    Existing,
    /// The same, and nothing will be written.
    ToRead,
    /// It is created, empty, when it does not exist.
    ExistingOrNew,
}

/// An open file, for those who outlive the steps of others. Clones are the same open file.
pub trait DiskFile: Clone {
    /// `fdatasync`. Others may write meanwhile; of that nothing is said.
    fn sync_data(&self) -> io::Result<()>;
    /// The same file, opened once more: of two syncs of one open file at a time, one alone is told of an error, and it is not
    /// said which.
    fn open_again(&self) -> io::Result<Self>;
    /// Fills `buffer` from `offset` as far as the file goes; less than asked for only at its end.
    fn fill_from(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// One directory, and `archive_status` below it where the layout has that.
///
/// Names are relative to the directory. Nothing is durable before the `sync_*` call that says so: the file's `sync_data`
/// for bytes and length, `sync_directory` for names made or changed. An error from either leaves unknown what
/// is durable, and no later success makes up for it.
pub trait Disk {
    /// An open file; dropping it closes it.
    type File: DiskFile;

    /// The full name, for messages.
    fn path(&self, name: &str) -> PathBuf;
    /// The names of the plain files, in no particular order. Names that are not UTF-8 are left out, since none of ours are
    /// like that.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// The length in bytes of a file that is not open.
    fn len_of(&mut self, name: &str) -> io::Result<u64>;
    /// Opens for reading and, as `mode` says, writing.
    fn open(&mut self, name: &str, mode: OpenMode) -> io::Result<Self::File>;
    /// Says that a new file will be wanted, to hold `len` bytes. One of zeros may be made ready for it meanwhile, durable but
    /// for its name, so that what is written there is durable sooner. It is no matter if none is.
    fn make_ready(&mut self, len: u64) {
        let _ = len;
    }
    /// Gives the file that was made ready for `len` bytes the name `name`, if nobody has that. `None`: there is none.
    fn take_ready(&mut self, name: &str, len: u64) -> io::Result<Option<Self::File>> {
        let _ = (name, len);
        Ok(None)
    }
    /// The length in bytes.
    fn len(&mut self, file: &Self::File) -> io::Result<u64>;
    /// Cuts off, or appends zeros.
    fn set_len(&mut self, file: &mut Self::File, len: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset` as far as the file goes; less than asked for only at its end.
    fn read_at(&mut self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        file.fill_from(offset, buffer)
    }
    /// Writes all of `chunks`, one behind the other, from `offset`.
    fn write_at(&mut self, file: &mut Self::File, offset: u64, chunks: &[Bytes]) -> io::Result<()>;
    /// Gives the file the name `to`, replacing what had it.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Takes the name away.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// `fsync` of the directory itself (`""`) or of one below it.
    fn sync_directory(&mut self, name: &str) -> io::Result<()>;
    /// Makes durable what others have put into the directory, at whatever time.
    fn sync_earlier(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Takes an exclusive lock on the directory (`""`), or on a file, creating it, and holds it as long as the file is open.
    /// `None`: somebody else holds it.
    fn lock(&mut self, name: &str) -> io::Result<Option<Self::File>>;
}
