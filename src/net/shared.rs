//! What all workers share, and what they tell each other.
//!
//! Knows: desks, messages, which services there are, a client's place in the counts. Never: what a worker does with a client.

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

/// A worker answers at once unless it is being stopped by a debugger.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The end of the process waits until the workers have let all their connections go, however many there are. For a worker
/// that lets none go for so long it does not wait: it hangs, and would keep the process for ever.
const HUNG: Duration = Duration::from_secs(10);
/// Between two looks whether they go.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the data plane of a process needs.
#[derive(Debug)]
pub struct Options {
    /// Workers, at least 1.
    pub workers: usize,
    /// Workers look for events for a moment before they sleep, where that pays.
    pub busy_poll: bool,
    /// The congestion control of bulk within this host; `None`: the system's own.
    pub loopback_congestion: Option<String>,
    /// What makes choices at random.
    pub seed: u64,
    /// `-p`.
    pub dump: Option<Dump>,
    /// The access log, if there is one.
    pub access: Option<AccessLog>,
    /// The process's limit of descriptors.
    pub descriptor_limit: u64,
    /// How many of them the process needs for itself, without clients.
    pub own_descriptors: usize,
    /// Connections are numbered from above this on.
    pub first_id: u64,
}

/// What is sent to a worker.
pub(super) enum Message {
    /// Serve these, then answer.
    Open(Vec<Opened>, SyncSender<io::Result<()>>),
    /// A client that another worker accepted.
    Adopt(Guest, OwnedFd, ClientSource, Taken),
    /// Take nobody new for a service, then answer.
    StopListening(ServiceId, SyncSender<()>),
    /// Take nobody new for a service on these ports, then answer.
    StopListeningOn(ServiceId, Arc<[u16]>, SyncSender<()>),
    /// Accept whoever waits on these ports of a service, then nobody, then answer.
    SetAside(ServiceId, Arc<[u16]>, SyncSender<()>),
    /// Accept on these ports again.
    WelcomeOn(ServiceId, Arc<[u16]>),
    /// Take nobody new for any service, then answer.
    StopAll(SyncSender<()>),
    /// Take nobody new, close all connections, then answer.
    ShutDown(SyncSender<()>),
    /// Close the connections of a channel for this reason, then answer how many there were.
    Close(ServiceId, ChannelKey, End, SyncSender<usize>),
    /// Close the connections of a channel to these addresses, which it has no more.
    CloseAddresses(ServiceId, ChannelKey, Arc<[Address]>),
    /// Close all connections of a service for this reason, then answer how many there were.
    CloseAll(ServiceId, End, SyncSender<usize>),
    /// Close the connections of these clients of a service for this reason, then answer how many there were.
    CloseClients(ServiceId, IpNet, End, SyncSender<usize>),
    /// Close one connection of a service, then answer whether it was there.
    CloseSession(ServiceId, u64, SyncSender<bool>),
    /// Show the bytes of one connection of a service, and answer how it stands, if it is there.
    Tap(ServiceId, u64, TapSource, SyncSender<Option<TapStart>>),
    /// Answer with connections of a service, or those of one channel, from this place on.
    Sessions(ServiceId, Option<ChannelKey>, usize, SyncSender<Page<SessionSnapshot>>),
    /// Answer with what the access log is to tell of connections that go on, from this place on.
    Records(AccessDue, usize, SyncSender<Page<AccessRecord>>),
    /// Answer with the connections of a service that have ended by this time, as far as they are remembered.
    Ended(ServiceId, Duration, SyncSender<Vec<EndedSnapshot>>),
    /// A client in line gets its slot.
    Granted(ServiceId, Grant),
    /// Accept the clients that wait, then no more, then answer.
    Refuse(ServiceId, SyncSender<()>),
    /// Make the listeners refuse, then answer how that went; `None` = there is none any more.
    CloseDoor(ServiceId, SyncSender<Option<io::Result<()>>>),
    /// Free the ports of the listeners, also where another process has them, too, then answer.
    FreePorts(ServiceId, SyncSender<Option<io::Result<()>>>),
    /// Make the listeners listen again, then answer.
    OpenDoor(ServiceId, SyncSender<Option<io::Result<()>>>),
    /// Accept again.
    Welcome(ServiceId),
    /// Go on with those who waited for room in the dump.
    DumpHasRoom,
    /// The options of a service are others now.
    Retime(ServiceId),
    /// Channels of a service were paused, or pauses ended.
    PausesChanged(ServiceId),
    /// Accept no client by any door, also none that waits there, then answer.
    HoldDoors(SyncSender<()>),
    /// Let clients in again, serve those who were kept back, then answer.
    ReleaseDoors(SyncSender<()>),
    /// Answer: all that was said before has been heard.
    Settle(SyncSender<()>),
    /// Answer who waits in line.
    WhoWaits(SyncSender<Vec<LinePlace>>),
    /// Answer how far clients are.
    Count(SyncSender<Left>),
    /// Put some clients on the tray, then answer.
    Pack(PackOrder, SyncSender<()>),
    /// Clients from another process, or back from the tray.
    Receive(Vec<Unpacked>),
}

