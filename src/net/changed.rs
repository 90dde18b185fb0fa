//! What goes out of a service's table: the word that it has changed, and slots for clients in line.
//!
//! Knows: whom to call. Never: what has changed, who listens, which worker has whom.

use std::fmt;
use std::sync::Arc;

use crate::sched::Grant;

/// Tells the health thread that a service's table has changed.
#[derive(Clone)]
pub struct Changed(Arc<dyn Fn() + Send + Sync>);

impl Changed {
    /// Calls this, from any thread and without the table's lock.
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

/// Takes slots to the clients in line that they are for. To be called as soon as the table is unlocked: whoever is in no line any
/// more and never hears of the slot waits for ever.
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
