//! Telling the operator: events to the log, packets to the dump. Never asked back, decides nothing.
//!
//! What an event says is pure text ([`Event`], [`dump_chunk`]); the sinks ([`Log`], [`Dump`]) are the only places here
//! that touch a descriptor, and say so.
//! Reading order: `end`, `event`, `log`, `dump`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod dump;
mod end;
mod event;
#[cfg_attr(
    any(not(target_os = "linux"), portable),
    allow(dead_code, reason = "the simulator of a worker is for Linux")
)]
mod log;

pub use dump::{Direction, Dump, dump_chunk};
pub use end::End;
pub use event::{Event, Severity};
pub use log::Log;
