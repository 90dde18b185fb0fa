//! The contract's "Choosing a channel" and its later additions, taken literally and without optimization: the
//! oracle.
//!
//! It says which channels a step of a walk may return. That is one where the rules are exact, and several
//! where chance decides, where turns follow weights (see `weights`), or where other walks have moved cursors
//! (`exact` is off).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use balance::sched::{Addresses, AdminState, ClientAddr, DialFailure, Happened, NoChannel, Policy, Rules};

use super::health_model::Health;
use super::preferences::Preferences;

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) addresses: Addresses,
    pub(super) state: AdminState,
    /// 0 = no limit.
    pub(super) maxc: u32,
    pub(super) weight: u32,
    pub(super) removed: bool,
    pub(super) health: Health,
    pub(super) active: u32,
    pub(super) totalc: u64,
    pub(super) failed: u64,
    pub(super) sent: u64,
    pub(super) rcvd: u64,
}

impl Channel {
    pub(super) fn new(addresses: Addresses, maxc: u32, state: AdminState, health: Health) -> Self {
        let (active, totalc, failed, sent, rcvd) = (0, 0, 0, 0, 0);
        let (weight, removed) = (1, false);
        Self { addresses, state, maxc, weight, removed, health, active, totalc, failed, sent, rcvd }
    }

    fn takes_clients(&self) -> bool {
        self.state == AdminState::Enabled && self.weight > 0 && !self.removed
    }

    fn has_room(&self) -> bool {
        self.maxc == 0 || self.active < self.maxc
    }

    /// "usable when it takes clients and (maxc = 0 or connections < maxc)"
    fn is_usable(&self) -> bool {
        self.takes_clients() && self.has_room()
    }

    pub(super) fn is_up(&self) -> bool {
        self.takes_clients() && self.health.is_up()
    }
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) policy: Policy,
    /// The removed ones too.
    pub(super) channels: Vec<Channel>,
    pub(super) cursor: usize,
}

/// Who goes first when there are two rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    Up,
    NotUp,
}

/// One client's walk as the rules tell it.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    client: ClientAddr,
    pub(super) tried: BTreeSet<(usize, usize)>,
    round: Round,
    /// The first group that was not left.
    at: usize,
    last: Option<(usize, usize)>,
    /// "go on: the group's next usable channel": after the one tried last here.
    goes_on: Option<usize>,
    reason: NoChannel,
    pub(super) met_full: bool,
    over: bool,
}

impl Walk {
    /// "A full channel that the client may have tells more than those that failed."
    fn end(&self) -> NoChannel {
        if self.met_full { NoChannel::Full } else { self.reason }
    }
}

/// A slot that the model counts.
#[derive(Debug, Clone)]
pub(super) struct Handed {
    pub(super) place: (usize, usize),
    addresses: Addresses,
    life: u32,
}

pub(super) struct Model {
    pub(super) rules: Rules,
    pub(super) now: Duration,
    pub(super) groups: BTreeMap<usize, Group>,
    pub(super) preferences: Preferences,
    /// One walk at a time: cursors stand where the contract says.
    pub(super) exact: bool,
}

impl Model {
    pub(super) fn new(rules: Rules, exact: bool) -> Self {
        let (groups, preferences) = (BTreeMap::new(), Preferences::default());
        Self { rules, now: Duration::ZERO, groups, preferences, exact }
    }

    pub(super) fn begin(client: ClientAddr) -> Walk {
        let (tried, round, at, last, goes_on) = (BTreeSet::new(), Round::Up, 0, None, None);
        let (reason, met_full, over) = (NoChannel::Empty, false, false);
        Walk { client, tried, round, at, last, goes_on, reason, met_full, over }
    }

    /// A client in line tries again.
    pub(super) fn begin_again(walk: &mut Walk) {
        (walk.round, walk.at, walk.met_full, walk.over) = (Round::Up, 0, false, false);
    }

    /// The channels that the next step may give, or why there is none.
    pub(super) fn step(&mut self, walk: &mut Walk, may_wait: bool) -> Result<Vec<(usize, usize)>, NoChannel> {
        if walk.over {
            return Err(walk.end());
        }
        if let Some(last) = walk.last.take() {
            walk.tried.insert(last);
            walk.reason = NoChannel::Failed;
        }
        loop {
            let groups: Vec<usize> = self.groups.range(walk.at..).map(|(&g, _)| g).collect();
            for g in groups {
                walk.at = g;
                let allowed = self.choose(g, walk);
                if !allowed.is_empty() {
                    return Ok(allowed.into_iter().map(|c| (g, c)).collect());
                }
                walk.reason = walk.reason.max(self.reason(g, walk));
                walk.met_full |= walk.round == Round::Up && self.is_full_for(g, walk);
                walk.goes_on = None;
            }
            let waits = may_wait && walk.met_full;
            if walk.round == Round::NotUp || !self.rules.health.fail_open || waits || self.has_ready(walk) {
                walk.over = true;
                return Err(walk.end());
            }
            (walk.round, walk.at) = (Round::NotUp, 0);
        }
    }

