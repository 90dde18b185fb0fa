//! How a group distributes clients, and the weight of a channel.
//!
//! Knows: names of policies, the range of weights. Never: channels, which one is chosen.

/// How a group distributes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// In turn (round robin). `RR`.
    RoundRobin,
    /// By a hash of the client's address. `Hash`.
    Hash,
    /// To the channel with the fewest connections relative to its weight. `LC`.
    LeastConnections,
    /// To the less loaded of two channels chosen at random. `P2C`.
    TwoChoices,
    /// To the first channel that has a free slot. `Fst`.
    First,
}

impl Policy {
    /// The name of each policy in commands, and in messages between processes.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("rr", Self::RoundRobin),
        ("leastconn", Self::LeastConnections),
        ("p2c", Self::TwoChoices),
        ("first", Self::First),
        ("hash", Self::Hash),
    ];

    /// The policy with this name: `rr`, `leastconn`, `p2c`, `first` or `hash`. `None` for another name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy)
    }

    /// The name that [`named`](Self::named) accepts for it.
    pub fn name(self) -> &'static str {
        // `NAMES` contains every policy, as a test shows.
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("rr", |(name, _)| name)
    }

    /// Does the policy use weights, which `--slow-start` raises step by step for a returning channel?
    pub fn weighs(self) -> bool {
        matches!(self, Self::RoundRobin | Self::LeastConnections | Self::TwoChoices)
    }
}

/// The channel's share of clients relative to the other channels of its group: 0..=256, 1 by default. 0 means
/// no new clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// The greatest weight.
    pub const MAX: u32 = 256;
    /// The default weight.
    pub const ONE: Self = Self(1);
    /// The weight of a channel that gets no new clients.
    pub const ZERO: Self = Self(0);

    /// `None` if `n` is above [`Weight::MAX`].
    pub fn new(n: u32) -> Option<Self> {
        if n <= Self::MAX { u16::try_from(n).ok().map(Self) } else { None }
    }

    /// The weight as a number.
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
