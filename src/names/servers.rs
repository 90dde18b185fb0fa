//! The name servers of the process, and the sockets for queries to them.
//!
//! Knows: `--dns`, the servers of `/etc/resolv.conf`, sockets. Never: what is queried when, what an answer
//! means.
//! Source: docs/names.md, "Ask name servers directly".

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::book::{NameAnswer, ToldName};
use super::stub::{Exchange, Stub};
use crate::spec::is_service_name;
use crate::wire::dns::{DnsFrames, dns_frame};

/// Where the system lists its name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How many of those are used, as the C library does (`MAXNS`).
const MOST_SERVERS: usize = 3;
/// The port of name servers.
const PORT: u16 = 53;
/// Least time a socket is read, even after the deadline, so that an answer that is already there counts.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// The servers of `--dns`; empty if it is not given.
static SERVERS: RwLock<Vec<SocketAddr>> = RwLock::new(Vec::new());

/// Makes all later lookups use these servers. Empty: the system's resolver.
pub fn ask_servers(servers: &[SocketAddr]) {
    *SERVERS.write().unwrap_or_else(PoisonError::into_inner) = servers.to_vec();
}

/// Does the resolver of this name report how long an answer is valid?
pub(super) fn tell_how_long(name: &str) -> bool {
    is_service_name(name) || !own().is_empty()
}

/// What the servers of `--dns` say about a name. `None`: there are none. With `names_server`, a failure or an
/// absence says which server reported it, even if there is only one.
pub(super) fn addresses(name: &str, names_server: bool) -> Option<ToldName> {
    let servers = own();
    if servers.is_empty() {
        return None;
    }
    let local = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if local == "localhost" || local.ends_with(".localhost") {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        return Some(NameAnswer::Found(loopback.map(|ip| SocketAddr::new(ip, 0)).to_vec()).into());
    }
    Some(asking(&servers, names_server).addresses(name))
}

fn asking(servers: &[SocketAddr], names_server: bool) -> Stub<'_, ServerSockets> {
    let stub = Stub::new(servers, ServerSockets::new());
    if names_server { stub.naming_server() } else { stub }
}

/// What those servers, or else the system's servers, say about a service name. `names_server` as above.
pub(super) fn service(name: &str, names_server: bool) -> ToldName {
    let servers = match own() {
        servers if servers.is_empty() => systems(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
        servers => servers,
    };
    asking(&servers, names_server).service(name)
}

/// Which servers the system's resolver asks, for a message about its failure. Its own words do not say that.
pub(super) fn called() -> String {
    match std::fs::read_to_string(RESOLV_CONF) {
        Ok(text) => called_in(&text),
        Err(error) => format!("cannot read {RESOLV_CONF}: {error}"),
    }
}

fn called_in(text: &str) -> String {
    match &listed(text)[..] {
        [] => format!("no name server in {RESOLV_CONF}"),
        [one] => format!("name server {}", one.ip()),
        all => {
            let all: Vec<String> = all.iter().map(|server| server.ip().to_string()).collect();
            format!("name servers {}", all.join(", "))
        }
    }
}

fn own() -> Vec<SocketAddr> {
    SERVERS.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The servers in a text like `/etc/resolv.conf`. If it names none: the one on this machine.
fn systems(text: &str) -> Vec<SocketAddr> {
    let found = listed(text);
    if found.is_empty() { vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)] } else { found }
}

/// The servers that such a text names.
fn listed(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    };
    text.lines().filter_map(server).take(MOST_SERVERS).map(|ip| SocketAddr::new(ip, PORT)).collect()
}

/// Sends each query from a socket of its own, with a random port that the system chooses.
struct ServerSockets {
    begun: Instant,
    random: RandomState,
    asked: u64,
}

impl ServerSockets {
    fn new() -> Self {
        Self { begun: Instant::now(), random: RandomState::new(), asked: 0 }
    }

    fn left(&self, until: Duration) -> Duration {
        until.saturating_sub(self.begun.elapsed()).max(LAST_LOOK)
    }

    fn is_over(&self, until: Duration) -> bool {
        self.begun.elapsed() >= until
    }
}

impl Exchange for ServerSockets {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn secret(&mut self) -> u16 {
        self.asked += 1;
        // A keyed hash whose key comes from the system's random source.
        (self.random.hash_one(self.asked) >> 48) as u16
    }

    fn by_datagram(
        &mut self,
        server: SocketAddr,
        message: &[u8],
        until: Duration,
        is_ours: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let any =
            if server.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        // A connected socket receives only from this server.
        socket.connect(server)?;
        socket.send(message)?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let is_last = self.is_over(until);
            socket.set_read_timeout(Some(self.left(until)))?;
            match socket.recv(&mut buffer) {
                Ok(length) if is_ours(&buffer[..length]) => return Ok(Some(buffer[..length].to_vec())),
                Ok(_) => {}
                Err(error) if is_patience(&error) => {}
                Err(error) => return Err(error),
            }
            if is_last {
                return Ok(None);
            }
        }
    }

    fn by_stream(
        &mut self,
        server: SocketAddr,
        message: &[u8],
        until: Duration,
        is_ours: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut stream = TcpStream::connect_timeout(&server, self.left(until))?;
        stream.set_write_timeout(Some(self.left(until)))?;
        stream.write_all(&dns_frame(message))?;
        let (mut frames, mut buffer) = (DnsFrames::default(), [0; 4096]);
        loop {
            let is_last = self.is_over(until);
            stream.set_read_timeout(Some(self.left(until)))?;
            match stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => frames.add(&buffer[..length]),
                Err(error) if is_patience(&error) => {}
                Err(error) => return Err(error),
            }
            while let Some(message) = frames.take() {
                if is_ours(&message) {
                    return Ok(Some(message));
                }
            }
            if is_last {
                return Ok(None);
            }
        }
    }
}

fn is_patience(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_servers_are_those_of_its_file() {
        let text = "# nameserver 9.9.9.9\nsearch corp\nnameserver 10.0.0.1\nnameserver\t::1\nnameserver x\nnameserver 10.0.0.2 # a\n\
                    nameserver 10.0.0.3\n";
        let told: Vec<String> = systems(text).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"]);
        assert_eq!(systems("")[0].to_string(), "127.0.0.1:53");
        assert_eq!(called_in(text), "name servers 10.0.0.1, ::1, 10.0.0.2");
        assert_eq!(called_in("nameserver 10.0.0.1\n"), "name server 10.0.0.1");
        assert_eq!(called_in("search corp\n"), "no name server in /etc/resolv.conf");
    }

    #[test]
    fn numbers_of_questions_are_left_to_chance() {
        let ids = |()| {
            let mut sockets = ServerSockets::new();
            (0..64).map(|_| sockets.secret()).collect::<std::collections::BTreeSet<u16>>()
        };
        let (one, other) = (ids(()), ids(()));
        assert!(one.len() > 50 && one != other);
    }
}
