//! Where a service listens.
//!
//! Knows: that it is a host with ports, or a Unix socket. Never: which names and services this machine knows,
//! sockets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Address, Typed, UnixName};

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSpec {
    /// The address to listen on; ignored for a Unix socket.
    pub host: ListenHost,
    /// The ports to listen on. A channel without a port of its own uses the port that its client connected
    /// to.
    pub ports: PortsSpec,
    /// The word of PORT as typed, for messages.
    pub typed: Typed,
}

/// The PORT argument: the ports of a service, or its Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortsSpec {
    /// One port.
    One(PortWord),
    /// A range of consecutive ports.
    Range(PortRange),
    /// No port but a Unix socket.
    Unix(UnixName),
}

/// At least two consecutive ports: `FIRST-LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// `None` unless `last` is above `first`.
    pub fn new(first: NonZeroU16, last: NonZeroU16) -> Option<Self> {
        (first < last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> NonZeroU16 {
        self.first
    }

    /// The highest port.
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
    /// The range of ports; `None` for one port or a Unix socket.
    pub fn range(&self) -> Option<PortRange> {
        match self {
            Self::One(_) | Self::Unix(_) => None,
            Self::Range(range) => Some(*range),
        }
    }

    /// The Unix socket; `None` for ports.
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

/// Where a service listens: one port or consecutive ports of an address, or a Unix socket. Prints as
/// `ADDRESS:PORT`, `ADDRESS:FIRST-LAST` or `unix:/PATH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenSpan {
    first: Address,
    /// The highest port; 0 for a Unix socket.
    last: u16,
}

impl ListenSpan {
    /// The ports from that of `first` to `last`. If `last` is not above the first port, only that one.
    pub fn new(first: impl Into<Address>, last: u16) -> Self {
        let first = first.into();
        let last = if first.unix().is_some() { 0 } else { last.max(first.port()) };
        Self { first, last }
    }

    /// Joins neighbouring entries that have the same address and consecutive ports; keeps the order.
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

    /// The address with its lowest port, or the Unix socket.
    pub fn first(self) -> Address {
        self.first
    }

    /// The Unix socket; `None` for ports.
    pub fn unix(self) -> Option<UnixName> {
        self.first.unix()
    }

    /// The IP address; `None` for a Unix socket.
    pub fn ip(self) -> Option<IpAddr> {
        Some(self.first.net()?.ip())
    }

    /// All ports; empty for a Unix socket.
    #[allow(clippy::reversed_empty_ranges, reason = "that is how an inclusive range is empty")]
    pub fn ports(self) -> RangeInclusive<u16> {
        match self.first {
            Address::Net(first) => first.port()..=self.last,
            Address::Unix(_) => 1..=0,
        }
    }

    /// How many listening sockets it takes.
    pub fn listeners(self) -> usize {
        self.ports().len().max(1)
    }

    /// The address with another port; a Unix socket as it is.
    pub fn at(self, port: u16) -> Address {
        self.first.with_port(port)
    }

    /// Every address with its port, or the Unix socket.
    pub fn each(self) -> impl Iterator<Item = Address> {
        self.ports().map(move |port| self.at(port)).chain(self.unix().map(Address::Unix))
    }

    /// Is the port of `address` one of these, whatever its IP address? Always true for a Unix socket, which
    /// has no port.
    pub fn has_port_of(self, address: Address) -> bool {
        self.unix().is_some() || self.ports().contains(&address.port())
    }

    /// Do the two have an address and port in common?
    pub fn meets(self, other: Self) -> bool {
        self.at(0) == other.at(0) && self.first.port().max(other.first.port()) <= self.last.min(other.last)
    }

    /// Is `address` one of these addresses, including the port?
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
    /// `::`, which accepts IPv4 clients, too.
    AnyV6,
    /// One host name or address.
    Host(HostSpec),
}

/// A host name or an address. Not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// The name, or the address without brackets; never empty.
    pub name: String,
    /// The whole word as typed, for messages.
    pub typed: Typed,
}

/// A port as it was typed: a number, or a name from the services database (`/etc/services`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PortWord {
    /// 1..=65535.
    Number(NonZeroU16),
    /// A word with the form of a service name. Whether the database has it is checked later.
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
