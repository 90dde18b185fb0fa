//! One worker: a thread with its poller, its clients, its buffer.
//!
//! Knows: every connection's stage and deadline, when to accept and when to hand a client to another worker.
//! Never: how channels are chosen, what the bytes mean.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use slab::Slab;

use self::doors::Doors;
use self::past::{ClientAddress, PastConnections};
use self::unheard::{SaidByProxy, Unheard};
use self::untold::Untold;
use super::busy_poll::{self, BusyPoll};
use super::chain::Link;
use super::dial::{Dial, Waited};
use super::hearing::Hearing;
use super::planted::{self, Bug};
use super::shared::{Guest, Message, Shared, tag_of};
use super::sockets::{AwaitedByte, Sockets};
use super::taps::Taps;
use crate::observe::{ConnectionTrace, Dump, Event};
use crate::sched::{Announced, ChannelKey, End, OwnFault, Peers, Slot};
use crate::spec::ClientSource;
use crate::sys::clock::OwnTime;
use crate::sys::descriptors::Taken;
use crate::sys::listen::Listener;
use crate::sys::poller::{Kind, Readiness, Seen, Token};
use crate::sys::scheduling;
use crate::sys::sight::Sight;
use crate::sys::socket;
use crate::sys::splice::{Pipe, Pipes};
use crate::sys::timers::Timers;
#[cfg(test)]
use crate::sys::trouble::{self, FaultPoint};
use crate::wire::relay::{Ending, Ready, Relay, Side, Verdict};

mod accepting;
mod asking;
mod dialing;
mod doors;
mod ending;
mod greeting;
mod leaving;
mod logging;
mod looking;
mod past;
#[cfg(all(target_os = "linux", not(portable)))]
#[cfg(test)]
mod sim;
mod tapping;
mod unheard;
mod untold;

/// Size in bytes of a worker's read buffer, which all its connections share.
const SCRATCH: usize = 64 * 1024;
/// How long accept or a dial waits when descriptors have run out and no event reports that one is free, in
/// ms.
const STARVED_MS: u64 = 50;

/// The stage of a client.
enum Stage {
    /// Something has to be read from it before a channel is chosen.
    Greeting(Box<Unheard>),
    /// Everything that the choice of its channel depends on is known.
    Greeted,
    /// It is in the wait queue.
    Waiting(Box<Waiting>),
    Dialing(Box<Dial>),
    Relaying {
        server: OwnedFd,
        slot: Slot,
    },
    /// Between two stages.
    Over,
}

struct Waiting {
    place: Waited,
    peers: Peers,
}

/// When it is dropped, things are given back in this order: the slot, the descriptors, the place in the
/// counts.
struct Connection {
    client: OwnedFd,
    stage: Stage,
    relay: Relay<Box<Pipe>>,
    /// The number of the watch of each side's socket: a dial that goes on to another address gets a new one.
    generations: [u16; 2],
    /// Bytes delivered to the client and to the server.
    delivered: [u64; 2],
    /// The number that operators know it by.
    id: u64,
    /// When it was accepted, in ms of the process's clock, which goes on while this thread is held up.
    accepted_at: u64,
    /// When bytes last moved, as far as is known without asking the kernel.
    moved_at: u64,
    deadline: Option<NonZeroU64>,
    /// What few connections have, kept apart to save memory in the others.
    rare: Option<Box<Rare>>,
    /// When one direction ended, in tenths of a second; 0 if none has.
    half_closed_at: u32,
    /// When its channel accepted it, in tenths of a second; 0 if not yet, or in another process.
    connected_at: u32,
    /// The kernel probes its peers often, to find out whether they still exist.
    asked_often: bool,
    /// Whether it has waited too long for its channel's first byte.
    silence: Silence,
    /// Sides whose new data is not reported, because older data of theirs still waits for the other side.
    muted: [bool; 2],
    /// It is in the queue of connections that have more to do.
    queued: bool,
    taken: Taken,
    service: Guest,
    peer: ClientAddress,
}

/// Whether a connection has waited too long for its channel's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// Not so far.
    Unknown,
    /// Yes, while the client had sent nothing.
    Mutual,
    /// Yes, after the client had sent something.
    Heard,
}

