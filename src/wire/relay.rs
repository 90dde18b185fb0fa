//! The decisions of one connection's relay: what to read, deliver, end and reset, and when to sleep.
//!
//! Knows: two sides, what is held for each, how each direction ends. It sees the kernel only through
//! [`Kernel`], which real sockets (`net/sockets.rs`) and the simulator's virtual kernel both implement.
//! Never: groups, policy, operators, timers, descriptors.
//! Source: docs/compatibility.md, "Moving data".

use std::io::{self, ErrorKind};

pub use super::pace::{LITTLE, PIPE_BYTES};

mod carried;
mod flow;
mod kernel;

use flow::{Flow, FlowStage, Held};
pub use kernel::{Input, Kernel, Output, Ready, Side};

/// How many reads a direction may do in one turn before other connections get theirs.
const TURN: usize = 16;
/// A large splice moves as much as several reads, so it counts as this many more.
const SPLICE_MORE: usize = 3;
/// After this many reads in a row that fill the buffer, a direction switches to splicing.
const BULK_AFTER: u8 = 2;
/// A splice of fewer bytes than this is small ...
const SMALL_SPLICE: usize = 16 * 1024;
/// ... and after this many small splices in a row, a direction copies again.
const SMALL_ENOUGH: u8 = 4;

/// What the caller has to do after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Wait for the next event.
    Sleep,
    /// Call again soon, but after other connections.
    Again,
    /// Call again a little later, since no event will announce what is left to do: one side is gone and the
    /// other has not yet acknowledged everything written to it, or the kernel is out of memory.
    Later,
    /// The server has ended before anything was delivered in either direction. The caller decides whether the
    /// end is passed on ([`Relay::accept_end`]) or the server is changed. Returned only after
    /// [`Relay::ask_about_end`].
    Ask {
        /// The server ended by a reset or another error, not by an orderly end.
        is_reset: bool,
    },
    /// The connection is over.
    Done(Ending),
}

/// How to close the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Close the client's side with a reset.
    pub reset_client: bool,
    /// Close the server's side with a reset.
    pub reset_server: bool,
}

/// Which side ended first, and whether by an error. One byte, to keep connections small.
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

/// Why a direction's turn stopped.
enum Stop {
    /// An event has to come first, or there is nothing left to do.
    Wait,
    /// The direction has used up its turn.
    Turn,
    /// This side is gone.
    Gone(Side),
    /// The server has ended its direction, and the caller is to be asked about it.
    Ask,
}

/// The relay of one connection.
#[derive(Debug)]
pub struct Relay<P> {
    /// `flows[s]` carries bytes from side `s` to the other.
    flows: [Flow<P>; 2],
    /// What is known about each side.
    ready: [Ready; 2],
    /// Which sides are gone.
    gone: [bool; 2],
    /// The result of `is_half_closed`.
    half_closed: bool,
    /// The result of `first_end`.
    first_end: FirstEnd,
    /// The result of `is_short`.
    short: bool,
    /// Nothing has been delivered in either direction, and the caller wants to be asked about an end of the
    /// server.
    asks: bool,
}

impl<P> Default for Relay<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> Relay<P> {
    /// A relay between two connected sides. Nothing is known about them except that both take a write.
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

    /// Makes the relay ask ([`Verdict::Ask`]) before it passes on an end of the server, until the first byte
    /// has been delivered in either direction. Bytes that cannot be written to a server that is gone are held
    /// until then.
    pub fn ask_about_end(&mut self) {
        self.asks = true;
    }

    /// Passes on the end that the relay asked about, in the next turn.
    pub fn accept_end(&mut self, is_reset: bool) {
        self.asks = false;
        if is_reset {
            // No pipe is opened before bytes were delivered, so there is none to close.
            let _ = self.give_up(Side::Server);
        }
    }

