//! Callbacks out of a service's table: the notice that it has changed, and slots for waiting clients.
//!
//! Knows: whom to call. Never: what has changed, who listens, which worker has which client.

use std::fmt;
use std::sync::Arc;

use crate::sched::Grant;

/// Tells the health thread that a service's table has changed.
#[derive(Clone)]
pub struct Changed(Arc<dyn Fn() + Send + Sync>);

impl Changed {
    /// `tell` is called from any thread, without the table's lock.
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(super) fn tell(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changed")
    }
}

/// Sends slots to the waiting clients that they are for. Call it as soon as the table is unlocked: a client
/// that was taken out of the wait queue and never receives its slot waits for ever.
#[derive(Clone)]
pub(super) struct Deliver(Arc<dyn Fn(Vec<Grant>) + Send + Sync>);

impl Deliver {
    pub(super) fn new(deliver: impl Fn(Vec<Grant>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(deliver))
    }

    pub(super) fn all(&self, grants: Vec<Grant>) {
        if !grants.is_empty() {
            (self.0)(grants);
        }
    }
}

impl fmt::Debug for Deliver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deliver")
    }
}
