//! Checks again what `--transparent` lacks after channels of a service have changed.
//!
//! Knows: when to check, what was logged before. Never: rules, routes, who has changed what.
//! Source: docs/transparent.md.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use super::prepared::Served;
use super::roster::{Written, survey};
use super::ways;
use crate::observe::{Event, Log, Severity};
use crate::sched::SharedTable;
use crate::spec::ListenSpan;
use crate::sys::Clock;

/// Checks what a service with `--transparent` lacks when its channels have changed, and logs each result
/// once.
pub(super) struct WayWatch {
    written: Arc<RwLock<Written>>,
    table: SharedTable,
    listen: ListenSpan,
    log: Log,
    clock: Clock,
    /// Whether a check is about to begin.
    is_asked: AtomicBool,
    told: Mutex<Option<String>>,
}

impl WayWatch {
    pub(super) fn new(served: &Served, written: &Arc<RwLock<Written>>, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            written: Arc::clone(written),
            table: served.parts.table.clone(),
            listen: served.parts.span,
            log: served.log.clone(),
            clock,
            is_asked: AtomicBool::new(false),
            told: Mutex::default(),
        })
    }

    /// Call this when channels may have changed. The check runs on a thread of its own, since it takes a
    /// while with many channels.
    pub(super) fn changed(self: &Arc<Self>) {
        if !self.written.read().unwrap_or_else(PoisonError::into_inner).spec.transparent
            || self.is_asked.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let mine = Arc::clone(self);
        let spawned = thread::Builder::new().name("ways".into()).spawn(move || mine.look());
        if spawned.is_err() {
            self.is_asked.store(false, Ordering::SeqCst);
        }
    }

    fn look(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_asked.store(false, Ordering::SeqCst);
        let now = survey(&self.table, self.clock);
        let text = ways::lacking(self.listen, &now).map(|sign| ways::in_words(&sign));
        if let Some(text) = text.as_ref().filter(|_| *told != text) {
            self.log.tell(&Event::Note { severity: Severity::Warning, text: text.clone() });
        }
        *told = text;
    }
}
