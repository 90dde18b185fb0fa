//! Changes in a group that may matter to waiting clients.
//!
//! Knows: numbers of channels. Never: who waits, for what.

/// Collected while a group is edited, and passed to the wait queue afterwards.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Channels that have become up and usable.
    pub(super) ready: Vec<u16>,
    /// Channels that have become usable without being up.
    pub(super) spare: Vec<u16>,
    /// A channel is no longer up.
    pub(super) fell: bool,
    /// A channel is no longer up and usable.
    pub(super) taken: bool,
    /// Clients may map to other channels than before, or the number of channels that a client may use has
    /// changed between one and all.
    pub(super) moved: bool,
}

impl News {
    pub(super) fn are_none(&self) -> bool {
        self.ready.is_empty() && self.spare.is_empty() && !self.fell && !self.taken && !self.moved
    }

    /// Clears the lists but keeps their memory.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.spare.clear();
        (self.fell, self.taken, self.moved) = (false, false, false);
    }
}
