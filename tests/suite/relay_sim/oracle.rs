//! What must always be true, whatever the peers and the kernel do.
//!
//! Knows: the promise of the relay, judged by what really happened at the sockets. Never: the relay's own
//! state.

use balance::wire::relay::{Ending, PIPE_BYTES, Side};

use super::world::World;

/// A promise that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What is delivered is not a prefix of what was sent.
    Bytes,
    /// An urgent byte that was announced goes as a plain one, or a plain one as urgent.
    Urgent,
    /// An end was delivered before all the data, or where there was none.
    EarlyEnd,
    /// A reset threw away data that had been accepted.
    LostByReset,
    /// One side broke and the other is told of a clean end.
    HiddenReset,
    /// A reset that nobody asked for.
    NeedlessReset,
    /// More is held than allowed.
    Memory,
    /// Turns or calls without progress.
    Spin,
    /// Asleep with work to do.
    Stuck,
    /// Both programs have finished, or the deadline has passed, and the connection stays.
    NeverEnds,
    /// Something was released twice, never, or in a state it was not in.
    Release,
    /// The counters differ from the bytes.
    Counters,
    /// A header of ours waits for the client, or goes out alone though bytes of the client are there.
    Header,
    /// Whoever wants to see all bytes does not.
    Unseen,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    pub(super) kind: Kind,
    pub(super) what: String,
}

/// What was met on the way, to show that the simulation goes where it should.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Stats {
    pub(super) connections: u64,
    pub(super) bytes: u64,
    pub(super) spliced: u64,
    pub(super) urgent: u64,
    pub(super) resets: u64,
    pub(super) clean: u64,
    pub(super) passed_resets: u64,
    pub(super) abandoned: u64,
    pub(super) lingers: u64,
    pub(super) failures: u64,
    pub(super) carried: u64,
    pub(super) carried_bytes: u64,
    pub(super) taps: u64,
    pub(super) tapped_bytes: u64,
    pub(super) led: u64,
}

impl Stats {
    pub(super) fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.spliced += other.spliced;
        self.urgent += other.urgent;
        self.resets += other.resets;
        self.clean += other.clean;
        self.passed_resets += other.passed_resets;
        self.abandoned += other.abandoned;
        self.lingers += other.lingers;
        self.failures += other.failures;
        self.carried += other.carried;
        self.carried_bytes += other.carried_bytes;
        self.taps += other.taps;
        self.tapped_bytes += other.tapped_bytes;
        self.led += other.led;
    }
}

