//! Large writes, and reads, past the page cache.
//!
//! A receiver that catches up, and a base backup, write more than anybody will soon read. Through the page cache every
//! byte costs a page to find, a copy into it, and its writing back later: several times what receiving it costs, and
//! memory that others on the machine could use. So the bulk of a large write goes to the device directly (`O_DIRECT`),
//! in whole blocks: from where it was received, when that is aligned as the device wants it, which is how the wire lays
//! large messages out, and from an aligned buffer otherwise. What is left over at its ends, and all that is small, goes
//! through the page cache. The kernel keeps the two coherent, and both are durable only after `fdatasync`.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// A multiple of the logical block of every device.
pub(crate) const BLOCK_LEN: u64 = 4096;

/// How much goes to the device at once. A write waits for the device, so small ones leave it idle most of the time.
const BUFFER_LEN: usize = 2 << 20;

/// What is shorter goes through the page cache.
pub(crate) const MIN_LEN: u64 = 128 << 10;

/// How many pieces go to the device at once from where they are.
const MAX_SLICES: usize = 64;

/// How many pieces go to the page cache at once; the kernel's limit is 1024.
const MAX_CACHED_SLICES: usize = 256;

/// The way past the page cache, for files whose file system has one.
#[derive(Debug)]
pub(crate) struct DirectWriter {
    /// For what is not aligned: [`BUFFER_LEN`] bytes, and one block more to find an aligned start in; empty before the
    /// first use.
    buffer: Vec<u8>,
    supported: bool,
}

impl DirectWriter {
    pub(crate) fn new() -> Self {
        DirectWriter { buffer: Vec::new(), supported: true }
    }

