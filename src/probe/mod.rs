//! The health of channels: one thread that checks those of all services, and the probes that it makes.
//!
//! Reading order: `ward` is one service that the thread checks, `shutter` the state of its listeners,
//! [`Minder`] the thread. `engine` makes many probes at once: `order` is what can be asked for, `walk` one
//! probe's way over the addresses, `socket` its socket, `exec` the programs, `fault` whose fault a failure
//! is.

mod engine;
mod exec;
mod fault;
mod minder;
mod order;
mod shutter;
mod socket;
mod walk;
mod ward;

pub use minder::{Alarm, Minder};
pub use ward::{Checks, Hands, Ward};
