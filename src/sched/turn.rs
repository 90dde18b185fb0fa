//! What a client gets that may have to wait.
//!
//! Knows: slots, places in the wait queue. Never: whose turn it is.

use super::{Lease, Loss, Route, Ticket};

/// The turn of a waiting client has come.
#[derive(Debug)]
pub struct Grant {
    /// Its place.
    pub ticket: Ticket,
    /// The tag with which it joined the wait queue.
    pub tag: u64,
    /// Its walk, to go on with if this channel fails.
    pub route: Route,
    /// Its slot.
    pub lease: Lease,
}

/// What a client gets that prefers waiting to being refused.
#[derive(Debug)]
pub enum Turn {
    /// A channel.
    Now(Route, Lease),
    /// A place in the wait queue: [`Table::grant`](super::Table::grant) gives it its turn.
    Later(Ticket),
    /// Nothing, and the reason for which it counts as lost.
    Never(Loss),
}
