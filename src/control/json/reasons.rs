//! Counts by reason.
//!
//! Knows: words and numbers. Never: what they count.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Serialize;

#[derive(Serialize)]
pub(super) struct ReasonsObject {
    total: u64,
    reasons: BTreeMap<String, u64>,
}

impl ReasonsObject {
    /// Lists every possible reason, also with the count 0, so that a script need not check whether one is
    /// there.
    pub(super) fn of<T: Display>(all: &[T], counts: &[(T, u64)]) -> Self {
        let mut reasons: BTreeMap<String, u64> = all.iter().map(|why| (why.to_string(), 0)).collect();
        for (why, count) in counts {
            *reasons.entry(why.to_string()).or_default() += count;
        }
        Self { total: counts.iter().map(|(_, count)| count).sum(), reasons }
    }
}
