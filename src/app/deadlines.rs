//! How long services may drain, as set by operators.
//!
//! Knows: what was asked for. Never: what time it is.
//! Source: docs/stop.md.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::net::server::Running;
use crate::observe::Log;
use crate::process::Notifier;
use crate::sched::End;

/// A service that takes no clients any more, and how long its connections may go on.
pub(super) struct Draining {
    pub(super) running: Running,
    pub(super) log: Log,
    pub(super) time: Duration,
}

/// Collects the time limits that operators set.
pub(super) struct Deadlines {
    asked: Mutex<Vec<Draining>>,
    notifier: Notifier,
}

impl Deadlines {
    pub(super) fn new(notifier: Notifier) -> Self {
        Self { asked: Mutex::default(), notifier }
    }

    /// Closes the remaining connections of this service after `time`; 0: now. The latest limit counts.
    pub(super) fn end(&self, running: &Running, log: &Log, time: Duration) {
        if time.is_zero() {
            running.close_all(End::ShutDown);
            return;
        }
        let asked = Draining { running: running.clone(), log: log.clone(), time };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        self.notifier.drained();
    }

    pub(super) fn take(&self) -> Vec<Draining> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
