//! The programs at both ends: clients and servers on real sockets that account for every byte.
//!
//! Knows: what each sends, what it must receive, how its connection ended for it. Never: the worker between
//! them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use socket2::{Domain, SockRef, Socket, Type};

use super::random::{Stream, mix};
use crate::wire::proxy::decode::{Decoded, decode};

/// Length of what a client sends first: its number, and how many bytes it wants.
pub(super) const HEADER: u64 = 8;

/// How a direction ended for its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It has not ended.
    Nothing,
    /// With an end.
    End,
    /// With an error.
    Reset,
}

/// The PROXY header for client number `id`, in one version or the other.
fn preface(id: u32) -> Vec<u8> {
    let client = address_of(id);
    if id.is_multiple_of(2) {
        return format!("PROXY TCP4 {client} 127.0.0.1 {} 80\r\n", 1_000 + id).into_bytes();
    }
    let addresses = [&client.octets()[..], &[127, 0, 0, 1, 3, 232, 0, 80]].concat();
    // Some are so long that they count.
    let filler = usize::from(id as u16 % 300) + if id % 4 == 1 { 6_000 } else { 0 };
    let rest = [&[0xe0][..], &(filler as u16).to_be_bytes(), &vec![id as u8; filler]].concat();
    let length = ((addresses.len() + rest.len()) as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length, &addresses, &rest].concat()
}

/// The first bytes of a client that asks for something.
const ASKS: &[u8] = b"SSH-";

/// Does client number `id` ask for something, where that matters?
pub(super) fn asks(id: u32) -> bool {
    !id.is_multiple_of(3)
}

/// What a server receives before the bytes that are counted.
#[derive(Debug)]
struct Front {
    /// A PROXY header has yet to come.
    awaits_header: bool,
    bytes: Vec<u8>,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    socket: Option<TcpStream>,
    sends: Stream,
    gets: Stream,
    /// What is sent before the bytes that are counted, and how much of it was written.
    preface: Vec<u8>,
    prefaced: usize,
    header: Vec<u8>,
    front: Option<Front>,
    /// The client's address in that header.
    announced: Option<SocketAddr>,
    /// Bytes written so far, including the header.
    pub(super) sent: u64,
    pub(super) got: u64,
    /// It has ended its direction.
    pub(super) is_shut: bool,
    pub(super) heard: Heard,
    /// It has closed before it saw an end, or with a reset.
    pub(super) fled: bool,
    /// Position of the first wrong byte.
    pub(super) wrong_at: Option<u64>,
}

impl Peer {
    fn new(socket: TcpStream, sends: u64, gets: u64) -> Self {
        // So everything sent has arrived: nothing waits for an acknowledgement, which takes real time.
        let _ = socket.set_nodelay(true);
        Self {
            socket: Some(socket),
            sends: Stream::new(sends),
            gets: Stream::new(gets),
            preface: Vec::new(),
            prefaced: 0,
            header: Vec::new(),
            front: None,
            announced: None,
            sent: 0,
            got: 0,
            is_shut: false,
            heard: Heard::Nothing,
            fled: false,
            wrong_at: None,
        }
    }

