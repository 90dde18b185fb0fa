//! One end of one connection: sends and receives with habits of its own, hashes, compares.
//!
//! Knows: one socket, the stream that should arrive. Never: the other end, the program in between.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sha2::{Digest, Sha256};
use socket2::{Domain, SockRef, Socket, Type};

use crate::harness::{DEADLINE, Direction, Stream, eventually, uninterrupted};
use crate::relay_sim::random::Random;

/// Streams are compared over so many bytes to find where a wrong one comes from.
const NEAR: u64 = 4 << 20;

/// How one end of one connection behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    pub(super) seed: u64,
    /// Chunks are of any magnitude below 2^bits.
    pub(super) bits: u64,
    /// Pauses per thousand chunks, and the longest one in ms.
    pub(super) pauses: u64,
    pub(super) longest: u64,
    /// Socket buffers in bytes; 0 = the system's.
    pub(super) receive_buffer: usize,
    pub(super) send_buffer: usize,
}

impl Habits {
    pub(super) const PLAIN: Self =
        Self { seed: 0, bits: 17, pauses: 0, longest: 0, receive_buffer: 0, send_buffer: 0 };

    /// Small chunks come with few bytes only, or a test would take for ever.
    pub(super) fn random(random: &mut Random) -> Self {
        Self {
            seed: random.next(),
            bits: [8, 14, 17, 20][random.below(4) as usize],
            pauses: [0, 5, 50][random.below(3) as usize],
            longest: [1, 5, 30][random.below(3) as usize],
            receive_buffer: [0, 0, 2304, 8192, 60_000][random.below(5) as usize],
            send_buffer: [0, 0, 4608, 60_000][random.below(4) as usize],
        }
    }

    pub(super) fn apply(&self, stream: &TcpStream) {
        let socket = SockRef::from(stream);
        if self.receive_buffer > 0 {
            socket.set_recv_buffer_size(self.receive_buffer).expect("a receive buffer");
        }
        if self.send_buffer > 0 {
            socket.set_send_buffer_size(self.send_buffer).expect("a send buffer");
        }
    }

    /// What this end can send or receive in a test's time: tiny chunks take long to count, and with a window below the
    /// loopback's segment size Linux moves a few windows per second.
    pub(super) fn limits(&self, most: u64) -> (u64, u64) {
        let send = if self.bits < 10 { most / 32 } else { most };
        let narrow = (1..60_000).contains(&self.receive_buffer);
        (send, if narrow { send.min(self.receive_buffer as u64 * 8) } else { send })
    }

    pub(super) fn pause(&self, random: &mut Random) {
        if random.chance(self.pauses) {
            // What these tests are about: an end that does nothing for a while.
            std::thread::sleep(Duration::from_micros(random.below(self.longest * 1000)));
        }
    }
}

/// What one end makes of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Half {
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
    pub(super) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Clean,
    /// The system tells of it once; a second thread at the same socket sees a clean end.
    Reset,
    /// After a clean end, or after the reset was told.
    Broken,
}

impl End {
    /// What an error that `is_reset` tells of.
    pub(super) fn of(error: &io::Error) -> Self {
        if error.kind() == ErrorKind::ConnectionReset { Self::Reset } else { Self::Broken }
    }
}

/// Which bytes of which stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload {
    pub(super) seed: u64,
    pub(super) id: u64,
    pub(super) direction: Direction,
}

impl Payload {
    pub(super) fn stream(self) -> Stream {
        Stream::new(self.seed << 32 | self.id, self.direction)
    }

