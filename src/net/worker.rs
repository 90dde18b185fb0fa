//! One worker: a thread with its poller, its clients, its buffer.
//!
//! Knows: every connection's phase and deadline, when to accept and when to hand over. Never: how channels are chosen,
//! what the bytes mean.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use slab::Slab;

use super::descriptors::Taken;
use super::dial::{Attempt, Dial};
use super::listen::{AcceptError, Listener};
use super::poller::Poller;
use super::relay::{Ending, Ready, Relay, Side, Verdict};
use super::scheduling;
use super::server::{Message, Shared};
use super::socket;
use super::sockets::Sockets;
use super::splice::{Pipe, Pipes};
use super::timers::Timers;
use crate::observe::Event;
use crate::sched::{ChannelKey, Lease, NoChannel};

const LISTENER: u64 = 0;
/// The token of the worker's waker.
pub(super) const WAKER: u64 = 1;
const FIRST_SOCKET: u64 = 2;
/// The read buffer of a worker, in bytes. One for all its connections.
const SCRATCH: usize = 64 * 1024;
/// Clients accepted in one go, so that the other workers get some of a burst.
const ACCEPTS: usize = 8;
/// Clients still taken when the listener is about to close: as many as can have been waiting for one of several workers.
const BACKLOG_AT_STOP: usize = 4096;
/// How a client ends that got no channel; `turn_away` has told why.
const TURNED_AWAY: &str = "no channel";
/// How long accept, or a dial, waits when descriptors ran out and nobody tells that one came back, in ms.
const STARVED_MS: u64 = 50;
/// How often the last acknowledgement is looked for before a reset is passed on, in ms: at first, ...
const LINGER_MS: u64 = 4;
/// ... and when it has been missing for long.
const LINGER_MOST_MS: u64 = 1_000;

enum Phase {
    Dialing(Box<Dial>),
    Relaying { server: OwnedFd, lease: Lease },
}

struct Connection {
    client: OwnedFd,
    phase: Phase,
    relay: Relay<Box<Pipe>>,
    /// Delivered to the client and to the server.
    delivered: [u64; 2],
    /// When bytes moved last, in ms of the worker's clock.
    moved_at: u64,
    deadline: Option<u64>,
    /// Kept for the log's sake, so only while it tells of connections.
    address: Option<Box<SocketAddr>>,
    /// Sides whose new data is not reported, since older data of theirs still waits for the other side.
    muted: [bool; 2],
    /// Stands in the queue of those that have more to do.
    queued: bool,
    _taken: Taken,
}

impl Connection {
    fn fd(&self, side: Side) -> Option<BorrowedFd<'_>> {
        match (side, &self.phase) {
            (Side::Client, _) => Some(self.client.as_fd()),
            (Side::Server, Phase::Relaying { server, .. }) => Some(server.as_fd()),
            (Side::Server, Phase::Dialing(_)) => None,
        }
    }
}

/// The state of one worker's accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepting {
    On,
    /// Out of descriptors until this time, in ms, or until a connection ends.
    Starved(u64),
    Stopped,
}

pub(super) struct Worker {
    id: usize,
    poller: Poller,
    listener: Option<Listener>,
    accepting: Accepting,
    /// More clients may wait than one round took.
    clients_wait: bool,
    shared: Arc<Shared>,
    connections: Slab<Option<Connection>>,
    timers: Timers,
    /// Those that used up their turn.
    queue: Vec<usize>,
    /// Keys freed in this round. They are given out again in the next one, so that a stale event meets nobody.
    freed: Vec<usize>,
    pipes: Pipes,
    scratch: Box<[u8]>,
    epoch: Instant,
    now: u64,
}

