//! Makes many probes at once on one thread.
//!
//! Knows: running sockets and programs, their deadlines, orders that wait. Never: channels, thresholds,
//! intervals, what follows from an outcome.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::exec::{Program, Programs, Report};
use super::fault::Fault;
use super::order::{Findings, Order, millis};
use super::socket::ProbeSocket;
use super::walk::Walk;
use crate::spec::Check;
use crate::sys::clock::OwnTime;
use crate::sys::descriptors::Budget;
use crate::sys::poller::{Kind, Poller, Readiness, Seen, Token, Waker};
use crate::sys::sight::Sight;
use crate::sys::timers::Timers;
use crate::wire::proxy::encode;
use crate::wire::relay::{Ready, Side};
use crate::wire::talk::Talk;

#[cfg(test)]
mod trials;

/// Maximum number of probes at once.
const PROBES: usize = 256;
/// Maximum number of sockets that wait for their server to close ...
const LINGERING: usize = 256;
/// ... and the maximum while descriptors are short.
const LINGERING_WHEN_SHORT: usize = 16;
/// How long a socket waits for its server to close, in ms.
const FAREWELL_MS: u64 = 1_000;
/// How long a dropped engine waits for the programs that it kills.
pub(super) const PARTING: Duration = Duration::from_secs(1);
/// How much is read at once, in bytes.
const SCRATCH: usize = 16 * 1_024;
/// How long the report of a program that has ended may take to arrive, in ms.
const REPORT_MS: u64 = 1_000;
/// How long the engine sleeps if the poller fails, in ms.
const BROKEN_MS: u64 = 50;

/// Makes probes.
#[derive(Debug)]
pub(super) struct Engine {
    poller: Poller,
    waker: Waker,
    budget: Arc<Budget>,
    programs: Programs,
    /// Orders that wait for a free place, for sockets and for programs.
    waiting: VecDeque<Order>,
    waiting_programs: VecDeque<Order>,
    probes: BTreeMap<usize, AddressProbe>,
    /// Sockets whose probe is over. Keys increase, so the first entry is about the oldest.
    lingering: BTreeMap<usize, (ProbeSocket, u64)>,
    timers: Timers,
    last_key: usize,
    scratch: Box<[u8]>,
    done: Vec<(u64, Findings)>,
    epoch: Instant,
    /// The thread's own time: it stands still while the thread is held up, so that no deadline passes
    /// meanwhile.
    time: OwnTime,
    now: u64,
    sight: Sight,
}

/// An attempt at one address.
#[derive(Debug)]
struct AddressProbe {
    walk: Walk,
    effort: Effort,
    deadline: u64,
}

#[derive(Debug)]
enum Effort {
    Connecting(ProbeSocket),
    Talking(ProbeSocket, Talk),
    Running(Program),
}

impl Drop for Engine {
    /// The process may be about to end, and no program may outlive it. A program that is just being started,
    /// or has just ended and left others behind, can only be killed by its own thread.
    fn drop(&mut self) {
        self.probes.clear();
        self.programs.join(PARTING);
    }
}

/// Keys are not reused, so the generation holds further bits of the key.
fn token(key: usize) -> Token {
    let generation = (key as u64 >> 32) as u16;
    Token { kind: Kind::Socket, key: key as u32, side: Side::Server, generation }
}

fn key(token: Token) -> usize {
    (u64::from(token.generation) << 32 | u64::from(token.key)) as usize
}

impl Engine {
    /// An engine that connects as the workers do and takes descriptors from their budget.
    ///
    /// # Errors
    /// There is no descriptor for the poller or its waker.
    pub(super) fn new(budget: Arc<Budget>) -> io::Result<Self> {
        let poller = Poller::new()?;
        let waker = poller.waker(Token::WAKER)?;
        Ok(Self {
            poller,
            programs: Programs::new(waker.clone()),
            waker,
            budget,
            waiting: VecDeque::new(),
            waiting_programs: VecDeque::new(),
            probes: BTreeMap::new(),
            lingering: BTreeMap::new(),
            timers: Timers::default(),
            last_key: 0,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            done: Vec::new(),
            epoch: Instant::now(),
            time: OwnTime::default(),
            now: 0,
            sight: Sight::default(),
        })
    }

