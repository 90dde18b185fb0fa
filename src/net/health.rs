//! The thread that minds the channels' health: probes on time, the door shut while nobody is up.
//!
//! Knows: which probe is for what, whom a change concerns. Never: thresholds and delays (those are the table's), how a probe
//! is made.
//! Source: docs/health.md.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::probe::{Engine, Order, Outcome};
use super::server::{Message, Shared};
use crate::observe::{Event, Severity};
use crate::sched::{Happened, Probe, ProbeResult, Purpose, Transition};
use crate::spec::Check;

/// A probe for a return does not wait for longer than this, whatever `-t` says: the next one may be luckier.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);
/// Probes begun in one go, so that answers are not left waiting.
const PROBES: usize = 64;
/// A door that could not be moved is tried again after this.
const DOOR_RETRY: Duration = Duration::from_secs(1);

/// How channels are checked.
#[derive(Debug, Clone)]
pub struct Checks {
    /// What a check asks.
    pub check: Arc<Check>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The port to ask instead of the channel's.
    pub port: Option<NonZeroU16>,
    /// A channel that goes down loses its connections.
    pub kick: bool,
}

/// The state of the thread.
pub(super) struct Health {
    engine: Engine,
    shared: Arc<Shared>,
    under_way: HashMap<u64, Probe>,
    next_id: u64,
    door: Door,
}

/// What has become of the listener.
#[derive(Debug, Default)]
struct Door {
    /// Connects are refused just now.
    is_shut: bool,
    /// When one that could not be moved is tried again.
    retry_at: Option<Duration>,
}

impl Door {
    /// Is it to be moved now, to be shut or not?
    fn is_due(&mut self, shut: bool, now: Duration) -> bool {
        if shut == self.is_shut {
            // Whatever could not be done before is not wanted any more.
            self.retry_at = None;
            return false;
        }
        self.retry_at.is_none_or(|at| at <= now)
    }

    fn moved(&mut self, shut: bool) {
        (self.is_shut, self.retry_at) = (shut, None);
    }

    fn stuck(&mut self, now: Duration) {
        self.retry_at = Some(now + DOOR_RETRY);
    }
}

impl Health {
    pub(super) fn new(engine: Engine, shared: Arc<Shared>) -> Self {
        Self { engine, shared, under_way: HashMap::new(), next_id: 0, door: Door::default() }
    }

    /// Minds them until the process is about to end.
    pub(super) fn run(&mut self) {
        while !self.shared.ended.load(Ordering::SeqCst) {
            if catch_unwind(AssertUnwindSafe(|| self.mind())).is_err() {
                self.shared.log.tell(&Event::WorkerPanic { what: "health".into() });
            }
        }
    }

    fn mind(&mut self) {
        let mut done = Vec::new();
        while !self.shared.ended.load(Ordering::SeqCst) {
            let clock = self.shared.dialer.clock;
            let (due, next) = {
                let mut table = self.shared.dialer.table.lock_at(clock.now());
                (table.probes_due(PROBES), table.next_probe())
            };
            due.into_iter().for_each(|probe| self.begin(probe));
            if self.shared.options.refuse_when_down {
                self.mind_the_door();
            }
            self.shared.serve_line();
            let until = [next, self.door.retry_at].into_iter().flatten().min();
            self.engine.wait(until.map(|at| clock.instant(at)), &mut done);
            for (id, outcome) in done.drain(..) {
                self.answered(id, outcome);
            }
        }
    }

