//! The virtual network: the relay's two sockets as Linux keeps them, and what arrives at them.
//!
//! Knows: buffers, windows, marks, ends, resets, which of them wakes a poller. Never: what the relay does
//! about it.
//!
//! Payload is counted, not stored: bytes that cross a socket are compared with the sender's stream at once,
//! so a position in the stream is enough.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;

use balance::wire::relay::{Ready, Side};

use super::oracle::{Stats, Violation};
use super::peer::Peer;
use super::random::{Random, Stream, mix};

/// Lines of trace that a failure shows.
const TRACE: usize = 60;

/// The relay's end of one connection.
#[derive(Debug, Default)]
pub(super) struct Socket {
    // ---- from the peer ----
    /// Bytes that arrived in all, and how far the relay has read.
    pub(super) arrived: u64,
    pub(super) read: u64,
    pub(super) receive_buffer: u64,
    /// Where the urgent byte is, or will be. A later one replaces it.
    pub(super) mark: Option<u64>,
    /// The mark that the last event told of, and the one that the relay has heard of.
    event_mark: Option<u64>,
    pub(super) told_mark: Option<u64>,
    /// The relay has heard of an error.
    pub(super) told_error: bool,
    /// Every urgent byte there was.
    pub(super) urgent: BTreeSet<u64>,
    /// The peer's end has arrived, behind its data.
    pub(super) fin: bool,
    /// A reset has arrived.
    pub(super) reset: bool,
    /// The error that the next call takes.
    pub(super) error: Option<ErrorKind>,
    // ---- to the peer ----
    /// Bytes that the relay wrote in all, and those of them that the peer has acknowledged.
    pub(super) written: u64,
    pub(super) acked: u64,
    /// The last of what was written is kept back until a flush, so many bytes.
    pub(super) kept: u64,
    pub(super) send_buffer: u64,
    /// Written with the promise that more follows at once: it waits until this time, in ms.
    pub(super) corked_until: Option<u64>,
    /// Somebody found the buffer full and wants to hear when it is not.
    pub(super) wants_space: bool,
    /// The relay ended its direction, and the peer knows.
    pub(super) shut: bool,
    pub(super) fin_acked: bool,
    /// Something happened since the poller was asked last.
    pub(super) armed: bool,
    pub(super) closed: bool,
}

impl Socket {
    /// Bytes the relay could read.
    pub(super) fn readable(&self) -> u64 {
        self.arrived - self.read
    }

    /// Bytes that are on their way to the peer.
    pub(super) fn in_flight(&self) -> u64 {
        self.written - self.kept - self.acked
    }

    pub(super) fn space(&self) -> u64 {
        self.send_buffer.saturating_sub(self.in_flight())
    }

    /// Linux calls a socket writable only when a third of its buffer is free.
    pub(super) fn writable(&self) -> bool {
        self.reset || self.shut || (self.space() > 0 && self.space() >= self.in_flight() / 2)
    }

    /// Both directions have ended and are acknowledged: a reset does not reach such a socket any more.
    pub(super) fn is_over(&self) -> bool {
        self.fin && self.shut && self.fin_acked
    }

    /// What a poller says of it now.
    pub(super) fn mask(&mut self) -> Ready {
        let writable = self.writable();
        if !writable {
            self.wants_space = true;
        }
        let urgent = self.mark.filter(|mark| *mark < self.arrived);
        self.event_mark = urgent;
        Ready {
            readable: self.readable() > 0 || self.fin || self.reset,
            writable,
            urgent: urgent.is_some(),
            read_closed: self.fin || self.reset,
            error: self.error.is_some(),
        }
    }
}

