//! `--transparent`: connections from an address that this host does not have.
//!
//! Knows: which socket options that needs, from which client's address a target can be reached. Never: who
//! the client is, whether replies come back.
//! Source: docs/transparent.md, ip(7), ipv6(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::fault::ConnectError;
use super::socket::{self, HandshakeAck};
use crate::spec::{Address, ClientSource, Keepalive};

/// Why a connection for a client cannot come from the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnAddress {
    /// One has an IPv4 address, the other an IPv6 address.
    Family,
    /// The client is on this host, the target is not.
    Loopback,
    /// The client has the target's address.
    Itself,
    /// The client's address is not that of a single host, or is valid on one link only.
    NoHost,
    /// The target is a Unix socket.
    Unix,
    /// The client connected by a Unix socket.
    NoAddress,
}

impl OwnAddress {
    /// The reason as part of a sentence.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Family => "the client and the channel have addresses of different families (IPv4 and IPv6)",
            Self::Loopback => "a loopback address of this host means nothing to a server on another host",
            Self::Itself => "the client has the channel's own address",
            Self::NoHost => "the client's address cannot be used on other networks",
            Self::Unix => "the channel is a Unix socket",
            Self::NoAddress => "a client that comes by a Unix socket has no address",
        }
    }
}

/// The source address of a connection for this client to this target.
///
/// # Errors
/// The connection has to come from one of this host's own addresses, and why.
pub(crate) fn source_for(client: ClientSource, target: Address) -> Result<IpAddr, OwnAddress> {
    let Address::Net(target) = target else { return Err(OwnAddress::Unix) };
    let client = client.ip().ok_or(OwnAddress::NoAddress)?;
    let target = target.ip().to_canonical();
    let is_no_host = match client {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    };
    // The kernel treats an unspecified target address as loopback.
    let is_local = target.is_loopback() || target.is_unspecified();
    match () {
        () if client.is_ipv4() != target.is_ipv4() => Err(OwnAddress::Family),
        () if is_no_host => Err(OwnAddress::NoHost),
        () if client == target => Err(OwnAddress::Itself),
        () if client.is_loopback() && !is_local => Err(OwnAddress::Loopback),
        () => Ok(client),
    }
}

/// Starts a connection from an address of another host. The kernel chooses the port: each client has all
/// ports for each target.
///
/// # Errors
/// As [`socket::connect`].
pub(crate) fn connect(
    source: IpAddr,
    target: SocketAddr,
    keepalive: Option<Keepalive>,
    ack: HandshakeAck,
) -> Result<OwnedFd, ConnectError> {
    let prepare = || -> io::Result<OwnedFd> {
        let fd = socket::stream(target)?;
        socket::set_stream_options(&fd, keepalive)?;
        bind(&fd, source, target)?;
        Ok(fd)
    };
    let fd = prepare().map_err(ConnectError::Ours)?;
    match socket::start(&fd, target, ack) {
        Ok(()) => Ok(fd),
        Err(e) if socket::lacks_port(&e) => Err(ConnectError::Ports(e)),
        Err(e) => Err(ConnectError::Target(e)),
    }
}

fn bind(fd: &OwnedFd, source: IpAddr, target: SocketAddr) -> io::Result<()> {
    allow(fd, target.is_ipv6())?;
    socket::bind_source(fd, SocketAddr::new(source, 0), target)
}

/// Checks that this process may use addresses of other hosts.
///
/// # Errors
/// It may not (`PermissionDenied`), or this system cannot do it.
pub(crate) fn may_bind(is_v6: bool) -> io::Result<()> {
    // Addresses reserved for documentation, which no host has. Nothing is sent.
    let other: IpAddr = match is_v6 {
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        false => Ipv4Addr::new(198, 51, 100, 1).into(),
    };
    let other = SocketAddr::new(other, 0);
    bind(&socket::stream(other)?, other.ip(), other)
}

#[cfg(target_os = "linux")]
fn allow(fd: &OwnedFd, is_v6: bool) -> io::Result<()> {
    let socket = socket2::SockRef::from(fd);
    if is_v6 { socket.set_ip_transparent_v6(true) } else { socket.set_ip_transparent_v4(true) }
}

/// Other systems have other names and rules for it.
#[cfg(not(target_os = "linux"))]
fn allow(_: &OwnedFd, _: bool) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no IP_TRANSPARENT"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::LocalPeer;

    #[test]
    fn a_target_is_reached_from_the_address_of_a_client_that_can_be_answered_there() {
        for (client, target, from) in [
            ("10.1.0.7:5000", "10.2.0.2:80", Ok("10.1.0.7")),
            ("[::ffff:10.1.0.7]:5000", "10.2.0.2:80", Ok("10.1.0.7")),
            ("10.1.0.7:5000", "[::ffff:10.2.0.2]:80", Ok("10.1.0.7")),
            ("10.1.0.7:5000", "127.0.0.1:80", Ok("10.1.0.7")),
            ("127.0.0.1:5000", "127.0.0.2:80", Ok("127.0.0.1")),
            ("127.0.0.1:5000", "0.0.0.0:80", Ok("127.0.0.1")),
            ("127.0.0.1:5000", "10.2.0.2:80", Err(OwnAddress::Loopback)),
            ("[::1]:5000", "[2001:db8::2]:80", Err(OwnAddress::Loopback)),
            ("10.1.0.7:5000", "[2001:db8::2]:80", Err(OwnAddress::Family)),
            ("[2001:db8::7]:5000", "10.2.0.2:80", Err(OwnAddress::Family)),
            ("10.2.0.2:5000", "10.2.0.2:80", Err(OwnAddress::Itself)),
            ("0.0.0.0:0", "10.2.0.2:80", Err(OwnAddress::NoHost)),
            ("224.0.0.1:5", "10.2.0.2:80", Err(OwnAddress::NoHost)),
            ("255.255.255.255:5", "10.2.0.2:80", Err(OwnAddress::NoHost)),
            ("[fe80::1]:5", "[2001:db8::2]:80", Err(OwnAddress::NoHost)),
        ] {
            let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
            let wanted = from.map(|ip| ip.parse::<IpAddr>().expect("an address"));
            assert_eq!(source_for(at(client).into(), at(target).into()), wanted, "{client} to {target}");
        }
        let by_unix = ClientSource::Local(LocalPeer::default());
        let target = SocketAddr::from(([10, 2, 0, 2], 80));
        assert_eq!(source_for(by_unix, target.into()), Err(OwnAddress::NoAddress));
    }
}
