//! The data plane: sockets in, bytes across, nothing decided about channels.
//!
//! One worker per core, each with its own poller and its own connections; they share the services (listeners, tables) and
//! nothing else. Reading order: `worker` takes clients and owns their connections, `dial` walks the table's route (`failure` says why an attempt came to nothing), `sockets` moves what
//! the relay decides, `routes` says which groups are for a client, `shared` is what workers share and tell each other, [`server`] starts and stops the lot, `taps` are those who see a connection's bytes, `departure` lets connections go to another process and takes them from one. `busy_poll` says when a worker looks for events rather than sleeps.

mod busy_poll;
mod chain;
mod changed;
mod circle;
mod departure;
mod dial;
mod failure;
mod foreign;
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
