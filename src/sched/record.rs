//! A table as plain values for a successor, and a table made from such values.
//!
//! Knows: what a successor needs to know, which values are possible. Never: how the values get there;
//! connections, which are handed over separately.

use std::num::NonZeroU32;
use std::time::Duration;

use super::channel::{Channel, LastError};
use super::connect_times::ConnectTimes;
use super::health::{CheckMode, Health};
use super::membership::{MemberDecision, MemberName};
use super::naming::Naming;
use super::reach::Reach;
use super::{
    Addresses, AdminState, ChannelId, ChannelKey, ClientCounts, Ended, FoundMember, GroupId, Loss,
    MAX_CHANNELS, MAX_GROUPS, Membership, Policy, Rules, Table, ToldOutage, Weight,
};
use crate::handover::table::{
    ChannelRecord, DecidedRecord, FamilyRecord, FoundMemberRecord, GroupRecord, HealthRecord, TableRecord,
};

/// Limit for counters in a record, so that adding to them cannot overflow.
const MOST: u64 = 1 << 62;
/// Limit for the age of a process in a record, so that adding to it cannot overflow.
const OLDEST: Duration = Duration::from_secs(1 << 40);

/// Why no table can be made from a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The time since the start is impossible.
    #[error("the time since the start is {}s, which cannot be", .0.as_secs())]
    Time(Duration),
    /// The number of places given out in the wait queue is impossible.
    #[error("{0} places in the queue were given out, which cannot be")]
    Ticket(u64),
    /// A group number is too high.
    #[error("there is a group {0}, but the numbers of groups end below {MAX_GROUPS}")]
    Group(usize),
    /// Two groups have this number.
    #[error("there are two groups {0}")]
    TwoGroups(usize),
    /// The policy of a group is unknown.
    #[error("group {group} has the policy '{word}', which is unknown")]
    Policy {
        /// The group's number.
        group: usize,
        /// The word in place of its policy.
        word: String,
    },
    /// A group has more channels than there are numbers.
    #[error("group {group} has {count} channels, but there can be only {MAX_CHANNELS}")]
    Channels {
        /// The group's number.
        group: usize,
        /// The number of channels.
        count: usize,
    },
    /// The cursor of a group points to a channel that does not exist.
    #[error("in group {group} it is the turn of channel {turn}, which does not exist")]
    Turn {
        /// The group's number.
        group: usize,
        /// The channel's number.
        turn: usize,
    },
    /// A channel has impossible values.
    #[error("channel {channel} of group {group}: {fault}")]
    Channel {
        /// The group's number.
        group: usize,
        /// The channel's number.
        channel: usize,
        /// What is wrong with it.
        fault: ChannelFault,
    },
}

/// What is wrong with a channel in a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelFault {
    /// It has no address.
    #[error("it has no address")]
    NoAddress,
    /// It has too many addresses.
    #[error("it has {0} addresses, which is too many")]
    Addresses(usize),
    /// Its weight is too high.
    #[error("its weight is {0}, but weights end at {max}", max = Weight::MAX)]
    Weight(u32),
    /// A counter is too high.
    #[error("its {what} is {count}, which cannot be")]
    Counter {
        /// Which counter.
        what: &'static str,
        /// Its value.
        count: u64,
    },
    /// The number of addresses differs from the number of those about which something is known.
    #[error("it has {addresses} addresses, but something is known of {known}")]
    Reach {
        /// The number of addresses.
        addresses: usize,
        /// The number of addresses about which something is known.
        known: usize,
    },
    /// An address that the channel does not have is said to have answered.
    #[error("its address number {0} has answered, which it does not have")]
    Used(u16),
    /// Its connect times are impossible.
    #[error("its connect times cannot be")]
    ConnectTimes,
}

/// The counters of one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelCounts {
    /// Connections handed to it.
    pub totalc: u64,
    /// Failed attempts.
    pub failed: u64,
    /// Bytes from client to channel.
    pub sent_bytes: u64,
    /// Bytes from channel to client.
    pub rcvd_bytes: u64,
    /// How its connections ended, and how long they took.
    pub ended: Ended,
}

impl ChannelCounts {
    /// Are all counters 0?
    pub fn is_empty(&self) -> bool {
        let ended = &self.ended;
        [self.totalc, self.failed, self.sent_bytes, self.rcvd_bytes] == [0; 4]
            && ended.ends.is_empty()
            && ended.connects.count() == 0
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            totalc: self.totalc.wrapping_sub(before.totalc),
            failed: self.failed.wrapping_sub(before.failed),
            sent_bytes: self.sent_bytes.wrapping_sub(before.sent_bytes),
            rcvd_bytes: self.rcvd_bytes.wrapping_sub(before.rcvd_bytes),
            ended: self.ended.since(&before.ended),
        }
    }
}

impl Table {
    /// Everything that a successor needs to know. Reads every channel.
    pub fn record(&self) -> TableRecord {
        let groups = self.groups.iter().map(|(id, group)| GroupRecord {
            number: id.index(),
            policy: group.policy().name().to_owned(),
            channels: group.channels().iter().map(Channel::record).collect(),
            cursor: usize::from(group.cursor().at),
        });
        TableRecord {
            groups: groups.collect(),
            paused: self.paused,
            losses: self.losses.snapshot().into_iter().map(|(why, count)| (why.to_string(), count)).collect(),
            tally: self.tally.snapshot().record(),
            next_ticket: self.line.next(),
            out_since: self.outage.since,
            refusing: self.outage.is_refusing,
        }
    }

