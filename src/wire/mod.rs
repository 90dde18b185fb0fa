//! What can be said about bytes without a socket. Pure: every part takes bytes in any split and says what to do.
//!
//! [`relay`] decides what one connection reads, delivers, ends and resets, `pace` how much at once. `talk` is what a check
//! says and hears (`http`, `dialogue`).

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod dialogue;
mod http;
mod pace;
pub mod relay;
pub(crate) mod talk;
