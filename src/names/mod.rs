//! Names to addresses, and service names to ports: at the start, whenever an operator names a host, and again while services run.
//!
//! [`resolve`] asks the system's resolver and the services database. [`Resolver`] is the thread that asks again for the names of
//! channels; `book` decides when, and what an answer means, without a thread or a clock. `stub` asks name servers itself, on the sockets of
//! `servers`, where `--dns` or the name of a service wants that.

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
