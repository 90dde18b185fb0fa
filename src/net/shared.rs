//! What all workers share, and what is sent to them.
//!
//! Knows: desks, messages, which services there are, a client's place in the counts. Never: what a worker
//! does with a client.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::chain::{Chains, Link};
use super::changed::Deliver;
use super::circle::Circle;
use super::dial::Dialer;
use super::foreign::Foreign;
use super::planted::{self, Bug};
use super::service::{NewService, Service, ServiceId};
use crate::handover::connection::ConnectionRecord;
use crate::observe::{AccessDue, AccessLog, AccessRecord, Dump, Log, TapSource, TapStart};
use crate::sched::{ChannelKey, ClientPlace, End, EndedSnapshot, Grant, Rule, SessionSnapshot, Slot};
use crate::spec::{Address, ClientSource};
use crate::sys::Clock;
use crate::sys::descriptors::{Budget, Taken};
use crate::sys::listen::Listener;
use crate::sys::poller::Waker;
use crate::sys::socket;
use crate::sys::splice;

/// How long to wait for a worker's answer. It answers at once, unless a debugger has stopped it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The end of the process waits until the workers have closed all connections, however many there are. A
/// worker that closes none for this long hangs, and is no longer waited for.
const HUNG: Duration = Duration::from_secs(10);
/// How often that is checked.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the data plane of a process needs.
#[derive(Debug)]
pub struct Options {
    /// Number of workers, at least 1.
    pub workers: usize,
    /// Whether workers poll for events for a moment before they sleep, where that pays off.
    pub busy_poll: bool,
    /// The congestion control algorithm for bulk data within this host. `None`: the system's default.
    pub loopback_congestion: Option<String>,
    /// The seed for random choices.
    pub seed: u64,
    /// `-p`: the packet dump.
    pub dump: Option<Dump>,
    /// The access log, if there is one.
    pub access: Option<AccessLog>,
    /// The process's limit on descriptors.
    pub descriptor_limit: u64,
    /// How many descriptors the process itself needs, without clients.
    pub own_descriptors: usize,
    /// Numbers of connections begin above this one.
    pub first_id: u64,
}

