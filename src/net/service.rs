//! One service: where it listens, its table, its options, how many clients it has.
//!
//! Knows: what a service's clients share, whichever worker has them. Never: sockets of clients, other services.

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
use super::routes::Routes;
use crate::observe::Log;
use crate::sched::{ChannelKey, End, Gate, SharedTable};
use crate::spec::{ClientSource, ProxySenders, ProxyTlvs, StartTls};
use crate::sys::Outgoing;
use crate::sys::listen::Listener;

/// Strangers can be refused as often as they like: that is told once a minute.
pub(super) const REFUSALS_TOLD_MS: u64 = 60_000;

/// What a service is called by in a process. Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub(super) u32);

/// How a service treats its clients and its channels.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// How connections to channels are made.
    pub outgoing: Outgoing,
    /// `-t`: how long a channel may take to answer.
    pub connect_timeout: Duration,
    /// So soon the next channel is tried beside one that has not answered; `None` = not before it has failed.
    pub race: Option<Duration>,
    /// A channel that says nothing for so long, while others answer, is ejected; `None` = it is not.
    pub first_byte: Option<Duration>,
    /// `-T`: quiet for so long ends a connection; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Half-closed and quiet for so long ends a connection; `None` = never.
    pub half_close_timeout: Option<Duration>,
    /// A connection that has lived for so long, or a tenth less or more, is closed; `None` = never.
    pub max_lifetime: Option<Duration>,
    /// How long a client waits in line.
    pub queue_timeout: Duration,
    /// How long a client waits because of a pause.
    pub pause_timeout: Duration,
    /// The most clients at a time; `None` = no limit.
    pub max_connections: Option<NonZeroU32>,
    /// Those of whom a header of the PROXY protocol is to come first; `None` = nobody.
    pub accept_proxy: Option<ProxySenders>,
    /// Which groups are for whom; `None` = all are for everybody.
    pub routes: Option<Routes>,
    /// The words in which clients may ask for TLS before they begin with it; of no weight without `routes`.
    pub starttls: Option<StartTls>,
    /// How long a client may take for what it has to say first.
    pub greeting_timeout: Duration,
    /// What PROXY headers have besides addresses.
    pub proxy_tlvs: ProxyTlvs,
}

/// A service to be opened.
#[derive(Debug)]
pub struct NewService {
    /// Where its clients come in; at least one.
    pub listeners: Vec<Listener>,
    /// Its channels.
    pub table: SharedTable,
    /// Where its events go.
    pub log: Log,
    /// How it treats them.
    pub options: ServiceOptions,
    /// Called when a dial has changed what is known of a channel.
    pub changed: Changed,
}

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It takes clients.
    Serving = 0,
    /// It takes nobody any more; those it has go on to their end.
    Draining = 1,
    /// The last of its clients has gone.
    Stopped = 2,
}

/// Which of the clients that are on their way here were closed meanwhile, and why.
#[derive(Debug, Default)]
struct Fates {
    all: Option<End>,
    channels: HashMap<ChannelKey, End>,
    /// Those whose addresses are in there.
    clients: HashMap<IpNet, End>,
}

/// What all workers share of a service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) id: ServiceId,
    options: ArcSwap<ServiceOptions>,
    pub(super) dialer: Dialer,
    pub(super) log: Log,
    /// Which pauses of the table the workers were told of.
    pub(super) pauses: AtomicUsize,
    /// Accept waits for clients to leave, and it was said.
    pub(super) crowded: AtomicBool,
    /// Accept fails time and again, and it was said.
    pub(super) ails: AtomicBool,
    /// Clients refused since that was told last, ...
    refused: AtomicU64,
    /// ... and when it may be told again, in ms of the clock of the process.
    refusals_due: AtomicU64,
    /// Clients accepted and not yet closed, the handed-over ones included.
    connections: AtomicUsize,
    /// Clients that the process before still has.
    elsewhere: AtomicUsize,
    /// What became of them meanwhile. `None`: none are to come.
    fates: Mutex<Option<Fates>>,
    phase: AtomicU8,
    /// Bytes kept of clients who have not said all that they have to say first.
    unheard_bytes: AtomicUsize,
}

/// So many bytes may be kept of clients who have not said all that they have to say first; what comes beyond that waits in the
/// kernel. A thousand of the longest greetings.
const UNHEARD_MOST: usize = 64 * 1024 * 1024;

/// What is kept of one of them, counted with its service until this is dropped.
#[derive(Debug)]
pub(super) struct Hearing {
    service: Arc<Service>,
    bytes: usize,
}