impl World {
    /// Takes note of the first broken promise.
    pub(super) fn violate(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.trace(|_| format!("VIOLATION {kind:?}: {what}"));
            self.violation = Some(Violation { kind, what });
        }
    }

    /// Between two turns: somebody begins to look at all that is read, or looks no more. The relay says how much of each side it has read before.
    pub(super) fn tap(&mut self, read_before: [u64; 2]) {
        if !self.tap_lot.chance(self.taps) {
            return;
        }
        self.tapped = match self.tapped {
            Some(_) => None,
            None => {
                self.stats.taps += 1;
                Some([0, 1].map(|side| self.sockets[side].read))
            }
        };
        self.trace(|w| format!("tapped from {:?}", w.tapped));
        let read = [0, 1].map(|side| self.sockets[side].read);
        if self.tapped.is_some() && self.broken == [false; 2] && read != read_before {
            self.violate(Kind::Unseen, || {
                format!("{read_before:?} were read before, it says, and {read:?} were")
            });
        }
    }

    /// After the first turn: where the client had so many bytes waiting, the first of them went with the header, and where it had
    /// none, the header went alone.
    pub(super) fn check_lead(&mut self, waiting: u64, is_plain: bool) {
        let is_ideal = self.weather.is_calm()
            && self.weather.short_writes + self.weather.interleaves + self.weather.keeps == 0
            && self.broken == [false; 2]
            && self.ailing == [false; 2]
            && self.sockets[Side::Server as usize].send_buffer > self.lead;
        if self.lead == 0 || !is_ideal || !is_plain {
            return;
        }
        self.stats.led += 1;
        let first = self.first_write.unwrap_or(0);
        if first < self.lead || (first == self.lead) != (waiting == 0) {
            let lead = self.lead;
            self.violate(Kind::Header, || {
                format!(
                    "the first write has {first} bytes, the header {lead}, and {waiting} of the client waited"
                )
            });
        }
    }

    /// After a turn: whoever looks has seen all that was read.
    pub(super) fn check_tap(&mut self) {
        let read = [0, 1].map(|side| self.sockets[side].read);
        if let Some(seen) = self.tapped.filter(|seen| *seen != read) {
            self.violate(Kind::Unseen, || format!("up to {read:?} was read, and up to {seen:?} was seen"));
        }
    }

    /// These bytes are about to be accepted for `to`.
    pub(super) fn check_bytes(&mut self, to: Side, bytes: &[u8]) {
        let from = to.peer();
        let at = self.sockets[to as usize].written;
        let read = self.sockets[from as usize].read;
        let end = at + bytes.len() as u64;
        if end > read {
            self.violate(Kind::Bytes, || format!("bytes up to {end} were never read"));
        }
        let stream = &mut self.streams[from as usize];
        let due = stream.bytes(at, bytes.len());
        if due == bytes {
            return;
        }
        let bad = due.iter().zip(bytes).position(|(want, got)| want != got).unwrap_or(0);
        let sample = &bytes[bad..bytes.len().min(bad + 12)];
        let at = at + bad as u64;
        let origin = match stream.find(sample, read) {
            Some(found) if found as u64 > at => format!("{} bytes lost", found as u64 - at),
            Some(found) => format!("delivered before, at {found}"),
            None => "found nowhere in what was sent".to_owned(),
        };
        self.violate(Kind::Bytes, || format!("wrong byte {at} to {to:?}: {origin}"));
    }

    /// Bytes of the peer's stream from `at` on are about to be accepted for `to`.
    pub(super) fn check_position(&mut self, to: Side, at: u64) {
        let due = self.sockets[to as usize].written;
        if at != due {
            self.violate(Kind::Bytes, || format!("byte {at} reaches {to:?} where {due} is due"));
        }
    }

    /// The next byte to `to` goes as an urgent one.
    pub(super) fn check_urgent(&mut self, to: Side) {
        let at = self.sockets[to as usize].written;
        if !self.sockets[to.peer() as usize].urgent.contains(&at) {
            self.violate(Kind::Urgent, || format!("byte {at} was not urgent and is now, to {to:?}"));
        }
    }

    /// The end of the direction to `to` is about to be passed on.
    pub(super) fn check_end(&mut self, to: Side) {
        let (source, destination) = (&self.sockets[to.peer() as usize], &self.sockets[to as usize]);
        let (sent, delivered) = (source.arrived, destination.written);
        let kept = destination.kept;
        if destination.shut {
            self.violate(Kind::Release, || format!("{to:?} is told of the end twice"));
        } else if kept > 0 {
            self.violate(Kind::EarlyEnd, || {
                format!("{to:?} is told of the end before {kept} bytes kept back")
            });
        } else if delivered < sent {
            self.violate(Kind::EarlyEnd, || {
                format!("{to:?} is told of the end after {delivered} of {sent} bytes")
            });
        } else if !source.fin {
            self.violate(Kind::EarlyEnd, || {
                format!("{to:?} is told of an end that the other side never sent")
            });
        }
    }

    /// After every turn: memory and counters.
    pub(super) fn check_turn(&mut self, held_bytes: usize, scratch: usize) {
        let most = scratch.max(PIPE_BYTES) as u64;
        for from in [Side::Client, Side::Server] {
            let held = self.held(from);
            if held > most && !self.broken[from.peer() as usize] {
                self.violate(Kind::Memory, || format!("{held} bytes held for {:?}", from.peer()));
            }
            let ours = if from == Side::Server { self.lead } else { 0 };
            let written = self.sockets[from as usize].written.saturating_sub(ours);
            let counted = self.counted[from as usize];
            if counted != written {
                self.violate(Kind::Counters, || {
                    format!("{written} bytes went to {from:?}, counted are {counted}")
                });
            }
        }
        let held = self.held(Side::Client) + self.held(Side::Server);
        let known = held_bytes as u64;
        if known > held || (known < held && self.broken == [false; 2]) {
            self.violate(Kind::Memory, || format!("{held} bytes are held, it believes {known}"));
        }
        let pipes = self.pipes.len();
        if known == 0 && pipes > 0 {
            self.violate(Kind::Memory, || format!("{pipes} pipes held with nothing inside"));
        }
    }

    /// The relay is done with its turn, but not with the connection: nothing may wait for a call that does not come.
    pub(super) fn check_corks(&mut self) {
        for to in [Side::Client, Side::Server] {
            let socket = &self.sockets[to as usize];
            if socket.corked_until.is_some() && !socket.reset && socket.written > socket.acked {
                self.violate(Kind::Stuck, || {
                    format!("the last bytes to {to:?} wait for an end that does not come")
                });
            }
        }
    }

    /// The relay sleeps and no event is on its way: there must be nothing it could do.
    pub(super) fn check_sleep(&mut self) {
        for from in [Side::Client, Side::Server] {
            let (source, destination) = (&self.sockets[from as usize], &self.sockets[from.peer() as usize]);
            let (waiting, held, kept) = (source.readable(), self.held(from), destination.kept);
            if source.reset && destination.reset {
                self.violate(Kind::Stuck, || "both sides are gone and it sleeps".to_owned());
            } else if destination.reset || self.ailing[from.peer() as usize] {
                // Nothing can be delivered; the other direction decides.
            } else if source.reset && waiting == 0 && held == 0 && kept == 0 {
                self.violate(Kind::Stuck, || format!("{from:?} is gone, all is delivered, and it sleeps"));
            } else if destination.wants_space && destination.in_flight() > 0 {
                // The next acknowledgement wakes it.
            } else if destination.writable() && !destination.shut {
                let end = source.fin;
                if waiting > 0 || held > 0 || kept > 0 || end {
                    self.violate(Kind::Stuck, || {
                        format!(
                            "it sleeps with {waiting} bytes to read, {held} held, {kept} kept back, end {end}, \
                             from {from:?}"
                        )
                    });
                }
            }
        }
    }

    /// The relay is about to close both sockets this way.
    pub(super) fn check_close(&mut self, ending: Ending, abandoned: bool) {
        for to in [Side::Client, Side::Server] {
            let (source, destination) = (&self.sockets[to.peer() as usize], &self.sockets[to as usize]);
            if destination.reset {
                continue;
            }
            let with_reset = match to {
                Side::Client => ending.reset_client,
                Side::Server => ending.reset_server,
            } || destination.readable() > 0;
            let (sent, delivered, acked) = (source.arrived, destination.written, destination.acked);
            let (ended_before, kept) = (destination.shut, destination.kept);
            // Both have ended, and all of it was passed on, before anybody could tell of the reset.
            let too_late = source.fin && destination.fin && delivered == sent && !source.told_error;
            if with_reset {
                if self.ailing != [false; 2] {
                    // Whoever misses bytes by our fault has to hear of it, and who does not may.
                } else if !abandoned && !source.reset {
                    self.violate(Kind::NeedlessReset, || format!("{to:?} is reset for no reason"));
                } else if !abandoned && acked < sent {
                    self.violate(Kind::LostByReset, || {
                        format!("the reset throws away {} of {sent} bytes for {to:?}", sent - acked)
                    });
                }
            } else if source.reset && !too_late {
                self.violate(Kind::HiddenReset, || {
                    format!("{:?} is gone and {to:?} gets a clean end", to.peer())
                });
            } else if kept > 0 {
                self.violate(Kind::EarlyEnd, || format!("{to:?} is closed with {kept} bytes kept back"));
            } else if !ended_before && (delivered < sent || !(source.fin || abandoned)) {
                self.violate(Kind::EarlyEnd, || {
                    format!("{to:?} is closed after {delivered} of {sent} bytes")
                });
            }
        }
    }

    /// The connection is over.
    pub(super) fn check_released(&mut self, held_bytes: usize) {
        let pipes = self.pipes.len();
        if pipes > 0 || held_bytes > 0 {
            self.violate(Kind::Release, || format!("{pipes} pipes and {held_bytes} bytes are left over"));
        }
    }
}
