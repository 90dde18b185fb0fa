//! How a group distributes clients, and how much of them a channel gets.
//!
//! Knows: names of policies, the range of weights. Never: channels, what is picked.

/// How a group distributes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// In turn. `RR`.
    RoundRobin,
    /// By the client's address. `Hash`.
    Hash,
    /// To the channel with the fewest connections for its weight. `LC`.
    LeastConnections,
    /// To the better of two channels chosen at random. `P2C`.
    TwoChoices,
    /// To the first channel that has room. `Fst`.
    First,
}

impl Policy {
    /// What operators call each, and processes that tell each other of it.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("rr", Self::RoundRobin),
        ("leastconn", Self::LeastConnections),
        ("p2c", Self::TwoChoices),
        ("first", Self::First),
        ("hash", Self::Hash),
    ];

    /// The policy of this name: `rr`, `leastconn`, `p2c`, `first`, `hash`.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy)
    }

    /// The name that [`named`](Self::named) knows it by.
    pub fn name(self) -> &'static str {
        // The table has every policy, as a test shows.
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("rr", |(name, _)| name)
    }

    /// Does it go by the channels' shares, which grow while they return?
    pub fn weighs(self) -> bool {
        matches!(self, Self::RoundRobin | Self::LeastConnections | Self::TwoChoices)
    }
}

/// The share of clients a channel gets, against those of the other channels of its group: 0..=256, 1 unless said
/// otherwise. 0 = no new clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// The greatest.
    pub const MAX: u32 = 256;
    /// What a channel has by default.
    pub const ONE: Self = Self(1);
    /// No new clients.
    pub const ZERO: Self = Self(0);

    /// `None` if `n` is above [`Weight::MAX`].
    pub fn new(n: u32) -> Option<Self> {
        if n <= Self::MAX { u16::try_from(n).ok().map(Self) } else { None }
    }

    /// The number itself.
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

#[cfg(test)]
mod tests {
    use super::Weight;

    #[test]
    fn weights_end_at_256() {
        assert_eq!(Weight::new(0), Some(Weight::ZERO));
        assert_eq!(Weight::new(256).map(Weight::get), Some(256));
        assert_eq!(Weight::new(257), None);
        assert_eq!(Weight::new(65_537), None, "no number wraps round");
        assert_eq!(Weight::default(), Weight::ONE);
    }
}
