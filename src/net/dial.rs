//! Finds a channel for one client: address after address, channel after channel, until one answers.
//!
//! Knows: the table's route, whose fault a failure is, how long an answer took. Never: how the choice is
//! made, the payload.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::chain::{Chains, Hop, Link};
use super::changed::{Changed, Deliver};
use super::circle::{Circle, LeadsBack};
use super::failure::{attempt_error, cause_of, fault_of, own_fault_of, words_of};
use super::foreign::{self, Foreign};
use super::planted::{self, Bug};
use crate::observe::{AttemptError, ConnectionTrace, Event, Log};
use crate::sched::{
    AdminState, ChannelKey, DialCause, DialFailure, GroupRange, Lease, Loss, NoChannel, Peers, Route,
    SharedTable, Table, Ticket, Transition, Turn,
};
use crate::spec::{Address, ClientSource, ProxyVersion};
use crate::sys::Clock;
use crate::sys::descriptors::Taken;
use crate::sys::fault::is_exhausted;
use crate::sys::socket::{self, ConnectError, HandshakeAck, Outgoing};
use crate::sys::transparent;

pub(super) mod races;

/// The loss of a client whose search has nothing left to try for an unknown reason.
const FAILED: Loss = Loss::NoChannel(NoChannel::Failed);

/// What every dial of a service needs.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) table: SharedTable,
    pub(super) clock: Clock,
    pub(super) outgoing: ArcSwap<Outgoing>,
    pub(super) log: Log,
    pub(super) circle: Circle,
    /// The service's number, and its connections to other services of the process.
    pub(super) service: u32,
    pub(super) chains: Arc<Chains>,
    /// Clients are about to move to another process: no further channel is tried here.
    pub(super) leaving: Arc<AtomicBool>,
    /// Tells the health thread that the table has changed.
    pub(super) changed: Changed,
    /// Sends slots to waiting clients of this service.
    pub(super) deliver: Deliver,
    /// Which problems with clients' own addresses operators were told about.
    pub(super) foreign: Foreign,
}

impl Dialer {
    /// Logs what a dial changed, and tells the health thread.
    fn changed(&self, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.log.tell(&Event::from(transition));
            self.changed.tell();
        }
    }

    /// Reports that a channel closed a connection at once, without a byte. `spoken` is its client, if that
    /// had sent something.
    pub(super) fn closed_early(&self, channel: ChannelKey, spoken: Option<Peers>) {
        let spoken = spoken.map(|peers| peers.client().key().into());
        let transition = self.table.lock_at(self.clock.now()).closed_early(channel, spoken);
        self.changed(transition);
    }

    /// Reports that a client has waited for the channel's first byte for `waited`, longer than `limit`.
    /// `spoken` is the client, if it had sent something.
    pub(super) fn silent(
        &self,
        channel: ChannelKey,
        spoken: Option<Peers>,
        waited: Duration,
        limit: Duration,
    ) {
        let (now, spoken) = (self.clock.now(), spoken.map(|peers| peers.client().key().into()));
        let transition = self.table.lock_at(now).silent(channel, spoken, now.saturating_sub(waited), limit);
        self.changed(transition);
    }

    /// The next channel for a client whose last one closed the connection before anything went over it.
    pub(super) fn next_past(
        &self,
        peers: Peers,
        came_to: u16,
        within: GroupRange,
        tag: u64,
        past: &[ChannelKey],
        is_reset: bool,
    ) -> Option<Begun> {
        let mut grants = Vec::new();
        let mut table = self.table.lock_at(self.clock.now());
        let turn = table.next_past(peers.client().key().into(), within, tag, past, is_reset, &mut grants);
        drop(table);
        self.deliver.all(grants);
        Some(Begun::of(turn?, peers, came_to))
    }

    /// Would a connection of this channel to this address reach the service's own listeners, so that its
    /// client comes back without end? Asks the kernel if necessary.
    pub(super) fn leads_back(&self, channel: ChannelKey, target: Address) -> Option<io::Error> {
        let leads_back = self.circle.awaits(target, true) && self.is_endless(channel);
        leads_back.then(|| LeadsBack::error(target))
    }

    /// What has to be kept for the life of a connection to a channel that another process has made.
    pub(super) fn link(
        &self,
        client: ClientSource,
        channel: ChannelKey,
        server: &OwnedFd,
    ) -> Option<Box<Link>> {
        let ours = socket::local(server)?;
        let target = socket::peer(server)?;
        let bound = self.outgoing.load().is_bound();
        match self.chains.step(self.service, client, ours, target, bound) {
            Hop::Within(link) if self.is_endless(channel) => Some(link),
            Hop::Out | Hop::Round | Hop::Within(_) => None,
        }
    }

    /// Would clients of this channel come back without end if it leads back to the service?
    fn is_endless(&self, channel: ChannelKey) -> bool {
        self.table.lock().channel(channel).is_some_and(|channel| channel.maxc.is_none())
    }
}

