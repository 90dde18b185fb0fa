//! From the start to the end: the main thread waits for signals, and for the end of the time for draining.
//!
//! Knows: what each signal asks for, how long draining may take. Never: how a port is freed, what a
//! connection misses.
//! Source: docs/stop.md.

use std::time::Duration;

use rustix::process::{Signal, kill_process};

use super::controllers::AtWork;
use super::deadlines::Draining;
use crate::handover::message::EndAsked;
use crate::net::Phase;
use crate::observe::{Event, Log};
use crate::process::{Cause, Shutdown};
use crate::sched::End;
use crate::sys::clock::OwnTime;

/// The longest single wait. A pause of the process costs those who drain at most this much of their time.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long the end takes at most after all connections have gone: last log lines, state file, event
/// programs.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Why SIGUSR1 does nothing.
const NO_LOG: &str = "there is no log file to reopen";
/// How often to check whether the predecessor has sent everything.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until nothing is left to serve, or a signal or the time ends it.
pub(super) fn await_the_end(
    mut shutdown: Shutdown,
    at_work: &AtWork,
    patience: Duration,
    log: &Log,
) -> Cause {
    let clock = at_work.clock;
    // Draining uses this thread's own time. So after a pause of the process, connections that could not go on
    // still have the time they had left.
    let mut own = OwnTime::at(clock.now());
    let mut draining: Vec<Draining> = Vec::new();
    let mut until = None;
    let (mut deferred, mut is_succeeded) = (None, false);
    // Whether it drains because the predecessor said so.
    let mut is_echo = false;
    loop {
        let now = own.reading(clock.now());
        for asked in at_work.deadlines.take() {
            draining.retain(|one| one.running.id() != asked.running.id());
            draining.push(Draining { time: now + asked.time, ..asked });
        }
        draining.retain(|one| one.running.phase() != Phase::Stopped);
        let next = draining.iter().map(|one| one.time).chain(until).min();
        let upgrader = &at_work.upgrader;
        let mut asked = next.map(|at| at.saturating_sub(now).min(AT_ONCE));
        if deferred.is_some() && upgrader.is_receiving() {
            asked = Some(LOOK_AGAIN);
        }
        let is_free = !upgrader.is_under_way() && !upgrader.is_receiving();
        if is_free && let Some(asked) = upgrader.take_inherited() {
            // Both processes may have received the same signal.
            let is_known = asked == EndAsked::Drain && until.is_some();
            is_echo |= !is_known;
            deferred = strongest(deferred, Some(cause_of(asked)).filter(|_| !is_known));
        }
        let cause = match deferred.take() {
            Some(cause) if is_free => cause,
            waits => {
                deferred = waits;
                shutdown.wait(asked, log)
            }
        };
        let now = own.waited(asked, clock.now());
        if cause == Cause::Reopen {
            match upgrader.successor() {
                // A signal to the old process is meant for the new one.
                Some(successor) => _ = kill_process(successor, Signal::USR1),
                None if at_work.writes_log() => {}
                None => log.tell(&Event::SignalIgnored { signal: "USR1".into(), why: NO_LOG }),
            }
            at_work.reopen_soon();
            continue;
        }
        if cause == Cause::Reload {
            at_work.reopen_soon();
        }
        let cause = match cause {
            // It drains already, or has no predecessor that could have passed this on.
            Cause::DrainToo if until.is_some() || !upgrader.is_heir() => continue,
            Cause::DrainToo => {
                is_echo = true;
                Cause::Drain
            }
            // If both processes were told, this is the first signal to this one, and not the second.
            Cause::Drain if until.is_some() && std::mem::take(&mut is_echo) => continue,
            cause => cause,
        };
        if let Some(successor) = upgrader.successor() {
            // A signal to the old process is meant for the new one.
            let meant = match cause {
                Cause::Reload => Some(Signal::HUP),
                // Not if the successor was already told together with everything else.
                Cause::Drain if !is_succeeded && !upgrader.has_told(EndAsked::Drain) => Some(Signal::URG),
                Cause::Signal if !is_succeeded && !upgrader.has_told(EndAsked::AtOnce) => Some(Signal::INT),
                _ => None,
            };
            meant.iter().for_each(|&signal| _ = kill_process(successor, signal));
            if !at_work.serves() {
                return Cause::Drained;
            }
            if !std::mem::replace(&mut is_succeeded, true) {
                at_work.go_apart();
            }
            match cause {
                Cause::Signal => return cause,
                Cause::Drain if until.is_some() || patience.is_zero() => return Cause::Signal,
                Cause::Drain => until = Some(own.reading(clock.now()) + patience),
                _ => {}
            }
        } else if upgrader.is_under_way() {
            // A second SIGTERM means at once, even if nothing has been done about the first yet.
            let is_second = cause == Cause::Drain && (deferred == Some(Cause::Drain) || until.is_some());
            let cause = if is_second { Cause::Signal } else { cause };
            match cause {
                Cause::Signal => {
                    upgrader.cancel(EndAsked::AtOnce);
                    upgrader.pass_on(Signal::INT);
                }
                Cause::Drain => {
                    upgrader.cancel(EndAsked::Drain);
                    upgrader.pass_on(Signal::URG);
                }
                _ => {}
            }
            deferred = strongest(deferred, Some(cause));
            continue;
        } else if upgrader.is_receiving() {
            let is_second = cause == Cause::Drain && (until.is_some() || patience.is_zero());
            match cause {
                _ if cause == Cause::Signal || is_second => {
                    // Otherwise the predecessor would serve again.
                    upgrader.end_predecessor();
                    return Cause::Signal;
                }
                Cause::Upgrade => {
                    deferred = strongest(deferred, Some(cause));
                    continue;
                }
                // Clients are about to come, and the predecessor must hear that they have arrived.
                Cause::Drained => continue,
                _ => {}
            }
        }
        match cause {
            _ if is_succeeded => {}
            Cause::Signal => return cause,
            Cause::Drain if until.is_some() || patience.is_zero() => return Cause::Signal,
            Cause::Drain => {
                log.tell(&Event::Stopping { connections: at_work.connections(), within: Some(patience) });
                at_work.reporter.stops(patience + ENDS_WITHIN);
                at_work.drain();
                if !at_work.serves() {
                    return Cause::Drained;
                }
                until = Some(own.reading(clock.now()) + patience);
            }
            Cause::Drained if until.is_some() && !at_work.serves() => return cause,
            // A service may have been started since, or is about to be.
            Cause::Drained if until.is_none() && at_work.roster.is_over() => return cause,
            Cause::Reload if until.is_none() => {
                at_work.bring_names_back();
                // Opening the log again may be all that was wanted.
                if !at_work.writes_log() || at_work.roster.has_file() {
                    at_work.roster.reload_soon();
                }
            }
            Cause::Upgrade if until.is_none() => upgrader.upgrade_soon(),
            Cause::DrainToo
            | Cause::Drained
            | Cause::Reload
            | Cause::Upgrade
            | Cause::Reopen
            | Cause::TimeIsUp => {}
        }
        if until.is_some_and(|until| now >= until) {
            if upgrader.is_receiving() {
                upgrader.end_predecessor();
            }
            return Cause::TimeIsUp;
        }
        for one in draining.extract_if(.., |one| now >= one.time) {
            one.log.tell(&Event::Stopping { connections: one.running.connections() as u64, within: None });
            one.running.close_all(End::ShutDown);
        }
    }
}

fn cause_of(asked: EndAsked) -> Cause {
    match asked {
        EndAsked::Drain => Cause::Drain,
        EndAsked::AtOnce => Cause::Signal,
    }
}

/// The strongest of two requests.
fn strongest(one: Option<Cause>, other: Option<Cause>) -> Option<Cause> {
    [one, other].into_iter().flatten().max_by_key(|&cause| strength(cause))
}

/// The rank of a request among several.
fn strength(cause: Cause) -> u8 {
    match cause {
        Cause::Signal => 3,
        Cause::Drain | Cause::DrainToo => 2,
        Cause::Reload | Cause::Upgrade | Cause::Reopen => 1,
        Cause::Drained | Cause::TimeIsUp => 0,
    }
}
