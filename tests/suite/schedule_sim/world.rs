//! A table and its model side by side: both get every edit, probe and time, and both must agree.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use balance::sched::{
    AdminState, CheckRules, EditError, HealthRules, Lease, Policy, Probe, ProbeResult, Rules, Table,
    Transition, Weight,
};

use super::health_model::Health;
use super::model::{Channel, Group, Model};
use super::{Random, group_id, key, place, some_addresses};

/// Groups are numbered below this.
const GROUPS: usize = 5;

const POLICIES: [Policy; 5] =
    [Policy::RoundRobin, Policy::Hash, Policy::LeastConnections, Policy::TwoChoices, Policy::First];

pub(super) struct World {
    pub(super) table: Table,
    pub(super) model: Model,
    /// Not answered yet, with the model's numbers for them.
    probes: Vec<(Probe, u64)>,
    asked: u64,
    /// 3.57's policies and nothing else.
    classic: bool,
    /// How many groups are edited: in fewer ones more happens to each channel.
    groups: usize,
}

/// Rules by lot; a quarter are 3.57's.
pub(super) fn some_rules(random: &mut Random) -> (Rules, bool) {
    let classic = Rules {
        hash_failover: random.one_in(2),
        autodisable: random.one_in(4),
        shards: 1 + random.below(3),
        ..Rules::CLASSIC
    };
    if random.one_in(4) {
        return (classic, true);
    }
    let span = |random: &mut Random, most| Duration::from_millis(1 + random.below(most) as u64);
    let check = CheckRules {
        interval: span(random, 3_000),
        rise: 1 + random.below(3) as u32,
        fall: 1 + random.below(3) as u32,
    };
    let health = HealthRules {
        eject: !random.one_in(4),
        check: random.one_in(2).then_some(check),
        fail_open: !random.one_in(4),
        slow_start: random.one_in(2).then(|| span(random, 20_000)),
        own_check: HealthRules::NONE.own_check,
    };
    let hash_balance =
        if random.one_in(3) { NonZeroU32::new(1_000 + random.below(600) as u32) } else { None };
    let policy = POLICIES[random.below(POLICIES.len())];
    (Rules { health, hash_balance, policy, seed: random.next(), ..classic }, false)
}

impl World {
    pub(super) fn new((rules, classic): (Rules, bool), exact: bool, random: &mut Random) -> Self {
        let (table, model) = (Table::new(rules), Model::new(rules, exact));
        Self { table, model, probes: Vec::new(), asked: 0, classic, groups: 1 + random.below(GROUPS) }
    }

    /// One edit by lot, of a channel that perhaps does not exist; what it was.
    pub(super) fn edit(&mut self, random: &mut Random) -> String {
        let g = random.below(self.groups);
        let channels = self.model.groups.get(&g).map_or(0, |group| group.channels.len());
        let c = random.below(channels + 1);
        match random.below(if self.classic { 12 } else { 17 }) {
            0..=2 => self.create(random, g),
            3..=5 => self.set_state(random, g, c),
            6 | 7 => self.set_maxc(random.below(5) as u32, g, c),
            8 => self.assign(random, g, c),
            9 => self.set_policy(random, g),
            10 => self.reset(g, c),
            11 => self.move_over(random, g, c),
            12..=14 => self.set_weight(random, g, c),
            15 => self.remove(g, c),
            _ => self.skip(g),
        }
    }

    /// Time, probes, answers: something of what happens by itself.
    pub(super) fn live_on(&mut self, random: &mut Random) -> String {
        match random.below(6) {
            0 => self.pass_time(random),
            1 => self.probe(random),
            2 | 3 => self.pass_time(random) + ", " + &self.probe(random),
            _ => self.answer(random),
        }
    }

    fn group(&mut self, g: usize) -> &mut Group {
        let policy = self.model.rules.policy;
        let new = || Group { policy, channels: Vec::new(), cursor: 0 };
        self.model.groups.entry(g).or_insert_with(new)
    }