    fn begin(&mut self, probe: Probe) {
        let options = &self.shared.options;
        let (check, timeout, port) = match probe.purpose {
            Purpose::Return => (Arc::new(Check::Tcp), options.connect_timeout.min(RETURN_PATIENCE), None),
            Purpose::Check => {
                let checks = &options.checks;
                (Arc::clone(&checks.check), checks.timeout, checks.port.map(NonZeroU16::get))
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        self.engine.start(Order { id, addresses: probe.addresses.clone(), port, check, timeout });
        self.under_way.insert(id, probe);
    }

    fn answered(&mut self, id: u64, outcome: Outcome) {
        let Some(probe) = self.under_way.remove(&id) else { return };
        let result = match outcome {
            Outcome::Up => ProbeResult::Good,
            Outcome::Down(why) => ProbeResult::Bad(why),
            Outcome::Unknown(cause) => {
                let text = format!(
                    "cannot check group {} channel {}: {cause}",
                    probe.channel.group.index(),
                    probe.channel.channel.index()
                );
                self.shared.log.tell(&Event::Note { severity: Severity::Debug, text });
                ProbeResult::Unknown
            }
        };
        let now = self.shared.dialer.clock.now();
        let Some(transition) = self.shared.dialer.table.lock_at(now).probed(&probe, result) else { return };
        let kicks = self.shared.options.checks.kick && matches!(transition.what, Happened::Down(_));
        self.shared.log.tell(&event_of(transition));
        if kicks {
            // Nobody waits for the count.
            let (answer, _) = std::sync::mpsc::sync_channel(1);
            for desk in &self.shared.desks {
                desk.send(Message::Close(probe.channel, answer.clone()));
            }
        }
    }

    /// Shuts the door while no channel is up, and opens it when one is.
    fn mind_the_door(&mut self) {
        let now = self.shared.dialer.clock.now();
        let refuse = !self.shared.dialer.table.lock_at(now).has_up();
        if !self.door.is_due(refuse, now) {
            return;
        }
        match if refuse { self.shut() } else { self.open() } {
            Ok(()) => {
                self.door.moved(refuse);
                self.shared.log.tell(&if refuse { Event::Refusing } else { Event::Welcoming });
            }
            Err(e) => {
                let text = format!("cannot {} listening: {e}", if refuse { "stop" } else { "go on" });
                self.shared.log.tell(&Event::Note { severity: Severity::Error, text });
                self.door.stuck(now);
            }
        }
    }

    fn shut(&self) -> io::Result<()> {
        self.shared.ask(super::server::PATIENCE, Message::Refuse);
        let shut = self.shared.ask_one(Message::CloseDoor).flatten().unwrap_or(Ok(()));
        if shut.is_err() {
            self.welcome();
        }
        shut
    }

    fn open(&self) -> io::Result<()> {
        self.shared.ask_one(Message::OpenDoor).flatten().unwrap_or(Ok(()))?;
        self.welcome();
        Ok(())
    }

    fn welcome(&self) {
        self.shared.desks.iter().for_each(|desk| desk.send(Message::Welcome));
    }
}

/// What an operator is told of a change.
pub(super) fn event_of(transition: Transition) -> Event {
    let Transition { channel, address, what } = transition;
    match what {
        Happened::Autodisabled => Event::Autodisabled { channel, address },
        Happened::Ejected(cause) => Event::Ejected { channel, address, cause },
        Happened::Returned(after) => Event::Returned { channel, address, after },
        Happened::Down(cause) => Event::ChannelDown { channel, address, cause },
        Happened::Up(after) => Event::ChannelUp { channel, address, after },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_that_is_stuck_is_tried_again_only_while_that_is_wanted() {
        let second = Duration::from_secs;
        let mut door = Door::default();
        assert!(!door.is_due(false, second(0)), "it is open");
        assert!(door.is_due(true, second(0)));
        door.stuck(second(0));
        assert!(!door.is_due(true, second(0)));
        assert!(door.is_due(true, second(1)));
        door.stuck(second(1));
        assert!(!door.is_due(false, second(1)));
        assert_eq!(door.retry_at, None, "nothing is left to wake for");
        assert!(door.is_due(true, second(1)));
        door.moved(true);
        assert!(!door.is_due(true, second(9)) && door.is_due(false, second(9)));
    }
}