/// The result of a client's search.
#[derive(Debug)]
pub(super) struct Succeeded {
    pub(super) server: OwnedFd,
    pub(super) lease: Lease,
    /// To be kept for the life of the connection.
    pub(super) link: Option<Box<Link>>,
    /// How long the connect took.
    pub(super) took: Duration,
}

/// One client's search for a channel.
#[derive(Debug)]
pub(super) struct Dial {
    /// The walk; `None` once it is over.
    route: Option<Route>,
    /// The channel being tried; `None` once the walk is over.
    current: Option<Try>,
    /// Attempts that go on beside it, because none of them was answered in time.
    others: Vec<Try>,
    /// When one more channel is tried beside them, in ms of the worker's clock.
    pub(super) race_at: Option<u64>,
    /// When a resource on balance's side was first missing, in ms of the worker's clock.
    starving_since: Option<u64>,
    /// A channel that could not be tried because a resource was missing. If no other channel can be tried,
    /// the client waits for it.
    kept: Option<Untried>,
    pub(super) peers: Peers,
    /// The port that its client connected to.
    came_to: u16,
    /// The place in the wait queue through which it got its channel, and its times.
    pub(super) waited: Option<Waited>,
}

/// One channel being tried.
#[derive(Debug)]
struct Try {
    lease: Lease,
    /// The port that its client connected to, which is also the target port for channels without one.
    came_to: u16,
    /// Index of the channel's address that is being tried.
    address: usize,
    /// When this attempt began.
    begun: Duration,
    /// When the attempt times out, or is begun again, in ms of the worker's clock.
    deadline: Option<u64>,
    /// When the time for all addresses of the channel is over, in ms of the worker's clock. Set at the first
    /// attempt.
    until: Option<u64>,
    /// Whether one of the channel's addresses failed by the channel's own fault.
    blame: DialFailure,
    /// Why the last one of them failed.
    cause: Option<DialCause>,
    /// The socket of the running attempt.
    server: Option<OwnedFd>,
    /// The number of its watch at the poller.
    watch: u16,
    /// A descriptor beyond those that every client has.
    extra: Option<Taken>,
    /// What has still to be sent to the server before it says whether it speaks TLS. `None`: it is not asked.
    asking: Option<Vec<u8>>,
    /// How long the connect took, if the server is being asked.
    took: Option<Duration>,
    /// Set if it leads to another service of ours.
    link: Option<Box<Link>>,
    /// `--transparent`: the client, whose address decides which of the channel's addresses comes first.
    client: Option<Peers>,
    /// The attempt comes from the client's address.
    is_foreign: bool,
}

impl Try {
    fn new(lease: Lease, came_to: u16) -> Self {
        Self {
            lease,
            came_to,
            address: 0,
            begun: Duration::ZERO,
            deadline: None,
            until: None,
            blame: DialFailure::Local,
            cause: None,
            server: None,
            watch: 0,
            extra: None,
            asking: None,
            took: None,
            link: None,
            client: None,
            is_foreign: false,
        }
    }

