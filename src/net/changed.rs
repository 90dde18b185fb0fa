//! The word that a service's table has changed.
//!
//! Knows: whom to call. Never: what has changed, who listens.

use std::fmt;
use std::sync::Arc;

/// Tells whoever minds the channels' health that a service's table has changed.
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