    /// A handle that ends the engine's wait from another thread.
    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Takes an order. The next `wait` starts it if there is a place. No other order with this id may be
    /// under way.
    pub(super) fn start(&mut self, order: Order) {
        debug_assert!(!self.is_under_way(order.id), "two probes of id {} at once", order.id);
        match *order.check {
            Check::Exec(_) => self.waiting_programs.push_back(order),
            Check::Tcp | Check::Http { .. } | Check::Dialogue(_) => self.waiting.push_back(order),
        }
    }

    /// Makes probes until there are outcomes, which are appended to `done`, or `until` has passed, or the
    /// waker was used. It may return earlier without an outcome.
    pub(super) fn wait(&mut self, until: Option<Instant>, done: &mut VecDeque<(u64, Findings)>) {
        self.now = self.own_time();
        loop {
            self.admit();
            let is_woken = self.round(until);
            let is_over = is_woken || !self.done.is_empty();
            done.extend(self.done.drain(..));
            if is_over || until.is_some_and(|until| until <= Instant::now()) {
                return;
            }
        }
    }

    /// Cancels the orders with these ids; they will have no outcome.
    pub(super) fn cancel(&mut self, ids: &HashSet<u64>) {
        if ids.is_empty() {
            return;
        }
        self.waiting.retain(|order| !ids.contains(&order.id));
        self.waiting_programs.retain(|order| !ids.contains(&order.id));
        self.done.retain(|(id, _)| !ids.contains(id));
        let under_way = self.probes.iter().filter(|(_, probe)| ids.contains(&probe.walk.order.id));
        let keys: Vec<usize> = under_way.map(|(&key, _)| key).collect();
        for key in keys {
            match self.take(key).map(|probe| probe.effort) {
                Some(Effort::Talking(socket, _)) => self.part(key, socket),
                Some(Effort::Connecting(_) | Effort::Running(_)) | None => {}
            }
        }
    }

    fn is_under_way(&self, id: u64) -> bool {
        let mut waiting = self.waiting.iter().chain(&self.waiting_programs);
        waiting.any(|order| order.id == id) || self.key_of(id).is_some()
    }

    fn key_of(&self, id: u64) -> Option<usize> {
        self.probes.iter().find(|(_, probe)| probe.walk.order.id == id).map(|(&key, _)| key)
    }

    /// Starts waiting orders as long as there are places.
    fn admit(&mut self) {
        while self.probes.len() < PROBES
            && !self.programs.is_full()
            && let Some(order) = self.waiting_programs.pop_front()
        {
            self.attempt(Walk::begin(order, self.now));
        }
        while self.probes.len() < PROBES
            && let Some(order) = self.waiting.pop_front()
        {
            self.attempt(Walk::begin(order, self.now));
        }
    }

    /// Waits once and handles what came. Was the waker used?
    fn round(&mut self, until: Option<Instant>) -> bool {
        let heard = self.look(until);
        let mut is_woken = false;
        let mut next = 0;
        while let Some((token, ready)) = self.poller.event(next) {
            next += 1;
            match token.kind {
                Kind::Waker => {
                    self.waker.drain();
                    is_woken = true;
                }
                Kind::Socket => self.event(key(token), ready),
                Kind::Listener => {}
            }
        }
        while let Some(report) = self.programs.report() {
            self.ended(report);
        }
        while let Some((_, key)) = self.timers.due(heard) {
            self.expired(key);
        }
        is_woken
    }

    /// Waits for events. Returns the time up to which all events have been seen: only a deadline before that
    /// has really passed, since the look itself may be late.
    fn look(&mut self, until: Option<Instant>) -> u64 {
        let (patience, began) = (self.patience(until), self.own_time());
        let seen = self.poller.wait(patience).unwrap_or_else(|_| {
            // This never happens on a working system; if it does, it must not keep a core busy.
            thread::sleep(Duration::from_millis(BROKEN_MS));
            Seen::Interrupted
        });
        self.now = millis(self.time.waited(patience, self.epoch.elapsed()));
        // The sockets of probes and farewells, and the waker.
        let watches = self.probes.len() + self.lingering.len() + 1;
        self.sight.looked(began.min(self.now), seen, self.poller.events(), watches)
    }

