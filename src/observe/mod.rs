//! What operators are told: events to the log, packets to the dump. This room decides nothing and returns
//! nothing to the code that reports.
//!
//! The text of an event is pure ([`Event`], [`dump_chunk`]). The sinks ([`Log`], [`Dump`]) are the only
//! places here that touch a descriptor.
//! Reading order: `event`, `history`, `hook`, `stderr`, `log`, `dump`, `tap`, `access`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod access;
mod dump;
mod event;
mod history;
mod hook;
#[cfg_attr(
    any(not(target_os = "linux"), portable),
    allow(dead_code, reason = "the simulator of a worker is for Linux")
)]
mod log;
mod stderr;
mod tap;

pub use access::line::{LineStyle, write_line};
pub use access::{
    AccessDue, AccessEntry, AccessLog, AccessMoment, AccessMoments, AccessRecord, AttemptError,
    ConnectionTrace, ENTRIES_WAITING, FailedAttempt, PathInfo, ServiceLabel,
};
pub use dump::{Direction, Dump, dump_chunk};
pub use event::{Commander, Event, Severity};
pub use history::{EVENTS_KEPT, Owner, PastEvent, utc};
pub use hook::{HookRun, HookTask, Hooks, hook_variables};
pub use log::Log;
pub use tap::{LastWords, TAP_ROOM, Tap, TapEnd, TapLook, TapPiece, TapSource, TapStart, new_tap};
