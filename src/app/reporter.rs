//! The thread that tells the service manager how the service fares, and that all workers are well.
//!
//! Knows: when that is told, the words of the status. Never: how it is told (`process`), what is served.
//! Source: docs/systemd.md.
//!
//! There is none where there is no service manager.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::counted;
use super::roster::Roster;
use crate::control::Services;
use crate::net::server::Server;
use crate::observe::{Event, Log, Severity};
use crate::process;

/// Between two looks whether there is another status to tell.
const PACE: Duration = Duration::from_secs(1);
/// The watchdog is fed so often within its time.
const MEALS: u32 = 3;

/// Tells the service manager how things are.
pub(super) struct Reporter {
    server: Server,
    services: Arc<Services>,
    roster: Arc<Roster>,
}

impl Reporter {
    pub(super) fn new(server: Server, services: Arc<Services>, roster: Arc<Roster>) -> Arc<Self> {
        Arc::new(Self { server, services, roster })
    }

    /// Clients are served: says so, and goes on to tell how things are for as long as this lives.
    pub(super) fn begin(self: &Arc<Self>, log: &Log) {
        if !process::has_manager() {
            return;
        }
        self.keep_listeners();
        process::tell_ready(&self.status());
        let told = Arc::downgrade(self);
        if let Err(e) = thread::Builder::new().name("manager".into()).spawn(move || tell(&told)) {
            let text = format!(
                "the service manager gets no more reports, and its watchdog gets no signals: no thread: {e}"
            );
            log.tell(&Event::Note { severity: Severity::Error, text });
        }
    }

    /// The end has begun: connections have so long.
    pub(super) fn stops(&self, within: Duration) {
        if !process::has_manager() {
            return;
        }
        // Otherwise the ports would not be free.
        process::forget_listeners();
        process::tell_stopping(&draining(self.server.connections()), within);
    }

    fn keep_listeners(&self) {
        // In the middle of a reload they are not known, and nobody waits for its end here.
        if let Some(listeners) = self.roster.listeners() {
            // A Unix socket that is passed back cannot be told from others by its name.
            let net = listeners.iter().filter_map(|(at, fd)| Some((at.net()?, fd)));
            process::keep_listeners(&net.collect::<Vec<_>>());
        }
    }

    /// One line for people: `3/4 up, 812 connections`.
    fn status(&self) -> String {
        let connections = self.server.connections();
        let serving: Vec<_> = self.services.all().into_iter().filter(|one| !one.is_killed()).collect();
        if serving.is_empty() {
            return draining(connections);
        }
        let (up, all) =
            serving.iter().map(|one| one.up_and_all()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let trouble =
            self.roster.last_trouble().map_or_else(String::new, |why| format!("; reload failed: {why}"));
        format!("{up}/{all} up, {}{trouble}", counted(connections, "connection"))
    }
}

fn draining(connections: usize) -> String {
    format!("draining, {}", counted(connections, "connection"))
}

/// Until nobody needs it.
fn tell(reporter: &Weak<Reporter>) {
    let watchdog = process::watchdog_interval().map(|interval| interval / MEALS);
    let pace = watchdog.map_or(PACE, |meal| meal.min(PACE));
    loop {
        thread::sleep(pace);
        let Some(reporter) = reporter.upgrade() else { return };
        // The slowest worker feeds it. The others go on meanwhile; so does the status, a little later.
        if watchdog.is_some_and(|meal| reporter.server.comes_round_within(meal)) {
            process::feed_watchdog();
        }
        if reporter.server.is_closing() {
            continue;
        }
        reporter.keep_listeners();
        process::tell_status(&reporter.status());
    }
}
