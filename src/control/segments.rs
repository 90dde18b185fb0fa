//! Makes TCP segments as they might have been, for bytes of which only the order is known.
//!
//! Knows: both ends' addresses, sequence numbers, who has ended. Never: files, time, where the bytes come
//! from.
//! Source: docs/observability.md, "For Wireshark".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{PacketBuilder, TcpOptionElement};

use crate::observe::Direction;

/// The window that both ends announce: 65535 times 2^14. It is so large that Wireshark misses no window
/// update.
const WINDOW: u16 = u16::MAX;
const SCALE: u8 = 14;
/// The maximum segment size that both ends announce, in bytes.
const SEGMENT: u16 = 65_495;
/// A larger gap is shown as this many bytes: beyond it, sequence numbers would seem to go back.
pub(crate) const LARGEST_GAP: u64 = 1 << 30;
/// The hop limit in the IP header; the real one is not known.
const HOPS: u8 = 64;

/// The kind of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SegmentKind {
    Hello,
    HelloBack,
    Data,
    Acknowledge,
    Finish,
    Reset,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Segments {
    /// The addresses of the client and of the service.
    ends: [SocketAddr; 2],
    /// The next sequence number of each end.
    next: [u32; 2],
    ended: [bool; 2],
    /// The window that each end announces.
    windows: [u16; 2],
}

impl Segments {
    /// A connection between these addresses. An end that is not known gets the unspecified address.
    pub(crate) fn between(client: Option<SocketAddr>, service: Option<SocketAddr>) -> Self {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let known = [client.map(canonical), service.map(canonical)];
        let is_v6 = known.iter().flatten().any(SocketAddr::is_ipv6);
        let unknown: IpAddr = if is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let ends = known.map(|at| match at {
            // Both ends must be of the same address family.
            Some(at) if at.is_ipv6() == is_v6 => at,
            at => SocketAddr::new(unknown, at.map_or(0, |at| at.port())),
        });
        Self { ends, next: [0; 2], ended: [false; 2], windows: [WINDOW; 2] }
    }

    /// The three packets of the handshake.
    pub(crate) fn open(&mut self) -> [Vec<u8>; 3] {
        let hello = self.packet(Direction::Sent, SegmentKind::Hello, &[]);
        let back = self.packet(Direction::Rcvd, SegmentKind::HelloBack, &[]);
        [hello, back, self.packet(Direction::Sent, SegmentKind::Acknowledge, &[])]
    }

    /// The packets for bytes sent in this direction: the data and its acknowledgement.
    pub(crate) fn data(&mut self, direction: Direction, bytes: &[u8]) -> [Vec<u8>; 2] {
        let data = self.packet(direction, SegmentKind::Data, bytes);
        [data, self.packet(back(direction), SegmentKind::Acknowledge, &[])]
    }

    /// Skips this many bytes that were sent in this direction and are not in the file.
    pub(crate) fn skip(&mut self, direction: Direction, bytes: u64) {
        let bytes = u32::try_from(bytes.min(LARGEST_GAP)).unwrap_or(u32::MAX);
        let next = &mut self.next[direction as usize];
        *next = next.wrapping_add(bytes);
    }

    /// The packets for the end of this direction (FIN and its acknowledgement); none if it has ended already.
    pub(crate) fn finish(&mut self, direction: Direction) -> Vec<Vec<u8>> {
        if std::mem::replace(&mut self.ended[direction as usize], true) {
            return Vec::new();
        }
        let end = self.packet(direction, SegmentKind::Finish, &[]);
        vec![end, self.packet(back(direction), SegmentKind::Acknowledge, &[])]
    }

    /// A reset by the sender of this direction.
    pub(crate) fn reset(&mut self, direction: Direction) -> Vec<u8> {
        self.packet(direction, SegmentKind::Reset, &[])
    }

    /// A packet that carries a comment. It announces a slightly smaller window, since a packet that changes
    /// nothing looks like a duplicate acknowledgement, as if something was lost.
    pub(crate) fn idle(&mut self, direction: Direction) -> Vec<u8> {
        let window = &mut self.windows[direction as usize];
        *window = window.checked_sub(1).filter(|&window| window > 0).unwrap_or(WINDOW);
        self.packet(direction, SegmentKind::Acknowledge, &[])
    }

