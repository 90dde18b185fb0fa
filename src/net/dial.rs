//! Finding a channel for one client: address after address, channel after channel, until one answers.
//!
//! Knows: the table's route, whose fault a failure is, how long an answer took. Never: how the choice is made, the payload.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::chain::{Chains, Hop, Link};
use super::changed::{Changed, Deliver};
use super::circle::{Circle, LeadsBack};
use super::failure::{attempt_error, cause_of, fault_of, words_of};
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

/// Of a search that has nothing to try and does not know why.
const FAILED: Loss = Loss::NoChannel(NoChannel::Failed);

/// What every dial of an instance needs.
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
    /// Clients are about to go to another process: nobody tries one more channel here.
    pub(super) leaving: Arc<AtomicBool>,
    /// Tells the health thread that the table has changed.
    pub(super) changed: Changed,
    /// Takes slots to the clients of this service that wait in line.
    pub(super) deliver: Deliver,
    /// What operators were told of clients whose own address was of no use.
    pub(super) foreign: Foreign,
}

impl Dialer {
    /// Tells what a dial changed.
    fn changed(&self, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.log.tell(&Event::from(transition));
            self.changed.tell();
        }
    }

    /// A channel has closed a connection at once, without a byte. `spoken`: who had said something on it.
    pub(super) fn closed_early(&self, channel: ChannelKey, spoken: Option<Peers>) {
        let spoken = spoken.map(|peers| peers.client().key().into());
        let transition = self.table.lock_at(self.clock.now()).closed_early(channel, spoken);
        self.changed(transition);
    }

    /// A client has waited for the channel's first byte for `waited`, which is longer than `limit`. `spoken`: who had said something on it.
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

    /// The next channel for a client whose last one has closed its connection before anything went over it.
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

    /// Would a connection for this channel to this address come in by the service's own listeners, and its client come back
    /// without end? Asks the kernel where need be.
    pub(super) fn leads_back(&self, channel: ChannelKey, target: Address) -> Option<io::Error> {
        let leads_back = self.circle.awaits(target, true) && self.is_endless(channel);
        leads_back.then(|| LeadsBack::error(target))
    }

    /// What there is to be kept of a connection that another process has made to a channel, for as long as it lasts.
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

    /// Would clients of this channel, if it leads back to us, come back without end?
    fn is_endless(&self, channel: ChannelKey) -> bool {
        self.table.lock().channel(channel).is_some_and(|channel| channel.maxc.is_none())
    }
}

/// What a client's search has found.
#[derive(Debug)]
pub(super) struct Succeeded {
    pub(super) server: OwnedFd,
    pub(super) lease: Lease,
    /// To be kept for as long as the connection is.
    pub(super) link: Option<Box<Link>>,
    /// How long the attempt took.
    pub(super) took: Duration,
}

/// One client's search.
#[derive(Debug)]
pub(super) struct Dial {
    /// The walk; `None` once it is over.
    route: Option<Route>,
    /// The channel being tried; `None` once the walk is over.
    current: Option<Try>,
    /// Those that go on beside it, since none of them has answered in time.
    others: Vec<Try>,
    /// When one more is tried beside them, in ms of the worker's clock.
    pub(super) race_at: Option<u64>,
    /// When something of ours was first missing, in ms of the worker's clock.
    starving_since: Option<u64>,
    /// A channel that could not be tried for want of something of ours: if no other one will do, it is waited for.
    kept: Option<Untried>,
    pub(super) peers: Peers,
    /// The port that its client came to.
    came_to: u16,
    /// The place in line by which it got its channel, and until when it would have waited there.
    pub(super) waited: Option<Waited>,
}

/// One channel being tried.
#[derive(Debug)]
struct Try {
    lease: Lease,
    /// The port that its client came to: also that of channels without one.
    came_to: u16,
    /// Which of the channel's addresses is being tried.
    address: usize,
    /// When that was begun.
    begun: Duration,
    /// Until when it has to answer, or when it is begun again; in ms of the worker's clock.
    deadline: Option<u64>,
    /// Until when one of the channel's addresses has to answer, in ms of the worker's clock; since the first attempt.
    until: Option<u64>,
    /// Did any of the channel's addresses fail by the channel's own fault?
    blame: DialFailure,
    /// Why the last one of them failed.
    cause: Option<DialCause>,
    /// The attempt under way.
    server: Option<OwnedFd>,
    /// By which number the poller watches it.
    watch: u16,
    /// The descriptor that it takes beyond what each client has.
    extra: Option<Taken>,
    /// What is still to be said to the server before it is heard whether it speaks TLS. `None`: it is not asked.
    asking: Option<Vec<u8>>,
    /// How long the server took to accept, once it is asked.
    took: Option<Duration>,
    /// It leads to another service of ours.
    link: Option<Box<Link>>,
    /// `--transparent`: the client, whose address decides which of the channel's comes first.
    client: Option<Peers>,
    /// The attempt comes from that address.
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

