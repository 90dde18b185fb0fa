//! Where events go: stderr in the foreground, syslog in the background.
//!
//! Knows: `Event`, sinks, how often a repeated event may be logged. Never: why an event happened; anything
//! that could answer back; waiting for a reader.

use std::io::{self, IsTerminal};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use super::access::ServiceLabel;
use super::history::{History, Owner, PastEvent, finish, utc};
use super::hook::Hooks;
use super::stderr::Stderr;
use super::{Event, Severity};

/// Syslog's number for the daemon facility, shifted to its place in the priority.
const DAEMON: u8 = 3 << 3;
/// The name that 3.57 uses in syslog, which operators' filters match.
const IDENT: &str = "Balance";
/// The socket of the local syslog.
const SYSLOG: &str = "/dev/log";
/// A repeated event is logged again after this time at the earliest.
const QUIET: Duration = Duration::from_secs(10);
/// How many different events the limiter remembers. With more than this at once, the oldest may be repeated
/// early.
const TROUBLES: usize = 16;
/// Longer lines are cut. With a time in front, this is the most that a pipe takes in one piece (PIPE_BUF).
const LINE_MAX: usize = 4096 - 25;

/// The log of an instance. Cheap to clone; all clones are the same log.
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<Inner>,
    /// What its events belong to.
    owner: Owner,
    /// The name in its lines if there are several services.
    service: ServiceLabel,
}

#[derive(Debug)]
struct Inner {
    /// Whether the command line asks for debug events ...
    debug: bool,
    /// ... and whether they are logged now.
    is_debug: AtomicBool,
    /// Lines on stderr begin with the time.
    is_timed: bool,
    /// Lines that were lost because no reader took them.
    dropped: AtomicU64,
    sink: Mutex<Sink>,
    history: Arc<Mutex<History>>,
    hooks: Arc<Hooks>,
}

#[derive(Debug)]
struct Sink {
    way: Destination,
    limiter: Limiter,
}

#[derive(Debug)]
enum Destination {
    Stderr(Stderr),
    Syslog(Syslog),
    #[cfg(test)]
    Kept(Vec<Event>, fn()),
}

impl Log {
    /// A log to stderr, for the foreground. `debug` (`-d`) also lets debug and info events through.
    pub fn stderr(debug: bool) -> Self {
        Self::new(debug, Destination::Stderr(Stderr::default()))
    }

    /// A log to the local syslog, for the background: facility daemon, ident `Balance`, this process's ID.
    /// While there is no syslog, events are lost and counted; a syslog that appears later is found. With
    /// `debug`, debug events go there, too.
    pub fn syslog(debug: bool) -> Self {
        Self::syslog_at(SYSLOG.into(), debug)
    }

    fn syslog_at(path: PathBuf, debug: bool) -> Self {
        Self::new(debug, Destination::Syslog(Syslog { path, socket: None, unsaid: 0 }))
    }

    /// A log that keeps every event for [`Log::take`] and calls `told` before each.
    #[cfg(test)]
    pub(crate) fn kept(told: fn()) -> Self {
        Self::new(true, Destination::Kept(Vec::new(), told))
    }

