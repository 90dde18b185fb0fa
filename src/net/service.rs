//! One service: where it listens, its table, its options, how many clients it has.
//!
//! Knows: what a service's clients share, whichever worker has them. Never: sockets of clients, other
//! services.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use ipnet::IpNet;

use super::changed::Changed;
use super::dial::Dialer;
use super::hearing::KeptGreetings;
use super::routes::Routes;
use crate::observe::Log;
use crate::sched::{ChannelKey, End, Gate, SharedTable};
use crate::spec::{ClientSource, ProxySenders, ProxyTlvs, StartTls};
use crate::sys::Outgoing;
use crate::sys::listen::Listener;

/// Refusals are logged at most this often, in ms: anyone can be refused as often as they like.
pub(super) const REFUSALS_TOLD_MS: u64 = 60_000;

/// The number of a service in a process. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub(super) u32);

/// How a service treats its clients and channels.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// How connections to channels are made.
    pub outgoing: Outgoing,
    /// `-t`: how long a connect to a channel may take.
    pub connect_timeout: Duration,
    /// `--race`: after this time without an answer, the next channel is tried, too. `None`: only after a
    /// failure.
    pub race: Option<Duration>,
    /// `--first-byte`: a channel that stays silent this long while others answer is ejected. `None`: it is
    /// not.
    pub first_byte: Option<Duration>,
    /// `-T`: how long a connection may be idle. `None`: without limit.
    pub idle_timeout: Option<Duration>,
    /// `--half-close-timeout`: how long a half-closed connection may be idle. `None`: without limit.
    pub half_close_timeout: Option<Duration>,
    /// `--max-lifetime`: a connection is closed after this time, varied by up to a tenth. `None`: without
    /// limit.
    pub max_lifetime: Option<Duration>,
    /// `--queue-timeout`: how long a client may wait for a full channel.
    pub queue_timeout: Duration,
    /// `--pause-timeout`: how long a client may wait because of a pause.
    pub pause_timeout: Duration,
    /// `--max-connections`: maximum number of clients at a time. `None`: no limit.
    pub max_connections: Option<NonZeroU32>,
    /// `--accept-proxy`: senders that must begin with a PROXY header. `None`: none.
    pub accept_proxy: Option<ProxySenders>,
    /// Which groups serve whom. `None`: all groups serve everyone.
    pub routes: Option<Routes>,
    /// `--starttls`: the protocol in which clients may ask for TLS first. Has an effect only with `routes`.
    pub starttls: Option<StartTls>,
    /// `--greeting-timeout`: how long a client may take to send what balance has to read first.
    pub greeting_timeout: Duration,
    /// `--proxy-tlv`: what PROXY headers contain besides addresses.
    pub proxy_tlvs: ProxyTlvs,
}

/// A service to be opened.
#[derive(Debug)]
pub struct NewService {
    /// Its listeners; at least one.
    pub listeners: Vec<Listener>,
    /// Its channels.
    pub table: SharedTable,
    /// Where its events are logged.
    pub log: Log,
    /// How it treats clients and channels.
    pub options: ServiceOptions,
    /// Called after a dial has changed what is known about a channel.
    pub changed: Changed,
}

/// The phase of a service's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It accepts clients.
    Serving = 0,
    /// It accepts no more clients; connections go on to their end.
    Draining = 1,
    /// Its last client has gone.
    Stopped = 2,
}

/// Which clients were closed while they were on their way here, and why.
#[derive(Debug, Default)]
struct Fates {
    all: Option<End>,
    channels: HashMap<ChannelKey, End>,
    /// Clients whose addresses are in these networks.
    clients: HashMap<IpNet, End>,
}

/// What all workers share about a service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) id: ServiceId,
    options: ArcSwap<ServiceOptions>,
    pub(super) dialer: Dialer,
    pub(super) log: Log,
    /// The state of the table's pauses that workers were told about.
    pub(super) pauses: AtomicUsize,
    /// Accept waits for clients to leave, and that was logged.
    pub(super) crowded: AtomicBool,
    /// Accept fails repeatedly, and that was logged.
    pub(super) ails: AtomicBool,
    /// Clients refused since that was last logged ...
    refused: AtomicU64,
    /// ... and when it may be logged again, in ms of the process's clock.
    refusals_due: AtomicU64,
    /// Clients accepted and not yet closed, including those handed to another worker.
    connections: AtomicUsize,
    /// Clients that the predecessor still has.
    elsewhere: AtomicUsize,
    /// What happened to those clients meanwhile. `None`: none are to come.
    fates: Mutex<Option<Fates>>,
    phase: AtomicU8,
    /// What is kept of clients whose greeting is not complete.
    pub(super) kept_greetings: Arc<KeptGreetings>,
}

impl Service {
    pub(super) fn new(id: ServiceId, dialer: Dialer, log: Log, options: ServiceOptions) -> Self {
        Self {
            id,
            options: ArcSwap::from_pointee(options),
            dialer,
            log,
            pauses: AtomicUsize::new(0),
            crowded: AtomicBool::new(false),
            ails: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            refusals_due: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            elsewhere: AtomicUsize::new(0),
            fates: Mutex::default(),
            phase: AtomicU8::new(Phase::Serving as u8),
            kept_greetings: Arc::default(),
        }
    }

