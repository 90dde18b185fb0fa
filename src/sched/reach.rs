//! Which addresses of a channel answer: one that does not is tried behind the others, and probed until it does.
//!
//! Knows: the addresses' order, what dials and probes met. Never: thresholds and delays (`Health`), how a probe is made.
//! Source: docs/health.md, "Names with several addresses".
//!
//! An address is out for what was found wrong: a connect that failed, or a check that failed while another address
//! passed it. The same brings it back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::channel::Channel;
use super::health::{Change, Health};
use super::random::Random;
use super::{Happened, HealthRules, Lease, Probe, ProbeResult, Purpose, Table, Transition};

/// What an address goes by: as an ejected channel.
const RULES: HealthRules = HealthRules { eject: true, ..HealthRules::NONE };

/// In which order a channel's addresses are tried, if it is not the one in which they are listed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    list: Box<[u16]>,
    /// So many of them answer as far as is known; they stand in front.
    answering: usize,
}

impl Order {
    pub(super) fn list(&self) -> &[u16] {
        &self.list
    }

    pub(super) fn answering(&self) -> usize {
        self.answering
    }
}

/// One address of a channel, as it was when a probe of it began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    at: usize,
    life: u32,
}

#[derive(Debug)]
struct Address {
    health: Health,
    /// What it was found wanting by, while it is out.
    out_by: Purpose,
}

/// The addresses of a channel that has several.
#[derive(Debug)]
pub(super) struct Reach {
    list: Box<[Address]>,
    /// Tells them from the addresses that the channel had before.
    life: u32,
    /// `None`: all answer, in the order in which they are listed.
    order: Option<Arc<Order>>,
}

impl Reach {
    /// `None` for a single address: the channel's own health is its.
    pub(super) fn of(count: usize, life: u32, now: Duration, random: &mut Random) -> Option<Box<Self>> {
        let new = |random: &mut Random| Address {
            health: Health::new(&RULES, now, random),
            out_by: Purpose::Return,
        };
        let list = (0..count).map(|_| new(random)).collect();
        (count > 1).then(|| Box::new(Self { list, life, order: None }))
    }

    pub(super) fn order(&self) -> Option<&Arc<Order>> {
        self.order.as_ref()
    }

    fn count_up(&self) -> usize {
        self.list.iter().filter(|address| address.health.is_up()).count()
    }

    /// When the next probe of an address that is out is due.
    pub(super) fn probe_at(&self) -> Option<Duration> {
        self.list.iter().filter_map(|address| address.health.probe_at()).min()
    }

    /// The probe that is due begins: of which address, what for, and its number.
    fn begin_probe(&mut self, now: Duration) -> Option<(Place, Purpose, u32)> {
        let is_due = |address: &Address| address.health.probe_at().is_some_and(|at| at <= now);
        let at = self.list.iter().position(is_due)?;
        let Address { health, out_by } = &mut self.list[at];
        let (_, serial) = health.begin_probe(now);
        Some((Place { at, life: self.life }, *out_by, serial))
    }

    /// An attempt that began then has failed. `true`: the address is out by that.
    fn failed(
        &mut self,
        at: usize,
        by: Purpose,
        begun: Duration,
        why: &str,
        now: Duration,
        random: &mut Random,
    ) -> bool {
        let Some(Address { health, out_by }) = self.list.get_mut(at) else { return false };
        if health.has_returned_after(begun) {
            return false;
        }
        let returns = health.returns();
        let is_out = health.connect_failed(&RULES, returns, why, now, random);
        if is_out {
            *out_by = by;
            self.sort();
        }
        is_out
    }

    /// An attempt that began then was answered. The address is back by that, after so long.
    fn answered(&mut self, at: usize, by: Purpose, begun: Duration, now: Duration) -> Option<Duration> {
        let Address { health, out_by } = self.list.get_mut(at)?;
        // That it takes connections does not make it pass its check.
        if *out_by != by {
            return None;
        }
        let change = health.connect_succeeded(&RULES, begun, now);
        self.back(change)
    }

