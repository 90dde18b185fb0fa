//! The addresses of clients and channels, as the choice of a channel sees them.
//!
//! Knows: which of them are equal. Never: who found them, which of them answer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::spec::{Address, FamilyKind};

/// A client's address for hashing: without a port, and `::ffff:a.b.c.d` is the same client as `a.b.c.d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    /// The address; never an IPv4-mapped one.
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }
}

/// The addresses of one channel in the resolver's order. A dial tries each of them before the channel counts
/// as failed. The list is empty only for a name that could not be looked up [yet](Self::unknown).
///
/// A channel without a port of its own is connected to on the port that its client connected to. Its
/// addresses have port 0, to which nothing can connect: the code that connects
/// ([`Lease::target`](super::Lease::target), probes) fills the port in by [`Address::with_port`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Arc<AddressList>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct AddressList {
    /// The host as it was typed, if it was a host.
    host: Option<Box<str>>,
    /// The `lazy` option of its word.
    lazy: bool,
    port: u16,
    list: Box<[Address]>,
    /// What set of channels the word stands for, and its members, if they are known. `None`: it is one
    /// channel.
    family: Option<(FamilyKind, Option<Box<[FoundMember]>>)>,
}

/// One channel of the set that a word stands for, as a resolver reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMember {
    /// Its address as text, or the host name of the target.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Members with a lower number are tried first.
    pub priority: u16,
    /// Its share of clients among members of the same priority.
    pub weight: u16,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<SocketAddr>,
}

impl FoundMember {
    /// A member that is an address.
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
    /// The addresses of a name that could not be looked up yet. The channel gets no clients until they are
    /// known.
    pub fn unknown(host: &str, port: u16) -> Self {
        Self(Arc::new(AddressList {
            host: Some(host.into()),
            lazy: false,
            port,
            list: Box::default(),
            family: None,
        }))
    }
    /// A word that stands for this set of channels. `members` is `None` while they are not known.
    pub fn of_family(kind: FamilyKind, host: &str, port: u16, members: Option<Vec<FoundMember>>) -> Self {
        Self::unknown(host, port).with(|all| all.family = Some((kind, members.map(Vec::into_boxed_slice))))
    }
    /// The same word with other members.
    pub(super) fn with_members(&self, members: Vec<FoundMember>) -> Self {
        self.clone().with(|all| {
            all.family = all.family.take().map(|(kind, _)| (kind, Some(members.into_boxed_slice())));
        })
    }
    /// What set of channels it stands for. `None`: it is one channel.
    pub fn family(&self) -> Option<FamilyKind> {
        self.0.family.as_ref().map(|(kind, _)| *kind)
    }
    /// The members of the set; `None` if they are not known or it is one channel.
    pub fn members(&self) -> Option<&[FoundMember]> {
        self.0.family.as_ref()?.1.as_deref()
    }
    /// The same addresses with the host as it was typed.
    #[must_use]
    pub fn named(self, host: &str) -> Self {
        self.with(|all| all.host = Some(host.into()))
    }
    /// Sets whether balance may start although the addresses are not known.
    #[must_use]
    pub fn lazily(self, lazy: bool) -> Self {
        if self.0.lazy == lazy { self } else { self.with(|all| all.lazy = lazy) }
    }
    /// The same name with another list of addresses.
    pub(super) fn listing(&self, list: Vec<Address>) -> Self {
        self.clone().with(|all| all.list = list.into())
    }
    fn with(self, change: impl FnOnce(&mut AddressList)) -> Self {
        let mut list = Arc::try_unwrap(self.0).unwrap_or_else(|shared| AddressList::clone(&shared));
        change(&mut list);
        Self(Arc::new(list))
    }
    /// Is any address or member known?
    pub fn is_known(&self) -> bool {
        !self.0.list.is_empty() || self.members().is_some_and(|members| !members.is_empty())
    }
    /// May balance start although the addresses are not known?
    pub fn is_lazy(&self) -> bool {
        self.0.lazy
    }
    /// The port. 0: the port that the client connected to.
    pub fn port(&self) -> u16 {
        self.0.port
    }
    /// The host as it was typed, or else the first address, with the port if there is one.
    pub fn words(&self) -> String {
        match (self.host(), self.0.port) {
            (None, _) => ShownAddress(self.first()).to_string(),
            (Some(host), 0) => host.to_owned(),
            (Some(host), port) if host.contains(':') => format!("[{host}]:{port}"),
            (Some(host), port) => format!("{host}:{port}"),
        }
    }
    /// Do they have no port of their own, so that each client is connected to the port that it connected to?
    pub fn follow_clients(&self) -> bool {
        self.0.port == 0 && self.first().unix().is_none()
    }
    /// The index of an address in the list. If the addresses have no port of their own, any port matches.
    pub fn place(&self, address: Address) -> Option<usize> {
        let address = if self.follow_clients() { address.with_port(0) } else { address };
        self.0.list.iter().position(|&one| one == address)
    }
    /// The host as it was typed, if it is known.
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }
    /// The first address; 0.0.0.0 while none is known.
    pub fn first(&self) -> Address {
        self.0.list.first().copied().unwrap_or(Address::NOWHERE.with_port(self.0.port))
    }
    /// All addresses, in order.
    pub fn as_slice(&self) -> &[Address] {
        &self.0.list
    }
}

/// Prints an address for users; without the port if it has none of its own.
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