/// A place in the line of a service.
pub(super) type LinePlace = (ServiceId, u64);

/// How many clients are how far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Being connected to a channel: they cannot leave before that has come to something.
    pub dialing: usize,
    /// All others that have not left.
    pub others: usize,
}

/// Which clients are wanted.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// Those in line who have these places.
    InLine(Arc<BTreeSet<LinePlace>>),
    /// Those who have no channel and wait for none.
    Greeting,
    /// Those who are connected.
    Relaying,
}

/// Clients that a worker is to put on the tray.
#[derive(Debug, Clone)]
pub(super) struct PackOrder {
    pub(super) who: Who,
    /// So many at most.
    pub(super) most: usize,
    /// They may hold so many bytes; `None`: the first one may hold what it likes, as if this were the usual measure.
    pub(super) bytes: Option<usize>,
    /// Only those of these services; `None`: of all.
    pub(super) of: Option<Arc<BTreeSet<ServiceId>>>,
}

/// What the clients of one call may hold, in bytes, beside the first one.
pub(super) const TRAY_BYTES: usize = 256 * 1024;

/// A connection that no worker has, with all that belongs to it. Dropped, it gives all of that back, and closes its
/// descriptors in this process; somebody else may have them still, and hears nothing of it.
pub(super) struct Parcel {
    pub(super) record: ConnectionRecord,
    /// What its relay holds.
    pub(super) bytes: Vec<u8>,
    pub(super) client: OwnedFd,
    pub(super) server: Option<OwnedFd>,
    pub(super) slot: Option<Slot>,
    pub(super) link: Option<Box<Link>>,
    /// When it was packed, if it was here.
    pub(super) packed_at: Option<Duration>,
    pub(super) taken: Taken,
    pub(super) guest: Guest,
}

/// A connection that is to be gone on with here. If nothing comes of that, nobody else has it: both ends hear of it.
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

/// What is told of some of a worker's connections.
pub(super) struct Page<T> {
    pub(super) list: Vec<T>,
    /// Where to go on; `None`: that was all.
    pub(super) next: Option<usize>,
}

/// A service and where its clients come in.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) service: Arc<Service>,
    pub(super) listeners: Vec<Listener>,
}

/// How others reach one worker, and what they see of it.
pub(super) struct Desk {
    inbox: Mutex<Vec<Message>>,
    waker: Waker,
    /// Connections it carries. On a cache line of its own, since every accept of every worker reads it.
    pub(super) load: Carried,
    /// How many connections have got a number there.
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

    /// How many connections have got a number there.
    pub(super) fn numbered(&self) -> u64 {
        self.numbered.load(Ordering::Relaxed)
    }

