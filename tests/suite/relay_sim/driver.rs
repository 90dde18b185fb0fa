//! One connection from its first event to its release, served as a worker serves it.
//!
//! Knows: when the relay gets events and turns, its deadlines. Never: what the relay decides.

use balance::wire::relay::{Ending, Relay, Side, Verdict};

use super::faulty::{Bug, Faulty};
use super::kernel::{Pipe, VirtualKernel};
use super::oracle::Kind;
use super::world::World;

/// As in a worker, in ms.
const LATER: u64 = 4;
const LATER_MOST: u64 = 1000;
/// The half-close deadline, in ms.
const HALF_CLOSE: u64 = 5000;
/// Turns in a row that want another one and come to nothing.
const IDLE_TURNS: u32 = 3;

pub(super) struct Driver {
    relay: Relay<Pipe>,
    scratch: Vec<u8>,
    bug: Bug,
    idle_timeout: Option<u64>,
    /// Wants another turn.
    queued: bool,
    asleep: bool,
    lingers: bool,
    deadline: Option<u64>,
    moved_at: u64,
    idle_turns: u32,
    pub(super) done: bool,
}

impl Driver {
    pub(super) fn new(world: &mut World, bug: Bug) -> Self {
        let sizes = [3, 64, 1000, 4096, 65_536];
        let scratch = sizes[world.random.below(sizes.len() as u64) as usize];
        Self {
            relay: Relay::new(),
            scratch: vec![0; scratch],
            bug,
            idle_timeout: world.random.chance(200).then_some(3000),
            queued: false,
            asleep: false,
            lingers: false,
            deadline: None,
            moved_at: 0,
            idle_turns: 0,
            done: false,
        }
    }

    /// The channel has answered.
    pub(super) fn connect(&mut self, world: &mut World) {
        world.connected = true;
        world.trace(|_| "connected".to_owned());
        let socket = &mut world.sockets[Side::Server as usize];
        socket.armed = false;
        let ready = socket.mask();
        self.relay.note(Side::Server, self.bug.event(ready));
        let header = world.streams[Side::Client as usize].bytes(0, world.lead as usize).to_vec();
        self.relay.lead(header);
        self.relay.ask_about_end();
        self.moved_at = world.now;
        self.rearm();
        let client = &world.sockets[Side::Client as usize];
        let waiting = client.readable();
        let is_plain =
            client.mark.is_none() && client.error.is_none() && world.lead < self.scratch.len() as u64;
        self.turn(world);
        world.check_lead(waiting, is_plain);
    }

    /// One round of a worker's loop.
    pub(super) fn round(&mut self, world: &mut World) {
        for (side, ready) in world.events() {
            if self.done {
                return;
            }
            world.tell(side, ready);
            self.relay.note(side, self.bug.event(ready));
            if world.connected && !self.queued {
                self.turn(world);
            }
        }
        if std::mem::take(&mut self.queued) && !self.done {
            self.turn(world);
        }
        if !self.done && self.deadline.is_some_and(|deadline| deadline <= world.now) {
            self.deadline = None;
            self.expired(world);
        }
        let quiet = world.sockets.iter().all(|socket| !socket.armed);
        if world.connected && !self.done && self.asleep && !self.queued && quiet {
            world.check_sleep();
        }
    }

    /// Between two turns: another process goes on with it, or it stays after all.
    pub(super) fn carry(&mut self, world: &mut World) {
        let mut kernel = Faulty { inner: VirtualKernel(world), bug: self.bug };
        let packed = self.relay.pack(&mut kernel);
        world.tapped = None;
        let Ok((mut record, mut bytes)) = packed else {
            world.trace(|_| "it stays".to_owned());
            return;
        };
        world.stats.carried += 1;
        world.stats.carried_bytes += bytes.len() as u64;
        world.trace(|_| format!("carried with {} bytes: {record:?}", bytes.len()));
        if !world.pipes.is_empty() {
            world.violate(Kind::Release, || "it is packed and pipes are not given back".to_owned());
        }
        self.bug.carry(&mut record, &mut bytes);
        self.relay = Relay::unpack(&record, &bytes).expect("a relay was like this");
        if self.bug != Bug::HearsOnlyNews {
            // Whoever begins to watch a socket hears of what is there already.
            for socket in &mut world.sockets {
                socket.armed = true;
            }
        }
        (self.asleep, self.lingers, self.queued) = (false, false, true);
        self.rearm();
    }

