//! Asks the kernel about routes, policy rules and packet marks of this network namespace.
//!
//! Knows: netlink(7) messages, byte by byte. Never: why it is asked.
//! Source: rtnetlink(7), linux/fib_rules.h, linux/netfilter/nf_tables.h.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const GET_ROUTE: u16 = 26;
const GET_RULE: u16 = 34;
/// The message `NFT_MSG_GETRULE` of the nf_tables subsystem.
const GET_NFT_RULE: u16 = 10 << 8 | 7;
/// `RTN_LOCAL`: a route to this host.
const TO_US: u8 = 2;
/// Timeout for an answer; the kernel normally answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// A packet that the kernel is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AskedPacket {
    /// Its source address and port.
    pub(crate) from: SocketAddr,
    /// Its destination address.
    pub(crate) to: IpAddr,
    /// The interface on which it arrives. `None`: this host sends it.
    pub(crate) interface: Option<u32>,
    /// Its packet mark; 0 means none.
    pub(crate) mark: u32,
}

/// Would the kernel deliver such a TCP packet to this host?
///
/// # Errors
/// There is no route for it, or the kernel cannot be asked.
pub(crate) fn is_delivered(packet: &AskedPacket) -> io::Result<bool> {
    let mut attributes = Vec::new();
    put(&mut attributes, 1, &octets(packet.to));
    put(&mut attributes, 2, &octets(packet.from.ip()));
    put(&mut attributes, 27, &[6]);
    put(&mut attributes, 28, &packet.from.port().to_be_bytes());
    put(&mut attributes, 16, &packet.mark.to_ne_bytes());
    if let Some(index) = packet.interface {
        put(&mut attributes, 3, &index.to_ne_bytes());
    }
    let answer = route(packet.to, 8 * octets(packet.from.ip()).len() as u8, &attributes)?;
    Ok(answer.get(7) == Some(&TO_US))
}

/// The index of the interface through which an address is reached. `None`: the address is one of this host.
///
/// # Errors
/// There is no route to it, or the kernel cannot be asked.
pub(crate) fn interface_towards(to: IpAddr) -> io::Result<Option<u32>> {
    let mut attributes = Vec::new();
    put(&mut attributes, 1, &octets(to));
    let answer = route(to, 0, &attributes)?;
    if answer.get(7) == Some(&TO_US) {
        return Ok(None);
    }
    found_interface(&answer).map(Some).ok_or_else(|| io::Error::other("no interface"))
}

/// The packet marks that policy rules of an address family match, each with its routing table.
///
/// # Errors
/// The kernel cannot be asked.
pub(crate) fn marks(is_v6: bool) -> io::Result<Vec<(u32, u32)>> {
    let header = [family(is_v6), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut marks = Vec::new();
    ask(SockProtocol::NetlinkRoute, GET_RULE, true, &header, |body| {
        let (mark, table) = found_mark(body);
        if mark != 0 {
            marks.push((mark, table));
        }
    })?;
    Ok(marks)
}

/// Does any nftables rule of this family, including those of iptables-nft, set packet marks?
///
/// # Errors
/// The kernel has no nftables, or does not tell this user.
pub(crate) fn nftables_mark(is_v6: bool) -> io::Result<bool> {
    let mut marks = false;
    ask(SockProtocol::NetlinkNetFilter, GET_NFT_RULE, true, &[0, 0, 0, 0], |body| {
        marks |= marks_packets(body, is_v6);
    })?;
    Ok(marks)
}

/// Is the expression `meta mark set`, or iptables' target MARK or TPROXY?
fn is_marking(expression: Attributes<'_>) -> bool {
    let (mut name, mut data) = (&[][..], Attributes(&[]));
    for (kind, value) in expression {
        match kind {
            1 => name = value.split(|&byte| byte == 0).next().unwrap_or_default(),
            2 => data = Attributes(value),
            _ => {}
        }
    }
    match name {
        b"meta" => {
            let (mut is_mark, mut is_set) = (false, false);
            for (kind, value) in data {
                is_mark |= kind == 2 && value == 3_u32.to_be_bytes();
                is_set |= kind == 3;
            }
            is_mark && is_set
        }
        b"tproxy" => true,
        b"target" => data.into_iter().any(|(kind, value)| {
            let name = value.split(|&byte| byte == 0).next().unwrap_or_default();
            kind == 1 && [&b"MARK"[..], b"TPROXY", b"CONNMARK"].contains(&name)
        }),
        _ => false,
    }
}

fn route(to: IpAddr, source_bits: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let bits = 8 * octets(to).len() as u8;
    let mut body = vec![family(to.is_ipv6()), bits, source_bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(attributes);
    let mut found = None;
    ask(SockProtocol::NetlinkRoute, GET_ROUTE, false, &body, |answer| {
        found.get_or_insert_with(|| answer.to_vec());
    })?;
    found.ok_or_else(|| io::Error::other("no answer"))
}

/// Sends one request and passes the body of each answer to `each`.
fn ask(
    protocol: SockProtocol,
    kind: u16,
    dumps: bool,
    body: &[u8],
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let socket: OwnedFd =
        socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(protocol))?;
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE))?;
    let flags = REQUEST | if dumps { DUMP } else { 0 };
    let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    message.extend_from_slice(body);
    socket::sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if buffer[..length].is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if read_answers(&buffer[..length], dumps, &mut each)? {
            return Ok(());
        }
    }
}

