//! Resolves host names to addresses and service names to ports: at the start, whenever an operator names a
//! host, and again while services run.
//!
//! [`resolve`] asks the system's resolver and the services database. [`Resolver`] is the thread that looks up
//! channels' names again; `book` decides when, and what an answer means, without a thread or a clock. `stub`
//! queries name servers itself, through the sockets of `servers`, if `--dns` or a service name (SRV) requires
//! it.

mod book;
mod resident;
pub mod resolve;
mod resolver;
mod servers;
mod stub;

pub use book::{NameAnswer, ToldName};
pub use resident::Resident;
pub use resolver::{HeldNames, NameReport, Residence, Resolver};
pub use servers::ask_servers;
