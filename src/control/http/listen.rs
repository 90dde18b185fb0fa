//! The thread that serves HTTP: a few connections at a time, none of which it ever waits for.
//!
//! Knows: who may stay when many come, deadlines, the end. Never: what is asked or answered.
//! Source: docs/observability.md, "Metrics and probes by HTTP".
//!
//! One thread, so that whatever clients do costs one core at most. Those who come when all places are taken get the place of one who has
//! kept it longest without coming on: somebody who connects a thousand times and says nothing keeps nobody out.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::answer::Answer;
use super::orders::OrderParts;
use super::routes::Site;
use super::visit::Visit;
use crate::control::services::Services;
use crate::control::vitals::Vitals;

/// Places of a process that has descriptors enough.
const MOST_PLACES: u64 = 64;
/// Places of one that has hardly any.
const LEAST_PLACES: u64 = 4;
/// One place for so many descriptors that the process may have.
const DESCRIPTORS_PER_PLACE: u64 = 32;
/// Beside a descriptor for each place: the listener, two to wake the thread, one to accept by, and two to look at `/proc` or to carry
/// out a command.
const OWN: usize = 6;
/// Nobody loses a place within this time: whoever has just come may not have been able to say anything yet.
const SPARED: Duration = Duration::from_millis(50);
/// Whoever takes nothing of an answer for so long can lose the place, too: a probe waits no longer behind hundreds of them than its own
/// deadline.
const STALLED: Duration = Duration::from_millis(250);
/// An answer larger than this is kept in memory for few at a time.
const LARGE: usize = 64 * 1024;
const MOST_LARGE: usize = 8;
/// Waiting clients that the system keeps for us.
const BACKLOG: i32 = 1_024;
/// Between two attempts to accept or to wait when the system does not let us.
const BACK_OFF: Duration = Duration::from_millis(100);
/// What a wait may take longer than it was asked to and still counts. More than that is a pause of the process, and nobody's fault.
const LATE: Duration = Duration::from_millis(100);
/// How long the end waits for answers under way.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

fn places(limit: u64) -> usize {
    (limit / DESCRIPTORS_PER_PLACE).clamp(LEAST_PLACES, MOST_PLACES) as usize
}

/// What the server is made of.
#[allow(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct HttpParts {
    /// Where clients come in.
    pub listener: TcpListener,
    /// The name that it was given for the listener's address, if that was one.
    pub name: Option<String>,
    /// How many descriptors the process may have.
    pub descriptor_limit: u64,
    /// What is told of.
    pub services: Arc<Services>,
    /// How commands are carried out, and for whom; `None`: nobody may give any.
    pub orders: Option<OrderParts>,
    /// What the process says of itself.
    pub vitals: Box<dyn Fn() -> Vitals + Send>,
    /// Called first by the thread that serves.
    pub begins: fn(),
}

/// The running server. Dropped, it stops.
#[derive(Debug)]
pub struct HttpServer {
    shared: Arc<HttpState>,
}

#[derive(Debug)]
struct HttpState {
    door: Mutex<HttpDoor>,
    /// A byte, or the end, wakes the thread.
    wake: UnixStream,
    address: SocketAddr,
}

#[derive(Debug)]
struct HttpDoor {
    /// `None`: nobody comes in any more.
    listener: Option<Arc<TcpListener>>,
    /// Another process is about to have the listener.
    is_held: bool,
    is_over: bool,
}

impl HttpState {
    fn door(&self) -> MutexGuard<'_, HttpDoor> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full socket wakes as well.
        let _ = rustix::net::send(
            &self.wake,
            &[0],
            rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
        );
    }
}