    /// Writes all of `chunks` to `offset`. Meanwhile nobody else may write with this descriptor.
    pub(crate) fn write_at(&mut self, file: &File, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        self.write(file, offset, chunks, |writer, offset, pieces| {
            let flags = fcntl_getfl(file)?;
            if fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
                writer.supported = false;
                return Ok(());
            }
            let written = writer.write_blocks(file, offset, pieces);
            fcntl_setfl(file, flags)?;
            written
        })
    }

    /// Writes all of `chunks` to `offset` of a file that has a descriptor of its own for this.
    pub(crate) fn write_twin_at(&mut self, file: &TwinFile, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        let direct = &file.direct;
        self.write(&file.cached, offset, chunks, |writer, offset, pieces| {
            writer.write_blocks(direct, offset, pieces)
        })
    }

    fn write(
        &mut self,
        cached: &File,
        offset: u64,
        chunks: &[Bytes],
        directly: impl FnOnce(&mut Self, u64, &mut Pieces<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut pieces = Pieces::new(chunks);
        let end = offset + pieces.len();
        if let Some(head_len) = self.head_len(offset, pieces.len()) {
            write_through_cache(cached, offset, head_len, &mut pieces)?;
            directly(self, offset + head_len, &mut pieces)?;
        }
        let rest = pieces.len();
        write_through_cache(cached, end - rest, rest, &mut pieces)
    }

    /// How much of `len` bytes for `offset` is to go through the page cache first, so that the rest begins with a whole
    /// block and is worth going directly; `None` when it is not.
    fn head_len(&self, offset: u64, len: u64) -> Option<u64> {
        let head_len = offset.next_multiple_of(BLOCK_LEN) - offset;
        (self.supported && len >= head_len + MIN_LEN).then_some(head_len)
    }

    /// Takes whole blocks from `pieces` and writes them to `offset`, the start of one, as far as they go and the file
    /// system lets it.
    fn write_blocks(&mut self, file: &File, mut offset: u64, pieces: &mut Pieces<'_>) -> io::Result<()> {
        while pieces.len() >= BLOCK_LEN {
            let slices = pieces.aligned_slices(MAX_SLICES);
            let written = if slices.is_empty() {
                self.write_copy(file, offset, pieces)
            } else {
                rustix::io::pwritev(file, &slices, offset)
            };
            let count = match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => count as u64,
                Err(Errno::INTR) => 0,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.supported = false;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            pieces.advance(count);
            offset += count;
            if !count.is_multiple_of(BLOCK_LEN) {
                // the page cache takes anything
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes the next blocks, which are not where a device could take them from, up to the next ones that are.
    fn write_copy(&mut self, file: &File, offset: u64, pieces: &Pieces<'_>) -> rustix::io::Result<usize> {
        self.buffer.resize(BUFFER_LEN + BLOCK_LEN as usize, 0);
        let start = self.buffer.as_ptr().align_offset(BLOCK_LEN as usize);
        let len = pieces.unaligned_len(BUFFER_LEN as u64) as usize;
        let block = &mut self.buffer[start..start + len];
        pieces.copy_to(block);
        rustix::io::pwrite(file, block, offset)
    }
}

/// A file with two descriptors: what one writes goes through the page cache, what the other writes goes past it.
#[derive(Debug)]
pub(crate) struct TwinFile {
    cached: File,
    direct: File,
}

impl TwinFile {
    /// Opens the second descriptor; gives the file back when there is none to have.
    pub(crate) fn open(cached: File) -> Result<Self, File> {
        // by its name it might be another file by now
        let path = format!("/proc/self/fd/{}", cached.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(direct) => Ok(TwinFile { cached, direct: File::from(direct) }),
            Err(_) => Err(cached),
        }
    }

    /// Writes all of `chunks` to `offset` through the page cache.
    pub(crate) fn write_cached_at(&self, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        let mut pieces = Pieces::new(chunks);
        let len = pieces.len();
        write_through_cache(&self.cached, offset, len, &mut pieces)
    }

    /// The first descriptor; the second one is closed.
    pub(crate) fn into_file(self) -> File {
        self.cached
    }
}

/// Writes the next `len` bytes of `pieces`.
fn write_through_cache(file: &File, mut offset: u64, len: u64, pieces: &mut Pieces<'_>) -> io::Result<()> {
    let end = offset + len;
    while offset < end {
        let slices = pieces.io_slices(end - offset, MAX_CACHED_SLICES);
        let written = match rustix::io::pwritev(file, &slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written as u64,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        pieces.advance(written);
        offset += written;
    }
    Ok(())
}

/// What of some chunks is still to be written.
#[derive(Debug, Clone)]
struct Pieces<'a> {
    chunks: &'a [Bytes],
    /// How much of the first chunk is done.
    done: usize,
    len: u64,
}

impl<'a> Pieces<'a> {
    fn new(chunks: &'a [Bytes]) -> Self {
        Pieces { chunks, done: 0, len: chunks.iter().map(|chunk| chunk.len() as u64).sum() }
    }

    /// The bytes left.
    fn len(&self) -> u64 {
        self.len
    }

    fn slices(&self, len: u64) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut left = usize::try_from(len.min(self.len)).unwrap_or(usize::MAX);
        let mut done = self.done;
        let slices = self.chunks.iter().map(move |chunk| {
            let chunk = &chunk[std::mem::take(&mut done)..];
            let slice = &chunk[..chunk.len().min(left)];
            left -= slice.len();
            slice
        });
        slices.filter(|slice| !slice.is_empty())
    }

    /// At most `count` slices of the next `len` bytes, or of what is left if that is less.
    fn io_slices(&self, len: u64, count: usize) -> Vec<IoSlice<'a>> {
        self.slices(len).take(count).map(IoSlice::new).collect()
    }

    /// At most `count` of the next slices, as long as each is whole blocks at a block's boundary in memory.
    fn aligned_slices(&self, count: usize) -> Vec<IoSlice<'a>> {
        let mut is_last = false;
        let whole = |slice: &'a [u8]| {
            let blocks = &slice[..slice.len() / BLOCK_LEN as usize * BLOCK_LEN as usize];
            let taken = !is_last && is_aligned(slice) && !blocks.is_empty();
            is_last = blocks.len() < slice.len();
            taken.then(|| IoSlice::new(blocks))
        };
        self.slices(self.len).take(count).map_while(whole).collect()
    }

    /// How much of what is left, in whole blocks and at most `most`, comes before a slice that is aligned.
    fn unaligned_len(&self, most: u64) -> u64 {
        let blocks = most.min(self.len) / BLOCK_LEN * BLOCK_LEN;
        let mut len = 0;
        for slice in self.slices(blocks) {
            if len > 0 && len % BLOCK_LEN == 0 && is_aligned(slice) {
                return len;
            }
            len += slice.len() as u64;
        }
        blocks
    }

    /// Fills `buffer`, which is no longer than what is left.
    fn copy_to(&self, mut buffer: &mut [u8]) {
        for slice in self.slices(buffer.len() as u64) {
            let (front, rest) = buffer.split_at_mut(slice.len());
            front.copy_from_slice(slice);
            buffer = rest;
        }
    }

    /// `len` bytes were written.
    fn advance(&mut self, len: u64) {
        self.len -= len;
        let mut done = self.done as u64 + len;
        while let Some(first) = self.chunks.first().filter(|first| first.len() as u64 <= done) {
            done -= first.len() as u64;
            self.chunks = &self.chunks[1..];
        }
        self.done = usize::try_from(done).unwrap_or(usize::MAX);
    }
}

