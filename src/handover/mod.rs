//! What goes from a process to the one that takes its place: plain values, and the order in which they go.
//!
//! [`message`] is all that the two say, [`table`] and [`connection`] what they say it about, [`frame`] how it stands in bytes;
//! [`predecessor`] and [`successor`] decide what each does when. Pure: no socket, no table, no connection. Who carries a
//! descriptor beside a message, and how a deed is done, is not known here.
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
