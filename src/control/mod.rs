//! The command language and its doors: a control socket, and the shell as its client.
//!
//! Reading order: [`command`], [`execute`] and [`render`] are the language, pure; [`wire`], [`endpoint`], [`socket`] and
//! [`client`] carry it between processes; [`shell`] is the operator's end.

pub mod client;
pub mod command;
pub mod endpoint;
pub mod execute;
mod peer;
pub mod render;
#[cfg(test)]
mod scratch;
pub mod shell;
pub mod socket;
mod terminal;
pub mod wire;

pub use client::Wanted;
pub use command::{HostPort, Port};
pub use endpoint::{Directory, Endpoint, EndpointError, EndpointOptions};
pub use shell::{Interactive, OneShot, interactive, one_shot};
pub use socket::{Context, Control, serve};
