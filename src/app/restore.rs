//! Finds what operators changed in a table, and applies it again to the groups that a new table is filled
//! with.
//!
//! Knows: lines, which part of a line an operator's change is about. Never: files, how a fact is written, a
//! table that clients use.
//! Source: docs/state.md, "What is kept".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::{NonZeroU16, NonZeroU32};

use super::plan::{Identity, Lined, LinedGroup, channels, target_identity as identity};
use super::state::{Fact, FoundTarget, LinedChannel, Setting, Target};
use crate::sched::{
    Addresses, ChannelKey, ChannelSnapshot, DecidedMember, FamilySnapshot, GroupId, MAX_CHANNELS, Snapshot,
};
use crate::spec::{AdminState, ChannelSpec, GroupSpec, Member, Policy, PortWord, Typed};

impl From<&ChannelSpec> for Setting {
    fn from(spec: &ChannelSpec) -> Self {
        Self { state: spec.state, weight: spec.weight, maxc: spec.maxc, manner: spec.manner.clone() }
    }
}

impl From<&Lined> for Setting {
    fn from(line: &Lined) -> Self {
        Self { state: line.state, weight: line.weight, maxc: line.maxc, manner: line.manner.clone() }
    }
}

impl From<&ChannelSnapshot> for Setting {
    /// The operator's decision: a channel that `-a` has disabled counts as enabled.
    fn from(now: &ChannelSnapshot) -> Self {
        let state = if now.autodisabled { AdminState::Enabled } else { now.state };
        Self { state, weight: now.weight, maxc: now.maxc, manner: now.manner.clone() }
    }
}

fn target(addresses: &Addresses) -> Target {
    let first = addresses.first();
    let host = addresses.host().map_or_else(|| first.host(), str::to_owned);
    Target { host, port: addresses.port() }
}