struct Rare {
    /// The client's address; kept only while the log reports connections.
    address: Option<ClientSource>,
    /// What a proxy has said about its client.
    announced: Option<Box<SaidByProxy>>,
    /// Set if it leads to another service of ours.
    link: Option<Box<Link>>,
    /// When its maximum lifetime is over; `NEVER` if it has none.
    expires_at: u64,
    /// How many bytes both peers had acknowledged when the kernel was last asked.
    acknowledged: u64,
    /// Whether the peer of a Unix socket had left bytes unread then.
    unread: bool,
    /// It waits for room in the dump.
    undumped: bool,
    /// What the access log will report about it, if there is one.
    trace: Option<Box<ConnectionTrace>>,
    /// The channels that closed its connection at once.
    past: Vec<ChannelKey>,
    /// The client was told to start TLS, so its channel is asked for TLS first.
    asks_for_tls: bool,
    /// Counts at its service what is kept of its PROXY header, if that is much.
    header: Option<Hearing>,
    /// Counts at its service what is held of it for its channel, if that is much.
    held: Option<Hearing>,
}

impl Default for Rare {
    fn default() -> Self {
        Self {
            address: None,
            announced: None,
            link: None,
            expires_at: NEVER,
            acknowledged: 0,
            unread: false,
            undumped: false,
            trace: None,
            past: Vec::new(),
            asks_for_tls: false,
            header: None,
            held: None,
        }
    }
}

impl Connection {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// What is collected for the access log.
    fn trace(&mut self) -> Option<&mut ConnectionTrace> {
        self.rare.as_mut()?.trace.as_deref_mut()
    }

    /// The channels that closed its connection at once.
    fn past(&self) -> &[ChannelKey] {
        self.rare.as_ref().map_or(&[][..], |rare| &rare.past)
    }

    fn expires_at(&self) -> u64 {
        self.rare.as_ref().map_or(NEVER, |rare| rare.expires_at)
    }

    fn set_expires_at(&mut self, at: u64) {
        if at != self.expires_at() {
            self.rare().expires_at = at;
        }
    }

    /// The side that has ended its direction while the other goes on.
    fn half_closed_side(&self) -> Option<Side> {
        let ended = || self.relay.first_end().filter(|&(_, is_error)| !is_error);
        self.relay.is_half_closed().then(ended)?.map(|(side, _)| side)
    }

    /// The client's address, if the log reports connections.
    fn address(&self) -> Option<ClientSource> {
        self.rare.as_ref()?.address
    }

    /// The client's name in the log. `None`: the log does not report connections. For a connection older than
    /// that setting, the system is asked; it may no longer know.
    fn told_peers(&self) -> Option<Peers> {
        let asked = || socket::client(&self.client).unwrap_or(ClientSource::UNKNOWN);
        let seen = self.address().or_else(|| self.service.log.is_debug().then(asked))?;
        Some(self.peers(seen))
    }

    /// The client that connected from `seen`, including what it announced.
    fn peers(&self, seen: ClientSource) -> Peers {
        Peers { seen, claimed: self.claim() }
    }

    /// The client as rules see it.
    fn client_source(&self) -> ClientSource {
        self.peers(self.peer.into()).client()
    }

    /// The client's address as rules about networks see it. `None` if it has none.
    fn client_ip(&self) -> Option<IpAddr> {
        self.client_source().ip()
    }

    /// The client that a proxy announced.
    fn claim(&self) -> Option<Announced> {
        self.said()?.claim
    }

    /// What a proxy has said about its client.
    fn said(&self) -> Option<&SaidByProxy> {
        self.rare.as_ref()?.announced.as_deref()
    }

    /// Notes what a proxy has said about its client.
    fn announce(&mut self, announced: SaidByProxy) {
        if let Some(trace) = self.trace() {
            trace.peers.claimed = announced.claim;
        }
        self.rare().announced = Some(Box::new(announced));
        self.count_header();
    }

    /// How many bytes are kept of its PROXY header.
    fn kept_of_header(&self) -> usize {
        self.said().map_or(0, |said| said.tlvs.len())
    }