/// Everything outside the relay.
#[derive(Debug)]
pub(super) struct World {
    pub(super) random: Random,
    /// The relay's ends; `sockets[Side::Client]` is connected to `peers[Side::Client]`.
    pub(super) sockets: [Socket; 2],
    pub(super) peers: [Peer; 2],
    /// What each side sends.
    pub(super) streams: [Stream; 2],
    /// The channel has answered.
    pub(super) connected: bool,
    /// In ms.
    pub(super) now: u64,
    /// Goes up whenever something is moved, ended, learned.
    pub(super) progress: u64,
    /// Calls in a row that came to nothing.
    pub(super) fruitless: u32,
    /// A call on this side failed for good, so the relay may know that it is gone.
    pub(super) broken: [bool; 2],
    /// It failed by no fault of the peer, who lives.
    pub(super) ailing: [bool; 2],
    /// What the relay says it delivered.
    pub(super) counted: [u64; 2],
    /// So many bytes of the client's stream are a header of ours: the relay has them from the beginning, and counts them not.
    pub(super) lead: u64,
    /// What went to the channel by the first write.
    pub(super) first_write: Option<u64>,
    /// What goes to a side was said to be bulk.
    pub(super) bulk: [bool; 2],
    /// Pipes that are out, by number.
    pub(super) pipes: BTreeSet<u32>,
    pub(super) next_pipe: u32,
    pub(super) weather: Weather,
    /// Up to where somebody has seen what each side sends, if anybody looks.
    pub(super) tapped: Option<[u64; 2]>,
    /// How often taps come and go, per mille of the turns; by a lot of its own.
    pub(super) taps: u64,
    pub(super) tap_lot: Random,
    pub(super) violation: Option<Violation>,
    pub(super) stats: Stats,
    trace: Option<VecDeque<String>>,
}

/// How often the kernel makes trouble, per mille.
#[derive(Debug)]
pub(super) struct Weather {
    pub(super) interrupts: u64,
    /// No memory for a call.
    pub(super) shortages: u64,
    /// A call fails for no reason of the peers'.
    pub(super) failures: u64,
    /// There is no room, though there is.
    pub(super) denials: u64,
    /// The network does something in the middle of a turn.
    pub(super) interleaves: u64,
    pub(super) no_pipe: u64,
    pub(super) short_splice: u64,
    /// Reads and writes of fewer bytes than could be.
    pub(super) short_reads: u64,
    pub(super) short_writes: u64,
    /// Writes are kept back until a flush, at most so many bytes; 0 = they are not.
    pub(super) keeps: u64,
    pub(super) unspliceable: bool,
    pub(super) pipe_bytes: u64,
}

impl Weather {
    /// Does every call do what it can?
    pub(super) fn is_calm(&self) -> bool {
        self.interrupts + self.shortages + self.denials == 0
    }

    fn new(random: &mut Random) -> Self {
        let sometimes =
            |random: &mut Random, most: u64| if random.chance(500) { random.below(most) } else { 0 };
        Self {
            interrupts: sometimes(random, 300),
            shortages: if random.chance(200) { random.below(200) } else { 0 },
            failures: if random.chance(100) { random.below(30) } else { 0 },
            denials: if random.chance(200) { random.below(300) } else { 0 },
            interleaves: sometimes(random, 400),
            no_pipe: if random.chance(100) { 1000 } else { sometimes(random, 500) },
            short_splice: sometimes(random, 800),
            short_reads: sometimes(random, 400),
            short_writes: sometimes(random, 400),
            keeps: if random.chance(200) { random.magnitude(15) } else { 0 },
            unspliceable: random.chance(30),
            pipe_bytes: if random.chance(500) { 1 << 20 } else { random.magnitude(20) },
        }
    }
}

impl World {
    pub(super) fn new(key: u64, tracing: bool) -> Self {
        let mut random = Random::new(key);
        // Some connections are for bulk, so that splicing goes on for longer.
        let bulk = random.chance(30);
        let buffer =
            |random: &mut Random| if bulk { (1 << 16) + random.below(1 << 20) } else { random.magnitude(18) };
        let mut socket = || Socket {
            receive_buffer: buffer(&mut random),
            send_buffer: buffer(&mut random),
            ..Socket::default()
        };
        let mut sockets = [socket(), socket()];
        let mut peers = [Peer::new(&mut random, bulk), Peer::new(&mut random, bulk)];
        let mut lead_lot = Random::new(mix(key ^ 4));
        let lead = if lead_lot.chance(400) { lead_lot.up_to(200) } else { 0 };
        (sockets[0].arrived, sockets[0].read) = (lead, lead);
        peers[0].is_led_by(lead);
        let weather = Weather::new(&mut random);
        let mut tap_lot = Random::new(mix(key ^ 3));
        let taps = if tap_lot.chance(300) { tap_lot.below(200) } else { 0 };
        Self {
            random,
            sockets,
            peers,
            streams: [Stream::new(mix(key ^ 1)), Stream::new(mix(key ^ 2))],
            connected: false,
            now: 0,
            progress: 0,
            fruitless: 0,
            broken: [false; 2],
            ailing: [false; 2],
            counted: [0; 2],
            lead,
            first_write: None,
            bulk: [false; 2],
            pipes: BTreeSet::new(),
            next_pipe: 0,
            weather,
            tapped: None,
            taps,
            tap_lot,
            violation: None,
            stats: Stats::default(),
            trace: tracing.then(VecDeque::new),
        }
    }