/// A message to a worker.
pub(super) enum Message {
    /// Serve these services, then answer.
    Open(Vec<Opened>, SyncSender<io::Result<()>>),
    /// Take over a client that another worker accepted.
    Adopt(Guest, OwnedFd, ClientSource, Taken),
    /// Accept no more clients of a service, then answer.
    StopListening(ServiceId, SyncSender<()>),
    /// Accept no more clients of a service on these ports, then answer.
    StopListeningOn(ServiceId, Arc<[u16]>, SyncSender<()>),
    /// Accept the clients that wait on these ports of a service, then no more, then answer.
    SetAside(ServiceId, Arc<[u16]>, SyncSender<()>),
    /// Accept clients on these ports again.
    WelcomeOn(ServiceId, Arc<[u16]>),
    /// Accept no more clients of any service, then answer.
    StopAll(SyncSender<()>),
    /// Accept no more clients, close all connections, then answer.
    ShutDown(SyncSender<()>),
    /// Close the connections of a channel for this reason, then answer how many there were.
    Close(ServiceId, ChannelKey, End, SyncSender<usize>),
    /// Close the connections of a channel to these addresses, which it no longer has.
    CloseAddresses(ServiceId, ChannelKey, Arc<[Address]>),
    /// Close all connections of a service for this reason, then answer how many there were.
    CloseAll(ServiceId, End, SyncSender<usize>),
    /// Close the connections of a service's clients in this network for this reason, then answer how many
    /// there were.
    CloseClients(ServiceId, IpNet, End, SyncSender<usize>),
    /// Close one connection of a service, then answer whether it existed.
    CloseSession(ServiceId, u64, SyncSender<bool>),
    /// Start a tap of one connection of a service, and answer with its state if it exists.
    Tap(ServiceId, u64, TapSource, SyncSender<Option<TapStart>>),
    /// Answer with connections of a service, or of one channel, from this place on.
    Sessions(ServiceId, Option<ChannelKey>, usize, SyncSender<Page<SessionSnapshot>>),
    /// Answer with access log records of open connections that are due, from this place on.
    Records(AccessDue, usize, SyncSender<Page<AccessRecord>>),
    /// Answer with the connections of a service that had ended at this time, as far as they are remembered.
    Ended(ServiceId, Duration, SyncSender<Vec<EndedSnapshot>>),
    /// A waiting client gets a slot.
    Granted(ServiceId, Grant),
    /// Accept the clients that wait, then no more, then answer.
    Refuse(ServiceId, SyncSender<()>),
    /// Make the listeners refuse connects, then answer with the result. `None`: there are no listeners any
    /// more.
    CloseDoor(ServiceId, SyncSender<Option<io::Result<()>>>),
    /// Free the ports of the listeners, even if another process holds them, too, then answer.
    FreePorts(ServiceId, SyncSender<Option<io::Result<()>>>),
    /// Make the listeners listen again, then answer.
    OpenDoor(ServiceId, SyncSender<Option<io::Result<()>>>),
    /// Accept clients again.
    Welcome(ServiceId),
    /// Continue connections that waited for room in the dump.
    DumpHasRoom,
    /// The options of a service have changed.
    Retime(ServiceId),
    /// Channels of a service were paused or resumed.
    PausesChanged(ServiceId),
    /// Accept no client on any listener, including those that already wait there, then answer.
    HoldDoors(SyncSender<()>),
    /// Accept clients again, serve those that were held back, then answer.
    ReleaseDoors(SyncSender<()>),
    /// Answer once all earlier messages have been handled.
    Settle(SyncSender<()>),
    /// Answer with the places of waiting clients.
    WhoWaits(SyncSender<Vec<LinePlace>>),
    /// Answer with the number of clients by stage.
    Count(SyncSender<Left>),
    /// Put some clients on the tray, then answer.
    Pack(PackOrder, SyncSender<()>),
    /// Take clients from another process, or back from the tray.
    Receive(Vec<Unpacked>),
}

/// A place in the wait queue of a service.
pub(super) type LinePlace = (ServiceId, u64);

/// The number of clients by stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Clients being connected to a channel. They cannot leave before that has a result.
    pub dialing: usize,
    /// All others that have not left.
    pub others: usize,
}

/// Which clients to pack.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// Waiting clients with these places.
    InLine(Arc<BTreeSet<LinePlace>>),
    /// Clients that have no channel and do not wait for one.
    Greeting,
    /// Connected clients.
    Relaying,
}

/// An order to a worker to put clients on the tray.
#[derive(Debug, Clone)]
pub(super) struct PackOrder {
    pub(super) who: Who,
    /// Maximum number of clients.
    pub(super) most: usize,
    /// Maximum number of bytes that they may hold. `None`: the first client may hold any number, and the
    /// others [`TRAY_BYTES`] together.
    pub(super) bytes: Option<usize>,
    /// Only clients of these services. `None`: of all.
    pub(super) of: Option<Arc<BTreeSet<ServiceId>>>,
}

/// Maximum number of bytes that the clients of one call may hold, apart from the first one.
pub(super) const TRAY_BYTES: usize = 256 * 1024;

/// A connection that no worker has, with everything that belongs to it. Dropping it gives everything back and
/// closes its descriptors in this process. Another process may still have them and does not notice.
pub(super) struct Parcel {
    pub(super) record: ConnectionRecord,
    /// The bytes that its relay holds.
    pub(super) bytes: Vec<u8>,
    pub(super) client: OwnedFd,
    pub(super) server: Option<OwnedFd>,
    pub(super) slot: Option<Slot>,
    pub(super) link: Option<Box<Link>>,
    /// When it was packed, if that was in this process.
    pub(super) packed_at: Option<Duration>,
    pub(super) taken: Taken,
    pub(super) guest: Guest,
}