    /// Counts what is kept of its PROXY header until [`Connection::got_through`]. It is the proxy that has
    /// sent it, not the client.
    fn count_header(&mut self) {
        let bytes = self.kept_of_header();
        let counted = Hearing::of_held(&self.service.kept_greetings, self.peer.into(), bytes);
        if counted.is_some() && !planted::has(Bug::ForgetsHeld) {
            self.rare().header = counted;
        }
    }

    /// Counts what is held of a client whose channel has got nothing yet, until [`Connection::got_through`].
    fn count_held(&mut self) {
        let (client, bytes) = (self.client_source(), self.relay.held_from(Side::Client));
        let counted = Hearing::of_held(&self.service.kept_greetings, client, bytes);
        if counted.is_some() || self.rare.is_some() {
            self.rare().held = counted;
        }
    }

    /// The first bytes went over its connection to the channel: it stays with this channel, so what was kept
    /// to begin with another one is not needed any more.
    fn got_through(&mut self) {
        if let Some(rare) = &mut self.rare {
            (rare.header, rare.held) = (None, None);
            if let Some(said) = &mut rare.announced {
                said.tlvs = Box::default();
            }
        }
    }

    /// When its channel will have kept it waiting too long for its first byte, counted from the last delivery
    /// to the channel or from the connect. `None`: there is no limit, or this is already known.
    fn silent_at(&self, limit: Option<Duration>) -> Option<u64> {
        let limit = limit?;
        let has_spoken = self.delivered[Side::Server as usize] > 0;
        let is_known = match self.silence {
            Silence::Unknown => false,
            Silence::Mutual => !has_spoken,
            Silence::Heard => true,
        };
        let waits = self.delivered[Side::Client as usize] == 0 && self.connected_at > 0 && !is_known;
        waits.then(|| self.moved_at.saturating_add(millis(limit).max(1)))
    }

    /// Would a first byte be late if it came now?
    fn is_late(&self, now: u64) -> bool {
        let has_spoken = self.delivered[Side::Server as usize] > 0;
        self.silence == Silence::Heard
            || self.silence == Silence::Mutual && !has_spoken
            || self.silent_at(self.service.options().first_byte).is_some_and(|at| at <= now)
    }

    fn token(&self, key: usize, side: Side) -> Token {
        // A worker has far fewer connections than there are keys, since descriptors run out first.
        Token { kind: Kind::Socket, key: key as u32, side, generation: self.generations[side as usize] }
    }

    /// Is a side muted although its events would be useful?
    fn is_deaf(&self) -> bool {
        let is_deaf = |side: Side| self.muted[side as usize] && !self.relay.is_blocked(side);
        is_deaf(Side::Client) || is_deaf(Side::Server)
    }

    fn fd(&self, side: Side) -> Option<BorrowedFd<'_>> {
        match (side, &self.stage) {
            (Side::Client, _) => Some(self.client.as_fd()),
            (Side::Server, Stage::Relaying { server, .. }) => Some(server.as_fd()),
            (Side::Server, _) => None,
        }
    }
}

pub(super) struct Worker<P> {
    id: usize,
    poller: P,
    doors: Doors,
    /// Clients accepted so far, including those that were handed to another worker.
    accepted: usize,
    /// Something was finished since the last panic.
    goes_on: bool,
    shared: Arc<Shared>,
    connections: Slab<Connection>,
    timers: Timers,
    /// Refused clients that are still to be logged.
    untold: Untold,
    /// Connections that have used up their turn.
    queue: VecDeque<usize>,
    /// Connections whose bytes wait for room in the dump.
    undumped: Vec<usize>,
    /// Messages that were taken and not handled yet.
    inbox: VecDeque<Message>,
    sight: Sight,
    /// The tapped connections.
    taps: Taps,
    past: PastConnections,
    /// The number of the last watch; wraps around.
    watches: u16,
    pipes: Pipes,
    /// `None`: it always sleeps.
    busy_poll: Option<BusyPoll>,
    scratch: Box<[u8]>,
    /// Index of the next event in the present batch.
    next_event: usize,
    /// The time up to which all events have been seen, in ms of its own time.
    heard: u64,
    time: OwnTime,
    /// Its own time in ms.
    now: u64,
}

/// A look for events.
struct Look {
    /// How long it may take.
    patience: Option<Duration>,
    /// When it began, in ms of the worker's own time.
    began: u64,
}

