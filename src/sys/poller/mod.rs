//! Readiness: which descriptors can be read or written. Edge-triggered for connections, level-triggered and
//! shared for listeners.
//!
//! Linux has its own implementation (`epoll.rs`). All other systems, and a build with `--cfg portable`, use
//! `mio` (`portable.rs`).

#[cfg(all(target_os = "linux", not(portable)))]
mod epoll;
#[cfg(all(target_os = "linux", not(portable)))]
pub(crate) use epoll::{Poller, Waker};

#[cfg(any(not(target_os = "linux"), portable))]
mod portable;
#[cfg(any(not(target_os = "linux"), portable))]
pub(crate) use portable::{Poller, Waker};

mod interruptions;
mod readiness;
mod token;
pub(crate) use readiness::{Readiness, Seen};
pub(crate) use token::{Kind, Token};

#[cfg(all(test, target_os = "linux", not(portable)))]
pub(crate) mod simulated;