/// A connection that is to be continued here. If that fails, no other process has it, so both ends get a
/// reset.
pub(super) struct Unpacked(Option<Parcel>);

impl Unpacked {
    pub(super) fn new(parcel: Parcel) -> Self {
        Self(Some(parcel))
    }

    pub(super) fn into_parcel(mut self) -> Option<Parcel> {
        self.0.take()
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if let Some(parcel) = &self.0 {
            socket::reset_on_close(&parcel.client);
            parcel.server.iter().for_each(socket::reset_on_close);
        }
    }
}

/// Information about some of a worker's connections.
pub(super) struct Page<T> {
    pub(super) list: Vec<T>,
    /// Where to go on; `None` at the end.
    pub(super) next: Option<usize>,
}

/// A service and its listeners.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) service: Arc<Service>,
    pub(super) listeners: Vec<Listener>,
}

/// How other threads reach one worker, and what they see of it.
pub(super) struct Desk {
    inbox: Mutex<Vec<Message>>,
    waker: Waker,
    /// Its number of connections. On a cache line of its own, since every accept of every worker reads it.
    pub(super) load: Carried,
    /// How many connections have got a number here.
    numbered: AtomicU64,
}

/// A counter that shares its cache line with nothing.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Carried(AtomicUsize);

impl Carried {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    pub(super) fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    pub(super) fn new(waker: Waker) -> Self {
        Self { inbox: Mutex::default(), waker, load: Carried::default(), numbered: AtomicU64::new(0) }
    }

    /// How many connections have got a number here.
    pub(super) fn numbered(&self) -> u64 {
        self.numbered.load(Ordering::Relaxed)
    }

    /// Counts one more, and returns the new number.
    pub(super) fn number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sets the count to at least `to`.
    pub(super) fn skip_numbers(&self, to: u64) {
        self.numbered.fetch_max(to, Ordering::Relaxed);
    }

