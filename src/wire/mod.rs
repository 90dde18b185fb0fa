//! Decisions about bytes without any socket. All parts are pure: they take bytes in any split and say what to
//! do.
//!
//! [`relay`] decides what one connection reads, delivers, ends and resets, `pace` how much at once. `talk` is
//! what a check sends and expects (`http`, `dialogue`). [`greeting`] is what is read from a client before it
//! has a channel: the PROXY header (`proxy`), and what the client asks for ([`hello`]), possibly after a
//! request for TLS (`postgres`). [`dns`] has queries to name servers and their answers.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod crc32c;
mod dialogue;
pub mod dns;
pub mod greeting;
pub mod hello;
mod http;
mod pace;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub mod relay;
pub(crate) mod talk;
