//! What holds for all clients and channels of an instance.
//!
//! Knows: plain values. Never: where they were said.

use std::num::NonZeroU32;

use super::{HealthRules, Policy};

/// What holds for the whole instance.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `-H`: a hash group fails over inside the group too.
    pub hash_failover: bool,
    /// `-a`: a channel whose connect fails is disabled.
    pub autodisable: bool,
    /// How many workers count bytes; each gets its own cache line per channel. At least 1.
    pub shards: usize,
    /// What health goes by.
    pub health: HealthRules,
    /// A hash group gives no channel more than this many thousandths of its share of clients; `None` = as it comes.
    pub hash_balance: Option<NonZeroU32>,
    /// How many clients may wait when channels are full; `None` = nobody.
    pub queue: Option<NonZeroU32>,
    /// The policy of groups that come into being without one.
    pub policy: Policy,
    /// What decides by lot: of two choices, and how far probes are moved against each other.
    pub seed: u64,
}

impl Rules {
    /// 3.57's rules: no health, no bounds, no queue.
    pub const CLASSIC: Self = Self {
        hash_failover: false,
        autodisable: false,
        shards: 1,
        health: HealthRules::NONE,
        hash_balance: None,
        queue: None,
        policy: Policy::RoundRobin,
        seed: 0,
    };
}