/// All differences between a table and its lines. `later`: the policy of groups that no line has.
pub(super) fn observe(lines: &[LinedGroup], later: Policy, table: &Snapshot) -> Vec<Fact> {
    let there: BTreeMap<ChannelKey, &ChannelSnapshot> = channels(table).collect();
    let (mut lined, mut twins) = (BTreeSet::new(), HashMap::<Identity<'_>, u32>::new());
    let mut facts = Vec::new();
    for group in &table.groups {
        let line = lines.get(group.id.index()).map_or(later, |line| line.policy);
        if group.policy != line {
            facts.push(Fact::Policy { group: group.id, line, now: group.policy });
        }
    }
    for (number, group) in lines.iter().enumerate() {
        let Some(id) = GroupId::new(number) else { continue };
        for one in &group.channels {
            let nth = twins.entry(identity(number, &one.addresses)).or_default();
            *nth = nth.saturating_add(1);
            let Some(nth) = NonZeroU32::new(*nth) else { continue };
            let channel = LinedChannel { group: id, target: target(&one.addresses), nth };
            let line = Setting::from(one);
            let Some((key, now)) = one.key.and_then(|key| Some((key, *there.get(&key)?))) else {
                facts.push(Fact::Removed { channel, line });
                continue;
            };
            lined.insert(key);
            let is_moved = identity(number, &now.addresses) != identity(number, &one.addresses);
            let moved = is_moved.then(|| destination(&now.addresses));
            let now = Setting::from(now);
            if now != line || moved.is_some() {
                facts.push(Fact::Changed { channel, line, now, moved });
            }
        }
    }
    facts.extend(decided_members(lines, table));
    for (key, one) in there {
        let twins = twins.get(&identity(key.group.index(), &one.addresses)).copied().unwrap_or(0);
        if !lined.contains(&key) && !one.retires {
            let to = destination(&one.addresses);
            facts.push(Fact::Created { group: key.group, number: key.channel, twins, now: one.into(), to });
        }
    }
    facts
}

/// What operators decided about single channels of names that stand for several.
fn decided_members(lines: &[LinedGroup], table: &Snapshot) -> Vec<Fact> {
    let mut facts = Vec::new();
    let there: BTreeMap<ChannelKey, &ChannelSnapshot> = table
        .groups
        .iter()
        .flat_map(|group| {
            group.channels.iter().map(|one| (ChannelKey { group: group.id, channel: one.id }, one))
        })
        .collect();
    for group in &table.groups {
        let mut twins = HashMap::<Identity<'_>, u32>::new();
        let lined = lines.get(group.id.index()).into_iter().flat_map(|group| &group.channels);
        for line in lined {
            let nth = twins.entry(identity(group.id.index(), &line.addresses)).or_default();
            *nth = nth.saturating_add(1);
            let is_it = |family: &&FamilySnapshot| line.key.is_some_and(|key| key.channel == family.head.id);
            let (Some(family), Some(nth)) = (group.families.iter().find(is_it), NonZeroU32::new(*nth)) else {
                continue;
            };
            let channel = LinedChannel { group: group.id, target: target(&line.addresses), nth };
            let now = family.members.iter().filter_map(|key| there.get(key)).filter_map(|one| {
                let state = if one.autodisabled { AdminState::Enabled } else { one.state };
                let said = one.member_of.map(|member| member.weight);
                let weight = (said != Some(one.weight)).then_some(one.weight);
                let is_decided =
                    (state, one.maxc) != (family.head.state, family.head.maxc) || weight.is_some();
                let (Target { host, port }, maxc) = (target(&one.addresses), one.maxc);
                is_decided.then_some(DecidedMember { host, port, state, maxc, weight, removed: false })
            });
            for decided in now.chain(family.decided.iter().cloned()) {
                facts.push(Fact::Member { channel: channel.clone(), decided });
            }
        }
    }
    facts
}

fn destination(addresses: &Addresses) -> FoundTarget {
    FoundTarget { target: target(addresses), found: addresses.clone() }
}

/// The groups for a new table, and what happened to the facts.
pub(super) struct Restored {
    pub(super) groups: Vec<GroupSpec>,
    /// The addresses of their channels.
    pub(super) found: Vec<Vec<Option<Addresses>>>,
    /// Decisions about single channels of names that stand for several.
    pub(super) decided: Vec<(ChannelKey, DecidedMember)>,
    /// How many facts were applied.
    pub(super) applied: usize,
    /// Why the others were not, one sentence each.
    pub(super) passed_over: Vec<String>,
}

/// Applies the facts to the groups of the present line, as far as the line is unchanged. `was_port`: the port
/// of the service at that time; 0 for a range. `look_up` returns the present addresses of a host.
pub(super) fn restore(
    facts: &[Fact],
    groups: &[GroupSpec],
    later: Policy,
    found: &[Vec<Option<Addresses>>],
    was_port: u16,
    look_up: &mut dyn FnMut(&FoundTarget) -> Addresses,
) -> Restored {
    let mut places: HashMap<Identity<'_>, Vec<usize>> = HashMap::new();
    let mut portless: HashMap<Identity<'_>, Vec<usize>> = HashMap::new();
    for (number, (group, found)) in groups.iter().zip(found).enumerate() {
        for (place, (member, addresses)) in group.members.iter().zip(found).enumerate() {
            if let (Member::Channel(spec), Some(addresses)) = (member, addresses) {
                let (group, host, port) = identity(number, addresses);
                if spec.port.is_none() && port != was_port {
                    portless.entry((group, host.clone(), was_port)).or_default().push(place);
                }
                places.entry((group, host, port)).or_default().push(place);
            }
        }
    }
    let now = Restored {
        groups: groups.to_vec(),
        found: found.to_vec(),
        decided: Vec::new(),
        applied: 0,
        passed_over: Vec::new(),
    };
    let mut restoring = Restoring { line: groups, places, portless, later, now };
    for fact in facts {
        match restoring.put_back(fact, look_up) {
            Ok(()) => restoring.now.applied += 1,
            Err(why) => restoring.now.passed_over.push(why),
        }
    }
    restoring.now
}

struct Restoring<'a> {
    line: &'a [GroupSpec],
    /// The places of each channel of the line in its group.
    places: HashMap<Identity<'a>, Vec<usize>>,
    /// The same for channels that use the port of the service, if that has changed; the key has the old port.
    portless: HashMap<Identity<'a>, Vec<usize>>,
    later: Policy,
    now: Restored,
}