    /// A probe of one address came back.
    pub(super) fn probed(
        &mut self,
        place: Place,
        serial: u32,
        result: ProbeResult,
        now: Duration,
        random: &mut Random,
    ) -> Option<Duration> {
        let address = self.list.get_mut(place.at).filter(|_| place.life == self.life)?;
        let change = address.health.probed(&RULES, serial, result, now, random);
        self.back(change)
    }

    fn back(&mut self, change: Option<Change>) -> Option<Duration> {
        let Some(Change::Returned(after)) = change else { return None };
        self.sort();
        Some(after)
    }

    fn sort(&mut self) {
        let answering = self.count_up();
        // A channel has far fewer addresses than there are numbers; one beyond is never tried before the others.
        let mut list: Vec<u16> = (0..=u16::MAX).take(self.list.len()).collect();
        list.sort_by_key(|&at| !self.list[usize::from(at)].health.is_up());
        let is_listed = answering == self.list.len();
        self.order = (!is_listed).then(|| Arc::new(Order { list: list.into(), answering }));
    }
}

impl Channel {
    /// When the next probe is due. While the channel is ejected its addresses have no probes of their own: its own asks all
    /// of them.
    pub(super) fn next_probe(&self) -> Option<Duration> {
        let reach = self.reach.as_ref().filter(|_| !self.health.is_ejected());
        [self.health.probe_at(), reach.and_then(|reach| reach.probe_at())].into_iter().flatten().min()
    }

    /// The probe that is due begins: of which address if it is of one only, what for, its number, and whom it asks.
    pub(super) fn begin_probe(&mut self, now: Duration) -> (Option<Place>, Purpose, u32, Vec<SocketAddr>) {
        let is_due = self.health.probe_at().is_some_and(|at| at <= now);
        let of_one = self.reach.as_mut().filter(|_| !is_due).and_then(|reach| reach.begin_probe(now));
        match of_one {
            Some((place, purpose, serial)) => {
                let address = self.addresses.as_slice().get(place.at).copied();
                (Some(place), purpose, serial, address.into_iter().collect())
            }
            None => {
                let (purpose, serial) = self.health.begin_probe(now);
                (None, purpose, serial, self.in_order())
            }
        }
    }

    /// The addresses in the order in which they are tried.
    fn in_order(&self) -> Vec<SocketAddr> {
        let all = self.addresses.as_slice();
        match self.reach.as_ref().and_then(|reach| reach.order()) {
            Some(order) => order.list().iter().filter_map(|&at| all.get(usize::from(at)).copied()).collect(),
            None => all.to_vec(),
        }
    }

    /// The addresses that do not answer, and what they met.
    pub(super) fn addresses_out(&self) -> Vec<(SocketAddr, String)> {
        let Some(reach) = &self.reach else { return Vec::new() };
        let all = self.addresses.as_slice().iter().zip(&reach.list);
        all.filter_map(|(&address, one)| Some((address, one.health.ejected_for()?.to_owned()))).collect()
    }

    fn place(&self, address: SocketAddr) -> Option<usize> {
        self.addresses.as_slice().iter().position(|&one| one == address)
    }
}

impl Table {
    /// A dial's attempt at one address of its channel, begun then, has failed by the fault of the channel.
    pub fn address_failed(
        &mut self,
        lease: &Lease,
        address: SocketAddr,
        begun: Duration,
        cause: &str,
    ) -> Option<Transition> {
        if !self.rules.health.eject {
            return None;
        }
        let (channel, now) = (lease.key(), self.now);
        let out = self.edit_by_lot(channel, |channel, random| {
            let at = channel.place(address).filter(|_| channel.addresses == *lease.addresses())?;
            let reach = channel.reach.as_mut()?;
            reach.failed(at, Purpose::Return, begun, cause, now, random).then_some(())
        });
        out.ok().flatten()?;
        self.schedule(channel);
        Some(Transition { channel, address, what: Happened::AddressEjected(cause.to_owned()) })
    }