    fn choose(&mut self, g: usize, walk: &Walk) -> Vec<usize> {
        let order = self.order(g, walk);
        let group = &self.groups[&g];
        let is_eligible = |c: &usize| {
            let channel = &group.channels[*c];
            let round = if channel.health.is_up() { Round::Up } else { Round::NotUp };
            channel.is_usable() && round == walk.round && !walk.tried.contains(&(g, *c))
        };
        let eligible: Vec<usize> = order.iter().copied().filter(is_eligible).collect();
        let Some(&first) = eligible.first() else { return eligible };
        let first_only = vec![first];
        match (group.policy, walk.round) {
            (Policy::Hash, round) => self.hash(g, &order, &eligible, round).into_iter().collect(),
            (Policy::First, _) => first_only,
            _ if !self.exact && (walk.round == Round::NotUp || group.policy == Policy::RoundRobin) => {
                eligible
            }
            (_, Round::NotUp) => first_only,
            (Policy::RoundRobin, _) => {
                let shares: BTreeSet<u32> = group.weighed().map(|channel| self.share(channel)).collect();
                if shares.len() < 2 { first_only } else { eligible }
            }
            (Policy::LeastConnections, _) => {
                let least = |c: &usize| eligible.iter().all(|&other| !self.is_busier(g, *c, other));
                let all: Vec<usize> = eligible.iter().copied().filter(least).collect();
                if self.exact { all[..1].to_vec() } else { all }
            }
            (Policy::TwoChoices, _) => {
                let most = |c: &usize| {
                    let others = eligible.iter().filter(|&other| other != c);
                    eligible.len() > 1 && others.into_iter().all(|&other| self.is_busier(g, *c, other))
                };
                eligible.iter().copied().filter(|c| !most(c)).collect()
            }
        }
    }

    /// All channels of a group in the order in which its policy looks at them.
    fn order(&mut self, g: usize, walk: &Walk) -> Vec<usize> {
        let group = &self.groups[&g];
        let (count, from) = (group.channels.len(), walk.goes_on.unwrap_or(group.cursor));
        match group.policy {
            Policy::Hash => self.preferences.of(&group.channels, walk.client),
            Policy::First => (0..count).collect(),
            _ => (0..count).map(|step| (from + step) % count).collect(),
        }
    }

    /// `order` = all channels with a weight, as the client likes them.
    fn hash(&self, g: usize, order: &[usize], eligible: &[usize], round: Round) -> Option<usize> {
        let mapped = eligible.first().copied().filter(|&first| first == order[0]);
        if mapped.is_none() && !self.rules.hash_failover {
            return None;
        }
        let preferred = eligible[0];
        let Some(balance) = self.rules.hash_balance.filter(|_| round == Round::Up) else {
            return Some(preferred);
        };
        let below = |c: &&usize| self.groups[&g].channels[**c].active < self.bound(g, **c, balance.get());
        // If everybody else is full and the rest at its bound, then the bound gives way.
        Some(eligible.iter().find(below).copied().unwrap_or(preferred))
    }

    /// "ceil(balance/1000 * (clients of up channels + 1) * weight / weights of up channels)"
    pub(super) fn bound(&self, g: usize, c: usize, balance: u32) -> u32 {
        let group = &self.groups[&g];
        let up = || group.channels.iter().filter(|channel| channel.is_up());
        let clients = 1 + up().map(|channel| u64::from(channel.active)).sum::<u64>();
        let weights: u64 = up().map(|channel| u64::from(channel.weight)).sum();
        let share = u64::from(balance) * clients * u64::from(group.channels[c].weight);
        share.div_ceil(1_000 * weights) as u32
    }

    fn share(&self, channel: &Channel) -> u32 {
        channel.weight * channel.health.steps(&self.rules.health, self.now)
    }

