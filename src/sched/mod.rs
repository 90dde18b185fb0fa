//! Which channel does a client get? Groups, round robin, hashing, limits, failover.
//!
//! Pure: no socket, no file, no clock, no environment, no randomness. Everything here can be tested without a thread.
//! Reading order: [`channel`], `pick`, [`route`], [`table`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod channel;
mod pick;
mod route;
mod table;

pub use channel::{
    AdminState, Addresses, ChannelId, ChannelKey, ClientAddr, GroupId, Lease, MAX_CHANNELS, MAX_GROUPS,
};
pub use pick::Policy;
pub use route::Route;
pub use table::{
    ChannelSnapshot, DialFailure, EditError, GroupSnapshot, NoChannel, Rules, SharedTable, Snapshot, Table, Transition,
};