    /// A dial's attempt at one address of its channel, begun then, was answered.
    pub fn address_answered(
        &mut self,
        lease: &Lease,
        address: SocketAddr,
        begun: Duration,
    ) -> Option<Transition> {
        let (channel, now) = (lease.key(), self.now);
        let one = self.groups.get_mut(&channel.group)?.address_answered(lease, address, begun, now)?;
        self.schedule(channel);
        Some(Transition { channel, address, what: Happened::AddressReturned(one) })
    }

    /// A probe that asked several addresses tells how each of them did; to be told before [`Table::probed`].
    pub fn seen(
        &mut self,
        probe: &Probe,
        answered: Option<SocketAddr>,
        failed: &[(SocketAddr, String)],
    ) -> Vec<Transition> {
        let (key, now) = (probe.channel, self.now);
        if !self.rules.health.eject {
            return Vec::new();
        }
        // If nobody passed, none is worse than another.
        let Some(good) = answered.filter(|_| !probe.is_of_one()) else { return Vec::new() };
        let mut told = Vec::new();
        let mut tell = |address, what| told.push(Transition { channel: key, address, what });
        let seen = self.edit_by_lot(key, |channel, random| {
            if !channel.health.awaits(probe.serial()) {
                return;
            }
            let place = |address| channel.addresses.as_slice().iter().position(|&one| one == address);
            let Some(reach) = &mut channel.reach else { return };
            for (address, why) in failed {
                let Some(at) = place(*address) else { continue };
                if reach.failed(at, probe.purpose, probe.begun(), why, now, random) {
                    tell(*address, Happened::AddressEjected(why.clone()));
                }
            }
            if let Some(after) =
                place(good).and_then(|at| reach.answered(at, probe.purpose, probe.begun(), now))
            {
                tell(good, Happened::AddressReturned(after));
            }
        });
        debug_assert!(seen.is_ok() || told.is_empty());
        told
    }
}