    pub(super) fn send(&self, message: Message) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        self.waker.wake();
    }

    pub(super) fn take(&self) -> Vec<Message> {
        self.waker.drain();
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What all workers share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) clock: Clock,
    pub(super) log: Log,
    pub(super) budget: Arc<Budget>,
    pub(super) desks: Arc<[Desk]>,
    /// Accept waits for descriptors, and that was logged.
    pub(super) starved: AtomicBool,
    /// No service accepts clients any more, including services that are opened later.
    pub(super) closing: AtomicBool,
    /// The process ends. That takes precedence over everything else that a worker has to do.
    pub(super) ends: AtomicBool,
    /// Clients are about to move to another process: those that would be dialled again stay as they are.
    pub(super) leaving: Arc<AtomicBool>,
    /// Clients that workers have given up to another process.
    pub(super) tray: Mutex<Vec<Parcel>>,
    /// All services that have not stopped.
    services: Mutex<BTreeMap<ServiceId, Arc<Service>>>,
    chains: Arc<Chains>,
    next_service: AtomicU32,
    drained: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    pub(super) fn new(
        options: Options,
        clock: Clock,
        log: &Log,
        desks: Vec<Desk>,
        drained: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        let limit = usize::try_from(options.descriptor_limit).unwrap_or(usize::MAX);
        let budget = Budget::with_pipes(limit, options.own_descriptors, splice::allowance());
        let shared = Arc::new(Self {
            options,
            clock,
            log: log.clone(),
            budget,
            desks: desks.into(),
            starved: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            leaving: Arc::default(),
            tray: Mutex::default(),
            services: Mutex::default(),
            chains: Arc::default(),
            next_service: AtomicU32::new(0),
            drained: Box::new(drained),
        });
        shared.number_above(shared.options.first_id);
        shared
    }

    /// Makes the numbers of all later connections greater than `id`.
    pub(super) fn number_above(&self, id: u64) {
        let rounds = id.div_ceil(self.desks.len().max(1) as u64);
        self.desks.iter().for_each(|desk| desk.skip_numbers(rounds));
    }

    /// A number above all numbers given out so far.
    pub(super) fn next_id(&self) -> u64 {
        let rounds = self.desks.iter().map(Desk::numbered).max().unwrap_or(0);
        rounds.saturating_add(1).saturating_mul(self.desks.len() as u64)
    }

    /// The clients that workers have put there.
    pub(super) fn tray(&self) -> MutexGuard<'_, Vec<Parcel>> {
        lock(&self.tray)
    }

    /// Numbers a service, and remembers it until it stops.
    pub(super) fn enlist(&self, new: NewService) -> Opened {
        let id = ServiceId(self.next_service.fetch_add(1, Ordering::SeqCst));
        let desks = Arc::clone(&self.desks);
        self.chains.enlist(id.0, new.listeners.iter().map(Listener::address));
        let dialer = Dialer {
            table: new.table,
            clock: self.clock,
            outgoing: ArcSwap::from_pointee(new.options.outgoing.clone()),
            log: new.log.clone(),
            circle: Circle::new(new.listeners.iter().map(Listener::address).collect()),
            service: id.0,
            chains: Arc::clone(&self.chains),
            leaving: Arc::clone(&self.leaving),
            changed: new.changed,
            deliver: Deliver::new(move |grants| deliver(&desks, id, grants)),
            foreign: Foreign::default(),
        };
        let service = Arc::new(Service::new(id, dialer, new.log, new.options));
        lock(&self.services).insert(id, Arc::clone(&service));
        Opened { service, listeners: new.listeners }
    }

    /// Updates where a service listens: `new` are added, and the ports `gone` are removed.
    pub(super) fn relocate(&self, service: &Service, all: Vec<Address>, new: &[Listener], gone: &[u16]) {
        self.chains.strike_ports(service.id.0, gone);
        self.chains.enlist(service.id.0, new.iter().map(Listener::address));
        service.dialer.circle.listens(all);
    }

    /// Gives a service's free slots to waiting clients. Call it after a slot was given back, without the
    /// table's lock.
    pub(super) fn serve_line(&self, service: &Service) {
        // At the end of the process, a client that still waits is closed as one without a channel, and not in
        // the middle of a dial.
        if service.dialer.table.is_anyone_waiting() && !self.ends.load(Ordering::Relaxed) {
            let grants = service.dialer.table.lock_at(self.clock.now()).grant();
            service.dialer.deliver.all(grants);
        }
    }

    /// Sends every worker a message; returns the answers that came in time.
    pub(super) fn ask<T>(&self, patience: Duration, message: impl Fn(SyncSender<T>) -> Message) -> Vec<T> {
        let answers: Vec<Receiver<T>> = self
            .desks
            .iter()
            .map(|desk| {
                let (answer, answered) = sync_channel(1);
                desk.send(message(answer));
                answered
            })
            .collect();
        let until = Instant::now() + patience;
        let left = || until.saturating_duration_since(Instant::now());
        answers.iter().filter_map(|answered| answered.recv_timeout(left()).ok()).collect()
    }

    /// What all workers report about their connections, requested in pages.
    pub(super) fn all_pages<T>(&self, message: impl Fn(usize, SyncSender<Page<T>>) -> Message) -> Vec<T> {
        let mut all = Vec::new();
        for desk in self.desks.iter() {
            let mut next = Some(0);
            while let Some(from) = next {
                let (answer, answered) = sync_channel(1);
                desk.send(message(from, answer));
                // The rest of a worker that does not answer is left out.
                let Ok(page) = answered.recv_timeout(PATIENCE) else { break };
                all.extend(page.list);
                next = page.next;
            }
        }
        all
    }

    /// Sends a message to the first worker only.
    pub(super) fn ask_one<T>(&self, message: impl Fn(SyncSender<T>) -> Message) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.desks.first()?.send(message(answer));
        answered.recv_timeout(PATIENCE).ok()
    }

    /// Makes every worker close all its connections. `false`: one of them hangs.
    pub(super) fn see_all_off(&self) -> bool {
        let (answer, answered) = sync_channel(self.desks.len());
        self.desks.iter().for_each(|desk| desk.send(Message::ShutDown(answer.clone())));
        // A worker that panics has dropped its answer.
        drop(answer);
        let carried = || self.desks.iter().map(|desk| desk.load.get()).sum::<usize>();
        let (mut least, mut moved) = (carried(), Instant::now());
        let mut left = self.desks.len();
        while left > 0 && moved.elapsed() < HUNG {
            match answered.recv_timeout(LOOK_AGAIN) {
                Ok(()) => left -= 1,
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = carried();
            if now < least {
                (least, moved) = (now, Instant::now());
            }
        }
        left == 0
    }

    /// A service is about to stop listening. While the predecessor still hands over, it holds the listeners,
    /// too, so the listening is ended for both.
    pub(super) fn free_ports(&self, service: &Service) {
        if service.is_expecting() {
            self.ask(PATIENCE, |answer| Message::Refuse(service.id, answer));
            self.ask_one(|answer| Message::FreePorts(service.id, answer));
        }
    }

    /// The number of clients accepted and not yet closed, of all services.
    pub(super) fn connections(&self) -> usize {
        lock(&self.services).values().map(|service| service.connections()).sum()
    }

    /// All services that have not stopped.
    pub(super) fn services(&self) -> Vec<Arc<Service>> {
        lock(&self.services).values().cloned().collect()
    }

    /// Is there a service that has not stopped?
    pub(super) fn has_services(&self) -> bool {
        !lock(&self.services).is_empty()
    }

    /// The service with this number, if it has not stopped.
    pub(super) fn service(&self, id: ServiceId) -> Option<Arc<Service>> {
        lock(&self.services).get(&id).cloned()
    }

    pub(super) fn see_the_last_off(&self, service: &Service) {
        if service.has_just_stopped() {
            let mut services = lock(&self.services);
            services.remove(&service.id);
            self.chains.strike(service.id.0);
            let was_last = services.is_empty();
            drop(services);
            if was_last {
                (self.drained)();
            }
        }
    }
}

