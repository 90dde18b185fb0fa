//! What an operator is told about channels.
//!
//! Knows: what can happen to one. Never: by what, who is told.

use std::time::Duration;

use super::ChannelKey;
use crate::spec::Address;

/// What a dial or a probe changed, to be told to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Whose state it is.
    pub channel: ChannelKey,
    /// Its first address, or the one that it happened to.
    pub address: Address,
    /// What happened to it.
    pub what: Happened,
}

/// What happened to a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// `-a` disabled it.
    Autodisabled,
    /// A client's connect failed, with this cause.
    Ejected(String),
    /// It takes connections again, after so long.
    Returned(Duration),
    /// Checks say that it is down, with this cause.
    Down(String),
    /// Checks say that it is up again, after so long.
    Up(Duration),
    /// One of its addresses did not answer, with this cause.
    AddressEjected(String),
    /// One of its addresses answers again, after so long.
    AddressReturned(Duration),
}
