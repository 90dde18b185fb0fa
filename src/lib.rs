//! `balance`, a TCP load balancer: it hands clients to channels by round robin, by client hashing and by other
//! policies, with ordered failover groups and connection limits. One command line starts it, and a small
//! command language controls it while it runs.
//!
//! The rooms (top-level modules) in reading order. A room may import only rooms above it in this list;
//! `tests/suite/layers.rs` checks that.
//!
//! - [`spec`] has what the user asked for, as plain values.
//! - [`handover`] has what a process hands over to its successor, as plain values, and the order of the
//!   messages.
//! - [`sched`] decides which channel a client gets. Pure.
//! - [`wire`] decides what happens to bytes. Pure.
//! - [`observe`] reports: the log, the access log, the packet dump. No room takes decisions from it.
//! - [`sys`] wraps what the kernel offers: sockets, readiness, pipes, the clock.
//! - [`config`] reads text into types and prints them as text. Pure.
//! - [`names`] looks up the addresses of names.
//! - [`probe`] checks the health of channels.
//! - [`net`] moves bytes: the data plane.
//! - [`control`] has the command language, and the sockets and HTTP that it is used by.
//! - [`process`] has what concerns the process as a whole: background, signals, limits, privileges.
//! - [`app`] knows all rooms and puts them together.

pub mod app;
pub mod config;
pub mod control;
pub mod handover;
pub mod names;
pub mod net;
pub mod observe;
pub mod probe;
pub mod process;
pub mod sched;
pub mod spec;
pub mod sys;
pub mod wire;