    /// Takes the events that were kept since the last call.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Vec<Event> {
        match &mut self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner).way {
            Destination::Kept(events, _) => std::mem::take(events),
            Destination::Stderr(_) | Destination::Syslog(_) => Vec::new(),
        }
    }

    fn new(debug: bool, way: Destination) -> Self {
        let sink = Mutex::new(Sink { way, limiter: Limiter::default() });
        let (history, hooks) = (Arc::default(), Arc::default());
        let (is_debug, dropped) = (debug.into(), AtomicU64::new(0));
        let inner = Inner { debug, is_debug, is_timed: false, dropped, sink, history, hooks };
        Self { inner: Arc::new(inner), owner: Owner::PROCESS, service: Arc::default() }
    }

    /// Sets whether lines on stderr begin with the time. Call it before services have logs of their own.
    #[must_use]
    pub fn timed(mut self, is_timed: bool) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.is_timed = is_timed;
        }
        self
    }

    /// The same log for the events of one service. Each line has the service's name after its first word;
    /// `None` leaves it out.
    pub fn of_service(&self, owner: Owner, name: Option<&str>) -> Self {
        let service = Arc::new(RwLock::new(name.map(Arc::from)));
        Self { inner: Arc::clone(&self.inner), owner, service }
    }

    /// The service's name in log lines; it follows later changes.
    pub fn label(&self) -> ServiceLabel {
        Arc::clone(&self.service)
    }

    /// What its events belong to.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Shares the history with `other`: both then remember what either has logged. Call it before services
    /// have logs of their own.
    #[must_use]
    pub fn remembering(mut self, other: &Self) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.history = Arc::clone(&other.inner.history);
        }
        self
    }

    /// The last `most` events of this log's service and of the process, oldest first. The log of the process
    /// returns those of all services.
    pub fn events(&self, most: usize) -> Vec<PastEvent> {
        let all = self.owner == Owner::PROCESS;
        self.history().last(most, |event| all || event.owner == self.owner || event.owner == Owner::PROCESS)
    }

    /// Adds earlier events of another process to the history.
    pub fn inherit(&self, events: Vec<PastEvent>) {
        self.history().merge(events);
    }

    /// The programs that are run for events.
    pub fn hooks(&self) -> &Arc<Hooks> {
        &self.inner.hooks
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // The value is consistent even after a panic, since nothing between two changes can panic.
        self.inner.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the service's name in all clones of this log. `None`: lines have no name, because there is
    /// only one service.
    pub fn rename(&self, name: Option<&str>) {
        *self.service.write().unwrap_or_else(PoisonError::into_inner) = name.map(Arc::from);
    }

    /// Are debug events logged? Ask before building one.
    pub fn is_debug(&self) -> bool {
        self.inner.is_debug.load(Ordering::Relaxed)
    }

    /// Switches debug events on or off; `None` restores the command line's choice.
    pub fn set_debug(&self, is_debug: Option<bool>) {
        self.inner.is_debug.store(is_debug.unwrap_or(self.inner.debug), Ordering::Relaxed);
    }

    /// The setting made by [`set_debug`](Self::set_debug), if it differs from the command line.
    pub fn debug_by_hand(&self) -> Option<bool> {
        Some(self.is_debug()).filter(|&is_debug| is_debug != self.inner.debug)
    }

    /// How many descriptors the log needs for itself in the foreground or in the background.
    pub fn descriptors(is_foreground: bool) -> usize {
        usize::from(!is_foreground || Stderr::takes_descriptor())
    }

    /// If the log goes to stderr, makes writes to a terminal, pipe or socket there never block. Only for a
    /// process that serves, since it takes a descriptor.
    pub fn never_wait(&self) {
        let mut sink = self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if let Destination::Stderr(stderr) = &mut sink.way {
            stderr.open_anew();
        }
    }

    /// How many lines were lost since the start because the reader of stderr, or syslog, did not take them.
    pub fn dropped_lines(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    /// Does it go to the local syslog, as in the background?
    pub fn is_syslog(&self) -> bool {
        let sink = self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(sink.way, Destination::Syslog(_))
    }

    /// Prints this text if the log goes to stderr and that is a terminal. It is not an event.
    pub fn greet(&self, text: &str) {
        let mut sink = self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if let Destination::Stderr(stderr) = &mut sink.way
            && io::stderr().is_terminal()
        {
            #[allow(clippy::disallowed_methods)]
            let line = format!("{}balance: {text}\n", self.time_in_front(SystemTime::now()));
            self.count(stderr.say(&line, |_| String::new()));
        }
    }

    fn count(&self, is_taken: bool) {
        self.inner.dropped.fetch_add(u64::from(!is_taken), Ordering::Relaxed);
    }

    fn time_in_front(&self, at: SystemTime) -> String {
        if self.inner.is_timed { format!("{} ", utc(at)) } else { String::new() }
    }

    /// Logs an event. Never blocks, fails or panics: a line that no reader takes is lost. Errors and warnings
    /// that repeat word for word, and events that strangers can cause, are logged once in ten seconds, with a
    /// count of those suppressed. The begin and the end of an outage are never suppressed, since one makes no
    /// sense without the other.
    pub fn tell(&self, event: &Event) {
        self.say(event, true, is_limited(event));
    }

    /// Logs an event even if it repeats, because somebody asked for it.
    pub fn tell_each_time(&self, event: &Event) {
        self.say(event, true, false);
    }

    /// Logs an event again for other readers, without adding it to the history twice.
    pub fn tell_again(&self, event: &Event) {
        self.say(event, false, is_limited(event));
    }

    fn say(&self, event: &Event, is_new: bool, is_limited: bool) {
        let severity = event.severity();
        if severity == Severity::Debug && !self.is_debug() {
            return;
        }
        let mut line = event.to_string();
        if let Some(name) = &*self.service.read().unwrap_or_else(PoisonError::into_inner) {
            let at = line.find(' ').unwrap_or(line.len());
            line.insert_str(at, &format!(" service={name}"));
        }
        let mut sink = self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Sink { way, limiter } = &mut *sink;
        #[cfg(test)]
        if let Destination::Kept(events, told) = way {
            told();
            return events.push(event.clone());
        }
        // The sink reads the clocks, so that what the lines say stays pure.
        #[allow(clippy::disallowed_methods)]
        let (now, at) = (Instant::now(), SystemTime::now());
        // Events that strangers can cause count as equal, since strangers choose what the line says.
        let same = if event.is_by_strangers() { event.name() } else { &line };
        let left_out = if is_limited { limiter.admit(same, now) } else { Some(0) };
        let Some(left_out) = left_out else { return };
        if is_new && severity != Severity::Debug {
            let past = PastEvent::new(at, severity, self.owner, &line, left_out);
            // Programs are not run for events about programs.
            if !matches!(event, Event::HookFailed { .. } | Event::HookBehind { .. }) {
                self.inner.hooks.offer(&past);
            }
            self.history().push(past);
        }
        match way {
            // 3.57 prints nothing on a terminal while all is well, and its users expect that. Syslog keeps
            // the start and the end.
            Destination::Stderr(_) if severity == Severity::Info && !self.is_debug() => {}
            Destination::Stderr(stderr) => {
                let front = self.time_in_front(at);
                let lost = |lines| {
                    let lost = Event::LinesDropped { lines };
                    format!("{front}{}", stderr_line(lost.severity(), &lost.to_string(), 0))
                };
                self.count(stderr.say(&format!("{front}{}", stderr_line(severity, &line, left_out)), lost));
            }
            Destination::Syslog(syslog) => {
                let pid = std::process::id();
                let lost = |lines| {
                    let lost = Event::LinesDropped { lines };
                    syslog_line(lost.severity(), &lost.to_string(), 0, pid)
                };
                self.count(syslog.say(&syslog_line(severity, &line, left_out, pid), lost));
            }
            #[cfg(test)]
            Destination::Kept(..) => {}
        }
    }
}

/// May the event be suppressed if it repeats soon?
fn is_limited(event: &Event) -> bool {
    match event {
        Event::NoChannelUp | Event::ChannelUpAgain { .. } | Event::Refusing => false,
        Event::DescriptorsBack | Event::SignalIgnored { .. } => true,
        _ => event.severity() <= Severity::Warning,
    }
}

fn stderr_line(severity: Severity, line: &str, left_out: u64) -> String {
    let mut text = format!("balance: level={} {line}", severity.name());
    finish(&mut text, LINE_MAX, left_out);
    text.push('\n');
    text
}

/// A datagram as in RFC 3164 but without the timestamp: every receiver on a local socket adds its own.
fn syslog_line(severity: Severity, line: &str, left_out: u64, pid: u32) -> String {
    let mut text = format!("<{}>{IDENT}[{pid}]: {line}", DAEMON | severity.syslog());
    finish(&mut text, LINE_MAX, left_out);
    text
}

/// The socket of the local syslog, connected whenever syslog is there.
#[derive(Debug)]
struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// Lines that were lost and not reported in the log yet.
    unsaid: u64,
}

