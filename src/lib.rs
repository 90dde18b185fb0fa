//! `balance`, the load balancer you can type: a generic TCP proxy with round robin, client hashing, ordered failover
//! groups and connection limits, started by one command line and steered by a tiny command language.
//!
//! The rooms, in reading order. Imports go down this list only; `tests/suite/layers.rs` holds the wall.
//!
//! - [`spec`] is what was asked for: plain values.
//! - [`handover`] is what a process leaves to its successor: plain values.
//! - [`sched`] decides which channel a client gets. Pure.
//! - [`wire`] says what happens to bytes. Pure.
//! - [`observe`] tells: the log, the packet dump. Never asked back.
//! - [`sys`] is what the kernel offers: sockets, readiness, pipes, the clock.
//! - [`config`] turns text into types. Pure.
//! - [`names`] turns names into addresses.
//! - [`probe`] minds the health of channels.
//! - [`net`] moves bytes: the data plane.
//! - [`control`] is the command language and its doors.
//! - [`process`] is the operating system's side: background, signals.
//! - [`app`] knows every room and composes them.

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
