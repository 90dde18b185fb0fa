//! Which channel does a client get? Groups, policies, hashing, limits, health, failover, the line of those who wait.
//!
//! Pure: no socket, no file, no clock, no environment, no randomness but from a seed. Everything here can be tested without
//! a thread; time is an argument. Reading order: `health`, `channel`, `lease`, `reach`, `group`
//! (with `bits`, `stride`, `loads`, `totals`, `ramps` and `rendezvous` by `seat`), `pick`, `route`, `table`, `agenda`, `line` (with `news`), `serving`,
//! `snapshot`, `shared`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod agenda;
mod bits;
mod channel;
mod connect_times;
mod edits;
mod group;
mod health;
mod lease;
mod line;
mod loads;
mod losses;
mod news;
mod pick;
mod ramps;
mod random;
mod reach;
mod rendezvous;
mod route;
mod seat;
mod serving;
mod shared;
mod snapshot;
mod stride;
mod table;
mod totals;

pub use agenda::Probe;
pub use channel::{Addresses, ChannelId, ChannelKey, ClientAddr, GroupId, MAX_CHANNELS, MAX_GROUPS};
pub use health::{CheckRules, HealthRules, HealthSnapshot, HealthState, ProbeResult, Purpose};
pub use lease::Lease;
pub use line::Ticket;
pub use losses::Loss;
pub use route::{NoChannel, Route};
pub use serving::{Grant, Turn};
pub use shared::SharedTable;
pub use snapshot::{ChannelSnapshot, GroupSnapshot, SessionSnapshot, Snapshot, Survey};
pub use table::{DialFailure, EditError, Happened, Rules, Table, Transition};

pub use crate::spec::{AdminState, Policy, Weight};
