//! From the start to the end: the main thread waits for signals, and for the time when what drains is to be closed.
//!
//! Knows: what each signal asks for, how long draining may take. Never: how a port is freed, what a connection misses.
//! Source: docs/stop.md.

use std::time::Duration;

use super::controllers::AtWork;
use super::deadlines::Draining;
use crate::net::Phase;
use crate::observe::{End, Event, Log};
use crate::process::{Cause, Shutdown};
use crate::sys::clock::OwnTime;

/// As long as this the time of what drains is waited for at once. A pause of the process costs what drains no more of its time.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Waits until nothing is left to serve, or a signal or the time says that it is over.
pub(super) fn await_the_end(
    mut shutdown: Shutdown,
    at_work: &AtWork,
    patience: Duration,
    log: &Log,
) -> Cause {
    let clock = at_work.clock;
    // Draining goes by this thread's own time: after a pause those who could not go on meanwhile have what they had left.
    let mut own = OwnTime::at(clock.now());
    let mut draining: Vec<Draining> = Vec::new();
    let mut until = None;
    loop {
        let now = own.reading(clock.now());
        for asked in at_work.deadlines.take() {
            draining.retain(|one| one.running.id() != asked.running.id());
            draining.push(Draining { time: now + asked.time, ..asked });
        }
        draining.retain(|one| one.running.phase() != Phase::Stopped);
        let next = draining.iter().map(|one| one.time).chain(until).min();
        let asked = next.map(|at| at.saturating_sub(now).min(AT_ONCE));
        let cause = shutdown.wait(asked, log);
        let now = own.waited(asked, clock.now());
        match cause {
            Cause::Signal => return cause,
            Cause::Drain if until.is_some() || patience.is_zero() => return Cause::Signal,
            Cause::Drain => {
                log.tell(&Event::Stopping { connections: at_work.connections(), within: Some(patience) });
                at_work.drain();
                if !at_work.serves() {
                    return Cause::Drained;
                }
                until = Some(own.reading(clock.now()) + patience);
            }
            Cause::Drained if until.is_some() && !at_work.serves() => return cause,
            // Somebody may have been started since, or be about to be.
            Cause::Drained if until.is_none() && at_work.roster.is_over() => return cause,
            Cause::Reload if until.is_none() => at_work.roster.reload_soon(),
            Cause::Drained | Cause::Reload | Cause::TimeIsUp => {}
        }
        if until.is_some_and(|until| now >= until) {
            return Cause::TimeIsUp;
        }
        for one in draining.extract_if(.., |one| now >= one.time) {
            one.log.tell(&Event::Stopping { connections: one.running.connections() as u64, within: None });
            one.running.close_all(End::ShutDown);
        }
    }
}