/// The index when no event of a batch is left.
const WORKED_OFF: usize = usize::MAX;
/// Later than any time.
const NEVER: u64 = u64::MAX;

const RESET: Ending = Ending { reset_client: true, reset_server: true };

/// A time in tenths of a second; at least 1, since 0 means never.
fn tenths(ms: u64) -> u32 {
    u32::try_from(ms / 100).unwrap_or(u32::MAX).max(1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The text of a panic, or `of` if it has none.
fn words_of(panic: &(dyn Any + Send), of: &str) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| of.into())
}

/// How a connection ended, by the end that its relay met first.
fn end_of(first: Option<(Side, bool)>) -> End {
    match first {
        Some((Side::Client, false)) => End::ClientClosed,
        Some((Side::Server, false)) => End::ChannelClosed,
        Some((Side::Client, true)) => End::ClientReset,
        Some((Side::Server, true)) => End::ChannelReset,
        None => End::Ours(OwnFault::Call),
    }
}

impl<P: Readiness> Worker<P> {
    pub(super) fn new(id: usize, poller: P, shared: Arc<Shared>) -> Self {
        let now = shared.clock.now();
        let pipes = Pipes::new(Arc::clone(&shared.budget));
        let busy_poll = shared.options.busy_poll.then(BusyPoll::default);
        Self {
            id,
            poller,
            doors: Doors::default(),
            accepted: 0,
            goes_on: true,
            shared,
            connections: Slab::new(),
            timers: Timers::default(),
            untold: Untold::default(),
            queue: VecDeque::new(),
            undumped: Vec::new(),
            inbox: VecDeque::new(),
            sight: Sight::default(),
            taps: Taps::default(),
            past: PastConnections::default(),
            watches: 0,
            pipes,
            busy_poll,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            next_event: WORKED_OFF,
            heard: 0,
            time: OwnTime::at(now),
            now: millis(now),
        }
    }

