//! One probe's way over the addresses of its channel, and how much time each of them gets.
//!
//! Knows: which address is tried, how the earlier ones failed. Never: sockets, programs, the clock.
//!
//! Each address gets an even share of the time that is left. An address that never answers leaves the others
//! their shares; one that refuses at once leaves them its own, too. The last one has all the time that is
//! left.

use super::fault::Fault;
use super::order::{Findings, Order, Outcome, millis};
use crate::spec::Address;

/// A running probe.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) order: Order,
    /// Index of the address that is being tried.
    address: usize,
    /// When the whole probe ends, in ms of the engine's clock.
    ends_at: u64,
    /// Addresses that were tried and are down, and why.
    down: Vec<(Address, String)>,
}

impl Walk {
    /// A probe that starts at `now`, in ms.
    pub(super) fn begin(order: Order, now: u64) -> Self {
        let ends_at = now.saturating_add(millis(order.timeout).max(1));
        Self { order, address: 0, ends_at, down: Vec::new() }
    }

    fn address(&self) -> Address {
        self.order.addresses.get(self.address).copied().unwrap_or(Address::NOWHERE)
    }

    /// The address being tried, with the port of the check.
    pub(super) fn target(&self) -> Address {
        let address = self.address();
        self.order.port.map_or(address, |port| address.with_port(port))
    }

    /// Why this address must not be tried. `None`: it may be.
    pub(super) fn is_barred(&self) -> Option<Fault> {
        let address = self.address();
        let (_, why) = self.order.barred.iter().find(|(barred, _)| *barred == address)?;
        // Clients are not connected to this address either, unless only the check's own port leads back.
        let is_of_check = self.order.port.is_some_and(|port| port != address.port() && address.port() != 0);
        Some(if is_of_check { Fault::Unusable(why.clone()) } else { Fault::Channel(why.clone()) })
    }

    /// When an attempt at this address that starts at `now` must be over, in ms.
    pub(super) fn deadline(&self, now: u64) -> u64 {
        let addresses_left = self.order.addresses.len().saturating_sub(self.address).max(1);
        let share = self.ends_at.saturating_sub(now) / addresses_left as u64;
        now + share.max(1)
    }

    /// The address is up: the result of the probe.
    pub(super) fn succeeded(&mut self) -> Findings {
        let up = Some(self.address());
        Findings { outcome: Outcome::Up, up, down: std::mem::take(&mut self.down) }
    }

    /// The address is not up. `None`: the next one is to be tried.
    pub(super) fn failed(&mut self, fault: Fault, now: u64) -> Option<Findings> {
        let outcome = self.outcome_of(fault, now)?;
        Some(Findings { outcome, up: None, down: std::mem::take(&mut self.down) })
    }

