//! Who may use one service: what workers ask for every client as soon as they know its address.
//!
//! Knows: the lists, what operators have denied, the limits per client. Never: sockets, files, clocks.
//! Source: docs/access.md.
//!
//! It is asked again if a PROXY header announces another address, and then that address counts.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;

use super::client_limits::{ClientKey, ClientPlace, ClientRates, HeldByClient};
use super::denials::{Denial, Denials, TooManyDenials};
use super::end::Rule;
use super::rule_set::RuleSet;
use crate::spec::{ClientPrefix, ClientRate, NetList};

/// The content of `--allow` and `--deny`.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    /// `--allow`; `None` if it is not given.
    pub allow: Option<NetList>,
    /// `--deny`; `None` if it is not given.
    pub deny: Option<NetList>,
    /// All networks in them and in their files.
    pub rules: Arc<RuleSet>,
    /// The number of these networks.
    pub networks: usize,
    /// Identifies the state of the files when they were read, for the code that reads them.
    pub stamp: u64,
}

/// The limits for one client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// `--client-max`. `None`: no limit.
    pub max: Option<NonZeroU32>,
    /// `--client-rate`. `None`: no limit.
    pub rate: Option<ClientRate>,
    /// `--client-prefix`
    pub prefix: ClientPrefix,
}

/// How many denials are read under one lock.
const DENIALS_A_PIECE: usize = 512;

/// What has to be checked, as bits, so that a service that checks nothing reads only one number.
mod asks {
    pub(super) const LISTS: u64 = 1;
    pub(super) const DENIALS: u64 = 2;
    pub(super) const RATE: u64 = 4;
    pub(super) const MAX: u64 = 8;
}

/// Decides which clients are let in. Workers use it without a lock, except to count.
#[derive(Debug, Default)]
pub struct Gate {
    asks: AtomicU64,
    lists: ArcSwap<Lists>,
    /// Why the lists differ from their files.
    stale: ArcSwapOption<String>,
    denials: RwLock<Denials>,
    limits: ArcSwap<LimitsInForce>,
    counts: OnceLock<Box<HeldByClient>>,
    /// The process's table of rates.
    rates: OnceLock<Arc<ClientRates>>,
}

/// The limits that are in force now.
#[derive(Debug, Default)]
struct LimitsInForce {
    limits: ClientLimits,
    /// This service's number in the table of rates, for this rate.
    number: u64,
}

impl Gate {
    /// Is every client let in?
    pub fn is_open(&self) -> bool {
        self.asks.load(Ordering::Relaxed) == 0
    }

    fn asks(&self, what: u64) -> bool {
        self.asks.load(Ordering::Relaxed) & what != 0
    }

    fn set_asks(&self, what: u64, wanted: bool) {
        match wanted {
            true => self.asks.fetch_or(what, Ordering::SeqCst),
            false => self.asks.fetch_and(!what, Ordering::SeqCst),
        };
    }

    /// Do the lists or operators' denials keep this address out?
    pub fn denies(&self, client: IpAddr, now: Duration) -> bool {
        let denied = || self.denials().longest(client, now);
        let denied = if self.asks(asks::DENIALS) { denied() } else { None };
        if self.asks(asks::LISTS) {
            self.lists.load().rules.refuses(client, denied)
        } else {
            denied.is_some()
        }
    }

    /// Lets a client in. If its connections are counted, the result is its place, which must be [given
    /// back](Self::leave).
    ///
    /// # Errors
    /// The rule that refuses it. Nothing is counted then.
    pub fn enter(&self, client: IpAddr, now: Duration) -> Result<Option<ClientPlace>, Rule> {
        if self.is_open() {
            return Ok(None);
        }
        if self.denies(client, now) {
            return Err(Rule::Denied);
        }
        self.enter_unlisted(client, now)
    }