/// A client's place in the counts of its service and its worker. It is given back when this is dropped, for
/// whatever reason, including a panic.
pub(super) struct Guest {
    service: Arc<Service>,
    shared: Arc<Shared>,
    /// The worker that has it, or [`NO_DESK`].
    desk: u16,
    /// The port that it connected to.
    came_to: u16,
    /// Its place in the count of its client's connections, or [`ClientPlace::NONE`].
    place: u32,
}

/// No worker has it yet.
const NO_DESK: u16 = u16::MAX;

impl Guest {
    /// Takes a place for a client that connected to this port, if the service's limit allows.
    pub(super) fn enter(service: &Arc<Service>, came_to: u16, shared: &Arc<Shared>) -> Option<Self> {
        service.enter().then(|| Self::new(service, came_to, shared))
    }

    /// Takes a place whatever the limit, for a client that had one in another process.
    pub(super) fn carried(service: &Arc<Service>, came_to: u16, shared: &Arc<Shared>) -> Self {
        service.enter_anyway();
        Self::new(service, came_to, shared)
    }

    fn new(service: &Arc<Service>, came_to: u16, shared: &Arc<Shared>) -> Self {
        let (service, shared) = (Arc::clone(service), Arc::clone(shared));
        Self { service, shared, desk: NO_DESK, came_to, place: ClientPlace::NONE }
    }

    /// The port that it connected to.
    pub(super) fn came_to(&self) -> u16 {
        self.came_to
    }

