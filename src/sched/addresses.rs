//! The addresses of clients and of channels, as choosing sees them.
//!
//! Knows: which of them are the same. Never: who found them, which of them answer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::spec::{Address, FamilyKind};

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

/// The addresses of one channel, in the resolver's order. A dial tries each before the channel counts as failed. There are
/// none only of a name that nobody could look up [yet](Self::unknown).
///
/// A channel that has no port of its own is connected to at the port that its client came to. Its addresses have port 0, which
/// nothing can be connected to: [`Address::with_port`] is for whoever connects ([`Lease::target`](super::Lease::target), probes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Arc<AddressList>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct AddressList {
    /// The name they were found by.
    host: Option<Box<str>>,
    /// What its word says of that name.
    lazy: bool,
    port: u16,
    list: Box<[Address]>,
    /// It stands for a set of channels, which have the addresses.
    family: Option<(FamilyKind, Option<Box<[FoundMember]>>)>,
}

/// One of the channels that a word of many stands for, as a resolver tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMember {
    /// Its address as text, or the name of the machine.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Those of lower numbers are tried first.
    pub priority: u16,
    /// Its part of the clients among those of its priority.
    pub weight: u16,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<SocketAddr>,
}

impl FoundMember {
    /// One that is an address.
    pub fn of(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        Self { host, port: address.port(), priority: 0, weight: 1, addresses: vec![address] }
    }
}

impl Addresses {
    /// `None` if the list is empty.
    pub fn new(list: Vec<Address>) -> Option<Self> {
        let port = list.first()?.port();
        Some(Self(Arc::new(AddressList { host: None, lazy: false, port, list: list.into(), family: None })))
    }
    /// Those of a name that nobody could look up yet. No client gets its channel until they are known.
    pub fn unknown(host: &str, port: u16) -> Self {
        Self(Arc::new(AddressList {
            host: Some(host.into()),
            lazy: false,
            port,
            list: Box::default(),
            family: None,
        }))
    }
    /// A word that stands for these channels. `None`: they are not known yet.
    pub fn of_family(kind: FamilyKind, host: &str, port: u16, members: Option<Vec<FoundMember>>) -> Self {
        Self::unknown(host, port).with(|all| all.family = Some((kind, members.map(Vec::into_boxed_slice))))
    }
    /// The same word, which stands for these channels now.
    pub(super) fn with_members(&self, members: Vec<FoundMember>) -> Self {
        self.clone().with(|all| {
            all.family = all.family.take().map(|(kind, _)| (kind, Some(members.into_boxed_slice())));
        })
    }
    /// `None`: it is one channel.
    pub fn family(&self) -> Option<FamilyKind> {
        self.0.family.as_ref().map(|(kind, _)| *kind)
    }
    /// The channels that it stands for, if that is known.
    pub fn members(&self) -> Option<&[FoundMember]> {
        self.0.family.as_ref()?.1.as_deref()
    }
    /// The same addresses, and the host as it was typed.
    #[must_use]
    pub fn named(self, host: &str) -> Self {
        self.with(|all| all.host = Some(host.into()))
    }
    /// The same, and whether a start may go on without them.
    #[must_use]
    pub fn lazily(self, lazy: bool) -> Self {
        if self.0.lazy == lazy { self } else { self.with(|all| all.lazy = lazy) }
    }
    /// The same of the same name, with another list.
    pub(super) fn listing(&self, list: Vec<Address>) -> Self {
        self.clone().with(|all| all.list = list.into())
    }
    fn with(self, change: impl FnOnce(&mut AddressList)) -> Self {
        let mut list = Arc::try_unwrap(self.0).unwrap_or_else(|shared| AddressList::clone(&shared));
        change(&mut list);
        Self(Arc::new(list))
    }
    /// Is there any?
    pub fn is_known(&self) -> bool {
        !self.0.list.is_empty() || self.members().is_some_and(|members| !members.is_empty())
    }
    /// May a start go on without them?
    pub fn is_lazy(&self) -> bool {
        self.0.lazy
    }
    /// Their port. 0: that which a client came to.
    pub fn port(&self) -> u16 {
        self.0.port
    }
    /// The host as it was typed, or else the first address, and the port if they have one.
    pub fn words(&self) -> String {
        match (self.host(), self.0.port) {
            (None, _) => ShownAddress(self.first()).to_string(),
            (Some(host), 0) => host.to_owned(),
            (Some(host), port) if host.contains(':') => format!("[{host}]:{port}"),
            (Some(host), port) => format!("{host}:{port}"),
        }
    }
    /// Do they have no port of their own, so that each client is connected to at the one that it came to?
    pub fn follow_clients(&self) -> bool {
        self.0.port == 0 && self.first().unix().is_none()
    }
    /// Where in the list an address is. That at which somebody was connected to counts, too, whatever port that had.
    pub fn place(&self, address: Address) -> Option<usize> {
        let address = if self.follow_clients() { address.with_port(0) } else { address };
        self.0.list.iter().position(|&one| one == address)
    }
    /// The host as it was typed, if that is known.
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }
    /// The first one; 0.0.0.0 while none is known.
    pub fn first(&self) -> Address {
        self.0.list.first().copied().unwrap_or(Address::NOWHERE.with_port(self.0.port))
    }
    /// All of them, in order.
    pub fn as_slice(&self) -> &[Address] {
        &self.0.list
    }
}

/// An address as it is told: one without a port of its own has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownAddress(pub Address);

impl fmt::Display for ShownAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address) = self;
        if address.port() == 0 { f.write_str(&address.host()) } else { address.fmt(f) }
    }
}

impl From<SocketAddr> for Addresses {
    fn from(address: SocketAddr) -> Self {
        Address::Net(address).into()
    }
}

impl From<Address> for Addresses {
    fn from(address: Address) -> Self {
        Self(Arc::new(AddressList {
            host: None,
            lazy: false,
            port: address.port(),
            list: [address].into(),
            family: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_addresses_is_never_empty() {
        assert_eq!(Addresses::new(Vec::new()), None);
        let one: Address = ([127, 0, 0, 1], 80).into();
        let two: Address = ([127, 0, 0, 2], 80).into();
        let both = Addresses::new(vec![two, one]).expect("two addresses");
        assert_eq!((both.first(), both.as_slice()), (two, &[two, one][..]), "the order is kept");
        assert_eq!(Addresses::from(one).as_slice(), &[one]);
    }

    #[test]
    fn addresses_without_a_port_of_their_own_are_found_by_that_which_a_client_came_to() {
        let at = |ip: u8, port: u16| Address::from(([10, 0, 0, ip], port));
        let follow = Addresses::new(vec![at(1, 0), at(2, 0)]).expect("two addresses");
        assert!(follow.follow_clients());
        assert_eq!([at(2, 0), at(2, 5_000), at(3, 0)].map(|one| follow.place(one)), [Some(1), Some(1), None]);
        let own = Addresses::from(at(1, 80));
        assert!(!own.follow_clients());
        assert_eq!([at(1, 80), at(1, 81), at(1, 0)].map(|one| own.place(one)), [Some(0), None, None]);
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