    fn target(&self) -> Option<Address> {
        self.nth_target(self.address)
    }

    fn nth_target(&self, n: usize) -> Option<Address> {
        let at = self.client.map_or(n, |client| foreign::nth_address(&self.lease, n, &client));
        self.lease.target(at, self.came_to)
    }

    /// Whose fault an error of the attempt is. Replies to the client's address may get lost where those to
    /// our own do not, so silence alone proves nothing.
    fn fault_of(&self, error: &io::Error) -> DialFailure {
        let is_silence = || matches!(cause_of(error), DialCause::NoAnswer | DialCause::TimedOut);
        match fault_of(error) {
            DialFailure::Channel if self.is_foreign && is_silence() => DialFailure::Unproven,
            fault => fault,
        }
    }

    /// The text for an error of the attempt.
    fn words_of(&self, error: &io::Error) -> String {
        let words = format!("connect: {}", words_of(error));
        match (self.client, self.fault_of(error)) {
            (Some(client), DialFailure::Unproven) if !LeadsBack::is(error) => {
                format!("{words} to the client's address {}", client.client().key())
            }
            _ => words,
        }
    }

    /// How long an attempt at the current address may take, in ms: its share of the channel's time. Addresses
    /// that are known not to answer share what the others leave.
    fn share(&mut self, terms: &Terms) -> u64 {
        let until = *self.until.get_or_insert(terms.now.saturating_add(terms.patience));
        let alike = self.lease.alike_from(self.address);
        (until.saturating_sub(terms.now) / alike as u64).max(1)
    }

    /// Starts a connection to this address and has it watched.
    fn connect(
        &mut self,
        (target, seen): (Address, ClientSource),
        outgoing: &Outgoing,
        dialer: &Dialer,
        watch: &mut impl FnMut(&OwnedFd) -> io::Result<()>,
    ) -> Result<OwnedFd, ConnectError> {
        let is_reached = |target| dialer.circle.awaits(target, outgoing.is_bound());
        if is_reached(target) && dialer.is_endless(self.lease.key()) {
            return Err(ConnectError::Ours(LeadsBack::error(target)));
        }
        if let Address::Unix(name) = target {
            // Before the connection is made: the other service would count even one that is closed at once as
            // a client.
            self.link = match dialer.chains.step_by(dialer.service, seen, name) {
                Hop::Round if dialer.is_endless(self.lease.key()) => {
                    return Err(ConnectError::Ours(LeadsBack::round(target)));
                }
                Hop::Within(link) if dialer.is_endless(self.lease.key()) => Some(link),
                Hop::Out | Hop::Round | Hop::Within(_) => None,
            };
        }
        let source = self.client.and_then(|peers| dialer.foreign.source(&peers, target, &dialer.log));
        self.is_foreign = source.is_some();
        let server = match (source, target.net()) {
            (Some(source), Some(target)) => {
                transparent::connect(source, target, outgoing.keepalive, HandshakeAck::WithData)
            }
            _ => socket::connect(target, outgoing, HandshakeAck::WithData),
        }?;
        match watch(&server) {
            Ok(()) => Ok(server),
            Err(e) => {
                // The server may have accepted already, and would take a close for a clean end.
                socket::reset_on_close(&server);
                Err(ConnectError::Ours(e))
            }
        }
    }

    /// Ends the running attempt.
    fn give_up(&mut self) {
        (self.link, self.asking, self.took) = (None, None, None);
        if let Some(server) = self.server.take() {
            // The server may have accepted already, and would take a close for a clean end.
            socket::reset_on_close(&server);
        }
    }