    /// Adds a line to the trace, if there is one.
    pub(super) fn trace(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>6} ms  {}", self.now, line(self));
            if let Some(trace) = &mut self.trace {
                if trace.len() == TRACE {
                    trace.pop_front();
                }
                trace.push_back(line);
            }
        }
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default().into()
    }

    /// Bytes that the relay has read from a side and not delivered.
    pub(super) fn held(&self, from: Side) -> u64 {
        self.sockets[from as usize].read.saturating_sub(self.sockets[from.peer() as usize].written)
    }

    /// What a wait for events reports.
    pub(super) fn events(&mut self) -> Vec<(Side, Ready)> {
        let mut sides = [Side::Client, Side::Server];
        if self.random.chance(500) {
            sides.reverse();
        }
        let mut events = Vec::new();
        for side in sides {
            let socket = &mut self.sockets[side as usize];
            if socket.armed && !socket.closed && (self.connected || side == Side::Client) {
                socket.armed = false;
                let ready = socket.mask();
                if ready != Ready::default() {
                    self.trace(|_| format!("event {side:?} {}", letters(ready)));
                    events.push((side, ready));
                }
            }
        }
        events
    }

    /// The relay hears of an event of this side.
    pub(super) fn tell(&mut self, side: Side, ready: Ready) {
        let socket = &mut self.sockets[side as usize];
        socket.told_error |= ready.error;
        socket.told_mark = socket.event_mark.or(socket.told_mark);
    }

    // ---- the network ----

    /// Up to `most` bytes of what the relay wrote reach the peer's buffer, the end behind the last one.
    pub(super) fn carry(&mut self, side: Side, most: u64) {
        let (socket, peer) = (&mut self.sockets[side as usize], &mut self.peers[side as usize]);
        if socket.reset || peer.got_reset {
            return;
        }
        if socket.corked_until.is_some_and(|until| until > self.now) {
            return;
        }
        let waiting = socket.in_flight();
        if waiting > 0 && peer.closed {
            self.trace(|_| format!("{side:?} has closed and is sent data"));
            self.reset_arrives(side);
            return;
        }
        let n = waiting.min(most).min(peer.window());
        socket.acked += n;
        peer.got += n;
        self.progress += n;
        if n > 0 && socket.wants_space && socket.writable() {
            socket.wants_space = false;
            socket.armed = true;
        }
        if socket.shut && !socket.fin_acked && socket.acked == socket.written {
            socket.fin_acked = true;
            peer.got_end = true;
            // Linux wakes the poller when the end is acknowledged.
            socket.armed = true;
            self.progress += 1;
        }
        if n > 0 {
            self.trace(|_| format!("{side:?} acknowledges {n}, {} left", waiting - n));
        }
    }

    /// The peer's reset arrives at the relay's socket.
    pub(super) fn reset_arrives(&mut self, side: Side) {
        self.trace(|w| {
            let socket = &w.sockets[side as usize];
            format!(
                "reset from {side:?}, {} unread, {} unacknowledged",
                socket.readable(),
                socket.written - socket.acked
            )
        });
        let socket = &mut self.sockets[side as usize];
        if socket.reset || socket.is_over() {
            return;
        }
        socket.reset = true;
        if socket.closed {
            return;
        }
        // Linux: a reset in CLOSE_WAIT is a broken pipe.
        let broken_pipe = socket.fin && !socket.shut;
        socket.error = Some(if broken_pipe { ErrorKind::BrokenPipe } else { ErrorKind::ConnectionReset });
        socket.armed = true;
        self.stats.resets += 1;
    }

    /// The relay closes a socket.
    pub(super) fn close(&mut self, side: Side, with_reset: bool) {
        let socket = &mut self.sockets[side as usize];
        socket.closed = true;
        socket.corked_until = None;
        if socket.reset || socket.is_over() {
            return;
        }
        // Linux: closing with data unread is a reset, too.
        if with_reset || socket.readable() > 0 {
            self.peers[side as usize].got_reset = true;
            return;
        }
        socket.shut = true;
    }
}

/// Readiness in short.
pub(super) fn letters(ready: Ready) -> String {
    let Ready { readable, writable, urgent, read_closed, error } = ready;
    [(readable, 'r'), (writable, 'w'), (urgent, 'u'), (read_closed, 'c'), (error, 'e')]
        .into_iter()
        .filter_map(|(has, letter)| has.then_some(letter))
        .collect()
}
