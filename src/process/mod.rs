//! The operating system's side: going to the background, limits, cores, signals.
//!
//! Reading order: `inherit`, `daemon`, `limits`, `cores`, `dispositions`, `signals`.

mod cores;
mod daemon;
mod dispositions;
mod inherit;
mod limits;
mod signals;

pub use cores::{Cores, cores};
pub use daemon::{Ready, Side, Verdict, detach, is_init};
pub use inherit::inherited_listener;
pub use limits::{forbid_core_files, raise_descriptor_limit};
pub use signals::{Cause, HANGUP, Hangup, Notifier, Shutdown};
