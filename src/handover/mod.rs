//! The values that a process hands over to its successor, and the order of the messages.
//!
//! [`message`] has all messages, [`table`] and [`connection`] the records in them, [`frame`] the byte format.
//! [`predecessor`] and [`successor`] decide what each process does when. Pure: no socket, no table, no
//! connection. How descriptors travel with a message, and how a deed is done, is not known here.
//! Source: docs/upgrade.md.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod connection;
pub mod frame;
pub mod message;
#[cfg(test)]
mod model;
pub mod predecessor;
pub mod successor;
pub mod table;