    /// The thread's own time in ms.
    fn own_time(&self) -> u64 {
        millis(self.time.reading(self.epoch.elapsed()))
    }

    /// How long to wait for events. `None`: without limit.
    fn patience(&self, until: Option<Instant>) -> Option<Duration> {
        if !self.done.is_empty() {
            return Some(Duration::ZERO);
        }
        // A millisecond later than due, so that the clock has surely passed it.
        let now = self.own_time();
        let due = self.timers.next().map(|at| match at.saturating_sub(now) {
            0 => Duration::ZERO,
            left => Duration::from_millis(left.saturating_add(1)),
        });
        let until = until.map(|until| until.saturating_duration_since(Instant::now()));
        [due, until].into_iter().flatten().min()
    }

    /// A key that no socket has, so that no event reaches the wrong one.
    fn next_key(&mut self) -> usize {
        loop {
            self.last_key = self.last_key.wrapping_add(1);
            let key = self.last_key;
            if !self.probes.contains_key(&key) && !self.lingering.contains_key(&key) {
                return key;
            }
        }
    }

    /// Starts an attempt at the walk's current address, or at the first later one that can be tried.
    fn attempt(&mut self, mut walk: Walk) {
        loop {
            let key = self.next_key();
            match self.begin(key, &walk) {
                Ok(effort) => {
                    let deadline = walk.deadline(self.now);
                    self.insert(key, AddressProbe { walk, effort, deadline });
                    return;
                }
                Err(fault) => {
                    if let Some(outcome) = walk.failed(fault, self.now) {
                        self.done.push((walk.order.id, outcome));
                        return;
                    }
                }
            }
        }
    }

    fn begin(&mut self, key: usize, walk: &Walk) -> Result<Effort, Fault> {
        if let Some(fault) = walk.is_barred() {
            return Err(fault);
        }
        let target = walk.target();
        if let Check::Exec(path) = &*walk.order.check {
            return self.programs.run(key, path, target, &self.budget).map(Effort::Running);
        }
        let mut begun = ProbeSocket::begin(target, &walk.order.outgoing, &self.budget);
        if matches!(begun, Err(Fault::Exhausted(_))) && self.part_with_oldest() {
            begun = ProbeSocket::begin(target, &walk.order.outgoing, &self.budget);
        }
        let socket = begun?;
        // The kernel's memory or limit of watches is used up.
        let watched = self.poller.add(socket.fd(), token(key));
        watched.map_err(|e| Fault::Exhausted(format!("connect: cannot watch a socket: {e}")))?;
        Ok(Effort::Connecting(socket))
    }

    fn insert(&mut self, key: usize, probe: AddressProbe) {
        self.timers.reset(key, None, Some(probe.deadline));
        self.probes.insert(key, probe);
    }

    fn take(&mut self, key: usize) -> Option<AddressProbe> {
        let probe = self.probes.remove(&key)?;
        self.timers.reset(key, Some(probe.deadline), None);
        Some(probe)
    }

    fn event(&mut self, key: usize, ready: Ready) {
        if let Some((socket, _)) = self.lingering.get_mut(&key) {
            if !socket.linger(&mut self.scratch) {
                self.close_lingering(key);
            }
            return;
        }
        let Some(mut probe) = self.take(key) else { return };
        match probe.effort {
            Effort::Connecting(socket) => self.answered(key, probe.walk, socket, probe.deadline, ready),
            Effort::Talking(mut socket, mut talk) => match socket.converse(&mut talk, &mut self.scratch) {
                Some(verdict) => self.settle(key, probe.walk, socket, verdict),
                None => {
                    probe.effort = Effort::Talking(socket, talk);
                    self.insert(key, probe);
                }
            },
            // A program has no socket, so no event comes for it.
            Effort::Running(_) => self.insert(key, probe),
        }
    }

