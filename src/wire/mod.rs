//! What can be said about bytes without a socket. Pure: every part takes bytes in any split and says what to do.
//!
//! [`relay`] decides what one connection reads, delivers, ends and resets, `pace` how much at once. `talk` is what a check
//! says and hears (`http`, `dialogue`). [`greeting`] is what is heard of a client before there is a channel for it: the header
//! of the PROXY protocol (`proxy`), and what it asks for ([`hello`]), maybe behind a request for TLS (`postgres`). [`dns`] is what name
//! servers are asked and say.

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