    /// Asks whether this client may use the service. It can be asked again for the client that a PROXY header
    /// announces, which then counts.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub(super) fn let_in(&mut self, client: ClientSource) -> Result<(), Rule> {
        if self.service.gate().is_open() {
            return Ok(());
        }
        let (gate, now) = (self.service.gate(), self.shared.clock.now());
        let place = match client.ip() {
            Some(ip) => gate.enter(ip, now)?,
            // Lists of networks do not apply to it.
            None => gate.enter_unlisted(client.key(), now)?,
        };
        self.take_place(place);
        Ok(())
    }

    /// Asks the same for a client that has just connected. One that must send a PROXY header is let in to do
    /// so.
    pub(super) fn let_in_seen(&mut self, seen: ClientSource) -> Result<(), Rule> {
        if self.service.gate().is_open() || self.service.awaits_header(seen) {
            return Ok(());
        }
        self.let_in(seen)
    }

    /// Counts a client that was already let in: by another process, or before the limits changed.
    pub(super) fn count_in(&mut self, client: ClientSource) {
        if self.service.gate().counts_clients() && !client.is_unknown() {
            let place = self.service.gate().enter_anyway(client.key(), ClientPlace::numbered(self.place));
            self.place = place.map_or(ClientPlace::NONE, ClientPlace::number);
        }
    }

    fn take_place(&mut self, place: Option<ClientPlace>) {
        let before = std::mem::replace(&mut self.place, place.map_or(ClientPlace::NONE, ClientPlace::number));
        if let Some(before) = ClientPlace::numbered(before).filter(|_| !planted::has(Bug::KeepsPlace)) {
            self.service.gate().leave(before);
        }
    }

    /// The worker that has it.
    pub(super) fn desk(&self) -> Option<usize> {
        (self.desk != NO_DESK).then_some(self.desk as usize)
    }

    /// Assigns it to this worker. Call it only once.
    pub(super) fn sit_at(&mut self, desk: usize) {
        debug_assert!(self.desk == NO_DESK, "it has a desk");
        self.shared.desks[desk].load.add();
        // There are at most 1024 workers.
        self.desk = u16::try_from(desk).unwrap_or(NO_DESK);
    }

    fn leave(&self) {
        self.shared.see_the_last_off(&self.service);
        // At the end of the process no new client is served.
        let is_end = self.shared.ends.load(Ordering::Relaxed);
        if self.desk().is_some() && !is_end && !planted::has(Bug::ForgetsLine) {
            self.shared.serve_line(&self.service);
        }
    }
}

impl Deref for Guest {
    type Target = Arc<Service>;

    fn deref(&self) -> &Arc<Service> {
        &self.service
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if thread::panicking() && planted::has(Bug::LosesCount) {
            return;
        }
        if let Some(desk) = self.desk() {
            self.shared.desks[desk].load.subtract();
        }
        self.take_place(None);
        self.service.leave();
        if !thread::panicking() {
            return self.leave();
        }
        // A second panic while one unwinds would end the process. The first one is logged.
        let _ = catch_unwind(AssertUnwindSafe(|| self.leave()));
    }
}

/// Position of the worker's number in a tag; the lower bits are the connection's key.
const WORKER_BITS: u32 = 40;

/// Identifies a client in the wait queue of its table: its worker, and its key there.
pub(super) fn tag_of(worker: usize, key: usize) -> u64 {
    (worker as u64) << WORKER_BITS | key as u64
}

/// The worker in a tag.
fn worker_of(tag: u64) -> usize {
    (tag >> WORKER_BITS) as usize
}

/// The connection's key in a tag.
pub(super) fn key_of(tag: u64) -> usize {
    (tag & ((1 << WORKER_BITS) - 1)) as usize
}

/// Sends grants to the workers that have the clients.
fn deliver(desks: &[Desk], service: ServiceId, grants: Vec<Grant>) {
    for grant in grants {
        if let Some(desk) = desks.get(worker_of(grant.tag)) {
            desk.send(Message::Granted(service, grant));
        }
    }
}

/// The value is consistent even after a panic: each change of it is a single call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
