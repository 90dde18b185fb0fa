//! The decisions of one connection's relay: what to read, deliver, end and reset, and when to sleep.
//!
//! Knows: two sides, what is held for each, how each direction ends. It sees the kernel only through [`Kernel`], which real
//! sockets (`sockets.rs`) and the simulator's virtual kernel both implement.
//! Never: groups, policy, operators, timers, descriptors.
//! Source: docs/compatibility.md, "Moving data".

use std::io::{self, ErrorKind};

use super::pace::Pace;
pub use super::pace::{LITTLE, PIPE_BYTES};

mod carried;

/// Reads of one turn and direction before other connections get theirs.
const TURN: usize = 16;
/// A large splice moves as much as several reads: so many more than one.
const SPLICE_MORE: usize = 3;
/// So many reads in a row that fill the buffer make a direction bulk.
const BULK_AFTER: u8 = 2;
/// A splice below this many bytes is small, ...
const SMALL_SPLICE: usize = 16 * 1024;
/// ... and so many small ones in a row make a direction copy again.
const SMALL_ENOUGH: u8 = 4;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client = 0,
    /// The channel we connected to.
    Server = 1,
}

impl Side {
    /// The other one.
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
    /// So many bytes were read.
    pub bytes: usize,
    /// Nothing more is there before the end or the urgent mark, and an event will tell of what comes. Of an end or a mark
    /// that was announced already, no other event tells.
    pub drained: bool,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// So many bytes were taken, at least one.
    pub bytes: usize,
    /// No more are taken now, and an event will tell when more are.
    pub full: bool,
}

/// What the relay needs of a kernel. Nothing blocks: what cannot be done now is [`ErrorKind::WouldBlock`], and an event
/// tells when it can. What fails by [`ErrorKind::OutOfMemory`] or [`ErrorKind::Interrupted`] has changed nothing and can be
/// done later, and no event tells when. Any other error means that the side is of no use any more.
///
/// It says itself when it is drained and when it is full. Fewer bytes than asked for prove neither: what stands between a
/// socket and the relay may cut as it likes, and keep bytes back until [`Kernel::flush`].
pub trait Kernel {
    /// A pipe that holds spliced bytes.
    type Pipe;
    /// Reads what is there; 0 bytes = the side ended its direction. A read never crosses the urgent mark.
    fn read(&mut self, side: Side, buf: &mut [u8]) -> io::Result<Input>;
    /// Writes what fits.
    fn write(&mut self, side: Side, buf: &[u8]) -> io::Result<Output>;
    /// Writes the last bytes before an end: they may wait for [`Kernel::shutdown`] and share a segment with it.
    fn write_last(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
        self.write(side, buf)
    }
    /// Sends what writes to `side` have left behind on the way. Comes after the last write of a turn, and before an end.
    fn flush(&mut self, side: Side) -> io::Result<()> {
        let _ = side;
        Ok(())
    }
    /// Sends the end of the direction towards `side`. `closes`: the other direction has ended, so that both sockets are
    /// closed next, and whatever that says by itself need not be said here.
    fn shutdown(&mut self, side: Side, closes: bool) -> io::Result<()>;
    /// Is the next byte to read the urgent one?
    fn at_mark(&mut self, side: Side) -> io::Result<bool>;
    /// Sends one byte as urgent.
    fn write_urgent(&mut self, side: Side, byte: u8) -> io::Result<()>;
    /// The error that is pending on a side, taken from it.
    fn error(&mut self, side: Side) -> Option<io::Error>;
    /// Bytes written to `side` that it has not acknowledged yet, those kept back included.
    fn unsent(&mut self, side: Side) -> usize;
    /// A write was refused by [`ErrorKind::WouldBlock`]: will an event tell when there is room? Where nothing is on its way,
    /// nothing will be acknowledged.
    fn will_tell_of_room(&mut self, side: Side) -> bool {
        let _ = side;
        true
    }
    /// Bytes that `side` has sent and nobody has read yet. More than none if the kernel cannot tell.
    fn unread(&mut self, side: Side) -> usize {
        let _ = side;
        0
    }
    /// What goes to this side has turned out to be bulk. Said once for a connection and direction.
    fn expect_bulk(&mut self, to: Side) {
        let _ = to;
    }
    /// An empty pipe for a destination that is expected to take so many bytes, or `None` if bytes have to be copied (no pipes
    /// here, few descriptors or bytes of pipes left, somebody is to see them). `flows`: it has shown that it takes what it is given, so
    /// more may wait for it.
    fn open_pipe(&mut self, expected: usize, flows: bool) -> Option<Self::Pipe>;
    /// Moves bytes from a side into an empty pipe, as many as it is for. 0 is not proof of an end.
    fn fill(&mut self, from: Side, pipe: &mut Self::Pipe) -> io::Result<Input>;
    /// Moves up to `len` bytes out of the pipe to a side.
    fn drain(&mut self, pipe: &mut Self::Pipe, to: Side, len: usize) -> io::Result<Output>;
    /// Reads all `len` bytes out of the pipe. All of them or, with an error, none.
    fn take_out(&mut self, pipe: &mut Self::Pipe, len: usize) -> io::Result<Vec<u8>>;
    /// Takes a pipe back, with the bytes still inside.
    fn close_pipe(&mut self, pipe: Self::Pipe, held: usize);
    /// Bytes were read from a side (empty = its end). Not called for spliced bytes.
    fn saw(&mut self, from: Side, bytes: &[u8]);
    /// Bytes were delivered to a side.
    fn delivered(&mut self, to: Side, bytes: usize);
}