    /// Notes that the current address has failed, and logs it.
    fn note(
        &mut self,
        error: &io::Error,
        fault: DialFailure,
        words: &str,
        dialer: &Dialer,
        trace: Option<&mut ConnectionTrace>,
    ) {
        self.cause = Some(cause_of(error));
        let Some(address) = self.target() else { return };
        tell(self.lease.key(), address, words, fault, &dialer.log);
        if let Some(trace) = trace {
            trace.failed(self.lease.key(), address, attempt_error(error));
        }
        if fault == DialFailure::Unproven && self.blame == DialFailure::Local {
            self.blame = fault;
        }
        if fault == DialFailure::Channel {
            self.blame = fault;
            let mut table = dialer.table.lock_at(dialer.clock.now());
            let told = table.address_failed(&self.lease, address, self.begun, words);
            drop(table);
            dialer.changed(told);
        }
    }
}

/// A channel that could not be tried.
#[derive(Debug)]
struct Untried {
    lease: Lease,
    address: Address,
    cause: DialCause,
}

impl Untried {
    /// It will not be tried any more and counts as failed.
    fn give_up(self, table: &mut Table, trace: Option<&mut ConnectionTrace>) {
        let Self { lease, address, cause } = self;
        if let Some(trace) = trace {
            trace.failed(lease.key(), address, AttemptError::Known(cause));
        }
        table.failed(lease, DialFailure::Local, cause, &format!("connect: {cause}"));
    }
}

/// A client's place in the wait queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waited {
    pub(super) ticket: Ticket,
    /// When the wait began, in ms of the worker's clock.
    pub(super) since: u64,
    /// When the wait times out, in ms of the worker's clock.
    pub(super) until: u64,
    /// It waits because of a pause.
    pub(super) in_pause: bool,
}

impl Waited {
    /// How long it has waited at `now`, in ms of the worker's clock.
    pub(super) fn so_far(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.since))
    }
}

/// The state of a search after its first step.
#[derive(Debug)]
pub(super) enum Begun {
    /// There is a channel to dial.
    Dial(Box<Dial>),
    /// The client is in the wait queue.
    Line(Ticket),
    /// There is nothing to try.
    Over(Loss),
}

/// How a search goes on after the channel being tried has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// There is another channel or address to dial.
    Dial,
    /// The client is in the wait queue.
    Line(Ticket),
    /// Nothing is left to try.
    Over(Loss),
    /// Earlier attempts are still running.
    Others,
    /// The client is to be served like a new one by the process that gets it next.
    Anew,
}

/// The parameters of an attempt.
#[derive(Debug)]
pub(super) struct Terms {
    /// Identifies the client in a grant.
    pub(super) tag: u64,
    /// The time in ms of the worker's clock.
    pub(super) now: u64,
    /// How long a channel may take to answer, and how long a lack of resources may last, in ms.
    pub(super) patience: u64,
    /// The number of the watch for its socket.
    pub(super) watch: u16,
}

/// The result of starting an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The connect of `Dial::server` has begun and may take this many ms.
    Started(u64),
    /// There is no descriptor, port or memory for it now.
    Wait,
    /// Everything that was left failed at once; the client is in the wait queue.
    Line(Ticket),
    /// Everything that was left failed at once.
    Over(Loss),
    /// It failed at once; earlier attempts are still running.
    Others,
    /// It failed at once, and the client is to be served like a new one by the process that gets it next.
    Anew,
}

impl Begun {
    fn of(turn: Turn, peers: Peers, came_to: u16) -> Self {
        match turn {
            Turn::Now(route, lease) => Self::Dial(Box::new(Dial::new(peers, came_to, route, lease, None))),
            Turn::Later(ticket) => Self::Line(ticket),
            Turn::Never(why) => Self::Over(why),
        }
    }
}

