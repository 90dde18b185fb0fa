//! Names to addresses, and service names to ports: at the start, whenever an operator names a host, and again while services run.
//!
//! [`resolve`] asks the system's resolver and the services database. [`Resolver`] is the thread that asks again for the names of
//! channels; `book` decides when, and what an answer means, without a thread or a clock.

mod book;
mod resident;
pub mod resolve;
mod resolver;

pub use book::NameAnswer;
pub use resident::Resident;
pub use resolver::{HeldNames, NameReport, Residence, Resolver};
