//! The table as it was at one instant, for those who tell about it.
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

/// A channel that is there for a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The word.
    pub head: ChannelKey,
    /// The weight that the word or the record gives it, whatever an operator has given it since.
    pub weight: Weight,
}

/// One channel as it was when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSnapshot {
    /// Its number in its group.
    pub id: ChannelId,
    /// Its addresses.
    pub addresses: Addresses,
    /// Those of several that are known not to answer, and what they met.
    pub addresses_out: Vec<(Address, String)>,
    /// The one that answered a client last.
    pub used: Option<Address>,
    /// What is known of its name; `None`: its host is an address.
    pub naming: Option<NameSnapshot>,
    /// The word that it is there for; `None`: its own.
    pub member_of: Option<Membership>,
    /// With `-a`: no address answered the last attempt, nor any since.
    pub unanswered: bool,
    /// `-a` has disabled it, and no operator has said anything about that since.
    pub autodisabled: bool,
    /// What the operator decided.
    pub state: AdminState,
    /// It was taken away and goes with its last connection.
    pub retires: bool,
    /// Clients that would be sent to it wait.
    pub paused: bool,
    /// Limit of simultaneous connections, `None` = no limit.
    pub maxc: Option<NonZeroU32>,
    /// Its share of clients.
    pub weight: Weight,
    /// How it is spoken to.
    pub manner: ChannelManner,
    /// What is known of it, whatever the operator decided.
    pub health: HealthSnapshot,
    /// Connections now, dialling ones included.
    pub active: u32,
    /// Clients that wait for a slot and could take one of this channel.
    pub waiting: u32,
    /// Connections handed to it, failed attempts too.
    pub totalc: u64,
    /// Failed attempts.
    pub failed: u64,
    /// What the last failed attempt met, and how long ago that was.
    pub last_error: Option<(String, Duration)>,
    /// The time that half of the last connects took at most.
    pub connect_p50: Option<Duration>,
    /// The time that 99 of a hundred of the last connects took at most.
    pub connect_p99: Option<Duration>,
    /// Bytes client -> channel.
    pub sent_bytes: u64,
    /// Bytes channel -> client.
    pub rcvd_bytes: u64,
    /// How its connections ended, and how long they took, since the start or the last `reset`.
    pub ended: Ended,
}

impl ChannelSnapshot {
    /// Takes clients and is up, full or not. A paused one counts as one that is up, as it does for the table.
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

/// A word that stands for a set of channels, as it was when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilySnapshot {
    /// What is said of each of them, and of its name.
    pub head: ChannelSnapshot,
    /// They, in whatever groups they are. Those that are about to go are not among them.
    pub members: Vec<ChannelKey>,
    /// What operators decided about some, those that are not there now too.
    pub decided: Vec<DecidedMember>,
}

/// What an operator decided about one of a set of channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedMember {
    /// Which one.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What was decided.
    pub state: AdminState,
    /// Its limit.
    pub maxc: Option<NonZeroU32>,
    /// Its share of clients, if that is not the word's or the record's.
    pub weight: Option<Weight>,
    /// It was taken away.
    pub removed: bool,
}

impl DecidedMember {
    /// `host:port`.
    pub fn words(&self) -> String {
        Addresses::unknown(&self.host, self.port).words()
    }
}

/// One group as it was when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// Its number.
    pub id: GroupId,
    /// Its policy.
    pub policy: Policy,
    /// Its channels in order of their numbers.
    pub channels: Vec<ChannelSnapshot>,
    /// The words that stand for sets of channels, which have numbers among theirs.
    pub families: Vec<FamilySnapshot>,
    /// How many numbers were given out, those of removed channels included: the next channel gets this one.
    pub numbers: usize,
}

/// The whole table at one instant, in order of group numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The groups that were ever touched.
    pub groups: Vec<GroupSnapshot>,
    /// All channels are paused, those that come as well.
    pub paused: bool,
    /// How many clients were lost before they had a channel, by why; reasons without any are left out.
    pub losses: Vec<(Loss, u64)>,
    /// How the clients ended, those who had no channel too, and how long those waited who were in line.
    pub served: ClientCounts,
    /// Why the lists of `--allow` and `--deny` are not what their files say. `None`: they are.
    pub stale_lists: Option<Arc<String>>,
    /// Where its line has it listen, and it does not. `None`: it listens everywhere.
    pub not_listening: Option<Arc<String>>,
    /// Its Unix socket listens, and is not to be found by its path. `None`: it is, or there is none.
    pub lost_socket: Option<LostSocket>,
}

/// A snapshot that is taken piece by piece, by [`Table::survey`](super::Table::survey): the lock can be let go between two
/// pieces, and then they are of different instants.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Where it goes on.
    pub(super) next: (GroupId, usize),
    pub(super) losses: Vec<(Loss, u64)>,
    pub(super) served: ClientCounts,
    pub(super) paused: bool,
    /// As the gate says.
    pub stale_lists: Option<Arc<String>>,
    /// As the service says.
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
    /// The group that a piece is of.
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

    /// What it has seen.
    pub fn finish(self) -> Snapshot {
        let Self { groups, paused, losses, served, stale_lists, not_listening, lost_socket, .. } = self;
        Snapshot { groups, paused, losses, served, stale_lists, not_listening, lost_socket }
    }
}

/// One client's connection that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSnapshot {
    /// Its number.
    pub id: u64,
    /// Who the client was, if that was known.
    pub client: Option<Peers>,
    /// The channel that it had; `None`: it never got one.
    pub channel: Option<ChannelKey>,
    /// Since it was accepted.
    pub age: Duration,
    /// Since it ended.
    pub ended: Duration,
    /// Bytes client -> channel.
    pub sent_bytes: u64,
    /// Bytes channel -> client.
    pub rcvd_bytes: u64,
    /// How it ended.
    pub how: End,
}

/// One client's connection at one instant, as the data plane sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSnapshot {
    /// Its number, which no other connection of the instance ever had.
    pub id: u64,
    /// Who the client is, if the system still knows it.
    pub client: Option<Peers>,
    /// The port that it came to, of a service that has several.
    pub port: Option<u16>,
    /// The channel it has, or is being connected to; `None` while it waits for one.
    pub channel: Option<ChannelKey>,
    /// When it was accepted, by the clock of the process: ages of several are measured at several moments.
    pub begun: Duration,
    /// Since it was accepted.
    pub age: Duration,
    /// Since bytes moved last.
    pub idle: Duration,
    /// Since one side ended its direction, if one has.
    pub half_closed: Option<Duration>,
    /// Bytes client -> channel.
    pub sent_bytes: u64,
    /// Bytes channel -> client.
    pub rcvd_bytes: u64,
}

impl SessionSnapshot {
    /// Where it stands among others, the oldest first. Not by their ages: each worker measures those at a moment of its own.
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
