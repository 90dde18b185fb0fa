//! All workers of an instance: started, told to stop listening, told to close connections.
//!
//! Knows: how many workers there are and how to reach them. Never: what they do with a client.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::dial::Dialer;
use super::health::{Checks, Health};
use super::probe::{Engine, PARTING};
use super::worker::{self, Worker};
use crate::observe::{Dump, Log};
use crate::sched::{ChannelKey, Grant, SessionSnapshot, SharedTable};
use crate::sys::Clock;
use crate::sys::descriptors::{Budget, Taken};
use crate::sys::listen::Listener;
use crate::sys::poller::{Poller, Token, Waker};
use crate::sys::socket::Outgoing;

/// A worker answers at once unless it is being stopped by a debugger.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the workers to let their connections go.
const FAREWELL: Duration = Duration::from_millis(200);

/// What the data plane of an instance needs.
#[derive(Debug)]
pub struct Options {
    /// Workers, at least 1.
    pub workers: usize,
    /// Workers look for events for a moment before they sleep, where that pays.
    pub busy_poll: bool,
    /// How connections to channels are made.
    pub outgoing: Outgoing,
    /// `-t`: how long one address may take to answer.
    pub connect_timeout: Duration,
    /// `-T`: quiet for so long ends a connection; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Half-closed and quiet for so long ends a connection; `None` = never.
    pub half_close_timeout: Option<Duration>,
    /// A connection that has lived for so long, or a tenth less or more, is closed; `None` = never.
    pub max_lifetime: Option<Duration>,
    /// How long a client waits in line.
    pub queue_timeout: Duration,
    /// The most clients at a time; `None` = no limit.
    pub max_connections: Option<NonZeroU32>,
    /// While no channel is up, connects are refused.
    pub refuse_when_down: bool,
    /// How channels are checked.
    pub checks: Checks,
    /// What decides by lot.
    pub seed: u64,
    /// `-p`.
    pub dump: Option<Dump>,
    /// The process's limit of descriptors.
    pub descriptor_limit: u64,
}

/// What is sent to a worker.
pub(super) enum Message {
    /// A client that another worker accepted.
    Adopt(OwnedFd, SocketAddr, Taken),
    /// Drop the listener, then answer.
    StopListening(SyncSender<()>),
    /// Drop the listener, close all connections, then answer.
    ShutDown(SyncSender<()>),
    /// Close the connections of a channel, then answer how many there were.
    Close(ChannelKey, SyncSender<usize>),
    /// Close one connection, then answer whether it was there.
    CloseSession(u64, SyncSender<bool>),
    /// Answer with all connections, or those of one channel.
    Sessions(Option<ChannelKey>, SyncSender<Vec<SessionSnapshot>>),
    /// A client in line gets its slot.
    Granted(Grant),
    /// Accept whoever waits, then nobody, then answer.
    Refuse(SyncSender<()>),
    /// Make the listener refuse, then answer how that went; `None` = there is none any more.
    CloseDoor(SyncSender<Option<io::Result<()>>>),
    /// Make the listener listen again, then answer.
    OpenDoor(SyncSender<Option<io::Result<()>>>),
    /// Accept again.
    Welcome,
}

/// How others reach one worker, and what they see of it.
pub(super) struct Desk {
    inbox: Mutex<Vec<Message>>,
    waker: Waker,
    /// Connections it carries. On a cache line of its own, since every accept of every worker reads it.
    pub(super) load: Load,
}

/// A counter that shares its cache line with nothing.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Load(AtomicUsize);

impl Load {
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
    pub(super) dialer: Dialer,
    pub(super) log: Log,
    pub(super) budget: Arc<Budget>,
    pub(super) desks: Box<[Desk]>,
    /// Accept waits for descriptors, and it was said.
    pub(super) starved: AtomicBool,
    /// Accept waits for clients to leave, and it was said.
    pub(super) crowded: AtomicBool,
    /// Clients accepted and not yet closed, the handed-over ones included.
    connections: AtomicUsize,
    stopping: AtomicBool,
    /// The process is about to end: no more checks.
    pub(super) ended: AtomicBool,
    drained: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    /// A place for a client, if there is one below the limit.
    pub(super) fn place(&self) -> Option<Place<'_>> {
        let limit = self.options.max_connections.map_or(usize::MAX, |limit| limit.get() as usize);
        let below = |now: usize| (now < limit).then_some(now + 1);
        self.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).ok()?;
        Some(Place { shared: self })
    }

    /// Is the limit of clients far away again?
    pub(super) fn has_emptied(&self) -> bool {
        let limit = self.options.max_connections.map_or(usize::MAX, |limit| limit.get() as usize);
        self.connections.load(Ordering::SeqCst) <= limit / 2
    }

    /// Gives free slots to those in line. To be called after a slot was given back, without the table's lock.
    pub(super) fn serve_line(&self) {
        if self.dialer.table.is_anyone_waiting() {
            let grants = self.dialer.table.lock_at(self.dialer.clock.now()).grant();
            self.deliver(grants);
        }
    }

    /// Sends grants to the workers whose clients they are for.
    pub(super) fn deliver(&self, grants: Vec<Grant>) {
        for grant in grants {
            if let Some(desk) = self.desks.get(worker::worker_of(grant.tag)) {
                desk.send(Message::Granted(grant));
            }
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

    /// The same for the first worker only.
    pub(super) fn ask_one<T>(&self, message: impl Fn(SyncSender<T>) -> Message) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.desks.first()?.send(message(answer));
        answered.recv_timeout(PATIENCE).ok()
    }

    pub(super) fn closed(&self) {
        if self.connections.fetch_sub(1, Ordering::SeqCst) == 1 && self.stopping.load(Ordering::SeqCst) {
            (self.drained)();
        }
    }
}