    /// Has `c` more connections for its share than `other`?
    fn is_busier(&self, g: usize, c: usize, other: usize) -> bool {
        let [c, other] = [c, other].map(|c| &self.groups[&g].channels[c]);
        let product = |a: &Channel, b: &Channel| u64::from(a.active) * u64::from(self.share(b));
        product(c, other) > product(other, c)
    }

    fn reason(&mut self, g: usize, walk: &Walk) -> NoChannel {
        let mut order = self.order(g, walk);
        let group = &self.groups[&g];
        let exists = group.channels.iter().any(|channel| !channel.removed);
        if group.policy == Policy::Hash && !self.rules.hash_failover {
            order.truncate(1);
        }
        let any = |is: fn(&Channel) -> bool| order.iter().any(|&c| is(&group.channels[c]));
        match () {
            () if !exists => NoChannel::Empty,
            () if any(Channel::is_up) => NoChannel::Full,
            () if any(Channel::takes_clients) => NoChannel::Down,
            () => NoChannel::Disabled,
        }
    }

    /// Is a channel up that the client could have if it were not full?
    fn is_full_for(&mut self, g: usize, walk: &Walk) -> bool {
        let mut order = self.order(g, walk);
        let group = &self.groups[&g];
        if group.policy == Policy::Hash && !self.rules.hash_failover {
            order.truncate(1);
        }
        let is_full = |c: usize| group.channels[c].is_up() && !group.channels[c].has_room();
        order.into_iter().any(|c| is_full(c) && !walk.tried.contains(&(g, c)))
    }

    /// Is a channel up, usable and untried in any group, whatever the policies say?
    pub(super) fn has_ready(&self, walk: &Walk) -> bool {
        self.groups.iter().any(|(&g, group)| {
            let mut channels = group.channels.iter().enumerate();
            channels
                .any(|(c, channel)| channel.is_up() && channel.has_room() && !walk.tried.contains(&(g, c)))
        })
    }

    pub(super) fn is_full(&self, (g, c): (usize, usize)) -> bool {
        let channel = &self.groups[&g].channels[c];
        channel.is_up() && !channel.has_room()
    }

    /// May this client have the channel as far as the client goes?
    pub(super) fn could_have(&mut self, (g, c): (usize, usize), walk: &Walk) -> bool {
        let is_one_each = self.groups[&g].policy == Policy::Hash && !self.rules.hash_failover;
        let is_its_own = !is_one_each || self.order(g, walk).first() == Some(&c);
        is_its_own && !walk.tried.contains(&(g, c))
    }

    fn channel(&mut self, (g, c): (usize, usize)) -> &mut Channel {
        let group = self.groups.get_mut(&g).expect("it was handed out");
        &mut group.channels[c]
    }

    pub(super) fn hand_out(&mut self, walk: &mut Walk, place: (usize, usize)) -> Handed {
        let (g, c) = place;
        (walk.last, walk.goes_on) = (Some(place), Some((c + 1) % self.groups[&g].channels.len()));
        let channel = self.channel(place);
        (channel.active, channel.totalc) = (channel.active + 1, channel.totalc + 1);
        Handed { place, addresses: channel.addresses.clone(), life: channel.health.lives }
    }

    pub(super) fn failed(&mut self, handed: &Handed, why: DialFailure, cause: &str) -> Option<Happened> {
        let (rules, now) = (self.rules, self.now);
        let channel = self.channel(handed.place);
        (channel.active, channel.failed) = (channel.active - 1, channel.failed + 1);
        if why == DialFailure::Local || channel.addresses != handed.addresses {
            return None;
        }
        if rules.autodisable {
            channel.health.tried = true;
            let disables = channel.state == AdminState::Enabled;
            if disables {
                channel.state = AdminState::Disabled;
            }
            return disables.then_some(Happened::Autodisabled);
        }
        channel.health.dial_failed(&rules.health, handed.life, cause, now)
    }

    pub(super) fn connected(&mut self, handed: &Handed) -> Option<Happened> {
        let (rules, now, (g, c)) = (self.rules.health, self.now, handed.place);
        let group = self.groups.get_mut(&g).expect("it was handed out");
        group.cursor = (c + 1) % group.channels.len();
        let channel = &mut group.channels[c];
        if channel.addresses == handed.addresses { channel.health.comes_back(&rules, now) } else { None }
    }

    pub(super) fn ended(&mut self, place: (usize, usize)) {
        self.channel(place).active -= 1;
    }
}

impl Group {
    /// Those whose shares count.
    fn weighed(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter().filter(|channel| channel.weight > 0 && !channel.removed)
    }
}
