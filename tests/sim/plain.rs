//! What is in a file, whatever it is compressed with: as far as it can be read, by the libraries themselves.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// Remembers what each file last had in it: most do not change between two looks.
#[derive(Debug, Default)]
pub struct Plain {
    known: RefCell<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    len: usize,
    checksum: u32,
    plain: Rc<Vec<u8>>,
}

impl Plain {
    /// All that can be read of a file of this name before its end, or before something that is no longer the format.
    pub fn of(&self, name: &str, content: &[u8]) -> Rc<Vec<u8>> {
        let stem = name.strip_suffix(".partial").unwrap_or(name);
        let decode: fn(&[u8]) -> Vec<u8> = match stem.rsplit('.').next() {
            Some("gz") => gzip,
            Some("lz4") => lz4,
            Some("zst") => zstandard,
            _ => return Rc::new(content.to_vec()),
        };
        let checksum = crc32c::crc32c(content);
        let mut known = self.known.borrow_mut();
        if let Some(known) = known.get(name)
            && (known.len, known.checksum) == (content.len(), checksum)
        {
            return Rc::clone(&known.plain);
        }
        let plain = Rc::new(decode(content));
        known.insert(name.into(), Known { len: content.len(), checksum, plain: Rc::clone(&plain) });
        plain
    }
}

fn gzip(mut compressed: &[u8]) -> Vec<u8> {
    let mut inflate = Decompress::new_gzip(15);
    let (mut plain, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let (read, written) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(compressed, &mut piece, FlushDecompress::None);
        let (read, written) = (inflate.total_in() - read, inflate.total_out() - written);
        plain.extend_from_slice(&piece[..written as usize]);
        compressed = &compressed[read as usize..];
        if !matches!(status, Ok(Status::Ok | Status::BufError)) || (read == 0 && written == 0) {
            return plain;
        }
    }
}

fn lz4(compressed: &[u8]) -> Vec<u8> {
    let mut decoder = lz4_flex::frame::FrameDecoder::new(compressed);
    let (mut plain, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(len @ 1..) = decoder.read(&mut piece) {
        plain.extend_from_slice(&piece[..len]);
    }
    plain
}

fn zstandard(compressed: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new().expect("memory for a decoder");
    let mut input = InBuffer::around(compressed);
    let (mut plain, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let read = input.pos();
        let mut output = OutBuffer::around(&mut piece[..]);
        let result = decoder.run(&mut input, &mut output);
        let written = output.pos();
        plain.extend_from_slice(&piece[..written]);
        if result.is_err() || (input.pos() == read && written == 0) {
            return plain;
        }
    }
}