impl Dial {
    /// Takes the first lease of a client's walk, or a place in the wait queue. `tag` identifies the client in
    /// a grant. Clients that already wait are served first.
    ///
    /// `past` has the channels that closed the client's connection at once.
    pub(super) fn begin(
        peers: Peers,
        came_to: u16,
        within: GroupRange,
        tag: u64,
        past: &[ChannelKey],
        dialer: &Dialer,
    ) -> Begun {
        let mut grants = Vec::new();
        let turn = {
            let mut table = dialer.table.lock_at(dialer.clock.now());
            let route = Route::past(peers.client().key().into(), within, past);
            table.next_or_wait(route, tag, None, &mut grants)
        };
        dialer.deliver.all(grants);
        Begun::of(turn, peers, came_to)
    }

    /// A search that has a lease.
    pub(super) fn new(
        peers: Peers,
        came_to: u16,
        route: Route,
        lease: Lease,
        waited: Option<Waited>,
    ) -> Self {
        Self {
            route: Some(route),
            current: Some(Try::new(lease, came_to)),
            others: Vec::new(),
            race_at: None,
            starving_since: None,
            kept: None,
            peers,
            came_to,
            waited,
        }
    }

    /// The channel being tried.
    pub(super) fn channel(&self) -> Option<ChannelKey> {
        self.current.as_ref().map(|current| current.lease.key())
    }

    /// The address being tried.
    pub(super) fn target(&self) -> Option<Address> {
        self.current.as_ref()?.target()
    }

    /// The socket of the running attempt.
    pub(super) fn server(&self) -> Option<&OwnedFd> {
        self.current.as_ref()?.server.as_ref()
    }

    /// The watch of the current attempt.
    pub(super) fn watch(&self) -> Option<u16> {
        self.current.as_ref().map(|current| current.watch)
    }

    /// Sets when the current attempt times out, or is begun again.
    pub(super) fn set_deadline(&mut self, at: u64) {
        if let Some(current) = &mut self.current {
            current.deadline = Some(at);
        }
    }

    /// Starts an attempt at the current address, or at the first later one that can be tried; `watch` is
    /// called with its socket. Without descriptors or memory it waits a moment and then tries the other
    /// channels; without a source port it tries them at once. If there is no other channel, it waits, but no
    /// longer than `terms` say.
    pub(super) fn attempt(
        &mut self,
        terms: &Terms,
        dialer: &Dialer,
        mut trace: Option<&mut ConnectionTrace>,
        mut watch: impl FnMut(&OwnedFd) -> io::Result<()>,
    ) -> Attempt {
        loop {
            let outgoing = dialer.outgoing.load();
            let Some(current) = &mut self.current else { return Attempt::Over(FAILED) };
            current.client = outgoing.transparent.then_some(self.peers);
            let Some(target) = current.target() else { return Attempt::Over(FAILED) };
            if current.until.is_some_and(|until| until <= terms.now) {
                match self.out_of_time(terms.tag, dialer) {
                    Next::Dial => continue,
                    Next::Line(ticket) => return Attempt::Line(ticket),
                    Next::Over(why) => return Attempt::Over(why),
                    Next::Others => return Attempt::Others,
                    Next::Anew => return Attempt::Anew,
                }
            }
            (current.begun, current.watch) = (dialer.clock.now(), terms.watch);
            let to = (target, self.peers.seen);
            let (error, fault) = match current.connect(to, &outgoing, dialer, &mut watch) {
                Ok(server) => {
                    current.server = Some(server);
                    self.starving_since = None;
                    return Attempt::Started(current.share(terms));
                }
                Err(ConnectError::Ports(_)) => {
                    let text = format!("no source port is free towards {target}");
                    let error = io::Error::new(io::ErrorKind::AddrInUse, text);
                    if self.is_patient(terms) {
                        self.say(&error, dialer);
                        if self.step_aside(&error, dialer, trace.as_deref_mut()) {
                            continue;
                        }
                        return Attempt::Wait;
                    }
                    (error, DialFailure::Local)
                }
                Err(ConnectError::Crowded(_)) => {
                    // As for a port that accepts no more connections: the server has the connect timeout to
                    // make room.
                    if self.is_patient(terms) {
                        if self.step_aside(&io::ErrorKind::WouldBlock.into(), dialer, trace.as_deref_mut()) {
                            continue;
                        }
                        return Attempt::Wait;
                    }
                    (io::ErrorKind::WouldBlock.into(), DialFailure::Channel)
                }
                Err(ConnectError::Ours(e) | ConnectError::Target(e)) if is_exhausted(&e) => {
                    // Most shortages pass in a moment; one that does not may concern only this target.
                    let is_first = self.starving_since.is_none();
                    if self.is_patient(terms) {
                        if !is_first && self.step_aside(&e, dialer, trace.as_deref_mut()) {
                            continue;
                        }
                        return Attempt::Wait;
                    }
                    (e, DialFailure::Local)
                }
                Err(ConnectError::Ours(e)) => {
                    let fault = own_fault_of(&e);
                    (e, fault)
                }
                Err(ConnectError::Target(e)) => {
                    let fault = current.fault_of(&e);
                    (e, fault)
                }
            };
            match self.failed_by(&error, fault, terms.tag, dialer, trace.as_deref_mut()) {
                Next::Dial => {}
                Next::Line(ticket) => return Attempt::Line(ticket),
                Next::Over(why) => return Attempt::Over(why),
                Next::Others => return Attempt::Others,
                Next::Anew => return Attempt::Anew,
            }
        }
    }