    /// Compares; says of the first wrong byte where it belongs.
    pub(super) fn check(self, at: u64, got: &[u8]) -> Result<(), String> {
        let want = self.stream().bytes(at, got.len());
        if want == got {
            return Ok(());
        }
        let bad = want.iter().zip(got).position(|(want, got)| want != got).unwrap_or(0);
        let sample = &got[bad..got.len().min(bad + 16)];
        let at = at + bad as u64;
        let find = |payload: Self, from: u64| {
            let near = payload.stream().bytes(from, 2 * NEAR as usize);
            near.windows(sample.len()).position(|window| window == sample).map(|found| from + found as u64)
        };
        let what = match find(self, at.saturating_sub(NEAR)) {
            Some(found) if found > at => format!("{} bytes lost or moved", found - at),
            Some(found) => format!("duplicated or moved: it belongs to {found}"),
            None => (0..256)
                .flat_map(|id| {
                    [Direction::Sent, Direction::Rcvd].map(|direction| Self { id, direction, ..self })
                })
                .find_map(|other| find(other, 0).map(|found| format!("foreign: byte {found} of {other:?}")))
                .unwrap_or_else(|| "corrupt: found nowhere".to_owned()),
        };
        Err(format!("{self:?}: first bad byte at {at}: {what}"))
    }
}

/// Sends so many bytes. A reset is no failure here: the caller knows what it wants.
pub(super) fn send(
    mut stream: &TcpStream,
    payload: Payload,
    length: u64,
    habits: Habits,
) -> Result<Half, String> {
    let mut random = Random::new(habits.seed);
    let mut hash = Sha256::new();
    let (mut at, mut end) = (0, End::Clean);
    while at < length {
        // A tiny chunk of a long stream is seldom, so that time goes into crossings, not into counting.
        let size = if random.chance(900) { 1 << (habits.bits - 1) } else { random.magnitude(habits.bits) };
        let chunk = payload.stream().bytes(at, size.min(length - at) as usize);
        match stream.write_all(&chunk) {
            Ok(()) => {}
            Err(e) if is_reset(&e) => {
                end = End::of(&e);
                break;
            }
            Err(e) => return Err(format!("{payload:?}: sending at {at}: {e}")),
        }
        hash.update(&chunk);
        at += chunk.len() as u64;
        habits.pause(&mut random);
    }
    Ok(Half { bytes: at, sha256: hash.finalize().into(), end })
}

/// Receives to the end, and compares.
pub(super) fn receive(mut stream: &TcpStream, payload: Payload, habits: Habits) -> Result<Half, String> {
    let mut random = Random::new(habits.seed ^ 0xface);
    let mut hash = Sha256::new();
    let mut at = 0;
    let mut buffer = vec![0; 1 << habits.bits];
    loop {
        let room = random.magnitude(habits.bits).max(buffer.len() as u64 / 8) as usize;
        let end = match uninterrupted(|| stream.read(&mut buffer[..room])) {
            Ok(0) => End::Clean,
            Ok(n) => {
                payload.check(at, &buffer[..n])?;
                hash.update(&buffer[..n]);
                at += n as u64;
                habits.pause(&mut random);
                continue;
            }
            Err(e) if is_reset(&e) => End::of(&e),
            Err(e) => return Err(format!("{payload:?}: receiving at {at}: {e}")),
        };
        return Ok(Half { bytes: at, sha256: hash.finalize().into(), end });
    }
}

pub(super) fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected)
}

/// Connects with these buffers and says who it is.
pub(super) fn announce(to: SocketAddr, id: u64, habits: &Habits) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    let stream = TcpStream::from(socket);
    // Before connecting, so that the window is small from the start.
    habits.apply(&stream);
    SockRef::from(&stream).connect_timeout(&to.into(), DEADLINE).expect("connect");
    // Longer than a shared machine under load may need for everything.
    stream.set_read_timeout(Some(DEADLINE * 2)).expect("a timeout");
    stream.set_write_timeout(Some(DEADLINE * 2)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    (&stream).write_all(&id.to_le_bytes()).expect("say who it is");
    stream
}

/// Waits until the peer's kernel has acknowledged everything: a reset would throw away what it has not.
pub(super) fn await_acknowledged(stream: &TcpStream) {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_le_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(v6) => panic!("the tests listen on IPv4, not on {v6}"),
    };
    let ends = format!(
        "{} {} ",
        hex(stream.local_addr().expect("connected")),
        hex(stream.peer_addr().expect("connected"))
    );
    eventually("everything is acknowledged", || {
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("procfs");
        table.lines().any(|line| line.contains(&ends) && line.contains(" 00000000:")).then_some(())
    });
}