    fn modelled(&mut self, g: usize, c: usize) -> Result<&mut Channel, EditError> {
        let channel = self.model.groups.get_mut(&g).and_then(|group| group.channels.get_mut(c));
        channel.filter(|channel| !channel.removed).ok_or(EditError::UnknownChannel)
    }

    pub(super) fn create(&mut self, random: &mut Random, g: usize) -> String {
        let addresses = some_addresses(random);
        let maxc = random.below(4) as u32;
        let state = if random.one_in(4) { AdminState::Disabled } else { AdminState::Enabled };
        let id = self.table.create(group_id(g), addresses.clone(), NonZeroU32::new(maxc), state);
        let health = Health::new(&self.model.rules.health, self.model.now);
        let channels = &mut self.group(g).channels;
        assert_eq!(id.expect("a slot").index(), channels.len());
        channels.push(Channel::new(addresses, maxc, state, health));
        format!("create in {g}")
    }

    fn skip(&mut self, g: usize) -> String {
        let id = self.table.skip(group_id(g));
        let health = Health::new(&self.model.rules.health, self.model.now);
        let channels = &mut self.group(g).channels;
        assert_eq!(id.expect("a slot").index(), channels.len());
        let addresses = some_addresses(&mut Random(0));
        let gone = Channel::new(addresses, 0, AdminState::Disabled, health);
        channels.push(Channel { removed: true, ..gone });
        format!("skip in {g}")
    }

    fn set_state(&mut self, random: &mut Random, g: usize, c: usize) -> String {
        let states =
            [AdminState::Enabled, AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard];
        self.turn(states[random.below(4)], g, c)
    }

    fn turn(&mut self, state: AdminState, g: usize, c: usize) -> String {
        let before = self.table.set_state(key(g, c), state);
        let (rules, now) = (self.model.rules.health, self.model.now);
        let expected = self.modelled(g, c).map(|channel| {
            let before = std::mem::replace(&mut channel.state, state);
            if before != state && channel.is_up() {
                channel.health.warm_up(&rules, now);
            }
            before
        });
        assert_eq!(before, expected);
        format!("{state:?} {g} {c}")
    }

    fn set_maxc(&mut self, maxc: u32, g: usize, c: usize) -> String {
        let done = self.table.set_maxc(key(g, c), NonZeroU32::new(maxc));
        assert_eq!(done, self.modelled(g, c).map(|channel| channel.maxc = maxc));
        format!("maxc {g} {c} {maxc}")
    }

    fn set_weight(&mut self, random: &mut Random, g: usize, c: usize) -> String {
        let weight = [0, 1, 1, 1, 2, 3, 256][random.below(7)];
        let done = self.table.set_weight(key(g, c), Weight::new(weight).expect("a legal one"));
        assert_eq!(done, self.modelled(g, c).map(|channel| channel.weight = weight));
        format!("weight {g} {c} {weight}")
    }

    fn assign(&mut self, random: &mut Random, g: usize, c: usize) -> String {
        let addresses = some_addresses(random);
        let done = self.table.assign(key(g, c), addresses.clone());
        let (rules, now) = (self.model.rules.health, self.model.now);
        let expected = self.modelled(g, c).and_then(|channel| {
            if channel.state == AdminState::Enabled {
                return Err(EditError::NotDisabled);
            }
            channel.addresses = addresses;
            channel.health.begin_anew(&rules, now);
            Ok(())
        });
        assert_eq!(done, expected);
        format!("assign {g} {c}")
    }

    /// What an operator does who moves a channel to another machine.
    fn move_over(&mut self, random: &mut Random, g: usize, c: usize) -> String {
        self.turn(AdminState::Disabled, g, c);
        let what = self.assign(random, g, c);
        self.turn(AdminState::Enabled, g, c);
        what + " and on again"
    }

    fn remove(&mut self, g: usize, c: usize) -> String {
        let done = self.table.remove(key(g, c));
        let expected = self.modelled(g, c).and_then(|channel| match channel.state {
            AdminState::Enabled => Err(EditError::NotDisabled),
            _ if channel.active > 0 => Err(EditError::Busy),
            _ => {
                channel.removed = true;
                Ok(())
            }
        });
        assert_eq!(done, expected);
        format!("remove {g} {c}: {done:?}")
    }

