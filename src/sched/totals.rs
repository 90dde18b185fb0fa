//! The sums of clients and weights over the channels of a group that are up.
//!
//! Knows: parts as they were reported. Never: channels, when a part changes.

/// What one channel adds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Contribution {
    pub(super) clients: u32,
    pub(super) weight: u32,
}

/// The sums, kept up to date so that no pick has to look at every channel. A part is wrong until a change is
/// reported; see `Slots::watch`.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) clients: u64,
    pub(super) weights: u64,
    /// What each channel adds, by number.
    known: Vec<Contribution>,
}

impl Totals {
    /// Sets a channel's part. `None`: it adds nothing.
    pub(super) fn set(&mut self, number: usize, contribution: Option<Contribution>) {
        if self.known.len() <= number {
            self.known.resize(number + 1, Contribution::default());
        }
        let contribution = contribution.unwrap_or_default();
        let old = std::mem::replace(&mut self.known[number], contribution);
        self.clients = self.clients + u64::from(contribution.clients) - u64::from(old.clients);
        self.weights = self.weights + u64::from(contribution.weight) - u64::from(old.weight);
    }
}
