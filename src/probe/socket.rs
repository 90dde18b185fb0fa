//! One probe's socket: connecting, talking, and closing without a reset.
//!
//! Knows: the socket and its place in the budget. Never: which probe it is for, what is said on it, the
//! clock.
//!
//! Closing a socket with unread bytes sends a reset, and a reset is a line in the server's log. So when a
//! probe has its verdict, it ends its own direction and reads until the server ends the other one, within
//! limits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::fault::Fault;
use crate::spec::Address;
use crate::sys::descriptors::{Budget, Taken};
use crate::sys::fault::reason;
use crate::sys::socket::{self, HandshakeAck, Outgoing};
use crate::wire::talk::Talk;

/// How much is read for the sake of a clean end, in bytes. Most pages that are requested by HTTP are shorter.
const FAREWELL: usize = 1_024 * 1_024;
/// How much is read at once while the socket is being closed, in bytes.
const SIP: usize = 4_096;

/// The socket of a probe.
#[derive(Debug)]
pub(super) struct ProbeSocket {
    fd: OwnedFd,
    /// The server has sent its end.
    is_ended: bool,
    /// The server has reset the connection; bytes may be left to read.
    is_reset: bool,
    /// How many bytes may still be read after the verdict.
    farewell_bytes: usize,
    _taken: Taken,
}

impl ProbeSocket {
    /// Starts a connection.
    pub(super) fn begin(target: Address, how: &Outgoing, budget: &Arc<Budget>) -> Result<Self, Fault> {
        let Some(taken) = budget.take(1) else {
            return Err(Fault::Exhausted("connect: no descriptor is left".into()));
        };
        let fd = socket::connect(target, how, HandshakeAck::AtOnce).map_err(|e| Fault::of_start(&e))?;
        Ok(Self { fd, is_ended: false, is_reset: false, farewell_bytes: FAREWELL, _taken: taken })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The local address.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        socket::local(&self.fd)
    }

    /// Why the connection was not established, if that is known by now.
    pub(super) fn failure(&mut self) -> Option<Fault> {
        match socket::take_error(&self.fd) {
            // A connect that fails is refused, not reset. So after a reset the connection was established,
            // and what the server sent before can still be read.
            Some(error) if is_reset(&error) => self.is_reset = true,
            Some(error) => return Some(Fault::of_connect(&error)),
            None => {}
        }
        // Otherwise a dead server would count as up.
        if socket::is_to_itself(&self.fd) {
            // The connection must not keep the port that the server may want.
            socket::reset_on_close(&self.fd);
            return Some(Fault::Channel("connect: connection refused".into()));
        }
        None
    }

    /// Sends and receives as much as is possible now. Returns a verdict if there is one.
    pub(super) fn converse(&mut self, talk: &mut Talk, scratch: &mut [u8]) -> Option<Result<(), String>> {
        loop {
            if let Some(verdict) = self.say(talk) {
                return Some(verdict);
            }
            if self.is_ended {
                return None;
            }
            let verdict = match socket::read(&self.fd, scratch) {
                Ok(0) => {
                    self.is_ended = true;
                    talk.ended(if self.is_reset { "reset" } else { "closed" })
                }
                Ok(count) => talk.heard(&scratch[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => None,
                Err(e) => {
                    self.is_ended = true;
                    talk.ended(&failure(&e))
                }
            };
            if verdict.is_some() {
                return verdict;
            }
        }
    }

    fn say(&self, talk: &mut Talk) -> Option<Result<(), String>> {
        while !talk.outgoing().is_empty() {
            let verdict = match socket::write(&self.fd, talk.outgoing()) {
                Ok(count) => talk.sent(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => None,
                Err(_) if self.is_reset => talk.unsendable("reset"),
                Err(e) => talk.unsendable(&failure(&e)),
            };
            if verdict.is_some() {
                return verdict;
            }
        }
        None
    }

    /// Ends our direction. `false`: the socket can be closed at once.
    pub(super) fn part(&mut self, scratch: &mut [u8]) -> bool {
        socket::shutdown_write(&self.fd).is_ok() && self.linger(scratch)
    }

    /// Reads and discards what has come. `false`: the server has ended, or enough was read.
    pub(super) fn linger(&mut self, scratch: &mut [u8]) -> bool {
        while !self.is_ended && self.farewell_bytes > 0 {
            match socket::read(&self.fd, scratch) {
                Ok(0) => self.is_ended = true,
                Ok(count) => self.farewell_bytes = self.farewell_bytes.saturating_sub(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.is_ended = true,
            }
        }
        false
    }
}

impl Drop for ProbeSocket {
    /// A socket that is closed early is at least not closed with unread bytes that have already come.
    fn drop(&mut self) {
        self.linger(&mut [0; SIP]);
    }
}

/// Did a peer reset a connection that was established?
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// How a talk was cut short, as the first word of a cause.
fn failure(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "reset".into(),
        io::ErrorKind::BrokenPipe => "closed".into(),
        _ => reason(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use super::*;
    use crate::sys::descriptors::LEAST;

    fn pair(budget: &Arc<Budget>) -> (ProbeSocket, std::net::TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let target = listener.local_addr().expect("it is bound");
        let link =
            ProbeSocket::begin(target.into(), &Outgoing::default(), budget).expect("a connection begins");
        let (server, _) = listener.accept().expect("it comes");
        server.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        (link, server)
    }

    #[test]
    fn a_link_gives_its_descriptor_back() {
        let budget = Budget::new(LEAST + 1, 0);
        let (first, _server) = pair(&budget);
        let second = budget.take(2).expect("two are left");
        let full = ProbeSocket::begin(([127, 0, 0, 1], 1).into(), &Outgoing::default(), &budget);
        assert!(matches!(full, Err(Fault::Exhausted(_))));
        drop((first, second));
        assert!(budget.take(3).is_some());
    }

    #[test]
    fn unread_bytes_do_not_make_a_reset_of_an_early_close() {
        let (link, mut server) = pair(&Budget::new(64, 0));
        server.write_all(b"220 welcome\r\n").expect("it is taken");
        // The bytes are there as soon as the write is over: both ends are in this kernel.
        drop(link);
        assert_eq!(server.read(&mut [0; 8]).expect("an end, not a reset"), 0);
    }

    #[test]
    fn a_farewell_is_bounded() {
        let (mut link, mut server) = pair(&Budget::new(64, 0));
        let mut scratch = [0; SIP];
        assert!(link.part(&mut scratch), "the server has not ended yet");
        assert_eq!(server.read(&mut [0; 8]).expect("an end"), 0);
        let mut left = 2 * FAREWELL / SIP;
        while link.linger(&mut scratch) {
            assert!(left > 0, "it reads for ever");
            left -= 1;
            server.write_all(&[0; SIP]).expect("it is taken");
        }
    }

    #[test]
    fn a_connection_to_itself_is_nobody() {
        let new = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.expect("a socket");
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
            socket
        };
        let socket = new();
        let own = socket.local_addr().expect("it is bound");
        // Not every system does this; where it does not, there is nothing to see through.
        if socket.connect(&own).is_err() {
            return;
        }
        socket.set_nonblocking(true).expect("a flag");
        let taken = Budget::new(64, 0).take(1).expect("one is left");
        let mut link = ProbeSocket {
            fd: socket.into(),
            is_ended: false,
            is_reset: false,
            farewell_bytes: FAREWELL,
            _taken: taken,
        };
        assert_eq!(link.failure(), Some(Fault::Channel("connect: connection refused".into())));
        let (mut link, _server) = pair(&Budget::new(64, 0));
        assert_eq!(link.failure(), None);
    }
}
