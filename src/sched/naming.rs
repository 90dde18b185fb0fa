//! What is known of the name of a channel.
//!
//! Knows: when it was answered, since when it fails. Never: which addresses it has, who asks a resolver.
//! Source: docs/names.md.

use std::time::Duration;

use super::{Addresses, seat};
use crate::handover::table::NamingRecord;

impl Addresses {
    /// The host, if it is a name that may mean other addresses tomorrow. That of an address is none, nor are the old spellings of one.
    pub fn name(&self) -> Option<&str> {
        self.host().filter(|host| seat::is_name(host))
    }
}

/// What is known of a channel's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Naming {
    /// When a resolver said addresses last.
    pub(super) answered: Option<Duration>,
    /// It says none: since when, and why.
    pub(super) failing: Option<(Duration, String)>,
}

/// What is known of a channel's name at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameSnapshot {
    /// How long ago a resolver said its addresses last.
    pub answered: Option<Duration>,
    /// Why none says any now, and for how long that has been so.
    pub failing: Option<(String, Duration)>,
}

impl Naming {
    pub(super) fn snapshot(&self, now: Duration) -> NameSnapshot {
        let ago = |at: Duration| now.saturating_sub(at);
        NameSnapshot {
            answered: self.answered.map(ago),
            failing: self.failing.as_ref().map(|(since, why)| (why.clone(), ago(*since))),
        }
    }

    pub(super) fn record(&self) -> NamingRecord {
        NamingRecord { answered: self.answered, failing: self.failing.clone() }
    }

    /// Nothing has happened in times yet to come.
    pub(super) fn restore(record: &NamingRecord, now: Duration) -> Self {
        Self {
            answered: record.answered.map(|at| now.min(at)),
            failing: record.failing.as_ref().map(|(since, why)| (now.min(*since), why.clone())),
        }
    }
}
