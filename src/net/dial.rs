//! Finding a channel for one client: address after address, channel after channel, until one answers.
//!
//! Knows: the table's route, whose fault a failure is, how long an answer took. Never: how the choice is made, the payload.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::circle::{Circle, LeadsBack};
use super::health::event_of;
use crate::observe::{Event, Log};
use crate::sched::{
    ChannelKey, DialFailure, Grant, Lease, NoChannel, Route, SharedTable, Ticket, Transition, Turn,
};
use crate::sys::Clock;
use crate::sys::fault::{is_exhausted, is_ours, reason};
use crate::sys::poller::Waker;
use crate::sys::socket::{self, ConnectError, HandshakeAck, Outgoing};

/// What every dial of an instance needs.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) table: SharedTable,
    pub(super) clock: Clock,
    pub(super) outgoing: Outgoing,
    pub(super) log: Log,
    pub(super) circle: Circle,
    /// Wakes the thread that minds the channels' health.
    pub(super) health: Waker,
}

impl Dialer {
    /// Tells what a dial changed.
    fn changed(&self, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.log.tell(&event_of(transition));
            self.health.wake();
        }
    }

    /// Would clients of this channel, if it leads back to us, come back without end?
    fn is_endless(&self, channel: ChannelKey) -> bool {
        self.table.lock().channel(channel).is_some_and(|channel| channel.maxc.is_none())
    }
}

/// One client's search.
#[derive(Debug)]
pub(super) struct Dial {
    /// `None` once the walk is over.
    found: Option<(Route, Lease)>,
    /// Which of the channel's addresses is being tried.
    address: usize,
    /// When that was begun.
    begun: Duration,
    /// Did any of the channel's addresses fail by the channel's own fault?
    blame: DialFailure,
    /// When descriptors or memory were first missing, in ms of the worker's clock.
    starving_since: Option<u64>,
    /// The attempt under way.
    pub(super) server: Option<OwnedFd>,
    pub(super) client: SocketAddr,
    /// The place in line by which it got its channel, and until when it would have waited there.
    pub(super) waited: Option<Waited>,
}

/// A client's place in line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waited {
    pub(super) ticket: Ticket,
    /// In ms of the worker's clock.
    pub(super) until: u64,
}

/// Where a search stands.
#[derive(Debug)]
pub(super) enum Search {
    /// There is something to dial.
    On(Box<Dial>),
    /// In line for a slot.
    InLine(Ticket),
    /// Nothing is left to try.
    Over(NoChannel),
}

/// What came of starting an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    /// `Dial::server` is on its way.
    Started,
    /// No descriptor or memory for it just now.
    Wait,
    /// All that was left failed at once; a place in line, or nothing.
    Over(Result<Ticket, NoChannel>),
}

impl Dial {
    /// Takes the first lease of a client's walk, or a place in line. `tag` names the client in a grant. Those in line
    /// before it are served first.
    pub(super) fn begin(client: SocketAddr, tag: u64, dialer: &Dialer) -> (Search, Vec<Grant>) {
        let mut table = dialer.table.lock_at(dialer.clock.now());
        let grants = if dialer.table.is_anyone_waiting() { table.grant() } else { Vec::new() };
        let route = table.begin(client.ip().into());
        let search = match table.next_or_wait(route, tag, None) {
            Turn::Now(route, lease) => Search::On(Box::new(Self::new(client, route, lease, None))),
            Turn::Later(ticket) => Search::InLine(ticket),
            Turn::Never(why) => Search::Over(why),
        };
        (search, grants)
    }

    /// A search that has got its lease.
    pub(super) fn new(client: SocketAddr, route: Route, lease: Lease, waited: Option<Waited>) -> Self {
        Self {
            found: Some((route, lease)),
            address: 0,
            begun: Duration::ZERO,
            blame: DialFailure::Local,
            starving_since: None,
            server: None,
            client,
            waited,
        }
    }

    /// The channel being tried.
    pub(super) fn channel(&self) -> Option<ChannelKey> {
        self.found.as_ref().map(|(_, lease)| lease.key())
    }

