//! What clients get that may have to wait.
//!
//! Knows: slots, places in line. Never: whose turn it is.

use super::{Lease, Loss, Route, Ticket};

/// A client's turn has come.
#[derive(Debug)]
pub struct Grant {
    /// Which place it was.
    pub ticket: Ticket,
    /// What the client was put in line with.
    pub tag: u64,
    /// Its walk, to be gone on with if this channel fails.
    pub route: Route,
    /// Its slot.
    pub lease: Lease,
}

/// What a client gets that would rather wait than be refused.
#[derive(Debug)]
pub enum Turn {
    /// A channel.
    Now(Route, Lease),
    /// A place in line: its turn comes by [`Table::grant`](super::Table::grant).
    Later(Ticket),
    /// Nothing, and why that counts as lost.
    Never(Loss),
}
