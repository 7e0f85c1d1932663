//! One tar header block.
//!
//! Answers to `tarCreateHeader` and `read_tar_number` in PostgreSQL's `src/port/tar.c`: POSIX ustar, numbers in
//! octal or, above 8 GiB, in base 256. Servers send regular files, directories and symbolic links; every other kind
//! of member (hard links, devices, pax and GNU extensions) is refused here, before anything acts on it.

use super::path::{MemberPath, MemberPathError};

/// The size of a header, and the unit to which content is padded.
pub const BLOCK_LEN: usize = 512;

/// The longest content of a member, in bytes: far above any file of a cluster, far below overflow.
pub const MAX_MEMBER_LEN: u64 = 1 << 53;

/// A member as its header announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarMember {
    /// The name.
    pub path: MemberPath,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits, as `chmod` takes them (at most 0o7777).
    pub mode: u32,
    /// Modification time, in seconds since 1970. Before that, servers write the two's complement.
    pub mtime: i64,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file of this many bytes.
    File {
        /// Bytes of content.
        len: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points, unchecked.
        target: Box<[u8]>,
    },
}

/// Why a block is no header that a server sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarHeaderError {
    /// The checksum field does not fit the block.
    #[error("checksum of tar header does not match")]
    Checksum,
    /// Not `ustar`, version `00`.
    #[error("tar header is not ustar")]
    Magic,
    /// A numeric field that is not a number, or too large.
    #[error("{0} field of tar header is not acceptable")]
    Number(&'static str),
    /// A name that must not be written.
    #[error("member name \"{}\" is not acceptable", .name.escape_ascii())]
    Path {
        /// The name.
        name: Vec<u8>,
        /// What is wrong with it.
        source: MemberPathError,
    },
    /// A kind of member that servers do not send.
    #[error("member \"{path}\" has unsupported type {:?}", char::from(*.type_flag))]
    UnsupportedType {
        /// The member.
        path: MemberPath,
        /// The type byte.
        type_flag: u8,
    },
    /// A directory or link with content, a file whose name ends in a slash, a link without target, and the like.
    #[error("header of member \"{path}\" contradicts itself")]
    Contradiction {
        /// The member.
        path: MemberPath,
    },
}

impl TarMember {
    /// Reads a header block.
    pub fn parse(block: &[u8; BLOCK_LEN]) -> Result<Self, TarHeaderError> {
        check_checksum(block)?;
        if &block[257..265] != b"ustar\x0000" {
            return Err(TarHeaderError::Magic);
        }
        let number = |range: std::ops::Range<usize>, name, max| {
            parse_number(&block[range]).filter(|&n| n <= max).ok_or(TarHeaderError::Number(name))
        };
        let len = number(124..136, "size", MAX_MEMBER_LEN)?;
        let mode = number(100..108, "mode", 0o7777)? as u32;
        let mtime = number(136..148, "mtime", u64::MAX)? as i64;
        let name = full_name(block);
        let path =
            MemberPath::parse(&name).map_err(|source| TarHeaderError::Path { name: name.clone(), source })?;
        let target = until_nul(&block[157..257]);
        let kind = match block[156] {
            b'0' | 0 if target.is_empty() && !name.ends_with(b"/") => MemberKind::File { len },
            b'5' if target.is_empty() && len == 0 => MemberKind::Directory,
            b'2' if !target.is_empty() && len == 0 => MemberKind::Symlink { target: target.into() },
            b'0' | 0 | b'5' | b'2' => return Err(TarHeaderError::Contradiction { path }),
            type_flag => return Err(TarHeaderError::UnsupportedType { path, type_flag }),
        };
        Ok(TarMember { path, kind, mode, mtime })
    }
}

/// A regular file that is put into an archive.
#[derive(Debug, Clone, Copy)]
pub struct NewMember<'a> {
    /// The name: up to [`MAX_NEW_NAME_LEN`] bytes.
    pub name: &'a str,
    /// Bytes of content.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Modification time, in seconds since 1970.
    pub mtime: u64,
}

/// The longest name of a [`NewMember`], in bytes.
pub const MAX_NEW_NAME_LEN: usize = 99;

impl NewMember<'_> {
    /// Its header, as servers and their tools write one (`tarCreateHeader`).
    ///
    /// # Panics
    /// When the name is too long: names of new members are the program's own.
    pub fn header(&self) -> [u8; BLOCK_LEN] {
        let NewMember { name, len, mode, uid, gid, mtime } = *self;
        assert!(name.len() <= MAX_NEW_NAME_LEN, "the name of a new member is short");
        let mut block = [0; BLOCK_LEN];
        block[..name.len()].copy_from_slice(name.as_bytes());
        write_number(&mut block[100..108], u64::from(mode & 0o7777));
        write_number(&mut block[108..116], u64::from(uid));
        write_number(&mut block[116..124], u64::from(gid));
        write_number(&mut block[124..136], len);
        write_number(&mut block[136..148], mtime);
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        for field in [265, 297] {
            block[field..field + 8].copy_from_slice(b"postgres");
        }
        write_number(&mut block[329..337], 0);
        write_number(&mut block[337..345], 0);
        write_checksum(&mut block);
        block
    }
}