impl Syslog {
    /// Sends a line. `false`: it is lost. Before the first line after a loss, it sends what `lost` returns
    /// for the number of lost lines.
    fn say(&mut self, datagram: &str, lost: impl FnOnce(u64) -> String) -> bool {
        if self.unsaid > 0 && self.is_sent(&lost(self.unsaid)) {
            self.unsaid = 0;
        }
        let is_taken = self.unsaid == 0 && self.is_sent(datagram);
        self.unsaid += u64::from(!is_taken);
        is_taken
    }

    fn is_sent(&mut self, datagram: &str) -> bool {
        // Two tries, since a restart of syslog leaves a dead socket, which only the first send reveals.
        for _ in 0..2 {
            let Some(socket) = self.socket() else { return false };
            match socket.send(datagram.as_bytes()) {
                Ok(_) => return true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.socket = None,
            }
        }
        false
    }

    fn socket(&mut self) -> Option<&UnixDatagram> {
        if self.socket.is_none() {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            socket.connect(&self.path).ok()?;
            self.socket = Some(socket);
        }
        self.socket.as_ref()
    }
}

/// Suppresses lines that were logged a moment ago. Pure: the time is an argument.
#[derive(Debug, Default)]
struct Limiter {
    said: Vec<Repeated>,
}

#[derive(Debug)]
struct Repeated {
    line: String,
    at: Instant,
    left_out: u64,
}