impl Restoring<'_> {
    /// Applies a fact.
    ///
    /// # Errors
    /// Why it does not apply any more.
    fn put_back(
        &mut self,
        fact: &Fact,
        look_up: &mut dyn FnMut(&FoundTarget) -> Addresses,
    ) -> Result<(), String> {
        match fact {
            // This is not about a channel; the caller handles it.
            Fact::Denied { .. } => {}
            Fact::Member { channel, decided } => {
                let (number, place) = self.place(channel)?;
                let is_many =
                    self.now.found.get(number).and_then(|found| found.get(place)?.as_ref()?.family());
                let key = ChannelKey::new(number, place).filter(|_| is_many.is_some());
                let key = key.ok_or_else(|| {
                    format!("group {number}: {} stands for one channel now, and not for many", channel.target)
                })?;
                self.now.decided.push((key, decided.clone()));
            }
            Fact::Policy { group, line, now } => {
                let number = group.index();
                let is = self.line.get(number).map_or(self.later, |group| group.policy);
                if is != *line {
                    return Err(format!("group {number}: the policy in its line was edited since"));
                }
                self.group(number).0.policy = *now;
            }
            Fact::Changed { channel, line, now, moved } => {
                let (number, place) = self.find(channel, line)?;
                let addresses = moved.as_ref().map(look_up);
                let (group, found) = self.group(number);
                if let Some(Member::Channel(spec)) = group.members.get_mut(place) {
                    (spec.state, spec.weight, spec.maxc) = (now.state, now.weight, now.maxc);
                    spec.manner = now.manner.clone();
                }
                if let (Some(addresses), Some(found)) = (addresses, found.get_mut(place)) {
                    *found = Some(addresses);
                }
            }
            Fact::Removed { channel, line } => {
                let (number, place) = self.find(channel, line)?;
                let (group, found) = self.group(number);
                if let (Some(member), Some(found)) = (group.members.get_mut(place), found.get_mut(place)) {
                    (*member, *found) = (Member::Gap, None);
                }
            }
            Fact::Created { group, number: at, twins, now, to } => {
                let (number, label) = (group.index(), &to.target);
                let today = self.places.get(&key_of(number, label)).map_or(0, Vec::len);
                match (today as u64).cmp(&u64::from(*twins)) {
                    std::cmp::Ordering::Equal => {}
                    std::cmp::Ordering::Less => {
                        return Err(format!("group {number}: {label} is not in the line any more"));
                    }
                    std::cmp::Ordering::Greater => {
                        return Err(format!("group {number}: {label} is in the line now, and the line wins"));
                    }
                }
                let addresses = look_up(to);
                let (group, found) = self.group(number);
                if group.members.len() >= MAX_CHANNELS {
                    return Err(format!("group {number}: there is no number left for {label}"));
                }
                // It gets its earlier number, unless a channel of the line has that now.
                while group.members.len() < at.index() {
                    group.members.push(Member::Gap);
                    found.push(None);
                }
                group.members.push(Member::Channel(ChannelSpec {
                    typed: Typed::default(),
                    host: to.target.host.clone(),
                    lazy: false,
                    family: None,
                    port: NonZeroU16::new(to.target.port).map(PortWord::Number),
                    maxc: now.maxc,
                    weight: now.weight,
                    state: now.state,
                    manner: now.manner.clone(),
                }));
                found.push(Some(addresses));
            }
        }
        Ok(())
    }

    /// The group with this number. If no line has it, it is empty and has the policy of later groups.
    fn group(&mut self, number: usize) -> (&mut GroupSpec, &mut Vec<Option<Addresses>>) {
        let Restored { groups, found, .. } = &mut self.now;
        if groups.len() <= number {
            let later = self.later;
            groups.resize_with(number + 1, || GroupSpec { policy: later, members: Vec::new() });
            found.resize_with(number + 1, Vec::new);
        }
        (&mut groups[number], &mut found[number])
    }

    /// The place of a channel in the present line.
    fn place(&self, channel: &LinedChannel) -> Result<(usize, usize), String> {
        let LinedChannel { group, target, nth } = channel;
        let number = group.index();
        let key = key_of(number, target);
        let places = self.places.get(&key).or_else(|| self.portless.get(&key));
        let nth = usize::try_from(nth.get() - 1).unwrap_or(usize::MAX);
        let place = places.and_then(|places| places.get(nth)).copied();
        Ok((number, place.ok_or_else(|| format!("group {number}: {target} is not in the line any more"))?))
    }

    /// The same, if the line says the same about the channel as it did then.
    fn find(&self, channel: &LinedChannel, line: &Setting) -> Result<(usize, usize), String> {
        let (number, place) = self.place(channel)?;
        let target = &channel.target;
        let member = self.line.get(number).and_then(|group| group.members.get(place));
        match member {
            Some(Member::Channel(spec)) if Setting::from(spec) == *line => Ok((number, place)),
            _ => Err(format!("group {number}: {target} was edited in its line since, and the line wins")),
        }
    }
}

