//! Which channel does a client get? Groups, round robin, hashing, limits, failover.
//!
//! Pure: no socket, no file, no clock, no environment, no randomness. Everything here can be tested without a thread.
//! Reading order: `channel`, `lease`, `policy`, `pick` (with `bits` and `rendezvous`), `route`, `table`, `snapshot`, `shared`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod bits;
mod channel;
mod lease;
mod pick;
mod policy;
mod rendezvous;
mod route;
mod shared;
mod snapshot;
mod table;

pub use channel::{
    Addresses, AdminState, ChannelId, ChannelKey, ClientAddr, GroupId, MAX_CHANNELS, MAX_GROUPS,
};
pub use lease::Lease;
pub use policy::{Policy, Weight};
pub use route::{NoChannel, Route};
pub use shared::SharedTable;
pub use snapshot::{ChannelSnapshot, GroupSnapshot, Snapshot};
pub use table::{DialFailure, EditError, Rules, Table, Transition};
