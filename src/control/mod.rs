//! The command language and the ways to reach it: a control socket with the shell as its client, and HTTP.
//!
//! Reading order: [`argument`], [`command`], [`execute`], [`render`], `status` and [`json`] are the language,
//! pure. [`wire`], [`directory`], `entry`, [`endpoint`], [`services`], `sessions`, [`socket`], [`find`] and
//! [`client`] carry it between processes. [`shell`] is the operator's end, and `list` shows all instances.
//! `tapping` and `viewer` show what one connection carries, `watch` reads it, and `capture` writes it to a
//! file for Wireshark (`segments`, `pcapng`). `http` serves `metrics` and `ready` to monitoring. [`doctor`]
//! looks for common problems. `top` shows an instance live.

pub mod argument;
mod capture;
pub mod client;
mod columns;
pub mod command;
#[cfg(test)]
mod conversations;
mod denying;
pub mod directory;
pub mod doctor;
pub mod endpoint;
mod entry;
pub mod execute;
pub mod find;
pub mod http;
mod interrupt;
pub mod json;
mod list;
mod metrics;
mod patience;
mod pcapng;
mod peer;
mod printer;
mod reader;
mod ready;
pub mod render;
#[cfg(test)]
pub(crate) mod scratch;
mod segments;
pub mod services;
mod sessions;
pub mod shell;
pub mod socket;
mod status;
pub mod takeover;
mod tapping;
mod terminal;
#[cfg(feature = "top")]
mod top;
#[cfg(test)]
mod transcripts;
mod viewer;
pub mod vitals;
mod watch;
pub mod wire;

pub use argument::{HostPort, Port};
pub use directory::Directory;
pub use directory::Place;
pub use doctor::{ClockSigns, KernelSigns, PrivilegeSigns, ProcessSigns, WaySign};
pub use endpoint::{Endpoint, EndpointError, EndpointOptions, Names, group_name, group_number, is_group};
pub use find::{Wanted, Which, is_service};
pub use http::listen::{HttpParts, HttpServer};
pub use http::orders::{OrderParts, TokenError, TokenFile};
pub use list::{draining, list, tell_draining};
pub use services::{
    CarriedCount, ListeningSocket, ManagedService, Plane, ProcessHands, ResolvedName, Services,
};
pub use shell::{Interactive, OneShot, interactive, one_shot};
pub use socket::{Control, Register, serve};
pub use takeover::{ask_for, entries_on, holder};
pub use vitals::{SystemVitals, Vitals};
