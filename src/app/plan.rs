//! What a reload has to do: which services and channels are kept, added and removed. Also, what an operator
//! has changed since the file was read.
//!
//! Knows: the lines before, the lines wanted, the table as it is. Never: files, names, how anything is
//! carried out.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU32;

use crate::config;
use crate::sched::{Addresses, ChannelKey, ChannelSnapshot, FoundMember, GroupId, Snapshot};
use crate::spec::{
    Address, AdminState, ChannelManner, ChannelSpec, FamilyKind, GroupSpec, ListenSpan, Member, Policy,
    Weight, last_tier,
};

/// Which services of one list are the same as in another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pairing {
    /// The numbers of services that are in both lists.
    pub(super) kept: Vec<(usize, usize)>,
    /// The numbers of new services.
    pub(super) added: Vec<usize>,
    /// The numbers of services that are not wanted any more.
    pub(super) removed: Vec<usize>,
}

/// A service is the same one if it listens at the same place: its lowest port is the same, or else another
/// one of its ports.
pub(super) fn pair(now: &[ListenSpan], wanted: &[ListenSpan]) -> Pairing {
    let mut places: HashMap<Address, usize> = now.iter().enumerate().map(|(n, at)| (at.first(), n)).collect();
    let mut pairing = Pairing::default();
    let mut left = Vec::new();
    for (number, span) in wanted.iter().enumerate() {
        match places.remove(&span.first()) {
            Some(before) => pairing.kept.push((before, number)),
            None => left.push(number),
        }
    }
    let mut before: BTreeSet<usize> = places.into_values().collect();
    let ports = before.iter().flat_map(|&was| now[was].each().map(move |at| (at, was)));
    let ports: HashMap<Address, usize> = ports.collect();
    for number in left {
        let mut met = wanted[number].each().filter_map(|at| ports.get(&at).copied());
        match met.find(|was| before.remove(was)) {
            Some(was) => pairing.kept.push((was, number)),
            None => pairing.added.push(number),
        }
    }
    pairing.removed = before.into_iter().collect();
    pairing
}

/// A channel as its line describes it.
#[derive(Debug, Clone)]
pub(super) struct Lined {
    pub(super) addresses: Addresses,
    pub(super) maxc: Option<NonZeroU32>,
    pub(super) weight: Weight,
    pub(super) state: AdminState,
    pub(super) manner: ChannelManner,
    /// Whether its word has no port, so that it uses the port of the service.
    pub(super) has_service_port: bool,
    /// Its key in the table; `None`: it is not there yet.
    pub(super) key: Option<ChannelKey>,
}

impl Lined {
    pub(super) fn of(spec: &ChannelSpec, addresses: Addresses, key: Option<ChannelKey>) -> Self {
        let (maxc, weight, state, manner) = (spec.maxc, spec.weight, spec.state, spec.manner.clone());
        let has_port = spec.port.is_some()
            || spec.family == Some(FamilyKind::Service)
            || addresses.first().unix().is_some();
        Self { addresses, maxc, weight, state, manner, has_service_port: !has_port, key }
    }

    fn is_same_line(&self, other: &Self) -> bool {
        let said = |line: &Self| (line.maxc, line.weight, line.state);
        said(self) == said(other) && self.manner == other.manner
    }

    /// The channel as operators know it, such as `web1:80`.
    pub(super) fn label(&self) -> String {
        label(&self.addresses)
    }
}

/// The same for addresses: `web1:80`, or the address if no name is known.
pub(super) fn label(addresses: &Addresses) -> String {
    addresses.words()
}

/// A group as its line describes it.
#[derive(Debug, Clone)]
pub(super) struct LinedGroup {
    pub(super) policy: Policy,
    pub(super) channels: Vec<Lined>,
}