    /// Adds bytes of this side that came before the relay began; they go out first. Call it before the first
    /// turn, and only once.
    pub fn hold(&mut self, from: Side, bytes: Box<[u8]>) {
        let flow = &mut self.flows[from as usize];
        debug_assert!(!flow.holds_data(), "it holds something");
        // The next byte to read may be the urgent byte.
        flow.is_mark_near = true;
        if !bytes.is_empty() {
            (flow.held, flow.untold) = (Held::bytes(bytes, 0), true);
        }
    }

    /// The bytes given to [`Relay::hold`]; empty once they are delivered.
    pub fn held_of(&self, from: Side) -> &[u8] {
        match &self.flows[from as usize].held {
            // Without the header that balance added.
            Held::Bytes { bytes, lead, .. } => bytes.get(usize::from(*lead)..).unwrap_or_default(),
            Held::Nothing | Held::Pipe { .. } => &[],
        }
    }

    /// Takes back the bytes given to [`Relay::hold`], as long as the relay has not begun.
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

    /// Has the server sent nothing, and has nothing of the client's been lost? Then, if nothing was delivered
    /// to the server either, the client can be moved to another server.
    pub fn is_fresh(&self) -> bool {
        let [from_client, from_server] = &self.flows;
        // An end of the client goes to the next server as well, after the held bytes.
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

    /// Replaces the server. Everything known and held of the client stays.
    pub fn change_server(&mut self) {
        self.flows[Side::Server as usize] = Flow::new();
        let from_client = &mut self.flows[Side::Client as usize];
        from_client.unflushed = false;
        // The header belongs to the old connection; the new one gets its own.
        if let Held::Bytes { bytes, lead: lead @ 1.., .. } = &from_client.held {
            let own = bytes.get(usize::from(*lead)..).unwrap_or_default();
            from_client.held = if own.is_empty() { Held::Nothing } else { Held::bytes(own.into(), 0) };
        }
        self.ready[Side::Server as usize] = Ready { writable: true, ..Ready::default() };
        (self.short, self.asks) = (false, false);
    }

    /// Notes an event.
    pub fn note(&mut self, side: Side, event: Ready) {
        self.ready[side as usize].merge(event);
    }

    /// Has one direction ended while the other goes on? The value is that of the last turn that did not ask
    /// for another one, so the caller sees a change when it goes to sleep.
    pub fn is_half_closed(&self) -> bool {
        self.half_closed
    }

    /// Which side ended first as of the last turn; `true` if by an error rather than an orderly end. `None`
    /// if neither has ended.
    pub fn first_end(&self) -> Option<(Side, bool)> {
        match self.first_end {
            FirstEnd::Nobody => None,
            FirstEnd::Client => Some((Side::Client, false)),
            FirstEnd::ClientGone => Some((Side::Client, true)),
            FirstEnd::Server => Some((Side::Server, false)),
            FirstEnd::ServerGone => Some((Side::Server, true)),
        }
    }

    /// The side that is gone, or has an error pending, while the connection is not over. Bytes of it may
    /// still be on their way to the other side and delay the end for long. `None` if neither is.
    pub fn broken(&self) -> Option<Side> {
        let is_broken = |side: &Side| self.gone[*side as usize] || self.ready[*side as usize].error;
        [Side::Client, Side::Server].into_iter().find(is_broken)
    }

    /// Did the last turn leave something undone because the kernel was out of memory?
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Do bytes from this side wait because the other side takes no more? Then events about new bytes are
    /// useless.
    pub fn is_blocked(&self, from: Side) -> bool {
        self.flows[from as usize].is_waiting()
    }

    /// Puts a header in front of the client's bytes. It goes to the server first, together with the client's
    /// first bytes if they are there by then, and does not count as delivered. Call it before the first turn
    /// and after [`Relay::hold`].
    ///
    /// The header must be shorter than 64 KiB: bytes beyond that would count as the client's.
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

    /// How many bytes are held for both sides, including pipes and the added header.
    pub fn held_bytes(&self) -> usize {
        let held = |flow: &Flow<P>| usize::from(flow.urgent.is_some()) + flow.held.count().0;
        self.flows.iter().map(held).sum()
    }

    /// How many bytes of this side are held for the other, without the added header.
    pub fn held_from(&self, from: Side) -> usize {
        let flow = &self.flows[from as usize];
        let (held, ours) = flow.held.count();
        usize::from(flow.urgent.is_some()) + held - ours
    }

    /// How many bytes of this side are held that [`Kernel::saw`] was called for.
    pub fn told_from(&self, from: Side) -> usize {
        if self.flows[from as usize].untold { 0 } else { self.held_from(from) }
    }

    /// Does everything that can be done now. `scratch` is the worker's buffer; nothing stays in it.
    pub fn turn<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, scratch: &mut [u8]) -> Verdict {
        let mut again = false;
        self.short = false;
        let server = self.ready[Side::Server as usize];
        let mut order = [Side::Client, Side::Server];
        if self.asks && (server.read_closed || server.error) {
            // Nothing is sent to a server that is known to have ended before the caller has been asked.
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
        // A side that has ended its direction is no longer read, so only its pending error shows that it is
        // gone.
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
            // An end can be known long before it can be read, when data in front of it waits for the other
            // side.
            self.half_closed = self.flows.iter().any(|flow| flow.stage != FlowStage::Open)
                || self.ready.iter().any(|ready| ready.read_closed);
        }
        verdict
    }

