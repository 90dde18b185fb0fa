//! One client at a time, between edits and ends of connections: the table does exactly what the model does.

use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{AdminState, ClientAddr, DialFailure, EditError, Happened, Lease, Policy, Rules, Table};

use super::model::{Channel, Group, Model, Walk};
use super::{Random, for_seeds, group_id, key, place, some_addresses, some_client};

const STEPS: usize = 250;
const GROUPS: usize = 5;

struct World {
    table: Table,
    model: Model,
    live: Vec<Lease>,
}

#[test]
fn every_sequential_history_is_the_contracts() {
    for_seeds("sequential", |random| {
        let rules = Rules {
            hash_failover: random.one_in(2),
            autodisable: random.one_in(3),
            shards: 1 + random.below(3),
            ..Rules::CLASSIC
        };
        let mut world = World { table: Table::new(rules), model: Model::new(rules), live: Vec::new() };
        // Some groups are so large that hashing works from memory.
        let large = if random.one_in(8) { 40 } else { 0 };
        (0..large).for_each(|_| world.create(random, 0));
        for step in 0..STEPS {
            let what = world.step(random);
            world.compare(&format!("step {step}: {what}"));
        }
        world.live.clear();
        assert_eq!(world.table.active(), 0, "every slot ended with its connection");
    });
}

impl World {
    fn step(&mut self, random: &mut Random) -> String {
        let g = random.below(GROUPS);
        // Now and then a channel that does not exist.
        let channels = self.model.groups.get(&g).map_or(0, |group| group.channels.len());
        let c = random.below(channels + 1);
        match random.below(20) {
            0 | 1 => {
                self.create(random, g);
                format!("create in {g}")
            }
            2 | 3 => self.set_state(random, g, c),
            4 => self.set_maxc(random.below(4) as u32, g, c),
            5 => self.assign(random, g, c),
            6 => self.set_policy(random.one_in(2), g),
            7 => self.reset(g, c),
            8..=10 => self.end_one(random),
            11 => self.move_bytes(random),
            _ => self.connect(random),
        }
    }

    fn create(&mut self, random: &mut Random, g: usize) {
        let addresses = some_addresses(random);
        let maxc = random.below(4) as u32;
        let state = if random.one_in(4) { AdminState::Disabled } else { AdminState::Enabled };
        let id = self.table.create(group_id(g), addresses.clone(), NonZeroU32::new(maxc), state);
        let group = self.model.groups.entry(g).or_default();
        assert_eq!(id.expect("a slot").index(), group.channels.len());
        group.channels.push(Channel::new(addresses, maxc, state));
    }

    fn modelled(&mut self, g: usize, c: usize) -> Option<&mut Channel> {
        self.model.groups.get_mut(&g)?.channels.get_mut(c)
    }

    fn set_state(&mut self, random: &mut Random, g: usize, c: usize) -> String {
        let states =
            [AdminState::Enabled, AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard];
        let state = states[random.below(4)];
        let before = self.table.set_state(key(g, c), state);
        let expected = self.modelled(g, c).map(|channel| std::mem::replace(&mut channel.state, state));
        assert_eq!(before, expected.ok_or(EditError::UnknownChannel));
        format!("{state:?} {g} {c}")
    }

    fn set_maxc(&mut self, maxc: u32, g: usize, c: usize) -> String {
        let done = self.table.set_maxc(key(g, c), NonZeroU32::new(maxc));
        let expected = self.modelled(g, c).map(|channel| channel.maxc = maxc);
        assert_eq!(done, expected.ok_or(EditError::UnknownChannel));
        format!("maxc {g} {c} {maxc}")
    }

    fn assign(&mut self, random: &mut Random, g: usize, c: usize) -> String {
        let addresses = some_addresses(random);
        let done = self.table.assign(key(g, c), addresses.clone());
        let expected = match self.modelled(g, c) {
            None => Err(EditError::UnknownChannel),
            Some(channel) if channel.state == AdminState::Enabled => Err(EditError::NotDisabled),
            Some(channel) => {
                channel.addresses = addresses;
                Ok(())
            }
        };
        assert_eq!(done, expected);
        format!("assign {g} {c}")
    }

    fn set_policy(&mut self, hash: bool, g: usize) -> String {
        self.table.set_policy(group_id(g), if hash { Policy::Hash } else { Policy::RoundRobin });
        self.model.groups.entry(g).or_default().hash = hash;
        format!("hash {hash} {g}")
    }