    /// Whose fault an error of the attempt is. Answers to the client's address may get lost where those to ours do not: their absence alone
    /// proves nothing.
    fn fault_of(&self, error: &io::Error) -> DialFailure {
        let is_silence = || matches!(cause_of(error), DialCause::NoAnswer | DialCause::TimedOut);
        match fault_of(error) {
            DialFailure::Channel if self.is_foreign && is_silence() => DialFailure::Unproven,
            fault => fault,
        }
    }

    /// The words of an error of the attempt.
    fn words_of(&self, error: &io::Error) -> String {
        let words = format!("connect: {}", words_of(error));
        match (self.client, self.fault_of(error)) {
            (Some(client), DialFailure::Unproven) => {
                format!("{words} to the client's address {}", client.client().key())
            }
            _ => words,
        }
    }

    /// How long an attempt at the current address that begins now may take: its share of the channel's time. Addresses that
    /// are known not to answer get what the others leave.
    fn share(&mut self, terms: &Terms) -> u64 {
        let until = *self.until.get_or_insert(terms.now.saturating_add(terms.patience));
        let alike = self.lease.alike_from(self.address);
        (until.saturating_sub(terms.now) / alike as u64).max(1)
    }

    /// Begins a connection to this address of the channel, and has it watched.
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
            // Before it stands: the other service would take even one that is closed at once for a client.
            self.link = match dialer.chains.step_by(dialer.service, seen, name) {
                Hop::Round if dialer.is_endless(self.lease.key()) => {
                    return Err(ConnectError::Ours(LeadsBack::error(target)));
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
                // It may have accepted already, and would take a close for a clean end.
                socket::reset_on_close(&server);
                Err(ConnectError::Ours(e))
            }
        }
    }

    /// The attempt under way is over.
    fn give_up(&mut self) {
        (self.link, self.asking, self.took) = (None, None, None);
        if let Some(server) = self.server.take() {
            // It may have accepted already, and would take a close for a clean end.
            socket::reset_on_close(&server);
        }
    }

    /// Takes note that the current address has failed, and tells it.
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
    /// Nor will it be tried any more: it counts as one that failed.
    fn give_up(self, table: &mut Table, trace: Option<&mut ConnectionTrace>) {
        let Self { lease, address, cause } = self;
        if let Some(trace) = trace {
            trace.failed(lease.key(), address, AttemptError::Known(cause));
        }
        table.failed(lease, DialFailure::Local, cause, &format!("connect: {cause}"));
    }
}

/// A client's place in line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waited {
    pub(super) ticket: Ticket,
    /// In ms of the worker's clock.
    pub(super) since: u64,
    /// In ms of the worker's clock.
    pub(super) until: u64,
    /// It waits because of a pause.
    pub(super) in_pause: bool,
}

impl Waited {
    /// For how long it has waited at this time of the worker's clock.
    pub(super) fn so_far(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.since))
    }
}

/// Where a search begins.
#[derive(Debug)]
pub(super) enum Begun {
    /// There is something to dial.
    Dial(Box<Dial>),
    /// In line for a slot.
    Line(Ticket),
    /// There is nothing to try.
    Over(Loss),
}

/// How a search goes on when the channel being tried will not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// There is something else to dial.
    Dial,
    /// In line for a slot.
    Line(Ticket),
    /// Nothing is left to try.
    Over(Loss),
    /// Others are under way that were begun before.
    Others,
    /// To be served like a new client, by the process that gets it next.
    Anew,
}

/// What an attempt goes by.
#[derive(Debug)]
pub(super) struct Terms {
    /// Names the client in a grant.
    pub(super) tag: u64,
    /// In ms of the worker's clock.
    pub(super) now: u64,
    /// How long a channel may take to answer, and how long a lack of ours may last, in ms.
    pub(super) patience: u64,
    /// By which number its socket is watched.
    pub(super) watch: u16,
}

