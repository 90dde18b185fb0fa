//! What is known about the name of a channel.
//!
//! Knows: when it was last answered, since when lookups fail. Never: which addresses it has, who asks a
//! resolver.
//! Source: docs/names.md.

use std::time::Duration;

use super::{Addresses, seat};
use crate::handover::table::NamingRecord;

impl Addresses {
    /// The host, if it is a name that may have other addresses later. `None` for an address, including one in
    /// an old notation.
    pub fn name(&self) -> Option<&str> {
        self.host().filter(|host| seat::is_name(host))
    }
}

/// What is known about a channel's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Naming {
    /// When a resolver last gave addresses.
    pub(super) answered: Option<Duration>,
    /// Since when no resolver gives any, and why.
    pub(super) failing: Option<(Duration, String)>,
    /// How many answers in a row have reported that there is none, and since when.
    pub(super) absent: Option<(u32, Duration)>,
}

/// What is known about a channel's name at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameSnapshot {
    /// How long ago a resolver last gave addresses. `None`: never.
    pub answered: Option<Duration>,
    /// Why no resolver gives any now, and how long that has been so. `None`: the last lookup succeeded.
    pub failing: Option<(String, Duration)>,
    /// How many answers in a row have reported that there is none, and how long ago the first of them came.
    /// `None`: none has.
    pub absent: Option<(u32, Duration)>,
}

impl Naming {
    /// A resolver has given addresses just now.
    pub(super) fn answered(now: Duration) -> Self {
        Self { answered: Some(now), ..Self::default() }
    }

    pub(super) fn snapshot(&self, now: Duration) -> NameSnapshot {
        let ago = |at: Duration| now.saturating_sub(at);
        NameSnapshot {
            answered: self.answered.map(ago),
            failing: self.failing.as_ref().map(|(since, why)| (why.clone(), ago(*since))),
            absent: self.absent.map(|(count, since)| (count, ago(since))),
        }
    }

    pub(super) fn record(&self) -> NamingRecord {
        NamingRecord { answered: self.answered, failing: self.failing.clone(), absent: self.absent }
    }

    /// Times in the future, which a record may contain, become `now`.
    pub(super) fn restore(record: &NamingRecord, now: Duration) -> Self {
        Self {
            answered: record.answered.map(|at| now.min(at)),
            failing: record.failing.as_ref().map(|(since, why)| (now.min(*since), why.clone())),
            absent: record.absent.map(|(count, since)| (count, now.min(since))),
        }
    }
}
