//! The data plane: sockets in, bytes across, nothing decided about channels.
//!
//! One worker per core, each with a poller and connections of its own; they share the services (listeners,
//! tables) and nothing else. Reading order: `worker` accepts clients and owns their connections, `dial`
//! follows the table's route (`failure` says why an attempt failed), `sockets` moves what the relay decides,
//! `routes` says which groups serve a client, `hearing` how much is kept of what clients say first, `shared` is what workers share and send to each other,
//! [`server`] starts and stops everything, `taps` are readers of a connection's bytes, `departure` lets
//! connections go to another process and takes them from one. `busy_poll` says when a worker polls for events
//! instead of sleeping.

mod busy_poll;
mod chain;
mod changed;
mod circle;
mod departure;
mod dial;
mod failure;
mod foreign;
mod hearing;
#[cfg_attr(
    any(not(target_os = "linux"), portable),
    allow(dead_code, reason = "the simulator of a worker is for Linux")
)]
mod planted;
mod routes;
pub mod server;
mod service;
mod shared;
mod sockets;
mod taps;
mod worker;

pub use changed::Changed;
pub(crate) use circle::is_reached;
pub use departure::{ArriveError, Arriving, Departing, Left, Reserved};
pub use routes::Routes;
pub use service::{NewService, Phase, ServiceId, ServiceOptions};
