//! The table as it was at one instant, for code that shows it.
//!
//! Knows: plain values. Never: the live table.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::Peers;
use super::end::End;
use super::{
    Addresses, AdminState, ChannelId, ChannelKey, ClientCounts, Ended, GroupId, HealthSnapshot, HealthState,
    Loss, NameSnapshot, Policy, Weight,
};
use crate::spec::{Address, ChannelManner, LostSocket};

/// A channel's membership in the set that a word stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The word.
    pub head: ChannelKey,
    /// The weight that the word or the record gives it, even if an operator has set another one since.
    pub weight: Weight,
}

/// One channel when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSnapshot {
    /// Its number in its group.
    pub id: ChannelId,
    /// Its addresses.
    pub addresses: Addresses,
    /// Those of several addresses that are known not to answer, and why.
    pub addresses_out: Vec<(Address, String)>,
    /// The address that last answered a client.
    pub used: Option<Address>,
    /// What is known about its name. `None`: its host is not a name.
    pub naming: Option<NameSnapshot>,
    /// The word that it belongs to. `None`: it has a word of its own.
    pub member_of: Option<Membership>,
    /// With `-a`: no address answered the last attempt, nor any since.
    pub unanswered: bool,
    /// `-a` disabled it, and no operator has changed that since.
    pub autodisabled: bool,
    /// The operator's decision.
    pub state: AdminState,
    /// It was removed and is gone when its last connection ends.
    pub retires: bool,
    /// Clients that would get it wait.
    pub paused: bool,
    /// Maximum number of simultaneous connections. `None`: no limit.
    pub maxc: Option<NonZeroU32>,
    /// Its weight.
    pub weight: Weight,
    /// How balance speaks to it.
    pub manner: ChannelManner,
    /// Its health, whatever the operator decided.
    pub health: HealthSnapshot,
    /// Its connections now, including those being dialled.
    pub active: u32,
    /// Waiting clients that could take a slot of this channel.
    pub waiting: u32,
    /// Connections handed to it, including failed attempts.
    pub totalc: u64,
    /// Failed attempts.
    pub failed: u64,
    /// Why the last attempt failed, and how long ago that was.
    pub last_error: Option<(String, Duration)>,
    /// Half of the recent connects took at most this long.
    pub connect_p50: Option<Duration>,
    /// 99 % of the recent connects took at most this long.
    pub connect_p99: Option<Duration>,
    /// Bytes from client to channel.
    pub sent_bytes: u64,
    /// Bytes from channel to client.
    pub rcvd_bytes: u64,
    /// How its connections ended and how long they took, since the start or the last `reset`.
    pub ended: Ended,
}

impl ChannelSnapshot {
    /// Does it take clients, and is it up, full or not? A paused channel counts as up, as in the table.
    pub fn is_up(&self) -> bool {
        let is_well = !matches!(self.health.state, HealthState::Ejected | HealthState::Down);
        self.state == AdminState::Enabled && self.weight > Weight::ZERO && (self.paused || is_well)
    }

    /// How many of its addresses answer, as far as is known.
    pub fn addresses_up(&self) -> usize {
        match self.health.state {
            HealthState::Ejected | HealthState::Down => 0,
            _ if self.unanswered => 0,
            _ => self.addresses.as_slice().len().saturating_sub(self.addresses_out.len()),
        }
    }
}

/// A word that stands for a set of channels, when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilySnapshot {
    /// What the word says about each of them, and what is known about its name.
    pub head: ChannelSnapshot,
    /// Its channels in whatever groups; without those that are being removed.
    pub members: Vec<ChannelKey>,
    /// What operators decided about members, including those that do not exist now.
    pub decided: Vec<DecidedMember>,
}

/// What an operator decided about one member of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedMember {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The state.
    pub state: AdminState,
    /// The limit. `None`: no limit.
    pub maxc: Option<NonZeroU32>,
    /// Its weight. `None`: that of the word or the record.
    pub weight: Option<Weight>,
    /// It was removed.
    pub removed: bool,
}

impl DecidedMember {
    /// `host:port`.
    pub fn words(&self) -> String {
        Addresses::unknown(&self.host, self.port).words()
    }
}

/// One group when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// Its number.
    pub id: GroupId,
    /// Its policy.
    pub policy: Policy,
    /// Its channels in order of their numbers.
    pub channels: Vec<ChannelSnapshot>,
    /// The words that stand for sets of channels; their numbers are among those of the channels.
    pub families: Vec<FamilySnapshot>,
    /// How many channel numbers were given out, including those of removed channels; it is the number of the
    /// next channel.
    pub numbers: usize,
}

