//! The command language and its doors.
pub mod command;
pub mod execute;
pub mod render;
