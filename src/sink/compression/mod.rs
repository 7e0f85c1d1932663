//! Compressed segments: how they are written, read back and named.

mod decoder;
mod encoder;

pub(super) use decoder::{decode_all, decode_prefix};
pub(super) use encoder::Encoder;

/// How segments are stored. Timeline histories are always plain: a server's `restore_command` asks for them so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// gzip, one member a segment; level 1 to 9.
    Gzip {
        /// `None`: zlib's default.
        level: Option<u32>,
    },
    /// The LZ4 frame format. There is one level.
    Lz4,
    /// Zstandard.
    Zstd {
        /// From −131072 to 22.
        level: i32,
    },
}

impl Compression {
    /// What segments have behind their name.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip { .. } => ".gz",
            Compression::Lz4 => ".lz4",
            Compression::Zstd { .. } => ".zst",
        }
    }

    /// Takes a segment's file name apart: what is left of it, and how it is compressed.
    pub fn split_name(name: &str) -> (&str, Compression) {
        let known = [Compression::Gzip { level: None }, Compression::Lz4, Compression::Zstd { level: 3 }];
        let found = known.into_iter().find_map(|known| Some((name.strip_suffix(known.suffix())?, known)));
        found.unwrap_or((name, Compression::None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [Compression; 3] =
        [Compression::Gzip { level: Some(1) }, Compression::Lz4, Compression::Zstd { level: 1 }];

    fn wal(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 100 * 7 % 251) as u8 ^ (i % 13) as u8).collect()
    }

    #[test]
    fn what_is_flushed_can_be_read_back_whatever_follows() {
        let bytes = wal(300_000);
        for method in METHODS {
            let mut encoder = Encoder::new(method).unwrap();
            let mut file = Vec::new();
            for piece in bytes.chunks(70_001) {
                encoder.write(piece).unwrap();
                file.extend_from_slice(&encoder.flush().unwrap());
                let end = encoder.plain_len() as usize;
                assert!(decode_prefix(method, &file[..], 1 << 20) == bytes[..end], "{method:?} {end}");
                for garbage in [&[0; 5000][..], &[0xff; 17]] {
                    let torn = [&file[..], garbage].concat();
                    let read = decode_prefix(method, &torn[..], 1 << 20);
                    let same = read.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
                    assert!(same >= end, "{method:?}: {same} of {end}, {} read", read.len());
                }
            }
            file.extend_from_slice(&encoder.finish().unwrap());
            assert!(decode_all(method, &file[..], 1 << 20).unwrap() == bytes, "{method:?}");
            for cut in [1, file.len() / 2, file.len() - 1] {
                assert!(decode_all(method, &file[..cut], 1 << 20).is_err(), "{method:?}");
                assert!(bytes.starts_with(&decode_prefix(method, &file[..cut], 1 << 20)), "{method:?}");
            }
            assert!(decode_all(method, &file[..], 1000).is_err(), "the bound holds");
        }
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(Compression::split_name("a.gz"), ("a", Compression::Gzip { level: None }));
        assert_eq!(Compression::split_name("a.lz4").0, "a");
        assert_eq!(Compression::split_name("a.zst").0, "a");
        assert_eq!(Compression::split_name("a.xz"), ("a.xz", Compression::None));
    }
}