/// What came of starting an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    /// `Dial::server` is on its way, and has so long to answer, in ms.
    Started(u64),
    /// No descriptor, port or memory for it just now.
    Wait,
    /// All that was left failed at once: in line for a slot.
    Line(Ticket),
    /// All that was left failed at once.
    Over(Loss),
    /// It failed at once; others are under way that were begun before.
    Others,
    /// It failed at once, and the client is to be served like a new one, by the process that gets it next.
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
    /// Takes the first lease of a client's walk, or a place in line. `tag` names the client in a grant. Those in line
    /// before it are served first.
    ///
    /// `past`: channels that have closed its connection at once.
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

    /// A search that has got its lease.
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

    /// The attempt under way.
    pub(super) fn server(&self) -> Option<&OwnedFd> {
        self.current.as_ref()?.server.as_ref()
    }

    /// The watch of the current attempt.
    pub(super) fn watch(&self) -> Option<u16> {
        self.current.as_ref().map(|current| current.watch)
    }

    /// Until when the current attempt has to answer, or when it is begun again.
    pub(super) fn set_deadline(&mut self, at: u64) {
        if let Some(current) = &mut self.current {
            current.deadline = Some(at);
        }
    }

    /// Starts on the current address, or on the first one after it that can be started on; `watch` is done with the socket.
    /// Without descriptors or memory it waits a moment, and then looks at the other channels; without a source port it does
    /// so at once. If there is no other one, it waits, but no longer than `terms` say.
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
                    // As for a port that takes no more connections: the time to connect is the server's to make room.
                    if self.is_patient(terms) {
                        if self.step_aside(&io::ErrorKind::WouldBlock.into(), dialer, trace.as_deref_mut()) {
                            continue;
                        }
                        return Attempt::Wait;
                    }
                    (io::ErrorKind::WouldBlock.into(), DialFailure::Channel)
                }
                Err(ConnectError::Ours(e) | ConnectError::Target(e)) if is_exhausted(&e) => {
                    // Most are over in a moment; one that is not may be of this way only.
                    let is_first = self.starving_since.is_none();
                    if self.is_patient(terms) {
                        if !is_first && self.step_aside(&e, dialer, trace.as_deref_mut()) {
                            continue;
                        }
                        return Attempt::Wait;
                    }
                    (e, DialFailure::Local)
                }
                Err(ConnectError::Ours(e)) => (e, DialFailure::Local),
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

    /// Something of ours is missing: is there time to wait for it?
    fn is_patient(&mut self, terms: &Terms) -> bool {
        let since = *self.starving_since.get_or_insert(terms.now);
        terms.now.saturating_sub(since) < terms.patience
    }

    /// Tells that the current address could not be tried.
    fn say(&self, error: &io::Error, dialer: &Dialer) {
        if let (Some(channel), Some(target)) = (self.channel(), self.target()) {
            let words = format!("connect: {}", words_of(error));
            tell(channel, target, &words, DialFailure::Local, &dialer.log);
        }
    }

    /// Goes on to the channel's next address, or to another channel that is up, and keeps the slot of this one, since it was
    /// not tried. `false`: there is none.
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

    /// The connection stands. Why it is none all the same, if it is none.
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
                // A maxc makes an end of it.
                Hop::Round if dialer.is_endless(channel) => LeadsBack::error(target),
                Hop::Within(link) if dialer.is_endless(channel) => {
                    current.link = Some(link);
                    return None;
                }
                Hop::Out | Hop::Round | Hop::Within(_) => return None,
            }
        };
        // It must not keep the port that a server may want, nor be taken for a client.
        socket::reset_on_close(server);
        Some(error)
    }

    /// The current address did not answer, or not as wished: moves on to the next address, or the next channel.
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

    /// How the channel being tried is to be told who the client is.
    pub(super) fn proxy(&self) -> Option<ProxyVersion> {
        self.current.as_ref().and_then(|current| current.lease.proxy())
    }

    /// The connection stands, and the server is to be told this, and to answer it, before it is the client's.
    pub(super) fn ask(&mut self, words: Vec<u8>, dialer: &Dialer) {
        if let Some(current) = &mut self.current {
            current.took = Some(dialer.clock.now().saturating_sub(current.begun));
            current.asking = Some(words);
        }
    }

    /// Is the server asked something before it is the client's?
    pub(super) fn is_asking(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.asking.is_some())
    }

    /// The server that is asked, and what is still to be said to it.
    pub(super) fn asked(&mut self) -> Option<(&OwnedFd, &mut Vec<u8>)> {
        let current = self.current.as_mut()?;
        Some((current.server.as_ref()?, current.asking.as_mut()?))
    }

    /// Addresses are left, but no time for them.
    fn out_of_time(&mut self, tag: u64, dialer: &Dialer) -> Next {
        // There was an attempt: it has begun the time.
        let cause = self.current.as_ref().and_then(|current| current.cause).unwrap_or(DialCause::NoAnswer);
        self.next_channel(Some((cause, &format!("connect: {cause}"))), tag, dialer)
    }

    /// The channel is not available any more, and neither it nor we have failed: on to the next one.
    pub(super) fn move_on(&mut self, tag: u64, dialer: &Dialer) -> Next {
        if let Some(current) = &mut self.current {
            current.give_up();
        }
        self.next_channel(None, tag, dialer)
    }

    /// The current channel will not do. `cause`: why it counts as failed; `None`: it does not.
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
        // Before there may be a place in line: whatever happens here must not lose it.
        dialer.changed(transition);
        if blame == DialFailure::Unproven {
            // There may be something to be asked in the background.
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

    /// The current address answered: the lease is the connection's from now on.
    ///
    /// Those that were tried beside it have lost: they hear of a reset, and that is no failure.
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
            // A channel that is back by this may have room for those in line.
            makes_room |= transition.is_some();
            let grants = if makes_room { table.grant() } else { Vec::new() };
            (told, transition, grants)
        };
        dialer.deliver.all(grants);
        dialer.changed(told);
        dialer.changed(transition);
        if is_race {
            // There may be something to be asked in the background.
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