impl HttpServer {
    /// How many descriptors it needs in a process that may have so many.
    pub fn descriptors(limit: u64) -> usize {
        places(limit) + OWN
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// No descriptor, or no thread for it.
    pub fn start(parts: HttpParts) -> io::Result<Self> {
        let HttpParts { listener, name, descriptor_limit, services, orders, vitals, begins } = parts;
        listener.set_nonblocking(true)?;
        // A burst waits there. What std asks for is less.
        rustix::net::listen(&listener, BACKLOG)?;
        let address = listener.local_addr()?;
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let door = HttpDoor { listener: Some(Arc::new(listener)), is_held: false, is_over: false };
        let shared = Arc::new(HttpState { door: Mutex::new(door), wake, address });
        let site = Site::new(services, orders, vitals);
        let mut lounge = Lounge {
            shared: Arc::clone(&shared),
            woken,
            name,
            site,
            places: places(descriptor_limit),
            visits: Vec::new(),
            now: Duration::ZERO,
            no_accept_before: Duration::ZERO,
        };
        thread::Builder::new().name("http".into()).spawn(move || {
            begins();
            lounge.serve();
        })?;
        Ok(Self { shared })
    }

    /// Where it listens, and a descriptor of that for another process. `None`: it does not any more.
    ///
    /// # Errors
    /// No descriptor for it.
    pub fn offer(&self) -> io::Result<Option<(SocketAddr, OwnedFd)>> {
        let listener = self.shared.door().listener.clone();
        let offered =
            |listener: Arc<TcpListener>| Ok((self.shared.address, listener.as_fd().try_clone_to_owned()?));
        listener.map(offered).transpose()
    }

    /// Accepts no clients for now: another process is about to take over.
    pub fn hold(&self) {
        self.shared.door().is_held = true;
        self.shared.wake();
    }

    /// Undoes [`HttpServer::hold`], and whatever another process that has not taken over has done to the listener.
    ///
    /// # Errors
    /// It does not listen any more.
    pub fn release(&self) -> io::Result<()> {
        let listener = {
            let mut door = self.shared.door();
            door.is_held = false;
            door.listener.clone()
        };
        let listens = listener.map(|listener| rustix::net::listen(&listener, BACKLOG)).transpose();
        self.shared.wake();
        listens?;
        Ok(())
    }

    /// Lets go of the port. Requests that are under way are answered.
    pub fn let_go(&self) {
        self.shared.door().listener = None;
        self.shared.wake();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let mut door = self.shared.door();
        (door.listener, door.is_over) = (None, true);
        drop(door);
        self.shared.wake();
    }
}

/// All who are there.
struct Lounge {
    shared: Arc<HttpState>,
    woken: UnixStream,
    name: Option<String>,
    site: Site,
    places: usize,
    visits: Vec<Visit>,
    /// The time that has passed for us: it stands still while the process is stopped.
    now: Duration,
    no_accept_before: Duration,
}

impl Lounge {
    fn serve(&mut self) {
        let mut ends_at = None;
        loop {
            let (listener, is_over) = {
                let door = self.shared.door();
                let listener = door.listener.clone();
                let stays = listener.is_some();
                if !stays {
                    self.visits.retain(|visit| !visit.is_idle());
                }
                if door.is_over && ends_at.is_none() {
                    ends_at = Some(self.now + LAST_ANSWERS);
                }
                let is_late = ends_at.is_some_and(|end| self.now >= end);
                (listener.filter(|_| !door.is_held), !stays && (self.visits.is_empty() || is_late))
            };
            if is_over {
                return;
            }
            self.site_does_its_own();
            let stays = listener.is_some();
            let (accepts, news) = self.wait(listener.as_deref(), ends_at);
            // First what has come, then whose time is over: after a pause both are true of many.
            for (number, has_news) in news.into_iter().enumerate() {
                if has_news {
                    self.go_on(number, stays);
                }
            }
            for visit in &mut self.visits {
                if visit.until() <= self.now {
                    visit.time_out(self.now);
                }
            }
            self.visits.retain(|visit| !visit.is_over());
            if accepts && let Some(listener) = listener {
                self.accept(&listener);
            }
        }
    }

    fn site_does_its_own(&mut self) {
        // A sample that cannot be had is a gap.
        let _ = catch_unwind(AssertUnwindSafe(|| self.site.tick()));
    }