/// The whole table at one instant, in order of group numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The groups that were ever used.
    pub groups: Vec<GroupSnapshot>,
    /// All channels are paused, including those that will be added.
    pub paused: bool,
    /// How many clients were lost before they had a channel, by reason; only reasons that occurred.
    pub losses: Vec<(Loss, u64)>,
    /// How clients ended, with or without a channel, and how long they waited in the wait queue.
    pub served: ClientCounts,
    /// Why the lists of `--allow` and `--deny` differ from their files. `None`: they do not.
    pub stale_lists: Option<Arc<String>>,
    /// The configured addresses on which the service does not listen. `None`: it listens on all of them.
    pub not_listening: Option<Arc<String>>,
    /// Why clients do not find its Unix socket, which listens, by its path. `None`: they do, or there is none.
    pub lost_socket: Option<LostSocket>,
}

/// A snapshot that is taken piece by piece, by [`Table::survey`](super::Table::survey). The lock can be
/// released between two pieces, which are then from different instants.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Where to go on.
    pub(super) next: (GroupId, usize),
    pub(super) losses: Vec<(Loss, u64)>,
    pub(super) served: ClientCounts,
    pub(super) paused: bool,
    /// From the gate; see [`Snapshot::stale_lists`].
    pub stale_lists: Option<Arc<String>>,
    /// From the service; see [`Snapshot::not_listening`].
    pub not_listening: Option<Arc<String>>,
    /// As the service says.
    pub lost_socket: Option<LostSocket>,
    groups: Vec<GroupSnapshot>,
}

impl Default for Survey {
    fn default() -> Self {
        Self {
            next: (GroupId::FIRST, 0),
            losses: Vec::new(),
            served: ClientCounts::default(),
            paused: false,
            stale_lists: None,
            not_listening: None,
            lost_socket: None,
            groups: Vec::new(),
        }
    }
}

impl Survey {
    /// The group that a piece belongs to.
    pub(super) fn group(&mut self, id: GroupId, policy: Policy) -> &mut GroupSnapshot {
        if self.groups.last().is_none_or(|last| last.id != id) {
            self.groups.push(GroupSnapshot {
                id,
                policy,
                channels: Vec::new(),
                families: Vec::new(),
                numbers: 0,
            });
        }
        let last = self.groups.len() - 1;
        &mut self.groups[last]
    }

    /// The complete snapshot.
    pub fn finish(self) -> Snapshot {
        let Self { groups, paused, losses, served, stale_lists, not_listening, lost_socket, .. } = self;
        Snapshot { groups, paused, losses, served, stale_lists, not_listening, lost_socket }
    }
}

/// A client's connection that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSnapshot {
    /// Its number.
    pub id: u64,
    /// The client, if it was known.
    pub client: Option<Peers>,
    /// Its channel. `None`: it never got one.
    pub channel: Option<ChannelKey>,
    /// The time since it was accepted.
    pub age: Duration,
    /// The time since it ended.
    pub ended: Duration,
    /// Bytes from client to channel.
    pub sent_bytes: u64,
    /// Bytes from channel to client.
    pub rcvd_bytes: u64,
    /// How it ended.
    pub how: End,
}

/// A client's connection at one instant, as the data plane sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSnapshot {
    /// Its number, which no other connection of the instance ever had.
    pub id: u64,
    /// The client, if the system still knows it.
    pub client: Option<Peers>,
    /// The port that it connected to, if the service has several.
    pub port: Option<u16>,
    /// Its channel, or the one being dialled. `None` while it waits for one.
    pub channel: Option<ChannelKey>,
    /// When it was accepted, by the process's clock. Ages of several sessions are measured at different
    /// moments.
    pub begun: Duration,
    /// The time since it was accepted.
    pub age: Duration,
    /// The time since bytes last moved.
    pub idle: Duration,
    /// The time since one side ended its direction, if one has.
    pub half_closed: Option<Duration>,
    /// Bytes from client to channel.
    pub sent_bytes: u64,
    /// Bytes from channel to client.
    pub rcvd_bytes: u64,
}

impl SessionSnapshot {
    /// Its position among others, oldest first. Ages cannot be used for that, since each worker measures them
    /// at a moment of its own.
    pub fn place(&self) -> (Duration, u64) {
        (self.begun, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_stand_by_when_they_began_whoever_measured_their_ages_first() {
        let session = |id, begun, age| SessionSnapshot {
            id,
            client: None,
            port: None,
            channel: None,
            begun: Duration::from_millis(begun),
            age: Duration::from_millis(age),
            idle: Duration::ZERO,
            half_closed: None,
            sent_bytes: 0,
            rcvd_bytes: 0,
        };
        // The worker of the second one was asked 9 ms later.
        let mut all = [session(5, 20, 105), session(3, 12, 109), session(2, 10, 102), session(1, 12, 100)];
        all.sort_by_key(SessionSnapshot::place);
        assert_eq!(all.map(|one| one.id), [2, 1, 3, 5]);
    }
}
