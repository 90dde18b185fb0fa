//! The relay's kernel on real sockets: two descriptors, the worker's pipes, the counters.
//!
//! Knows: which descriptor belongs to which side, where bytes are counted. Never: what to do next.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::observe::{Direction, Dump, TapSource};
use crate::sched::{FirstByte, Slot};
use crate::sys::Clock;
use crate::sys::socket;
use crate::sys::splice::{self, Pipe, Pipes};
use crate::wire::relay::{Input, Kernel, Output, Side};

/// One connection's sockets, for the length of a turn.
pub(super) struct Sockets<'a> {
    pub(super) client: BorrowedFd<'a>,
    pub(super) server: BorrowedFd<'a>,
    pub(super) pipes: &'a mut Pipes,
    pub(super) slot: &'a Slot,
    /// The worker's number, for the counters.
    pub(super) shard: usize,
    pub(super) dump: Option<&'a Dump>,
    /// The taps of this connection.
    pub(super) taps: Option<&'a mut [TapSource]>,
    /// The congestion control algorithm for bulk data within this host. `None`: the system's default.
    pub(super) loopback_congestion: Option<&'a str>,
    /// Set while the server's first byte has not come: the channel has answered when it comes, before any
    /// client could notice.
    pub(super) first_byte: Option<AwaitedByte>,
    /// Bytes delivered to the client and to the server.
    pub(super) delivered: &'a mut [u64; 2],
}

/// A first byte that has not come yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct AwaitedByte {
    pub(super) clock: Clock,
    /// It is later than `--first-byte` allows.
    pub(super) is_late: bool,
}

impl Sockets<'_> {
    fn fd(&self, side: Side) -> BorrowedFd<'_> {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }
}

impl Kernel for Sockets<'_> {
    type Pipe = Box<Pipe>;

    fn read(&mut self, side: Side, buf: &mut [u8]) -> io::Result<Input> {
        let bytes = socket::read(self.fd(side), buf)?;
        // A stream socket returns everything that it has.
        Ok(Input { bytes, drained: bytes < buf.len() })
    }
    fn write(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
        let bytes = socket::write(self.fd(side), buf)?;
        // The socket takes as much as it has room for.
        Ok(Output { bytes, full: bytes < buf.len() })
    }
    fn write_last(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
        let bytes = socket::write_more(self.fd(side), buf)?;
        Ok(Output { bytes, full: bytes < buf.len() })
    }
    fn shutdown(&mut self, side: Side, closes: bool) -> io::Result<()> {
        // Closing a socket ends its direction, too.
        if closes { Ok(()) } else { socket::shutdown_write(self.fd(side)) }
    }
    fn will_tell_of_room(&mut self, side: Side) -> bool {
        socket::will_tell_of_room(self.fd(side))
    }
    fn at_mark(&mut self, side: Side) -> io::Result<bool> {
        socket::at_mark(self.fd(side))
    }
    fn write_urgent(&mut self, side: Side, byte: u8) -> io::Result<()> {
        socket::write_urgent(self.fd(side), byte)
    }
    fn error(&mut self, side: Side) -> Option<io::Error> {
        socket::take_error(self.fd(side))
    }
    fn unsent(&mut self, side: Side) -> usize {
        socket::unsent(self.fd(side))
    }
    fn unread(&mut self, side: Side) -> usize {
        socket::unread(self.fd(side))
    }
    fn expect_bulk(&mut self, to: Side) {
        if let Some(name) = self.loopback_congestion {
            socket::take_to_loopback(self.fd(to), name);
        }
    }
    fn open_pipe(&mut self, expected: usize, flows: bool) -> Option<Self::Pipe> {
        // Spliced bytes cannot be shown, so a dump or tap needs copies.
        if self.dump.is_some() || self.taps.is_some() { None } else { self.pipes.take(expected, flows) }
    }
    fn fill(&mut self, from: Side, pipe: &mut Self::Pipe) -> io::Result<Input> {
        // A pipe is full when all its pages are in use, however few bytes are in each.
        Ok(Input { bytes: splice::fill(self.fd(from), pipe)?, drained: false })
    }
    fn drain(&mut self, pipe: &mut Self::Pipe, to: Side, len: usize) -> io::Result<Output> {
        // A splice may stop between two pages.
        Ok(Output { bytes: splice::drain(pipe, self.fd(to).as_fd(), len)?, full: false })
    }
    fn take_out(&mut self, pipe: &mut Self::Pipe, len: usize) -> io::Result<Vec<u8>> {
        splice::take_out(pipe, len)
    }
    fn close_pipe(&mut self, pipe: Self::Pipe, held: usize) {
        self.pipes.give(pipe, held);
    }
    fn saw(&mut self, from: Side, bytes: &[u8]) {
        if from == Side::Server
            && !bytes.is_empty()
            && let Some(AwaitedByte { clock, is_late }) = self.first_byte.take()
        {
            let is_unasked = self.delivered[Side::Server as usize] == 0;
            self.slot.answered(clock.now(), FirstByte { is_late, is_unasked });
        }
        let direction = match from {
            Side::Client => Direction::Sent,
            Side::Server => Direction::Rcvd,
        };
        if let Some(dump) = self.dump {
            dump.chunk(direction, bytes);
        }
        if let Some(taps) = &mut self.taps {
            taps.iter_mut().for_each(|tap| tap.saw(direction, bytes));
        }
    }
    fn delivered(&mut self, to: Side, bytes: usize) {
        let bytes = bytes as u64;
        self.delivered[to as usize] += bytes;
        match to {
            Side::Server => self.slot.add_sent(self.shard, bytes),
            Side::Client => self.slot.add_rcvd(self.shard, bytes),
        }
    }
}