/// The groups of a line with the addresses found for its channels. The keys are those of a table that is
/// filled in this order.
pub(super) fn lined(groups: &[GroupSpec], found: &[Vec<Option<Addresses>>]) -> Vec<LinedGroup> {
    let group = |(number, (group, found)): (usize, (&GroupSpec, &Vec<Option<Addresses>>))| {
        let members = group.members.iter().zip(found).enumerate();
        let channels = members.filter_map(|(place, (member, addresses))| match (member, addresses) {
            (Member::Channel(spec), Some(addresses)) => {
                Some(Lined::of(spec, addresses.clone(), ChannelKey::new(number, place)))
            }
            _ => None,
        });
        LinedGroup { policy: group.policy, channels: channels.collect() }
    };
    groups.iter().zip(found).enumerate().map(group).collect()
}

/// Where the lines of services are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineSource {
    File,
    CommandLine,
}

/// One change of a table. The changes are carried out in the order of the list: everything is added before
/// anything is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlannedEdit {
    /// A group gets another policy.
    SetPolicy(GroupId, Policy),
    /// The channel at this place of the line is new: the number of the group and the place in it.
    Create(usize, usize),
    /// A channel gets another limit, weight, state or other options.
    Apply(ChannelKey, usize, usize),
    /// A channel gets the addresses of the line, because they differ.
    Readdress(ChannelKey, usize, usize),
    /// The decisions about single channels that the name at this place stands for are dropped.
    Undo(ChannelKey, usize, usize),
    /// A channel is not in the line any more and is removed.
    Retire(ChannelKey),
}

/// What identifies a channel from one line to the next: group, host and port.
pub(super) type Identity<'a> = (usize, Cow<'a, str>, u16);

pub(super) fn identity(group: usize, addresses: &Addresses) -> Identity<'_> {
    let (group, host, port) = target_identity(group, addresses);
    // A name (`web`) and each of its addresses (`web,each`) are different channels.
    let host =
        if addresses.family() == Some(FamilyKind::Each) { Cow::from(format!("{host},each")) } else { host };
    (group, host, port)
}

/// The same without regard to whether the name stands for one channel or several.
pub(super) fn target_identity(group: usize, addresses: &Addresses) -> Identity<'_> {
    let first = addresses.first();
    let host = match addresses.host() {
        Some(host) if host.bytes().any(|byte| byte.is_ascii_uppercase()) => host.to_ascii_lowercase().into(),
        Some(host) => host.into(),
        None => first.host().into(),
    };
    (group, host, first.port())
}

/// The same if the service gets another port: a channel without a port of its own stays the same one.
fn lined_identity(group: usize, addresses: &Addresses, has_other_port: bool) -> Identity<'_> {
    let (group, host, port) = identity(group, addresses);
    (group, host, if has_other_port { 0 } else { port })
}

/// The port of channels without a port of their own; 0 in a range. `None`: there are no such channels.
fn service_port(lines: &[LinedGroup]) -> Option<u16> {
    let mut all = lines.iter().flat_map(|group| &group.channels);
    all.find(|one| one.has_service_port).map(|one| one.addresses.port())
}

/// Channels by identity. Each can be taken once, in order.
struct ByIdentity<'a, T>(HashMap<Identity<'a>, Alike<T>>);

/// The channels of one identity. There is rarely more than one, so the first one needs no queue.
struct Alike<T> {
    first: Option<T>,
    others: VecDeque<T>,
}