/// What the poller said of one side. All of it may be stale; only a system call knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read may give something.
    pub readable: bool,
    /// A write may be taken.
    pub writable: bool,
    /// Urgent data is on its way.
    pub urgent: bool,
    /// The side has sent its end, or is gone: this is to be read, too.
    pub read_closed: bool,
    /// The side has an error pending.
    pub error: bool,
}

impl Ready {
    /// Adds what a new event says.
    pub fn merge(&mut self, event: Self) {
        self.readable |= event.readable || event.read_closed || event.error;
        self.writable |= event.writable || event.error;
        self.urgent |= event.urgent;
        self.read_closed |= event.read_closed || event.error;
        self.error |= event.error;
    }
}

/// What the caller does after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do before the next event.
    Sleep,
    /// There is more to do now, but others come first.
    Again,
    /// There is something to do that no event tells of: one side is gone and the other has not yet acknowledged all that was
    /// written to it, or the kernel is out of memory. Ask again a little later.
    Later,
    /// The server has ended, and nothing has been delivered in either direction: is that to be passed on? Only after
    /// [`Relay::ask_about_end`]. The caller says so by [`Relay::accept_end`], or changes the server.
    Ask {
        /// It has ended by being gone, rather than by an orderly end.
        is_reset: bool,
    },
    /// It is over.
    Done(Ending),
}

/// How to close the two sockets: `true` = with a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Reset the client's side.
    pub reset_client: bool,
    /// Reset the server's side.
    pub reset_server: bool,
}

/// How far one direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlowStage {
    /// The source may send more.
    Open,
    /// The source has ended; what is held goes out first, then the end.
    Draining,
    /// The end was passed on.
    Ended,
    /// The destination is gone: nothing can be delivered any more.
    Dropped,
}

/// What one direction holds between two turns. An idle connection holds nothing.
#[derive(Debug)]
enum Held<P> {
    Nothing,
    Bytes {
        bytes: Box<[u8]>,
        at: u32,
        /// So many of the bytes, from the first one on, are ours and not the source's: a header in front.
        lead: u16,
    },
    Pipe {
        pipe: P,
        len: u32,
    },
}

impl<P> Held<P> {
    /// Bytes of the source, those in front of them being of ours.
    fn bytes(bytes: Box<[u8]>, lead: usize) -> Self {
        Self::Bytes { bytes, at: 0, lead: u16::try_from(lead).unwrap_or(u16::MAX) }
    }

    /// How many bytes are held, and how many of them are ours.
    fn count(&self) -> (usize, usize) {
        match self {
            Self::Nothing => (0, 0),
            Self::Bytes { bytes, at, lead } => {
                (bytes.len() - *at as usize, usize::from(*lead).saturating_sub(*at as usize))
            }
            Self::Pipe { len, .. } => (*len as usize, 0),
        }
    }

    /// What goes in front of the source's first bytes, while none of it is sent and none of those was read.
    fn lead(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes { bytes, at: 0, lead } if bytes.len() == usize::from(*lead) => Some(bytes),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Flow<P> {
    held: Held<P>,
    urgent: Option<u8>,
    /// What is held came before the relay began, and was not told of.
    untold: bool,
    /// Something was written and not flushed.
    unflushed: bool,
    stage: FlowStage,
    splicing: bool,
    /// [`Kernel::expect_bulk`] was told.
    is_bulk: bool,
    /// What was read last may have ended at the urgent mark.
    is_mark_near: bool,
    /// Full reads in a row while copying, small splices in a row while splicing.
    streak: u8,
    pace: Pace,
}

impl<P> Flow<P> {
    fn new() -> Self {
        Self {
            held: Held::Nothing,
            urgent: None,
            is_mark_near: false,
            untold: false,
            unflushed: false,
            stage: FlowStage::Open,
            splicing: false,
            is_bulk: false,
            streak: 0,
            pace: Pace::default(),
        }
    }

    fn holds_data(&self) -> bool {
        self.urgent.is_some()
            || match self.held {
                Held::Nothing => false,
                Held::Bytes { .. } => true,
                Held::Pipe { len, .. } => len > 0,
            }
    }

    /// Does anything still wait to be delivered, here or further on?
    fn is_waiting(&self) -> bool {
        self.unflushed || self.holds_data()
    }
}

/// Which side ended first, and whether by being gone. In one byte: there are many connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstEnd {
    Nobody,
    Client,
    ClientGone,
    Server,
    ServerGone,
}

impl FirstEnd {
    fn of(end: Option<(Side, bool)>) -> Self {
        match end {
            None => Self::Nobody,
            Some((Side::Client, false)) => Self::Client,
            Some((Side::Client, true)) => Self::ClientGone,
            Some((Side::Server, false)) => Self::Server,
            Some((Side::Server, true)) => Self::ServerGone,
        }
    }
}

/// What stopped a direction's turn.
enum Stop {
    /// An event has to come first, or there is nothing left to do.
    Wait,
    /// Its turn is over.
    Turn,
    /// This side is gone.
    Gone(Side),
    /// The server has ended its direction, and that is to be asked about.
    Ask,
}

/// One connection's relay.
#[derive(Debug)]
pub struct Relay<P> {
    /// `flows[s]` carries bytes from side `s` to the other.
    flows: [Flow<P>; 2],
    /// What is known of each side.
    ready: [Ready; 2],
    /// Which sides are gone.
    gone: [bool; 2],
    /// What `is_half_closed` says.
    half_closed: bool,
    /// What `first_end` says.
    first_end: FirstEnd,
    /// What `is_short` says.
    short: bool,
    /// Nothing has been delivered in either direction, and an end of the server is asked about.
    asks: bool,
}

impl<P> Default for Relay<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> Relay<P> {
    /// A relay between two connected sides of which nothing is known yet but that they take a write.
    pub fn new() -> Self {
        let ready = Ready { writable: true, ..Ready::default() };
        Self {
            flows: [Flow::new(), Flow::new()],
            ready: [ready; 2],
            gone: [false; 2],
            half_closed: false,
            first_end: FirstEnd::Nobody,
            short: false,
            asks: false,
        }
    }

