//! Channels that lead back to the port that their clients connected to: a single client would use up all
//! descriptors.
//!
//! Knows: where a service listens, how to recognize an address of this host. Never: channels, what happens to
//! a client.
//!
//! Most cases are recognized by the address before a connection is made. But only the kernel knows whether an
//! address is one of this host's, and asking it before each dial would cost too much. So with a wildcard
//! listener, a connection is found afterwards to have come back, and from then on the kernel is asked before.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::spec::{Address, ListenSpan, UnixName};
use crate::sys::socket;
use crate::sys::socket_file::is_same_socket;

/// Where a service listens, to detect channels that lead back.
#[derive(Debug)]
pub(super) struct Circle {
    listening: ArcSwap<Vec<ListenSpan>>,
    /// A connection has come back.
    was_met: AtomicBool,
}

/// A channel leads back to this instance.
#[derive(Debug, thiserror::Error)]
#[error("{target} is where this instance listens; a channel that leads back needs a maxc")]
pub(super) struct LeadsBack {
    target: Address,
    /// It leads there without a way through others, which depends on the client.
    is_direct: bool,
}

impl LeadsBack {
    /// The channel leads to its own service.
    pub(super) fn error(target: impl Into<Address>) -> io::Error {
        io::Error::other(Self { target: target.into(), is_direct: true })
    }

    /// The client came round through other services.
    pub(super) fn round(target: impl Into<Address>) -> io::Error {
        io::Error::other(Self { target: target.into(), is_direct: false })
    }

    pub(super) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }

    /// Does the channel lead to its own service, so that no client can be served by it?
    pub(super) fn is_direct(error: &io::Error) -> bool {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()).is_some_and(|one| one.is_direct)
    }
}

impl Circle {
    pub(super) fn new(listening: Vec<Address>) -> Self {
        let circle = Self { listening: ArcSwap::default(), was_met: AtomicBool::new(false) };
        circle.listens(listening);
        circle
    }

    /// Sets where the service listens.
    pub(super) fn listens(&self, listening: Vec<Address>) {
        self.listening.store(Arc::new(ListenSpan::of(listening.into_iter().map(Address::canonical))));
    }

    /// Does it listen on several ports?
    pub(super) fn is_wide(&self) -> bool {
        self.listening.load().iter().any(|span| span.ports().len() > 1)
    }

    /// Does `is_it` hold for one of the listeners with the target's port?
    fn any(&self, target: SocketAddr, is_it: impl Fn(SocketAddr) -> bool) -> bool {
        let listening = self.listening.load();
        let mut at = listening.iter().filter(|span| span.ports().contains(&target.port()));
        at.any(|span| span.at(target.port()).net().is_some_and(&is_it))
    }

    /// The Unix socket that it listens on, if it does.
    pub(super) fn unix(&self) -> Option<UnixName> {
        self.listening.load().iter().find_map(|span| span.unix())
    }

    /// Would a connection to `target` reach one of the listeners? `bound` means that the operator chose its
    /// source address, so that this cannot be found out afterwards.
    pub(super) fn awaits(&self, target: Address, bound: bool) -> bool {
        let target = match target {
            Address::Net(target) => canonical(target),
            Address::Unix(name) => return self.unix().is_some_and(|own| is_same_socket(own, name)),
        };
        self.any(target, |listener| match reach(listener, target) {
            Delivery::Certain => true,
            Delivery::IfHere => (bound || self.was_met.load(Ordering::Relaxed)) && socket::is_here(target),
            Delivery::No => false,
        })
    }

    /// Did a connection from `ours` to `target` reach one of the listeners?
    pub(super) fn was_closed(&self, ours: SocketAddr, target: SocketAddr) -> bool {
        let (ours, target) = (canonical(ours), canonical(target));
        // Only a connection within the host has the same address at both ends.
        let went_round =
            ours.ip() == target.ip() && self.any(target, |listener| reach(listener, target) != Delivery::No);
        if went_round {
            self.was_met.store(true, Ordering::Relaxed);
        }
        went_round
    }
}

/// Would a connection to `target` reach this listener? Asks the kernel if it is a wildcard.
pub(crate) fn is_reached(listener: Address, target: Address) -> bool {
    let (listener, target) = match (listener, target) {
        (Address::Net(listener), Address::Net(target)) => (listener, canonical(target)),
        (Address::Unix(listener), Address::Unix(target)) => return is_same_socket(listener, target),
        _ => return false,
    };
    match reach(canonical(listener), target) {
        Delivery::Certain => true,
        Delivery::IfHere => socket::is_here(target),
        Delivery::No => false,
    }
}

/// Does a listener receive connections to an address?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    No,
    /// If the address is one of this host's.
    IfHere,
    Certain,
}

pub(super) fn reach(listener: SocketAddr, target: SocketAddr) -> Delivery {
    if listener.port() != target.port() {
        return Delivery::No;
    }
    // The kernel treats an unspecified target address as loopback.
    let to = match target.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    match listener.ip() {
        ip if ip == to => Delivery::Certain,
        // The IPv6 wildcard is dual-stack.
        ip if ip.is_unspecified() && (ip.is_ipv6() || to.is_ipv4()) => {
            if to.is_loopback() {
                Delivery::Certain
            } else {
                Delivery::IfHere
            }
        }
        _ => Delivery::No,
    }
}

pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_leads_back_is_seen_in_the_address_where_it_can_be() {
        for (listener, target, awaits) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("[::1]:80", "[::]:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("10.0.0.1:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "127.9.9.9:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("0.0.0.0:80", "192.0.2.1:80", false),
        ] {
            let circle = Circle::new(vec![at("10.9.9.9:9").into(), at(listener).into()]);
            assert_eq!(circle.awaits(at(target).into(), false), awaits, "{target} behind {listener}");
            assert_eq!(
                is_reached(at(listener).into(), at(target).into()),
                awaits,
                "{target} behind {listener}"
            );
        }
    }

    #[test]
    fn behind_a_wildcard_a_connection_tells() {
        let circle = Circle::new(vec![at("0.0.0.0:80").into()]);
        let target = at("192.0.2.1:80");
        assert!(!circle.was_closed(at("192.0.2.2:4000"), target));
        assert!(!circle.was_closed(at("192.0.2.1:4000"), at("192.0.2.1:81")));
        assert!(circle.was_closed(at("192.0.2.1:4000"), target));
        assert!(!circle.awaits(target.into(), false), "the kernel knows that this host does not have it");
    }

    #[test]
    fn a_unix_socket_is_reached_by_its_own_name_only() {
        let [own, other] = ["unix:/run/x", "unix:@x"].map(|name| name.parse::<Address>().expect("a name"));
        let circle = Circle::new(vec![own]);
        assert!(
            circle.awaits(own, false)
                && !circle.awaits(other, true)
                && !circle.awaits(at("0.0.0.0:0").into(), true)
        );
        assert!(is_reached(own, own) && !is_reached(own, other) && !is_reached(own, at("0.0.0.0:0").into()));
    }

    #[test]
    fn the_error_is_told_from_others() {
        assert!(LeadsBack::is(&LeadsBack::error(at("127.0.0.1:80"))));
        assert!(!LeadsBack::is(&io::Error::other("something else")));
    }
}
