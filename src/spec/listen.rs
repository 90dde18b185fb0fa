//! Where a service listens.
//!
//! Knows: that a host and a port can be named. Never: names and services of this machine, sockets.

use std::fmt;
use std::num::NonZeroU16;

use super::Typed;

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSpec {
    /// On which address.
    pub host: ListenHost,
    /// On which port; also the port of channels that have none.
    pub port: PortWord,
    /// PORT's word, for messages.
    pub typed: Typed,
}

/// The address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenHost {
    /// `0.0.0.0`.
    AnyV4,
    /// `::`, IPv4 clients too.
    AnyV6,
    /// One host or address.
    Host(HostSpec),
}

/// A host or an address. Not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// The name or address, without brackets; never empty.
    pub name: String,
    /// The whole word, for messages.
    pub typed: Typed,
}

/// A port as it was typed: a number, or a word for the services database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PortWord {
    /// 1..=65535.
    Number(NonZeroU16),
    /// Looks like a service name; whether there is such a service is asked later.
    Name(String),
}

impl fmt::Display for PortWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}