    /// From now on, and until the first byte has been delivered in either direction, an end of the server is asked about
    /// ([`Verdict::Ask`]) before it is passed on. What cannot be written to a server that is gone is held until then.
    pub fn ask_about_end(&mut self) {
        self.asks = true;
    }

    /// The end that was asked about is passed on: the next turn does so.
    pub fn accept_end(&mut self, is_reset: bool) {
        self.asks = false;
        if is_reset {
            // No pipe is opened before bytes were delivered.
            let _ = self.give_up(Side::Server);
        }
    }

    /// Bytes of this side that came before the relay began: they go out first. To be called before the first turn, and once.
    pub fn hold(&mut self, from: Side, bytes: Box<[u8]>) {
        let flow = &mut self.flows[from as usize];
        debug_assert!(!flow.holds_data(), "it holds something");
        // What comes next may be the urgent byte.
        flow.is_mark_near = true;
        if !bytes.is_empty() {
            (flow.held, flow.untold) = (Held::bytes(bytes, 0), true);
        }
    }

    /// The bytes that [`Relay::hold`] was given, as long as the relay has not begun.
    pub fn held_of(&self, from: Side) -> &[u8] {
        match &self.flows[from as usize].held {
            // Without what is ours in front of them.
            Held::Bytes { bytes, lead, .. } => bytes.get(usize::from(*lead)..).unwrap_or_default(),
            Held::Nothing | Held::Pipe { .. } => &[],
        }
    }

    /// The bytes that [`Relay::hold`] was given, if the relay has not begun.
    pub fn let_go(&mut self, from: Side) -> Box<[u8]> {
        let flow = &mut self.flows[from as usize];
        match std::mem::replace(&mut flow.held, Held::Nothing) {
            Held::Bytes { bytes, .. } => bytes,
            other => {
                flow.held = other;
                Box::default()
            }
        }
    }

    /// Has nothing come from the server, and nothing of the client's been lost? Then, if nothing was delivered to it either, it can be
    /// left for another one.
    pub fn is_fresh(&self) -> bool {
        let [from_client, from_server] = &self.flows;
        // An end of the client's goes to the next one as well, behind what was said.
        let is_to_hear = match from_client.stage {
            FlowStage::Open => true,
            FlowStage::Draining => from_client.holds_data(),
            FlowStage::Ended | FlowStage::Dropped => false,
        };
        is_to_hear
            && from_client.urgent.is_none()
            && from_server.stage == FlowStage::Open
            && !from_server.is_waiting()
            && self.gone == [false; 2]
    }

    /// The server is another one from here on. What is known and held of the client stays.
    pub fn change_server(&mut self) {
        self.flows[Side::Server as usize] = Flow::new();
        let from_client = &mut self.flows[Side::Client as usize];
        from_client.unflushed = false;
        // What goes in front is of this connection, and the next one has its own.
        if let Held::Bytes { bytes, lead: lead @ 1.., .. } = &from_client.held {
            let own = bytes.get(usize::from(*lead)..).unwrap_or_default();
            from_client.held = if own.is_empty() { Held::Nothing } else { Held::bytes(own.into(), 0) };
        }
        self.ready[Side::Server as usize] = Ready { writable: true, ..Ready::default() };
        (self.short, self.asks) = (false, false);
    }

    /// Takes note of an event.
    pub fn note(&mut self, side: Side, event: Ready) {
        self.ready[side as usize].merge(event);
    }

    /// Has one direction ended while the other goes on? As of the last turn that did not want another one, so that the
    /// caller, who looks when it goes to sleep, sees the change then.
    pub fn is_half_closed(&self) -> bool {
        self.half_closed
    }

    /// Which side ended first, and was that by being gone (`true`) rather than by an orderly end? As of the last turn.
    pub fn first_end(&self) -> Option<(Side, bool)> {
        match self.first_end {
            FirstEnd::Nobody => None,
            FirstEnd::Client => Some((Side::Client, false)),
            FirstEnd::ClientGone => Some((Side::Client, true)),
            FirstEnd::Server => Some((Side::Server, false)),
            FirstEnd::ServerGone => Some((Side::Server, true)),
        }
    }

