//! Writes the PROXY header that balance sends to channels.
//!
//! Knows: both versions, byte by byte. Never: sockets, which channel wants a header.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{FIXED_BYTES, SIGNATURE, TLV_CRC32C, TLV_UNIQUE_ID};
use crate::spec::ProxyVersion;
use crate::wire::crc32c::crc32c;

/// Version 2, command LOCAL: a connection of balance itself.
const LOCAL: u8 = 0x20;
/// Version 2, command PROXY: a connection made for a client.
const PROXY: u8 = 0x21;
/// Address families: TCP over IPv4, TCP over IPv6, and unspecified.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;

/// Length of a TLV's type and length fields in bytes.
const TLV_HEAD: usize = 3;
/// Maximum length of a connection's unique name in bytes, set by the PROXY protocol.
const MOST_OF_NAME: usize = 128;
/// Maximum length of a header that balance sends, in bytes: the relay counts the bytes in front of a client's
/// in 16 bits.
const MOST_BYTES: usize = u16::MAX as usize;

/// What a version 2 header contains besides addresses. Version 1 has no place for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extras<'a> {
    /// The TLVs that an earlier proxy sent, as they came. Left out if they do not fit.
    pub(crate) passed: &'a [u8],
    /// The connection's unique name. Not sent if the earlier proxy has already named the connection.
    pub(crate) unique_id: Option<&'a [u8]>,
    /// Whether the header has a checksum.
    pub(crate) crc32c: bool,
}

/// The two addresses of a client's connection, both of the same family, as a header requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    V4([([u8; 4], u16); 2]),
    V6([(Ipv6Addr, u16); 2]),
}

impl Ends {
    /// Converts IPv4-mapped addresses to IPv4 if both addresses allow that; otherwise both become IPv6.
    fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let ends = [source, destination];
        match ends.map(|end| end.ip().to_canonical()) {
            [IpAddr::V4(a), IpAddr::V4(b)] => {
                Self::V4([(a.octets(), source.port()), (b.octets(), destination.port())])
            }
            _ => Self::V6(ends.map(|end| {
                let ip = match end.ip() {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                (ip, end.port())
            })),
        }
    }
}

/// The header for a client. `ends` are the client's address and the address it connected to, if both are
/// known. A client on a Unix socket has no address: the header then tells the reader to use the connection's
/// own addresses.
pub(crate) fn proxied(
    version: ProxyVersion,
    ends: Option<(SocketAddr, SocketAddr)>,
    extras: Extras<'_>,
) -> Vec<u8> {
    let ends = ends.map(|(source, destination)| Ends::new(source, destination));
    match version {
        ProxyVersion::V1 => line(ends).into_bytes(),
        ProxyVersion::V2 => binary(if ends.is_some() { PROXY } else { LOCAL }, ends, extras),
    }
}

/// The header of a connection of balance's own, such as a check, from `source` to `destination`. Version 2
/// says that there is no client; version 1 cannot, so it carries the connection's own addresses.
pub(crate) fn own(
    version: ProxyVersion,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => {
            line(source.zip(destination).map(|(source, destination)| Ends::new(source, destination)))
                .into_bytes()
        }
        ProxyVersion::V2 => binary(LOCAL, None, Extras::default()),
    }
}

