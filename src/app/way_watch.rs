//! Checks again what `--transparent` lacks after channels of a service have changed.
//!
//! Knows: when to check, what was logged before. Never: rules, routes, who has changed what.
//! Source: docs/transparent.md.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::surveyed::survey;
use super::ways;
use crate::observe::{Event, Log, Severity};
use crate::sched::SharedTable;
use crate::spec::ListenSpan;
use crate::sys::Clock;

/// Checks what a service with `--transparent` lacks when its channels have changed, and logs each result
/// once.
pub(super) struct WayWatch {
    table: SharedTable,
    listen: ListenSpan,
    /// Whether a check is about to begin.
    is_asked: AtomicBool,
    told: Mutex<Option<String>>,
}

impl WayWatch {
    /// For the table of a service that listens there.
    pub(super) fn new(table: &SharedTable, listen: ListenSpan) -> Arc<Self> {
        let (is_asked, told) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { table: table.clone(), listen, is_asked, told })
    }

    /// Call this when channels of a service with the option may have changed, by a command or because a name
    /// has other addresses. The check runs on a thread of its own, since it takes a while with many channels.
    pub(super) fn changed(self: &Arc<Self>, log: &Log, clock: Clock) {
        if self.is_asked.swap(true, Ordering::SeqCst) {
            return;
        }
        let (mine, log) = (Arc::clone(self), log.clone());
        let spawned = thread::Builder::new().name("ways".into()).spawn(move || mine.look(&log, clock));
        if spawned.is_err() {
            self.is_asked.store(false, Ordering::SeqCst);
        }
    }

    fn look(&self, log: &Log, clock: Clock) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_asked.store(false, Ordering::SeqCst);
        let now = survey(&self.table, clock);
        let text = ways::lacking(self.listen, &now).map(|sign| ways::in_words(&sign));
        if let Some(text) = text.as_ref().filter(|_| *told != text) {
            log.tell(&Event::Note { severity: Severity::Warning, text: text.clone() });
        }
        *told = text;
    }
}
