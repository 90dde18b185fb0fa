//! What changed in a group that may matter to clients in line.
//!
//! Knows: numbers of channels. Never: who waits, for what.

/// Gathered while a group is edited, heard by the line afterwards.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Channels that are up and usable, and were not before.
    pub(super) ready: Vec<u16>,
    /// Channels that are usable without being up, and were not before.
    pub(super) spare: Vec<u16>,
    /// A channel is not up any more.
    pub(super) fell: bool,
    /// A channel that was up and usable is not any more.
    pub(super) taken: bool,
    /// Clients may map to other channels than before, or may have all channels where it was one, or the other way round.
    pub(super) moved: bool,
}

impl News {
    pub(super) fn are_none(&self) -> bool {
        self.ready.is_empty() && self.spare.is_empty() && !self.fell && !self.taken && !self.moved
    }

    /// Forgets them, but not their memory.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.spare.clear();
        (self.fell, self.taken, self.moved) = (false, false, false);
    }
}
