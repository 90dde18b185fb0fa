//! What the kernel offers: sockets, readiness, pipes, descriptors, the clock. Knows no channel and no client.
//!
//! `socket` and [`listen`] are calls on one socket, `splice` moves bytes through pipes, `poller` reports
//! which descriptors are ready, `descriptors` counts how many are left, `timers` keeps deadlines, `clock` has
//! the time, `sight` knows up to when all events have been seen, `fault` says whose fault an error is,
//! `scheduling` sets the priority of a thread, `hosts` is the system's resolver, `sources` has the source
//! addresses of `-B`, `transparent` those of clients, `netlink` asks the kernel about routes, `unix` and
//! `socket_file` have what is special about Unix sockets, [`passing`] sends messages with descriptors to
//! another process. [`given`] is what the process was given at its start, `program` starts programs with it,
//! and `child` waits for them.

pub(crate) mod child;
#[cfg_attr(
    any(not(target_os = "linux"), portable),
    allow(dead_code, reason = "the simulator of a worker is for Linux")
)]
pub(crate) mod clock;
pub mod descriptors;
pub(crate) mod fault;
pub mod given;
pub(crate) mod hosts;
pub mod listen;
#[cfg(target_os = "linux")]
pub mod netlink;
pub mod passing;
pub(crate) mod poller;
pub(crate) mod program;
pub(crate) mod scheduling;
pub(crate) mod sight;
pub(crate) mod socket;
pub mod socket_file;
mod sources;
pub(crate) mod splice;
pub(crate) mod timers;
pub(crate) mod transparent;
#[cfg(test)]
#[cfg_attr(
    any(not(target_os = "linux"), portable),
    allow(dead_code, reason = "the simulator of a worker is for Linux")
)]
pub(crate) mod trouble;
pub(crate) mod unix;

pub use clock::Clock;
pub use socket::{Outgoing, may_come_from};
pub use sources::Sources;