    /// Lets in a client that lists of networks do not apply to. `client` is an address that stands for it.
    ///
    /// # Errors
    /// The rule that refuses it. Nothing is counted then.
    pub fn enter_unlisted(&self, client: IpAddr, now: Duration) -> Result<Option<ClientPlace>, Rule> {
        if !self.asks(asks::RATE | asks::MAX) {
            return Ok(None);
        }
        let in_force = self.limits.load();
        let limits = in_force.limits;
        let key = ClientKey::new(client, limits.prefix);
        let place = match (limits.max, self.counts.get()) {
            (Some(most), Some(counts)) => Some(counts.enter(key, most.get()).ok_or(Rule::ClientMax)?),
            _ => None,
        };
        // The rate is checked last, since the check counts.
        if let (Some(rate), Some(rates)) = (limits.rate, self.rates.get())
            && !rates.admit(in_force.number, key, rate, now)
        {
            place.into_iter().for_each(|place| self.leave(place));
            return Err(Rule::ClientRate);
        }
        Ok(place)
    }

    /// The place of a client that was already let in: by another process, or before there was a limit.
    /// `before` is the place that it has.
    pub fn enter_anyway(&self, client: IpAddr, before: Option<ClientPlace>) -> Option<ClientPlace> {
        if !self.asks(asks::MAX) {
            return before;
        }
        let Some(counts) = self.counts.get() else { return before };
        let key = ClientKey::new(client, self.limits.load().limits.prefix);
        if before.is_some_and(|before| counts.is_of(before, key)) {
            return before;
        }
        let place = counts.enter_anyway(key);
        before.into_iter().for_each(|before| counts.leave(before));
        place
    }

    /// A client has left, or was let in again under another address.
    pub fn leave(&self, place: ClientPlace) {
        if let Some(counts) = self.counts.get() {
            counts.leave(place);
        }
    }

    /// The content of `--allow` and `--deny`.
    pub fn lists(&self) -> Arc<Lists> {
        self.lists.load_full()
    }

    /// Replaces the lists.
    pub fn set_lists(&self, lists: Lists) {
        let is_empty = lists.rules.is_empty();
        self.stale.store(None);
        self.lists.store(Arc::new(lists));
        self.set_asks(asks::LISTS, !is_empty);
    }

    /// Replaces the lists if they are still those that were `read`. `false` if they are not.
    pub fn reread_lists(&self, read: &Arc<Lists>, new: Lists) -> bool {
        let is_empty = new.rules.is_empty();
        let was = self.lists.compare_and_swap(read, Arc::new(new));
        let is_set = Arc::ptr_eq(&was, read);
        if is_set {
            self.stale.store(None);
            self.set_asks(asks::LISTS, !is_empty);
        }
        is_set
    }

    /// Notes why changed files cannot be read. `None`: the lists are as the files say.
    pub fn set_stale(&self, why: Option<String>) {
        self.stale.store(why.map(Arc::new));
    }

    /// Why the lists differ from their files. `None`: they do not.
    pub fn stale_lists(&self) -> Option<Arc<String>> {
        self.stale.load_full()
    }

    /// Sets the limits for one client. `rates` is the process's table.
    pub fn set_limits(&self, limits: ClientLimits, rates: &Arc<ClientRates>) {
        if limits.max.is_some() {
            self.counts.get_or_init(Box::default);
        }
        let before = self.limits.load();
        let is_same = (limits.rate, limits.prefix) == (before.limits.rate, before.limits.prefix);
        let number = match limits.rate {
            Some(_) if !is_same => self.rates.get_or_init(|| Arc::clone(rates)).enlist(),
            _ => before.number,
        };
        drop(before);
        self.limits.store(Arc::new(LimitsInForce { limits, number }));
        self.set_asks(asks::RATE, limits.rate.is_some());
        self.set_asks(asks::MAX, limits.max.is_some());
    }

    /// Are connections counted per client?
    pub fn counts_clients(&self) -> bool {
        self.asks(asks::MAX)
    }

    /// Every client with connections, by its first address, and how many it has, for another process.
    pub fn clients(&self) -> Vec<(IpAddr, u32)> {
        let counts = self.counts.get().filter(|_| self.counts_clients());
        counts.map_or_else(Vec::new, |counts| {
            counts.all().into_iter().map(|(client, count)| (client.address(), count)).collect()
        })
    }

