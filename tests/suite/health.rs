//! Channels that recover by themselves, seen from outside: ejection and return, checks, and what follows when
//! a channel is down.
//!
//! Tests count events and connections, not seconds: on a slow machine, late is not wrong. Where the order
//! matters, the test holds the server back until it has looked.
//!
//! Source: docs/health.md.

mod addresses;
mod black_hole;
mod checks;
mod door;
mod early;
mod going_down;
mod outages;
mod own_checks;
mod passive;
mod paused;
mod programs;
mod race;
mod real_servers;
mod silent;
mod slow_start;
mod total;

use crate::harness::{Got, Instance, Visit};

/// The names that so many clients, one after the other, get; `-` for one that was closed.
fn names(instance: &Instance, n: usize) -> String {
    (0..n).map(|_| name(instance)).collect()
}

/// The name that a client gets.
fn name(instance: &Instance) -> char {
    match crate::harness::visit(instance.addr).got {
        Got::Name(name) => name,
        Got::Closed => '-',
        Got::Refused => '!',
    }
}

/// How many of the clients got this.
fn count(visits: &[Visit], got: Got) -> usize {
    visits.iter().filter(|visit| visit.got == got).count()
}
