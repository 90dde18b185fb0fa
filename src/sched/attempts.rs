//! What dials and probes report about single addresses of a channel.
//!
//! Knows: which channel an attempt was for, whether it still counts. Never: in which order addresses are
//! tried (`reach`), how an attempt is made.
//! Source: docs/health.md, "Names with several addresses".

use std::time::Duration;

use super::{Happened, Lease, Probe, Purpose, Table, Transition};
use crate::spec::Address;

impl Table {
    /// Reports that a dial's attempt at one address, started at `begun`, failed by the channel's fault.
    /// Returns a transition if that ejects the address.
    pub fn address_failed(
        &mut self,
        lease: &Lease,
        address: Address,
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
        self.doubt(channel);
        self.schedule(channel);
        Some(Transition { channel, address, what: Happened::AddressEjected(cause.to_owned()) })
    }

    /// Reports that a dial's attempt at one address, started at `begun`, was answered. Returns a transition
    /// if that brings the address back.
    pub fn address_answered(
        &mut self,
        lease: &Lease,
        address: Address,
        begun: Duration,
    ) -> Option<Transition> {
        let (channel, now) = (lease.key(), self.now);
        let one = self.groups.get_mut(&channel.group)?.address_answered(lease, address, begun, now)?;
        self.schedule(channel);
        Some(Transition { channel, address, what: Happened::AddressReturned(one) })
    }

    /// Reports the result for each address of a probe that tried several. Call it before [`Table::probed`].
    pub fn seen(
        &mut self,
        probe: &Probe,
        answered: Option<Address>,
        failed: &[(Address, String)],
    ) -> Vec<Transition> {
        let (key, now) = (probe.channel, self.now);
        if !self.rules.health.eject {
            return Vec::new();
        }
        let by = match probe.purpose {
            Purpose::Return | Purpose::Doubt | Purpose::Asked => Purpose::Return,
            Purpose::Check => Purpose::Check,
        };
        // If no address passed, none is worse than another.
        let Some(good) = answered.filter(|_| !probe.is_of_one()) else { return Vec::new() };
        let mut told = Vec::new();
        let mut tell = |address, what| told.push(Transition { channel: key, address, what });
        let seen = self.edit_by_lot(key, |channel, random| {
            if !channel.health.awaits(probe.serial()) {
                return;
            }
            let addresses = channel.addresses.clone();
            let place = |address| addresses.place(address);
            let Some(reach) = &mut channel.reach else { return };
            for (address, why) in failed {
                let Some(at) = place(*address) else { continue };
                if reach.failed(at, by, probe.begun(), why, now, random) {
                    tell(*address, Happened::AddressEjected(why.clone()));
                }
            }
            if let Some(after) = place(good).and_then(|at| reach.answered(at, by, probe.begun(), now)) {
                tell(good, Happened::AddressReturned(after));
            }
        });
        debug_assert!(seen.is_ok() || told.is_empty());
        told
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{
        Addresses, AdminState, ChannelId, ChannelKey, CheckRules, ClientAddr, DialCause, DialFailure,
        GroupId, HealthRules, HealthState, ProbeResult, Rules,
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

    fn address(n: u8) -> Address {
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
        let nth = |n| match lease.target(n, 0)?.net()?.ip() {
            IpAddr::V4(ip) => Some(ip.octets()[3]),
            IpAddr::V6(_) => None,
        };
        (0..).map_while(nth).collect()
    }

    /// A client's attempt at this address fails.
    fn fail(table: &mut Table, n: u8) -> Option<Happened> {
        let (lease, now) = (lease(table), table.now);
        table.address_failed(&lease, address(n), now, "refused").map(|transition| transition.what)
    }

    fn out() -> Option<Happened> {
        Some(Happened::AddressEjected("refused".into()))
    }

    fn snapshot(table: &Table) -> (usize, Option<Address>) {
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
        // Now the other one, too.
        assert_eq!(table.address_failed(&lease, address(2), MS(0), "refused").map(|told| told.what), out());
        assert!(table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").is_some());
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
        // That it takes connections does not mean that it passes its check.
        let lease = lease(&mut table);
        assert_eq!(table.address_answered(&lease, address(1), table.now), None);
        assert_eq!(order(&mut table), [2, 1]);
        table.advance(MS(600));
        let [probe] = &table.probes_due(9)[..] else { panic!("of the address") };
        assert_eq!((&probe.addresses[..], probe.purpose), (&[address(1)][..], Purpose::Check));
        assert!(table.probed(probe, ProbeResult::Good).is_some());
        assert_eq!(order(&mut table), [1, 2]);
        // If no address passes, none is worse than the others.
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
        // The result of a probe of the old list is not taken for the first one of the new list.
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
            assert_eq!((lease.target(0, 0), table.next_probe()), (Some(address(1)), None));
            table.address_answered(&lease, address(1), table.now);
            assert_eq!(snapshot(&table), (usize::from(addresses), Some(address(1))));
        }
    }
}