/// Fills `buffer` from `offset`: from the page cache what is there, and past it what is not, where the buffer is aligned for that.
/// Meanwhile nobody else may use this descriptor.
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    if buffer.len() as u64 >= MIN_LEN && is_aligned(buffer) && offset.is_multiple_of(BLOCK_LEN) {
        done = read_blocks(file, buffer, offset)?;
    }
    file.read_exact_at(&mut buffer[done..], offset + done as u64)
}

/// Reads whole blocks, as far as the file system lets it, and they are not in the page cache. Says how many bytes they are.
fn read_blocks(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut first = [0; 1];
    // it is there, or the kernel cannot tell
    if preadv2(file, &mut [IoSliceMut::new(&mut first)], offset, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
    {
        return Ok(0);
    }
    let whole_len = buffer.len() / BLOCK_LEN as usize * BLOCK_LEN as usize;
    let flags = fcntl_getfl(file)?;
    if fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let mut done = 0;
    let read = loop {
        match rustix::io::pread(file, &mut buffer[done..whole_len], offset + done as u64) {
            // the file's end, or nearly
            Ok(count) if count == 0 || count % BLOCK_LEN as usize != 0 => break Ok(done + count),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(Errno::INVAL | Errno::OPNOTSUPP) => break Ok(done),
            Err(error) => break Err(error.into()),
        }
        if done == whole_len {
            break Ok(done);
        }
    };
    fcntl_setfl(file, flags)?;
    read
}

fn is_aligned(slice: &[u8]) -> bool {
    slice.as_ptr().addr().is_multiple_of(BLOCK_LEN as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_taken_in_order_wherever_the_chunks_end() {
        let chunks: Vec<Bytes> =
            [3, 0, 5, 1].into_iter().map(|len| Bytes::from(vec![len; len as usize])).collect();
        let plain = chunks.concat();
        for step in 1..=9 {
            let mut pieces = Pieces::new(&chunks);
            let mut read = Vec::new();
            while pieces.len() > 0 {
                let mut buffer = vec![0; pieces.len().min(step) as usize];
                pieces.copy_to(&mut buffer);
                let slices = pieces.io_slices(step, 10);
                assert_eq!(slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>(), buffer);
                pieces.advance(buffer.len() as u64);
                read.extend(buffer);
            }
            assert_eq!(read, plain);
        }
    }

    /// In the page cache or not, aligned or not, up to the file's end and beyond.
    #[test]
    fn reads_what_is_there() {
        let content: Vec<u8> = (0..MIN_LEN as usize * 3 + 77).map(|index| (index * 7 / 3) as u8).collect();
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        for offset in [0, 1, BLOCK_LEN, MIN_LEN] {
            let mut memory = vec![0; content.len() + BLOCK_LEN as usize];
            let aligned = memory.as_ptr().align_offset(BLOCK_LEN as usize);
            for start in [aligned, aligned + 1] {
                for len in [10, MIN_LEN as usize, content.len() - offset as usize] {
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    let buffer = &mut memory[start..][..len];
                    buffer.fill(0);
                    read_exact_at(&file, buffer, offset).unwrap();
                    assert!(*buffer == content[offset as usize..][..len], "{len} from {offset}");
                }
            }
            let beyond =
                read_exact_at(&file, &mut memory[aligned..][..content.len() - offset as usize + 1], offset);
            assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