fn token(key: usize, side: Side) -> u64 {
    FIRST_SOCKET + (key as u64) * 2 + side as u64
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Worker {
    pub(super) fn new(
        id: usize,
        mut poller: Poller,
        listener: Listener,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        poller.add_listener(&listener, LISTENER)?;
        let pipes = Pipes::new(Arc::clone(&shared.budget));
        Ok(Self {
            id,
            poller,
            listener: Some(listener),
            accepting: Accepting::On,
            clients_wait: false,
            shared,
            connections: Slab::new(),
            timers: Timers::default(),
            queue: Vec::new(),
            freed: Vec::new(),
            pipes,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            epoch: Instant::now(),
            now: 0,
        })
    }

    /// Serves for ever.
    pub(super) fn run(&mut self) {
        scheduling::become_batch();
        loop {
            if catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
                // `guarded` lets no connection get here; whatever it was, the others must not pay for it.
                self.shared.log.tell(&Event::WorkerPanic { what: "event loop".into() });
            }
        }
    }

    fn serve(&mut self) {
        loop {
            if let Err(e) = self.poller.wait(self.patience()) {
                self.shared.log.tell(&Event::AcceptFailed { cause: format!("cannot wait for events: {e}") });
                std::thread::sleep(Duration::from_millis(STARVED_MS));
            }
            self.now = millis(self.epoch.elapsed());
            let mut next = 0;
            while let Some((token, ready)) = self.poller.event(next) {
                next += 1;
                match token {
                    LISTENER => self.clients_wait = true,
                    WAKER => self.read_inbox(),
                    _ => self.event(token, ready),
                }
            }
            for key in std::mem::take(&mut self.queue) {
                if let Some(Some(connection)) = self.connections.get_mut(key) {
                    connection.queued = false;
                    self.guarded(key, |worker| worker.turn(key));
                }
            }
            while let Some(key) = self.timers.due(self.now) {
                if let Some(Some(connection)) = self.connections.get_mut(key) {
                    connection.deadline = None;
                    self.guarded(key, |worker| worker.expired(key));
                }
            }
            for key in self.freed.drain(..) {
                self.connections.remove(key);
            }
            if let Accepting::Starved(until) = self.accepting
                && until <= self.now
            {
                self.resume_accepting();
            }
            if std::mem::take(&mut self.clients_wait) {
                self.accept(ACCEPTS);
            }
        }
    }

    /// How long to wait for events.
    fn patience(&self) -> Option<Duration> {
        if !self.queue.is_empty() || self.clients_wait {
            return Some(Duration::ZERO);
        }
        let starved = match self.accepting {
            Accepting::Starved(until) => Some(until),
            Accepting::On | Accepting::Stopped => None,
        };
        let next = [self.timers.next(), starved].into_iter().flatten().min()?;
        // A moment more than due, so that the clock has surely passed it.
        Some(Duration::from_millis(next.saturating_sub(millis(self.epoch.elapsed())).saturating_add(1)))
    }

    /// A panic ends the connection it happened in, and no other.
    fn guarded(&mut self, key: usize, act: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| act(self))) {
            let what = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "a connection".into());
            self.shared.log.tell(&Event::WorkerPanic { what });
            self.close(key, Ending { reset_client: true, reset_server: true }, "panic");
        }
    }

    fn read_inbox(&mut self) {
        let shared = Arc::clone(&self.shared);
        for message in shared.desks[self.id].take() {
            match message {
                Message::Adopt(client, address, taken) => self.admit(client, address, taken),
                Message::StopListening(answer) => {
                    // Who waits in the accept queue was promised service; who comes from now on was not.
                    self.accept(BACKLOG_AT_STOP);
                    self.drop_listener();
                    // A caller that has given up does not matter.
                    let _ = answer.send(());
                }
                Message::ShutDown(answer) => {
                    self.drop_listener();
                    self.close_all();
                    let _ = answer.send(());
                }
                Message::Close(channel) => self.close_channel(channel),
            }
        }
    }

    // ---- accepting ----

    fn drop_listener(&mut self) {
        if let Some(listener) = self.listener.take() {
            self.poller.remove(&listener);
        }
        self.accepting = Accepting::Stopped;
    }

    fn accept(&mut self, most: usize) {
        for _ in 0..most {
            let Some(listener) = &self.listener else { return };
            let Some(taken) = self.shared.budget.take(2) else {
                self.starve();
                return;
            };
            match listener.accept() {
                Ok((client, address)) => {
                    self.shared.opened();
                    match self.lighter_desk() {
                        Some(desk) => {
                            self.shared.desks[desk].load.add();
                            self.shared.desks[desk].send(Message::Adopt(client, address, taken));
                        }
                        None => {
                            self.shared.desks[self.id].load.add();
                            self.admit(client, address, taken);
                        }
                    }
                }
                Err(AcceptError::Empty) => return,
                Err(AcceptError::Client) => {}
                Err(AcceptError::Exhausted) => {
                    drop(taken);
                    self.starve();
                    return;
                }
                Err(AcceptError::Other(e)) => {
                    self.shared.log.tell(&Event::AcceptFailed { cause: e.to_string() });
                    drop(taken);
                    self.pause();
                    return;
                }
            }
        }
        self.clients_wait = true;
    }

    /// The worker with the fewest connections, if it has clearly fewer than this one.
    fn lighter_desk(&self) -> Option<usize> {
        let desks = &self.shared.desks;
        let mine = desks[self.id].load.get();
        if mine < 2 {
            return None;
        }
        let (least, load) =
            desks.iter().map(|desk| desk.load.get()).enumerate().min_by_key(|&(_, load)| load)?;
        // A hand-over costs a wake-up. Among many, one more or less does not matter.
        (mine > load + 1 + mine / 8).then_some(least)
    }

    /// Out of descriptors: wait for one, quietly.
    fn starve(&mut self) {
        if !self.shared.starved.swap(true, Ordering::Relaxed) {
            let limit = self.shared.options.descriptor_limit;
            self.shared.log.tell(&Event::OutOfDescriptors { limit });
        }
        self.pipes.clear();
        self.pause();
    }

    fn pause(&mut self) {
        if self.accepting == Accepting::On
            && let Some(listener) = &self.listener
        {
            self.poller.remove(listener);
        }
        if self.accepting != Accepting::Stopped {
            self.accepting = Accepting::Starved(self.now + STARVED_MS);
        }
    }

    fn resume_accepting(&mut self) {
        let Some(listener) = &self.listener else { return };
        // Waking the poller for a descriptor that is not there would be a busy loop.
        let Some(probe) = self.shared.budget.take(2) else {
            self.accepting = Accepting::Starved(self.now + STARVED_MS);
            return;
        };
        drop(probe);
        if self.poller.add_listener(listener, LISTENER).is_err() {
            self.accepting = Accepting::Starved(self.now + STARVED_MS);
            return;
        }
        self.accepting = Accepting::On;
    }

    /// Says that descriptors are back, once there are plenty: at the very limit every client that leaves makes room for one.
    fn tell_recovery(&self) {
        if self.shared.starved.load(Ordering::Relaxed)
            && !self.shared.budget.is_short()
            && self.shared.starved.swap(false, Ordering::Relaxed)
        {
            self.shared.log.tell(&Event::DescriptorsBack);
        }
    }

    // ---- a connection's life ----

    /// Takes a client in; its load is counted already.
    fn admit(&mut self, client: OwnedFd, address: SocketAddr, taken: Taken) {
        let dial = match Dial::begin(address, &self.shared.dialer) {
            Ok(dial) => dial,
            Err(why) => {
                self.turn_away(address, why);
                drop(client);
                drop(taken);
                self.departed();
                return;
            }
        };
        let connection = Connection {
            client,
            phase: Phase::Dialing(Box::new(dial)),
            relay: Relay::new(),
            delivered: [0; 2],
            moved_at: self.now,
            deadline: None,
            address: self.shared.log.is_debug().then(|| Box::new(address)),
            muted: [false; 2],
            queued: false,
            _taken: taken,
        };
        let key = self.connections.insert(Some(connection));
        if let Some(Some(connection)) = self.connections.get(key)
            && let Err(e) = self.poller.add(&connection.client, token(key, Side::Client))
        {
            self.unwatched(key, &e);
            return;
        }
        self.guarded(key, |worker| worker.dial(key));
    }

    fn dial(&mut self, key: usize) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        let patience = millis(self.shared.options.connect_timeout).max(1);
        let wait = match dial.attempt(&self.shared.dialer, self.now, patience) {
            Attempt::Started => {
                let watched =
                    dial.server.as_ref().map(|server| self.poller.add(server, token(key, Side::Server)));
                if let Some(Err(e)) = watched {
                    return self.unwatched(key, &e);
                }
                patience
            }
            Attempt::Wait => STARVED_MS,
            Attempt::Over(why) => {
                let client = dial.client;
                self.turn_away(client, why);
                return self.close(key, Ending { reset_client: false, reset_server: false }, TURNED_AWAY);
            }
        };
        self.set_deadline(key, Some(self.now.saturating_add(wait)));
    }

    /// A socket that cannot be watched cannot be served. Kernel memory or the system's limit of watches is used up.
    fn unwatched(&mut self, key: usize, error: &io::Error) {
        self.shared.log.tell(&Event::AcceptFailed { cause: format!("cannot watch a socket: {error}") });
        self.close(key, Ending { reset_client: true, reset_server: true }, "cannot be watched");
    }

    fn turn_away(&self, client: SocketAddr, why: NoChannel) {
        if self.shared.log.is_debug() {
            let reason = match why {
                NoChannel::Empty => "there is no channel",
                NoChannel::Disabled => "all channels are disabled",
                NoChannel::Full => "all channels are full",
                NoChannel::Failed => "all channels failed",
            };
            self.shared.log.tell(&Event::ClientLost { client: client.ip(), reason: reason.into() });
        }
    }

    fn event(&mut self, token: u64, ready: Ready) {
        let number = token - FIRST_SOCKET;
        let Ok(key) = usize::try_from(number / 2) else { return };
        let side = if number.is_multiple_of(2) { Side::Client } else { Side::Server };
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        match (&mut connection.phase, side) {
            (Phase::Relaying { .. }, _) => {
                connection.relay.note(side, ready);
                if connection.relay.is_blocked(side) && ready.readable && !ready.read_closed {
                    self.mute(key, side);
                }
                self.guarded(key, |worker| worker.turn_unless_queued(key));
            }
            (Phase::Dialing(_), Side::Client) => {
                connection.relay.note(side, ready);
                // Half-closing before there is a channel is fine; being gone is not.
                if ready.error && socket::take_error(&connection.client).is_some() {
                    self.close(key, Ending { reset_client: true, reset_server: true }, "client gone");
                }
            }
            (Phase::Dialing(_), Side::Server) => self.guarded(key, |worker| worker.dialed(key, ready)),
        }
    }

    /// The channel answered, one way or the other.
    fn dialed(&mut self, key: usize, ready: Ready) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        let Some(server) = &dial.server else { return };
        if ready.error
            && let Some(error) = socket::take_error(server)
        {
            return self.dial_failed(key, &error);
        }
        if !ready.writable {
            return;
        }
        self.connected(key, ready);
    }

    fn connected(&mut self, key: usize, ready: Ready) {
        let Some(Some(mut connection)) = self.connections.get_mut(key).map(Option::take) else { return };
        let Phase::Dialing(dial) = connection.phase else { return };
        let client = dial.client;
        let target = dial.target();
        let Some((server, lease)) = dial.succeeded(&self.shared.dialer) else { return };
        if self.shared.log.is_debug()
            && let Some(address) = target
        {
            self.shared.log.tell(&Event::Opened { client, channel: lease.key(), address });
        }
        connection.phase = Phase::Relaying { server, lease };
        connection.moved_at = self.now;
        connection.relay.note(Side::Server, ready);
        if let Some(slot) = self.connections.get_mut(key) {
            *slot = Some(connection);
        }
        self.rearm(key);
        self.turn(key);
    }

    fn dial_failed(&mut self, key: usize, error: &io::Error) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        match dial.failed(error, &self.shared.dialer) {
            Ok(()) => self.dial(key),
            Err(why) => {
                let client = dial.client;
                self.turn_away(client, why);
                self.close(key, Ending { reset_client: false, reset_server: false }, TURNED_AWAY);
            }
        }
    }

    /// A source that goes on sending while the destination takes nothing would wake us for every segment.
    fn mute(&mut self, key: usize, side: Side) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let Some(fd) = connection.fd(side) else { return };
        if !connection.muted[side as usize] && self.poller.set_reading(fd, token(key, side), false).is_ok() {
            connection.muted[side as usize] = true;
        }
    }

    fn unmute(&mut self, key: usize) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        for side in [Side::Client, Side::Server] {
            if connection.muted[side as usize]
                && !connection.relay.is_blocked(side)
                && let Some(fd) = connection.fd(side)
                // The table of a poller does not refuse what it has already; if it did, the next turn asks again.
                && self.poller.set_reading(fd, token(key, side), true).is_ok()
            {
                connection.muted[side as usize] = false;
            }
        }
    }

    fn turn_unless_queued(&mut self, key: usize) {
        if let Some(Some(connection)) = self.connections.get(key)
            && !connection.queued
        {
            self.turn(key);
        }
    }

    /// Lets the relay do what it can.
    fn turn(&mut self, key: usize) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let Phase::Relaying { server, lease } = &connection.phase else { return };
        let before = connection.delivered;
        let was_half_closed = connection.relay.is_half_closed();
        let mut sockets = Sockets {
            client: connection.client.as_fd(),
            server: server.as_fd(),
            pipes: &mut self.pipes,
            lease,
            shard: self.id,
            dump: self.shared.options.dump.as_ref(),
            delivered: &mut connection.delivered,
        };
        let verdict = connection.relay.turn(&mut sockets, &mut self.scratch);
        if connection.delivered != before {
            connection.moved_at = self.now;
        }
        let any_muted = connection.muted != [false; 2];
        if any_muted {
            self.unmute(key);
        }
        self.obey(key, verdict, was_half_closed);
    }

    fn obey(&mut self, key: usize, verdict: Verdict, was_half_closed: bool) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        match verdict {
            Verdict::Sleep => {
                if !was_half_closed && connection.relay.is_half_closed() {
                    self.rearm(key);
                }
            }
            Verdict::Again => {
                connection.queued = true;
                self.queue.push(key);
            }
            Verdict::Linger => {
                let quiet = self.now.saturating_sub(connection.moved_at);
                let wait = (quiet / 8).clamp(LINGER_MS, LINGER_MOST_MS);
                self.set_deadline(key, Some(self.now + wait));
            }
            Verdict::Done(ending) => {
                let how = if ending.reset_client || ending.reset_server { "reset" } else { "end" };
                self.close(key, ending, how);
            }
        }
    }

    /// A deadline has come.
    fn expired(&mut self, key: usize) {
        let now = self.now;
        let due = self.due(key);
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        match &mut connection.phase {
            Phase::Dialing(dial) if dial.server.is_some() => {
                self.dial_failed(key, &io::Error::from(io::ErrorKind::TimedOut));
            }
            Phase::Dialing(_) => self.dial(key),
            Phase::Relaying { .. } if due.is_some_and(|due| due <= now) => self.abandon(key, "idle"),
            Phase::Relaying { .. } => {
                self.rearm(key);
                self.turn(key);
            }
        }
    }

    /// When a relaying connection has been quiet for too long.
    fn due(&self, key: usize) -> Option<u64> {
        let connection = self.connections.get(key)?.as_ref()?;
        let options = &self.shared.options;
        let half_close = options.half_close_timeout.filter(|_| connection.relay.is_half_closed());
        let quiet = [options.idle_timeout, half_close].into_iter().flatten().min()?;
        Some(connection.moved_at.saturating_add(millis(quiet).max(1)))
    }

    fn rearm(&mut self, key: usize) {
        let due = self.due(key);
        self.set_deadline(key, due);
    }

    fn set_deadline(&mut self, key: usize, deadline: Option<u64>) {
        if let Some(Some(connection)) = self.connections.get_mut(key) {
            self.timers.reset(key, connection.deadline, deadline);
            connection.deadline = deadline;
        }
    }

    /// Ends a connection from outside.
    fn abandon(&mut self, key: usize, how: &str) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let ending = match &connection.phase {
            Phase::Dialing(_) => Ending { reset_client: true, reset_server: true },
            Phase::Relaying { server, lease } => connection.relay.abandon(&mut Sockets {
                client: connection.client.as_fd(),
                server: server.as_fd(),
                pipes: &mut self.pipes,
                lease,
                shard: self.id,
                dump: None,
                delivered: &mut connection.delivered,
            }),
        };
        self.close(key, ending, how);
    }

    fn close_channel(&mut self, channel: ChannelKey) {
        let of_channel = |connection: &Connection| match &connection.phase {
            Phase::Dialing(dial) => dial.channel() == Some(channel),
            Phase::Relaying { lease, .. } => lease.key() == channel,
        };
        self.abandon_all(of_channel, "closed by the operator");
    }

    fn close_all(&mut self) {
        self.abandon_all(|_| true, "shut down");
    }

    fn abandon_all(&mut self, which: impl Fn(&Connection) -> bool, how: &str) {
        let keys: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, slot)| slot.as_ref().is_some_and(&which))
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            self.abandon(key, how);
        }
    }

    fn close(&mut self, key: usize, ending: Ending, how: &str) {
        self.set_deadline(key, None);
        let Some(slot) = self.connections.get_mut(key) else { return };
        let Some(connection) = slot.take() else { return };
        self.freed.push(key);
        if ending.reset_client {
            socket::reset_on_close(&connection.client);
        }
        if let Phase::Dialing(dial) = &connection.phase {
            if let Some(server) = dial.server.as_ref().filter(|_| ending.reset_server) {
                // It may have accepted already, and would take a close for a clean end.
                socket::reset_on_close(server);
            }
            if connection.address.is_some() && how != TURNED_AWAY {
                let client = dial.client.ip();
                self.shared.log.tell(&Event::ClientLost { client, reason: how.to_owned() });
            }
        }
        if let Phase::Relaying { server, lease } = &connection.phase {
            if ending.reset_server {
                socket::reset_on_close(server);
            }
            if let Some(client) = &connection.address {
                self.shared.log.tell(&Event::Closed {
                    client: **client,
                    channel: lease.key(),
                    sent_bytes: connection.delivered[Side::Server as usize],
                    rcvd_bytes: connection.delivered[Side::Client as usize],
                    how: how.to_owned(),
                });
            }
        }
        drop(connection);
        self.departed();
    }

    /// One client fewer.
    fn departed(&mut self) {
        self.shared.desks[self.id].load.subtract();
        self.shared.closed();
        if self.shared.desks[self.id].load.get() == 0 {
            // Idle pipes are for the next bulk transfer; a worker with nobody to serve keeps nothing.
            self.pipes.clear();
        }
        self.tell_recovery();
        if matches!(self.accepting, Accepting::Starved(_)) {
            self.resume_accepting();
        }
    }
}
