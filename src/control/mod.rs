//! The command language and its doors.
pub mod command;
pub mod endpoint;
pub mod execute;
mod peer;
pub mod render;
#[cfg(test)]
mod scratch;
pub mod wire;