    /// Counts one more; how many that are.
    pub(super) fn number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts as if there had been so many.
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
    /// Accept waits for descriptors, and it was said.
    pub(super) starved: AtomicBool,
    /// No service takes clients any more, nor will any that is opened.
    pub(super) closing: AtomicBool,
    /// The process ends: that comes before everything else that a worker has to do.
    pub(super) ends: AtomicBool,
    /// Clients are about to go to another process: who would be dialled anew stays as it is.
    pub(super) leaving: Arc<AtomicBool>,
    /// Clients that workers have let go of.
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

    /// No connection gets this number, or a lower one, from now on.
    pub(super) fn number_above(&self, id: u64) {
        let rounds = id.div_ceil(self.desks.len().max(1) as u64);
        self.desks.iter().for_each(|desk| desk.skip_numbers(rounds));
    }

    /// All numbers given out so far are below this one.
    pub(super) fn next_id(&self) -> u64 {
        let rounds = self.desks.iter().map(Desk::numbered).max().unwrap_or(0);
        rounds.saturating_add(1).saturating_mul(self.desks.len() as u64)
    }

    /// What workers have let go of.
    pub(super) fn tray(&self) -> MutexGuard<'_, Vec<Parcel>> {
        lock(&self.tray)
    }

    /// Gives a service its number, and remembers it until it stops.
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

    /// Where a service listens is this from now on: `new` are added, and those on these ports go.
    pub(super) fn relocate(&self, service: &Service, all: Vec<Address>, new: &[Listener], gone: &[u16]) {
        self.chains.strike_ports(service.id.0, gone);
        self.chains.enlist(service.id.0, new.iter().map(Listener::address));
        service.dialer.circle.listens(all);
    }

    /// Gives a service's free slots to those in line. To be called after a slot was given back, without the table's lock.
    pub(super) fn serve_line(&self, service: &Service) {
        // Who waits at the end of the process is closed as one who got nothing, not in the middle of a dial.
        if service.dialer.table.is_anyone_waiting() && !self.ends.load(Ordering::Relaxed) {
            let grants = service.dialer.table.lock_at(self.clock.now()).grant();
            service.dialer.deliver.all(grants);
        }
    }

    /// Sends every worker a message; the answers that came in time.
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

    /// What all workers tell of their connections, asked for in parts.
    pub(super) fn all_pages<T>(&self, message: impl Fn(usize, SyncSender<Page<T>>) -> Message) -> Vec<T> {
        let mut all = Vec::new();
        for desk in self.desks.iter() {
            let mut next = Some(0);
            while let Some(from) = next {
                let (answer, answered) = sync_channel(1);
                desk.send(message(from, answer));
                // Those of a worker that does not answer are missing.
                let Ok(page) = answered.recv_timeout(PATIENCE) else { break };
                all.extend(page.list);
                next = page.next;
            }
        }
        all
    }

    /// The same for the first worker only.
    pub(super) fn ask_one<T>(&self, message: impl Fn(SyncSender<T>) -> Message) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.desks.first()?.send(message(answer));
        answered.recv_timeout(PATIENCE).ok()
    }

    /// Makes every worker let go of all its connections. `false`: one of them hangs.
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

    /// A service is about to stop listening. While the process before still hands over, it has the listeners as well: then the
    /// listening is ended for both.
    pub(super) fn free_ports(&self, service: &Service) {
        if service.is_expecting() {
            self.ask(PATIENCE, |answer| Message::Refuse(service.id, answer));
            self.ask_one(|answer| Message::FreePorts(service.id, answer));
        }
    }

    /// Clients accepted and not yet closed, of all services.
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

    /// A service that has not stopped.
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

/// A client's place in the counts of its service and of the worker that carries it. It is given back when this is dropped,
/// whatever the reason: a panic, too, may not lose it.
pub(super) struct Guest {
    service: Arc<Service>,
    shared: Arc<Shared>,
    /// The worker that carries it, or [`NO_DESK`].
    desk: u16,
    /// The port that it came to.
    came_to: u16,
    /// Its place among the connections of its client, or [`ClientPlace::NONE`].
    place: u32,
}

