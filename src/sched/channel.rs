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

/// A dial that failed, for those who ask why.
#[derive(Debug)]
pub(super) struct LastError {
    pub(super) what: String,
    pub(super) at: Duration,
}

/// One destination of a group, as the table keeps it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) addresses: Addresses,
    pub(super) state: AdminState,
    /// `None` = no limit.
    pub(super) maxc: Option<NonZeroU32>,
    pub(super) weight: Weight,
    pub(super) manner: ChannelManner,
    /// How much of its weight counts, in 64ths: less than all while it is returning.
    pub(super) steps: u32,
    /// Its number is taken for ever, the channel itself is gone.
    pub(super) removed: bool,
    /// It goes with its last connection.
    pub(super) retires: bool,
    /// No client is sent to it for now; those that would be wait for it.
    pub(super) paused: bool,
    pub(super) health: Health,
    /// `None`: it has one address only.
    pub(super) reach: Option<Box<Reach>>,
    /// How often it got other addresses.
    pub(super) lives: u32,
    /// Which of its addresses answered a client last.
    pub(super) used: Option<u16>,
    /// What is known of its name; `None`: its host is none.
    pub(super) naming: Option<Box<Naming>>,
    /// Which channels it stands for; `None`: it is one itself.
    pub(super) head: Option<Box<WordHead>>,
    /// Which word it is there for; `None`: its own.
    pub(super) member: Option<Box<Membership>>,
    /// The clients whose connections it has closed at once, without a byte, in a row: each once, and `None` for each that had not
    /// said anything.
    pub(super) closed_early: Vec<Option<ClientAddr>>,
    /// The same of those who have waited for its first byte for too long.
    pub(super) silent_to: Vec<Option<ClientAddr>>,
    /// With `-a`: no address answered the last attempt.
    pub(super) unanswered: bool,
    /// `-a` has disabled it, and no operator has spoken since.
    pub(super) autodisabled: bool,
    /// When it stands on the agenda of probes.
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

    /// Is it there, and a channel itself?
    pub(super) fn is_one(&self) -> bool {
        !self.removed && self.head.is_none()
    }

    /// Takes clients, and nothing is known that speaks against it; it may be full. A paused one counts as one that will take
    /// them, whatever is found out meanwhile: its server is being restarted.
    pub(super) fn is_up(&self) -> bool {
        self.takes_clients() && (self.paused || self.health.is_up())
    }

    /// Would one more client get it now?
    pub(super) fn has_place(&self) -> bool {
        self.is_up() && !self.paused && !self.is_at_limit()
    }

    /// Would take clients, if it were not for a pause.
    pub(super) fn is_held(&self) -> bool {
        self.paused && self.takes_clients()
    }

    /// The contract's "usable". If the answer is no because of `maxc`, the next lease that ends says so on the list of
    /// freed channels. Call it with the table locked.
    pub(super) fn is_usable(&self) -> bool {
        let leads_somewhere = self.addresses.is_known();
        leads_somewhere
            && !self.paused
            && self.takes_clients()
            && self.maxc.is_none_or(|limit| self.slots.has_room(limit.get()))
    }

    /// Takes one slot and counts it. Only for a channel that is usable, with the table locked.
    pub(super) fn occupy(&mut self) -> Lease {
        self.totalc += 1;
        let order = self.reach.as_ref().and_then(|reach| reach.order()).cloned();
        let (addresses, returns) = (self.addresses.clone(), self.health.returns());
        Slots::occupy(&self.slots, addresses, order, returns, self.manner.proxy)
    }

    /// Did the last `occupy` (or an earlier one) reach the limit?
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

    /// `weighs`: its group goes by shares. `waiting`: clients in line that it could serve.
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

    /// When the next probe is due. While the channel is ejected its addresses have no probes of their own: its own asks all
    /// of them.
    pub(super) fn next_probe(&self) -> Option<Duration> {
        if !self.addresses.is_known() || self.head.is_some() {
            return None;
        }
        let reach = self.reach.as_ref().filter(|_| !self.health.is_ejected());
        [self.health.probe_at(), reach.and_then(|reach| reach.probe_at())].into_iter().flatten().min()
    }

    /// The probe that is due begins: of which address if it is of one only, what for, its number, and whom it asks.
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

    /// The addresses that do not answer, and what they met.
    pub(super) fn addresses_out(&self) -> Vec<(Address, String)> {
        let Some(reach) = &self.reach else { return Vec::new() };
        let all = self.addresses.as_slice().iter().zip(reach.out());
        all.filter_map(|(&address, why)| Some((address, why?.to_owned()))).collect()
    }

    pub(super) fn place(&self, address: Address) -> Option<usize> {
        self.addresses.place(address)
    }

    /// A dial's attempt at this address was answered. It is back by that, after so long.
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