    fn set_policy(&mut self, random: &mut Random, g: usize) -> String {
        let policy = POLICIES[random.below(if self.classic { 2 } else { POLICIES.len() })];
        self.table.set_policy(group_id(g), policy);
        self.group(g).policy = policy;
        format!("{policy:?} {g}")
    }

    fn reset(&mut self, g: usize, c: usize) -> String {
        let done = self.table.reset_counters(key(g, c));
        let expected = self.modelled(g, c).map(|channel| {
            (channel.totalc, channel.failed, channel.sent, channel.rcvd) = (0, 0, 0, 0);
        });
        assert_eq!(done, expected);
        format!("reset {g} {c}")
    }

    /// A lease ends.
    pub(super) fn end(&mut self, lease: Lease) -> String {
        let (g, c) = place(lease.key());
        drop(lease);
        self.model.ended((g, c));
        format!("end {g} {c}")
    }

    /// Bytes move on one of these connections.
    pub(super) fn move_bytes(&mut self, random: &mut Random, live: &[Lease]) -> String {
        let Some(count) = NonZeroUsize::new(live.len()) else { return "nobody to talk".into() };
        let lease = &live[random.below(count.get())];
        let (g, c) = place(lease.key());
        let (sent, rcvd) = (random.next() >> 40, random.next() >> 40);
        lease.slot().add_sent(random.below(5), sent);
        lease.slot().add_rcvd(random.below(5), rcvd);
        let channel = self.modelled(g, c).expect("it was connected");
        (channel.sent, channel.rcvd) = (channel.sent + sent, channel.rcvd + rcvd);
        format!("bytes {g} {c}")
    }

    fn pass_time(&mut self, random: &mut Random) -> String {
        let span = [0, 1, 20, 130, 300, 1_000, 2_500, 10_000][random.below(8)];
        self.model.now += Duration::from_millis(random.below(span + 1) as u64);
        self.table.advance(self.model.now);
        // A clock that goes back is none.
        self.table.advance(self.model.now / 2);
        format!("now {:?}", self.model.now)
    }

    /// Asks for the probes that are due: some of them, or all.
    fn probe(&mut self, random: &mut Random) -> String {
        let most = if random.one_in(2) { random.below(3) } else { usize::MAX };
        let due = self.table.probes_due(most);
        assert!(due.len() <= most);
        let now = self.model.now;
        for probe in &due {
            let (g, c) = place(probe.channel);
            let id = self.asked;
            self.asked += 1;
            let channel = self.modelled(g, c).expect("nobody probes what is not there");
            assert_eq!(probe.addresses, channel.addresses.as_slice());
            channel.health.ask(id, probe.purpose, now);
            self.probes.push((probe.clone(), id));
        }
        if due.len() < most {
            assert!(self.table.next_probe().is_none_or(|at| at > now), "drained, but one is due");
        }
        format!("{} probes", due.len())
    }

    fn answer(&mut self, random: &mut Random) -> String {
        if self.probes.is_empty() {
            return "no probe to answer".into();
        }
        let (probe, id) = self.probes.swap_remove(random.below(self.probes.len()));
        let result = match random.below(5) {
            0 | 1 => ProbeResult::Good,
            2 | 3 => ProbeResult::Bad(format!("probe {id}")),
            _ => ProbeResult::Unknown,
        };
        let told = self.table.probed(&probe, result.clone());
        let (g, c) = place(probe.channel);
        let (rules, now) = (self.model.rules.health, self.model.now);
        let expected = self.modelled(g, c).ok().and_then(|channel| {
            let what = channel.health.answered(&rules, id, &result, now)?;
            Some(Transition { channel: key(g, c), address: channel.addresses.first(), what })
        });
        assert_eq!(told, expected, "{result:?} to {probe:?}");
        // The same answer once more says nothing.
        assert_eq!(self.table.probed(&probe, result.clone()), None);
        format!("{result:?} to {probe:?}")
    }
}
