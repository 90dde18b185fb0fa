//! What operators were told about a time without any channel.
//!
//! Knows: what was told last. Never: who tells it, when.
//! It is part of the table, because a successor gets it with the table and then logs only what is new.

use std::time::Duration;

/// What operators were told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToldOutage {
    /// Since when no channel is up, in the instance's time. `None`: a channel is up, or nothing was told.
    pub since: Option<Duration>,
    /// That connects are refused.
    pub is_refusing: bool,
}