    /// Client number `id` of the simulation `key`, with an address that identifies it. It wants `wants`
    /// bytes. `proxied`: it sends a PROXY header. `routed`: it may ask for something.
    pub(super) fn connect(
        to: SocketAddr,
        key: u64,
        id: u32,
        wants: u32,
        [proxied, routed]: [bool; 2],
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((address_of(id), 0)).into())?;
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            // On loopback it is established or refused when the call returns.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
        let mut peer = Self::new(socket.into(), mix(key ^ u64::from(id)), mix(!key ^ u64::from(id)));
        peer.header = [id.to_le_bytes(), wants.to_le_bytes()].concat();
        if proxied {
            peer.preface = preface(id);
        }
        if routed && asks(id) {
            peer.preface.extend_from_slice(ASKS);
        }
        Ok(peer)
    }

    /// The server's end of a connection whose client has not identified itself yet. `proxied`: a PROXY header
    /// comes first.
    pub(super) fn accepted(socket: OwnedFd, proxied: bool) -> Self {
        let socket = TcpStream::from(socket);
        let _ = socket.set_nonblocking(true);
        let front = Some(Front { awaits_header: proxied, bytes: Vec::new() });
        Self { front, ..Self::new(socket, 0, 0) }
    }

    /// Removes what comes before the bytes that are counted. `None`: it is incomplete or wrong.
    fn past_front(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let Some(front) = &mut self.front else { return Some(bytes.to_vec()) };
        front.bytes.extend_from_slice(bytes);
        if front.awaits_header {
            match decode(&front.bytes) {
                Ok(Decoded::More(_)) => return None,
                Ok(Decoded::Whole(header, length)) => {
                    front.bytes.drain(..length);
                    front.awaits_header = false;
                    self.announced = header.addresses.map(|[client, _]| client);
                    // The header always has a client.
                    if self.announced.is_none() {
                        self.wrong_at.get_or_insert(0);
                    }
                }
                Err(_) => {
                    self.wrong_at.get_or_insert(0);
                    return None;
                }
            }
        }
        match front.bytes.first() {
            None => return None,
            Some(first) if *first == ASKS[0] && front.bytes.len() < ASKS.len() => return None,
            Some(first) if *first == ASKS[0] => _ = front.bytes.drain(..ASKS.len()),
            Some(_) => {}
        }
        self.front.take().map(|front| front.bytes)
    }

    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Sends at most `most` bytes; returns how many were taken.
    pub(super) fn send(&mut self, most: u64) -> u64 {
        if self.prefaced < self.preface.len() {
            let Some(mut socket) = self.socket.as_ref() else { return 0 };
            let some = (most as usize).clamp(1, self.preface.len() - self.prefaced);
            match socket.write(&self.preface[self.prefaced..][..some]) {
                Ok(n) => {
                    self.prefaced += n;
                    // Sometimes what follows is in another segment.
                    if self.prefaced < self.preface.len() || self.preface.len().is_multiple_of(2) {
                        return n as u64;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return 0,
                Err(_) => {
                    self.broke();
                    return 0;
                }
            }
        }
        let before = self.sent;
        while self.sent < before + most {
            let Some(mut socket) = self.socket.as_ref() else { break };
            let head = self.header.len() as u64;
            let wanted = before + most - self.sent;
            let bytes = match self.header.get(self.sent as usize..) {
                Some(rest) if !rest.is_empty() => &rest[..rest.len().min(wanted as usize)],
                _ => self.sends.bytes(self.sent - head, wanted.min(64 * 1024) as usize),
            };
            match socket.write(bytes) {
                Ok(n) => self.sent += n as u64,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.broke();
                    break;
                }
            }
        }
        self.sent - before
    }

    /// Reads at most `most` bytes; returns how many came. With `greets`, also returns the client's number and
    /// what it wants, once.
    pub(super) fn receive(&mut self, most: usize, greets: Option<u64>) -> (usize, Option<(u32, u32)>) {
        let mut buffer = vec![0; most];
        let Some(mut socket) = self.socket.as_ref() else { return (0, None) };
        if self.heard != Heard::Nothing {
            return (0, None);
        }
        let count = match socket.read(&mut buffer) {
            Ok(0) => {
                self.heard = Heard::End;
                return (0, None);
            }
            Ok(count) => count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return (0, None),
            Err(_) => {
                self.broke();
                return (0, None);
            }
        };
        let Some(bytes) = self.past_front(&buffer[..count]) else { return (count, None) };
        let mut bytes = &bytes[..];
        let mut client = None;
        if let Some(key) = greets
            && self.got < HEADER
        {
            let rest = bytes.len().min((HEADER - self.got) as usize);
            self.header.extend_from_slice(&bytes[..rest]);
            bytes = &bytes[rest..];
            self.got += rest as u64;
            if self.got == HEADER {
                let number = |at: usize| {
                    u32::from_le_bytes([0, 1, 2, 3].map(|i| self.header.get(at + i).copied().unwrap_or(0)))
                };
                let (id, wants) = (number(0), number(4));
                self.sends = Stream::new(mix(!key ^ u64::from(id)));
                self.gets = Stream::new(mix(key ^ u64::from(id)));
                self.header.clear();
                if self.announced.is_some_and(|announced| client_at(announced.ip()) != Some(id)) {
                    self.wrong_at.get_or_insert(0);
                }
                client = Some((id, wants));
            }
        }
        let skipped = if greets.is_some() { HEADER } else { 0 };
        if !bytes.is_empty() {
            let at = self.got - skipped;
            let expected = self.gets.bytes(at, bytes.len());
            if let Some(wrong) = bytes.iter().zip(expected).position(|(is, was)| is != was) {
                self.wrong_at.get_or_insert(self.got + wrong as u64);
            }
            self.got += bytes.len() as u64;
        }
        (count, client)
    }

    fn broke(&mut self) {
        if self.heard == Heard::Nothing {
            self.heard = Heard::Reset;
        }
    }

    /// Ends its direction.
    pub(super) fn shut(&mut self) {
        if let Some(socket) = &self.socket
            && !self.is_shut
        {
            let _ = socket.shutdown(Shutdown::Write);
            self.is_shut = true;
        }
    }

    /// Closes the socket, which is a reset if anything is left to read.
    pub(super) fn close(&mut self) {
        self.fled |= self.heard == Heard::Nothing && self.socket.is_some();
        self.socket = None;
    }

    pub(super) fn reset(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
            self.fled = true;
        }
    }
}

/// The address from which a client connects.
pub(super) fn address_of(id: u32) -> Ipv4Addr {
    let [_, _, high, low] = id.to_be_bytes();
    Ipv4Addr::new(127, 7, high, low)
}

/// The client that connects from an address.
pub(super) fn client_at(address: std::net::IpAddr) -> Option<u32> {
    match address {
        std::net::IpAddr::V4(v4) => match v4.octets() {
            [127, 7, high, low] => Some(u32::from_be_bytes([0, 0, high, low])),
            _ => None,
        },
        std::net::IpAddr::V6(_) => None,
    }
}