impl Channel {
    /// A dial's attempt at this address was answered. It is back by that, after so long.
    pub(super) fn address_answered(
        &mut self,
        address: SocketAddr,
        begun: Duration,
        now: Duration,
    ) -> Option<Duration> {
        let at = self.place(address)?;
        self.used = u16::try_from(at).ok();
        self.reach.as_mut()?.answered(at, Purpose::Return, begun, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{
        Addresses, AdminState, ChannelId, ChannelKey, CheckRules, ClientAddr, DialFailure, GroupId,
        HealthState, Rules,
    };
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const EJECT: HealthRules = HealthRules { eject: true, ..HealthRules::NONE };
    const CHECK: HealthRules = HealthRules {
        check: Some(CheckRules { interval: Duration::from_secs(2), rise: 1, fall: 1 }),
        ..EJECT
    };
    fn key() -> ChannelKey {
        ChannelKey { group: GroupId::FIRST, channel: ChannelId::new(0).expect("small") }
    }

    fn address(n: u8) -> SocketAddr {
        ([10, 0, 0, n], 80).into()
    }

    /// A table with one channel that has addresses 1, 2 ...
    fn table(health: HealthRules, addresses: u8) -> Table {
        let mut table = Table::new(Rules { health, ..Rules::CLASSIC });
        let list = Addresses::new((1..=addresses).map(address).collect()).expect("at least one");
        table.create(GroupId::FIRST, list, None, AdminState::Enabled).expect("a slot");
        table
    }

    fn lease(table: &mut Table) -> Lease {
        let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
        table.next(&mut route).expect("a channel")
    }

    /// The last bytes of the addresses, in the order in which the next client tries them.
    fn order(table: &mut Table) -> Vec<u8> {
        let lease = lease(table);
        let nth = |n| match lease.address(n)?.ip() {
            IpAddr::V4(ip) => Some(ip.octets()[3]),
            IpAddr::V6(_) => None,
        };
        (0..).map_while(nth).collect()
    }

    /// A client's attempt fails here.
    fn fail(table: &mut Table, n: u8) -> Option<Happened> {
        let (lease, now) = (lease(table), table.now);
        table.address_failed(&lease, address(n), now, "refused").map(|transition| transition.what)
    }

    fn out() -> Option<Happened> {
        Some(Happened::AddressEjected("refused".into()))
    }

    fn snapshot(table: &Table) -> (usize, Option<SocketAddr>) {
        let channel = table.channel(key()).expect("it exists");
        (channel.addresses_up(), channel.used)
    }

    #[test]
    fn an_address_that_fails_is_tried_behind_the_others_until_a_probe_of_it_succeeds() {
        let mut table = table(EJECT, 3);
        assert_eq!((order(&mut table), snapshot(&table)), (vec![1, 2, 3], (3, None)));
        assert_eq!(fail(&mut table, 1), out());
        assert_eq!(fail(&mut table, 1), None, "told once");
        assert_eq!((order(&mut table), snapshot(&table).0), (vec![2, 3, 1], 2));
        let lease = lease(&mut table);
        assert_eq!((0..4).map(|n| lease.alike_from(n)).collect::<Vec<_>>(), [2, 1, 1, 1]);
        let mut before = MS(0);
        for delay in [250, 500, 1_000, 2_000, 2_000] {
            let at = table.next_probe().expect("it is probed");
            assert!(at - before >= MS(delay * 9 / 10) && at - before <= MS(delay * 11 / 10), "{delay}");
            table.advance(at);
            let [probe] = &table.probes_due(9)[..] else { panic!("one probe") };
            assert_eq!((&probe.addresses[..], probe.purpose), (&[address(1)][..], Purpose::Return));
            assert_eq!(table.next_probe(), None, "one at a time");
            assert_eq!(table.probed(probe, ProbeResult::Bad("still".into())), None);
            before = at;
        }
        table.advance(table.next_probe().expect("due"));
        let probe = table.probes_due(9).remove(0);
        let told = table.probed(&probe, ProbeResult::Good).expect("it is back");
        assert_eq!((told.address, told.what), (address(1), Happened::AddressReturned(table.now)));
        assert_eq!((order(&mut table), table.next_probe()), (vec![1, 2, 3], None));
    }

    #[test]
    fn the_channel_is_up_as_long_as_one_address_answers() {
        let mut table = table(EJECT, 2);
        assert_eq!(fail(&mut table, 1), out());
        let lease = lease(&mut table);
        let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(table.address_answered(&lease, address(2), MS(0)), None);
        assert_eq!(table.connected(route, &lease, MS(0)), None);
        assert_eq!(snapshot(&table), (1, Some(address(2))));
        let state = |table: &Table| table.channel(key()).expect("it exists").health.state;
        assert_eq!(state(&table), HealthState::Up);
        // Now the other one as well.
        assert_eq!(table.address_failed(&lease, address(2), MS(0), "refused").map(|told| told.what), out());
        assert!(table.failed(lease, DialFailure::Channel, "refused").is_some());
        assert_eq!((state(&table), snapshot(&table).0), (HealthState::Ejected, 0));
        table.advance(MS(9_000));
        let [probe] = &table.probes_due(9)[..] else { panic!("the channel has one, the addresses none") };
        assert_eq!(probe.addresses, [address(1), address(2)]);
        let seen = table.seen(probe, Some(address(2)), &[(address(1), "refused".into())]);
        assert_eq!(seen.iter().map(|told| told.address).collect::<Vec<_>>(), [address(2)]);
        assert!(table.probed(probe, ProbeResult::Good).is_some());
        assert_eq!((state(&table), order(&mut table)), (HealthState::Up, vec![2, 1]));
        assert!(table.next_probe().is_some(), "of the other one");
    }

    #[test]
    fn a_check_that_one_address_passes_puts_those_that_fail_it_behind() {
        let mut table = table(CHECK, 2);
        table.advance(MS(250));
        let check = table.probes_due(9).remove(0);
        assert_eq!(check.addresses, [address(1), address(2)]);
        let bad = [(address(1), "http: status 503".to_owned())];
        assert_eq!(table.seen(&check, Some(address(2)), &bad).len(), 1);
        assert_eq!(table.probed(&check, ProbeResult::Good), None);
        assert_eq!(order(&mut table), [2, 1]);
        // That it takes connections does not make it pass.
        let lease = lease(&mut table);
        assert_eq!(table.address_answered(&lease, address(1), table.now), None);
        assert_eq!(order(&mut table), [2, 1]);
        table.advance(MS(600));
        let [probe] = &table.probes_due(9)[..] else { panic!("of the address") };
        assert_eq!((&probe.addresses[..], probe.purpose), (&[address(1)][..], Purpose::Check));
        assert!(table.probed(probe, ProbeResult::Good).is_some());
        assert_eq!(order(&mut table), [1, 2]);
        // If nobody passes, nobody is worse than the others.
        table.advance(MS(9_000));
        let check = table.probes_due(9).remove(0);
        assert_eq!(table.seen(&check, None, &bad), []);
        assert!(table.probed(&check, ProbeResult::Bad("no".into())).is_some());
        assert_eq!(table.channel(key()).expect("it exists").addresses_out, []);
    }

    #[test]
    fn what_began_before_the_address_was_back_says_nothing() {
        let mut table = table(EJECT, 2);
        let early = lease(&mut table);
        table.advance(MS(10));
        assert_eq!(fail(&mut table, 1), out());
        assert_eq!(table.address_answered(&early, address(1), MS(9)), None, "an attempt before it was out");
        table.advance(MS(20));
        assert!(table.address_answered(&early, address(1), MS(10)).is_some());
        assert_eq!(table.address_failed(&early, address(1), MS(19), "late"), None);
        assert_eq!(order(&mut table), [1, 2]);
        assert!(table.address_failed(&early, address(1), MS(20), "anew").is_some());
    }

    #[test]
    fn other_addresses_begin_anew_and_leases_of_the_old_ones_say_nothing() {
        let mut table = table(EJECT, 2);
        let old = lease(&mut table);
        assert_eq!(fail(&mut table, 1), out());
        table.advance(MS(300));
        let probe = table.probes_due(9).remove(0);
        table.set_state(key(), AdminState::Disabled).expect("it exists");
        table.assign(key(), Addresses::new(vec![address(2), address(1)]).expect("two")).expect("disabled");
        table.set_state(key(), AdminState::Enabled).expect("it exists");
        assert_eq!((order(&mut table), snapshot(&table)), (vec![2, 1], (2, None)));
        assert_eq!(table.probed(&probe, ProbeResult::Good), None);
        assert_eq!(table.address_failed(&old, address(1), table.now, "refused"), None);
        assert_eq!(table.address_answered(&old, address(1), table.now), None);
        assert_eq!(snapshot(&table), (2, None));
        assert_eq!(table.next_probe(), None);
        // The first probe of the new list is not answered by that of the old one.
        assert_eq!(fail(&mut table, 2), out());
        table.advance(MS(600));
        assert_eq!(table.probes_due(9).len(), 1);
        assert_eq!(table.probed(&probe, ProbeResult::Good), None);
        assert_eq!(snapshot(&table).0, 1);
    }

    #[test]
    fn without_ejection_and_with_one_address_there_is_nothing_to_remember() {
        for (rules, addresses) in [(HealthRules::NONE, 2), (EJECT, 1)] {
            let mut table = table(rules, addresses);
            assert_eq!(fail(&mut table, 1), None);
            let lease = lease(&mut table);
            assert_eq!((lease.address(0), table.next_probe()), (Some(address(1)), None));
            table.address_answered(&lease, address(1), table.now);
            assert_eq!(snapshot(&table), (usize::from(addresses), Some(address(1))));
        }
    }
}
