//! The operating system's side: going to the background, limits, signals.
//!
//! Reading order: `daemon`, `limits`, `shutdown`.

mod daemon;
mod limits;
mod shutdown;

pub use daemon::{Ready, Side, Verdict, detach, is_init};
pub use limits::{forbid_core_files, raise_descriptor_limit};
pub use shutdown::{Cause, Hangup, Notifier, Shutdown};
