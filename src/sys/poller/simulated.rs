//! A poller that reports events of real sockets as a system may: late, in any order, in part, twice.
//!
//! Knows: which sockets have events, since when, and which of them the next wait is to report. Never: what a
//! token means, what decides all that.
//!
//! The real poller says when a socket has an event. A second, level-triggered one says what is true of the
//! socket now: as in a system, the flags are those at the moment of the report, and a socket that was closed
//! before is not reported. Sockets with events are queued and reported in turn.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::epoll::{ALL, Poller, Waker, told};
use super::readiness::{Readiness, Seen};
use super::token::Token;
use crate::sys::trouble::{self, FaultPoint};
use crate::wire::relay::Ready;

/// More sockets than any simulation has.
const SOCKETS: usize = 512;

/// A socket with an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    /// The packed token of the watch.
    token: u64,
    /// When the event came, by the clock of the caller.
    pub(crate) since: u64,
    /// The earliest time at which it may be reported, by the same clock.
    pub(crate) from: u64,
}

/// What the next wait reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deal {
    /// All events.
    All,
    /// At most this many events.
    Part(usize),
    /// Nothing: a signal comes first.
    Interrupted,
}

/// A poller whose events are reported as the simulator decides.
#[derive(Debug)]
pub(crate) struct Dealer {
    real: RefCell<Poller>,
    levels: OwnedFd,
    line: VecDeque<News>,
    deal: Deal,
    now: u64,
    told: Vec<(Token, Ready)>,
    /// The planted bug of [`forget_generations`](Self::forget_generations) is on.
    forgets_generations: bool,
    generations: RefCell<BTreeMap<u64, u16>>,
}

impl Dealer {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            real: RefCell::new(Poller::new()?),
            levels: epoll::create(CreateFlags::CLOEXEC)?,
            line: VecDeque::new(),
            deal: Deal::All,
            now: 0,
            told: Vec::new(),
            forgets_generations: false,
            generations: RefCell::default(),
        })
    }

    /// Creates a waker that reports `token`.
    pub(crate) fn waker(&self, token: Token) -> io::Result<Waker> {
        let waker = self.real.borrow().waker(token)?;
        epoll::add(&self.levels, waker.fd(), EventData::new_u64(token.pack()), EventFlags::IN)?;
        Ok(waker)
    }

    /// The sockets with new events since the last call, in a deterministic order.
    pub(crate) fn fresh(&self) -> io::Result<Vec<Token>> {
        let mut real = self.real.borrow_mut();
        real.wait(Some(Duration::ZERO))?;
        let mut fresh: Vec<u64> = (0..real.events()).filter_map(|i| Some(real.event(i)?.0.pack())).collect();
        fresh.sort_unstable();
        Ok(fresh.into_iter().map(Token::unpack).collect())
    }

    /// Queues an event, unless an older one of the same socket is queued.
    pub(crate) fn put(&mut self, token: Token, since: u64, from: u64) {
        let token = token.pack();
        if !self.line.iter().any(|news| news.token == token) {
            self.line.push_back(News { token, since, from });
        }
    }

    /// What is true now of every socket that has anything to report.
    fn levels(&self) -> BTreeMap<u64, Ready> {
        let mut room = [const { MaybeUninit::<Event>::uninit() }; SOCKETS];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.levels, &mut room, Some(&zero)) {
            Ok((events, _)) => events.iter().map(told).map(|(token, ready)| (token.pack(), ready)).collect(),
            Err(_) => BTreeMap::new(),
        }
    }

    /// Every socket that has anything to report.
    pub(crate) fn sockets(&self) -> Vec<Token> {
        self.levels().into_keys().map(Token::unpack).collect()
    }

    /// Queued events. Those made obsolete by a close or a read are removed.
    pub(crate) fn untold(&mut self) -> Vec<News> {
        let levels = self.levels();
        self.line.retain(|news| levels.contains_key(&news.token));
        self.line.iter().copied().collect()
    }

    /// Allows all queued events to be reported now.
    pub(crate) fn release(&mut self) {
        self.line.iter_mut().for_each(|news| news.from = 0);
    }

    /// Plants a bug: an event of a closed socket is reported for the next socket in its place.
    pub(crate) fn forget_generations(&mut self) {
        self.forgets_generations = true;
    }

    /// Decides what the next wait reports, and the time at which it happens.
    pub(crate) fn deal(&mut self, deal: Deal, now: u64) {
        (self.deal, self.now) = (deal, now);
    }
}

impl Readiness for Dealer {
    fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        trouble::strike(FaultPoint::Watch)?;
        self.generations.borrow_mut().insert(place(token), token.generation);
        epoll::add(&self.levels, &fd, EventData::new_u64(token.pack()), ALL.difference(EventFlags::ET))?;
        self.real.borrow().add(fd, token)
    }

    fn set_reading(&self, fd: impl AsFd, token: Token, reading: bool) -> io::Result<()> {
        trouble::strike(FaultPoint::Watch)?;
        let flags = ALL.difference(EventFlags::ET);
        let flags = if reading { flags } else { flags.difference(EventFlags::IN) };
        epoll::modify(&self.levels, &fd, EventData::new_u64(token.pack()), flags)?;
        self.real.borrow().set_reading(fd, token, reading)
    }

    fn add_listener(&mut self, fd: impl AsFd, token: Token) -> io::Result<()> {
        trouble::strike(FaultPoint::Watch)?;
        epoll::add(&self.levels, &fd, EventData::new_u64(token.pack()), EventFlags::IN)?;
        self.real.borrow_mut().add_listener(fd, token)
    }

    fn remove(&mut self, fd: impl AsFd) {
        let _ = epoll::delete(&self.levels, &fd);
        self.real.borrow_mut().remove(fd);
    }

    fn wait(&mut self, _timeout: Option<Duration>) -> io::Result<Seen> {
        self.told.clear();
        let levels = self.levels();
        self.line.retain(|news| levels.contains_key(&news.token));
        let most = match self.deal {
            Deal::All => usize::MAX,
            Deal::Part(most) => most,
            Deal::Interrupted => return Ok(Seen::Interrupted),
        };
        let (mut later, mut again) = (VecDeque::new(), Vec::new());
        let mut is_all = true;
        for news in std::mem::take(&mut self.line) {
            if news.from > self.now {
                later.push_back(news);
            } else if self.told.len() == most {
                is_all = false;
                later.push_back(news);
            } else {
                let token = Token::unpack(news.token);
                self.told.push((token, levels[&news.token]));
                // A listener is level-triggered: it is queued again until no client is waiting.
                if token.kind == super::Kind::Listener {
                    again.push(news);
                }
            }
        }
        later.extend(again);
        self.line = later;
        Ok(if is_all && self.told.len() < most { Seen::All } else { Seen::Part })
    }

    fn events(&self) -> usize {
        self.told.len()
    }

    fn event(&self, i: usize) -> Option<(Token, Ready)> {
        let &(mut token, ready) = self.told.get(i)?;
        if self.forgets_generations
            && let Some(&generation) = self.generations.borrow().get(&place(token))
        {
            token.generation = generation;
        }
        Some((token, ready))
    }
}

fn place(token: Token) -> u64 {
    Token { generation: 0, ..token }.pack()
}
