//! Slots for connections that another process still has: they count here, too, so that both processes
//! together keep the limits.
//!
//! Knows: how many there are. Never: which connections, how they arrive.

use std::sync::Arc;

use super::lease::Slots;
use super::{ChannelKey, Slot, Table};

/// Connections of one channel that count here but are in another process. Dropping the value gives back all
/// their slots.
#[derive(Debug)]
pub struct HeldSlots {
    slots: Arc<Slots>,
    count: u32,
}

impl HeldSlots {
    /// The channel.
    pub fn key(&self) -> ChannelKey {
        self.slots.key()
    }

    /// How many are left.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Turns one into a slot, since its connection has arrived. `None` if none is left.
    pub fn take(&mut self) -> Option<Slot> {
        self.count = self.count.checked_sub(1)?;
        Some(Slot::of(Arc::clone(&self.slots)))
    }

    /// Gives back slots of connections that have ended, so that `left` are left. As after dropping a
    /// [`Slot`], a waiting client may get one.
    pub fn shrink_to(&mut self, left: u32) {
        let ended = self.count.saturating_sub(left);
        if ended > 0 {
            self.count -= ended;
            self.slots.release(ended);
        }
    }
}

impl Drop for HeldSlots {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl Table {
    /// Counts connections of a channel that are in another process, whatever the channel's limit. `None` if
    /// there never was such a channel. A retiring channel that has no connections after this is removed.
    pub fn hold(&mut self, key: ChannelKey, connections: u32) -> Option<HeldSlots> {
        let (slots, count) = self.occupy_beyond(key, connections)?;
        self.see_off(key);
        Some(HeldSlots { slots, count })
    }

    /// A slot for a connection that already exists, whatever the channel's limit, state and health. `totalc`
    /// counted it when it was made. `None` if there never was such a channel.
    pub fn slot(&mut self, key: ChannelKey) -> Option<Slot> {
        let (slots, count) = self.occupy_beyond(key, 1)?;
        (count > 0).then(|| Slot::of(slots))
    }

