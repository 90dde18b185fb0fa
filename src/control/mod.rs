//! The command language and its doors: a control socket, and the shell as its client.
//!
//! Reading order: [`argument`], [`command`], [`execute`], [`render`] and `status` are the language, pure; [`wire`], [`directory`],
//! `entry`, [`endpoint`], [`services`], `sessions`, [`socket`], [`find`] and [`client`] carry it between processes; [`shell`] is the
//! operator's end, and `list` shows all instances.

pub mod argument;
pub mod client;
pub mod command;
#[cfg(test)]
mod conversations;
pub mod directory;
pub mod endpoint;
mod entry;
pub mod execute;
pub mod find;
mod interrupt;
mod list;
mod patience;
mod peer;
pub mod render;
#[cfg(test)]
mod scratch;
pub mod services;
mod sessions;
pub mod shell;
pub mod socket;
mod status;
mod terminal;
#[cfg(test)]
mod transcripts;
pub mod wire;

pub use argument::{HostPort, Port};
pub use directory::Directory;
pub use directory::Place;
pub use endpoint::{Endpoint, EndpointError, EndpointOptions, Names, is_group};
pub use find::{Wanted, Which, is_service};
pub use list::list;
pub use services::{ManagedService, Plane, ProcessHands, Services};
pub use shell::{Interactive, OneShot, interactive, one_shot};
pub use socket::{Control, Register, serve};
