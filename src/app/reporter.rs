//! The thread that reports the state of the service to the service manager, and feeds its watchdog while all
//! workers run.
//!
//! Knows: when to report, the text of the status. Never: how it is sent (`process`), what is served.
//! Source: docs/systemd.md.
//!
//! Without a service manager there is no thread.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::counted;
use super::passed::kept_place;
use super::roster::Roster;
use crate::control::Services;
use crate::net::server::Server;
use crate::observe::{Event, Log, Severity};
use crate::process;

/// How often the status is updated.
const PACE: Duration = Duration::from_secs(1);
/// The watchdog is fed this many times within its interval.
const MEALS: u32 = 3;

/// Reports to the service manager.
pub(super) struct Reporter {
    server: Server,
    services: Arc<Services>,
    roster: Arc<Roster>,
}

impl Reporter {
    pub(super) fn new(server: Server, services: Arc<Services>, roster: Arc<Roster>) -> Arc<Self> {
        Arc::new(Self { server, services, roster })
    }

    /// Reports that clients are served, and keeps reporting as long as this value lives.
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

    /// Reports that the end has begun and connections have this much time.
    pub(super) fn stops(&self, within: Duration) {
        if !process::has_manager() {
            return;
        }
        // The manager would keep its copies of the listeners open, and the ports would not be free.
        process::forget_listeners();
        process::tell_stopping(&draining(self.server.connections()), within);
    }

    fn keep_listeners(&self) {
        // During a reload the listeners are not known, and this does not wait for its end.
        if let Some(listeners) = self.roster.listeners() {
            let kept = listeners.iter().filter_map(|(listener, fd)| Some((kept_place(listener)?, fd)));
            process::keep_listeners(&kept.collect::<Vec<_>>());
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

/// Reports until nobody needs it any more.
fn tell(reporter: &Weak<Reporter>) {
    let watchdog = process::watchdog_interval().map(|interval| interval / MEALS);
    let pace = watchdog.map_or(PACE, |meal| meal.min(PACE));
    loop {
        thread::sleep(pace);
        let Some(reporter) = reporter.upgrade() else { return };
        // The slowest worker decides. The other workers go on while this waits, and the status comes a little
        // later.
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
