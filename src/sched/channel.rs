//! One channel: its addresses, admin state, limit and counters.
//!
//! Knows: when it may take a connection. Never: other channels, sockets, text, the clock.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::connect_times::ConnectTimes;
use super::health::{Health, HealthRules, Purpose, STEPS};
use super::lease::Slots;
use super::membership::WordHead;
use super::naming::Naming;
use super::reach::{ProbedAddress, Reach};
use super::{Addresses, AdminState, ChannelSnapshot, ClientAddr, DialCause, Lease, Membership, Weight};
use crate::spec::{Address, ChannelManner};

/// A failed dial, for operators who ask for the cause.
#[derive(Debug)]
pub(super) struct LastError {
    pub(super) what: String,
    pub(super) at: Duration,
}

/// A channel as the table keeps it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) addresses: Addresses,
    pub(super) state: AdminState,
    /// Maximum number of connections; `None`: no limit.
    pub(super) maxc: Option<NonZeroU32>,
    pub(super) weight: Weight,
    pub(super) manner: ChannelManner,
    /// How much of its weight counts, in 64ths: less than all while it is returning.
    pub(super) steps: u32,
    /// The channel is gone; its number stays reserved.
    pub(super) removed: bool,
    /// It is removed when its last connection ends.
    pub(super) retires: bool,
    /// It gets no clients for now; clients for it wait.
    pub(super) paused: bool,
    pub(super) health: Health,
    /// `None`: it has only one address.
    pub(super) reach: Option<Box<Reach>>,
    /// How many times it got other addresses.
    pub(super) lives: u32,
    /// Index of the address that last answered a client.
    pub(super) used: Option<u16>,
    /// What is known about its name. `None`: its host is not a name.
    pub(super) naming: Option<Box<Naming>>,
    /// The set of channels that its word stands for. `None`: it is a channel itself.
    pub(super) head: Option<Box<WordHead>>,
    /// The word whose set it belongs to. `None`: it has a word of its own.
    pub(super) member: Option<Box<Membership>>,
    /// The clients whose connections it has closed at once without a byte, in a row: each client once, and
    /// `None` for each that had not sent anything.
    pub(super) closed_early: Vec<Option<ClientAddr>>,
    /// The same for clients that waited too long for its first byte.
    pub(super) silent_to: Vec<Option<ClientAddr>>,
    /// With `-a`: no address answered the last attempt.
    pub(super) unanswered: bool,
    /// `-a` disabled it, and no operator has changed that since.
    pub(super) autodisabled: bool,
    /// Its time on the agenda of probes.
    pub(super) probe_at: Option<Duration>,
    pub(super) totalc: u64,
    pub(super) failed: u64,
    pub(super) last_error: Option<Box<LastError>>,
    pub(super) connect_times: ConnectTimes,
    pub(super) slots: Arc<Slots>,
}

