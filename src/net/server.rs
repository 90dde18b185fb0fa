//! All workers of an instance: started, told to stop listening, told to close connections.
//!
//! Knows: how many workers there are and how to reach them. Never: what they do with a client.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::descriptors::{Budget, Taken};
use super::dial::Dialer;
use super::listen::Listener;
use super::poller::{Poller, Waker};
use super::socket::Outgoing;
use super::worker::{self, Worker};
use crate::observe::{Dump, Log};
use crate::sched::{ChannelKey, SharedTable};

/// A worker answers at once unless it is being stopped by a debugger.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the workers to let their connections go.
const FAREWELL: Duration = Duration::from_millis(200);

/// What the data plane of an instance needs.
#[derive(Debug)]
pub struct Options {
    /// Workers, at least 1.
    pub workers: usize,
    /// How connections to channels are made.
    pub outgoing: Outgoing,
    /// `-t`: how long one address may take to answer.
    pub connect_timeout: Duration,
    /// `-T`: quiet for so long ends a connection; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Half-closed and quiet for so long ends a connection; `None` = never.
    pub half_close_timeout: Option<Duration>,
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
    /// Close the connections of a channel.
    Close(ChannelKey),
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
    /// Clients accepted and not yet closed, the handed-over ones included.
    connections: AtomicUsize,
    stopping: AtomicBool,
    drained: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn closed(&self) {
        if self.connections.fetch_sub(1, Ordering::SeqCst) == 1 && self.stopping.load(Ordering::SeqCst) {
            (self.drained)();
        }
    }
}

/// The running data plane.
pub struct Server {
    shared: Arc<Shared>,
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
        log: &Log,
        options: Options,
        drained: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut pollers = Vec::new();
        let mut desks = Vec::new();
        for _ in 0..options.workers.max(1) {
            let poller = Poller::new()?;
            let waker = poller.waker(worker::WAKER)?;
            pollers.push(poller);
            desks.push(Desk { inbox: Mutex::default(), waker, load: Load::default() });
        }
        let limit = usize::try_from(options.descriptor_limit).unwrap_or(usize::MAX);
        let budget = Budget::new(limit, open_descriptors() + 8);
        let dialer = Dialer { table: table.clone(), outgoing: options.outgoing, log: log.clone() };
        let shared = Arc::new(Shared {
            options,
            dialer,
            log: log.clone(),
            budget,
            desks: desks.into(),
            starved: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            drained: Box::new(drained),
        });
        for (id, poller) in pollers.into_iter().enumerate() {
            let mut worker = Worker::new(id, poller, listener.clone(), Arc::clone(&shared))?;
            thread::Builder::new().name(format!("worker-{id}")).spawn(move || worker.run())?;
        }
        Ok(Self { shared })
    }

    /// Clients accepted and not yet closed.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Takes whoever waits to be accepted, then frees the port. `true` when it is free (as far as this process holds it).
    pub fn stop_listening(&self) -> bool {
        let stopped = self.ask(PATIENCE, Message::StopListening);
        self.shared.stopping.store(true, Ordering::SeqCst);
        if self.connections() == 0 {
            (self.shared.drained)();
        }
        stopped
    }

    /// Frees the port and closes all connections, with a reset where bytes would be missed. Takes a moment at most: the
    /// process is about to end.
    pub fn shut_down(&self) {
        self.ask(FAREWELL, Message::ShutDown);
    }

    /// Sends every worker a message and waits for the answers; `true` = all came in time.
    fn ask(&self, patience: Duration, message: fn(SyncSender<()>) -> Message) -> bool {
        let answers: Vec<Receiver<()>> = self
            .shared
            .desks
            .iter()
            .map(|desk| {
                let (answer, answered) = sync_channel(1);
                desk.send(message(answer));
                answered
            })
            .collect();
        let until = Instant::now() + patience;
        answers
            .iter()
            .all(|answered| answered.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok())
    }

    /// Closes the connections of a channel.
    pub fn close_connections(&self, channel: ChannelKey) {
        for desk in &self.shared.desks {
            desk.send(Message::Close(channel));
        }
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(32, |entries| entries.count())
}
