//! Where a service listens.
//!
//! Knows: that a host and ports can be named. Never: names and services of this machine, sockets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::Typed;

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSpec {
    /// On which address.
    pub host: ListenHost,
    /// On which ports; a channel without a port of its own has the one that its client came to.
    pub ports: PortsSpec,
    /// PORT's word, for messages.
    pub typed: Typed,
}

/// The ports of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortsSpec {
    /// One.
    One(PortWord),
    /// Several that follow each other.
    Range(PortRange),
}

/// At least two ports that follow each other: `FIRST-LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// `None` if the second one is not above the first.
    pub fn new(first: NonZeroU16, last: NonZeroU16) -> Option<Self> {
        (first < last).then_some(Self { first, last })
    }

    /// The lowest.
    pub fn first(self) -> NonZeroU16 {
        self.first
    }

    /// The highest.
    pub fn last(self) -> NonZeroU16 {
        self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl PortsSpec {
    /// Are there several?
    pub fn range(&self) -> Option<PortRange> {
        match self {
            Self::One(_) => None,
            Self::Range(range) => Some(*range),
        }
    }
}

impl From<PortWord> for PortsSpec {
    fn from(port: PortWord) -> Self {
        Self::One(port)
    }
}

impl fmt::Display for PortsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => port.fmt(f),
            Self::Range(range) => range.fmt(f),
        }
    }
}

/// One port of an address, or several that follow each other, to listen on. Prints as `ADDRESS:PORT` or `ADDRESS:FIRST-
/// LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenSpan {
    first: SocketAddr,
    last: u16,
}

impl ListenSpan {
    /// The ports from that of the address up to this one, or that one port.
    pub fn new(first: SocketAddr, last: u16) -> Self {
        Self { first, last: last.max(first.port()) }
    }

    /// These addresses, in their order, with those as one whose ports follow each other.
    pub fn of(all: impl IntoIterator<Item = SocketAddr>) -> Vec<Self> {
        let mut spans: Vec<Self> = Vec::new();
        for address in all {
            match spans.last_mut() {
                Some(span)
                    if span.last.checked_add(1) == Some(address.port())
                        && span.at(address.port()) == address =>
                {
                    span.last = address.port();
                }
                _ => spans.push(address.into()),
            }
        }
        spans
    }

    /// The address with the lowest port.
    pub fn first(self) -> SocketAddr {
        self.first
    }

    /// Its address.
    pub fn ip(self) -> IpAddr {
        self.first.ip()
    }

    /// All its ports.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first.port()..=self.last
    }

    /// The address with another port.
    pub fn at(self, port: u16) -> SocketAddr {
        let mut address = self.first;
        address.set_port(port);
        address
    }

    /// Each of its addresses.
    pub fn each(self) -> impl Iterator<Item = SocketAddr> {
        self.ports().map(move |port| self.at(port))
    }

    /// Has another one an address in common with this one?
    pub fn meets(self, other: Self) -> bool {
        self.at(0) == other.at(0) && self.first.port().max(other.first.port()) <= self.last.min(other.last)
    }

    /// Is this one of them?
    pub fn contains(self, address: SocketAddr) -> bool {
        self.ports().contains(&address.port()) && self.at(address.port()) == address
    }
}

impl From<SocketAddr> for ListenSpan {
    fn from(address: SocketAddr) -> Self {
        Self { first: address, last: address.port() }
    }
}

impl fmt::Display for ListenSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        if self.last > self.first.port() { write!(f, "-{}", self.last) } else { Ok(()) }
    }
}

impl FromStr for ListenSpan {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = match text.rsplit_once('-') {
            Some((first, last)) => (first, Some(last)),
            None => (text, None),
        };
        let first: SocketAddr = first.parse().map_err(drop)?;
        let last = last.map_or(Ok(first.port()), str::parse).map_err(drop)?;
        if last < first.port() { Err(()) } else { Ok(Self { first, last }) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn ports_that_follow_each_other_are_told_as_one() {
        for (all, told) in [
            (&["0.0.0.0:80"][..], &["0.0.0.0:80"][..]),
            (&["0.0.0.0:80", "0.0.0.0:81", "0.0.0.0:82"], &["0.0.0.0:80-82"]),
            (&["0.0.0.0:80", "0.0.0.0:82", "[::]:83"], &["0.0.0.0:80", "0.0.0.0:82", "[::]:83"]),
            (
                &["[fe80::1%3]:80", "[fe80::1%3]:81", "[fe80::1%4]:82"],
                &["[fe80::1%3]:80-81", "[fe80::1%4]:82"],
            ),
            (&["1.1.1.1:65535", "1.1.1.1:0"], &["1.1.1.1:65535", "1.1.1.1:0"]),
        ] {
            let spans = ListenSpan::of(all.iter().map(|text| at(text)));
            assert_eq!(spans.iter().map(ToString::to_string).collect::<Vec<_>>(), told);
            assert!(told.iter().zip(&spans).all(|(text, span)| text.parse() == Ok(*span)), "{told:?}");
            assert_eq!(
                spans.iter().flat_map(|span| span.each()).map(|at| at.to_string()).collect::<Vec<_>>(),
                all
            );
        }
        for text in ["0.0.0.0:82-80", "0.0.0.0", "80-82", "0.0.0.0:80-", "0.0.0.0:-80", "0.0.0.0:80-70000"] {
            assert_eq!(text.parse::<ListenSpan>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_span_has_its_ports_at_its_address() {
        let span: ListenSpan = "10.0.0.1:80-90".parse().expect("a span");
        for (address, is_in) in [
            ("10.0.0.1:80", true),
            ("10.0.0.1:90", true),
            ("10.0.0.1:79", false),
            ("10.0.0.1:91", false),
            ("10.0.0.2:85", false),
        ] {
            assert_eq!(span.contains(at(address)), is_in, "{address}");
        }
    }
}
