//! The operating system's side of a process: going to the background, limits, cores, signals, the service
//! manager, privileges.
//!
//! Reading order: `passed`, `daemon`, `limits`, `cores`, `dispositions`, `signals`, `manager`, `privileges`,
//! `fence`.

mod cores;
mod daemon;
mod dispositions;
mod fence;
mod limits;
mod manager;
mod passed;
mod privileges;
mod signals;

pub use cores::cores;
pub use daemon::{Detached, ReadyNotice, StartResult, detach, init_that_ends_with_us, is_init, take_stdin};
pub use fence::{Fence, FenceState, inherit_fence};
pub use limits::{forbid_core_files, raise_descriptor_limit};
pub use manager::{
    KEPT_PREFIX, feed_watchdog, forget_listener, forget_listeners, has_manager, keep_listeners,
    tell_main_process, tell_ready, tell_reloading, tell_status, tell_stopping, watchdog_interval,
};
pub use passed::{PassedAddress, PassedError, PassedListener, Variables, passed_listeners};
pub use privileges::{Account, AccountError, Privileges};
pub use signals::{
    Cause, HANGUP, Hangup, Notifier, Shutdown, expect_full_files, expect_signals, expect_the_end,
    leads_terminal,
};