    /// Who may use the service.
    pub(super) fn gate(&self) -> &Gate {
        self.dialer.table.gate()
    }

    /// Must a client from this source begin with a PROXY header?
    pub(super) fn awaits_header(&self, seen: ClientSource) -> bool {
        self.options().accept_proxy.as_ref().is_some_and(|senders| senders.includes(seen))
    }

    /// Counts a refused client. `Some`: it is time to log this, and the number of clients since the last
    /// time.
    pub(super) fn refused(&self, now: Duration) -> Option<u64> {
        let clients = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let due = |at: u64| (at <= now).then(|| now.saturating_add(REFUSALS_TOLD_MS));
        self.refusals_due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).ok()?;
        self.refused.fetch_sub(clients, Ordering::Relaxed);
        Some(clients)
    }

    /// The number of clients that were refused and not logged, if it is time to log them. `Err`: it is not.
    pub(super) fn refused_before(&self, now: Duration) -> Result<u64, ()> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        if self.refused.load(Ordering::Relaxed) == 0 {
            return Ok(0);
        }
        let due = |at: u64| (at <= now).then(|| now.saturating_add(REFUSALS_TOLD_MS));
        self.refusals_due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).map_err(|_| ())?;
        Ok(self.refused.swap(0, Ordering::Relaxed))
    }

    /// The present options.
    pub(super) fn options(&self) -> Guard<Arc<ServiceOptions>> {
        self.options.load()
    }

    pub(super) fn set_options(&self, options: ServiceOptions) {
        self.dialer.outgoing.store(Arc::new(options.outgoing.clone()));
        self.options.store(Arc::new(options));
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }

    /// Accepts no more clients.
    pub(super) fn drain(&self) {
        let _ = self.phase.compare_exchange(
            Phase::Serving as u8,
            Phase::Draining as u8,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
    }

    /// Does a draining service have no client left? Returns `true` only once, to the first caller that sees
    /// it.
    pub(super) fn has_just_stopped(&self) -> bool {
        self.connections() == 0
            && !self.is_expecting()
            && self
                .phase
                .compare_exchange(
                    Phase::Draining as u8,
                    Phase::Stopped as u8,
                    Ordering::SeqCst,
                    Ordering::SeqCst,
                )
                .is_ok()
    }

    /// Takes a place for a client if the limit allows. Give it back by [`Service::leave`].
    pub(super) fn enter(&self) -> bool {
        let limit = self.limit().saturating_sub(self.elsewhere.load(Ordering::SeqCst));
        let below = |now: usize| (now < limit).then_some(now + 1);
        self.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).is_ok()
    }

    /// Sets how many clients the predecessor has; they count here, too.
    pub(super) fn expect(&self, clients: usize) {
        self.elsewhere.store(clients, Ordering::SeqCst);
    }

    /// Says whether the predecessor still has clients to hand over.
    pub(super) fn await_clients(&self, are_to_come: bool) {
        *self.fates() = are_to_come.then(Fates::default);
    }

    /// Are clients to come from the predecessor?
    pub(super) fn is_expecting(&self) -> bool {
        self.fates().is_some()
    }

    fn fates(&self) -> MutexGuard<'_, Option<Fates>> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that all clients, or those of one channel, are closed for this reason, including those that are
    /// still to come.
    pub(super) fn condemn(&self, channel: Option<ChannelKey>, why: End) {
        if let Some(fates) = &mut *self.fates() {
            match channel {
                Some(channel) => _ = fates.channels.insert(channel, why),
                None => fates.all = Some(why),
            }
        }
    }

    /// Notes the same for clients whose addresses are in a network.
    pub(super) fn condemn_clients(&self, net: IpNet, why: End) {
        if let Some(fates) = &mut *self.fates() {
            fates.clients.insert(net, why);
        }
    }

    /// Was this client, which comes from another process and may have a channel, closed while it was on its
    /// way? Returns the reason.
    pub(super) fn fate(&self, client: Option<IpAddr>, channel: Option<ChannelKey>) -> Option<End> {
        let fates = self.fates();
        let fates = fates.as_ref()?;
        let of_channel = || fates.channels.get(&channel?).copied();
        let of_client = || {
            fates
                .clients
                .iter()
                .find(|(net, _)| client.is_some_and(|ip| net.contains(&ip)))
                .map(|(_, why)| *why)
        };
        fates.all.or_else(of_channel).or_else(of_client)
    }

    /// Takes a place for a client from another process, whatever the limit.
    pub(super) fn enter_anyway(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let one_less = |there: usize| there.checked_sub(1);
        let _ = self.elsewhere.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }

    /// Is there a place for another client?
    pub(super) fn has_room(&self) -> bool {
        self.connections() + self.elsewhere.load(Ordering::SeqCst) < self.limit()
    }

    /// Is the number of clients well below the limit again?
    pub(super) fn has_emptied(&self) -> bool {
        self.connections() <= self.limit() / 2
    }

    fn limit(&self) -> usize {
        self.options().max_connections.map_or(usize::MAX, |limit| limit.get() as usize)
    }
}
