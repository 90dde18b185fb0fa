//! The contract's "Choosing a channel", word for word and without any cleverness: the oracle.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use balance::sched::{
    Addresses, AdminState, ClientAddr, DialFailure, GroupId, NoChannel, Policy, Rules, Table,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Channel {
    pub(super) addresses: Addresses,
    pub(super) state: AdminState,
    /// 0 = no limit.
    pub(super) maxc: u32,
    pub(super) active: u32,
    pub(super) totalc: u64,
    pub(super) failed: u64,
    pub(super) sent: u64,
    pub(super) rcvd: u64,
}

impl Channel {
    pub(super) fn new(addresses: Addresses, maxc: u32, state: AdminState) -> Self {
        Self { addresses, state, maxc, active: 0, totalc: 0, failed: 0, sent: 0, rcvd: 0 }
    }

    /// "usable when it is enabled and (maxc = 0 or connections < maxc)"
    fn is_usable(&self) -> bool {
        self.state == AdminState::Enabled && (self.maxc == 0 || self.active < self.maxc)
    }
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) hash: bool,
    pub(super) channels: Vec<Channel>,
    pub(super) cursor: usize,
}

pub(super) struct Model {
    pub(super) rules: Rules,
    pub(super) groups: BTreeMap<usize, Group>,
    pub(super) preferences: Preferences,
}

/// What one client met.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// Channels tried, in order, the one that answered included.
    pub(super) visited: Vec<(usize, usize)>,
    /// Channels that were autodisabled.
    pub(super) autodisabled: Vec<(usize, usize)>,
    pub(super) end: Result<(usize, usize), NoChannel>,
}

impl Model {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, groups: BTreeMap::new(), preferences: Preferences::default() }
    }

    /// One client from its accept to the answer of a channel, alone in the world.
    pub(super) fn connect(
        &mut self,
        client: ClientAddr,
        dial: impl Fn(usize, usize) -> Option<DialFailure>,
    ) -> Walk {
        let (mut visited, mut autodisabled, mut reason) = (Vec::new(), Vec::new(), NoChannel::Empty);
        for (&g, group) in &mut self.groups {
            let count = group.channels.len();
            if count == 0 {
                continue;
            }
            let order: Vec<usize> = if group.hash {
                let mut order = self.preferences.of(&group.channels, client);
                if !self.rules.hash_failover {
                    order.truncate(1);
                }
                order
            } else {
                (0..count).map(|step| (group.cursor + step) % count).collect()
            };
            let any_enabled = order.iter().any(|&c| group.channels[c].state == AdminState::Enabled);
            reason = reason.max(if any_enabled { NoChannel::Full } else { NoChannel::Disabled });
            for c in order {
                let channel = &mut group.channels[c];
                if !channel.is_usable() {
                    continue;
                }
                visited.push((g, c));
                channel.totalc += 1;
                let Some(failure) = dial(g, c) else {
                    channel.active += 1;
                    group.cursor = (c + 1) % count;
                    return Walk { visited, autodisabled, end: Ok((g, c)) };
                };
                channel.failed += 1;
                reason = NoChannel::Failed;
                if self.rules.autodisable && failure == DialFailure::Channel {
                    channel.state = AdminState::Disabled;
                    autodisabled.push((g, c));
                }
            }
        }
        Walk { visited, autodisabled, end: Err(reason) }
    }
}

/// What a channel is hashed by: the resolver may give the addresses of a name in another order each day.
fn smallest(channel: &Channel) -> SocketAddr {
    let mut addresses = channel.addresses.as_slice().to_vec();
    addresses.sort_by_key(|address| (address.ip().to_canonical(), address.port()));
    addresses[0]
}

/// In which order a client likes the channels of a hash group. Learned by asking a fresh table in which every channel is
/// enabled, unlimited and refuses.
#[derive(Default)]
pub(super) struct Preferences(HashMap<(Vec<SocketAddr>, ClientAddr), Vec<usize>>);

impl Preferences {
    fn of(&mut self, channels: &[Channel], client: ClientAddr) -> Vec<usize> {
        let addresses: Vec<SocketAddr> = channels.iter().map(smallest).collect();
        let probe = || {
            let mut table = Table::new(Rules { hash_failover: true, ..Rules::CLASSIC });
            table.set_policy(GroupId::FIRST, Policy::Hash);
            for &address in &addresses {
                let created =
                    table.create(GroupId::FIRST, Addresses::from(address), None, AdminState::Enabled);
                created.expect("few channels");
            }
            let (mut route, mut order) = (table.begin(client), Vec::new());
            while let Ok(lease) = table.next(&mut route) {
                order.push(lease.key().channel.index());
                table.failed(lease, DialFailure::Channel, "refused");
            }
            let mut all = order.clone();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..addresses.len()), "every channel once: {order:?}");
            order
        };
        self.0.entry((addresses.clone(), client)).or_insert_with(probe).clone()
    }
}