    fn packet(&mut self, direction: Direction, kind: SegmentKind, bytes: &[u8]) -> Vec<u8> {
        let (from, to) = (direction as usize, back(direction) as usize);
        let (source, target) = (self.ends[from], self.ends[to]);
        let ip = match (source.ip(), target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                PacketBuilder::ipv4(source.octets(), target.octets(), HOPS)
            }
            (source, target) => PacketBuilder::ipv6(v6(source), v6(target), HOPS),
        };
        let tcp = ip.tcp(source.port(), target.port(), self.next[from], self.windows[from]);
        let tcp = if kind == SegmentKind::Hello { tcp } else { tcp.ack(self.next[to]) };
        let tcp = match kind {
            SegmentKind::Hello | SegmentKind::HelloBack => tcp
                .syn()
                .options(&[
                    TcpOptionElement::MaximumSegmentSize(SEGMENT),
                    TcpOptionElement::WindowScale(SCALE),
                ])
                .ok(),
            SegmentKind::Data => Some(tcp.psh()),
            SegmentKind::Acknowledge => Some(tcp),
            SegmentKind::Finish => Some(tcp.fin()),
            SegmentKind::Reset => Some(tcp.rst()),
        };
        let takes =
            u32::from(matches!(kind, SegmentKind::Hello | SegmentKind::HelloBack | SegmentKind::Finish));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.next[from] = self.next[from].wrapping_add(length).wrapping_add(takes);
        let mut packet = Vec::new();
        // This can fail only for more bytes than a packet can hold; a `Vec` takes everything.
        let _ = tcp.map(|tcp| tcp.write(&mut packet, bytes));
        packet
    }
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The opposite direction.
fn back(direction: Direction) -> Direction {
    match direction {
        Direction::Sent => Direction::Rcvd,
        Direction::Rcvd => Direction::Sent,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// The source port, sequence number, acknowledgement number, flags and payload of a packet. Checks its
    /// checksums.
    fn seen(packet: &[u8]) -> (u16, u32, u32, String, Vec<u8>) {
        let sliced = SlicedPacket::from_ip(packet).expect("a packet");
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP: {sliced:?}") };
        let header = tcp.to_header();
        let sum = match sliced.net.as_ref().expect("IP") {
            etherparse::NetSlice::Ipv4(ip) => {
                header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
            }
            etherparse::NetSlice::Ipv6(ip) => {
                header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(sum.expect("it has one"), header.checksum);
        let flags =
            [(header.syn, 'S'), (header.ack, 'A'), (header.psh, 'P'), (header.fin, 'F'), (header.rst, 'R')];
        let flags = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        (
            header.source_port,
            header.sequence_number,
            header.acknowledgment_number,
            flags,
            tcp.payload().to_vec(),
        )
    }

    #[test]
    fn what_was_said_comes_in_segments_that_follow_each_other() {
        for (client, service) in [("10.0.0.9:5", "10.0.0.5:80"), ("[2001:db8::9]:5", "[2001:db8::5]:80")] {
            let mut talk = Segments::between(Some(at(client)), Some(at(service)));
            let mut packets = Vec::from(talk.open());
            packets.extend(talk.data(Direction::Sent, b"GET"));
            talk.skip(Direction::Rcvd, 1_000);
            packets.extend(talk.data(Direction::Rcvd, b"end"));
            packets.extend(talk.finish(Direction::Sent));
            assert!(talk.finish(Direction::Sent).is_empty(), "it ends once");
            packets.push(talk.reset(Direction::Rcvd));
            packets.push(talk.idle(Direction::Sent));
            let seen: Vec<_> = packets.iter().map(|packet| seen(packet)).collect();
            let expected = [
                (5, 0, 0, "S", ""),
                (80, 0, 1, "SA", ""),
                (5, 1, 1, "A", ""),
                (5, 1, 1, "AP", "GET"),
                (80, 1, 4, "A", ""),
                (80, 1_001, 4, "AP", "end"),
                (5, 4, 1_004, "A", ""),
                (5, 4, 1_004, "AF", ""),
                (80, 1_004, 5, "A", ""),
                (80, 1_004, 5, "AR", ""),
                (5, 5, 1_004, "A", ""),
            ];
            let expected =
                expected.map(|(port, number, acknowledged, flags, bytes): (u16, u32, u32, &str, &str)| {
                    (port, number, acknowledged, flags.to_owned(), bytes.as_bytes().to_vec())
                });
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn numbers_go_round_and_no_gap_goes_back() {
        let mut talk = Segments::between(Some(at("10.0.0.9:5")), Some(at("10.0.0.5:80")));
        talk.open();
        (0..3).for_each(|_| talk.skip(Direction::Sent, u64::MAX));
        assert_eq!(seen(&talk.idle(Direction::Sent)).1, 3 * LARGEST_GAP as u32 + 1);
        talk.skip(Direction::Sent, LARGEST_GAP - 2);
        assert_eq!(seen(&talk.data(Direction::Sent, b"abc")[0]).1, u32::MAX);
        assert_eq!(seen(&talk.idle(Direction::Sent)).1, 2);
    }

    #[test]
    fn ends_that_are_not_known_or_do_not_fit_have_an_address_all_the_same() {
        for (client, service) in [
            (None, None),
            (Some("10.0.0.9:5"), None),
            (None, Some("[2001:db8::5]:80")),
            (Some("[::ffff:10.0.0.9]:5"), Some("10.0.0.5:80")),
            (Some("10.0.0.9:5"), Some("[2001:db8::5]:80")),
        ] {
            let mut talk = Segments::between(client.map(at), service.map(at));
            let [packet, ..] = talk.open();
            let ports = [client, service].map(|end| end.map_or(0, |end| at(end).port()));
            assert_eq!(seen(&packet).0, ports[0], "{client:?} {service:?}");
        }
    }
}