    fn outcome_of(&mut self, fault: Fault, now: u64) -> Option<Outcome> {
        let ours = match fault {
            Fault::Channel(cause) => {
                self.down.push((self.address(), cause));
                String::new()
            }
            // An address that can never be reached from here must not hide that the others are down.
            Fault::Unusable(cause) => cause,
            // The addresses that were not tried might have been up.
            Fault::Exhausted(cause) => return Some(Outcome::Unknown(cause)),
        };
        let is_last = self.address + 1 >= self.order.addresses.len();
        if !is_last && now < self.ends_at {
            self.address += 1;
            return None;
        }
        Some(match self.down.last() {
            Some((_, cause)) => Outcome::Down(cause.clone()),
            None => Outcome::Unknown(ours),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::spec::Check;
    use crate::sys::Outgoing;

    fn walk(addresses: u8, port: Option<u16>) -> Walk {
        let addresses = (1..=addresses).map(|n| ([10, 0, 0, n], 80).into()).collect();
        let timeout = Duration::from_secs(1);
        let outgoing = Outgoing::default();
        let (barred, check) = (Vec::new(), Arc::new(Check::Tcp));
        Walk::begin(Order { id: 7, addresses, barred, port, check, proxy: None, timeout, outgoing }, 5_000)
    }

    fn channel(cause: &str) -> Fault {
        Fault::Channel(cause.into())
    }

    fn outcome(walk: &mut Walk, fault: Fault, now: u64) -> Option<Outcome> {
        walk.failed(fault, now).map(|findings| findings.outcome)
    }

    #[test]
    fn time_is_shared_evenly_and_what_is_saved_goes_to_the_rest() {
        let mut walk = walk(4, None);
        assert_eq!(walk.deadline(5_000), 5_250);
        assert_eq!(walk.failed(channel("refused"), 5_001), None);
        assert_eq!(walk.deadline(5_001), 5_334, "a third of 999 ms");
        assert_eq!(walk.failed(channel("refused"), 5_334), None);
        assert_eq!(walk.failed(channel("refused"), 5_700), None);
        assert_eq!(walk.deadline(5_700), 6_000, "the last one has all that is left");
        assert_eq!(outcome(&mut walk, channel("late"), 6_000), Some(Outcome::Down("late".into())));
    }

    #[test]
    fn the_check_may_have_a_port_of_its_own() {
        let mut walk = walk(2, Some(8_080));
        assert_eq!(walk.target(), Address::from(([10, 0, 0, 1], 8_080)));
        assert_eq!(walk.failed(channel("refused"), 5_000), None);
        assert_eq!(walk.target(), Address::from(([10, 0, 0, 2], 8_080)));
    }

    #[test]
    fn an_address_that_leads_back_is_down_unless_it_is_only_the_check_that_goes_there() {
        for (port, is_down) in [(None, true), (Some(80), true), (Some(8_080), false)] {
            let mut walk = walk(2, port);
            walk.order.barred = vec![(([10, 0, 0, 2], 80).into(), "leads back".into())];
            assert_eq!(walk.is_barred(), None);
            assert_eq!(walk.failed(Fault::Unusable("not from here".into()), 5_000), None);
            let fault = walk.is_barred().expect("it is the second one");
            assert_eq!(fault == channel("leads back"), is_down, "{port:?}");
            let expected = if is_down { Outcome::Down } else { Outcome::Unknown };
            assert_eq!(outcome(&mut walk, fault, 5_000), Some(expected("leads back".into())), "{port:?}");
        }
    }

    #[test]
    fn an_address_out_of_our_reach_hides_nothing() {
        let mut one = walk(2, None);
        assert_eq!(one.failed(channel("refused"), 5_000), None);
        let end = outcome(&mut one, Fault::Unusable("no such source".into()), 5_000);
        assert_eq!(end, Some(Outcome::Down("refused".into())));
        let mut all = walk(2, None);
        assert_eq!(all.failed(Fault::Unusable("no such source".into()), 5_000), None);
        let end = outcome(&mut all, Fault::Unusable("none here".into()), 5_000);
        assert_eq!(end, Some(Outcome::Unknown("none here".into())));
    }

    #[test]
    fn want_of_our_own_says_nothing_about_untried_addresses() {
        let mut walk = walk(3, None);
        assert_eq!(walk.failed(channel("refused"), 5_000), None);
        let end = outcome(&mut walk, Fault::Exhausted("no descriptors".into()), 5_000);
        assert_eq!(end, Some(Outcome::Unknown("no descriptors".into())));
    }

    #[test]
    fn what_each_address_did_is_told() {
        let address = |n| Address::from(([10, 0, 0, n], 80));
        let mut some = walk(3, Some(8_080));
        assert_eq!(some.failed(channel("refused"), 5_000), None);
        assert_eq!(some.failed(Fault::Unusable("not from here".into()), 5_000), None);
        let down = vec![(address(1), "refused".to_owned())];
        assert_eq!(some.succeeded(), Findings { outcome: Outcome::Up, up: Some(address(3)), down });
        let mut none = walk(1, None);
        let down = vec![(address(1), "late".to_owned())];
        let outcome = Outcome::Down("late".into());
        assert_eq!(none.failed(channel("late"), 5_000), Some(Findings { outcome, up: None, down }));
    }
}
