//! The addresses of clients and of channels, as choosing sees them.
//!
//! Knows: which of them are the same. Never: who found them, which of them answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A client's address as hashing sees it: no port, and `::ffff:a.b.c.d` is the same client as `a.b.c.d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    /// The address itself, never a v4-mapped one.
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }
}

/// The addresses of one channel, in the resolver's order; never empty. A dial tries each before the channel counts as
/// failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Arc<AddressList>);

#[derive(Debug, PartialEq, Eq)]
struct AddressList {
    /// The name they were found by.
    host: Option<Box<str>>,
    list: Box<[SocketAddr]>,
}

impl Addresses {
    /// `None` if the list is empty.
    pub fn new(list: Vec<SocketAddr>) -> Option<Self> {
        if list.is_empty() {
            None
        } else {
            Some(Self(Arc::new(AddressList { host: None, list: list.into() })))
        }
    }
    /// The same addresses, and the host as it was typed.
    #[must_use]
    pub fn named(self, host: &str) -> Self {
        let list = Arc::try_unwrap(self.0).map_or_else(|shared| shared.list.clone(), |own| own.list);
        Self(Arc::new(AddressList { host: Some(host.into()), list }))
    }
    /// The host as it was typed, if that is known.
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }
    /// The address that `show` prints.
    pub fn first(&self) -> SocketAddr {
        self.0.list[0]
    }
    /// All of them, in order.
    pub fn as_slice(&self) -> &[SocketAddr] {
        &self.0.list
    }
}

impl From<SocketAddr> for Addresses {
    fn from(address: SocketAddr) -> Self {
        Self(Arc::new(AddressList { host: None, list: [address].into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_addresses_is_never_empty() {
        assert_eq!(Addresses::new(Vec::new()), None);
        let one: SocketAddr = ([127, 0, 0, 1], 80).into();
        let two: SocketAddr = ([127, 0, 0, 2], 80).into();
        let both = Addresses::new(vec![two, one]).expect("two addresses");
        assert_eq!((both.first(), both.as_slice()), (two, &[two, one][..]), "the order is kept");
        assert_eq!(Addresses::from(one).as_slice(), &[one]);
    }

    #[test]
    fn a_mapped_client_is_the_v4_client() {
        let v4: IpAddr = [10, 1, 1, 3].into();
        let mapped: IpAddr = "::ffff:10.1.1.3".parse().expect("an address");
        let other: IpAddr = "::10.1.1.3".parse().expect("an address");
        assert_eq!(ClientAddr::from(mapped), ClientAddr::from(v4));
        assert_eq!(ClientAddr::from(mapped).ip(), v4);
        assert_ne!(
            ClientAddr::from(other),
            ClientAddr::from(v4),
            "the old compatible form is another address"
        );
    }
}