    /// A resource is missing: is there time left to wait for it?
    fn is_patient(&mut self, terms: &Terms) -> bool {
        let since = *self.starving_since.get_or_insert(terms.now);
        terms.now.saturating_sub(since) < terms.patience
    }

    /// Logs that the current address could not be tried.
    fn say(&self, error: &io::Error, dialer: &Dialer) {
        if let (Some(channel), Some(target)) = (self.channel(), self.target()) {
            let words = format!("connect: {}", words_of(error));
            tell(channel, target, &words, DialFailure::Local, &dialer.log);
        }
    }

    /// Goes on to the channel's next address, or to another channel that is up. Keeps the slot of the present
    /// one, since it was not tried. `false` if there is no other.
    fn step_aside(
        &mut self,
        error: &io::Error,
        dialer: &Dialer,
        trace: Option<&mut ConnectionTrace>,
    ) -> bool {
        let Some(address) = self.target() else { return false };
        let (Some(route), Some(current)) = (&mut self.route, &mut self.current) else { return false };
        if current.address + 1 < current.lease.addresses().as_slice().len() {
            current.address += 1;
            return true;
        }
        if !self.others.is_empty() {
            return false;
        }
        let mut grants = Vec::new();
        let mut table = dialer.table.lock_at(dialer.clock.now());
        let next = table.next_up(route, &mut grants);
        let has_next = next.is_ok();
        if let Ok(next) = next {
            let lease = std::mem::replace(current, Try::new(next, self.came_to)).lease;
            let left = Untried { lease, address, cause: cause_of(error) };
            if self.kept.is_none() {
                self.kept = Some(left);
            } else {
                left.give_up(&mut table, trace);
                grants.append(&mut table.grant());
            }
        }
        drop(table);
        dialer.deliver.all(grants);
        has_next
    }

    /// The connection is established. Returns an error if it is useless all the same.
    pub(super) fn doubt(&mut self, dialer: &Dialer) -> Option<io::Error> {
        let (channel, target) = (self.channel()?, self.target()?.net()?);
        let current = self.current.as_mut()?;
        let server = current.server.as_ref()?;
        let ours = socket::local(server)?;
        let error = if ours.port() == target.port() && socket::is_to_itself(server) {
            io::Error::from(io::ErrorKind::ConnectionRefused)
        } else if dialer.circle.was_closed(ours, target) && dialer.is_endless(channel) {
            LeadsBack::error(target)
        } else {
            let bound = dialer.outgoing.load().is_bound();
            match dialer.chains.step(dialer.service, self.peers.seen, ours, target, bound) {
                // With a maxc, the circle comes to an end.
                Hop::Round if dialer.is_endless(channel) => LeadsBack::round(target),
                Hop::Within(link) if dialer.is_endless(channel) => {
                    current.link = Some(link);
                    return None;
                }
                Hop::Out | Hop::Round | Hop::Within(_) => return None,
            }
        };
        // It must not keep a port that a server may want, nor count as a client.
        socket::reset_on_close(server);
        Some(error)
    }

