//! The client's side of a test, in verbs.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use socket2::{Domain, SockRef, Socket, Type};

use super::{DEADLINE, eventually, payload::Stream, uninterrupted};

/// How a connection ended for its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    /// A clean end.
    End,
    /// A reset.
    Reset,
}

/// One connection, with a deadline on everything it waits for.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    #[track_caller]
    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self::try_connect(to, None, None).unwrap_or_else(|e| panic!("connect to {to}: {e}"))
    }

    /// Wraps the other end of a connection, with the same deadline.
    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self(stream)
    }

    /// Connects from this source address.
    #[track_caller]
    pub(crate) fn connect_from(from: impl Into<IpAddr>, to: SocketAddr) -> Self {
        let from = from.into();
        Self::try_connect(to, Some(from), None).unwrap_or_else(|e| panic!("connect from {from} to {to}: {e}"))
    }

    /// Connects from this port of 127.0.0.1. For a network namespace of the test's own, where ports are
    /// scarce.
    #[track_caller]
    pub(crate) fn connect_by(port: u16, to: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("a free port");
        socket.connect(&to.into()).unwrap_or_else(|e| panic!("connect to {to}: {e}"));
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self(socket.into())
    }

    /// Connects with a small receive buffer: a reader that makes the other side wait.
    #[track_caller]
    pub(crate) fn connect_narrow(to: SocketAddr) -> Self {
        Self::try_connect(to, None, Some(4096)).unwrap_or_else(|e| panic!("connect to {to}: {e}"))
    }

    pub(crate) fn try_connect(
        to: SocketAddr,
        from: Option<IpAddr>,
        rcvbuf: Option<usize>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        if let Some(bytes) = rcvbuf {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.connect_timeout(&to.into(), DEADLINE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("send");
    }

    /// Sends the stream's bytes from 0 to `length`.
    #[track_caller]
    pub(crate) fn send_stream(&mut self, stream: Stream, length: u64) {
        let mut at = 0;
        while at < length {
            let chunk = stream.bytes(at, (length - at).min(64 << 10) as usize);
            self.send(&chunk);
            at += chunk.len() as u64;
        }
    }

    /// Receives the stream's bytes from 0 to `length` and checks each.
    #[track_caller]
    pub(crate) fn recv_stream(&mut self, stream: Stream, length: u64) {
        let mut at = 0;
        let mut buffer = vec![0; 64 << 10];
        while at < length {
            let room = (length - at).min(buffer.len() as u64) as usize;
            let got =
                self.read(&mut buffer[..room]).unwrap_or_else(|e| panic!("at byte {at} of {length}: {e}"));
            assert!(got > 0, "the end after {at} of {length} bytes");
            stream.check(at, &buffer[..got]);
            at += got as u64;
        }
    }

    /// Receives some bytes; none at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(buffer))
    }

    /// Waits for some bytes and leaves them where they are.
    pub(crate) fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.peek(buffer))
    }

    /// Receives exactly this many bytes.
    #[track_caller]
    pub(crate) fn recv(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("receive");
        bytes
    }

    /// Receives everything up to the end, which must be clean.
    #[track_caller]
    pub(crate) fn recv_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).expect("receive to the end");
        bytes
    }

    /// Waits for the end and returns its kind; bytes before it are discarded.
    #[track_caller]
    pub(crate) fn ending(&mut self) -> Received {
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Received::End,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Received::Reset,
                Err(e) => panic!("waiting for the end: {e}"),
            }
        }
    }

    /// True if nothing, not even an end, arrives within this time. The one wait that cannot be a deadline,
    /// since it is for something that must not happen.
    pub(crate) fn is_quiet_for(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let quiet = loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).expect("a timeout");
            match self.0.peek(&mut [0]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break true,
                _ => break false,
            }
        };
        self.0.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        quiet
    }

    #[track_caller]
    pub(crate) fn shut_wr(&self) {
        self.0.shutdown(Shutdown::Write).expect("half-close");
    }

    /// Closes with a reset.
    pub(crate) fn rst(self) {
        SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).expect("linger");
    }

    /// Sends one urgent byte.
    #[track_caller]
    pub(crate) fn send_urgent(&self, byte: u8) {
        assert_eq!(SockRef::from(&self.0).send_out_of_band(&[byte]).expect("send urgent"), 1);
    }

    /// Receives one urgent byte.
    #[track_caller]
    pub(crate) fn recv_urgent(&self) -> u8 {
        eventually("an urgent byte", || {
            let mut byte = [0];
            match rustix::net::recv(&self.0, &mut byte, RecvFlags::OOB) {
                Ok((1.., _)) => Some(byte[0]),
                // EINVAL: none has been announced yet.
                _ => None,
            }
        })
    }
}