    /// The table that a record describes, with these rules, at the time `now`, which continues the record's
    /// time. Share it only afterwards: it must not replace a table that is already shared.
    ///
    /// No client waits and no channel has connections; connections that stay with the predecessor must be
    /// [held](Self::hold). Probes that were due or running are due soon. A retiring channel without
    /// connections is gone.
    ///
    /// # Errors
    /// The record describes an impossible table.
    pub fn restore(rules: Rules, record: &TableRecord, now: Duration) -> Result<Self, RestoreError> {
        if now > OLDEST {
            return Err(RestoreError::Time(now));
        }
        if record.next_ticket > MOST {
            return Err(RestoreError::Ticket(record.next_ticket));
        }
        let mut table = Self::new(rules);
        table.advance(now);
        for group in &record.groups {
            table.restore_group(group)?;
        }
        table.find_members();
        table.paused = record.paused;
        // A later beginning comes from another clock.
        let since = record.out_since.map(|since| since.min(now));
        *table.outage() = ToldOutage { since, is_refusing: record.refusing };
        table.losses.add(&record.losses);
        table.tally.add(&ClientCounts::restore(&record.tally));
        table.line.begin_at(record.next_ticket);
        Ok(table)
    }

    fn restore_group(&mut self, record: &GroupRecord) -> Result<(), RestoreError> {
        let (group, count) = (record.number, record.channels.len());
        let id = GroupId::new(group).ok_or(RestoreError::Group(group))?;
        let policy = Policy::named(&record.policy)
            .ok_or_else(|| RestoreError::Policy { group, word: record.policy.clone() })?;
        let turn = u16::try_from(record.cursor).ok().filter(|&at| usize::from(at) < count.max(1));
        let turn = turn.ok_or(RestoreError::Turn { group, turn: record.cursor })?;
        if self.has_group(id) {
            return Err(RestoreError::TwoGroups(group));
        }
        self.set_policy(id, policy);
        for (channel, record) in record.channels.iter().enumerate() {
            let added =
                match record {
                    Some(record) => self
                        .restore_channel(id, record)
                        .map_err(|fault| RestoreError::Channel { group, channel, fault })?,
                    None => self.skip(id).ok(),
                };
            added.ok_or(RestoreError::Channels { group, count })?;
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.cursor.at = turn;
        }
        Ok(())
    }

    /// `None`: there is no number for it.
    fn restore_channel(
        &mut self,
        group: GroupId,
        record: &ChannelRecord,
    ) -> Result<Option<ChannelId>, ChannelFault> {
        let (rules, now) = (self.rules.health, self.now);
        let unknown = || Some(Addresses::unknown(record.host.as_ref()?, record.port));
        let addresses = match (&record.family, &record.host) {
            (Some(family), Some(host)) => Some(family_of(family, host, record.port)),
            _ => Addresses::new(record.addresses.clone()).or_else(unknown),
        };
        let addresses = addresses
            .map(|addresses| match &record.host {
                Some(host) => addresses.named(host).lazily(record.lazy),
                None => addresses,
            })
            .ok_or(ChannelFault::NoAddress)?;
        let count = record.addresses.len();
        if count > usize::from(u16::MAX) {
            return Err(ChannelFault::Addresses(count));
        }
        let weight = Weight::new(record.weight).ok_or(ChannelFault::Weight(record.weight))?;
        for (what, count) in [
            ("totalc", record.totalc),
            ("failed", record.failed),
            ("sent", record.sent_bytes),
            ("rcvd", record.rcvd_bytes),
        ] {
            if count > MOST {
                return Err(ChannelFault::Counter { what, count });
            }
        }
        if let Some(used) = record.used.filter(|&used| usize::from(used) >= count) {
            return Err(ChannelFault::Used(used));
        }
        let known = record.reach.len();
        if known > 0 && known != count {
            return Err(ChannelFault::Reach { addresses: count, known });
        }
        let connect_times = ConnectTimes::restore(&record.connect_times).ok_or(ChannelFault::ConnectTimes)?;
        let mode = CheckMode::from(&record.manner.check);
        let health = Health::restore(&record.health, mode, &rules, now, &mut self.random);
        let reach = Reach::restore(&record.reach, now, &mut self.random);
        let added = self.add(group, addresses, |channel| {
            channel.state = state_of(record.state);
            channel.maxc = NonZeroU32::new(record.maxc);
            channel.weight = weight;
            channel.manner = record.manner.clone();
            channel.steps = health.ramp(&rules, now);
            channel.paused = record.paused;
            channel.health = health;
            if known > 0 {
                channel.reach = reach;
            }
            channel.used = record.used;
            if let (Some(naming), Some(record)) = (&mut channel.naming, &record.naming) {
                **naming = Naming::restore(record, now);
            }
            channel.vanish_if_unknown(now);
            channel.unanswered = record.unanswered;
            channel.autodisabled = record.autodisabled;
            channel.member = record.member.and_then(|(group, channel, weight)| {
                let (head, weight) = (ChannelKey::new(group, channel)?, Weight::new(weight)?);
                Some(Box::new(Membership { head, weight }))
            });
            if let (Some(head), Some(family)) = (&mut channel.head, &record.family) {
                head.decided = family.decided.iter().filter_map(decided_of).collect();
                head.gone = family.gone.iter().filter_map(gone_of).collect();
            }
            (channel.totalc, channel.failed) = (record.totalc, record.failed);
            let error = record.last_error.as_ref();
            channel.last_error =
                error.map(|(what, at)| Box::new(LastError { what: what.clone(), at: now.min(*at) }));
            channel.connect_times = connect_times;
            channel.slots.add_bytes(record.sent_bytes, record.rcvd_bytes);
            channel.slots.add_ended(&Ended::restore(&record.tally));
        });
        let Ok(channel) = added else { return Ok(None) };
        if record.retires {
            let key = ChannelKey { group, channel };
            self.set_retires(key, true);
            if record.active == 0 {
                self.see_off(key);
            }
        }
        Ok(Some(channel))
    }

