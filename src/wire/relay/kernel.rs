//! What the relay sees of the world: two sides, and a kernel that reads and writes for them.
//!
//! Knows: what a call may answer, what an event may say. Never: what is to be done about it.

use std::io;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client, which connected to balance.
    Client = 0,
    /// The channel, which balance connected to.
    Server = 1,
}

impl Side {
    /// The other side.
    pub fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// How many bytes were read.
    pub bytes: usize,
    /// Nothing more can be read before the end or the urgent mark, and an event will announce new data. An
    /// end or a mark that was already announced is not announced again.
    pub drained: bool,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// How many bytes were taken, at least one.
    pub bytes: usize,
    /// The side takes no more now, and an event will announce when it does.
    pub full: bool,
}

/// What the relay needs from a kernel. No call blocks. [`ErrorKind::WouldBlock`] means that the call cannot
/// be done now, and that an event announces when it can. A call that fails with [`ErrorKind::OutOfMemory`] or
/// [`ErrorKind::Interrupted`] has changed nothing and can be repeated later; no event announces when. Any
/// other error means that the side is unusable.
///
/// Only `drained` and `full` say that a side is drained or full. Fewer bytes than asked for prove neither: a
/// layer between socket and relay may split data as it likes, and keep bytes back until [`Kernel::flush`].
///
/// [`ErrorKind::WouldBlock`]: io::ErrorKind::WouldBlock
/// [`ErrorKind::OutOfMemory`]: io::ErrorKind::OutOfMemory
/// [`ErrorKind::Interrupted`]: io::ErrorKind::Interrupted
pub trait Kernel {
    /// A pipe for spliced bytes.
    type Pipe;
    /// Reads available bytes; 0 bytes mean that the side has ended its direction. A read never crosses the
    /// urgent mark.
    fn read(&mut self, side: Side, buf: &mut [u8]) -> io::Result<Input>;
    /// Writes as many bytes as fit.
    fn write(&mut self, side: Side, buf: &[u8]) -> io::Result<Output>;
    /// Writes the last bytes before an end: they may wait for [`Kernel::shutdown`] and share a segment with
    /// it.
    fn write_last(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
        self.write(side, buf)
    }
    /// Sends bytes that earlier writes to `side` have kept back. Called after the last write of a turn, and
    /// before an end.
    fn flush(&mut self, side: Side) -> io::Result<()> {
        let _ = side;
        Ok(())
    }
    /// Ends the direction towards `side`. `closes` means that the other direction has already ended, so both
    /// sockets are closed next; whatever closing signals by itself may be omitted here.
    fn shutdown(&mut self, side: Side, closes: bool) -> io::Result<()>;
    /// Is the next byte to read the urgent one?
    fn at_mark(&mut self, side: Side) -> io::Result<bool>;
    /// Sends one byte as urgent data.
    fn write_urgent(&mut self, side: Side, byte: u8) -> io::Result<()>;
    /// Takes the pending error of a side. `None` if there is none.
    fn error(&mut self, side: Side) -> Option<io::Error>;
    /// How many bytes written to `side` it has not acknowledged yet, including those kept back.
    fn unsent(&mut self, side: Side) -> usize;
    /// Called after a write failed with [`ErrorKind::WouldBlock`]: will an event announce when there is room?
    /// Not if nothing is in flight, since then nothing will be acknowledged.
    ///
    /// [`ErrorKind::WouldBlock`]: io::ErrorKind::WouldBlock
    fn will_tell_of_room(&mut self, side: Side) -> bool {
        let _ = side;
        true
    }
    /// How many bytes that `side` has sent are still unread. More than 0 if the kernel cannot tell.
    fn unread(&mut self, side: Side) -> usize {
        let _ = side;
        0
    }
    /// Says that the data towards this side is bulk. Called once per connection and direction.
    fn expect_bulk(&mut self, to: Side) {
        let _ = to;
    }
    /// Opens an empty pipe for a destination that is expected to take this many bytes. `None` if bytes have
    /// to be copied: there are no pipes on this system, few descriptors or pipe bytes are left, or the bytes
    /// have to be shown to somebody. `flows` means that the destination has shown that it takes what it is
    /// given, so more may wait for it.
    fn open_pipe(&mut self, expected: usize, flows: bool) -> Option<Self::Pipe>;
    /// Moves bytes from a side into an empty pipe, up to the pipe's size. A result of 0 bytes does not prove
    /// an end.
    fn fill(&mut self, from: Side, pipe: &mut Self::Pipe) -> io::Result<Input>;
    /// Moves up to `len` bytes from the pipe to a side.
    fn drain(&mut self, pipe: &mut Self::Pipe, to: Side, len: usize) -> io::Result<Output>;
    /// Reads all `len` bytes out of the pipe. On an error, none is read.
    fn take_out(&mut self, pipe: &mut Self::Pipe, len: usize) -> io::Result<Vec<u8>>;
    /// Takes back a pipe that still holds `held` bytes.
    fn close_pipe(&mut self, pipe: Self::Pipe, held: usize);
    /// Reports bytes that were read from a side; an empty slice means its end. Not called for spliced bytes.
    fn saw(&mut self, from: Side, bytes: &[u8]);
    /// Reports how many bytes were delivered to a side.
    fn delivered(&mut self, to: Side, bytes: usize);
}

/// What the poller reported about one side. Any of it may be stale; only a system call gives the truth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read may return bytes.
    pub readable: bool,
    /// A write may succeed.
    pub writable: bool,
    /// Urgent data is on its way.
    pub urgent: bool,
    /// The side has sent its end or is gone. The relay finds out which by reading.
    pub read_closed: bool,
    /// The side has a pending error.
    pub error: bool,
}

impl Ready {
    /// Adds what a new event reports.
    pub fn merge(&mut self, event: Self) {
        self.readable |= event.readable || event.read_closed || event.error;
        self.writable |= event.writable || event.error;
        self.urgent |= event.urgent;
        self.read_closed |= event.read_closed || event.error;
        self.error |= event.error;
    }
}
