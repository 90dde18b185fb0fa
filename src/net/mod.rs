//! The data plane: sockets in, bytes across, nothing decided about channels.
//!
//! One worker per core, each with its own poller and its own connections; they share the listener, the table and nothing
//! else. Reading order: [`listen`] takes clients, `worker` owns their connections, `dial` walks the table's route,
//! [`relay`] decides what to move, `sockets` and `splice` move it, [`server`] starts and stops the lot.
//! `busy_poll` says when a worker looks for events rather than sleeps.
//! Beside the workers one thread, `health`, asks the table which probes are due and lets `probe` make them; `fault` says whose
//! fault an error is, `clock` what time it is.
//! `resolve` turns names into addresses before any of it.

mod busy_poll;
mod clock;
mod descriptors;
mod dial;
mod fault;
mod health;
pub mod listen;
mod poller;
mod probe;
pub mod relay;
pub mod resolve;
mod scheduling;
pub mod server;
mod socket;
mod sockets;
mod splice;
mod timers;
mod worker;

pub use clock::Clock;
pub use health::Checks;
pub use probe::{Check, Step};
pub use socket::{Keepalive, Outgoing};
