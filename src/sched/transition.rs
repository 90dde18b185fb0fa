//! Changes of channels that operators are told about.
//!
//! Knows: what can happen to a channel. Never: why, who is told.

use std::time::Duration;

use super::ChannelKey;
use crate::spec::Address;

/// A change by a dial or a probe that operators are told about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The channel.
    pub channel: ChannelKey,
    /// Its first address, or the address that the change is about.
    pub address: Address,
    /// What happened.
    pub what: Happened,
}

/// What happened to a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// `-a` disabled it.
    Autodisabled,
    /// A client's connect failed, with this cause.
    Ejected(String),
    /// It takes connections again, after this time.
    Returned(Duration),
    /// Health checks report that it is down, with this cause.
    Down(String),
    /// Health checks report that it is up again, after this time.
    Up(Duration),
    /// One of its addresses did not answer, with this cause.
    AddressEjected(String),
    /// One of its addresses answers again, after this time.
    AddressReturned(Duration),
}
