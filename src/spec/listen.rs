//! Where a service listens.
//!
//! Knows: that a host and ports can be named, or a Unix socket. Never: names and services of this machine, sockets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Address, Typed, UnixName};

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSpec {
    /// On which address; of no weight for a Unix socket.
    pub host: ListenHost,
    /// On which ports; a channel without a port of its own has the one that its client came to.
    pub ports: PortsSpec,
    /// PORT's word, for messages.
    pub typed: Typed,
}

/// PORT: the ports of a service, or its Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortsSpec {
    /// One.
    One(PortWord),
    /// Several that follow each other.
    Range(PortRange),
    /// None: it is a Unix socket.
    Unix(UnixName),
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
            Self::One(_) | Self::Unix(_) => None,
            Self::Range(range) => Some(*range),
        }
    }

    /// Is it a Unix socket?
    pub fn unix(&self) -> Option<UnixName> {
        match self {
            Self::One(_) | Self::Range(_) => None,
            Self::Unix(name) => Some(*name),
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
            Self::Unix(name) => name.fmt(f),
        }
    }
}

/// One port of an address, or several that follow each other, or a Unix socket: where somebody listens. Prints as `ADDRESS:PORT`,
/// `ADDRESS:FIRST-LAST` or `unix:/PATH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenSpan {
    first: Address,
    /// 0 for a Unix socket.
    last: u16,
}

impl ListenSpan {
    /// The ports from that of the address up to this one, or that one port.
    pub fn new(first: impl Into<Address>, last: u16) -> Self {
        let first = first.into();
        let last = if first.unix().is_some() { 0 } else { last.max(first.port()) };
        Self { first, last }
    }

    /// These addresses, in their order, with those as one whose ports follow each other.
    pub fn of<A: Into<Address>>(all: impl IntoIterator<Item = A>) -> Vec<Self> {
        let mut spans: Vec<Self> = Vec::new();
        for address in all.into_iter().map(Into::into) {
            match spans.last_mut() {
                Some(span)
                    if span.first.net().is_some()
                        && span.last.checked_add(1) == Some(address.port())
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
    pub fn first(self) -> Address {
        self.first
    }

    /// The Unix socket, if it is one.
    pub fn unix(self) -> Option<UnixName> {
        self.first.unix()
    }

    /// Its address; `None`: it is a Unix socket.
    pub fn ip(self) -> Option<IpAddr> {
        Some(self.first.net()?.ip())
    }

    /// All its ports; a Unix socket has none.
    #[allow(clippy::reversed_empty_ranges, reason = "that is how an inclusive range is empty")]
    pub fn ports(self) -> RangeInclusive<u16> {
        match self.first {
            Address::Net(first) => first.port()..=self.last,
            Address::Unix(_) => 1..=0,
        }
    }

    /// How many listeners that is.
    pub fn listeners(self) -> usize {
        self.ports().len().max(1)
    }

    /// The address with another port.
    pub fn at(self, port: u16) -> Address {
        self.first.with_port(port)
    }

    /// Each of its addresses.
    pub fn each(self) -> impl Iterator<Item = Address> {
        self.ports().map(move |port| self.at(port)).chain(self.unix().map(Address::Unix))
    }

    /// Has it a port like this address, whatever IP address that is? A Unix socket has none, and is always the same.
    pub fn has_port_of(self, address: Address) -> bool {
        self.unix().is_some() || self.ports().contains(&address.port())
    }

    /// Has another one an address in common with this one?
    pub fn meets(self, other: Self) -> bool {
        self.at(0) == other.at(0) && self.first.port().max(other.first.port()) <= self.last.min(other.last)
    }

    /// Is this one of them?
    pub fn contains(self, address: Address) -> bool {
        self.has_port_of(address) && self.at(address.port()) == address
    }
}

impl<A: Into<Address>> From<A> for ListenSpan {
    fn from(address: A) -> Self {
        let first = address.into();
        Self { first, last: first.port() }
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
        if text.starts_with(UnixName::PREFIX) {
            return text.parse().map(|name: UnixName| name.into()).map_err(drop);
        }
        let (first, last) = match text.rsplit_once('-') {
            Some((first, last)) => (first, Some(last)),
            None => (text, None),
        };
        let first: SocketAddr = first.parse().map_err(drop)?;
        let last = last.map_or(Ok(first.port()), str::parse).map_err(drop)?;
        if last < first.port() { Err(()) } else { Ok(Self::new(first, last)) }
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

    fn at(text: &str) -> Address {
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
            (&["unix:/run/x", "unix:@x", "1.1.1.1:1"], &["unix:/run/x", "unix:@x", "1.1.1.1:1"]),
        ] {
            let spans = ListenSpan::of(all.iter().map(|text| at(text)));
            assert_eq!(spans.iter().map(ToString::to_string).collect::<Vec<_>>(), told);
            assert!(told.iter().zip(&spans).all(|(text, span)| text.parse() == Ok(*span)), "{told:?}");
            assert_eq!(
                spans.iter().flat_map(|span| span.each()).map(|at| at.to_string()).collect::<Vec<_>>(),
                all
            );
        }
        for text in
            ["0.0.0.0:82-80", "0.0.0.0", "80-82", "0.0.0.0:80-", "0.0.0.0:-80", "0.0.0.0:80-70000", "unix:x"]
        {
            assert_eq!(text.parse::<ListenSpan>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_unix_socket_is_one_listener_without_a_port() {
        let span: ListenSpan = "unix:/run/x-80".parse().expect("a span");
        assert_eq!((span.ports().len(), span.listeners(), span.each().count()), (0, 1, 1));
        assert!(span.contains(at("unix:/run/x-80")) && !span.contains(at("unix:/run/x")));
        assert!(
            !span.contains(at("0.0.0.0:0")) && !ListenSpan::from(at("0.0.0.0:80")).contains(span.first())
        );
        assert!(
            span.meets(span) && !span.meets(at("unix:@x").into()) && !span.meets(at("0.0.0.0:80").into())
        );
        assert!(!ListenSpan::from(at("0.0.0.0:80")).meets(span));
        assert_eq!(ListenSpan::new(span.first(), 90), span);
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