    /// The current address failed: moves on to the next address, or the next channel.
    pub(super) fn failed(
        &mut self,
        error: &io::Error,
        tag: u64,
        dialer: &Dialer,
        trace: Option<&mut ConnectionTrace>,
    ) -> Next {
        let fault = self.current.as_ref().map_or_else(|| fault_of(error), |current| current.fault_of(error));
        self.failed_by(error, fault, tag, dialer, trace)
    }

    fn failed_by(
        &mut self,
        error: &io::Error,
        fault: DialFailure,
        tag: u64,
        dialer: &Dialer,
        trace: Option<&mut ConnectionTrace>,
    ) -> Next {
        let Some(current) = &mut self.current else { return Next::Over(FAILED) };
        current.give_up();
        let words = current.words_of(error);
        current.note(error, fault, &words, dialer, trace);
        if current.lease.target(current.address + 1, current.came_to).is_some() {
            current.address += 1;
            return Next::Dial;
        }
        self.next_channel(Some((cause_of(error), &words)), tag, dialer)
    }

    /// The PROXY header that the channel being tried wants. `None`: none.
    pub(super) fn proxy(&self) -> Option<ProxyVersion> {
        self.current.as_ref().and_then(|current| current.lease.proxy())
    }

    /// The connection is established, but first the server gets these bytes and has to answer them.
    pub(super) fn ask(&mut self, words: Vec<u8>, dialer: &Dialer) {
        if let Some(current) = &mut self.current {
            current.took = Some(dialer.clock.now().saturating_sub(current.begun));
            current.asking = Some(words);
        }
    }