    /// The counters of every channel that ever existed. Later differences are added in another process by
    /// [`add_counted`](Self::add_counted).
    pub fn counted(&self) -> Vec<(ChannelKey, ChannelCounts)> {
        let all = self.groups.values().flat_map(|group| group.channels());
        let counted = all.map(|channel| {
            let (sent_bytes, rcvd_bytes) = channel.slots.bytes();
            let (totalc, failed, ended) = (channel.totalc, channel.failed, channel.slots.ended());
            (channel.slots.key(), ChannelCounts { totalc, failed, sent_bytes, rcvd_bytes, ended })
        });
        counted.collect()
    }

    /// The counts of clients, whatever channel they had: how they ended, and why they were lost. Later
    /// differences are added in another process by [`add_served`](Self::add_served).
    pub fn counted_of_all(&self) -> (ClientCounts, Vec<(Loss, u64)>) {
        (self.tally.snapshot(), self.losses.snapshot())
    }

    /// The ejected channels, and what is known about them.
    pub fn ejected(&self) -> Vec<(ChannelKey, HealthRecord)> {
        let all = self.groups.values().flat_map(|group| group.channels());
        let ejected = all.filter(|channel| !channel.removed && channel.health.is_ejected());
        ejected.map(|channel| (channel.slots.key(), channel.health.record())).collect()
    }

    /// Takes over the ejection of a channel that happened in the predecessor after it sent its record.
    /// `false`: the channel is already ejected here, or has returned here since.
    pub fn take_ejection(&mut self, key: ChannelKey, record: &HealthRecord) -> bool {
        let (rules, now) = (self.rules.health, self.now);
        if self.rules.autodisable || self.get(key).is_none() {
            return false;
        }
        let taken = self
            .edit_by_lot(key, |channel, random| channel.health.take_ejection(record, &rules, now, random));
        if taken != Ok(true) {
            return false;
        }
        self.schedule(key);
        true
    }

    /// Adds what another process counted about clients. Losses are named by their words.
    pub fn add_served(&self, served: &ClientCounts, losses: &[(String, u64)]) {
        self.tally.add(served);
        self.losses.add(losses);
    }

    /// The channels with connections, and how many they have.
    pub fn busy(&self) -> Vec<(ChannelKey, u32)> {
        let all = self.groups.values().flat_map(|group| group.channels());
        let active = all.map(|channel| (channel.slots.key(), channel.slots.active()));
        active.filter(|&(_, active)| active > 0).collect()
    }

    /// Adds to a channel's counters what another process counted. Does nothing if the channel is gone.
    pub fn add_counted(&mut self, key: ChannelKey, more: &ChannelCounts) {
        let add = |count: &mut u64, more: u64| *count = count.saturating_add(more).min(MOST.max(*count));
        // This affects nothing that the choice of channels depends on.
        let group = self.groups.get_mut(&key.group);
        let channel = group.and_then(|group| group.channels.get_mut(key.channel.index()));
        if let Some(channel) = channel.filter(|channel| !channel.removed) {
            add(&mut channel.totalc, more.totalc);
            add(&mut channel.failed, more.failed);
            channel.slots.add_bytes(more.sent_bytes, more.rcvd_bytes);
            channel.slots.add_ended(&more.ended);
        }
    }
}

fn state_of(record: DecidedRecord) -> AdminState {
    match record {
        DecidedRecord::Enabled => AdminState::Enabled,
        DecidedRecord::Disabled => AdminState::Disabled,
        DecidedRecord::DisabledHard => AdminState::DisabledHard,
    }
}

fn state_record(state: AdminState) -> DecidedRecord {
    match state {
        AdminState::Enabled => DecidedRecord::Enabled,
        AdminState::Disabled => DecidedRecord::Disabled,
        AdminState::DisabledHard => DecidedRecord::DisabledHard,
    }
}

type DecidedMemberRecord = (String, u16, DecidedRecord, u32, Option<u32>, bool);

fn decided_record((name, decision): (&MemberName, &MemberDecision)) -> DecidedMemberRecord {
    let MemberDecision { state, maxc, weight, removed } = *decision;
    let maxc = maxc.map_or(0, NonZeroU32::get);
    (name.0.clone(), name.1, state_record(state), maxc, weight.map(Weight::get), removed)
}

fn gone_record(
    (((host, port), _), key): (&(MemberName, GroupId), &ChannelKey),
) -> (String, u16, usize, usize) {
    (host.clone(), *port, key.group.index(), key.channel.index())
}

fn gone_of(
    (host, port, group, channel): &(String, u16, usize, usize),
) -> Option<((MemberName, GroupId), ChannelKey)> {
    let key = ChannelKey::new(*group, *channel)?;
    Some((((host.clone(), *port), key.group), key))
}