impl Channel {
    pub(super) fn new(
        addresses: Addresses,
        maxc: Option<NonZeroU32>,
        state: AdminState,
        health: Health,
        slots: Arc<Slots>,
    ) -> Self {
        let head = addresses.family().map(|_| Box::default());
        Self {
            head,
            member: None,
            addresses,
            state,
            maxc,
            weight: Weight::ONE,
            manner: ChannelManner::default(),
            steps: STEPS,
            removed: false,
            retires: false,
            paused: false,
            health,
            reach: None,
            lives: 0,
            used: None,
            naming: None,
            closed_early: Vec::new(),
            silent_to: Vec::new(),
            unanswered: false,
            autodisabled: false,
            probe_at: None,
            totalc: 0,
            failed: 0,
            last_error: None,
            connect_times: ConnectTimes::default(),
            slots,
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.state == AdminState::Enabled
    }

    /// Does the operator want it to have clients?
    pub(super) fn takes_clients(&self) -> bool {
        self.is_enabled() && self.weight > Weight::ZERO && self.is_one()
    }

    /// Does it exist, and is it one channel rather than a set?
    pub(super) fn is_one(&self) -> bool {
        !self.removed && self.head.is_none()
    }

    /// Does it take clients, with no sign that it is down? It may be full. A paused channel counts as up,
    /// whatever is found out meanwhile: its server is being restarted.
    pub(super) fn is_up(&self) -> bool {
        self.takes_clients() && (self.paused || self.health.is_up())
    }

    /// Would one more client get it now?
    pub(super) fn has_place(&self) -> bool {
        self.is_up() && !self.paused && !self.is_at_limit()
    }

    /// Would it take clients if it were not paused?
    pub(super) fn is_held(&self) -> bool {
        self.paused && self.takes_clients()
    }

    /// The contract's "usable". If the answer is no because of `maxc`, the next lease that ends adds the
    /// channel to the list of freed channels. Call it with the table locked.
    pub(super) fn is_usable(&self) -> bool {
        let leads_somewhere = self.addresses.is_known();
        leads_somewhere
            && !self.paused
            && self.takes_clients()
            && self.maxc.is_none_or(|limit| self.slots.has_room(limit.get()))
    }

    /// Takes one slot and counts it. Only for a usable channel, with the table locked.
    pub(super) fn occupy(&mut self) -> Lease {
        self.totalc += 1;
        let order = self.reach.as_ref().and_then(|reach| reach.order()).cloned();
        let (addresses, returns) = (self.addresses.clone(), self.health.returns());
        Slots::occupy(&self.slots, addresses, order, returns, self.manner.proxy)
    }

    /// Is the limit reached?
    pub(super) fn is_at_limit(&self) -> bool {
        self.maxc.is_some_and(|limit| self.slots.active() >= limit.get())
    }

    pub(super) fn count_failure(&mut self, cause: DialCause, what: &str, at: Duration) {
        self.failed += 1;
        self.slots.failed(cause);
        self.last_error = Some(Box::new(LastError { what: what.to_owned(), at }));
    }

    pub(super) fn reset_counters(&mut self) {
        self.totalc = 0;
        self.failed = 0;
        self.last_error = None;
        self.connect_times.clear();
        self.slots.reset_counters();
    }

    /// `weighs` says that its group uses shares; `waiting` is the number of waiting clients that it could
    /// serve.
    pub(super) fn snapshot(
        &self,
        rules: &HealthRules,
        weighs: bool,
        now: Duration,
        waiting: u32,
    ) -> ChannelSnapshot {
        let (sent_bytes, rcvd_bytes) = self.slots.bytes();
        let ago = |error: &LastError| (error.what.clone(), now.saturating_sub(error.at));
        ChannelSnapshot {
            id: self.slots.key().channel,
            addresses: self.addresses.clone(),
            addresses_out: self.addresses_out(),
            used: self.used.and_then(|at| self.addresses.as_slice().get(usize::from(at)).copied()),
            unanswered: self.unanswered,
            naming: self.naming.as_deref().map(|naming| naming.snapshot(now)),
            member_of: self.member.as_deref().copied(),
            autodisabled: self.autodisabled,
            state: self.state,
            retires: self.retires,
            paused: self.paused,
            maxc: self.maxc,
            weight: self.weight,
            manner: self.manner.clone(),
            health: self.health.snapshot(rules, weighs, now),
            active: self.slots.active(),
            waiting,
            totalc: self.totalc,
            failed: self.failed,
            last_error: self.last_error.as_deref().map(ago),
            connect_p50: self.connect_times.percentile(50),
            connect_p99: self.connect_times.percentile(99),
            sent_bytes,
            rcvd_bytes,
            ended: self.slots.ended(),
        }
    }

    /// When the next probe is due. While the channel is ejected, its addresses have no probes of their own,
    /// since the channel's probe tries all of them.
    pub(super) fn next_probe(&self) -> Option<Duration> {
        if !self.addresses.is_known() || self.head.is_some() {
            return None;
        }
        let reach = self.reach.as_ref().filter(|_| !self.health.is_ejected());
        [self.health.probe_at(), reach.and_then(|reach| reach.probe_at())].into_iter().flatten().min()
    }

    /// Starts the probe that is due. Returns the address if it is for one only, its purpose, its number, and
    /// the addresses to try.
    pub(super) fn begin_probe(
        &mut self,
        now: Duration,
    ) -> (Option<ProbedAddress>, Purpose, u32, Vec<Address>) {
        let is_due = self.health.probe_at().is_some_and(|at| at <= now);
        let of_one = self.reach.as_mut().filter(|_| !is_due).and_then(|reach| reach.begin_probe(now));
        match of_one {
            Some((at, place, purpose, serial)) => {
                let address = self.addresses.as_slice().get(at).copied();
                (Some(place), purpose, serial, address.into_iter().collect())
            }
            None => {
                let (purpose, serial) = self.health.begin_probe(now);
                (None, purpose, serial, self.in_order())
            }
        }
    }

    /// The addresses in the order in which they are tried.
    fn in_order(&self) -> Vec<Address> {
        let all = self.addresses.as_slice();
        match self.reach.as_ref().and_then(|reach| reach.order()) {
            Some(order) => order.list().iter().filter_map(|&at| all.get(usize::from(at)).copied()).collect(),
            None => all.to_vec(),
        }
    }

    /// The addresses that do not answer, and why.
    pub(super) fn addresses_out(&self) -> Vec<(Address, String)> {
        let Some(reach) = &self.reach else { return Vec::new() };
        let all = self.addresses.as_slice().iter().zip(reach.out());
        all.filter_map(|(&address, why)| Some((address, why?.to_owned()))).collect()
    }

    pub(super) fn place(&self, address: Address) -> Option<usize> {
        self.addresses.place(address)
    }

    /// A dial's attempt at this address was answered. Returns how long the address was ejected if that brings
    /// it back.
    pub(super) fn address_answered(
        &mut self,
        address: Address,
        begun: Duration,
        now: Duration,
    ) -> Option<Duration> {
        let at = self.place(address)?;
        self.used = u16::try_from(at).ok();
        self.reach.as_mut()?.answered(at, Purpose::Return, begun, now)
    }
}
