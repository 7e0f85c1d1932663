use std::io::Read as _;

use super::*;

const METHODS: [CompressionMethod; 3] =
    [CompressionMethod::Gzip, CompressionMethod::Lz4, CompressionMethod::Zstd];

fn with_level(method: CompressionMethod) -> Compression {
    Compression { method, level: Some(1) }
}

fn compressible(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 100 * 7 % 251) as u8 ^ (i % 13) as u8).collect()
}

/// What no method makes smaller, and what zlib has most of it still in hand when it is told to flush.
fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(3);
    (0..len).map(|_| random.u8(..)).collect()
}

/// All that comes out, whether the end was reached, and how much of it can be believed.
fn decode(method: CompressionMethod, file: &[u8]) -> (Vec<u8>, bool, usize) {
    let mut decoder = Decoder::new(method, file).unwrap();
    let mut plain = Vec::new();
    let mut piece = vec![0; 10_007];
    let ended = loop {
        match decoder.read(&mut piece) {
            Ok(0) => break true,
            Ok(len) => plain.extend_from_slice(&piece[..len]),
            Err(_) => break false,
        }
    };
    assert_eq!(decoder.plain_len(), plain.len() as u64);
    (plain, ended, decoder.trusted_len() as usize)
}

#[test]
fn what_is_flushed_is_read_back_and_believed_whatever_follows() {
    for bytes in [compressible(300_000), noise(300_000)] {
        for method in METHODS {
            let mut encoder = Encoder::new(with_level(method)).unwrap();
            let mut file = encoder.flush().unwrap();
            for piece in bytes.chunks(70_001) {
                encoder.write(piece).unwrap();
                file.extend_from_slice(&encoder.flush().unwrap());
                assert_eq!(encoder.flush().unwrap(), b"", "once is enough");
                let end = encoder.plain_len() as usize;
                let (plain, ended, trusted) = decode(method, &file);
                assert!(plain == bytes[..end], "{method} {end}");
                assert!(method != CompressionMethod::Gzip || !ended);
                assert_eq!(trusted, end, "{method}");
                for garbage in [&[0; 5000][..], &[0xff; 17]] {
                    let (plain, _, trusted) = decode(method, &[&file[..], garbage].concat());
                    assert_eq!(trusted, end, "{method}");
                    assert!(plain[..end] == bytes[..end], "{method}");
                }
            }
            file.extend_from_slice(&encoder.finish().unwrap());
            assert!(decode(method, &file) == (bytes.clone(), true, bytes.len()), "{method}");
            for cut in [1, file.len() / 2, file.len() - 1] {
                let (plain, ended, trusted) = decode(method, &file[..cut]);
                assert!(!ended && bytes.starts_with(&plain) && trusted <= plain.len(), "{method}");
            }
        }
    }
}

#[test]
fn of_a_torn_tail_nothing_wrong_is_believed() {
    let mut random = fastrand::Rng::with_seed(1);
    for (method, bytes) in
        METHODS.into_iter().flat_map(|method| [(method, compressible(200_000)), (method, noise(200_000))])
    {
        let mut wrong = 0;
        for _ in 0..60 {
            let mut encoder = Encoder::new(with_level(method)).unwrap();
            let (mut file, mut durable, mut at) = (Vec::new(), (0, 0), 0);
            while at < bytes.len() {
                let len = random.usize(1..30_000).min(bytes.len() - at);
                encoder.write(&bytes[at..at + len]).unwrap();
                at += len;
                file.extend_from_slice(&encoder.flush().unwrap());
                if random.u8(..4) == 0 {
                    durable = (file.len(), at);
                }
            }
            for sector in file[durable.0..].chunks_mut(512) {
                if random.bool() {
                    sector.fill(0);
                }
            }
            let (plain, _, trusted) = decode(method, &file);
            wrong += usize::from(!bytes.starts_with(&plain));
            assert!(trusted >= durable.1 && plain[..trusted] == bytes[..trusted], "{method}");
        }
        assert!(method != CompressionMethod::Gzip || wrong > 0, "the tails are not torn enough");
    }
}

#[test]
fn everybodys_tools_read_it() {
    let bytes = compressible(1 << 20);
    for method in METHODS {
        let mut encoder = Encoder::new(with_level(method)).unwrap();
        let mut file = Vec::new();
        for piece in bytes.chunks(5_000) {
            encoder.write(piece).unwrap();
            file.extend_from_slice(&encoder.flush().unwrap());
        }
        file.extend_from_slice(&encoder.finish().unwrap());
        let mut plain = Vec::new();
        let read = match method {
            CompressionMethod::Gzip => flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut plain),
            CompressionMethod::Lz4 => lz4_flex::frame::FrameDecoder::new(&file[..]).read_to_end(&mut plain),
            _ => zstd::stream::read::Decoder::new(&file[..]).unwrap().read_to_end(&mut plain),
        };
        read.unwrap();
        assert!(plain == bytes, "{method}");
        if method == CompressionMethod::Gzip {
            // where pg_receivewal looks for it
            assert_eq!(file[file.len() - 4..], (bytes.len() as u32).to_le_bytes());
        }
    }
}

#[test]
fn names_are_taken_apart() {
    assert_eq!(CompressionMethod::split_name("a.gz"), ("a", CompressionMethod::Gzip));
    assert_eq!(CompressionMethod::split_name("a.lz4").0, "a");
    assert_eq!(CompressionMethod::split_name("a.zst").0, "a");
    assert_eq!(CompressionMethod::split_name("a.xz"), ("a.xz", CompressionMethod::None));
}
