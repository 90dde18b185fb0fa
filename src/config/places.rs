//! The addresses that services listen on, and which two of them exclude each other.
//!
//! Knows: wildcards and which addresses they cover. Never: lookups of names, sockets, where an address was
//! typed.
//! Source: docs/file.md, "Lines".

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::spec::{Address, UnixName};

/// An address that a service listens on, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// One address, with the zone of a link-local one (otherwise 0); or the IPv4 wildcard.
    Address(IpAddr, u32),
    /// The IPv6 wildcard `::`, which takes IPv4 clients, too.
    AnyAddress,
    /// A host name. Which address it means is known after the lookup.
    Name(String),
    /// A Unix socket.
    Unix(UnixName),
}

/// What a place is recorded as, and what others look for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim {
    Exactly(ListenAddress),
    SomeV4,
    SomeV6,
    SomeName,
}

/// The places that are taken. The cost of a look does not grow with their number.
#[derive(Debug)]
pub struct Places<T> {
    taken: HashMap<(String, Claim), T>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { taken: HashMap::new() }
    }
}

impl ListenAddress {
    const ANY_V4: Self = Self::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

    /// The place of an address. An IPv4-mapped IPv6 address is that IPv4 address. `zone` is 0 if there is
    /// none.
    pub fn of(address: IpAddr, zone: u32) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) if v6.is_unspecified() => Self::AnyAddress,
            canonical => Self::Address(canonical, zone),
        }
    }

    /// What this place is recorded as.
    fn claims(&self) -> Vec<Claim> {
        let some: &[Claim] = match self {
            Self::AnyAddress => &[Claim::SomeV4, Claim::SomeV6, Claim::SomeName],
            Self::Address(IpAddr::V4(_), _) => &[Claim::SomeV4],
            Self::Address(IpAddr::V6(_), _) => &[Claim::SomeV6],
            Self::Name(_) => &[Claim::SomeName],
            Self::Unix(_) => &[],
        };
        some.iter().cloned().chain([Claim::Exactly(self.clone())]).collect()
    }

    /// The records that exclude this place.
    fn rivals(&self) -> Vec<Claim> {
        let same = Claim::Exactly(self.clone());
        let all = Claim::Exactly(Self::AnyAddress);
        match self {
            Self::AnyAddress => vec![Claim::SomeV4, Claim::SomeV6, Claim::SomeName],
            Self::Address(IpAddr::V4(v4), _) if v4.is_unspecified() => vec![Claim::SomeV4],
            Self::Address(IpAddr::V4(_), _) => vec![same, Claim::Exactly(Self::ANY_V4), all],
            Self::Address(IpAddr::V6(_), _) | Self::Name(_) => vec![same, all],
            Self::Unix(_) => vec![same],
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::of((*v4.ip()).into(), 0),
            SocketAddr::V6(v6) => Self::of((*v6.ip()).into(), v6.scope_id()),
        }
    }
}

impl From<Address> for ListenAddress {
    fn from(address: Address) -> Self {
        match address {
            Address::Net(address) => address.into(),
            Address::Unix(name) => Self::Unix(name),
        }
    }
}

impl<T: Clone> Places<T> {
    /// Takes a place on these ports for an owner. If one of the ports is taken, returns the first such port
    /// and its owner, and changes nothing.
    pub fn take<'a>(
        &mut self,
        ports: &'a [impl AsRef<str>],
        place: &ListenAddress,
        owner: T,
    ) -> Option<(&'a str, &T)> {
        let rivals = place.rivals();
        let keys = |port: &'a str| rivals.iter().map(move |claim| (port.to_owned(), claim.clone()));
        let mut met = ports.iter().map(AsRef::as_ref).flat_map(|port| keys(port).map(move |key| (port, key)));
        // This looks it up twice. Otherwise the borrow of the first result would last until the end of the
        // function.
        if let Some((port, key)) = met.find(|(_, key)| self.taken.contains_key(key)) {
            return self.taken.get(&key).map(|owner| (port, owner));
        }
        for port in ports {
            for claim in place.claims() {
                self.taken.entry((port.as_ref().to_owned(), claim)).or_insert_with(|| owner.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(word: &str) -> ListenAddress {
        match word.parse::<IpAddr>() {
            Ok(address) => ListenAddress::of(address, 0),
            Err(_) => ListenAddress::Name(word.to_owned()),
        }
    }

    #[test]
    fn of_two_places_on_a_port_it_is_known_whether_they_meet_in_either_order() {
        let meet = [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "0.0.0.0"),
            ("10.0.0.1", "::"),
            ("10.0.0.1", "::ffff:10.0.0.1"),
            ("::ffff:0.0.0.0", "10.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("0.0.0.0", "::"),
            ("::", "::"),
            ("::1", "::"),
            ("::1", "::1"),
            ("name", "name"),
            ("name", "::"),
        ];
        let part = [
            ("10.0.0.1", "10.0.0.2"),
            ("::1", "10.0.0.1"),
            ("::1", "0.0.0.0"),
            ("name", "other"),
            ("name", "0.0.0.0"),
        ];
        for (pairs, is_met) in [(&meet[..], true), (&part[..], false)] {
            for &(one, other) in pairs {
                for (one, other) in [(one, other), (other, one)] {
                    let mut places = Places::default();
                    assert_eq!(places.take(&["80"], &place(one), 1), None);
                    assert_eq!(places.take(&["81", "82"], &place(other), 2), None, "another port");
                    let met = is_met.then_some(("80", &1));
                    assert_eq!(places.take(&["79", "80"], &place(other), 3), met, "{one} {other}");
                }
            }
        }
    }

    #[test]
    fn link_local_addresses_of_two_zones_are_two_places() {
        let local = "fe80::1".parse().expect("an address");
        let mut places = Places::default();
        assert_eq!(places.take(&["80"], &ListenAddress::of(local, 1), 1), None);
        assert_eq!(places.take(&["80"], &ListenAddress::of(local, 2), 2), None);
        assert_eq!(places.take(&["80"], &ListenAddress::of(local, 1), 3), Some(("80", &1)));
    }
}