    /// Counts connections that the predecessor has, until they arrive or
    /// [`expect_nobody`](Self::expect_nobody) is called.
    pub fn expect(&self, clients: &[(IpAddr, u32)]) {
        let Some(counts) = self.counts.get() else { return };
        let prefix = self.limits.load().limits.prefix;
        clients.iter().for_each(|&(client, count)| counts.expect(ClientKey::new(client, prefix), count));
    }

    /// The predecessor has no connections any more.
    pub fn expect_nobody(&self) {
        if let Some(counts) = self.counts.get() {
            counts.expect_nobody();
        }
    }

    /// Denies a network from now on.
    ///
    /// # Errors
    /// The maximum number of denied networks is reached.
    pub fn deny(&self, denial: Denial, now: Duration) -> Result<(), TooManyDenials> {
        let mut denials = self.denials_to_change();
        let denied = denials.deny(denial, now);
        self.set_asks(asks::DENIALS, !denials.is_empty());
        denied
    }

    /// Ends a denial. `false` if the network was not denied.
    pub fn undeny(&self, net: IpNet, now: Duration) -> bool {
        let mut denials = self.denials_to_change();
        let was_denied = denials.lift(net, now);
        self.set_asks(asks::DENIALS, !denials.is_empty());
        was_denied
    }

    /// Ends all denials. Returns how many there were.
    pub fn undeny_all(&self, now: Duration) -> usize {
        if !self.asks(asks::DENIALS) {
            return 0;
        }
        let mut denials = self.denials_to_change();
        let were = denials.count_all(now);
        *denials = Denials::default();
        self.set_asks(asks::DENIALS, false);
        were
    }

    /// The networks that operators have denied, in order.
    pub fn denied(&self, now: Duration) -> Vec<Denial> {
        if !self.asks(asks::DENIALS) {
            return Vec::new();
        }
        // There may be many, so a client that comes meanwhile waits for one piece at most.
        let mut all = Vec::new();
        let mut behind = None;
        loop {
            behind = self.denials().piece(behind, DENIALS_A_PIECE, now, &mut all);
            if behind.is_none() {
                break;
            }
        }
        if all.is_empty() {
            let mut denials = self.denials_to_change();
            denials.sweep(now);
            self.set_asks(asks::DENIALS, !denials.is_empty());
        }
        all
    }

    fn denials(&self) -> RwLockReadGuard<'_, Denials> {
        self.denials.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn denials_to_change(&self) -> RwLockWriteGuard<'_, Denials> {
        self.denials.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::denials::Until;
    use super::super::rule_set::Ruling;
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn lists(denied: &str) -> Lists {
        let rules = RuleSet::new([(denied.parse().expect(denied), Ruling::Deny)], false);
        Lists { rules: Arc::new(rules), ..Lists::default() }
    }

    #[test]
    fn a_gate_of_which_nothing_is_asked_is_open() {
        let gate = Gate::default();
        assert!(gate.is_open() && !gate.denies(ip("192.0.2.1"), NOW));
        assert_eq!(gate.enter(ip("192.0.2.1"), NOW), Ok(None));
        assert_eq!((gate.denied(NOW), gate.clients()), (vec![], vec![]));
        gate.set_lists(lists("192.0.2.0/24"));
        assert_eq!(gate.enter(ip("192.0.2.1"), NOW), Err(Rule::Denied));
        gate.set_lists(Lists::default());
        assert!(gate.is_open());
    }

    #[test]
    fn what_is_denied_at_run_time_is_denied_until_then() {
        let gate = Gate::default();
        let net = "192.0.2.1/32".parse().expect("a network");
        let until = Until { at: NOW * 9, since_1970: 9 };
        gate.deny(Denial { net, until: Some(until) }, NOW).expect("few");
        assert!(gate.denies(ip("::ffff:192.0.2.1"), NOW) && !gate.denies(ip("192.0.2.2"), NOW));
        assert!(!gate.denies(ip("192.0.2.1"), NOW * 9));
        assert!(gate.undeny(net, NOW) && !gate.undeny(net, NOW) && gate.is_open());
        gate.deny(Denial { net, until: Some(until) }, NOW).expect("few");
        assert_eq!(gate.denied(NOW * 9), []);
        assert!(gate.is_open());
    }