    /// Handles the result of a connect.
    fn answered(&mut self, key: usize, walk: Walk, mut socket: ProbeSocket, deadline: u64, ready: Ready) {
        if (ready.writable || ready.error)
            && let Some(fault) = socket.failure()
        {
            drop(socket);
            return self.failed(walk, fault);
        }
        if !ready.writable {
            return self.insert(key, AddressProbe { walk, effort: Effort::Connecting(socket), deadline });
        }
        let target = walk.target();
        let header = walk.order.proxy.map(|version| encode::own(version, socket.local(), target.net()));
        let Some(mut talk) = Talk::new(&walk.order.check, target, header.unwrap_or_default()) else {
            return self.settle(key, walk, socket, Ok(()));
        };
        match talk.begin().or_else(|| socket.converse(&mut talk, &mut self.scratch)) {
            Some(verdict) => self.settle(key, walk, socket, verdict),
            None => self.insert(key, AddressProbe { walk, effort: Effort::Talking(socket, talk), deadline }),
        }
    }

    /// Ends a connection that led to a verdict.
    fn settle(&mut self, key: usize, walk: Walk, socket: ProbeSocket, verdict: Result<(), String>) {
        self.part(key, socket);
        match verdict {
            Ok(()) => self.succeeded(walk),
            Err(cause) => self.failed(walk, Fault::Channel(cause)),
        }
    }

    /// The address is up.
    fn succeeded(&mut self, mut walk: Walk) {
        self.done.push((walk.order.id, walk.succeeded()));
    }

    /// The address is not up.
    fn failed(&mut self, mut walk: Walk, fault: Fault) {
        match walk.failed(fault, self.now) {
            Some(outcome) => self.done.push((walk.order.id, outcome)),
            None => self.attempt(walk),
        }
    }

    /// A program has ended.
    fn ended(&mut self, report: Report) {
        // A program that was late or cancelled has already been dealt with.
        let Some(probe) = self.take(report.key) else { return };
        match report.result {
            Ok(()) => self.succeeded(probe.walk),
            Err(fault) => self.failed(probe.walk, fault),
        }
    }

    /// A deadline has passed.
    fn expired(&mut self, key: usize) {
        if self.lingering.remove(&key).is_some() {
            return;
        }
        let Some(mut probe) = self.probes.remove(&key) else { return };
        if let Effort::Running(program) = &mut probe.effort
            && program.is_over_by_now()
        {
            // The program ended in time; only its report is late.
            probe.deadline = self.now + REPORT_MS;
            return self.insert(key, probe);
        }
        let timeout = probe.walk.order.timeout;
        let cause = match probe.effort {
            Effort::Connecting(_) => format!("no answer within {timeout:?}"),
            Effort::Talking(socket, talk) => {
                let cause = talk.overdue(timeout);
                self.part(key, socket);
                cause
            }
            Effort::Running(program) => {
                drop(program);
                format!("killed at the timeout of {timeout:?}")
            }
        };
        self.failed(probe.walk, Fault::Channel(cause));
    }

    /// Closes a connection without sending a reset.
    fn part(&mut self, key: usize, mut socket: ProbeSocket) {
        if !socket.part(&mut self.scratch) {
            return;
        }
        let room = if self.budget.is_short() { LINGERING_WHEN_SHORT } else { LINGERING };
        while self.lingering.len() >= room && self.part_with_oldest() {}
        let deadline = self.now + FAREWELL_MS;
        self.timers.reset(key, None, Some(deadline));
        self.lingering.insert(key, (socket, deadline));
    }

    /// Closes the socket that has lingered longest. `false` if there is none.
    fn part_with_oldest(&mut self) -> bool {
        match self.lingering.first_key_value() {
            Some((&key, _)) => {
                self.close_lingering(key);
                true
            }
            None => false,
        }
    }

    fn close_lingering(&mut self, key: usize) {
        if let Some((_, deadline)) = self.lingering.remove(&key) {
            self.timers.reset(key, Some(deadline), None);
        }
    }
}
