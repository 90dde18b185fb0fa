//! One group as it was asked for.
//!
//! Knows: what its numbers stand for. Never: how a policy chooses.

use super::{ChannelSpec, Policy};

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// How it distributes clients.
    pub policy: Policy,
    /// Its channels and gaps in order of their numbers; never empty.
    pub members: Vec<Member>,
}

/// What a number of a group stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A channel.
    Channel(ChannelSpec),
    /// Nothing, as after a channel was removed. The number is taken all the same.
    Gap,
}