    /// Waits for news: of the listener, and of each visit.
    fn wait(&mut self, listener: Option<&TcpListener>, ends_at: Option<Duration>) -> (bool, Vec<bool>) {
        let has_room = self.visits.len() < self.places;
        let next_to_go = if has_room { None } else { self.next_to_go() };
        let accepts_at = match (has_room, next_to_go) {
            (true, _) => Some(self.no_accept_before),
            (false, Some((_, at))) => Some(at.max(self.no_accept_before)),
            (false, None) => None,
        };
        let listener = listener.filter(|_| accepts_at.is_some_and(|at| at <= self.now));
        let accepts_at = accepts_at.filter(|&at| at > self.now);
        let deadlines = self.visits.iter().map(Visit::until).chain(accepts_at).chain(ends_at);
        let asked = deadlines.min().map(|at| at.saturating_sub(self.now));
        let asked = Some(asked.unwrap_or(Duration::MAX).min(self.site.until_tick()));
        // Rounded up, so that it is over when it ends.
        let timeout = asked.map(|asked| asked + Duration::from_millis(1));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let began = Instant::now();
        let mut polled = vec![PollFd::new(&self.woken, PollFlags::IN)];
        polled.extend(self.visits.iter().map(|visit| PollFd::new(visit, visit.interest())));
        polled.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        let result = rustix::event::poll(&mut polled, timeout.as_ref());
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let is_woken = ready.next() == Some(true);
        let news: Vec<bool> = ready.by_ref().take(self.visits.len()).collect();
        let accepts = ready.next() == Some(true);
        if result.is_err_and(|e| e != rustix::io::Errno::INTR) {
            thread::sleep(BACK_OFF);
        }
        if is_woken {
            let mut bytes = [0; 64];
            while matches!(io::Read::read(&mut self.woken, &mut bytes), Ok(64)) {}
        }
        let most = asked.map_or(Duration::MAX, |asked| asked.saturating_add(LATE));
        self.now += began.elapsed().min(most);
        (accepts, news)
    }

    fn go_on(&mut self, number: usize, stays: bool) {
        let large = self.visits.iter().filter(|visit| visit.unsent() > LARGE).count();
        let Self { visits, site, name, now, .. } = self;
        let Some(visit) = visits.get_mut(number) else { return };
        let from = visit.from();
        let mut answer = |request: &_| {
            let answer = catch_unwind(AssertUnwindSafe(|| site.answer(request, from)));
            let answer = answer.unwrap_or_else(|_| Answer::plain(500, "an internal error of balance\n"));
            match large >= MOST_LARGE && answer.size() > LARGE {
                true => Answer::plain(503, "too many clients read their answers slowly; try again\n"),
                false => answer,
            }
        };
        let went = catch_unwind(AssertUnwindSafe(|| visit.go_on(*now, name.as_deref(), stays, &mut answer)));
        if went.is_err() {
            // It costs this client its connection, and nobody else anything.
            visit.end();
        }
    }

    /// Whose place the next one can have, and from when on.
    fn next_to_go(&self) -> Option<(usize, Duration)> {
        let spared = |visit: &Visit| visit.since() + if visit.is_being_answered() { STALLED } else { SPARED };
        let all = self.visits.iter().enumerate();
        all.map(|(number, visit)| (number, spared(visit))).min_by_key(|&(_, at)| at)
    }

    fn accept(&mut self, listener: &TcpListener) {
        // As many as there are places: then those who are there are heard again.
        for _ in 0..self.places {
            if self.visits.len() >= self.places {
                match self.next_to_go() {
                    Some((number, at)) if at <= self.now => drop(self.visits.swap_remove(number)),
                    _ => return,
                }
            }
            match listener.accept() {
                Ok((stream, _)) => {
                    // Without a socket that does not wait there is no answer.
                    let Ok(visit) = Visit::new(stream, self.now) else { continue };
                    self.visits.push(visit);
                    // Most have asked already.
                    self.go_on(self.visits.len() - 1, true);
                    self.visits.pop_if(|visit| visit.is_over());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(_) => {
                    // Out of descriptors or memory, mostly; told by the data plane, which suffers from it too.
                    self.no_accept_before = self.now + BACK_OFF;
                    return;
                }
            }
        }
    }
}
