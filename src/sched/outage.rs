//! What operators have been told of a time without any channel.
//!
//! Knows: what was told last. Never: who tells it, when it is to be told.
//! It is kept with the table, since it goes with that to a successor, which is to tell only what is new.

use std::time::Duration;

/// What operators have been told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToldOutage {
    /// That no channel is up since then, in the time of the instance; `None`: that one is, or nothing.
    pub since: Option<Duration>,
    /// That connects are refused.
    pub is_refusing: bool,
}
