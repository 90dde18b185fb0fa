//! TCP keepalive for one side of a connection.
//!
//! Knows: its three numbers. Never: which sockets get them.

use std::time::Duration;

/// When the kernel probes a silent connection, and when the connection counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds, at least 1.
    pub idle: Duration,
    /// Time between probes; whole seconds, at least 1.
    pub interval: Duration,
    /// How many unanswered probes end the connection, 1..=127.
    pub count: u32,
}