impl Limiter {
    /// `None`: suppress the line. Otherwise log it; the number says how many equal ones were suppressed since
    /// the last time.
    fn admit(&mut self, line: &str, now: Instant) -> Option<u64> {
        if let Some(said) = self.said.iter_mut().find(|said| said.line == line) {
            if now.saturating_duration_since(said.at) < QUIET {
                said.left_out += 1;
                return None;
            }
            said.at = now;
            return Some(std::mem::take(&mut said.left_out));
        }
        if self.said.len() == TROUBLES {
            let oldest = (0..TROUBLES).min_by_key(|&i| self.said[i].at).unwrap_or(0);
            self.said.swap_remove(oldest);
        }
        self.said.push(Repeated { line: line.to_owned(), at: now, left_out: 0 });
        Some(0)
    }
}

#[cfg(test)]
// Tests need an instant to count from.
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!(
                "balance-log-{:016x}-{name}",
                std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
            ));
            std::fs::create_dir_all(&path).expect("a temporary directory");
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; LINE_MAX];
        let length = socket.recv(&mut buffer).expect("a datagram within the deadline");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn server(directory: &Directory) -> UnixDatagram {
        let path = directory.0.join("log");
        let _ = std::fs::remove_file(&path);
        let server = UnixDatagram::bind(path).expect("bind in a fresh directory");
        server.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
        server
    }

    #[test]
    fn syslog_gets_facility_ident_and_pid_and_is_found_again_when_it_restarts() {
        let directory = Directory::new("restart");
        let log = Log::syslog_at(directory.0.join("log"), false);
        log.tell(&Event::DescriptorsBack); // nobody there: dropped

        let first = server(&directory);
        log.tell(&Event::Drained);
        let pid = std::process::id();
        assert_eq!(received(&first), format!("<28>Balance[{pid}]: event=lines_dropped lines=1"));
        assert_eq!(received(&first), format!("<30>Balance[{pid}]: event=drained"));
        assert_eq!(log.dropped_lines(), 1);

        drop(first);
        let second = server(&directory);
        log.tell(&Event::OutOfDescriptors { limit: 9 });
        assert!(received(&second).starts_with("<27>Balance["), "the daemon facility and the error severity");
    }

    #[test]
    fn a_syslog_that_does_not_read_never_blocks_us() {
        let directory = Directory::new("full");
        let _server = server(&directory);
        let log = Log::syslog_at(directory.0.join("log"), false);
        for _ in 0..10_000 {
            log.tell(&Event::Drained);
        }
    }

    #[test]
    fn debug_events_need_the_debug_flag() {
        let directory = Directory::new("debug");
        let server = server(&directory);
        let lost = Event::ClientLost {
            client: std::net::SocketAddr::from(([127, 0, 0, 1], 9)).into(),
            reason: crate::sched::End::ClientReset,
        };
        let quiet = Log::syslog_at(directory.0.join("log"), false);
        quiet.tell(&lost);
        quiet.tell(&Event::Drained);
        assert!(received(&server).ends_with("event=drained"));
        Log::syslog_at(directory.0.join("log"), true).tell(&lost);
        assert!(received(&server).contains("event=client_lost"));
    }

    #[test]
    fn the_same_trouble_is_held_back_for_a_while_and_counted() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        assert_eq!(limiter.admit("a", start), Some(0));
        assert_eq!(limiter.admit("a", start + QUIET / 2), None);
        assert_eq!(limiter.admit("a", start + QUIET / 2), None);
        assert_eq!(limiter.admit("b", start + QUIET / 2), Some(0), "another trouble has its own turn");
        assert_eq!(limiter.admit("a", start + QUIET), Some(2));
        assert_eq!(limiter.admit("a", start + QUIET * 2), Some(0));
    }

    #[test]
    fn what_is_left_out_of_the_log_is_left_out_of_the_events_and_nothing_of_a_client_is_remembered() {
        let log = Log::syslog_at("/no/such/log".into(), true);
        let lost = Event::ClientLost {
            client: std::net::SocketAddr::from(([127, 0, 0, 1], 9)).into(),
            reason: crate::sched::End::Idle,
        };
        for _ in 0..3 {
            log.tell(&Event::OutOfDescriptors { limit: 9 });
            log.tell(&lost);
            log.tell(&Event::Drained);
        }
        log.tell_again(&Event::Drained);
        let lines: Vec<_> = log.events(99).iter().map(|event| event.line.to_string()).collect();
        let drained = "event=drained";
        assert_eq!(lines, ["event=out_of_descriptors limit=9", drained, drained, drained]);
    }

    #[test]
    fn strangers_fill_neither_the_log_nor_the_events() {
        let log = Log::syslog_at("/no/such/log".into(), false);
        log.tell(&Event::Drained);
        for stranger in 0..2_000_u32 {
            log.tell(&Event::WrongToken { from: std::net::Ipv4Addr::from(stranger + 1).into() });
        }
        let lines: Vec<_> = log.events(9_999).iter().map(|event| event.line.to_string()).collect();
        assert_eq!(lines, ["event=drained", "event=wrong_token http=0.0.0.1"]);
    }

    #[test]
    fn the_limiter_stays_small_whatever_is_said() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        for i in 0..1000 {
            assert_eq!(limiter.admit(&i.to_string(), start), Some(0));
        }
        assert_eq!(limiter.said.len(), TROUBLES);
    }

    #[test]
    fn a_long_line_is_cut_at_a_character_and_still_one_line() {
        let line = stderr_line(Severity::Error, &"\u{e9}".repeat(LINE_MAX), 3);
        assert!(line.len() <= LINE_MAX, "{}", line.len());
        assert!(line.starts_with("balance: level=error ") && line.ends_with(" left_out=3\n"));
        assert_eq!(line.matches('\n').count(), 1);
    }
}