impl<'a, T> ByIdentity<'a, T> {
    fn new(all: impl Iterator<Item = (Identity<'a>, T)>) -> Self {
        let mut found: HashMap<Identity<'a>, Alike<T>> = HashMap::with_capacity(all.size_hint().0);
        for (identity, one) in all {
            match found.entry(identity) {
                Entry::Vacant(free) => {
                    _ = free.insert(Alike { first: Some(one), others: VecDeque::new() });
                }
                Entry::Occupied(mut taken) => taken.get_mut().others.push_back(one),
            }
        }
        Self(found)
    }

    fn take(&mut self, identity: &Identity<'a>) -> Option<T> {
        let alike = self.0.get_mut(identity)?;
        alike.first.take().or_else(|| alike.others.pop_front())
    }

    fn rest(self) -> impl Iterator<Item = T> {
        self.0.into_values().flat_map(|alike| alike.first.into_iter().chain(alike.others))
    }
}

/// The changes that turn the lines `before` into the `wanted` ones. The channels in `wanted` get the keys
/// that they have in the table. What an operator has changed stays if the line of its channel has not
/// changed, unless everything is to be `clean`.
pub(super) fn steps(
    before: &[LinedGroup],
    wanted: &mut [LinedGroup],
    table: &Snapshot,
    clean: bool,
) -> Vec<PlannedEdit> {
    let there: BTreeMap<ChannelKey, &ChannelSnapshot> = channels(table).collect();
    let is_other_port = service_port(before) != service_port(wanted);
    let lines = before.iter().enumerate().flat_map(|(number, group)| {
        let has_other_port = move |one: &Lined| is_other_port && one.has_service_port;
        group
            .channels
            .iter()
            .map(move |one| (lined_identity(number, &one.addresses, has_other_port(one)), one))
    });
    let mut lines = ByIdentity::new(lines);
    // Channels that are in no line: created by hand, or being removed since an earlier reload.
    let lined: BTreeSet<ChannelKey> =
        before.iter().flat_map(|group| &group.channels).filter_map(|one| one.key).collect();
    let others = there.iter().filter(|(key, _)| !lined.contains(key));
    let mut others =
        ByIdentity::new(others.map(|(&key, one)| (identity(key.group.index(), &one.addresses), key)));
    let decided = if clean { decided_words(table) } else { BTreeSet::new() };
    let (mut first, mut then) = (Vec::new(), Vec::new());
    let mut reserved = 0;
    for (number, group) in wanted.iter_mut().enumerate() {
        let Some(id) = GroupId::new(number) else { continue };
        let was = before.get(number).map(|group| group.policy);
        let is = table.groups.iter().find(|group| group.id == id).map(|group| group.policy);
        let is_reserved = number < reserved;
        let is_service = |one: &Lined| one.addresses.family() == Some(FamilyKind::Service);
        if group.channels.iter().any(is_service) {
            reserved = last_tier(number) + 1;
        }
        // Such a group comes into being as soon as the SRV name has this priority.
        if is.is_none() && is_reserved {
            continue;
        }
        if is != Some(group.policy) && (clean || was != Some(group.policy)) {
            first.push(PlannedEdit::SetPolicy(id, group.policy));
        }
        for (place, channel) in group.channels.iter_mut().enumerate() {
            let has_other_port = is_other_port && channel.has_service_port;
            let identity = lined_identity(number, &channel.addresses, has_other_port);
            let line = lines.take(&identity);
            let is_as_before = line.is_some_and(|line| line.is_same_line(channel));
            let key = match line {
                Some(line) => line.key,
                None => others
                    .take(&identity)
                    .or_else(|| others.take(&self::identity(number, &channel.addresses))),
            };
            channel.key = key;
            let now = key.and_then(|key| Some((key, *there.get(&key)?)));
            let Some((key, now)) = now else {
                // A channel that an operator has removed stays removed.
                if !is_as_before || clean {
                    channel.key = None;
                    first.push(PlannedEdit::Create(number, place));
                }
                continue;
            };
            // Names are looked up again at run time, so the addresses of the line are out of date. A channel
            // that an operator has given another address has another name.
            let is_now = self::identity(number, &now.addresses);
            let is_same_name = is_now == self::identity(number, &channel.addresses)
                || line.is_some_and(|line| is_now == self::identity(number, &line.addresses));
            if differ(&now.addresses, &channel.addresses) && (is_same_name || clean) {
                then.push(PlannedEdit::Readdress(key, number, place));
            }
            let is_other = (now.maxc, now.weight, now.state) != (channel.maxc, channel.weight, channel.state)
                || now.manner != channel.manner;
            if now.retires || (is_other && (clean || !is_as_before)) {
                then.push(PlannedEdit::Apply(key, number, place));
            }
            if clean && decided.contains(&key) {
                then.push(PlannedEdit::Undo(key, number, place));
            }
        }
    }
    let gone = lines.rest().filter_map(|line| line.key).filter(|key| there.contains_key(key));
    let mut gone: Vec<ChannelKey> = gone.collect();
    if clean {
        gone.extend(others.rest().filter(|key| there.get(key).is_some_and(|one| !one.retires)));
    }
    gone.sort_unstable();
    // A policy that remains in a group that is in no line any more does no harm.
    first.into_iter().chain(then).chain(gone.into_iter().map(PlannedEdit::Retire)).collect()
}

/// All channels that lines can have. Channels that belong to a name for several are left out, but the name
/// itself is included.
pub(super) fn channels(table: &Snapshot) -> impl Iterator<Item = (ChannelKey, &ChannelSnapshot)> {
    table.groups.iter().flat_map(|group| {
        let own = group.channels.iter().filter(|one| one.member_of.is_none());
        let all = own.chain(group.families.iter().map(|family| &family.head));
        all.map(|one| (ChannelKey { group: group.id, channel: one.id }, one))
    })
}

/// Are these different addresses, regardless of their order?
fn differ(one: &Addresses, other: &Addresses) -> bool {
    if let Some(wanted) = other.members() {
        let all =
            |members: &[FoundMember]| members.iter().map(|one| format!("{one:?}")).collect::<BTreeSet<_>>();
        return one.members().map(all) != Some(all(wanted));
    }
    if other.family().is_some() {
        return false;
    }
    let sorted = |addresses: &Addresses| {
        let mut all = addresses.as_slice().to_vec();
        all.sort_unstable();
        all
    };
    let is_same_word = one.host() == other.host() && one.is_lazy() == other.is_lazy();
    one != other && (!is_same_word || sorted(one) != sorted(other))
}

/// What an operator (or `-a`) has changed compared with the lines. `source`: where the lines are.
pub(super) fn differences(lines: &[LinedGroup], table: &Snapshot, source: LineSource) -> Vec<String> {
    let (there_is, of) = match source {
        LineSource::File => ("in the file", "of the file"),
        LineSource::CommandLine => ("on the command line", "of the command line"),
    };
    let there: BTreeMap<ChannelKey, &ChannelSnapshot> = channels(table).collect();
    let mut told = Vec::new();
    let mut lined = BTreeSet::new();
    if table.paused {
        told.push("paused".to_owned());
    }
    for (number, group) in lines.iter().enumerate() {
        let now = table.groups.iter().find(|one| one.id.index() == number).map(|one| one.policy);
        if let Some(policy) = now.filter(|&policy| policy != group.policy) {
            let [now, line] = [policy, group.policy].map(config::policy_name);
            told.push(format!("group {number}: policy {now}, {there_is} {line}"));
        }
        for channel in &group.channels {
            let Some((key, now)) = channel.key.and_then(|key| Some((key, *there.get(&key)?))) else {
                told.push(format!("group {number}: {} {of} is missing", channel.label()));
                continue;
            };
            lined.insert(key);
            let mut parts = channel_differences(channel, now, there_is);
            if now.paused && !table.paused {
                parts.push("paused".to_owned());
            }
            if !parts.is_empty() {
                let at = key.channel.index();
                told.push(format!("group {number} channel {at}: {}", parts.join("; ")));
            }
        }
    }
    told.extend(members_differences(table));
    for (key, one) in there {
        if !lined.contains(&key) && !one.retires {
            let (group, channel) = (key.group.index(), key.channel.index());
            told.push(format!(
                "group {group} channel {channel}: {} is not {there_is}",
                label(&one.addresses)
            ));
        }
    }
    told
}

/// Channels of a name for several that differ from what the name says.
fn members_differences(table: &Snapshot) -> Vec<String> {
    let heads = table.groups.iter().flat_map(|group| {
        let key = |one: &ChannelSnapshot| ChannelKey { group: group.id, channel: one.id };
        group.families.iter().map(move |family| (key(&family.head), &family.head))
    });
    let heads: BTreeMap<ChannelKey, &ChannelSnapshot> = heads.collect();
    let mut told = Vec::new();
    for group in &table.groups {
        for family in &group.families {
            let (at, label) = (family.head.id.index(), label(&family.head.addresses));
            let removed = family.decided.iter().filter(|one| one.removed);
            told.extend(removed.map(|one| {
                format!("group {} channel {at}: {} of {label} is removed", group.id.index(), one.words())
            }));
        }
        for one in &group.channels {
            let Some((member, head)) =
                one.member_of.and_then(|member| Some((member, heads.get(&member.head)?)))
            else {
                continue;
            };
            let label = label(&head.addresses);
            let mut parts = Vec::new();
            if one.state != head.state {
                parts.push(format!(
                    "{}, for all of {label} {}",
                    state_word(one.state),
                    state_word(head.state)
                ));
            }
            if one.weight != member.weight {
                parts.push(format!("weight {}, by {label} {}", one.weight.get(), member.weight.get()));
            }
            if one.maxc != head.maxc {
                let text = |maxc: Option<NonZeroU32>| maxc.map_or(0, NonZeroU32::get);
                parts.push(format!("maxc {}, for all of {label} {}", text(one.maxc), text(head.maxc)));
            }
            if one.paused && !head.paused && !table.paused {
                parts.push("paused".to_owned());
            }
            if !parts.is_empty() {
                told.push(format!(
                    "group {} channel {}: {}",
                    group.id.index(),
                    one.id.index(),
                    parts.join("; ")
                ));
            }
        }
    }
    told
}

/// Names for several channels about whose single channels something was decided.
fn decided_words(table: &Snapshot) -> BTreeSet<ChannelKey> {
    let mut all = BTreeSet::new();
    let mut heads = BTreeMap::new();
    for group in &table.groups {
        for family in &group.families {
            let key = ChannelKey { group: group.id, channel: family.head.id };
            heads.insert(key, &family.head);
            all.extend((!family.decided.is_empty()).then_some(key));
        }
    }
    for one in table.groups.iter().flat_map(|group| &group.channels) {
        let Some(member) = one.member_of else { continue };
        let Some(head) = heads.get(&member.head) else { continue };
        if (one.state, one.maxc, one.weight) != (head.state, head.maxc, member.weight) {
            all.insert(member.head);
        }
    }
    all
}

fn channel_differences(line: &Lined, now: &ChannelSnapshot, there_is: &str) -> Vec<String> {
    let mut parts = Vec::new();
    if now.state != line.state {
        let by = if now.autodisabled { " by -a" } else { "" };
        parts.push(format!("{}{by}, {there_is} {}", state_word(now.state), state_word(line.state)));
    }
    if now.weight != line.weight {
        parts.push(format!("weight {}, {there_is} {}", now.weight.get(), line.weight.get()));
    }
    if now.maxc != line.maxc {
        let text = |maxc: Option<std::num::NonZeroU32>| maxc.map_or(0, std::num::NonZeroU32::get);
        parts.push(format!("maxc {}, {there_is} {}", text(now.maxc), text(line.maxc)));
    }
    if now.manner != line.manner {
        let [now, line] = [&now.manner, &line.manner].map(manner_words);
        parts.push(format!("{now}, {there_is} {line}"));
    }
    // The addresses of a name are decided by the resolver, so they do not count as a difference.
    if identity(0, &now.addresses) != identity(0, &line.addresses) {
        parts.push(format!("{}, {there_is} {}", label(&now.addresses), line.label()));
    }
    parts
}

/// The options of a channel in a sentence: `options proxy,check=tcp`.
pub(super) fn manner_words(manner: &ChannelManner) -> String {
    match config::print_manner(manner) {
        words if words.is_empty() => "no options".to_owned(),
        words => format!("options {words}"),
    }
}

/// The state of a channel in a sentence.
pub(super) fn state_word(state: AdminState) -> &'static str {
    match state {
        AdminState::Enabled => "enabled",
        AdminState::Disabled | AdminState::DisabledHard => "disabled",
    }
}