    /// Serves for ever.
    pub(super) fn run(&mut self) {
        scheduling::become_batch();
        loop {
            if catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
                let _ = catch_unwind(AssertUnwindSafe(|| self.survive()));
            }
        }
    }

    /// Handles a panic that was not in a connection's code (those are caught by `guarded`). Whatever it was,
    /// the other connections must go on.
    fn survive(&mut self) {
        self.shared.log.tell(&Event::WorkerPanic { what: "event loop".into() });
        if !std::mem::take(&mut self.goes_on) {
            // Trying again at once would achieve nothing.
            std::thread::sleep(Duration::from_millis(STARVED_MS));
        }
    }

    fn serve(&mut self) {
        loop {
            // After a panic the batch is continued, because each event is reported only once.
            if self.next_event == WORKED_OFF {
                let look = self.plan();
                let seen = self.wait(look.patience);
                self.looked(&look, seen);
            }
            self.work_off();
        }
    }

    /// The next look.
    fn plan(&self) -> Look {
        Look { patience: self.patience(), began: millis(self.own_time()) }
    }

    /// Notes the result of a look.
    fn looked(&mut self, look: &Look, seen: io::Result<Seen>) {
        // This comes first: events are reported only once and must not be lost by an error below.
        self.next_event = 0;
        let seen = seen.unwrap_or_else(|e| {
            self.shared.log.tell(&Event::AcceptFailed { cause: format!("cannot wait for events: {e}") });
            std::thread::sleep(Duration::from_millis(STARVED_MS));
            Seen::Interrupted
        });
        self.now = millis(self.time.waited(look.patience, self.shared.clock.now()));
        // Two sockets per connection, the listeners and the waker.
        let watches = 2 * self.connections.len() + self.doors.len() + 1;
        // Events within lost time cannot be told apart, so they count as not seen.
        self.heard = self.sight.looked(look.began.min(self.now), seen, self.poller.events(), watches);
    }

    /// Handles what the last look reported.
    fn work_off(&mut self) {
        if self.shared.ends.load(Ordering::Relaxed) {
            // Among the events its turn might come late.
            self.read_inbox();
        }
        while let Some((token, ready)) = self.poller.event(self.next_event) {
            self.next_event += 1;
            match token.kind {
                Kind::Listener => self.doors.knock(token),
                Kind::Waker => self.read_inbox(),
                Kind::Socket => self.event(token, ready),
            }
        }
        self.next_event = WORKED_OFF;
        self.work_off_inbox();
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { break };
            if let Some(connection) = self.connections.get_mut(key)
                && std::mem::take(&mut connection.queued)
            {
                self.guarded(key, |worker| worker.turn(key));
            }
        }
        while let Some((at, key)) = self.timers.due(self.heard) {
            if let Some(connection) = self.connections.get_mut(key)
                && connection.deadline.map(NonZeroU64::get) == Some(at)
            {
                connection.deadline = None;
                self.guarded(key, |worker| worker.expired(key));
            }
        }
        self.resume_starved();
        self.tell_refusals();
        let mut accepted = 0;
        for _ in 0..self.doors.knocked() {
            if accepted >= accepting::CLIENTS_A_TURN {
                break;
            }
            let Some(door) = self.doors.next_knock() else { break };
            accepted += self.accept(door, accepting::CLIENTS);
        }
        self.goes_on = true;
    }

    fn own_time(&self) -> Duration {
        self.time.reading(self.shared.clock.now())
    }

    /// Waits for events, asleep or polling.
    fn wait(&mut self, patience: Option<Duration>) -> io::Result<Seen> {
        let Some(busy_poll) = &mut self.busy_poll else { return self.poller.wait(patience) };
        if patience == Some(Duration::ZERO) || !busy_poll.wants_to_try() {
            return self.poller.wait(patience);
        }
        let seen = self.poller.wait(Some(Duration::ZERO))?;
        if self.poller.events() > 0 {
            return Ok(seen);
        }
        let begin = Instant::now();
        while begin.elapsed() < busy_poll::LONGEST {
            std::thread::yield_now();
            let seen = self.poller.wait(Some(Duration::ZERO))?;
            if self.poller.events() > 0 {
                busy_poll.found();
                return Ok(seen);
            }
        }
        busy_poll.missed();
        // A thread that was given the core may have kept it for some time.
        self.poller.wait(self.patience())
    }

    /// How long to wait for events. `None`: without limit.
    fn patience(&self) -> Option<Duration> {
        if !self.queue.is_empty() || self.doors.knocked() > 0 {
            return Some(Duration::ZERO);
        }
        let next = [self.timers.next(), self.doors.starved_until(), self.untold.next()]
            .into_iter()
            .flatten()
            .min()?;
        match next.saturating_sub(millis(self.own_time())) {
            0 => Some(Duration::ZERO),
            // A millisecond later than due, so that the clock has surely passed it.
            left => Some(Duration::from_millis(left.saturating_add(1))),
        }
    }

    /// Calls `act` so that a panic ends only this connection.
    fn guarded(&mut self, key: usize, act: impl FnOnce(&mut Self)) {
        let Some(id) = self.connections.get(key).map(|connection| connection.id) else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| act(self))) {
            if self.connections.get(key).is_some_and(|connection| connection.id == id) {
                let ending = Ending { reset_client: true, reset_server: true };
                // A second panic comes too late to keep the connection.
                let _ =
                    catch_unwind(AssertUnwindSafe(|| self.close(key, ending, End::Ours(OwnFault::Panic))));
            }
            self.shared.log.tell(&Event::WorkerPanic { what: words_of(&*panic, "a connection") });
        }
    }

    /// Identifies a client in the wait queue.
    fn tag(&self, key: usize) -> u64 {
        tag_of(self.id, key)
    }

    /// A number that no other connection of the instance has.
    fn next_id(&mut self) -> u64 {
        self.shared.desks[self.id].number() * self.shared.desks.len() as u64 + self.id as u64
    }

    /// The number of a new watch, so that no event of an older one is taken for it.
    fn next_watch(&mut self) -> u16 {
        self.watches = self.watches.wrapping_add(1);
        self.watches
    }

    fn read_inbox(&mut self) {
        self.inbox.extend(self.shared.desks[self.id].take());
        self.work_off_inbox();
    }

    /// Handles messages. A panic loses only the message that it happened in.
    fn work_off_inbox(&mut self) {
        while let Some(message) = self.inbox.pop_front() {
            let grant = match &message {
                Message::Granted(service, grant) => Some((*service, grant.tag, grant.ticket)),
                _ => None,
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.obey_message(message))) {
                if let Some((service, tag, ticket)) = grant {
                    let _ = catch_unwind(AssertUnwindSafe(|| self.grant_was_lost(service, tag, ticket)));
                }
                self.shared.log.tell(&Event::WorkerPanic { what: words_of(&*panic, "a message") });
                if planted::has(Bug::LosesMessages) {
                    self.inbox.clear();
                }
            }
        }
    }

    fn obey_message(&mut self, message: Message) {
        #[cfg(test)]
        let _ = trouble::strike(FaultPoint::Message);
        match message {
            Message::Open(services, answer) => {
                let _ = answer.send(self.open(services));
            }
            Message::Adopt(service, client, address, taken) => self.adopt(service, client, address, taken),
            Message::StopListening(service, answer) => {
                self.stop_listening(service);
                // The caller may have given up; that is no error.
                let _ = answer.send(());
            }
            Message::StopListeningOn(service, ports, answer) => {
                self.stop_listening_on(service, &ports);
                let _ = answer.send(());
            }
            Message::SetAside(service, ports, answer) => {
                self.set_aside(service, &ports);
                let _ = answer.send(());
            }
            Message::WelcomeOn(service, ports) => self.welcome_on(service, &ports),
            Message::StopAll(answer) => {
                for service in self.doors.services() {
                    self.stop_listening(service);
                }
                let _ = answer.send(());
            }
            Message::ShutDown(answer) => {
                self.doors.clear(&mut self.poller);
                self.take_back();
                self.close_all();
                let _ = answer.send(());
            }
            Message::Close(service, channel, why, answer) => {
                let _ = answer.send(self.close_channel(service, channel, why));
            }
            Message::CloseAddresses(service, channel, addresses) => {
                self.close_addresses(service, channel, &addresses);
            }
            Message::CloseAll(service, why, answer) => {
                let is_of_it = |connection: &Connection| connection.service.id == service;
                let _ = answer.send(self.abandon_all(is_of_it, why));
            }
            Message::CloseClients(service, net, why, answer) => {
                let _ = answer.send(self.close_clients(service, net, why));
            }
            Message::CloseSession(service, id, answer) => {
                let _ = answer.send(self.close_session(service, id));
            }
            Message::Tap(service, id, source, answer) => {
                let _ = answer.send(self.tap(service, id, source));
            }
            Message::Ended(service, now, answer) => {
                let _ = answer.send(self.past.of(service, now));
            }
            Message::Sessions(service, channel, from, answer) => {
                let _ = answer.send(self.sessions(service, channel, from));
            }
            Message::Records(due, from, answer) => {
                let _ = answer.send(self.records(&due, from));
            }
            Message::Granted(service, grant) => self.granted(service, grant),
            Message::Refuse(service, answer) => {
                self.refuse(service);
                let _ = answer.send(());
            }
            Message::CloseDoor(service, answer) => {
                let _ = answer.send(self.doors.move_all(service, Listener::refuse));
            }
            Message::FreePorts(service, answer) => {
                let _ = answer.send(self.doors.move_all(service, Listener::free));
            }
            Message::OpenDoor(service, answer) => {
                let _ = answer.send(self.doors.move_all(service, Listener::listen));
            }
            Message::Welcome(service) => self.welcome(service),
            Message::DumpHasRoom => self.dump_has_room(),
            Message::Retime(service) => {
                self.retime(service);
                self.recount(service);
            }
            Message::PausesChanged(service) => self.pauses_changed(service),
            Message::HoldDoors(answer) => {
                self.doors.hold(&mut self.poller);
                let _ = answer.send(());
            }
            Message::ReleaseDoors(answer) => {
                self.release_doors();
                let _ = answer.send(());
            }
            Message::Settle(answer) => {
                let _ = answer.send(());
            }
            Message::WhoWaits(answer) => {
                let _ = answer.send(self.who_waits());
            }
            Message::Count(answer) => {
                let _ = answer.send(self.count());
            }
            Message::Pack(wanted, answer) => {
                self.pack(&wanted);
                let _ = answer.send(());
            }
            Message::Receive(parcels) => self.receive(parcels),
        }
    }

    fn event(&mut self, token: Token, ready: Ready) {
        let (key, side) = (token.key as usize, token.side);
        let Some(connection) = self.connections.get(key) else { return };
        // Otherwise the event is for a socket that is already closed.
        if connection.token(key, side) == token {
            self.guarded(key, |worker| worker.heard_of(key, side, ready));
        } else if side == Side::Server
            && let Stage::Dialing(dial) = &connection.stage
            && dial.has_other(token.generation)
        {
            self.guarded(key, |worker| worker.other_dialed(key, token.generation, ready));
        }
    }

    /// Handles an event of a connection's socket.
    fn heard_of(&mut self, key: usize, side: Side, ready: Ready) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match (&mut connection.stage, side) {
            (Stage::Relaying { .. }, _) => {
                connection.relay.note(side, ready);
                if connection.relay.is_blocked(side) && ready.readable && !ready.read_closed {
                    self.mute(key, side);
                }
                self.turn_unless_queued(key);
            }
            (Stage::Greeting(_) | Stage::Greeted | Stage::Dialing(_) | Stage::Waiting(_), Side::Client) => {
                connection.relay.note(side, ready);
                if ready.error && socket::take_error(&connection.client).is_some() {
                    return self.close(
                        key,
                        Ending { reset_client: true, reset_server: true },
                        End::ClientReset,
                    );
                }
                if ready.read_closed && connection.half_closed_at == 0 {
                    connection.half_closed_at = tenths(self.now);
                    // The client may be gone altogether, which only the answer to a probe can tell.
                    socket::ask_often(&connection.client);
                }
                self.hear(key);
                self.leave_if_silent(key);
            }
            (Stage::Greeting(_) | Stage::Greeted | Stage::Waiting(_), Side::Server) | (Stage::Over, _) => {}
            (Stage::Dialing(_), Side::Server) => self.dialed(key, ready),
        }
    }

    /// A client may half-close before it has a channel. But a waiting client that has closed without ever
    /// sending anything waits for nothing.
    fn leave_if_silent(&mut self, key: usize) {
        if let Some(connection) = self.connections.get(key)
            && matches!(connection.stage, Stage::Waiting(_))
            && connection.half_closed_at > 0
            && connection.relay.held_from(Side::Client) == 0
            && socket::unread(&connection.client) == 0
        {
            self.close(key, Ending { reset_client: false, reset_server: true }, End::ClientClosed);
        }
    }

    /// A source that goes on sending while the destination takes nothing would wake the worker for every
    /// segment.
    fn mute(&mut self, key: usize, side: Side) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(fd) = connection.fd(side) else { return };
        let token = connection.token(key, side);
        if !connection.muted[side as usize] && self.poller.set_reading(fd, token, false).is_ok() {
            connection.muted[side as usize] = true;
        }
    }

    fn unmute(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        for side in [Side::Client, Side::Server] {
            if connection.muted[side as usize]
                && !connection.relay.is_blocked(side)
                && let Some(fd) = connection.fd(side)
                && self.poller.set_reading(fd, connection.token(key, side), true).is_ok()
            {
                connection.muted[side as usize] = false;
            }
        }
    }

    fn turn_unless_queued(&mut self, key: usize) {
        if let Some(connection) = self.connections.get(key)
            && !connection.queued
        {
            self.turn(key);
        }
    }

    /// Stops reading from this connection until there is room in the dump.
    fn hold_for_dump(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && !std::mem::replace(&mut connection.rare().undumped, true)
        {
            self.undumped.push(key);
        }
    }

    /// Continues the connections that waited for room in the dump.
    fn dump_has_room(&mut self) {
        for key in std::mem::take(&mut self.undumped) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            // Its key may belong to another connection by now.
            if connection.rare.as_mut().is_some_and(|rare| std::mem::take(&mut rare.undumped)) {
                // The peers were not idle meanwhile; balance was.
                connection.moved_at = self.now;
                self.guarded(key, |worker| {
                    worker.rearm(key);
                    worker.turn_unless_queued(key);
                });
            }
        }
    }

    /// Lets the relay do what it can.
    fn turn(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Relaying { server, slot } = &connection.stage else { return };
        if self.shared.options.dump.as_ref().is_some_and(Dump::is_full) {
            match connection.relay.broken() {
                // Everything it reads would have to be dumped.
                None => return self.hold_for_dump(key),
                // Nothing is read for the sake of a side that is gone: its slot must not wait for the dump.
                Some(side) if connection.fd(side).is_some_and(|fd| socket::take_error(fd).is_some()) => {
                    let _ = self.ending(key);
                    let ending = Ending { reset_client: true, reset_server: true };
                    return self.close(key, ending, end_of(Some((side, true))));
                }
                // This is known already: what is left is delivered, and nothing is read.
                Some(_) => {}
            }
        }
        let before = connection.delivered;
        let (was_half_closed, was_short) = (connection.relay.is_half_closed(), connection.relay.is_short());
        let was_broken = connection.relay.broken().is_some();
        let first_byte = (before[Side::Client as usize] == 0)
            .then(|| AwaitedByte { clock: self.shared.clock, is_late: connection.is_late(self.now) });
        let mut sockets = Sockets {
            client: connection.client.as_fd(),
            server: server.as_fd(),
            pipes: &mut self.pipes,
            slot,
            shard: self.id,
            dump: self.shared.options.dump.as_ref(),
            taps: self.taps.of(key, connection.id),
            loopback_congestion: self.shared.options.loopback_congestion.as_deref(),
            first_byte,
            delivered: &mut connection.delivered,
        };
        let verdict = connection.relay.turn(&mut sockets, &mut self.scratch);
        if before == [0; 2] && connection.delivered != before {
            connection.got_through();
        }
        if let Verdict::Ask { is_reset } = verdict {
            return self.server_has_ended(key, is_reset);
        }
        // The wait for memory begins now, however long the connection was idle before.
        if connection.delivered != before || (connection.relay.is_short() && !was_short) {
            connection.moved_at = self.now;
        }
        if !was_half_closed && connection.relay.is_half_closed() && connection.half_closed_at == 0 {
            connection.half_closed_at = tenths(self.now);
        }
        let has_broken = !was_broken && connection.relay.broken().is_some();
        if has_broken {
            // Bytes on their way get their time from now on, however long the connection was idle before.
            connection.moved_at = self.now;
        }
        let has_other_deadline = has_broken || !was_half_closed && connection.relay.is_half_closed();
        let any_muted = connection.muted != [false; 2];
        if before[Side::Client as usize] == 0 && connection.delivered[Side::Client as usize] > 0 {
            self.first_byte(key);
        }
        if any_muted {
            self.unmute(key);
        }
        self.await_first_byte(key, before);
        // The poller does not refuse changes to an existing watch. If it does, nothing else would try again.
        let is_deaf = any_muted && self.connections.get(key).is_some_and(Connection::is_deaf);
        self.obey(
            key,
            if is_deaf && verdict == Verdict::Sleep { Verdict::Later } else { verdict },
            has_other_deadline,
        );
    }

    /// The server ended before anything went over its connection: moves the client to another one, or passes
    /// the end on.
    fn server_has_ended(&mut self, key: usize, is_reset: bool) {
        if self.leave_server(key, is_reset) {
            return;
        }
        if let Some(connection) = self.connections.get_mut(key) {
            connection.relay.accept_end(is_reset);
            self.turn(key);
        }
    }

    fn obey(&mut self, key: usize, verdict: Verdict, has_other_deadline: bool) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match verdict {
            Verdict::Sleep => {
                if has_other_deadline {
                    self.rearm(key);
                }
            }
            Verdict::Ask { is_reset } => self.server_has_ended(key, is_reset),
            Verdict::Again => {
                connection.queued = true;
                self.queue.push_back(key);
            }
            Verdict::Later => {
                let quiet = self.now.saturating_sub(connection.moved_at);
                let wait = (quiet / 8).clamp(ending::LATER_MS, ending::LATER_MOST_MS);
                self.set_deadline(key, Some(self.now + wait));
            }
            Verdict::Done(ending) => {
                let how = end_of(connection.relay.first_end());
                self.judge(key, how);
                self.close(key, ending, how);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Connection, Rare};

    #[test]
    fn an_idle_connection_is_small() {
        // 300 bytes per connection are promised, including other costs; see docs/performance.md.
        assert!(size_of::<Connection>() <= 248, "{} bytes", size_of::<Connection>());
        assert!(size_of::<Option<Box<Rare>>>() <= 8);
    }
}
