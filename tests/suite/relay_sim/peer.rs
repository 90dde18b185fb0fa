//! The virtual peers: what the programs at both ends do, at random but each with habits of its own.
//!
//! Knows: one side's habits and its kernel's buffer. Never: the relay, the other side.

use balance::wire::relay::Side;

use super::random::Random;
use super::world::World;

/// How a peer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It stays.
    Never,
    /// It ends its direction and goes on reading.
    HalfClose,
    /// It ends its direction and reads no more; what still comes is answered with a reset.
    Close,
    /// It resets.
    Reset,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Bytes in its kernel's buffer in all, and those of them that it has read.
    pub(super) got: u64,
    read: u64,
    buffer: u64,
    pub(super) got_end: bool,
    pub(super) got_reset: bool,
    /// Its program is gone.
    pub(super) closed: bool,
    /// It has sent its end.
    ended: bool,
    // ---- habits ----
    /// It sends so many bytes in all.
    to_send: u64,
    /// It leaves after so many bytes sent, ...
    leaves_after: u64,
    /// ... or after so many read.
    leaves_after_read: u64,
    leaving: Leaving,
    send_at_once: u64,
    read_at_once: u64,
    /// How eager it is, per mille of its occasions.
    sends: u64,
    reads: u64,
    urgent: u64,
    /// It stops reading until this time.
    asleep_until: u64,
    sleeps: u64,
}

impl Peer {
    pub(super) fn new(random: &mut Random, bulk: bool) -> Self {
        let to_send = match random.below(10) {
            0 => 0,
            _ if bulk => random.below(4 << 20),
            1..=7 => random.magnitude(16),
            _ => random.magnitude(19),
        };
        let eager = |random: &mut Random| match random.below(4) {
            0 => 1000,
            1 => 30,
            _ => random.up_to(1000),
        };
        Self {
            got: 0,
            read: 0,
            buffer: random.magnitude(18),
            got_end: false,
            got_reset: false,
            closed: false,
            ended: false,
            to_send,
            leaves_after: if random.chance(500) { to_send } else { random.below(to_send + 1) },
            leaves_after_read: if random.chance(700) { u64::MAX } else { random.magnitude(16) },
            leaving: match random.below(10) {
                0..=3 => Leaving::HalfClose,
                4..=5 => Leaving::Close,
                6..=7 => Leaving::Reset,
                _ => Leaving::Never,
            },
            send_at_once: match random.below(10) {
                _ if bulk => 1 << 20,
                0 => 1,
                _ => random.magnitude(16),
            },
            read_at_once: match random.below(10) {
                0 => 1,
                _ if bulk => 1 << 20,
                _ => random.magnitude(17),
            },
            sends: eager(random),
            reads: if random.chance(80) { 0 } else { eager(random) },
            urgent: if random.chance(250) { random.below(300) } else { 0 },
            asleep_until: 0,
            sleeps: if random.chance(300) { 20 } else { 0 },
        }
    }

    /// Its stream begins with so many bytes that are not its own.
    pub(super) fn is_led_by(&mut self, lead: u64) {
        self.to_send += lead;
        self.leaves_after += lead;
    }

    /// How much its buffer takes.
    pub(super) fn window(&self) -> u64 {
        self.buffer - (self.got - self.read)
    }

    /// A program that takes nothing, ever.
    pub(super) fn never_reads(&self) -> bool {
        self.reads == 0
    }

    fn is_gone(&self) -> bool {
        self.closed || self.got_reset
    }
}

impl World {
    /// Something happens at one of the peers, or on the way to it.
    pub(super) fn act(&mut self) {
        let side = if self.connected && self.random.chance(500) { Side::Server } else { Side::Client };
        match self.random.below(10) {
            0..=3 => self.peer_sends(side),
            4..=5 => {
                let most = self.random.magnitude(18);
                self.carry(side, most);
            }
            6..=7 => self.peer_reads(side),
            _ => self.peer_leaves(side),
        }
    }