    fn occupy_beyond(&mut self, key: ChannelKey, connections: u32) -> Option<(Arc<Slots>, u32)> {
        let number = key.channel.index();
        let group = self.groups.get_mut(&key.group)?;
        let channel = group.channels().get(number)?;
        let slots = Arc::clone(&channel.slots);
        let count = slots.occupy_beyond(connections);
        if channel.retires {
            // A retiring channel is removed with the last of them.
            slots.watch();
        }
        group.refresh(number);
        self.hear(key.group);
        Some((slots, count))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU32;

    use super::super::{Addresses, AdminState, ClientAddr, GroupId, Loss, NoChannel, Policy, Rules, Turn};
    use super::*;

    const LIMITS: [u32; 3] = [1, 3, 6];

    fn key(channel: usize) -> ChannelKey {
        ChannelKey::new(0, channel).expect("small")
    }

    fn table(rules: Rules, limits: &[u32]) -> Table {
        let mut table = Table::new(rules);
        for (&maxc, n) in limits.iter().zip(0..) {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, n], 80)));
            let created = table.create(GroupId::FIRST, address, NonZeroU32::new(maxc), AdminState::Enabled);
            created.expect("few channels");
        }
        table
    }

    fn come(table: &mut Table, client: u64) -> Turn {
        let [.., high, low] = client.to_be_bytes();
        let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, high, low])));
        let mut grants = Vec::new();
        let turn = table.next_or_wait(route, client, None, &mut grants);
        assert!(grants.is_empty());
        turn
    }

    #[test]
    fn a_held_slot_is_counted_once_wherever_its_connection_is() {
        fn is_send<T: Send>(_: &T) {}
        let mut table = table(Rules::CLASSIC, &[3]);
        let active = |table: &Table| table.channel(key(0)).map(|channel| (channel.active, channel.totalc));
        let mut held = table.hold(key(0), 3).expect("it exists");
        is_send(&held);
        assert_eq!((held.key(), held.count(), active(&table)), (key(0), 3, Some((3, 0))));
        assert!(matches!(come(&mut table, 1), Turn::Never(Loss::NoChannel(NoChannel::Full))));
        let slot = held.take().expect("one of three");
        assert_eq!((slot.key(), held.count(), active(&table)), (key(0), 2, Some((3, 0))));
        held.shrink_to(5);
        assert_eq!(held.count(), 2, "it never grows");
        held.shrink_to(1);
        assert_eq!(active(&table), Some((2, 0)));
        let beyond: Vec<_> = (0..4).map(|_| table.slot(key(0)).expect("beyond the limit")).collect();
        assert_eq!(active(&table), Some((6, 0)));
        drop((held, slot, beyond));
        assert_eq!(active(&table), Some((0, 0)));
        assert!(table.hold(key(1), 1).is_none() && table.slot(key(1)).is_none());
    }

    #[test]
    fn a_channel_that_retires_goes_when_the_predecessor_has_none_of_it_any_more() {
        for ends_here in [false, true] {
            let mut table = table(Rules::CLASSIC, &[0, 0]);
            let mut held = table.hold(key(1), 4).expect("it exists");
            assert_eq!(table.retire(key(1)), Ok(4));
            held.shrink_to(2);
            let slot = held.take();
            if ends_here {
                drop(held);
                table.grant();
                assert!(table.channel(key(1)).is_some());
                drop(slot);
            } else {
                drop(slot);
                table.grant();
                assert!(table.channel(key(1)).is_some());
                drop(held);
            }
            table.grant();
            assert!(table.channel(key(1)).is_none());
            let late = table.slot(key(1)).expect("its number is there");
            drop(late);
            assert_eq!((table.active(), table.grant().len()), (0, 0));
        }
    }

    #[test]
    fn no_number_of_connections_is_too_large() {
        let mut table = table(Rules::CLASSIC, &[0]);
        let all: Vec<_> = (0..3).map(|_| table.hold(key(0), u32::MAX).expect("it exists")).collect();
        assert_eq!(all.iter().map(HeldSlots::count).collect::<Vec<_>>(), [u32::MAX / 2, 0, 0]);
        assert!(table.slot(key(0)).is_none());
        drop(all);
        assert_eq!(table.active(), 0);
    }

    #[test]
    fn two_processes_together_keep_limits_and_nobody_waits_beside_a_free_slot() {
        let policies = [Policy::RoundRobin, Policy::LeastConnections, Policy::TwoChoices, Policy::First];
        for seed in 0..100_u64 {
            let mut state = seed;
            let mut random = move |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            let queue = NonZeroU32::new(1_000 * random(2) as u32);
            let rules = Rules { policy: policies[random(4)], queue, ..Rules::CLASSIC };
            let mut table = table(rules, &LIMITS);
            // There may be more than the limit, since an operator may have lowered it.
            let mut held: Vec<HeldSlots> =
                (0..3).map(|n| table.hold(key(n), random(9) as u32).expect("it exists")).collect();
            let mut here: Vec<Slot> = Vec::new();
            let mut line = std::collections::VecDeque::new();
            for client in 0..400 {
                let channel = random(3);
                let total = |held: &[HeldSlots], here: &[Slot], n: usize| {
                    held[n].count() + here.iter().filter(|slot| slot.key() == key(n)).count() as u32
                };
                let free: Vec<usize> = (0..3).filter(|&n| total(&held, &here, n) < LIMITS[n]).collect();
                match random(6) {
                    0 | 1 => match come(&mut table, client) {
                        Turn::Now(_, lease) => {
                            assert!(free.contains(&lease.key().channel.index()), "seed {seed}: {client}");
                            here.push(lease.into_slot());
                        }
                        Turn::Later(_) => {
                            assert!(free.is_empty(), "seed {seed}: {client} waits");
                            line.push_back(client);
                        }
                        Turn::Never(_) => {
                            assert!(free.is_empty() && queue.is_none(), "seed {seed}: {client}")
                        }
                    },
                    2 => {
                        let left = held[channel].count();
                        here.extend(held[channel].take());
                        assert_eq!(held[channel].count(), left.saturating_sub(1), "seed {seed}");
                    }
                    3 => {
                        let left = random(held[channel].count() as usize + 2) as u32;
                        held[channel].shrink_to(left);
                    }
                    _ if !here.is_empty() => drop(here.swap_remove(random(here.len()))),
                    _ => {}
                }
                for grant in table.grant() {
                    let channel = grant.lease.key().channel.index();
                    assert!(total(&held, &here, channel) < LIMITS[channel], "seed {seed}: {client}");
                    assert_eq!(line.pop_front(), Some(grant.tag), "seed {seed}: in order");
                    here.push(grant.lease.into_slot());
                }
                for (n, limit) in LIMITS.into_iter().enumerate() {
                    let active = table.channel(key(n)).map(|channel| channel.active);
                    assert_eq!(active, Some(total(&held, &here, n)), "seed {seed}: {client}");
                    assert!(line.is_empty() || active >= Some(limit), "seed {seed}: {line:?} beside {n}");
                }
            }
        }
    }
}
