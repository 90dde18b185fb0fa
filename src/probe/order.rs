//! One probe as it is ordered, and its result.
//!
//! Knows: plain values. Never: sockets, the clock, what follows from an outcome.

use std::sync::Arc;
use std::time::Duration;

use crate::spec::{Address, Check, ProxyVersion};
use crate::sys::Outgoing;

/// One probe to make.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// The caller's number for it.
    pub(super) id: u64,
    /// The addresses, tried one after another until one is up; at least one.
    pub(super) addresses: Vec<Address>,
    /// Addresses that must not be tried, because they lead back to the service's own listener, each with a
    /// text that says so.
    pub(super) barred: Vec<(Address, String)>,
    /// The port to use instead of the addresses' own.
    pub(super) port: Option<u16>,
    pub(super) check: Arc<Check>,
    /// The PROXY header to send first.
    pub(super) proxy: Option<ProxyVersion>,
    /// The timeout for all addresses together, counted from the start of the probe; at least 1 ms.
    pub(super) timeout: Duration,
    /// How to connect.
    pub(super) outgoing: Outgoing,
}

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) outcome: Outcome,
    /// The address that is up.
    pub(super) up: Option<Address>,
    /// Addresses tried before it that are down by their own fault, and why.
    pub(super) down: Vec<(Address, String)>,
}

/// How a probe went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Up,
    /// The channel is down, and why, in words for the operator. It contains no text from the server.
    Down(String),
    /// The probe could not be made for a reason on balance's side. This says nothing about the channel.
    Unknown(String),
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
