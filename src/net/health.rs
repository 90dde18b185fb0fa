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
use super::service::{Service, ServiceId};
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
    under_way: HashMap<u64, (Arc<Service>, Probe)>,
    next_id: u64,
    /// Of the services that may refuse.
    doors: HashMap<ServiceId, Door>,
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
        Self { engine, shared, under_way: HashMap::new(), next_id: 0, doors: HashMap::new() }
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
            let clock = self.shared.clock;
            let mut until = None;
            for service in self.shared.services() {
                let (due, next) = {
                    let mut table = service.dialer.table.lock_at(clock.now());
                    (table.probes_due(PROBES), table.next_probe())
                };
                due.into_iter().for_each(|probe| self.begin(&service, probe));
                let retry_at =
                    service.options.refuse_when_down.then(|| self.mind_the_door(&service)).flatten();
                self.shared.serve_line(&service);
                until = [until, next, retry_at].into_iter().flatten().min();
            }
            self.engine.wait(until.map(|at| clock.instant(at)), &mut done);
            for (id, outcome) in done.drain(..) {
                self.answered(id, outcome);
            }
        }
    }

    fn begin(&mut self, service: &Arc<Service>, probe: Probe) {
        let options = &service.options;
        let (check, timeout, port) = match probe.purpose {
            Purpose::Return => (Arc::new(Check::Tcp), options.connect_timeout.min(RETURN_PATIENCE), None),
            Purpose::Check => {
                let checks = &options.checks;
                (Arc::clone(&checks.check), checks.timeout, checks.port.map(NonZeroU16::get))
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        let addresses = probe.addresses.clone();
        let outgoing = options.outgoing;
        self.engine.start(Order { id, addresses, port, check, timeout, outgoing });
        self.under_way.insert(id, (Arc::clone(service), probe));
    }

    fn answered(&mut self, id: u64, outcome: Outcome) {
        let Some((service, probe)) = self.under_way.remove(&id) else { return };
        let result = match outcome {
            Outcome::Up => ProbeResult::Good,
            Outcome::Down(why) => ProbeResult::Bad(why),
            Outcome::Unknown(cause) => {
                let text = format!(
                    "cannot check group {} channel {}: {cause}",
                    probe.channel.group.index(),
                    probe.channel.channel.index()
                );
                service.log.tell(&Event::Note { severity: Severity::Debug, text });
                ProbeResult::Unknown
            }
        };
        let now = self.shared.clock.now();
        let Some(transition) = service.dialer.table.lock_at(now).probed(&probe, result) else { return };
        let kicks = service.options.checks.kick && matches!(transition.what, Happened::Down(_));
        service.log.tell(&event_of(transition));
        if kicks {
            // Nobody waits for the count.
            let (answer, _) = std::sync::mpsc::sync_channel(1);
            for desk in &self.shared.desks {
                desk.send(Message::Close(service.id, probe.channel, answer.clone()));
            }
        }
    }

    /// Shuts a service's door while no channel is up, and opens it when one is. When is it to be tried again?
    fn mind_the_door(&mut self, service: &Service) -> Option<Duration> {
        let now = self.shared.clock.now();
        let refuse = !service.dialer.table.lock_at(now).has_up();
        if !self.doors.entry(service.id).or_default().is_due(refuse, now) {
            return self.doors.get(&service.id)?.retry_at;
        }
        let moved = if refuse { self.shut(service.id) } else { self.open(service.id) };
        let door = self.doors.entry(service.id).or_default();
        match moved {
            Ok(()) => {
                door.moved(refuse);
                service.log.tell(&if refuse { Event::Refusing } else { Event::Welcoming });
            }
            Err(e) => {
                let text = format!("cannot {} listening: {e}", if refuse { "stop" } else { "go on" });
                service.log.tell(&Event::Note { severity: Severity::Error, text });
                door.stuck(now);
            }
        }
        door.retry_at
    }

    fn shut(&self, id: ServiceId) -> io::Result<()> {
        self.shared.ask(super::server::PATIENCE, |answer| Message::Refuse(id, answer));
        let shut = self.shared.ask_one(|answer| Message::CloseDoor(id, answer)).flatten().unwrap_or(Ok(()));
        if shut.is_err() {
            self.welcome(id);
        }
        shut
    }

    fn open(&self, id: ServiceId) -> io::Result<()> {
        self.shared.ask_one(|answer| Message::OpenDoor(id, answer)).flatten().unwrap_or(Ok(()))?;
        self.welcome(id);
        Ok(())
    }

    fn welcome(&self, id: ServiceId) {
        self.shared.desks.iter().for_each(|desk| desk.send(Message::Welcome(id)));
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