fn decided_of(record: &DecidedMemberRecord) -> Option<(MemberName, MemberDecision)> {
    let (host, port, state, maxc, weight, removed) = record;
    let weight = match weight {
        Some(weight) => Some(Weight::new(*weight)?),
        None => None,
    };
    let decision =
        MemberDecision { state: state_of(*state), maxc: NonZeroU32::new(*maxc), weight, removed: *removed };
    Some(((host.clone(), *port), decision))
}

fn member_record(found: &FoundMember) -> FoundMemberRecord {
    let FoundMember { host, port, priority, weight, addresses } = found.clone();
    FoundMemberRecord { host, port, priority, weight, addresses }
}

fn family_of(record: &FamilyRecord, host: &str, port: u16) -> Addresses {
    let found = |record: &FoundMemberRecord| {
        let FoundMemberRecord { host, port, priority, weight, addresses } = record.clone();
        FoundMember { host, port, priority, weight, addresses }
    };
    let members = record.members.as_ref().map(|all| all.iter().map(found).collect());
    Addresses::of_family(record.kind, host, port, members)
}

impl Channel {
    /// `None` if the channel was removed.
    fn record(&self) -> Option<ChannelRecord> {
        if self.removed {
            return None;
        }
        let (sent_bytes, rcvd_bytes) = self.slots.bytes();
        Some(ChannelRecord {
            host: self.addresses.host().map(str::to_owned),
            addresses: self.addresses.as_slice().to_vec(),
            port: self.addresses.port(),
            lazy: self.addresses.is_lazy(),
            family: self.addresses.family().map(|kind| FamilyRecord {
                kind,
                members: self.addresses.members().map(|all| all.iter().map(member_record).collect()),
                decided: self.head.iter().flat_map(|head| head.decided.iter().map(decided_record)).collect(),
                gone: self.head.iter().flat_map(|head| head.gone.iter().map(gone_record)).collect(),
            }),
            member: self.member.as_deref().map(|member| {
                let Membership { head, weight } = *member;
                (head.group.index(), head.channel.index(), weight.get())
            }),
            naming: self.naming.as_deref().map(Naming::record),
            state: state_record(self.state),
            maxc: self.maxc.map_or(0, NonZeroU32::get),
            weight: self.weight.get(),
            manner: self.manner.clone(),
            retires: self.retires,
            paused: self.paused,
            active: self.slots.active(),
            totalc: self.totalc,
            failed: self.failed,
            last_error: self.last_error.as_deref().map(|error| (error.what.clone(), error.at)),
            sent_bytes,
            rcvd_bytes,
            tally: self.slots.ended().record(),
            connect_times: self.connect_times.record(),
            used: self.used,
            unanswered: self.unanswered,
            autodisabled: self.autodisabled,
            health: self.health.record(),
            reach: self.reach.as_ref().map(|reach| reach.record()).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{
        CheckRules, ClientAddr, DialCause, DialFailure, End, Happened, HealthRules, HealthState, HeldSlots,
        Lease, Loss, NoChannel, ProbeResult, Purpose, Turn,
    };
    use super::*;
    use crate::spec::Address;
    use crate::spec::{ChannelCheck, ChannelManner, Check, ProxyVersion};

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const CHECK: CheckRules = CheckRules { interval: Duration::from_secs(1), rise: 2, fall: 3 };
    const EJECT: HealthRules = HealthRules { eject: true, ..HealthRules::NONE };
    const ALL: HealthRules =
        HealthRules { check: Some(CHECK), slow_start: Some(Duration::from_secs(60)), ..EJECT };

    fn rules(which: u8) -> Rules {
        let queue = NonZeroU32::new(5);
        let health = if which & 1 == 0 { ALL } else { EJECT };
        let rules = Rules { health, queue, shards: 2, ..Rules::CLASSIC };
        match which {
            4 => Rules { health: HealthRules::NONE, autodisable: true, ..rules },
            5 => Rules { hash_balance: NonZeroU32::new(1_250), ..rules },
            6 => Rules { hash_failover: true, ..rules },
            _ => rules,
        }
    }

    fn key(channel: usize) -> ChannelKey {
        ChannelKey::new(0, channel).expect("small")
    }

    fn address(n: u64) -> Address {
        ([10, 0, (n >> 8) as u8, n as u8], 80).into()
    }

    fn client(n: u64) -> ClientAddr {
        ClientAddr::from(IpAddr::from([192, 0, (n >> 8) as u8, n as u8]))
    }

    /// A table with an eventful history, and the leases of its connections.
    fn lived(which: u8, life: &[(u8, u64)]) -> (Table, Vec<Lease>) {
        let mut table = Table::new(rules(which));
        let mut leases: Vec<Lease> = Vec::new();
        let mut places = Vec::new();
        for &(what, n) in life {
            let group = GroupId::new([0, 0, 0, 3, 65_534][(n % 5) as usize]).expect("small");
            let channels = table.groups.get(&group).map_or(0, |group| group.channels().len());
            let key = ChannelKey::of(group, (n / 5) as usize % (channels + 1)).expect("small");
            match what {
                0 | 1 => {
                    let list = (0..=n / 7 % 3).map(|more| address(n + more)).collect();
                    let mut addresses = Addresses::new(list).expect("at least one");
                    if n % 3 == 0 {
                        addresses = addresses.named(&format!("host{n}.example"));
                    }
                    let maxc = NonZeroU32::new((n % 4) as u32);
                    let _ = table.create(group, addresses, maxc, AdminState::Enabled);
                }
                2 => {
                    let states = [AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard];
                    let _ = table.set_state(key, states[(n / 11 % 3) as usize]);
                }
                3 => table.set_policy(group, Policy::NAMES[(n / 11 % 5) as usize].1),
                4 => {
                    let _ = table.set_weight(key, Weight::new((n / 11 % 257) as u32).expect("small"));
                    let proxy = [None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)][n as usize / 7 % 3];
                    let _ =
                        table.set_manner(key, ChannelManner { proxy, check: ChannelCheck::Own(Check::Tcp) });
                }
                5 => {
                    let _ = if n % 2 == 0 { table.pause(key) } else { table.resume(key) };
                }
                6 => {
                    let _ = if n % 10 == 0 { table.pause_all() } else { table.resume_all() };
                }
                7 => {
                    let _ = table.retire(key);
                }
                8 => {
                    let _ = table.remove(key);
                }
                9 => table.losses.count(Loss::ALL[(n % 10) as usize]),
                10 => {
                    table.advance(table.now + MS(n % 3_000));
                    table.grant();
                    for probe in table.probes_due((n % 4) as usize) {
                        let good = n / 13 % 3 == 0;
                        let last = probe.addresses.last().filter(|_| probe.addresses.len() > 1);
                        let failed: Vec<_> =
                            last.map(|&last| (last, "no answer".to_owned())).into_iter().collect();
                        table.seen(&probe, good.then(|| probe.addresses[0]), &failed);
                        let result = if good { ProbeResult::Good } else { ProbeResult::Bad("no".into()) };
                        if n % 17 > 0 {
                            table.probed(&probe, result);
                        }
                    }
                }
                11 if !leases.is_empty() => drop(leases.swap_remove(n as usize % leases.len())),
                _ => {
                    let route = table.begin(client(n));
                    match table.next_or_wait(route, n, None, &mut Vec::new()) {
                        Turn::Now(route, lease) if n % 3 > 0 => {
                            let now = table.now;
                            table.address_answered(&lease, lease.addresses().first(), now);
                            table.connected(route, &lease, MS(n % 90));
                            lease.slot().add_sent(0, n);
                            lease.slot().add_rcvd(1, n / 2);
                            leases.push(lease);
                        }
                        Turn::Now(_, lease) if n % 2 > 0 => {
                            let (now, last) = (table.now, *lease.addresses().as_slice().last().expect("one"));
                            table.address_failed(&lease, last, now, "refused");
                        }
                        Turn::Now(_, lease) => {
                            table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
                        }
                        Turn::Later(ticket) => places.push(ticket),
                        Turn::Never(_) => {}
                    }
                }
            }
        }
        // Waiting clients are handed over separately.
        for ticket in places {
            table.leave_line(ticket);
        }
        table.grant();
        (table, leases)
    }

    fn again(record: &TableRecord) -> TableRecord {
        let text = serde_json::to_string(record).expect("plain values");
        serde_json::from_str(&text).expect("its own text")
    }

    fn hold_all(table: &mut Table, record: &TableRecord) -> Vec<HeldSlots> {
        let mut held = Vec::new();
        for group in &record.groups {
            for (number, channel) in group.channels.iter().enumerate() {
                let Some(channel) = channel.as_ref().filter(|channel| channel.active > 0) else { continue };
                let key = ChannelKey::new(group.number, number).expect("it was restored");
                held.push(table.hold(key, channel.active).expect("it was restored"));
            }
        }
        held
    }

    fn lives(most: usize) -> impl Strategy<Value = (u8, Vec<(u8, u64)>)> {
        (0..7_u8, prop::collection::vec((0..20_u8, 0..100_000_u64), 0..most))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_table_is_the_same_after_it_was_written_and_read((which, life) in lives(120)) {
            let (mut table, _leases) = lived(which, &life);
            let record = table.record();
            let mut restored = Table::restore(rules(which), &again(&record), table.now).expect("a good record");
            let _held = hold_all(&mut restored, &record);
            prop_assert_eq!(&restored.record(), &record);
            prop_assert_eq!(restored.snapshot(), table.snapshot());
            prop_assert_eq!(restored.up_and_all(), table.up_and_all());
            prop_assert_eq!((restored.is_out(), restored.has_up()), (table.is_out(), table.has_up()));
            prop_assert_eq!(restored.counted().len(), table.counted().len());
            // Growing shares continue as they do here.
            for _ in 0..3 {
                for table in [&mut table, &mut restored] {
                    table.advance(table.now + MS(7_000));
                    table.advance_groups();
                }
                prop_assert_eq!(restored.snapshot(), table.snapshot());
                let steps = |table: &Table| -> Vec<u32> {
                    let channels = table.groups.values().flat_map(|group| group.channels());
                    channels.filter(|channel| !channel.removed).map(|channel| channel.steps).collect()
                };
                prop_assert_eq!(steps(&restored), steps(&table));
            }
        }

        #[test]
        fn nonsense_is_refused_or_does_no_harm(
            (which, life) in lives(60),
            garbled in prop::collection::vec((0..10_000_usize, 0..20_usize), 1..4),
        ) {
            let (table, _leases) = lived(which, &life);
            let mut value = serde_json::to_value(table.record()).expect("plain values");
            for (place, what) in garbled {
                let all = count(&value);
                let mut place = place % all;
                garble(&mut value, &mut place, what);
            }
            let Ok(record) = serde_json::from_value::<TableRecord>(value) else { return Ok(()) };
            match Table::restore(rules(which), &record, table.now) {
                Ok(table) => exercise(table),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    /// The number of values in a record.
    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(list) => list.iter().map(count).sum::<usize>(),
            Value::Object(fields) => fields.values().map(count).sum(),
            _ => 0,
        }
    }

    /// Replaces the value at index `place` by nonsense.
    fn garble(value: &mut Value, place: &mut usize, what: usize) {
        if *place == 0 {
            *value = match what {
                0 => Value::Null,
                1 => json!(-1),
                2 => json!(0),
                3 => json!(1),
                4 => json!(u64::MAX),
                5 => json!(u32::MAX),
                6 => json!(u16::MAX),
                7 => json!(1e300),
                8 => json!(true),
                9 => json!(""),
                10 => json!("\n%s"),
                11 => json!([]),
                12 => json!({}),
                13 => json!([value, value]),
                14 => json!("[::]:0"),
                15 => json!({"secs": u64::MAX, "nanos": 999_999_999}),
                16 => json!({"down": [{"secs": u64::MAX, "nanos": 0}, "", u32::MAX]}),
                17 => json!({"failing": [u32::MAX, ""]}),
                18 => json!([[100, 4_096], [0, 1]]),
                _ => json!([{"secs": u64::MAX, "nanos": 0}, "late"]),
            };
        }
        let parts: Box<dyn Iterator<Item = &mut Value>> = match value {
            Value::Array(list) if *place > 0 => Box::new(list.iter_mut()),
            Value::Object(fields) if *place > 0 => Box::new(fields.values_mut()),
            _ => Box::new(std::iter::empty()),
        };
        *place = place.wrapping_sub(1);
        for part in parts {
            if *place > usize::MAX / 2 {
                return;
            }
            garble(part, place, what);
        }
    }

    /// Does everything possible with a table.
    fn exercise(mut table: Table) {
        let mut grants = Vec::new();
        let mut leases = Vec::new();
        for n in 0..40 {
            table.advance(table.now + MS(700));
            let route = table.begin(client(n));
            match table.next_or_wait(route, n, None, &mut grants) {
                Turn::Now(_, lease) if n % 2 == 0 => {
                    table.address_failed(&lease, lease.addresses().first(), table.now, "no");
                    table.failed(lease, DialFailure::Channel, DialCause::Refused, "no");
                }
                Turn::Now(route, lease) => {
                    table.address_answered(&lease, lease.addresses().first(), table.now);
                    table.connected(route, &lease, MS(n));
                    leases.push(lease);
                }
                _ => {}
            }
            let route = table.begin(client(n));
            let _ = table.rejoin(route, n, n * 1_000, &mut grants);
            for probe in table.probes_due(100) {
                let result = if n % 3 == 0 { ProbeResult::Good } else { ProbeResult::Bad("no".into()) };
                table.probed(&probe, result);
            }
            grants.append(&mut table.grant());
        }
        for (key, _) in table.counted() {
            let most = ChannelCounts {
                totalc: u64::MAX,
                failed: u64::MAX,
                sent_bytes: u64::MAX,
                rcvd_bytes: u64::MAX,
                ended: Ended::default(),
            };
            table.add_counted(key, &most);
            let mut held = table.hold(key, u32::MAX);
            drop(held.as_mut().and_then(HeldSlots::take));
            let _ = table.set_weight(key, Weight::new(3).expect("small"));
            let _ = table.retire(key);
        }
        for n in 0..9 {
            let route = table.begin(client(n));
            let _ = table.next_or_wait(route, n, None, &mut grants);
        }
        table.snapshot();
        table.record();
        table.set_rules(Rules::CLASSIC);
        table.set_rules(rules(0));
        table.snapshot();
    }

    fn one(rules: Rules, addresses: u64) -> Table {
        let mut table = Table::new(rules);
        let list = Addresses::new((1..=addresses).map(address).collect()).expect("at least one");
        table.create(GroupId::FIRST, list, None, AdminState::Enabled).expect("a number");
        table
    }

    fn lease(table: &mut Table) -> Result<Lease, NoChannel> {
        let mut route = table.begin(client(1));
        table.next(&mut route)
    }

    fn restored(table: &Table) -> Table {
        Table::restore(table.rules, &again(&table.record()), table.now).expect("a good record")
    }

    fn state(table: &Table) -> HealthState {
        table.channel(key(0)).expect("it exists").health.state
    }

    #[test]
    fn an_ejected_channel_is_probed_soon_and_comes_back() {
        for is_under_way in [false, true] {
            let mut table = one(Rules { health: EJECT, ..Rules::CLASSIC }, 1);
            table.advance(MS(5_000));
            let lease = lease(&mut table).expect("it is up");
            table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("it is ejected");
            table.advance(MS(6_000));
            if is_under_way {
                assert_eq!(table.probes_due(9).len(), 1);
            }
            let mut table = restored(&table);
            assert_eq!(state(&table), HealthState::Ejected);
            assert!(table.next_probe().is_some_and(|at| at <= MS(6_000)), "it was due before");
            table.advance(MS(6_250));
            let probes = table.probes_due(9);
            assert_eq!(probes.iter().map(|probe| probe.purpose).collect::<Vec<_>>(), [Purpose::Return]);
            let told = table.probed(&probes[0], ProbeResult::Good).expect("it is back");
            assert_eq!(told.what, Happened::Returned(MS(1_250)), "since the predecessor ejected it");
            assert_eq!(state(&table), HealthState::Up);
        }
    }

    #[test]
    fn an_ejection_by_a_dial_that_began_before_the_other_process_holds_there() {
        let mut before = one(Rules { health: EJECT, ..Rules::CLASSIC }, 1);
        before.advance(MS(5_000));
        let taken = lease(&mut before).expect("it is up");
        let mut after = restored(&before);
        before.advance(MS(6_000));
        before.failed(taken, DialFailure::Channel, DialCause::Refused, "refused").expect("it is ejected");
        let ejected = before.ejected();
        let [(channel, record)] = &ejected[..] else { panic!("{ejected:?}") };
        after.advance(MS(6_100));
        assert!(after.take_ejection(*channel, record));
        assert_eq!(state(&after), HealthState::Ejected);
        assert!(after.next_probe().is_some_and(|at| at <= MS(6_275)), "its time goes on");
        assert!(!after.take_ejection(*channel, record), "that is known");
        after.advance(MS(6_300));
        let probes = after.probes_due(9);
        after.probed(&probes[0], ProbeResult::Good).expect("it is back");
        assert!(!after.take_ejection(*channel, record), "that is over");
        assert_eq!(state(&after), HealthState::Up);
        let health = HealthRules { eject: false, ..EJECT };
        let mut never =
            Table::restore(Rules { health, ..Rules::CLASSIC }, &before.record(), MS(6_100)).expect("good");
        assert!(!never.take_ejection(*channel, record));
    }

    #[test]
    fn checks_are_due_when_they_were_due_before() {
        let interval = Duration::from_secs(60);
        let health = HealthRules { check: Some(CheckRules { interval, rise: 2, fall: 3 }), ..EJECT };
        let rules = Rules { health, ..Rules::CLASSIC };
        let mut table = one(rules, 1);
        table.advance(MS(1_000));
        let probe = table.probes_due(9).remove(0);
        assert_eq!(table.probed(&probe, ProbeResult::Good), None);
        let due = table.next_probe();
        for at in [2_000, 30_000, 50_000] {
            table.advance(MS(at));
            table = Table::restore(rules, &table.record(), table.now).expect("a good record");
            assert_eq!((table.next_probe(), table.probes_due(9).len()), (due, 0));
        }
        // A probe that was running is made again at once.
        table.advance(MS(70_000));
        assert_eq!(table.probes_due(9).len(), 1);
        let mut table = Table::restore(rules, &table.record(), table.now).expect("a good record");
        assert_eq!((table.next_probe(), table.probes_due(9).len()), (due, 1));
        // No record delays a check for ever, and a record of an older version does not say when it is due.
        for check_due in [Some(Duration::MAX), None] {
            let mut record = table.record();
            for channel in record.groups.iter_mut().flat_map(|group| group.channels.iter_mut().flatten()) {
                channel.health.check_due = check_due;
            }
            let table = Table::restore(rules, &record, table.now).expect("a good record");
            assert!(table.next_probe().is_some_and(|at| at <= MS(137_000)), "{check_due:?}");
        }
    }

    #[test]
    fn checks_that_have_failed_go_on_to_count_and_so_do_those_that_succeed() {
        let check = |table: &mut Table, result: &ProbeResult| {
            table.advance(table.now + MS(2_000));
            let probes = table.probes_due(9);
            assert_eq!(probes.len(), 1);
            table.probed(&probes[0], result.clone()).map(|told| told.what)
        };
        let health = HealthRules { slow_start: None, ..ALL };
        let mut table = one(Rules { health, ..Rules::CLASSIC }, 1);
        let bad = ProbeResult::Bad("no".into());
        assert_eq!(check(&mut table, &ProbeResult::Good), None);
        for _ in 0..2 {
            assert_eq!(check(&mut table, &bad), None);
            table = restored(&table);
        }
        assert_eq!(check(&mut table, &bad), Some(Happened::Down("no".into())), "the third one");
        table = restored(&table);
        assert_eq!(check(&mut table, &ProbeResult::Good), None);
        table = restored(&table);
        assert_eq!(check(&mut table, &ProbeResult::Good), Some(Happened::Up(MS(4_000))));
    }

    #[test]
    fn an_address_that_does_not_answer_is_still_tried_last_and_probed() {
        let mut table = one(Rules { health: EJECT, ..Rules::CLASSIC }, 3);
        let taken = lease(&mut table).expect("it is up");
        table.address_failed(&taken, address(1), MS(0), "refused").expect("it is out");
        let mut table = restored(&table);
        let order: Vec<_> = (0..3).map_while(|n| lease(&mut table).expect("it is up").target(n, 0)).collect();
        assert_eq!(order, [2, 3, 1].map(address));
        table.advance(MS(275));
        let probes = table.probes_due(9);
        assert_eq!(probes.iter().map(|probe| &probe.addresses[..]).collect::<Vec<_>>(), [[address(1)]]);
        assert!(table.probed(&probes[0], ProbeResult::Good).is_some());
        assert_eq!(table.channel(key(0)).expect("it exists").addresses_up(), 3);
    }

    #[test]
    fn turns_and_clients_of_hash_groups_go_on() {
        for policy in [Policy::RoundRobin, Policy::Hash] {
            let mut table = Table::new(Rules { policy, ..Rules::CLASSIC });
            for n in 0..7 {
                table
                    .create(GroupId::FIRST, address(n / 2).into(), None, AdminState::Enabled)
                    .expect("a number");
            }
            let next = |table: &mut Table, n| {
                let mut route = table.begin(client(n));
                table.next(&mut route).expect("a channel").key()
            };
            for n in 0..3 {
                next(&mut table, n);
            }
            table.retire(key(2)).expect("it exists");
            let mut other = restored(&table);
            for n in 0..200 {
                assert_eq!(next(&mut table, n), next(&mut other, n), "{policy:?}");
            }
        }
    }

    #[test]
    fn rules_that_could_not_have_found_something_out_do_not_keep_it() {
        let mut table = one(Rules { health: ALL, ..Rules::CLASSIC }, 1);
        let taken = lease(&mut table).expect("it is up");
        table.failed(taken, DialFailure::Channel, DialCause::Refused, "refused").expect("it is ejected");
        let table = Table::restore(Rules::CLASSIC, &table.record(), table.now).expect("a good record");
        assert_eq!((state(&table), table.next_probe()), (HealthState::Up, None));
    }

    #[test]
    fn what_was_counted_meanwhile_is_added() {
        let mut before = one(Rules::CLASSIC, 1);
        let mut after = restored(&before);
        let then = before.counted();
        let taken = lease(&mut before).expect("it is up");
        taken.slot().add_sent(0, 5);
        taken.slot().add_rcvd(0, 7);
        table_failed(&mut before);
        taken.slot().ended(0, End::Idle, Duration::from_secs(3));
        for ((key, counts), was) in before.counted().into_iter().zip(then) {
            assert_eq!(key, was.0);
            after.add_counted(key, &counts.since(&was.1));
        }
        assert_eq!(after.counted(), before.counted());
        let counts = after.counted().remove(0).1;
        assert_eq!((counts.totalc, counts.failed, counts.sent_bytes, counts.rcvd_bytes), (2, 1, 5, 7));
        assert_eq!(counts.ended.ends, [(End::Idle, 1)]);
        after.add_counted(key(9), &counts);
        after.add_counted(ChannelKey::new(5, 0).expect("small"), &counts);
    }

    fn table_failed(table: &mut Table) {
        let taken = lease(table).expect("it is up");
        table.failed(taken, DialFailure::Local, DialCause::NoPort, "no descriptors");
    }

    #[test]
    fn words_for_losses_that_nobody_knows_are_passed_over() {
        let losses = vec![("queue full".to_owned(), 3), ("eaten by a bear".to_owned(), 4)];
        let record = TableRecord { losses, ..TableRecord::default() };
        let mut table = Table::restore(Rules::CLASSIC, &record, MS(1)).expect("a good record");
        assert_eq!(table.snapshot().losses, [(Loss::QueueFull, 3)]);
    }

    #[test]
    fn what_is_wrong_with_a_record_is_said() {
        let good = one(Rules::CLASSIC, 2).record();
        let group = |change: &dyn Fn(&mut GroupRecord)| {
            let mut record = good.clone();
            change(&mut record.groups[0]);
            Table::restore(Rules::CLASSIC, &record, MS(0)).map(drop).unwrap_err().to_string()
        };
        let channel = |change: &dyn Fn(&mut ChannelRecord)| {
            group(&|group| change(group.channels[0].as_mut().expect("it exists")))
        };
        for (said, expected) in [
            (
                group(&|group| group.number = 65_535),
                "there is a group 65535, but the numbers of groups end below 65535",
            ),
            (group(&|group| group.policy = "RR".into()), "group 0 has the policy 'RR', which is unknown"),
            (
                group(&|group| group.cursor = 1),
                "in group 0 it is the turn of channel 1, which does not exist",
            ),
            (
                group(&|group| group.channels = vec![None; 65_536]),
                "group 0 has 65536 channels, but there can be only 65535",
            ),
            (channel(&|channel| channel.addresses.clear()), "channel 0 of group 0: it has no address"),
            (
                channel(&|channel| channel.addresses = vec![address(1); 65_536]),
                "channel 0 of group 0: it has 65536 addresses, which is too many",
            ),
            (
                channel(&|channel| channel.weight = 257),
                "channel 0 of group 0: its weight is 257, but weights end at 256",
            ),
            (
                channel(&|channel| channel.failed = u64::MAX),
                "channel 0 of group 0: its failed is 18446744073709551615, which cannot be",
            ),
            (
                channel(&|channel| drop(channel.reach.pop())),
                "channel 0 of group 0: it has 2 addresses, but something is known of 1",
            ),
            (
                channel(&|channel| channel.used = Some(2)),
                "channel 0 of group 0: its address number 2 has answered, which it does not have",
            ),
            (
                channel(&|channel| channel.connect_times = vec![(101, 1)]),
                "channel 0 of group 0: its connect times cannot be",
            ),
            (
                channel(&|channel| channel.connect_times = vec![(1, 4_000), (1, 97)]),
                "channel 0 of group 0: its connect times cannot be",
            ),
        ] {
            assert_eq!(said, expected);
        }
        let twice =
            TableRecord { groups: [&good.groups[..], &good.groups].concat(), ..TableRecord::default() };
        let late = TableRecord { next_ticket: u64::MAX, ..TableRecord::default() };
        for (record, now, expected) in [
            (&twice, MS(0), "there are two groups 0"),
            (&late, MS(0), "18446744073709551615 places in the queue were given out, which cannot be"),
            (&good, Duration::MAX, "the time since the start is 18446744073709551615s, which cannot be"),
        ] {
            let said = Table::restore(Rules::CLASSIC, record, now).map(drop).unwrap_err().to_string();
            assert_eq!(said, expected);
        }
    }
}
