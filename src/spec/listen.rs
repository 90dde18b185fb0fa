//! Where a service listens.
//!
//! Knows: that a host and a port can be named. Never: names and services of this machine, sockets.

use std::fmt;
use std::num::NonZeroU16;

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenSpec {
    /// On which address.
    pub host: ListenHost,
    /// On which port; also the port of channels that have none.
    pub port: PortWord,
}

/// The address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenHost {
    /// `0.0.0.0`.
    AnyV4,
    /// `::`, IPv4 clients too.
    AnyV6,
    /// One host or address, as typed but without brackets. Not resolved.
    Host(String),
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
