//! Blocks of a pcapng file: its header, one interface, packets with comments.
//!
//! Knows: the blocks of draft-ietf-opsawg-pcapng that are written here, and no others. Never: files, what a
//! packet is.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

/// Link type: each packet begins with an IP header, version 4 or 6.
const LINKTYPE_RAW: u16 = 101;
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Codes of options: a comment; the program that wrote a section; the name and the time unit of an interface.
const COMMENT: u16 = 1;
const PROGRAM: u16 = 4;
const NAME: u16 = 2;
const TIME_UNIT: u16 = 9;
/// The time unit: 10^-9 seconds.
const NANOSECONDS: u8 = 9;
/// Maximum length of an option, in bytes.
const LONGEST: usize = u16::MAX as usize;

/// Writes the beginning of a file: the name of the program, a comment, and the name of the one interface.
pub(crate) fn head(program: &str, comment: &str, interface: &str, out: &mut Vec<u8>) {
    block(SECTION_HEADER, out, |out| {
        // The byte-order mark, version 1.0, and a section length of -1, which means unknown.
        out.extend(0x1a2b_3c4d_u32.to_le_bytes());
        out.extend([1_u16, 0].map(u16::to_le_bytes).as_flattened());
        out.extend((-1_i64).to_le_bytes());
        options(&[(PROGRAM, program.as_bytes()), (COMMENT, comment.as_bytes())], out);
    });
    block(INTERFACE, out, |out| {
        out.extend([LINKTYPE_RAW, 0].map(u16::to_le_bytes).as_flattened());
        // 0: the length of packets is not limited.
        out.extend(0_u32.to_le_bytes());
        options(&[(NAME, interface.as_bytes()), (TIME_UNIT, &[NANOSECONDS])], out);
    });
}

/// Writes a packet with this time since 1970 and this comment.
pub(crate) fn packet(at: Duration, bytes: &[u8], comment: Option<&str>, out: &mut Vec<u8>) {
    // This is enough until the year 2554.
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    block(ENHANCED_PACKET, out, |out| {
        let words = [0, (nanos >> 32) as u32, nanos as u32, length, length];
        out.extend(words.map(u32::to_le_bytes).as_flattened());
        padded(bytes, out);
        if let Some(comment) = comment {
            options(&[(COMMENT, comment.as_bytes())], out);
        }
    });
}

/// Writes a block: its type, length, body, and the length again.
fn block(kind: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - begin + 4).unwrap_or(u32::MAX).to_le_bytes();
    out[begin + 4..begin + 8].copy_from_slice(&length);
    out.extend(length);
}

fn options(all: &[(u16, &[u8])], out: &mut Vec<u8>) {
    for (code, value) in all {
        let value = &value[..value.len().min(LONGEST)];
        out.extend([*code, value.len() as u16].map(u16::to_le_bytes).as_flattened());
        padded(value, out);
    }
    out.extend([0; 4]);
}

fn padded(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(bytes);
    out.extend(std::iter::repeat_n(0, bytes.len().next_multiple_of(4) - bytes.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_the_draft_has_them() {
        let mut out = Vec::new();
        head("balance", "hello", "session 7", &mut out);
        let section = [
            &[0x0a, 0x0d, 0x0d, 0x0a, 56, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..],
            &[0xff; 8],
            b"\x04\0\x07\0balance\0\x01\0\x05\0hello\0\0\0\0\0\0\0",
            &[56, 0, 0, 0],
        ]
        .concat();
        let interface = [
            &b"\x01\0\0\0\x30\0\0\0\x65\0\0\0\0\0\0\0"[..],
            b"\x02\0\x09\0session 7\0\0\0\x09\0\x01\0\x09\0\0\0\0\0\0\0",
            b"\x30\0\0\0",
        ]
        .concat();
        assert_eq!(out, [section, interface].concat());
        let mut out = Vec::new();
        packet(Duration::new(5, 1), b"abcde", None, &mut out);
        let expected = [
            &b"\x06\0\0\0\x28\0\0\0\0\0\0\0"[..],
            &[1, 0, 0, 0, 0x01, 0xf2, 0x05, 0x2a],
            b"\x05\0\0\0\x05\0\0\0abcde\0\0\0\x28\0\0\0",
        ]
        .concat();
        assert_eq!(out, expected);
    }

    #[test]
    fn every_block_has_its_length_at_both_ends_whatever_is_said() {
        for length in [0, 1, 3, 4, 65_535, 100_000] {
            let mut out = Vec::new();
            packet(Duration::ZERO, &vec![7; length], Some(&"x".repeat(length)), &mut out);
            let size = u32::try_from(out.len()).expect("small").to_le_bytes();
            assert_eq!((&out[4..8], &out[out.len() - 4..]), (&size[..], &size[..]), "{length}");
            assert_eq!(out.len() % 4, 0);
        }
    }
}
