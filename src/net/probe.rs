//! Probes: many attempts to learn whether a channel works, on one thread.
//!
//! Knows: sockets and programs under way, their deadlines, who waits for a place. Never: channels, thresholds, intervals,
//! what becomes of an outcome.

#![allow(dead_code, reason = "the engine, which is not here yet, will call it")]

mod check;
mod dialogue;
mod exec;
mod fault;
mod http;
mod talk;

pub use check::{Check, Step};