impl Hearing {
    pub(super) fn of(service: &Arc<Service>) -> Self {
        Self { service: Arc::clone(service), bytes: 0 }
    }

    /// Is there room for so many bytes more?
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.service.unheard_bytes.load(Ordering::Relaxed) + more <= UNHEARD_MOST
    }

    /// So many are kept now.
    pub(super) fn keep(&mut self, bytes: usize) {
        let all = &self.service.unheard_bytes;
        all.fetch_add(bytes, Ordering::Relaxed);
        all.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Ordering::Relaxed);
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.service.unheard_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
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
            unheard_bytes: AtomicUsize::new(0),
        }
    }

    /// Who is let in.
    pub(super) fn gate(&self) -> &Gate {
        self.dialer.table.gate()
    }

    /// Does one who comes from here have to say first whom it speaks for?
    pub(super) fn awaits_header(&self, seen: ClientSource) -> bool {
        self.options().accept_proxy.as_ref().is_some_and(|senders| senders.includes(seen))
    }

    /// A client was refused. `Some`: it is time to say so, and how many were since that was said last.
    pub(super) fn refused(&self, now: Duration) -> Option<u64> {
        let clients = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let due = |at: u64| (at <= now).then(|| now.saturating_add(REFUSALS_TOLD_MS));
        self.refusals_due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).ok()?;
        self.refused.fetch_sub(clients, Ordering::Relaxed);
        Some(clients)
    }

    /// So many were refused and not told yet, if it is time to say so. `Err`: not yet.
    pub(super) fn refused_before(&self, now: Duration) -> Result<u64, ()> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        if self.refused.load(Ordering::Relaxed) == 0 {
            return Ok(0);
        }
        let due = |at: u64| (at <= now).then(|| now.saturating_add(REFUSALS_TOLD_MS));
        self.refusals_due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).map_err(|_| ())?;
        Ok(self.refused.swap(0, Ordering::Relaxed))
    }

    /// How it treats its clients, as of now.
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

    /// It takes nobody any more.
    pub(super) fn drain(&self) {
        let _ = self.phase.compare_exchange(
            Phase::Serving as u8,
            Phase::Draining as u8,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
    }

    /// Has a draining service no client left? `true` once: for the caller that sees it first.
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

    /// A place for a client below the limit, if there is one. To be given back by [`Service::leave`].
    pub(super) fn enter(&self) -> bool {
        let limit = self.limit().saturating_sub(self.elsewhere.load(Ordering::SeqCst));
        let below = |now: usize| (now < limit).then_some(now + 1);
        self.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).is_ok()
    }

    /// The process before has so many clients, which count here, too.
    pub(super) fn expect(&self, clients: usize) {
        self.elsewhere.store(clients, Ordering::SeqCst);
    }

    /// The process before hands its clients over now, or has done so.
    pub(super) fn await_clients(&self, are_to_come: bool) {
        *self.fates() = are_to_come.then(Fates::default);
    }

    /// Are clients to come from the process before?
    pub(super) fn is_expecting(&self) -> bool {
        self.fates().is_some()
    }

    fn fates(&self) -> MutexGuard<'_, Option<Fates>> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All clients are closed for this reason, or those of one channel: those who are still to come as well.
    pub(super) fn condemn(&self, channel: Option<ChannelKey>, why: End) {
        if let Some(fates) = &mut *self.fates() {
            match channel {
                Some(channel) => _ = fates.channels.insert(channel, why),
                None => fates.all = Some(why),
            }
        }
    }

    /// The same of those whose addresses are in a network.
    pub(super) fn condemn_clients(&self, net: IpNet, why: End) {
        if let Some(fates) = &mut *self.fates() {
            fates.clients.insert(net, why);
        }
    }

    /// Was this one, who comes from elsewhere and may have a channel, closed while it was on its way?
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

    /// A place for one from elsewhere, whatever the limit is.
    pub(super) fn enter_anyway(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let one_less = |there: usize| there.checked_sub(1);
        let _ = self.elsewhere.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    }

    /// A client has left.
    pub(super) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }

    /// Is there a place for a client?
    pub(super) fn has_room(&self) -> bool {
        self.connections() + self.elsewhere.load(Ordering::SeqCst) < self.limit()
    }

    /// Is it well below its limit of clients again?
    pub(super) fn has_emptied(&self) -> bool {
        self.connections() <= self.limit() / 2
    }

    fn limit(&self) -> usize {
        self.options().max_connections.map_or(usize::MAX, |limit| limit.get() as usize)
    }
}
