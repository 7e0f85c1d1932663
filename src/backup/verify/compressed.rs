//! A compressed archive: one thread decompresses, another one takes it apart.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;

use super::super::tar_stream::{ArchiveEnd, TarEvent, TarStream};
use super::problem::ArchiveFault;
use crate::compression::CompressionMethod;

/// How much is decompressed at once, and how many such pieces wait to be taken apart.
const PIECE_LEN: usize = 256 << 10;
const WAITING_PIECES: usize = 4;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on.
    Event,
    /// That was enough.
    Stop,
}

/// Hands out what the archive holds, event by event, and how much more of the file was read for it.
pub(super) fn stream(
    file: &File,
    method: CompressionMethod,
    mut take: impl FnMut(TarEvent) -> Next,
    mut advance: impl FnMut(u64),
) -> Result<(), ArchiveFault> {
    let read_len = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // the channel goes away with the one who reads it, and with it the one who fills it
        let (sender, receiver) = sync_channel::<io::Result<Bytes>>(WAITING_PIECES);
        let counted = Counted { file: file.try_clone().map(Arc::new), offset: 0, read_len: &read_len };
        scope.spawn(move || decompress(counted, method, |piece| sender.send(piece).is_ok()));
        let mut stream = TarStream::new();
        let mut told = 0;
        for piece in receiver {
            let piece = piece.map_err(|source| match source.raw_os_error() {
                Some(_) => ArchiveFault::Read { offset: read_len.load(Ordering::Relaxed), source },
                None => ArchiveFault::Decompress(source),
            })?;
            stream.push(piece);
            while let Some(event) = stream.poll()? {
                if take(event) == Next::Stop {
                    return Ok(());
                }
            }
            let read = read_len.load(Ordering::Relaxed);
            advance(read - told);
            told = read;
        }
        advance(read_len.load(Ordering::Relaxed) - told);
        Ok(stream.finish(ArchiveEnd::Unterminated)?)
    })
}

/// Until there is no more, or nobody wants more.
fn decompress(counted: Counted<'_>, method: CompressionMethod, send: impl Fn(io::Result<Bytes>) -> bool) {
    let mut plain = match method.reader(counted) {
        Ok(plain) => plain,
        Err(error) => {
            send(Err(error));
            return;
        }
    };
    loop {
        let mut piece = Vec::with_capacity(PIECE_LEN);
        match plain.by_ref().take(PIECE_LEN as u64).read_to_end(&mut piece) {
            Ok(0) => return,
            Ok(_) if send(Ok(piece.into())) => {}
            Ok(_) => return,
            Err(error) => {
                send(Err(error));
                return;
            }
        }
    }
}

/// A file that counts what is read of it. It has a place of its own: others may read the same file.
struct Counted<'a> {
    file: io::Result<Arc<File>>,
    offset: u64,
    read_len: &'a AtomicU64,
}

impl io::Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.file.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        let len = file.read_at(buffer, self.offset)?;
        self.offset += len as u64;
        self.read_len.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}
