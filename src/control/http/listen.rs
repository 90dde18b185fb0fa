//! The thread that serves HTTP: a few connections at a time, and it waits for none of them.
//!
//! Knows: who may stay when many come, deadlines, the end. Never: what is asked or answered.
//! Source: docs/observability.md, "Metrics and probes by HTTP".
//!
//! There is one thread, so that clients cost one core at most, whatever they do. If all places are taken, a
//! new client gets the place of the one that has made no progress for the longest time. So a client that
//! opens a thousand connections and sends nothing keeps nobody out.

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

/// Maximum number of connections if the process has enough descriptors.
const MOST_PLACES: u64 = 64;
/// Number of connections if it has very few.
const LEAST_PLACES: u64 = 4;
/// There is one place for this many descriptors of the process's limit.
const DESCRIPTORS_PER_PLACE: u64 = 32;
/// Descriptors needed beside one for each place: the listener, two to wake the thread, one to accept, and two
/// to read `/proc` or carry out a command.
const OWN: usize = 6;
/// No client loses its place before this time: a client that has just come may not have been able to send
/// anything yet.
const SPARED: Duration = Duration::from_millis(50);
/// A client that has read nothing of its answer for this long can lose its place, too. So a probe does not
/// wait longer behind hundreds of them than its own deadline allows.
const STALLED: Duration = Duration::from_millis(250);
/// Only a few answers larger than this (in bytes) are kept in memory at the same time.
const LARGE: usize = 64 * 1024;
const MOST_LARGE: usize = 8;
/// Length of the listen queue.
const BACKLOG: i32 = 1_024;
/// The pause before the next attempt if the system cannot accept or wait.
const BACK_OFF: Duration = Duration::from_millis(100);
/// A wait may take this much longer than asked for and still count as time. The rest was a pause of the
/// process, which must not make clients late.
const LATE: Duration = Duration::from_millis(100);
/// How long the end of the server waits for answers that are being sent.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

fn places(limit: u64) -> usize {
    (limit / DESCRIPTORS_PER_PLACE).clamp(LEAST_PLACES, MOST_PLACES) as usize
}

/// What is needed to start the server.
#[allow(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct HttpParts {
    /// The listening socket.
    pub listener: TcpListener,
    /// The host name in the listener's address, if it was given as a name.
    pub name: Option<String>,
    /// The limit of open descriptors of the process.
    pub descriptor_limit: u64,
    /// The services to report on.
    pub services: Arc<Services>,
    /// How commands are carried out, and who may give them; `None`: HTTP is read-only.
    pub orders: Option<OrderParts>,
    /// Returns the values of the process itself.
    pub vitals: Box<dyn Fn() -> Vitals + Send>,
    /// Called first by the thread that serves.
    pub begins: fn(),
}

/// The running server. Dropping it stops the server.
#[derive(Debug)]
pub struct HttpServer {
    shared: Arc<HttpState>,
}

#[derive(Debug)]
struct HttpState {
    door: Mutex<HttpDoor>,
    /// Writing a byte, or closing it, wakes the thread.
    wake: UnixStream,
    address: SocketAddr,
}

#[derive(Debug)]
struct HttpDoor {
    /// The listener; `None`: no new clients are accepted any more.
    listener: Option<Arc<TcpListener>>,
    /// Whether no client is accepted for now, because another process is about to take over.
    is_held: bool,
    is_over: bool,
}

impl HttpState {
    fn door(&self) -> MutexGuard<'_, HttpDoor> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // If the socket is full, the thread wakes anyway.
        let _ = rustix::net::send(
            &self.wake,
            &[0],
            rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
        );
    }
}

impl HttpServer {
    /// How many descriptors the server needs in a process with this limit.
    pub fn descriptors(limit: u64) -> usize {
        places(limit) + OWN
    }

    /// Starts the server.
    ///
    /// # Errors
    /// There is no descriptor or no thread for it.
    pub fn start(parts: HttpParts) -> io::Result<Self> {
        let HttpParts { listener, name, descriptor_limit, services, orders, vitals, begins } = parts;
        listener.set_nonblocking(true)?;
        // The queue holds a burst of clients. The default of std is shorter.
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

    /// The address of the listener and a descriptor of it for another process. `None`: it does not listen any
    /// more.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub fn offer(&self) -> io::Result<Option<(SocketAddr, OwnedFd)>> {
        let listener = self.shared.door().listener.clone();
        let offered =
            |listener: Arc<TcpListener>| Ok((self.shared.address, listener.as_fd().try_clone_to_owned()?));
        listener.map(offered).transpose()
    }

    /// Stops accepting clients for now, because another process is about to take over.
    pub fn hold(&self) {
        self.shared.door().is_held = true;
        self.shared.wake();
    }

    /// Undoes [`HttpServer::hold`], and what another process that did not take over has done to the listener.
    ///
    /// # Errors
    /// The socket cannot listen again.
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

    /// Closes the listener. Requests that have begun are answered.
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

/// The serving thread with all its connections.
struct Lounge {
    shared: Arc<HttpState>,
    woken: UnixStream,
    name: Option<String>,
    site: Site,
    places: usize,
    visits: Vec<Visit>,
    /// The time for all deadlines. It stands still while the process is stopped.
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
            // Input is handled before deadlines: after a pause of the process, many clients have both.
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
        // If a sample fails, the history has a gap.
        let _ = catch_unwind(AssertUnwindSafe(|| self.site.tick()));
    }

    /// Waits for events. Returns whether the listener has one, and which visits have one.
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
        // Rounded up, so that the deadline has passed when the wait ends.
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
            // A panic costs this client its connection, and no other client anything.
            visit.end();
        }
    }

    /// The visit whose place the next client can have, and from when on.
    fn next_to_go(&self) -> Option<(usize, Duration)> {
        let spared = |visit: &Visit| visit.since() + if visit.is_being_answered() { STALLED } else { SPARED };
        let all = self.visits.iter().enumerate();
        all.map(|(number, visit)| (number, spared(visit))).min_by_key(|&(_, at)| at)
    }

    fn accept(&mut self, listener: &TcpListener) {
        // At most one round of places; then the present clients get their turn.
        for _ in 0..self.places {
            if self.visits.len() >= self.places {
                match self.next_to_go() {
                    Some((number, at)) if at <= self.now => drop(self.visits.swap_remove(number)),
                    _ => return,
                }
            }
            match listener.accept() {
                Ok((stream, _)) => {
                    // A connection that cannot be made non-blocking is not served.
                    let Ok(visit) = Visit::new(stream, self.now) else { continue };
                    self.visits.push(visit);
                    // Most clients have sent their request by now.
                    self.go_on(self.visits.len() - 1, true);
                    self.visits.pop_if(|visit| visit.is_over());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(_) => {
                    // Mostly there is no descriptor or memory left. The data plane logs that, since it is
                    // affected too.
                    self.no_accept_before = self.now + BACK_OFF;
                    return;
                }
            }
        }
    }
}
