//! TCP keepalive of one side of a connection.
//!
//! Knows: its three numbers. Never: which sockets get them.

use std::time::Duration;

/// When a silent connection is probed, and when it counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds, at least 1.
    pub idle: Duration,
    /// Time between probes; whole seconds, at least 1.
    pub interval: Duration,
    /// Lost probes that end the connection; 1..=127.
    pub count: u32,
}