/// Writes a version 1 header.
fn line(ends: Option<Ends>) -> String {
    match ends {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some(Ends::V4([(source, from), (destination, to)])) => {
            let [source, destination] = [source, destination].map(std::net::Ipv4Addr::from);
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        Some(Ends::V6([(source, from), (destination, to)])) => {
            format!("PROXY TCP6 {} {} {from} {to}\r\n", hexadecimal(source), hexadecimal(destination))
        }
    }
}

/// The specification allows hexadecimal digits only, and strict readers accept nothing else. Rust would print
/// an IPv4-mapped address with dots.
fn hexadecimal(address: Ipv6Addr) -> String {
    match (address.to_ipv4_mapped(), address.segments()) {
        (Some(_), [.., high, low]) => format!("::ffff:{high:x}:{low:x}"),
        (None, _) => address.to_string(),
    }
}

/// Writes a version 2 header.
fn binary(command: u8, ends: Option<Ends>, extras: Extras<'_>) -> Vec<u8> {
    let mut header = Vec::with_capacity(128);
    header.extend(SIGNATURE);
    header.push(command);
    match ends {
        None => header.extend([UNSPECIFIED, 0, 0]),
        Some(Ends::V4(ends)) => {
            header.extend([TCP4, 0, 0]);
            ends.iter().for_each(|(ip, _)| header.extend(ip));
            ends.iter().for_each(|(_, port)| header.extend(port.to_be_bytes()));
        }
        Some(Ends::V6(ends)) => {
            header.extend([TCP6, 0, 0]);
            ends.iter().for_each(|(ip, _)| header.extend(ip.octets()));
            ends.iter().for_each(|(_, port)| header.extend(port.to_be_bytes()));
        }
    }
    // The name and the checksum need room, too, if they are wanted.
    let name = extras.unique_id.map_or(0, |id| TLV_HEAD + id.len());
    let checksum = if extras.crc32c { TLV_HEAD + size_of::<u32>() } else { 0 };
    let room = MOST_BYTES.saturating_sub(header.len() + name + checksum);
    let passed = if extras.passed.len() <= room { extras.passed } else { &[] };
    header.extend(passed);
    if let Some(id) = extras.unique_id.filter(|_| !has_name(passed)) {
        put(&mut header, TLV_UNIQUE_ID, id);
    }
    if extras.crc32c {
        put(&mut header, TLV_CRC32C, &[0; 4]);
    }
    let length = u16::try_from(header.len() - FIXED_BYTES).unwrap_or(u16::MAX);
    header[FIXED_BYTES - 2..FIXED_BYTES].copy_from_slice(&length.to_be_bytes());
    if extras.crc32c {
        // The checksum is the last TLV. It is calculated with zeros in its place.
        let at = header.len() - 4;
        let sum = crc32c([&header[..]]);
        header[at..].copy_from_slice(&sum.to_be_bytes());
    }
    header
}

fn put(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    debug_assert!(value.len() <= MOST_OF_NAME, "a name may not be longer, and nothing else is");
    header.push(kind);
    header.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend(value);
}

/// Do these TLVs contain a name of the connection?
fn has_name(mut values: &[u8]) -> bool {
    while let Some((&[kind, high, low], behind)) = values.split_first_chunk() {
        if kind == TLV_UNIQUE_ID {
            return true;
        }
        values = behind.get(usize::from(u16::from_be_bytes([high, low]))..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::V1_BYTES;
    use super::super::decode::{Decoded, HeaderContent, decode};
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| panic!("{text} is an address"))
    }

    fn v1(source: &str, destination: &str) -> String {
        let header = proxied(
            ProxyVersion::V1,
            Some((address(source), address(destination))),
            Extras { unique_id: Some(b"has no place"), crc32c: true, ..Extras::default() },
        );
        String::from_utf8(header).expect("version 1 is text")
    }

    #[test]
    fn version_1_is_the_line_of_the_specification() {
        for (source, destination, line) in [
            ("192.168.0.1:56324", "192.168.0.11:443", "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
            (
                "255.255.255.255:65535",
                "255.255.255.255:65535",
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            ),
            ("[2001:db8::1]:1", "[::1]:65535", "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
            // An IPv4 client of a listener for both families.
            ("[::ffff:192.0.2.1]:7", "[::ffff:192.0.2.2]:80", "PROXY TCP4 192.0.2.1 192.0.2.2 7 80\r\n"),
            ("192.0.2.1:7", "[::ffff:192.0.2.2]:80", "PROXY TCP4 192.0.2.1 192.0.2.2 7 80\r\n"),
            // Of two families, as another proxy may announce them.
            ("192.0.2.1:7", "[2001:db8::2]:80", "PROXY TCP6 ::ffff:c000:201 2001:db8::2 7 80\r\n"),
            ("[2001:db8::2]:80", "192.0.2.1:7", "PROXY TCP6 2001:db8::2 ::ffff:c000:201 80 7\r\n"),
            // A scope is useless to any other host.
            ("[fe80::1%3]:7", "[fe80::2%3]:80", "PROXY TCP6 fe80::1 fe80::2 7 80\r\n"),
        ] {
            assert_eq!(v1(source, destination), line);
        }
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert!(v1(longest, longest).len() <= V1_BYTES);
        let unknown = proxied(ProxyVersion::V1, None, Extras::default());
        assert_eq!(unknown, b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_as_the_specification_lays_it_out() {
        let of = |source, destination, extras| {
            proxied(ProxyVersion::V2, Some((address(source), address(destination))), extras)
        };
        let plain = Extras::default();
        let v4 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02\xd9\x04\x01\xbb";
        assert_eq!(of("192.0.2.1:55556", "198.51.100.2:443", plain), v4);
        assert_eq!(of("[::ffff:192.0.2.1]:55556", "198.51.100.2:443", plain), v4);
        let mut v6 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24".to_vec();
        v6.extend(b"\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x01");
        v6.extend(b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\xd9\x04\x01\xbb");
        assert_eq!(of("[fe80::1%7]:55556", "[2001:db8::2]:443", plain), v6);
        let unknown = proxied(ProxyVersion::V2, None, plain);
        assert_eq!(unknown, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
        let named = of("192.0.2.1:55556", "198.51.100.2:443", Extras { unique_id: Some(b"a-7"), ..plain });
        assert_eq!(&named[14..16], b"\x00\x12");
        assert_eq!((&named[16..28], &named[28..]), (&v4[16..], &b"\x05\x00\x03a-7"[..]));
    }

    #[test]
    fn the_checksum_is_over_all_of_the_header_with_zeros_in_its_place() {
        let extras = Extras { unique_id: Some(b"x"), crc32c: true, ..Extras::default() };
        let header =
            proxied(ProxyVersion::V2, Some((address("192.0.2.1:7"), address("192.0.2.2:80"))), extras);
        let (front, sum) = header.split_at(header.len() - 4);
        assert_eq!(&front[front.len() - 3..], b"\x03\x00\x04");
        assert_eq!(sum, crc32c([front, &[0; 4]]).to_be_bytes());
    }

    #[test]
    fn a_connection_of_our_own_says_so() {
        let (source, destination) = (address("127.0.0.1:5"), address("127.0.0.1:80"));
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        assert_eq!(own(ProxyVersion::V2, Some(source), Some(destination)), local);
        let truth = b"PROXY TCP4 127.0.0.1 127.0.0.1 5 80\r\n";
        assert_eq!(own(ProxyVersion::V1, Some(source), Some(destination)), truth);
        assert_eq!(own(ProxyVersion::V1, None, Some(destination)), b"PROXY UNKNOWN\r\n");
    }

    type Values = Vec<(u8, Vec<u8>)>;

    /// The addresses and the TLVs of bytes that are exactly one header.
    fn read(header: &[u8]) -> Option<([SocketAddr; 2], Values)> {
        let Ok(Decoded::Whole(HeaderContent { addresses, tlvs }, length)) = decode(header) else {
            return None;
        };
        let (mut rest, mut values) = (&tlvs[..], Vec::new());
        while let Some((&[kind, high, low], behind)) = rest.split_first_chunk() {
            let (value, behind) = behind.split_at(usize::from(u16::from_be_bytes([high, low])));
            values.push((kind, value.to_vec()));
            rest = behind;
        }
        (length == header.len()).then_some((addresses?, values))
    }

    #[test]
    fn what_the_proxy_before_us_has_said_goes_on() {
        let of = |passed: &[u8]| {
            let to = Some(address("192.0.2.2:80"));
            let extras = Extras { passed, unique_id: Some(b"ours"), crc32c: true };
            proxied(ProxyVersion::V2, to.map(|to| (address("192.0.2.1:7"), to)), extras)
        };
        let values = |header: &[u8]| read(header).expect("a header").1;
        let ours = (TLV_UNIQUE_ID, b"ours".to_vec());
        let alpn = b"\x01\x00\x02h2";
        assert_eq!(values(&of(alpn)), [(1, b"h2".to_vec()), ours.clone()]);
        // An earlier proxy has already named the connection.
        assert_eq!(values(&of(b"\x05\x00\x01x\x01\x00\x02h2")), [(5, b"x".to_vec()), (1, b"h2".to_vec())]);
        // As long as possible, and one byte longer.
        let long = |length: u16| [&[0xee][..], &length.to_be_bytes(), &vec![7; length.into()]].concat();
        // Besides the addresses of IPv4 there are the name and the checksum.
        let most = u16::try_from(MOST_BYTES - 28 - 3 * TLV_HEAD - ours.1.len() - 4).expect("it fits");
        let header = of(&long(most));
        assert_eq!(header.len(), MOST_BYTES);
        assert_eq!(values(&header), [(0xee, vec![7; most.into()]), ours.clone()]);
        assert_eq!(values(&of(&long(most + 1))), [ours]);
    }

    proptest! {
        #[test]
        fn what_was_written_reads_as_it_was_meant(
            source in any::<SocketAddr>(),
            destination in any::<SocketAddr>(),
            is_first in any::<bool>(),
            id in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=128)),
            crc32c in any::<bool>(),
        ) {
            let version = if is_first { ProxyVersion::V1 } else { ProxyVersion::V2 };
            let extras = Extras { passed: &[], unique_id: id.as_deref(), crc32c };
            let header = proxied(version, Some((source, destination)), extras);
            let ([from, to], values) = read(&header).expect("a header");
            let plain = |end: SocketAddr| (end.ip().to_canonical(), end.port());
            prop_assert_eq!((plain(from), plain(to)), (plain(source), plain(destination)));
            if is_first {
                prop_assert!(header.len() <= V1_BYTES);
            } else {
                let kinds: Vec<u8> = values.iter().map(|(kind, _)| *kind).collect();
                let mut expected = Vec::new();
                // The reader has checked the checksum and does not return it.
                expected.extend(id.as_ref().map(|_| TLV_UNIQUE_ID));
                prop_assert_eq!(kinds, expected);
                prop_assert_eq!(id.as_ref(), values.iter().find(|(kind, _)| *kind == TLV_UNIQUE_ID).map(|(_, value)| value));
            }
        }
    }
}
