//! One probe as it is ordered, and what came of it.
//!
//! Knows: plain values. Never: sockets, the clock, what follows from an outcome.

use std::sync::Arc;
use std::time::Duration;

use crate::spec::{Address, Check, ProxyVersion};
use crate::sys::Outgoing;

/// One probe to make.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// The caller's name for it.
    pub(super) id: u64,
    /// Tried one after the other until one is up; at least one.
    pub(super) addresses: Vec<Address>,
    /// Those of them that are not to be tried, since they lead back to where the service itself listens, and what to say of
    /// them.
    pub(super) barred: Vec<(Address, String)>,
    /// In place of the addresses' own port.
    pub(super) port: Option<u16>,
    pub(super) check: Arc<Check>,
    /// The PROXY header that goes first.
    pub(super) proxy: Option<ProxyVersion>,
    /// For all addresses together, from the time when the probe starts; at least 1 ms.
    pub(super) timeout: Duration,
    /// How to connect.
    pub(super) outgoing: Outgoing,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) outcome: Outcome,
    /// The address that is up.
    pub(super) up: Option<Address>,
    /// Those before it that are not, by their own fault, and why.
    pub(super) down: Vec<(Address, String)>,
}

/// How a probe went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Up,
    /// Why, for the operator. Nothing in it was written by the server.
    Down(String),
    /// It could not be made, for reasons of our own; says nothing about the channel.
    Unknown(String),
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