    fn reset(&mut self, g: usize, c: usize) -> String {
        let done = self.table.reset_counters(key(g, c));
        let expected = self.modelled(g, c).map(|channel| {
            (channel.totalc, channel.failed, channel.sent, channel.rcvd) = (0, 0, 0, 0);
        });
        assert_eq!(done, expected.ok_or(EditError::UnknownChannel));
        format!("reset {g} {c}")
    }

    fn end_one(&mut self, random: &mut Random) -> String {
        if self.live.is_empty() {
            return "nobody to end".into();
        }
        let lease = self.live.swap_remove(random.below(self.live.len()));
        let (g, c) = place(lease.key());
        drop(lease);
        self.modelled(g, c).expect("it was connected").active -= 1;
        format!("end {g} {c}")
    }

    fn move_bytes(&mut self, random: &mut Random) -> String {
        if self.live.is_empty() {
            return "nobody to talk".into();
        }
        let lease = &self.live[random.below(self.live.len())];
        let (g, c) = place(lease.key());
        let (sent, rcvd) = (random.next() >> 40, random.next() >> 40);
        lease.add_sent(random.below(5), sent);
        lease.add_rcvd(random.below(5), rcvd);
        let channel = self.modelled(g, c).expect("it was connected");
        (channel.sent, channel.rcvd) = (channel.sent + sent, channel.rcvd + rcvd);
        format!("bytes {g} {c}")
    }

    fn connect(&mut self, random: &mut Random) -> String {
        let client = some_client(random);
        // Which dials fail is settled before, so that table and model meet the same world.
        let (nonce, fails) = (random.next(), [0, 2, 5, 10][random.below(4)]);
        let dial = |g: usize, c: usize| {
            let mut fate = Random(nonce ^ ((g * 1000 + c) as u64) << 20);
            let local = fate.one_in(5);
            let failure = if local { DialFailure::Local } else { DialFailure::Channel };
            (fate.below(10) < fails).then_some(failure)
        };
        let real = self.walk(client, dial);
        let expected = self.model.connect(client, dial);
        assert_eq!(real, expected, "client {client:?}, left: the table, right: the model");
        format!("connect {client:?}: {real:?}")
    }

    fn walk(&mut self, client: ClientAddr, dial: impl Fn(usize, usize) -> Option<DialFailure>) -> Walk {
        let (mut visited, mut autodisabled) = (Vec::new(), Vec::new());
        let mut route = self.table.begin(client);
        let end = loop {
            let lease = match self.table.next(&mut route) {
                Ok(lease) => lease,
                Err(reason) => break Err(reason),
            };
            let (g, c) = place(lease.key());
            visited.push((g, c));
            match dial(g, c) {
                None => {
                    self.table.connected(route, &lease, Duration::ZERO);
                    self.live.push(lease);
                    break Ok((g, c));
                }
                Some(failure) => {
                    let address = lease.addresses().first();
                    if let Some(transition) = self.table.failed(lease, failure, "refused") {
                        assert_eq!((transition.address, transition.what), (address, Happened::Autodisabled));
                        autodisabled.push(place(transition.channel));
                    }
                }
            }
        };
        Walk { visited, autodisabled, end }
    }

    /// Everything that can be seen of the table is what the model says.
    fn compare(&mut self, what: &str) {
        let snapshot = self.table.snapshot();
        assert_eq!(snapshot.groups.len(), self.model.groups.len(), "{what}");
        for (real, (&g, model)) in snapshot.groups.iter().zip(&self.model.groups) {
            let Group { hash, channels, .. } = model;
            assert_eq!((real.id.index(), real.policy == Policy::Hash), (g, *hash), "{what}");
            assert_eq!(real.channels.len(), channels.len(), "{what}: group {g}");
            for (c, (real, model)) in real.channels.iter().zip(channels).enumerate() {
                let seen = Channel {
                    addresses: real.addresses.clone(),
                    state: real.state,
                    maxc: real.maxc.map_or(0, NonZeroU32::get),
                    active: real.active,
                    totalc: real.totalc,
                    failed: real.failed,
                    sent: real.sent_bytes,
                    rcvd: real.rcvd_bytes,
                };
                assert_eq!(&seen, model, "{what}: channel {c} of group {g}");
                assert_eq!(self.table.channel(key(g, c)).as_ref(), Some(real), "{what}");
            }
        }
        assert_eq!(self.table.active(), self.live.len() as u64, "{what}");
    }
}
