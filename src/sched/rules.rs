//! Settings for all clients and channels of an instance.
//!
//! Knows: plain values. Never: where they come from.

use std::num::NonZeroU32;

use super::{HealthRules, Policy};

/// The settings of an instance that the choice of channels depends on.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `-H`: a hash group also fails over within the group.
    pub hash_failover: bool,
    /// `-a`: a channel whose connect fails is disabled.
    pub autodisable: bool,
    /// Number of workers that count bytes; each gets a cache line of its own per channel. At least 1.
    pub shards: usize,
    /// The settings of health.
    pub health: HealthRules,
    /// Maximum load of a channel in a hash group, in thousandths of its share of clients. `None`: no maximum.
    pub hash_balance: Option<NonZeroU32>,
    /// How many clients may wait when channels are full. `None`: none.
    pub queue: Option<NonZeroU32>,
    /// The policy of groups that are created without one.
    pub policy: Policy,
    /// The seed for random choices, and for the jitter of probes.
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
