//! Names to addresses, and service names to ports: at the start, and whenever an operator names a host.
//!
//! [`resolve`] asks the system's resolver and the services database.

pub mod resolve;
