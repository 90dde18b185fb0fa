//! One channel: its number, addresses, admin state, limit and counters.
//!
//! Knows: when it may take a connection. Never: other channels, sockets, text, the clock.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::connect_times::ConnectTimes;
use super::health::{Health, HealthRules, STEPS};
use super::lease::Slots;
use super::reach::Reach;
use super::{AdminState, ChannelSnapshot, Lease, Weight};

/// Groups are numbered 0..MAX_GROUPS.
pub const MAX_GROUPS: usize = 65_535;
/// Channels of one group are numbered 0..MAX_CHANNELS.
pub const MAX_CHANNELS: usize = 65_535;

/// The number of a group, below [`MAX_GROUPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u16);

impl GroupId {
    /// The group that is tried first.
    pub const FIRST: Self = Self(0);
    /// `None` if `n` is not below [`MAX_GROUPS`].
    pub fn new(n: usize) -> Option<Self> {
        if n < MAX_GROUPS { u16::try_from(n).ok().map(Self) } else { None }
    }
    /// The number itself.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The number of a channel inside its group, below [`MAX_CHANNELS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(u16);

impl ChannelId {
    /// `None` if `n` is not below [`MAX_CHANNELS`].
    pub fn new(n: usize) -> Option<Self> {
        if n < MAX_CHANNELS { u16::try_from(n).ok().map(Self) } else { None }
    }
    /// The number itself.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Which channel of which group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelKey {
    /// Its group.
    pub group: GroupId,
    /// Its number in the group.
    pub channel: ChannelId,
}

impl ChannelKey {
    /// `None` if there can be no such number.
    pub fn new(group: usize, channel: usize) -> Option<Self> {
        Some(Self { group: GroupId::new(group)?, channel: ChannelId::new(channel)? })
    }
    /// `None` if there can be no such number.
    pub(super) fn of(group: GroupId, number: usize) -> Option<Self> {
        ChannelId::new(number).map(|channel| Self { group, channel })
    }
}

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
    pub fn named(&self, host: &str) -> Self {
        Self(Arc::new(AddressList { host: Some(host.into()), list: self.0.list.clone() }))
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

/// A dial that failed, for those who ask why.
#[derive(Debug)]
struct LastError {
    what: String,
    at: Duration,
}

/// One destination of a group, as the table keeps it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) addresses: Addresses,
    pub(super) state: AdminState,
    /// `None` = no limit.
    pub(super) maxc: Option<NonZeroU32>,
    pub(super) weight: Weight,
    /// How much of its weight counts, in 64ths: less than all while it is returning.
    pub(super) steps: u32,
    /// Its number is taken for ever, the channel itself is gone.
    pub(super) removed: bool,
    /// It goes with its last connection.
    pub(super) retires: bool,
    pub(super) health: Health,
    /// `None`: it has one address only.
    pub(super) reach: Option<Box<Reach>>,
    /// How often it got other addresses.
    pub(super) lives: u32,
    /// Which of its addresses answered a client last.
    pub(super) used: Option<u16>,
    /// With `-a`: no address answered the last attempt.
    pub(super) unanswered: bool,
    /// When it stands on the agenda of probes.
    pub(super) probe_at: Option<Duration>,
    pub(super) totalc: u64,
    pub(super) failed: u64,
    last_error: Option<Box<LastError>>,
    pub(super) connect_times: ConnectTimes,
    pub(super) slots: Arc<Slots>,
}

impl Channel {
    pub(super) fn new(
        addresses: Addresses,
        maxc: Option<NonZeroU32>,
        state: AdminState,
        health: Health,
        slots: Arc<Slots>,
    ) -> Self {
        Self {
            addresses,
            state,
            maxc,
            weight: Weight::ONE,
            steps: STEPS,
            removed: false,
            retires: false,
            health,
            reach: None,
            lives: 0,
            used: None,
            unanswered: false,
            probe_at: None,
            totalc: 0,
            failed: 0,
            last_error: None,
            connect_times: ConnectTimes::default(),
            slots,
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.state == AdminState::Enabled
    }

    /// Does the operator want it to have clients?
    pub(super) fn takes_clients(&self) -> bool {
        self.is_enabled() && self.weight > Weight::ZERO && !self.removed
    }

    /// Takes clients, and nothing is known that speaks against it; it may be full.
    pub(super) fn is_up(&self) -> bool {
        self.takes_clients() && self.health.is_up()
    }

    /// The contract's "usable". If the answer is no because of `maxc`, the next lease that ends says so on the list of
    /// freed channels. Call it with the table locked.
    pub(super) fn is_usable(&self) -> bool {
        self.takes_clients() && self.maxc.is_none_or(|limit| self.slots.has_room(limit.get()))
    }

    /// Takes one slot and counts it. Only for a channel that is usable, with the table locked.
    pub(super) fn occupy(&mut self) -> Lease {
        self.totalc += 1;
        let order = self.reach.as_ref().and_then(|reach| reach.order()).cloned();
        Slots::occupy(&self.slots, self.addresses.clone(), order, self.health.returns())
    }

    /// Did the last `occupy` (or an earlier one) reach the limit?
    pub(super) fn is_at_limit(&self) -> bool {
        self.maxc.is_some_and(|limit| self.slots.active() >= limit.get())
    }

    pub(super) fn count_failure(&mut self, what: &str, at: Duration) {
        self.failed += 1;
        self.last_error = Some(Box::new(LastError { what: what.to_owned(), at }));
    }

    pub(super) fn reset_counters(&mut self) {
        self.totalc = 0;
        self.failed = 0;
        self.last_error = None;
        self.connect_times.clear();
        self.slots.reset_bytes();
    }

    /// `weighs`: its group goes by shares. `waiting`: clients in line that it could serve.
    pub(super) fn snapshot(
        &self,
        rules: &HealthRules,
        weighs: bool,
        now: Duration,
        waiting: u32,
    ) -> ChannelSnapshot {
        let (sent_bytes, rcvd_bytes) = self.slots.bytes();
        let ago = |error: &LastError| (error.what.clone(), now.saturating_sub(error.at));
        ChannelSnapshot {
            id: self.slots.key().channel,
            addresses: self.addresses.clone(),
            addresses_out: self.addresses_out(),
            used: self.used.and_then(|at| self.addresses.as_slice().get(usize::from(at)).copied()),
            unanswered: self.unanswered,
            state: self.state,
            retires: self.retires,
            maxc: self.maxc,
            weight: self.weight,
            health: self.health.snapshot(rules, weighs, now),
            active: self.slots.active(),
            waiting,
            totalc: self.totalc,
            failed: self.failed,
            last_error: self.last_error.as_deref().map(ago),
            connect_p50: self.connect_times.percentile(50),
            connect_p99: self.connect_times.percentile(99),
            sent_bytes,
            rcvd_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_below_the_limits() {
        assert_eq!(GroupId::new(0), Some(GroupId::FIRST));
        assert_eq!(GroupId::new(MAX_GROUPS - 1).map(GroupId::index), Some(65_534));
        assert_eq!(GroupId::new(MAX_GROUPS), None);
        assert_eq!(GroupId::new(usize::MAX), None);
        assert_eq!(ChannelId::new(MAX_CHANNELS - 1).map(ChannelId::index), Some(65_534));
        assert_eq!(ChannelId::new(MAX_CHANNELS), None);
        assert_eq!(ChannelId::new(65_536), None, "no number wraps round to channel 0");
    }

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
