//! `SHA256SUMS`: a line for each piece, as `sha256sum` writes and checks them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The longest list taken, in bytes: of a cluster of some forty terabytes.
pub(super) const MAX_LEN: u64 = 256 << 20;

/// The longest name of a piece, in bytes.
const MAX_NAME_LEN: usize = 64;

/// A SHA-256.
pub(super) type Sum = [u8; 32];

/// The checksum of some bytes.
pub(super) fn sum(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

/// In hexadecimal digits.
pub(super) fn hex(sum: &Sum) -> String {
    sum.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// From hexadecimal digits, in lower case.
pub(super) fn parse_hex(text: &str) -> Option<Sum> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut sum = [0; 32];
    for (byte, pair) in sum.iter_mut().zip(bytes.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(sum)
}

/// One line.
pub(super) fn push_line(text: &mut String, name: &str, sum: &Sum) {
    let _ = writeln!(text, "{}  {name}", hex(sum));
}

/// The lines by name; `None` where it is not such a list, or names something twice.
pub(super) fn parse(content: &[u8]) -> Option<BTreeMap<String, Sum>> {
    let text = std::str::from_utf8(content).ok()?;
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let (sum, name) = line.split_once("  ")?;
        let acceptable = !name.is_empty()
            && name.len() <= MAX_NAME_LEN
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !acceptable || sums.insert(name.to_owned(), parse_hex(sum)?).is_some() {
            return None;
        }
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_those_of_sha256sum() {
        let mut text = String::new();
        push_line(&mut text, "base.tar.00000001.zst", &sum(b"abc"));
        let expected =
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  base.tar.00000001.zst\n";
        assert_eq!(text, expected);
        let sums = parse(text.as_bytes()).unwrap();
        assert_eq!(sums["base.tar.00000001.zst"], sum(b"abc"));
        assert_eq!(parse(b""), Some(BTreeMap::new()));
        for content in [
            format!("{text}{text}"),
            text.to_uppercase(),
            text.replace("  ", " "),
            text.replace("base", "../base"),
            text[1..].to_owned(),
        ] {
            assert_eq!(parse(content.as_bytes()), None, "{content}");
        }
    }
}