    /// Ends the connection from outside (idle timeout, closed by the operator). A side that is known to miss
    /// bytes gets a reset instead of a clean end.
    pub fn abandon<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K) -> Ending {
        let [reset_server, reset_client] = [Side::Client, Side::Server].map(|from| {
            let flow = &self.flows[from as usize];
            // After an error on our side, the side that counts as gone is alive and misses bytes.
            self.gone != [false; 2]
                || flow.is_waiting()
                || (self.ready[from as usize].error && kernel.error(from).is_some())
                || (flow.stage == FlowStage::Open && kernel.unread(from) > 0)
        });
        self.release(kernel);
        Ending { reset_client, reset_server }
    }

    /// Gives back everything the relay holds. A second call does nothing.
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
                // A reset discards what the kernel has not sent yet, so it waits for the last
                // acknowledgement.
                if kernel.unsent(left) > 0 {
                    return Verdict::Later;
                }
                // The side that is gone gets a reset, too: after an error on our side it is alive and misses
                // bytes.
                Ending { reset_client: true, reset_server: true }
            }
        };
        self.release(kernel);
        Verdict::Done(ending)
    }

    /// The verdict while the connection is not over.
    fn rest(&self, again: bool) -> Verdict {
        match (again, self.short) {
            (true, _) => Verdict::Again,
            (false, true) => Verdict::Later,
            (false, false) => Verdict::Sleep,
        }
    }

    /// Notes that a side is gone: nothing can be delivered to it, but what it sent before is still delivered.
    fn lose<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, side: Side) {
        if let Held::Pipe { pipe, len } = self.give_up(side) {
            kernel.close_pipe(pipe, len as usize);
        }
    }

    /// Does the same and returns what was held for the side.
    fn give_up(&mut self, side: Side) -> Held<P> {
        self.gone[side as usize] = true;
        let towards = &mut self.flows[side.peer() as usize];
        towards.stage = FlowStage::Dropped;
        towards.urgent = None;
        towards.unflushed = false;
        // Bytes that the side sent before it went may still be readable, followed by its end.
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
            // While the destination is full, reading would only fill memory.
            if !self.ready[from as usize].readable || !self.ready[to as usize].writable {
                return Stop::Wait;
            }
            let step = if self.flows[from as usize].splicing && !self.ready[from as usize].urgent {
                // The next pipe may have another size.
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

    /// Sends the added header together with the source's first bytes if they are there. No event may have
    /// announced them, but a read costs less than a segment of its own. `None`: the turn goes on.
    fn join<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, scratch: &mut [u8], from: Side) -> Option<Stop> {
        let flow = &mut self.flows[from as usize];
        let has_room = flow.held.lead()?.len() < scratch.len();
        // An urgent byte that was already read must come after the header.
        if !has_room
            || flow.urgent.is_some()
            || flow.stage != FlowStage::Open
            || !self.ready[from.peer() as usize].writable
        {
            return None;
        }
        // No event has announced an urgent mark either.
        flow.is_mark_near |= !self.ready[from as usize].readable;
        match self.copy(kernel, scratch, from) {
            // The header does not wait for the client's bytes.
            Ok(()) | Err(Stop::Wait) => None,
            Err(stop) => Some(stop),
        }
    }

    fn pass_end<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K, from: Side) -> Stop {
        if self.gone[from as usize] {
            // The source did not end but broke. `verdict` sees to it that the other side gets a reset, not an
            // end.
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
                // What the server does after its client's end is its answer.
                self.asks = false;
                Stop::Wait
            }
            Err(e) => self.write_error(kernel, &e, to),
        }
    }

    /// Sends what was written and kept back. `Ok`: nothing is kept back any more.
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

    /// Delivers what is held. `Ok`: nothing is held any more.
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

    /// Notes that a side takes no more for now.
    fn full(&mut self, to: Side) {
        self.ready[to as usize].writable = false;
        self.flows[to.peer() as usize].pace.full();
    }

    /// Notes what a side has taken. The first `ours` bytes are of the header that balance added.
    fn wrote<K: Kernel<Pipe = P>>(
        &mut self,
        kernel: &mut K,
        Output { bytes, full }: Output,
        to: Side,
        ours: usize,
    ) -> Result<(), Stop> {
        if bytes == 0 {
            // A write that takes nothing would be repeated for ever.
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

    /// Reads into the worker's buffer and writes from it at once.
    fn copy<K: Kernel<Pipe = P>>(
        &mut self,
        kernel: &mut K,
        scratch: &mut [u8],
        from: Side,
    ) -> Result<(), Stop> {
        let ready = self.ready[from as usize];
        // The last read may have ended at a mark that no event has announced yet.
        let is_in_doubt = std::mem::take(&mut self.flows[from as usize].is_mark_near);
        let at_mark = (ready.urgent || is_in_doubt) && kernel.at_mark(from).unwrap_or(false);
        // The header goes in front.
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
                // The end is announced and usually follows the data directly. Read on, so that both go out
                // together.
                match kernel.read(from, &mut scratch[n..]) {
                    Ok(Input { bytes: more, .. }) => {
                        kernel.saw(from, &scratch[n..n + more]);
                        if more == 0 {
                            flow.stage = FlowStage::Draining;
                            // If the side broke, no end may follow, and bytes that wait for one would wait
                            // for ever.
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
            // Both sides went at once, but only one error is returned.
            self.lose(kernel, side);
        }
        passed.and(ended)
    }

    /// Writes bytes that were just read, and holds what is not taken. The first `lead` bytes are the added
    /// header. `last` means that the end follows at once.
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
                            // Another server may get these bytes.
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
            // Either an end or an urgent mark; a plain read tells which.
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
            // This kind of socket cannot be spliced, or cannot be now.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::InvalidInput | ErrorKind::OutOfMemory | ErrorKind::Interrupted
                ) =>
            {
                flow.splicing = false;
            }
            // A splice that stops at a mark reports a reset before the data after the mark, which can still
            // be read.
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
                // If a mark is still ahead, the event for its byte will say so again.
                ready.urgent = false;
                if self.gone[from as usize] {
                    // Nothing more will come from this side.
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

    /// A client that sends what it is told to, and a server that is gone in one way or another.
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

    /// A relay with a header in front of the client's bytes.
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