    /// Is the server being asked something before the client gets it?
    pub(super) fn is_asking(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.asking.is_some())
    }

    /// The server being asked, and what has still to be sent to it.
    pub(super) fn asked(&mut self) -> Option<(&OwnedFd, &mut Vec<u8>)> {
        let current = self.current.as_mut()?;
        Some((current.server.as_ref()?, current.asking.as_mut()?))
    }

    /// Addresses are left, but no time for them.
    fn out_of_time(&mut self, tag: u64, dialer: &Dialer) -> Next {
        // There was an attempt, since the time has begun.
        let cause = self.current.as_ref().and_then(|current| current.cause).unwrap_or(DialCause::NoAnswer);
        self.next_channel(Some((cause, &format!("connect: {cause}"))), tag, dialer)
    }

    /// The channel is no longer available, which is nobody's failure: moves on to the next one.
    pub(super) fn move_on(&mut self, tag: u64, dialer: &Dialer) -> Next {
        if let Some(current) = &mut self.current {
            current.give_up();
        }
        self.next_channel(None, tag, dialer)
    }

    /// Leaves the current channel. `cause` says why it counts as failed; `None`: it does not.
    fn next_channel(&mut self, cause: Option<(DialCause, &str)>, tag: u64, dialer: &Dialer) -> Next {
        let Some(Try { lease, blame, .. }) = self.current.take() else { return Next::Over(FAILED) };
        let transition = match cause {
            Some((cause, words)) => {
                let mut table = dialer.table.lock_at(dialer.clock.now());
                table.failed(lease, blame, cause, words)
            }
            None => {
                drop(lease);
                None
            }
        };
        // Before there may be a place in the wait queue, which a failure here must not lose.
        dialer.changed(transition);
        if blame == DialFailure::Unproven {
            // A probe in the background may be due.
            dialer.changed.tell();
        }
        if let Some(other) = self.others.pop() {
            self.current = Some(other);
            let grants = dialer.table.lock_at(dialer.clock.now()).grant();
            dialer.deliver.all(grants);
            return Next::Others;
        }
        self.race_at = None;
        let Some(mut route) = self.route.take() else { return Next::Over(FAILED) };
        if dialer.leaving.load(Ordering::SeqCst) {
            drop(self.kept.take());
            let grants = dialer.table.lock_at(dialer.clock.now()).grant();
            dialer.deliver.all(grants);
            return Next::Anew;
        }
        let mut grants = Vec::new();
        let turn = {
            let mut table = dialer.table.lock_at(dialer.clock.now());
            let before = self.waited.map(|waited| waited.ticket);
            match self.kept.take() {
                None => table.next_or_wait(route, tag, before, &mut grants),
                Some(kept) => match table.next_up(&mut route, &mut grants) {
                    Ok(next) => {
                        self.kept = Some(kept);
                        Turn::Now(route, next)
                    }
                    Err(_) if table.state(kept.lease.key()) == Some(AdminState::Enabled) => {
                        Turn::Now(route, kept.lease)
                    }
                    Err(_) => {
                        drop(kept);
                        table.next_or_wait(route, tag, before, &mut grants)
                    }
                },
            }
        };
        if !planted::has(Bug::ForgetsDropped) {
            dialer.deliver.all(grants);
        }
        match turn {
            Turn::Now(route, lease) => {
                (self.route, self.current) = (Some(route), Some(Try::new(lease, self.came_to)));
                Next::Dial
            }
            Turn::Later(ticket) => Next::Line(ticket),
            Turn::Never(why) => Next::Over(why),
        }
    }

    /// The current address answered: its lease is the connection's from now on.
    ///
    /// Attempts that ran beside it get a reset. They do not count as failures.
    pub(super) fn succeeded(
        self,
        dialer: &Dialer,
        mut trace: Option<&mut ConnectionTrace>,
    ) -> Option<Succeeded> {
        let current = self.current?;
        let address = current.target();
        let (route, Try { server, lease, begun, took, link, .. }) = (self.route?, current);
        let server = server?;
        let now = dialer.clock.now();
        let took = took.unwrap_or_else(|| now.saturating_sub(begun));
        let beaten = Self::beaten(self.others, trace.as_deref_mut());
        let is_race = !beaten.is_empty();
        let mut makes_room = is_race;
        let (told, transition, grants) = {
            let mut table = dialer.table.lock_at(now);
            if let Some(kept) = self.kept {
                kept.give_up(&mut table, trace);
                makes_room = true;
            }
            for (lease, has_answered) in beaten {
                table.outrun(lease, has_answered);
            }
            let told = address.and_then(|address| table.address_answered(&lease, address, begun));
            let transition = table.connected(route, &lease, took);
            // A channel that is back by this may have room for waiting clients.
            makes_room |= transition.is_some();
            let grants = if makes_room { table.grant() } else { Vec::new() };
            (told, transition, grants)
        };
        dialer.deliver.all(grants);
        dialer.changed(told);
        dialer.changed(transition);
        if is_race {
            // A probe in the background may be due.
            dialer.changed.tell();
        }
        Some(Succeeded { server, lease, link, took })
    }
}

fn tell(channel: ChannelKey, address: Address, cause: &str, fault: DialFailure, log: &Log) {
    let cause = || cause.to_owned();
    match fault {
        DialFailure::Channel if log.is_debug() => {
            log.tell(&Event::ChannelFailed { channel, address, cause: cause() });
        }
        DialFailure::Channel => {}
        DialFailure::Local | DialFailure::Unproven => {
            log.tell(&Event::DialFailed { channel, cause: cause() });
        }
    }
}

#[cfg(test)]
mod trials;