    fn turn(&mut self, world: &mut World) {
        let (progress, moved) = (world.progress, world.counted);
        let was_half_closed = self.relay.is_half_closed();
        world.fruitless = 0;
        let before = |from: Side| world.counted[from.peer() as usize] + self.relay.held_from(from) as u64;
        // The header was never read.
        let before = [world.lead + before(Side::Client), before(Side::Server)];
        world.tap(before);
        world.trace(|_| "turn".to_owned());
        let mut kernel = Faulty { inner: VirtualKernel(world), bug: self.bug };
        let verdict = self.relay.turn(&mut kernel, &mut self.scratch);
        let verdict = self.bug.verdict(verdict, world);
        world.trace(|_| format!("  {verdict:?}"));
        if world.counted != moved {
            self.moved_at = world.now;
        }
        world.check_turn(self.relay.held_bytes(), self.scratch.len());
        world.check_tap();
        let one_is_gone = world.sockets.iter().any(|socket| socket.reset);
        if verdict == Verdict::Sleep || (verdict == Verdict::Later && world.weather.is_calm()) {
            world.check_corks();
        }
        let is_calm = world.weather.is_calm() && world.ailing == [false; 2];
        if verdict == Verdict::Later && is_calm && !one_is_gone {
            world.violate(Kind::Spin, || "it wants to be asked again and an event tells of all".to_owned());
        }
        (self.asleep, self.lingers) = (verdict == Verdict::Sleep, verdict == Verdict::Later);
        match verdict {
            Verdict::Sleep => {
                if !was_half_closed && self.relay.is_half_closed() {
                    self.rearm();
                }
            }
            Verdict::Again => {
                self.queued = true;
                self.idle_turns = if world.progress > progress { 0 } else { self.idle_turns + 1 };
                if self.idle_turns > IDLE_TURNS {
                    world.violate(Kind::Spin, || {
                        format!("{IDLE_TURNS} turns without progress want another one")
                    });
                }
                return;
            }
            Verdict::Later => {
                world.stats.lingers += u64::from(one_is_gone);
                let quiet = world.now - self.moved_at;
                self.deadline = Some(world.now + (quiet / 8).clamp(LATER, LATER_MOST));
            }
            Verdict::Ask { is_reset } => {
                if world.counted != [0; 2] {
                    let counted = world.counted;
                    world.violate(Kind::Spin, || format!("it asks after {counted:?} bytes"));
                }
                self.relay.accept_end(is_reset);
                return self.turn(world);
            }
            Verdict::Done(ending) => self.close(world, ending, false),
        }
        self.idle_turns = 0;
    }

    /// When the connection has been quiet for too long.
    fn due(&self) -> Option<u64> {
        let half_close = self.relay.is_half_closed().then_some(HALF_CLOSE);
        let quiet = [half_close, self.idle_timeout].into_iter().flatten().min()?;
        (self.bug != Bug::NoDeadline).then_some(self.moved_at + quiet)
    }

    fn rearm(&mut self) {
        self.deadline = self.due();
    }

    fn expired(&mut self, world: &mut World) {
        if self.due().is_none_or(|due| due > world.now) {
            self.rearm();
            self.turn(world);
            return;
        }
        // What arrived in the very moment of the deadline is another story: here it comes a moment later.
        if world.sockets.iter().any(|socket| socket.armed) || self.queued {
            self.deadline = Some(world.now);
            return;
        }
        let mut kernel = Faulty { inner: VirtualKernel(world), bug: self.bug };
        let ending = self.relay.abandon(&mut kernel);
        world.trace(|_| format!("abandoned: {ending:?}"));
        self.close(world, ending, true);
    }

    fn close(&mut self, world: &mut World, ending: Ending, abandoned: bool) {
        self.done = true;
        world.check_close(ending, abandoned);
        if abandoned {
            world.stats.abandoned += 1;
        } else if world.sockets.iter().filter(|socket| socket.reset).count() == 1 {
            world.stats.passed_resets += 1;
        } else if !ending.reset_client {
            world.stats.clean += 1;
        }
        world.close(Side::Client, ending.reset_client);
        world.close(Side::Server, ending.reset_server);
        let mut kernel = Faulty { inner: VirtualKernel(world), bug: self.bug };
        // Once more must do no harm.
        self.relay.release(&mut kernel);
        world.check_released(self.relay.held_bytes());
    }

    /// Both programs finish; so must the connection.
    pub(super) fn wind_down(&mut self, world: &mut World) {
        let mut quiet = 0;
        let mut looks = 0;
        let mut jumped = false;
        while !self.done && world.violation.is_none() {
            let before = world.progress;
            world.wind_down();
            self.round(world);
            if world.progress > before {
                looks = 0;
            }
            quiet = if world.progress > before || self.queued { 0 } else { quiet + 1 };
            if quiet < 5 {
                continue;
            }
            quiet = 0;
            // Nothing moves any more but the clock.
            if self.lingers && looks < 50 && !world.somebody_never_reads() {
                looks += 1;
                world.now = self.deadline.unwrap_or(world.now).max(world.now + 1);
            } else if !world.somebody_never_reads() {
                world.violate(Kind::NeverEnds, || {
                    "both programs have finished and the connection stays".to_owned()
                });
            } else if !jumped {
                jumped = true;
                world.now += 2 * HALF_CLOSE;
            } else {
                world.violate(Kind::NeverEnds, || {
                    "the deadline has passed and the connection stays".to_owned()
                });
            }
        }
    }
}