fn key_of(group: usize, target: &Target) -> Identity<'static> {
    (group, target.host.to_ascii_lowercase().into(), target.port)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::app::plan;
    use crate::app::state::tests::state;
    use crate::sched::{ChannelId, Rules, Table};
    use crate::spec::{ChannelManner, Weight};

    /// A line: for each group its policy and its channels, given by host, weight, limit and state.
    type Line = Vec<(Policy, Vec<(u8, u32, u32, bool)>)>;

    fn line() -> impl Strategy<Value = Line> {
        let channel = (0..4_u8, 1..3_u32, 0..2_u32, any::<bool>());
        let policy = prop::sample::select(vec![Policy::RoundRobin, Policy::Hash]);
        prop::collection::vec((policy, prop::collection::vec(channel, 0..5)), 0..4)
    }

    fn address(host: u8) -> Addresses {
        Addresses::from(SocketAddr::from(([10, 0, 0, host], 80))).named(&format!("h{host}"))
    }

    fn groups(line: &Line) -> (Vec<GroupSpec>, Vec<Vec<Option<Addresses>>>) {
        let spec = |&(host, weight, maxc, enabled): &(u8, u32, u32, bool)| {
            Member::Channel(ChannelSpec {
                typed: Typed::default(),
                host: format!("h{host}"),
                lazy: false,
                family: None,
                port: None,
                maxc: NonZeroU32::new(maxc),
                weight: Weight::new(weight).expect("small"),
                state: if enabled { AdminState::Enabled } else { AdminState::Disabled },
                manner: ChannelManner::default(),
            })
        };
        let group = |(policy, channels): &(Policy, Vec<_>)| GroupSpec {
            policy: *policy,
            members: channels.iter().map(spec).collect(),
        };
        let found = |(_, channels): &(Policy, Vec<(u8, u32, u32, bool)>)| {
            channels.iter().map(|&(host, ..)| Some(address(host))).collect()
        };
        (line.iter().map(group).collect(), line.iter().map(found).collect())
    }

    fn fill(groups: &[GroupSpec], found: &[Vec<Option<Addresses>>]) -> Table {
        let mut table = Table::new(Rules::CLASSIC);
        crate::app::prepared::declare(&mut table, groups, found.to_vec(), Policy::RoundRobin)
            .expect("there is room");
        table
    }

    fn observed(table: &mut Table, line: &Line) -> Vec<Fact> {
        let (groups, found) = groups(line);
        observe(&plan::lined(&groups, &found), Policy::RoundRobin, &table.snapshot())
    }

    fn restarted(facts: &[Fact], line: &Line) -> (Table, Restored) {
        let (groups, found) = groups(line);
        let restored =
            restore(facts, &groups, Policy::RoundRobin, &found, 80, &mut |to: &FoundTarget| to.found.clone());
        (fill(&restored.groups, &restored.found), restored)
    }

    fn by_hand(table: &mut Table, deeds: &[(usize, usize, u8)]) {
        for &(group, channel, what) in deeds {
            let Some(key) = ChannelKey::new(group, channel) else { continue };
            match what {
                0 => _ = table.set_state(key, AdminState::DisabledHard),
                1 => _ = table.set_weight(key, Weight::new(7).expect("small")),
                2 => _ = table.set_maxc(key, NonZeroU32::new(7)),
                3 => _ = table.set_state(key, AdminState::Disabled).and_then(|_| table.remove(key)),
                4 => {
                    let _ = table
                        .set_state(key, AdminState::Disabled)
                        .and_then(|_| table.assign(key, address(9)));
                }
                5 => table.set_policy(key.group, Policy::First),
                6 => _ = table.set_state(key, AdminState::Enabled),
                _ => _ = table.create(key.group, address(channel as u8), None, AdminState::Disabled),
            }
        }
    }

    type ShownGroup = (usize, Policy, Vec<(ChannelId, Addresses, Setting)>);

    /// What `show` prints of a table that has had no clients.
    fn shown(table: &mut Table) -> Vec<ShownGroup> {
        let snapshot = table.snapshot();
        let of = |one: &ChannelSnapshot| (one.id, one.addresses.clone(), Setting::from(one));
        let groups = snapshot.groups.iter().filter(|group| {
            // A group that was only made the current one does not count.
            !group.channels.is_empty() || group.policy != Policy::RoundRobin
        });
        groups
            .map(|group| (group.id.index(), group.policy, group.channels.iter().map(of).collect()))
            .collect()
    }

    proptest! {
        #[test]
        fn a_restart_with_the_same_line_brings_everything_back(
            line in line(),
            deeds in prop::collection::vec((0..6_usize, 0..7_usize, 0..8_u8), 0..12),
        ) {
            let (groups, found) = groups(&line);
            let mut table = fill(&groups, &found);
            prop_assert_eq!(observed(&mut table, &line), vec![], "a line does not differ from itself");
            by_hand(&mut table, &deeds);
            let facts = observed(&mut table, &line);
            let (mut again, restored) = restarted(&facts, &line);
            prop_assert_eq!(restored.passed_over, Vec::<String>::new());
            prop_assert_eq!(restored.applied, facts.len());
            prop_assert_eq!(shown(&mut again), shown(&mut table));
            prop_assert_eq!(observed(&mut again, &line), facts, "and what is kept then is the same");
        }

        #[test]
        fn a_channel_whose_line_was_edited_is_as_the_line_has_it(
            before in line(),
            after in line(),
            deeds in prop::collection::vec((0..4_usize, 0..5_usize, 0..7_u8), 0..12),
        ) {
            let (groups_before, found) = groups(&before);
            let mut table = fill(&groups_before, &found);
            by_hand(&mut table, &deeds);
            let facts = observed(&mut table, &before);
            let (mut again, _) = restarted(&facts, &after);
            let shown = shown(&mut again);
            // Nothing was created by a command: each channel is in the new line, and where a line has
            // changed, the line counts.
            let moved: Vec<Addresses> = vec![address(9)];
            let (groups, found) = groups(&after);
            for (number, _, channels) in &shown {
                for (id, addresses, setting) in channels {
                    let place = id.index();
                    let Some(Member::Channel(spec)) = groups.get(*number).and_then(|g| g.members.get(place)) else {
                        return Err(TestCaseError::fail(format!("group {number} channel {place} came back")));
                    };
                    let home = found[*number][place].clone().expect("a channel");
                    prop_assert!(*addresses == home || moved.contains(addresses));
                    let identity = identity(*number, &home);
                    let line = Setting::from(spec);
                    let was = groups_before.get(*number).into_iter().flat_map(|group| &group.members);
                    let is_edited = !was.into_iter().any(|member| match member {
                        Member::Channel(was) => {
                            was.host == identity.1 && Setting::from(was) == line
                        }
                        Member::Gap => false,
                    });
                    if is_edited {
                        prop_assert_eq!(setting, &line);
                        prop_assert_eq!(addresses, &home);
                    }
                }
            }
        }

        #[test]
        fn whatever_a_file_says_a_table_can_be_filled(state in state(), line in line()) {
            let facts: Vec<Fact> = state.services.into_iter().flat_map(|one| one.facts).collect();
            let (mut table, restored) = restarted(&facts, &line);
            prop_assert_eq!(restored.applied + restored.passed_over.len(), facts.len());
            table.snapshot();
        }
    }

    #[test]
    fn a_channel_that_was_created_by_hand_comes_back_unless_the_line_has_it_now() {
        let line: Line = vec![(Policy::RoundRobin, vec![(0, 1, 0, true)])];
        let (specs, found) = groups(&line);
        let mut table = fill(&specs, &found);
        by_hand(&mut table, &[(0, 1, 7), (0, 0, 7)]);
        let facts = observed(&mut table, &line);
        assert_eq!(facts.len(), 2);
        let numbers = |line: &Line| {
            let (mut table, restored) = restarted(&facts, line);
            let shown = shown(&mut table);
            let hosts: Vec<String> = shown
                .iter()
                .flat_map(|(_, _, channels)| channels)
                .map(|(id, addresses, _)| format!("{}={}", id.index(), addresses.host().unwrap_or("-")))
                .collect();
            (hosts.join(" "), restored.passed_over.len())
        };
        assert_eq!(numbers(&line), ("0=h0 1=h1 2=h0".into(), 0));
        let has_it = vec![(Policy::RoundRobin, vec![(0, 1, 0, true), (1, 1, 0, true)])];
        assert_eq!(numbers(&has_it), ("0=h0 1=h1 2=h0".into(), 1), "the line's, and the other twin");
        let gone = vec![(Policy::RoundRobin, vec![(2, 1, 0, true)])];
        assert_eq!(numbers(&gone), ("0=h2 1=h1".into(), 1), "the line does not have h0 any more");
    }
}
