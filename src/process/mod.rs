//! The operating system's side: going to the background, limits, cores, signals.
//!
//! Reading order: `passed`, `daemon`, `limits`, `cores`, `dispositions`, `signals`, `manager`.

mod cores;
mod daemon;
mod dispositions;
mod limits;
mod manager;
mod passed;
mod signals;

pub use cores::cores;
pub use daemon::{Detached, ReadyNotice, StartResult, detach, is_init};
pub use limits::{forbid_core_files, raise_descriptor_limit};
pub use manager::{take_stdin, tell_main_process};
pub use passed::{PassedError, PassedListener, Variables, passed_listeners};
pub use signals::{
    Cause, HANGUP, Hangup, Notifier, Shutdown, expect_full_files, expect_signals, expect_the_end,
    leads_terminal,
};