/// No worker carries it yet.
const NO_DESK: u16 = u16::MAX;

impl Guest {
    /// A place below the limit of a service, if there is one, for one who comes to this port.
    pub(super) fn enter(service: &Arc<Service>, came_to: u16, shared: &Arc<Shared>) -> Option<Self> {
        service.enter().then(|| Self::new(service, came_to, shared))
    }

    /// A place, whatever the limit is: for one who had a place in another process.
    pub(super) fn carried(service: &Arc<Service>, came_to: u16, shared: &Arc<Shared>) -> Self {
        service.enter_anyway();
        Self::new(service, came_to, shared)
    }

    fn new(service: &Arc<Service>, came_to: u16, shared: &Arc<Shared>) -> Self {
        let (service, shared) = (Arc::clone(service), Arc::clone(shared));
        Self { service, shared, desk: NO_DESK, came_to, place: ClientPlace::NONE }
    }

    /// The port that it came to.
    pub(super) fn came_to(&self) -> u16 {
        self.came_to
    }

    /// Asks whether this client may come in. It can be asked again, of the client that its peer speaks for: that one counts then.
    ///
    /// # Errors
    /// By which rule it may not.
    pub(super) fn let_in(&mut self, client: ClientSource) -> Result<(), Rule> {
        if self.service.gate().is_open() {
            return Ok(());
        }
        let (gate, now) = (self.service.gate(), self.shared.clock.now());
        let place = match client.ip() {
            Some(ip) => gate.enter(ip, now)?,
            // No list of networks says anything of it.
            None => gate.enter_unlisted(client.key(), now)?,
        };
        self.take_place(place);
        Ok(())
    }

    /// The same of a client that has just connected. One that first has to say for whom it speaks is let in to do so.
    pub(super) fn let_in_seen(&mut self, seen: ClientSource) -> Result<(), Rule> {
        if self.service.gate().is_open() || self.service.awaits_header(seen) {
            return Ok(());
        }
        self.let_in(seen)
    }

    /// It is this client's, which was let in already: by another process, or when other limits held.
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

    /// The worker that carries it.
    pub(super) fn desk(&self) -> Option<usize> {
        (self.desk != NO_DESK).then_some(self.desk as usize)
    }

    /// This worker carries it from now on. To be called once.
    pub(super) fn sit_at(&mut self, desk: usize) {
        debug_assert!(self.desk == NO_DESK, "it has a desk");
        self.shared.desks[desk].load.add();
        // There are at most 1024.
        self.desk = u16::try_from(desk).unwrap_or(NO_DESK);
    }

    fn leave(&self) {
        self.shared.see_the_last_off(&self.service);
        // At the end of the process nobody new is served.
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
        // A second panic on the way out of one would end the process. The first one is told.
        let _ = catch_unwind(AssertUnwindSafe(|| self.leave()));
    }
}

/// Where the worker's number begins in a tag; below it is the connection's key.
const WORKER_BITS: u32 = 40;

/// What a client is known by in the line of its table: its worker, and its key there.
pub(super) fn tag_of(worker: usize, key: usize) -> u64 {
    (worker as u64) << WORKER_BITS | key as u64
}

/// The worker that a tag is of.
fn worker_of(tag: u64) -> usize {
    (tag >> WORKER_BITS) as usize
}

/// The connection that a tag is of.
pub(super) fn key_of(tag: u64) -> usize {
    (tag & ((1 << WORKER_BITS) - 1)) as usize
}

/// Sends grants to the workers whose clients they are for.
fn deliver(desks: &[Desk], service: ServiceId, grants: Vec<Grant>) {
    for grant in grants {
        if let Some(desk) = desks.get(worker_of(grant.tag)) {
            desk.send(Message::Granted(service, grant));
        }
    }
}

/// What is behind a lock is whole at any time: each change of it is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