    #[test]
    fn a_client_that_is_refused_is_not_counted() {
        let gate = Gate::default();
        let rate = ClientRate { count: NonZeroU32::new(3).expect("not 0"), per: NOW };
        let limits = ClientLimits { max: NonZeroU32::new(2), rate: Some(rate), ..ClientLimits::default() };
        gate.set_limits(limits, &Arc::default());
        let client = ip("192.0.2.1");
        let enter = |now| gate.enter(client, now);
        let first = enter(NOW).expect("the first").expect("counted");
        let second = enter(NOW).expect("the second").expect("counted");
        assert_eq!([enter(NOW), enter(NOW)], [Err(Rule::ClientMax); 2]);
        gate.leave(second);
        let third = enter(NOW).expect("two refused ones have not counted").expect("counted");
        gate.leave(third);
        assert_eq!([enter(NOW), enter(NOW)], [Err(Rule::ClientRate); 2]);
        assert_eq!(gate.clients(), [(client, 1)]);
        gate.leave(first);
        assert_eq!(gate.clients(), []);
        assert!(enter(NOW * 3).is_ok());
    }

    #[test]
    fn another_rate_starts_anew_and_the_same_one_goes_on() {
        let (gate, rates, client) = (Gate::default(), Arc::default(), ip("192.0.2.1"));
        let limits = |count: u32, secs| {
            let rate =
                NonZeroU32::new(count).map(|count| ClientRate { count, per: Duration::from_secs(secs) });
            ClientLimits { rate, ..ClientLimits::default() }
        };
        let enter = || gate.enter(client, NOW);
        gate.set_limits(limits(1, 3_600), &rates);
        assert_eq!([enter(), enter()], [Ok(None), Err(Rule::ClientRate)]);
        gate.set_limits(limits(1, 3_600), &rates);
        assert_eq!(enter(), Err(Rule::ClientRate), "nothing has changed");
        gate.set_limits(limits(2, 3_600), &rates);
        assert_eq!([enter(), enter(), enter()], [Ok(None), Ok(None), Err(Rule::ClientRate)]);
        gate.set_limits(limits(0, 0), &rates);
        assert_eq!(enter(), Ok(None));
        gate.set_limits(limits(2, 3_600), &rates);
        assert_eq!(enter(), Ok(None), "it was without a limit meanwhile");
    }

    #[test]
    fn those_who_are_there_when_a_limit_comes_are_counted_once() {
        let gate = Gate::default();
        let client = ip("2001:db8::1");
        assert_eq!(gate.enter_anyway(client, None), None);
        let one = NonZeroU32::new(1);
        let limits = ClientLimits { max: one, ..ClientLimits::default() };
        gate.set_limits(limits, &Arc::default());
        let place = gate.enter_anyway(client, None);
        assert_eq!((gate.enter_anyway(client, place), gate.clients()), (place, vec![(ip("2001:db8::"), 1)]));
        gate.set_limits(ClientLimits { prefix: ClientPrefix { v4: 32, v6: 128 }, ..limits }, &Arc::default());
        let moved = gate.enter_anyway(client, place);
        assert_eq!(gate.clients(), [(client, 1)], "of another prefix now");
        assert_eq!(gate.enter(client, NOW), Err(Rule::ClientMax));
        gate.leave(moved.expect("counted"));
        assert_eq!(gate.clients(), []);
    }

    #[test]
    fn lists_that_were_replaced_meanwhile_are_not_read_again() {
        let gate = Gate::default();
        gate.set_lists(lists("192.0.2.0/24"));
        let read = gate.lists();
        let new = lists("198.51.100.0/24");
        assert!(gate.reread_lists(&read, new.clone()));
        assert!(gate.denies(ip("198.51.100.1"), NOW) && !gate.denies(ip("192.0.2.1"), NOW));
        assert!(!gate.reread_lists(&read, new), "they are others now");
    }
}
