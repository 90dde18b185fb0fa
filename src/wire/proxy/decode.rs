//! Reads a PROXY header: which client a connection was made for.
//!
//! Knows: both versions of the header, byte by byte, and its checksum. Never: who may send one, how long
//! balance waits for it.
//! Source: the PROXY protocol, haproxy/doc/proxy-protocol.txt, 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{FIXED_BYTES, SIGNATURE, TLV_CRC32C, TLV_NOOP, V1_BYTES};
use crate::wire::crc32c::crc32c;

/// The first bytes of a version 1 header.
const TEXT: &[u8] = b"PROXY ";
/// Length of a TLV's type and length fields in bytes.
const TLV_HEAD: usize = 3;

/// Maximum length of a header in bytes.
pub(crate) const LONGEST: usize = FIXED_BYTES + u16::MAX as usize;

/// The content of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderContent {
    /// The client's address and the address it connected to. `None`: the sender itself is the client, or the
    /// header has no TCP addresses.
    pub(crate) addresses: Option<[SocketAddr; 2]>,
    /// The TLVs as they came, without checksum and padding.
    pub(crate) tlvs: Box<[u8]>,
}

/// How much of a header has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// At least this many bytes are missing.
    More(usize),
    /// The header is complete; the number is its length in bytes.
    Whole(HeaderContent, usize),
}

/// Why the bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// They do not begin like a header.
    None,
    /// They begin like a header but are invalid.
    Malformed,
}

/// Reads the header at the beginning of a connection.
///
/// # Errors
/// There is no valid header, and more bytes cannot change that.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, HeaderError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(&SIGNATURE) {
        binary(bytes)
    } else if begins(TEXT) {
        text(bytes)
    } else {
        Err(HeaderError::None)
    }
}

/// Reads version 1.
fn text(bytes: &[u8]) -> Result<Decoded, HeaderError> {
    let line = &bytes[..bytes.len().min(V1_BYTES)];
    let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
        return if line.len() < V1_BYTES { Ok(Decoded::More(1)) } else { Err(HeaderError::Malformed) };
    };
    let said = line[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(TEXT));
    let said = said.ok_or(HeaderError::Malformed)?;
    let announced = |addresses| HeaderContent { addresses, tlvs: Box::default() };
    let is_unknown = said.strip_prefix(b"UNKNOWN").is_some_and(|rest| rest.is_empty() || rest[0] == b' ');
    let whole = if is_unknown {
        announced(None)
    } else {
        let said = std::str::from_utf8(said).ok().and_then(spoken).ok_or(HeaderError::Malformed)?;
        announced(Some(said))
    };
    Ok(Decoded::Whole(whole, end + 1))
}

/// The addresses in a version 1 line. `None` if they are invalid.
fn spoken(line: &str) -> Option<[SocketAddr; 2]> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let (source, destination) = (words.next()?, words.next()?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let ip = |word: &str| match family {
        "TCP4" => Ipv4Addr::from_str(word).ok().map(IpAddr::from),
        "TCP6" => Ipv6Addr::from_str(word).ok().map(IpAddr::from),
        _ => None,
    };
    Some([canonical(ip(source)?, from), canonical(ip(destination)?, to)])
}

/// Reads a decimal port without leading zeros.
fn port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| is_plain)
}

/// The address with an IPv4-mapped address as IPv4.
fn canonical(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

/// Reads version 2.
fn binary(bytes: &[u8]) -> Result<Decoded, HeaderError> {
    let at = |index: usize| bytes.get(index).copied();
    let is_local = match at(SIGNATURE.len()) {
        None | Some(0x21) => false,
        Some(0x20) => true,
        Some(_) => return Err(HeaderError::Malformed),
    };
    let (family, transport) = at(13).map_or((0, 0), |byte| (byte >> 4, byte & 0xf));
    if !is_local && (family > 3 || transport > 2) {
        return Err(HeaderError::Malformed);
    }
    let (Some(high), Some(low)) = (at(14), at(15)) else { return Ok(Decoded::More(1)) };
    let whole = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let Some(header) = bytes.get(..whole) else { return Ok(Decoded::More(whole - bytes.len())) };
    let block = &header[FIXED_BYTES..];
    // In a LOCAL header the address block is ignored, so it may contain anything.
    let is_plain = !is_local && family > 0 && transport > 0;
    let length = match family {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let (addresses, tlvs) = match block.split_at_checked(length) {
        Some(parts) => parts,
        None if is_plain => return Err(HeaderError::Malformed),
        None => (&[][..], &[][..]),
    };
    let tlvs = match tlvs_of(header, tlvs) {
        Some(tlvs) => tlvs?,
        None if is_plain => return Err(HeaderError::Malformed),
        None => Box::default(),
    };
    // The addresses of a UDP client are not those of this TCP connection.
    let addresses = if is_plain && transport == 1 { pair(family, addresses) } else { None };
    let tlvs = if is_local { Box::default() } else { tlvs };
    Ok(Decoded::Whole(HeaderContent { addresses, tlvs }, whole))
}

/// The addresses in a version 2 block. `None` for a family other than IPv4 and IPv6.
fn pair(family: u8, block: &[u8]) -> Option<[SocketAddr; 2]> {
    let both = |from: IpAddr, to: IpAddr, ports: &[u8]| {
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        [canonical(from, port(0)), canonical(to, port(2))]
    };
    match family {
        1 => {
            let (&from, rest) = block.split_first_chunk::<4>()?;
            let (&to, ports) = rest.split_first_chunk::<4>()?;
            Some(both(from.into(), to.into(), ports.get(..4)?))
        }
        2 => {
            let (&from, rest) = block.split_first_chunk::<16>()?;
            let (&to, ports) = rest.split_first_chunk::<16>()?;
            Some(both(from.into(), to.into(), ports.get(..4)?))
        }
        _ => None,
    }
}

/// The TLVs to keep. `None` if one is incomplete; an error if the checksum is wrong.
fn tlvs_of(header: &[u8], tlvs: &[u8]) -> Option<Result<Box<[u8]>, HeaderError>> {
    let mut kept = Vec::new();
    let mut rest = tlvs;
    let mut is_true = true;
    while !rest.is_empty() {
        let (head, behind) = rest.split_first_chunk::<TLV_HEAD>()?;
        let (value, behind) = behind.split_at_checked(u16::from_be_bytes([head[1], head[2]]).into())?;
        match head[0] {
            TLV_CRC32C => {
                let said = u32::from_be_bytes(value.try_into().ok()?);
                let end = header.len() - behind.len();
                let sum = crc32c([&header[..end - value.len()], &[0; 4], &header[end..]]);
                is_true &= sum == said;
            }
            TLV_NOOP => {}
            _ => kept.extend_from_slice(&rest[..TLV_HEAD + value.len()]),
        }
        rest = behind;
    }
    Some(if is_true { Ok(kept.into_boxed_slice()) } else { Err(HeaderError::Malformed) })
}