    /// The side that is gone, or broken as far as the kernel has told, while it is not over: bytes of it are still on their way
    /// to the other side, which may hide the reset behind them for long.
    pub fn broken(&self) -> Option<Side> {
        let is_broken = |side: &Side| self.gone[*side as usize] || self.ready[*side as usize].error;
        [Side::Client, Side::Server].into_iter().find(is_broken)
    }

    /// Did the last turn leave something undone that the kernel had no memory for?
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Do bytes of this side wait because the other takes no more? Then news of its next ones are of no use.
    pub fn is_blocked(&self, from: Side) -> bool {
        self.flows[from as usize].is_waiting()
    }

    /// Puts bytes of ours in front of the client's: they go to the server first, together with the client's first ones if
    /// those are there by then, and do not count as delivered. To be called before the first turn, and behind
    /// [`Relay::hold`].
    ///
    /// No header is as long as 64 KiB; what is longer would be counted.
    pub fn lead(&mut self, mut header: Vec<u8>) {
        if header.is_empty() {
            return;
        }
        let lead = header.len();
        let flow = &mut self.flows[Side::Client as usize];
        debug_assert!(flow.urgent.is_none(), "the relay has begun");
        if let Held::Bytes { bytes, at, .. } = &flow.held {
            header.extend_from_slice(bytes.get(*at as usize..).unwrap_or_default());
        }
        flow.held = Held::bytes(header.into_boxed_slice(), lead);
    }

    /// Bytes held for both sides, those inside pipes and those of ours included.
    pub fn held_bytes(&self) -> usize {
        let held = |flow: &Flow<P>| usize::from(flow.urgent.is_some()) + flow.held.count().0;
        self.flows.iter().map(held).sum()
    }

    /// Bytes of this side that are held for the other.
    pub fn held_from(&self, from: Side) -> usize {
        let flow = &self.flows[from as usize];
        let (held, ours) = flow.held.count();
        usize::from(flow.urgent.is_some()) + held - ours
    }

    /// The same of those that [`Kernel::saw`] has heard of.
    pub fn told_from(&self, from: Side) -> usize {
        if self.flows[from as usize].untold { 0 } else { self.held_from(from) }
    }

    /// Does what can be done now. `scratch` is the worker's buffer; nothing stays in it.
    pub fn turn<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, scratch: &mut [u8]) -> Verdict {
        let mut again = false;
        self.short = false;
        let server = self.ready[Side::Server as usize];
        let mut order = [Side::Client, Side::Server];
        if self.asks && (server.read_closed || server.error) {
            // Nothing is said to a server that is known to have ended, before that was asked about.
            order.reverse();
        }
        for from in order {
            let stop = self.pump(kernel, scratch, from);
            let flushed = self.flush(kernel, from);
            for stop in [Some(stop), flushed.err()].into_iter().flatten() {
                match stop {
                    Stop::Wait => {}
                    Stop::Turn => again = true,
                    Stop::Ask => return Verdict::Ask { is_reset: false },
                    Stop::Gone(Side::Server) if self.asks => return Verdict::Ask { is_reset: true },
                    Stop::Gone(side) => {
                        self.lose(kernel, side);
                        again = true;
                    }
                }
            }
            self.release_empty_pipe(kernel, from);
        }
        // A side that has ended its direction is not read any more, so only its pending error tells that it is gone.
        for side in [Side::Client, Side::Server] {
            let ready = &mut self.ready[side as usize];
            if ready.error && self.flows[side as usize].stage != FlowStage::Open && !self.gone[side as usize]
            {
                ready.error = false;
                if kernel.error(side).is_some() {
                    self.lose(kernel, side);
                    again = true;
                }
            }
        }
        if self.first_end == FirstEnd::Nobody {
            let sides = [Side::Client, Side::Server].into_iter();
            let gone = sides.clone().find(|&side| self.gone[side as usize]).map(|side| (side, true));
            let ended = || sides.clone().find(|&side| self.flows[side as usize].stage != FlowStage::Open);
            self.first_end = FirstEnd::of(gone.or_else(|| ended().map(|side| (side, false))));
        }
        let verdict = self.verdict(kernel, again);
        if verdict != Verdict::Again {
            // An end can be known long before it can be read: behind data that the other side does not take.
            self.half_closed = self.flows.iter().any(|flow| flow.stage != FlowStage::Open)
                || self.ready.iter().any(|ready| ready.read_closed);
        }
        verdict
    }