/// Says in a header that its file has another length now, and another time.
pub fn resize(block: &mut [u8; BLOCK_LEN], len: u64, mtime: u64) {
    write_number(&mut block[124..136], len);
    write_number(&mut block[136..148], mtime);
    write_checksum(block);
}

/// Octal digits and a blank, or base 256 when they would not do (`print_tar_number`).
fn write_number(field: &mut [u8], value: u64) {
    let Some((last, digits)) = field.split_last_mut() else { return };
    if value < 1 << (3 * digits.len()) {
        *last = b' ';
        let mut rest = value;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest & 7) as u8;
            rest >>= 3;
        }
    } else {
        let mut rest = value;
        for byte in field.iter_mut().rev() {
            *byte = rest as u8;
            rest >>= 8;
        }
        field[0] = 0x80;
    }
}

fn write_checksum(block: &mut [u8; BLOCK_LEN]) {
    block[148..156].fill(b' ');
    let sum = block.iter().map(|&byte| u64::from(byte)).sum();
    write_number(&mut block[148..156], sum);
}

/// The sum of all bytes, the checksum field itself counted as blanks.
fn check_checksum(block: &[u8; BLOCK_LEN]) -> Result<(), TarHeaderError> {
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    let field: u64 = block[148..156].iter().map(|&b| u64::from(b)).sum();
    let expected = sum - field + 8 * u64::from(b' ');
    // A base-256 checksum is none that anybody writes.
    let stored = parse_octal(&block[148..156]).ok_or(TarHeaderError::Checksum)?;
    if stored == expected { Ok(()) } else { Err(TarHeaderError::Checksum) }
}

fn full_name(block: &[u8; BLOCK_LEN]) -> Vec<u8> {
    let prefix = until_nul(&block[345..500]);
    let name = until_nul(&block[0..100]);
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// Octal, or base 256 when the first byte is `0x80`. Negative numbers (`0xFF`) are refused.
fn parse_number(field: &[u8]) -> Option<u64> {
    match field {
        [0x80, digits @ ..] => {
            let (high, low) = digits.split_at(digits.len().saturating_sub(8));
            if high.iter().any(|&b| b != 0) {
                return None;
            }
            Some(low.iter().fold(0, |value, &b| value << 8 | u64::from(b)))
        }
        _ => parse_octal(field),
    }
}

/// Blanks, at least one octal digit, then blanks or NULs to the end.
fn parse_octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|&b| b != b' ')?;
    let field = &field[start..];
    let end = field.iter().position(|b| !matches!(b, b'0'..=b'7')).unwrap_or(field.len());
    let (digits, rest) = field.split_at(end);
    if digits.is_empty() || rest.iter().any(|b| !matches!(b, b' ' | 0)) {
        return None;
    }
    // Twelve digits at most: no overflow.
    Some(digits.iter().fold(0, |value, &b| value << 3 | u64::from(b - b'0')))
}

#[cfg(test)]
pub(super) mod tests {
    use super::TarHeaderError as E;
    use super::*;