    fn peer_sends(&mut self, side: Side) {
        let (peer, socket) = (&mut self.peers[side as usize], &mut self.sockets[side as usize]);
        if peer.is_gone() || peer.ended || socket.reset || !self.random.chance(peer.sends) {
            return;
        }
        if socket.closed {
            // Nobody is there to take it.
            peer.got_reset = true;
            return;
        }
        let left = peer.to_send - socket.arrived;
        let window = socket.receive_buffer - socket.readable();
        if left == 0 {
            return;
        }
        let urgent = self.random.chance(peer.urgent);
        if urgent {
            // The mark can be announced before its byte is there.
            socket.mark = Some(socket.arrived);
            socket.urgent.insert(socket.arrived);
        }
        let most =
            if urgent { u64::from(self.random.chance(800)) } else { self.random.up_to(peer.send_at_once) };
        let n = most.min(left).min(window);
        socket.arrived += n;
        if n > 0 {
            socket.armed = true;
            let what = if urgent { " urgent" } else { "" };
            self.trace(|_| format!("{side:?} sends {n}{what}"));
        }
    }

    fn peer_reads(&mut self, side: Side) {
        let peer = &mut self.peers[side as usize];
        if peer.sleeps > 0 && self.random.chance(peer.sleeps) {
            peer.asleep_until = self.now + self.random.below(8000);
        }
        if peer.closed || peer.asleep_until > self.now || !self.random.chance(peer.reads) {
            return;
        }
        let n = self.random.up_to(peer.read_at_once).min(peer.got - peer.read);
        peer.read += n;
    }

    fn peer_leaves(&mut self, side: Side) {
        let (peer, socket) = (&mut self.peers[side as usize], &self.sockets[side as usize]);
        let due = socket.arrived >= peer.leaves_after || peer.read >= peer.leaves_after_read;
        if peer.is_gone() || !due || !self.random.chance(300) {
            return;
        }
        match peer.leaving {
            Leaving::Never => {}
            Leaving::HalfClose if !peer.ended => self.peer_ends(side),
            // Later it may change its mind.
            Leaving::HalfClose => {
                if self.random.chance(30) {
                    let how = if self.random.chance(500) { Leaving::Close } else { Leaving::Reset };
                    self.peers[side as usize].leaving = how;
                }
            }
            Leaving::Close => self.peer_closes(side),
            Leaving::Reset => {
                self.peers[side as usize].closed = true;
                self.reset_arrives(side);
            }
        }
    }

    fn peer_ends(&mut self, side: Side) {
        let (peer, socket) = (&mut self.peers[side as usize], &mut self.sockets[side as usize]);
        if peer.ended || peer.is_gone() || socket.reset {
            return;
        }
        peer.ended = true;
        socket.fin = true;
        // A mark without its byte is nothing any more.
        socket.mark = socket.mark.filter(|mark| *mark < socket.arrived);
        socket.armed = true;
        self.trace(|w| format!("{side:?} ends after {}", w.sockets[side as usize].arrived));
    }

    fn peer_closes(&mut self, side: Side) {
        let peer = &self.peers[side as usize];
        if peer.got > peer.read {
            self.peers[side as usize].closed = true;
            self.reset_arrives(side);
        } else {
            self.peer_ends(side);
            self.trace(|_| format!("{side:?} closes"));
            self.peers[side as usize].closed = true;
        }
    }

    /// The end of a test: both programs do what is left to do. One that never reads stays as it is.
    pub(super) fn wind_down(&mut self) {
        for side in [Side::Client, Side::Server] {
            self.peer_ends(side);
            let peer = &mut self.peers[side as usize];
            if !peer.never_reads() {
                peer.read = peer.got;
            }
            self.carry(side, u64::MAX);
        }
    }

    /// Does a program never take what it is sent?
    pub(super) fn somebody_never_reads(&self) -> bool {
        self.peers
            .iter()
            .zip(&self.sockets)
            .any(|(peer, socket)| peer.never_reads() && !socket.reset && !peer.closed)
    }
}