    /// Ends the connection from outside (idle, closed by the operator). A side that is known to miss bytes gets a reset, not
    /// a clean end.
    pub fn abandon<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K) -> Ending {
        let [reset_server, reset_client] = [Side::Client, Side::Server].map(|from| {
            let flow = &self.flows[from as usize];
            // After an error of our own the side that seems gone lives, and misses bytes.
            self.gone != [false; 2]
                || flow.is_waiting()
                || (self.ready[from as usize].error && kernel.error(from).is_some())
                || (flow.stage == FlowStage::Open && kernel.unread(from) > 0)
        });
        self.release(kernel);
        Ending { reset_client, reset_server }
    }

    /// Gives back what the relay holds. Idempotent.
    pub fn release<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K) {
        for flow in &mut self.flows {
            flow.urgent = None;
            if let Held::Pipe { pipe, len } = std::mem::replace(&mut flow.held, Held::Nothing) {
                kernel.close_pipe(pipe, len as usize);
            }
        }
    }

    fn verdict<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, again: bool) -> Verdict {
        let ending = match self.gone {
            [true, true] => Ending { reset_client: true, reset_server: true },
            [false, false] => {
                if self.flows.iter().any(|flow| flow.stage != FlowStage::Ended) {
                    return self.rest(again);
                }
                Ending { reset_client: false, reset_server: false }
            }
            [client_gone, _] => {
                let (lost, left) =
                    if client_gone { (Side::Client, Side::Server) } else { (Side::Server, Side::Client) };
                let flow = &self.flows[lost as usize];
                if flow.stage == FlowStage::Open || flow.is_waiting() {
                    return self.rest(again);
                }
                // A reset throws away what the kernel has not sent yet, so it waits for the last acknowledgement.
                if kernel.unsent(left) > 0 {
                    return Verdict::Later;
                }
                // The side that is gone, too: if it was an error of our own, it lives and misses bytes.
                Ending { reset_client: true, reset_server: true }
            }
        };
        self.release(kernel);
        Verdict::Done(ending)
    }

    /// What comes next while it is not over.
    fn rest(&self, again: bool) -> Verdict {
        match (again, self.short) {
            (true, _) => Verdict::Again,
            (false, true) => Verdict::Later,
            (false, false) => Verdict::Sleep,
        }
    }

    /// A side is gone: nothing can be delivered to it; what it sent before still is.
    fn lose<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, side: Side) {
        if let Held::Pipe { pipe, len } = self.give_up(side) {
            kernel.close_pipe(pipe, len as usize);
        }
    }

    /// The same; what was held for it.
    fn give_up(&mut self, side: Side) -> Held<P> {
        self.gone[side as usize] = true;
        let towards = &mut self.flows[side.peer() as usize];
        towards.stage = FlowStage::Dropped;
        towards.urgent = None;
        towards.unflushed = false;
        // What it sent before it went can still be there to read, its end behind it.
        let ready = &mut self.ready[side as usize];
        ready.readable = true;
        ready.read_closed = true;
        std::mem::replace(&mut towards.held, Held::Nothing)
    }

    /// Moves bytes from one side to the other until something stops it.
    fn pump<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, scratch: &mut [u8], from: Side) -> Stop {
        let to = from.peer();
        let mut left = TURN;
        if std::mem::take(&mut self.flows[from as usize].untold)
            && let Held::Bytes { bytes, lead, .. } = &self.flows[from as usize].held
        {
            kernel.saw(from, bytes.get(usize::from(*lead)..).unwrap_or_default());
        }
        if let Some(stop) = self.join(kernel, scratch, from) {
            return stop;
        }
        while left > 0 {
            if let Err(stop) = self.deliver(kernel, from) {
                return stop;
            }
            match self.flows[from as usize].stage {
                FlowStage::Ended | FlowStage::Dropped => return Stop::Wait,
                FlowStage::Draining => return self.pass_end(kernel, from),
                FlowStage::Open => {}
            }
            // With the destination full, reading would only fill memory.
            if !self.ready[from as usize].readable || !self.ready[to as usize].writable {
                return Stop::Wait;
            }
            let step = if self.flows[from as usize].splicing && !self.ready[from as usize].urgent {
                // The next one may be of another size.
                self.release_empty_pipe(kernel, from);
                self.splice(kernel, from, &mut left)
            } else {
                left -= 1;
                self.release_empty_pipe(kernel, from);
                self.copy(kernel, scratch, from)
            };
            if let Err(stop) = step {
                return stop;
            }
        }
        Stop::Turn
    }

    /// What is ours goes out with the source's first bytes, if they are there. Nobody has told of them perhaps, but asking
    /// costs less than a segment. `None`: the rest of the turn comes next.
    fn join<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, scratch: &mut [u8], from: Side) -> Option<Stop> {
        let flow = &mut self.flows[from as usize];
        let has_room = flow.held.lead()?.len() < scratch.len();
        // An urgent byte that was read comes behind it.
        if !has_room
            || flow.urgent.is_some()
            || flow.stage != FlowStage::Open
            || !self.ready[from.peer() as usize].writable
        {
            return None;
        }
        // Nobody has told of a mark either.
        flow.is_mark_near |= !self.ready[from as usize].readable;
        match self.copy(kernel, scratch, from) {
            // What there is of ours waits for nothing.
            Ok(()) | Err(Stop::Wait) => None,
            Err(stop) => Some(stop),
        }
    }

    fn pass_end<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, from: Side) -> Stop {
        if self.gone[from as usize] {
            // It did not end, it broke: the other side gets a reset, not an end. `verdict` sees to it.
            return Stop::Wait;
        }
        if let Err(stop) = self.flush(kernel, from) {
            return stop;
        }
        let to = from.peer();
        let closes = self.flows[to as usize].stage == FlowStage::Ended;
        match kernel.shutdown(to, closes) {
            Ok(()) => {
                self.flows[from as usize].stage = FlowStage::Ended;
                // What a server makes of its client's end is its answer.
                self.asks = false;
                Stop::Wait
            }
            Err(e) => self.write_error(kernel, &e, to),
        }
    }

    /// Sends what was written and kept back. `Ok` = nothing is kept back any more.
    fn flush<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, from: Side) -> Result<(), Stop> {
        let to = from.peer();
        if !self.flows[from as usize].unflushed {
            return Ok(());
        }
        if !self.ready[to as usize].writable {
            return Err(Stop::Wait);
        }
        kernel.flush(to).map_err(|e| self.write_error(kernel, &e, to))?;
        self.flows[from as usize].unflushed = false;
        Ok(())
    }

    /// What an error of a write to this side means.
    fn write_error<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, error: &io::Error, to: Side) -> Stop {
        match error.kind() {
            ErrorKind::WouldBlock if kernel.will_tell_of_room(to) => {
                self.full(to);
            }
            ErrorKind::WouldBlock | ErrorKind::OutOfMemory | ErrorKind::Interrupted => self.short = true,
            _ => return Stop::Gone(to),
        }
        Stop::Wait
    }

    /// Delivers what is held. `Ok` = nothing is held any more.
    fn deliver<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, from: Side) -> Result<(), Stop> {
        let to = from.peer();
        loop {
            let flow = &mut self.flows[from as usize];
            if !flow.holds_data() {
                return Ok(());
            }
            if !self.ready[to as usize].writable {
                return Err(Stop::Wait);
            }
            let (_, ours) = flow.held.count();
            let done = match &mut flow.held {
                Held::Bytes { bytes, at, .. } => kernel.write(to, &bytes[*at as usize..]).inspect(|output| {
                    *at += u32::try_from(output.bytes).unwrap_or(u32::MAX);
                }),
                Held::Pipe { pipe, len } if *len > 0 => {
                    kernel.drain(pipe, to, *len as usize).inspect(|output| {
                        *len -= u32::try_from(output.bytes).unwrap_or(u32::MAX).min(*len);
                    })
                }
                Held::Nothing | Held::Pipe { .. } => {
                    let Some(byte) = flow.urgent else { return Ok(()) };
                    kernel.write_urgent(to, byte).map(|()| {
                        flow.urgent = None;
                        Output { bytes: 1, full: false }
                    })
                }
            };
            if matches!(&flow.held, Held::Bytes { bytes, at, .. } if *at as usize >= bytes.len()) {
                flow.held = Held::Nothing;
            }
            match done {
                Ok(output) => self.wrote(kernel, output, to, ours)?,
                Err(e) => return Err(self.write_error(kernel, &e, to)),
            }
        }
    }

    /// A side takes no more for now.
    fn full(&mut self, to: Side) {
        self.ready[to as usize].writable = false;
        self.flows[to.peer() as usize].pace.full();
    }

    /// Takes note of what a side has taken; the first ones of the bytes, so many, are ours if they are there.
    fn wrote<K: Kernel<Pipe = P>>(
        &mut self,
        kernel: &mut K,
        Output { bytes, full }: Output,
        to: Side,
        ours: usize,
    ) -> Result<(), Stop> {
        if bytes == 0 {
            // It would be asked for ever.
            return Err(Stop::Gone(to));
        }
        if bytes > ours {
            self.asks = false;
            kernel.delivered(to, bytes - ours);
        }
        let flow = &mut self.flows[to.peer() as usize];
        flow.unflushed = true;
        flow.pace.took(bytes);
        if full {
            self.full(to);
        }
        Ok(())
    }

    /// Reads into the worker's buffer and writes straight on.
    fn copy<K: Kernel<Pipe = P>>(
        &mut self,
        kernel: &mut K,
        scratch: &mut [u8],
        from: Side,
    ) -> Result<(), Stop> {
        let ready = self.ready[from as usize];
        // What was read last may have ended at a mark that no event has told of yet.
        let is_in_doubt = std::mem::take(&mut self.flows[from as usize].is_mark_near);
        let at_mark = (ready.urgent || is_in_doubt) && kernel.at_mark(from).unwrap_or(false);
        // What goes in front stands in front.
        let mut lead = 0;
        if let Some(header) = self.flows[from as usize].held.lead() {
            lead = header.len();
            scratch[..lead].copy_from_slice(header);
        }
        let room = if at_mark { &mut scratch[lead..=lead] } else { &mut scratch[lead..] };
        let Input { bytes: read, drained } = match kernel.read(from, room) {
            Ok(input) => input,
            Err(e) => return self.read_error(&e, from),
        };
        if from == Side::Server && self.asks {
            if read == 0 {
                return Err(Stop::Ask);
            }
            self.asks = false;
        }
        let mut n = lead + read;
        kernel.saw(from, &scratch[lead..n]);
        let flow = &mut self.flows[from as usize];
        if read == 0 {
            flow.stage = FlowStage::Draining;
            return Ok(());
        }
        if at_mark {
            flow.urgent = Some(scratch[lead]);
            self.ready[from as usize].urgent = false;
            return Ok(());
        }
        if lead > 0 {
            flow.held = Held::Nothing;
        }
        let mut ended = Ok(());
        let mut last = false;
        flow.is_mark_near = n == scratch.len();
        if n == scratch.len() {
            flow.streak = flow.streak.saturating_add(1);
            if flow.streak >= BULK_AFTER {
                flow.splicing = true;
                flow.streak = 0;
                if !std::mem::replace(&mut flow.is_bulk, true) {
                    kernel.expect_bulk(from.peer());
                }
            }
        } else {
            flow.streak = 0;
            if drained && ready.read_closed && !ready.urgent {
                // The end is announced and mostly right behind: then it goes out together with the data.
                match kernel.read(from, &mut scratch[n..]) {
                    Ok(Input { bytes: more, .. }) => {
                        kernel.saw(from, &scratch[n..n + more]);
                        if more == 0 {
                            flow.stage = FlowStage::Draining;
                            // After a side that broke no end may follow, and what waits for one would wait.
                            last = !self.gone[from as usize] && !ready.error;
                        }
                        n += more;
                    }
                    Err(e) => ended = self.read_error(&e, from),
                }
            } else if drained && !ready.urgent {
                self.ready[from as usize].readable = false;
            }
        }
        let passed = self.pass_on(kernel, &scratch[..n], lead, from, last);
        if passed.is_err()
            && let Err(Stop::Gone(side)) = ended
        {
            // Both went at once, and the caller hears of one only.
            self.lose(kernel, side);
        }
        passed.and(ended)
    }

    /// Writes what was just read; what is not taken is held. `lead`: so many bytes in front are ours. `last`: the end follows
    /// at once.
    fn pass_on<K: Kernel<Pipe = P>>(
        &mut self,
        kernel: &mut K,
        chunk: &[u8],
        lead: usize,
        from: Side,
        last: bool,
    ) -> Result<(), Stop> {
        let to = from.peer();
        let mut at = 0;
        while at < chunk.len() {
            let (rest, ours) = (&chunk[at..], lead.saturating_sub(at));
            let written = if last { kernel.write_last(to, rest) } else { kernel.write(to, rest) };
            match written {
                Ok(output) => {
                    self.wrote(kernel, output, to, ours)?;
                    at += output.bytes;
                    if output.full {
                        break;
                    }
                }
                Err(e) => match self.write_error(kernel, &e, to) {
                    Stop::Wait => break,
                    stop => {
                        if self.asks {
                            // Another server may get it.
                            self.flows[from as usize].held =
                                Held::bytes(chunk[at..].into(), lead.saturating_sub(at));
                        }
                        return Err(stop);
                    }
                },
            }
        }
        if at < chunk.len() {
            self.flows[from as usize].held = Held::bytes(chunk[at..].into(), lead.saturating_sub(at));
        }
        Ok(())
    }

    /// Fills the pipe once; `deliver` empties it.
    fn splice<K: Kernel<Pipe = P>>(
        &mut self,
        kernel: &mut K,
        from: Side,
        left: &mut usize,
    ) -> Result<(), Stop> {
        *left -= 1;
        let flow = &mut self.flows[from as usize];
        if matches!(flow.held, Held::Nothing) {
            match kernel.open_pipe(flow.pace.expected(), flow.pace.flows()) {
                Some(pipe) => flow.held = Held::Pipe { pipe, len: 0 },
                None => {
                    flow.splicing = false;
                    return Ok(());
                }
            }
        }
        let Held::Pipe { pipe, len } = &mut flow.held else { return Ok(()) };
        match kernel.fill(from, pipe) {
            // An end, or a mark: a plain read tells which.
            Ok(Input { bytes: 0, .. }) => (flow.splicing, flow.is_mark_near) = (false, true),
            Ok(Input { bytes: n, drained }) => {
                if drained {
                    self.ready[from as usize].readable = false;
                }
                *len = u32::try_from(n).unwrap_or(u32::MAX);
                *left = left.saturating_sub(if n > LITTLE { SPLICE_MORE } else { 0 });
                flow.streak = if n < SMALL_SPLICE { flow.streak + 1 } else { 0 };
                if flow.streak >= SMALL_ENOUGH {
                    flow.splicing = false;
                    flow.streak = 0;
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return self.read_error(&e, from),
            // This kind of socket cannot be spliced, or not now.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::InvalidInput | ErrorKind::OutOfMemory | ErrorKind::Interrupted
                ) =>
            {
                flow.splicing = false;
            }
            // A splice that stops at a mark tells of the reset before the data behind the mark, which is still there.
            Err(_) => {
                flow.splicing = false;
                return Err(Stop::Gone(from));
            }
        }
        Ok(())
    }

    fn read_error(&mut self, error: &io::Error, from: Side) -> Result<(), Stop> {
        match error.kind() {
            ErrorKind::OutOfMemory | ErrorKind::Interrupted => {
                self.short = true;
                Err(Stop::Wait)
            }
            ErrorKind::WouldBlock => {
                let ready = &mut self.ready[from as usize];
                ready.readable = false;
                // If a mark is still ahead, the event that brings its byte says so again.
                ready.urgent = false;
                if self.gone[from as usize] {
                    // Nothing more will come from it.
                    self.flows[from as usize].stage = FlowStage::Draining;
                    return Ok(());
                }
                Err(Stop::Wait)
            }
            _ => {
                if !self.asks || from == Side::Client {
                    self.flows[from as usize].stage = FlowStage::Draining;
                }
                Err(Stop::Gone(from))
            }
        }
    }

    fn release_empty_pipe<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, from: Side) {
        let flow = &mut self.flows[from as usize];
        if matches!(flow.held, Held::Pipe { len: 0, .. })
            && let Held::Pipe { pipe, .. } = std::mem::replace(&mut flow.held, Held::Nothing)
        {
            kernel.close_pipe(pipe, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A client that says what it is told to, and a server that has gone, in one way or another.
    #[derive(Default)]
    struct Script {
        client: VecDeque<Vec<u8>>,
        server: VecDeque<io::Result<Vec<u8>>>,
        is_gone: bool,
        written: Vec<u8>,
    }

    impl Kernel for Script {
        type Pipe = ();

        fn read(&mut self, side: Side, buf: &mut [u8]) -> io::Result<Input> {
            let bytes = match side {
                Side::Client => self.client.pop_front().ok_or(ErrorKind::WouldBlock)?,
                Side::Server => self.server.pop_front().unwrap_or_else(|| Ok(Vec::new()))?,
            };
            buf[..bytes.len()].copy_from_slice(&bytes);
            Ok(Input { bytes: bytes.len(), drained: true })
        }
        fn write(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
            if side == Side::Server && self.is_gone {
                return Err(ErrorKind::BrokenPipe.into());
            }
            self.written.extend_from_slice(buf);
            Ok(Output { bytes: buf.len(), full: false })
        }
        fn shutdown(&mut self, _side: Side, _closes: bool) -> io::Result<()> {
            Ok(())
        }
        fn at_mark(&mut self, _side: Side) -> io::Result<bool> {
            Ok(false)
        }
        fn write_urgent(&mut self, _side: Side, _byte: u8) -> io::Result<()> {
            Ok(())
        }
        fn error(&mut self, _side: Side) -> Option<io::Error> {
            None
        }
        fn unsent(&mut self, _side: Side) -> usize {
            0
        }
        fn open_pipe(&mut self, _expected: usize, _flows: bool) -> Option<()> {
            None
        }
        fn fill(&mut self, _from: Side, (): &mut ()) -> io::Result<Input> {
            Err(ErrorKind::InvalidInput.into())
        }
        fn drain(&mut self, (): &mut (), _to: Side, _len: usize) -> io::Result<Output> {
            Err(ErrorKind::InvalidInput.into())
        }
        fn take_out(&mut self, (): &mut (), _len: usize) -> io::Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn close_pipe(&mut self, (): (), _held: usize) {}
        fn saw(&mut self, _from: Side, _bytes: &[u8]) {}
        fn delivered(&mut self, _to: Side, _bytes: usize) {}
    }

    const READABLE: Ready =
        Ready { readable: true, writable: false, urgent: false, read_closed: false, error: false };

    /// A relay whose client has something to say, with a header in front.
    fn relay() -> Relay<()> {
        let mut relay = Relay::new();
        relay.lead(b"PROXY ".to_vec());
        relay.ask_about_end();
        relay.note(Side::Client, READABLE);
        relay
    }

    #[test]
    fn what_a_server_that_is_gone_does_not_take_is_kept_for_the_next_one() {
        let mut relay = relay();
        let mut gone = Script { client: [b"GET".to_vec()].into(), is_gone: true, ..Script::default() };
        assert_eq!(relay.turn(&mut gone, &mut [0; 64]), Verdict::Ask { is_reset: true });
        assert!(relay.is_fresh());
        relay.change_server();
        relay.lead(b"AGAIN ".to_vec());
        relay.ask_about_end();
        let mut next = Script::default();
        relay.turn(&mut next, &mut [0; 64]);
        assert_eq!(next.written, b"AGAIN GET");
    }

    #[test]
    fn an_end_that_nobody_has_told_of_is_asked_about_and_then_passed_on() {
        let reset = || Err(ErrorKind::ConnectionReset.into());
        for (first, is_reset) in [(Ok(Vec::new()), false), (reset(), true)] {
            let mut relay = relay();
            let mut kernel = Script { server: [first].into(), ..Script::default() };
            relay.note(Side::Server, READABLE);
            assert_eq!(relay.turn(&mut kernel, &mut [0; 64]), Verdict::Ask { is_reset });
            assert!(relay.is_fresh());
            relay.accept_end(is_reset);
            let verdict = relay.turn(&mut kernel, &mut [0; 64]);
            let reset = Ending { reset_client: true, reset_server: true };
            assert_eq!(verdict, if is_reset { Verdict::Done(reset) } else { Verdict::Sleep });
            assert_eq!(relay.first_end(), Some((Side::Server, is_reset)));
        }
    }

    #[test]
    fn after_a_byte_in_either_direction_nothing_is_asked() {
        let mut relay = relay();
        let mut kernel = Script { client: [b"GET".to_vec()].into(), server: [].into(), ..Script::default() };
        assert_eq!(relay.turn(&mut kernel, &mut [0; 64]), Verdict::Sleep);
        relay.note(Side::Server, READABLE);
        assert_eq!(relay.turn(&mut kernel, &mut [0; 64]), Verdict::Sleep);
        assert_eq!(relay.first_end(), Some((Side::Server, false)));
    }

    #[test]
    fn to_a_server_that_is_known_to_have_ended_nothing_is_said_before_that_is_asked() {
        let mut relay = relay();
        let mut kernel = Script { client: [b"GET".to_vec()].into(), ..Script::default() };
        relay.note(Side::Server, Ready { read_closed: true, ..READABLE });
        assert_eq!(relay.turn(&mut kernel, &mut [0; 64]), Verdict::Ask { is_reset: false });
        assert_eq!((kernel.written.len(), kernel.client.len()), (0, 1));
    }
}