/// A client's place below the limit, given back when dropped.
pub(super) struct Place<'a> {
    shared: &'a Shared,
}

impl Place<'_> {
    /// A client has it now: [`Shared::closed`] gives it back.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.closed();
    }
}

/// The running data plane.
pub struct Server {
    shared: Arc<Shared>,
    /// Ends when the thread that minds the channels' health has ended.
    health_ended: Mutex<Receiver<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts the workers. `drained` is called when the last connection ends after [`Server::stop_listening`].
    ///
    /// # Errors
    /// No descriptor for a poller, or no thread.
    pub fn start(
        listener: &Listener,
        table: &SharedTable,
        clock: Clock,
        log: &Log,
        options: Options,
        drained: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut pollers = Vec::new();
        let mut desks = Vec::new();
        for _ in 0..options.workers.max(1) {
            let poller = Poller::new()?;
            let waker = poller.waker(Token::WAKER)?;
            pollers.push(poller);
            desks.push(Desk { inbox: Mutex::default(), waker, load: Load::default() });
        }
        let limit = usize::try_from(options.descriptor_limit).unwrap_or(usize::MAX);
        let budget = Budget::new(limit, open_descriptors() + 8);
        let engine = Engine::new(options.outgoing, Arc::clone(&budget))?;
        let health = engine.waker();
        let outgoing = options.outgoing;
        let dialer = Dialer { table: table.clone(), clock, outgoing, log: log.clone(), health };
        let shared = Arc::new(Shared {
            options,
            dialer,
            log: log.clone(),
            budget,
            desks: desks.into(),
            starved: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            drained: Box::new(drained),
        });
        for (id, poller) in pollers.into_iter().enumerate() {
            let mut worker = Worker::new(id, poller, listener.clone(), Arc::clone(&shared))?;
            thread::Builder::new().name(format!("worker-{id}")).spawn(move || worker.run())?;
        }
        let mut health = Health::new(engine, Arc::clone(&shared));
        let (running, health_ended) = sync_channel(0);
        thread::Builder::new().name("health".into()).spawn(move || {
            health.run();
            // The engine first: it kills the programs of checks.
            drop(health);
            drop(running);
        })?;
        Ok(Self { shared, health_ended: Mutex::new(health_ended) })
    }

    /// Clients accepted and not yet closed.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Takes whoever waits to be accepted, then frees the port. `true` when it is free (as far as this process holds it).
    pub fn stop_listening(&self) -> bool {
        let stopped = self.shared.ask(PATIENCE, Message::StopListening).len() == self.shared.desks.len();
        self.shared.stopping.store(true, Ordering::SeqCst);
        if self.connections() == 0 {
            (self.shared.drained)();
        }
        stopped
    }

    /// Ends all checks, and the programs that they run. Takes a moment at most: the process is about to end.
    pub fn stop_checks(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.dialer.health.wake();
        let ended = self.health_ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent; what is waited for is the end of the sender.
        let _ = ended.recv_timeout(FAREWELL + PARTING);
    }

    /// Frees the port and closes all connections, with a reset where bytes would be missed. Takes a moment at most: the
    /// process is about to end.
    pub fn shut_down(&self) {
        self.shared.ask(FAREWELL, Message::ShutDown);
    }

    /// Closes the connections of a channel; how many there were.
    pub fn close_connections(&self, channel: ChannelKey) -> usize {
        self.shared.ask(PATIENCE, |answer| Message::Close(channel, answer)).into_iter().sum()
    }

    /// Closes one connection. `false` = there is none of that number.
    pub fn close_session(&self, id: u64) -> bool {
        self.shared.ask(PATIENCE, |answer| Message::CloseSession(id, answer)).contains(&true)
    }

    /// All connections, or those of one channel, the oldest first.
    pub fn sessions(&self, channel: Option<ChannelKey>) -> Vec<SessionSnapshot> {
        let all = self.shared.ask(PATIENCE, |answer| Message::Sessions(channel, answer));
        let mut sessions: Vec<_> = all.into_iter().flatten().collect();
        sessions.sort_by_key(|session| (std::cmp::Reverse(session.age), session.id));
        sessions
    }

    /// An operator changed the table: there may be room for those in line, probes to make, a door to open or to close. The
    /// thread that minds the channels looks at all of it.
    pub fn table_changed(&self) {
        self.shared.dialer.health.wake();
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(32, |entries| entries.count())
}