    /// The address being tried.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        let (_, lease) = self.found.as_ref()?;
        lease.addresses().as_slice().get(self.address).copied()
    }

    /// Starts on the current address, or on the first one after it that can be started on. Without descriptors or memory
    /// it waits, but no longer than `patience`, in ms like `now`.
    pub(super) fn attempt(&mut self, tag: u64, dialer: &Dialer, now: u64, patience: u64) -> Attempt {
        loop {
            let Some(target) = self.target() else { return Attempt::Over(Err(NoChannel::Failed)) };
            self.begun = dialer.clock.now();
            let (error, fault) = match self.connect(target, dialer) {
                Ok(server) => {
                    self.server = Some(server);
                    self.starving_since = None;
                    return Attempt::Started;
                }
                Err(ConnectError::Ours(e) | ConnectError::Target(e)) if is_exhausted(&e) => {
                    let since = *self.starving_since.get_or_insert(now);
                    if now.saturating_sub(since) < patience {
                        return Attempt::Wait;
                    }
                    self.starving_since = None;
                    (e, DialFailure::Local)
                }
                Err(ConnectError::Ours(e)) => (e, DialFailure::Local),
                Err(ConnectError::Target(e)) => {
                    let fault = fault_of(&e);
                    (e, fault)
                }
            };
            if let Err(end) = self.failed_by(&error, fault, tag, dialer) {
                return Attempt::Over(end);
            }
        }
    }

    fn connect(&self, target: SocketAddr, dialer: &Dialer) -> Result<OwnedFd, ConnectError> {
        let leads_back = dialer.circle.awaits(target, dialer.outgoing.source.is_some())
            && self.channel().is_some_and(|channel| dialer.is_endless(channel));
        if leads_back {
            return Err(ConnectError::Ours(LeadsBack::error(target)));
        }
        socket::connect(target, &dialer.outgoing, HandshakeAck::WithData)
    }

    /// The connection stands. Why it is none all the same, if it is none.
    pub(super) fn doubt(&self, dialer: &Dialer) -> Option<io::Error> {
        let (server, target) = (self.server.as_ref()?, self.target()?);
        let ours = socket::local(server)?;
        let error = if ours.port() == target.port() && socket::is_to_itself(server) {
            io::Error::from(io::ErrorKind::ConnectionRefused)
        } else if dialer.circle.was_closed(ours, target) && dialer.is_endless(self.channel()?) {
            LeadsBack::error(target)
        } else {
            return None;
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
    ) -> Result<(), Result<Ticket, NoChannel>> {
        self.failed_by(error, fault_of(error), tag, dialer)
    }

    fn failed_by(
        &mut self,
        error: &io::Error,
        fault: DialFailure,
        tag: u64,
        dialer: &Dialer,
    ) -> Result<(), Result<Ticket, NoChannel>> {
        self.server = None;
        let Some((route, lease)) = self.found.take() else { return Err(Err(NoChannel::Failed)) };
        let addresses = lease.addresses().as_slice();
        if let Some(&address) = addresses.get(self.address) {
            tell(lease.key(), address, error, fault, &dialer.log);
        }
        if fault == DialFailure::Channel {
            self.blame = fault;
        }
        if self.address + 1 < addresses.len() {
            self.address += 1;
            self.found = Some((route, lease));
            return Ok(());
        }
        let cause = format!("connect: {}", cause_of(error));
        self.next_channel(route, lease, &cause, tag, dialer)
    }

    /// The channel is not to be had any more, by no fault of its own or ours: on to the next one.
    pub(super) fn move_on(
        &mut self,
        why: &str,
        tag: u64,
        dialer: &Dialer,
    ) -> Result<(), Result<Ticket, NoChannel>> {
        if let Some(server) = self.server.take() {
            // It may have accepted already, and would take a close for a clean end.
            socket::reset_on_close(&server);
        }
        let Some((route, lease)) = self.found.take() else { return Err(Err(NoChannel::Failed)) };
        self.blame = DialFailure::Local;
        self.next_channel(route, lease, why, tag, dialer)
    }

    fn next_channel(
        &mut self,
        route: Route,
        lease: Lease,
        cause: &str,
        tag: u64,
        dialer: &Dialer,
    ) -> Result<(), Result<Ticket, NoChannel>> {
        let (transition, turn) = {
            let mut table = dialer.table.lock_at(dialer.clock.now());
            let before = self.waited.map(|waited| waited.ticket);
            (table.failed(lease, self.blame, cause), table.next_or_wait(route, tag, before))
        };
        dialer.changed(transition);
        match turn {
            Turn::Now(route, lease) => {
                self.found = Some((route, lease));
                self.address = 0;
                self.blame = DialFailure::Local;
                Ok(())
            }
            Turn::Later(ticket) => Err(Ok(ticket)),
            Turn::Never(why) => Err(Err(why)),
        }
    }

    /// The current address answered: the lease is the connection's from now on.
    pub(super) fn succeeded(self, dialer: &Dialer) -> Option<(OwnedFd, Lease)> {
        let (server, (route, lease)) = (self.server?, self.found?);
        let now = dialer.clock.now();
        let took = now.saturating_sub(self.begun);
        let transition = dialer.table.lock_at(now).connected(route, &lease, took);
        dialer.changed(transition);
        Some((server, lease))
    }
}

/// What a dial met; one that was given up has no words of the system.
fn cause_of(error: &io::Error) -> String {
    let is_given_up = error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none();
    if is_given_up { "no answer in time".into() } else { reason(error) }
}

fn tell(channel: ChannelKey, address: SocketAddr, error: &io::Error, fault: DialFailure, log: &Log) {
    let cause = || error.to_string();
    match fault {
        DialFailure::Channel if log.is_debug() => {
            log.tell(&Event::ChannelFailed { channel, address, cause: cause() });
        }
        DialFailure::Channel => {}
        DialFailure::Local => log.tell(&Event::DialFailed { channel, cause: cause() }),
    }
}

fn fault_of(error: &io::Error) -> DialFailure {
    let is_local = is_exhausted(error) || is_ours(error) || LeadsBack::is(error);
    if is_local { DialFailure::Local } else { DialFailure::Channel }
}
