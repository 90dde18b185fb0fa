//! Services with refused clients that were counted but not logged yet, and when to log them.
//!
//! Knows: a time for each service, which client was refused last. Never: how many there were (the service
//! knows), clocks, the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::net::service::{REFUSALS_TOLD_MS, Service, ServiceId};
use crate::sched::End;
use crate::spec::ClientSource;

/// A service with refusals to log.
#[derive(Debug)]
pub(super) struct UntoldRefusals {
    pub(super) service: Arc<Service>,
    /// The last refused client ...
    pub(super) last: ClientSource,
    /// ... and why it was refused.
    pub(super) reason: End,
}

/// All such services of a worker, the one whose time comes first at the front.
#[derive(Debug, Default)]
pub(super) struct Untold {
    all: BTreeMap<ServiceId, UntoldRefusals>,
    due: VecDeque<(u64, ServiceId)>,
}

impl Untold {
    /// Notes a refused client that was not logged. It is logged a minute after the first of them, together
    /// with those that come until then.
    pub(super) fn add(&mut self, service: &Arc<Service>, last: ClientSource, reason: End, now: u64) {
        match self.all.get_mut(&service.id) {
            Some(refusals) => (refusals.last, refusals.reason) = (last, reason),
            None => {
                self.due.push_back((now.saturating_add(REFUSALS_TOLD_MS), service.id));
                self.all.insert(service.id, UntoldRefusals { service: Arc::clone(service), last, reason });
            }
        }
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.due.front().map(|&(at, _)| at)
    }

    /// Takes one whose time has come.
    pub(super) fn take(&mut self, now: u64) -> Option<UntoldRefusals> {
        self.next().filter(|&at| at <= now)?;
        let (_, service) = self.due.pop_front()?;
        self.all.remove(&service)
    }
}