/// Passes the bodies of all answers in a datagram to `each`. `true`: no more answers will come.
///
/// # Errors
/// The error that the kernel answered with.
fn read_answers(mut rest: &[u8], dumps: bool, each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while let Some((kind, body, next)) = first_message(rest) {
        rest = next;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let number = body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                return match number {
                    0 => Ok(true),
                    number => Err(io::Error::from_raw_os_error(number.saturating_neg())),
                };
            }
            _ => each(body),
        }
        if !dumps {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads a datagram as an answer to every question that is ever asked, and counts the answers. For fuzzing.
#[doc(hidden)]
pub fn read_any(datagram: &[u8]) -> usize {
    let mut count = 0;
    for dumps in [false, true] {
        let mut each = |body: &[u8]| {
            count += 1;
            let _ = (found_interface(body), found_mark(body));
            let _ = [false, true].map(|is_v6| marks_packets(body, is_v6));
        };
        // An error of the kernel is an answer, too.
        let _ = read_answers(datagram, dumps, &mut each);
    }
    count
}

/// The interface of a route.
fn found_interface(answer: &[u8]) -> Option<u32> {
    let found = Attributes(answer.get(12..).unwrap_or_default()).find(|&(kind, _)| kind == 4);
    found.and_then(|(_, value)| number(value))
}

/// The mark that a policy rule matches, or 0, and its routing table.
fn found_mark(body: &[u8]) -> (u32, u32) {
    let (mut mark, mut table) = (0, body.get(4).copied().unwrap_or(0).into());
    for (kind, value) in Attributes(body.get(12..).unwrap_or_default()) {
        match kind {
            10 => mark = number(value).unwrap_or(0),
            15 => table = number(value).unwrap_or(table),
            _ => {}
        }
    }
    (mark, table)
}

/// Does this rule of nftables mark packets of this family?
fn marks_packets(body: &[u8], is_v6: bool) -> bool {
    // Rules of the family `inet` apply to both IPv4 and IPv6.
    if ![Some(&1), Some(&family(is_v6))].contains(&body.first()) {
        return false;
    }
    let rule = Attributes(body.get(4..).unwrap_or_default());
    let expressions = rule.filter(|&(kind, _)| kind == 4).flat_map(|(_, value)| Attributes(value));
    expressions.map(|(_, expression)| Attributes(expression)).any(is_marking)
}

/// Splits off the first message: its kind, its body, and the bytes after it.
fn first_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let body = bytes.get(16..length)?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes in a message, or those nested in an attribute.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn put(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    attributes.extend_from_slice(&length.to_ne_bytes());
    attributes.extend_from_slice(&kind.to_ne_bytes());
    attributes.extend_from_slice(value);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family(is_v6: bool) -> u8 {
    if is_v6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_loopback_is_for_this_host() {
        let from = SocketAddr::from(([127, 0, 0, 1], 80));
        let packet = AskedPacket { from, to: IpAddr::from([127, 0, 0, 2]), interface: None, mark: 0 };
        assert!(is_delivered(&packet).expect("there is a route"));
        assert_eq!(interface_towards(packet.to).expect("there is a route"), None);
    }

    #[test]
    fn rules_can_be_read() {
        let _ = marks(false).expect("every kernel has rules");
    }

    /// A message as the kernel sends them.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).expect("short");
        let mut message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat();
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    /// Whatever the kernel says, and wherever it is cut, it is read to its end without a panic.
    /// `BALANCE_SEED=N` repeats a run.
    #[test]
    fn cut_and_random_answers_are_read_to_their_end() {
        let given = std::env::var("BALANCE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = given.unwrap_or_else(|| std::process::id().into());
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let mut random = move |most: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap_or(0) % most.max(1)
        };
        let mut expression = Vec::new();
        put(&mut expression, 1, b"meta\0");
        put(&mut expression, 2, b"12345678");
        let (mut list, mut rule, mut marked) = (Vec::new(), vec![1, 0, 0, 0], vec![2; 12]);
        put(&mut list, 1, &expression);
        put(&mut rule, 4, &list);
        put(&mut marked, 10, &7_u32.to_ne_bytes());
        put(&mut marked, 15, &9_u32.to_ne_bytes());
        assert_eq!(found_mark(&marked), (7, 9));
        let whole = [message(24, &marked), message(GET_NFT_RULE, &rule), message(DONE, &[0; 4])].concat();
        assert_eq!(read_any(&whole), 3, "the first alone, and then both");
        for length in 0..whole.len() {
            read_any(&whole[..length]);
        }
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..random(8) {
                let at = random(bytes.len());
                bytes[at] = u8::try_from(random(256)).unwrap_or(0);
            }
            bytes.truncate(random(whole.len() + 1));
            // Each message has a head at least, so there are no more than fit.
            let read = std::panic::catch_unwind(|| read_any(&bytes)).ok();
            assert!(read.is_some_and(|read| read <= 1 + bytes.len() / 16), "BALANCE_SEED={seed}: {bytes:?}");
        }
    }

    #[test]
    fn messages_that_are_cut_end_and_do_not_panic() {
        let mut attributes = Vec::new();
        put(&mut attributes, 1, b"meta\0");
        put(&mut attributes, 2, b"12345678");
        for length in 0..attributes.len() {
            assert!(Attributes(&attributes[..length]).count() <= 1 + usize::from(length >= 24));
            assert!(!is_marking(Attributes(&attributes[..length])));
        }
        assert_eq!(Attributes(&[0, 0, 1, 0, 9, 9]).next(), None, "a length that would stand still");
        for length in 0..20 {
            let _ = first_message(&[9; 20][..length]);
        }
    }
}