    /// A header as the server writes it.
    pub(in super::super) fn header(name: &[u8], type_flag: u8, len: u64) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000600 ");
        block[108..116].copy_from_slice(b"0000145 ");
        block[116..124].copy_from_slice(b"0000150 ");
        set_size(&mut block, len);
        block[136..148].copy_from_slice(b"15300520736 ");
        block[156] = type_flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[265..273].copy_from_slice(b"postgres");
        block[297..305].copy_from_slice(b"postgres");
        block[329..337].copy_from_slice(b"0000000 ");
        block[337..345].copy_from_slice(b"0000000 ");
        seal(&mut block);
        block
    }

    /// A symbolic link's header.
    pub(in super::super) fn link(name: &[u8], target: &[u8]) -> [u8; BLOCK_LEN] {
        let mut block = header(name, b'2', 0);
        block[157..157 + target.len()].copy_from_slice(target);
        seal(&mut block);
        block
    }

    /// Makes the checksum fit.
    pub(in super::super) fn seal(block: &mut [u8; BLOCK_LEN]) {
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn set_size(block: &mut [u8; BLOCK_LEN], len: u64) {
        if len < 1 << 33 {
            block[124..136].copy_from_slice(format!("{len:011o} ").as_bytes());
        } else {
            block[124..128].copy_from_slice(&[0x80, 0, 0, 0]);
            block[128..136].copy_from_slice(&len.to_be_bytes());
        }
    }

    fn with(patch: impl FnOnce(&mut [u8; BLOCK_LEN])) -> Result<TarMember, E> {
        let mut block = header(b"base/1/1259", b'0', 8192);
        patch(&mut block);
        seal(&mut block);
        TarMember::parse(&block)
    }

    #[test]
    fn reads_the_three_kinds() {
        let file = TarMember::parse(&header(b"base/1/1259", b'0', 8192)).unwrap();
        assert_eq!(file.path.as_bytes(), b"base/1/1259");
        assert_eq!(
            (file.kind, file.mode, file.mtime),
            (MemberKind::File { len: 8192 }, 0o600, 0o15300520736)
        );
        let directory = TarMember::parse(&header(b"./pg_wal/archive_status/", b'5', 0)).unwrap();
        assert_eq!(directory.path.as_bytes(), b"pg_wal/archive_status");
        assert_eq!(directory.kind, MemberKind::Directory);
        let symlink = TarMember::parse(&link(b"pg_tblspc/16384/", b"/srv/ts")).unwrap();
        assert_eq!(symlink.kind, MemberKind::Symlink { target: b"/srv/ts"[..].into() });
    }

    #[test]
    fn joins_the_prefix() {
        let member = with(|block| block[345..349].copy_from_slice(b"deep")).unwrap();
        assert_eq!(member.path.as_bytes(), b"deep/base/1/1259");
        assert!(matches!(with(|block| block[345..348].copy_from_slice(b"/..")), Err(E::Path { .. })));
    }

    #[test]
    fn reads_sizes_above_eight_gibibytes() {
        for len in [(1 << 33) - 1, 1 << 33, MAX_MEMBER_LEN] {
            let member = TarMember::parse(&header(b"x", b'0', len)).unwrap();
            assert_eq!(member.kind, MemberKind::File { len });
        }
        assert_eq!(TarMember::parse(&header(b"x", b'0', MAX_MEMBER_LEN + 1)), Err(E::Number("size")));
        assert_eq!(with(|b| b[124..136].fill(0xFF)), Err(E::Number("size")));
        assert_eq!(
            with(|b| b[124..136].copy_from_slice(b"\x80\0\0\x01\0\0\0\0\0\0\0\0")),
            Err(E::Number("size"))
        );
        assert_eq!(
            with(|b| b[124..136].copy_from_slice(b"\x80\0\0\0\xFF\0\0\0\0\0\0\0")),
            Err(E::Number("size"))
        );
    }

    #[test]
    fn refuses_what_is_no_number() {
        for field in [
            &b"            "[..],
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
            b"0000000000-1",
            b"00000000 1\0 ",
            b"0x000000010 ",
            b"00000000089 ",
        ] {
            assert_eq!(with(|b| b[124..136].copy_from_slice(field)), Err(E::Number("size")));
        }
        assert_eq!(with(|b| b[100..108].copy_from_slice(b"0010000 ")), Err(E::Number("mode")));
        assert_eq!(with(|b| b[136..148].fill(0xFF)), Err(E::Number("mtime")));
    }

    #[test]
    fn refuses_other_kinds_and_contradictions() {
        for type_flag in [b'1', b'3', b'4', b'6', b'7', b'L', b'K', b'S', b'x', b'g', b'D', b'M', b'V', 0xFF]
        {
            let member = TarMember::parse(&header(b"x", type_flag, 0));
            assert!(matches!(member, Err(E::UnsupportedType { .. })), "{type_flag} was taken");
        }
        for block in
            [header(b"x/", b'0', 1), header(b"x", b'5', 1), header(b"x", b'2', 0), header(b"x/", 0, 0)]
        {
            assert!(matches!(TarMember::parse(&block), Err(E::Contradiction { .. })));
        }
        let mut link_with_content = link(b"x", b"/y");
        set_size(&mut link_with_content, 1);
        seal(&mut link_with_content);
        assert!(matches!(TarMember::parse(&link_with_content), Err(E::Contradiction { .. })));
        assert!(matches!(with(|b| b[157] = b'y'), Err(E::Contradiction { .. })));
    }

    #[test]
    fn refuses_other_dialects_and_damage() {
        assert_eq!(with(|b| b[257..265].copy_from_slice(b"ustar  \0")), Err(E::Magic));
        assert_eq!(with(|b| b[257..265].fill(0)), Err(E::Magic));
        let good = header(b"base/1/1259", b'0', 8192);
        for index in 0..BLOCK_LEN {
            let mut block = good;
            block[index] ^= 0x41;
            assert!(TarMember::parse(&block).is_err(), "a flip at {index} went unnoticed");
        }
    }
}
