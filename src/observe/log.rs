//! Where events go: stderr in the foreground, syslog in the background.
//!
//! Knows: `Event`, sinks, how often the same trouble may be said. Never: why an event happened; anything that could
//! answer back; waiting for a reader.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Event, Severity};

/// Syslog's number of the daemon facility, already shifted to its place in the priority.
const DAEMON: u8 = 3 << 3;
/// What 3.57 calls itself in syslog; filters of operators match on it.
const IDENT: &str = "Balance";
/// Where the local syslog listens.
const SYSLOG: &str = "/dev/log";
/// The same trouble is said again after this long at the earliest.
const QUIET: Duration = Duration::from_secs(10);
/// How many different troubles are remembered; more than this at once and the oldest may be said again early.
const TROUBLES: usize = 16;
/// A longer line is cut. A pipe that polls as writable takes this much without blocking (PIPE_BUF).
const LINE_MAX: usize = 4096;

/// The log of an instance. Cheap to clone; every clone is the same log.
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<Inner>,
    /// Whose events it tells, where there are several services.
    service: Arc<RwLock<Option<Arc<str>>>>,
}

#[derive(Debug)]
struct Inner {
    debug: bool,
    sink: Mutex<Sink>,
}

#[derive(Debug)]
struct Sink {
    way: Destination,
    limiter: Limiter,
}

#[derive(Debug)]
enum Destination {
    Stderr,
    Syslog(Syslog),
    #[cfg(test)]
    Kept(Vec<Event>, fn()),
}

impl Log {
    /// To stderr, for the foreground. `debug` (`-d`) lets debug and info events through too.
    pub fn stderr(debug: bool) -> Self {
        Self::new(debug, Destination::Stderr)
    }

    /// To the local syslog, for the background: daemon facility, ident `Balance`, this process's pid. Where there is no
    /// syslog, events vanish silently; one that appears later is found. With `debug`, debug events go there too.
    pub fn syslog(debug: bool) -> Self {
        Self::syslog_at(SYSLOG.into(), debug)
    }

    fn syslog_at(path: PathBuf, debug: bool) -> Self {
        Self::new(debug, Destination::Syslog(Syslog { path, socket: None }))
    }

    /// Keeps everything that it is told, for [`Log::take`], and calls this before.
    #[cfg(test)]
    pub(crate) fn kept(told: fn()) -> Self {
        Self::new(true, Destination::Kept(Vec::new(), told))
    }

    /// What was kept since the last time.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Vec<Event> {
        match &mut self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner).way {
            Destination::Kept(events, _) => std::mem::take(events),
            Destination::Stderr | Destination::Syslog(_) => Vec::new(),
        }
    }

    fn new(debug: bool, way: Destination) -> Self {
        let sink = Mutex::new(Sink { way, limiter: Limiter::default() });
        Self { inner: Arc::new(Inner { debug, sink }), service: Arc::default() }
    }

    /// The same log for the events of one service: each line says so, behind its first word.
    pub fn of_service(&self, name: &str) -> Self {
        Self { inner: Arc::clone(&self.inner), service: Arc::new(RwLock::new(Some(name.into()))) }
    }

    /// The same log for a service that has no name and needs none so far.
    pub fn apart(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), service: Arc::default() }
    }

    /// Gives the service whose log this is another name, in all clones of it; `None`: there is nothing to tell it from.
    pub fn rename(&self, name: Option<&str>) {
        *self.service.write().unwrap_or_else(PoisonError::into_inner) = name.map(Arc::from);
    }

    /// Do debug events go anywhere? Ask before putting one together.
    pub fn is_debug(&self) -> bool {
        self.inner.debug
    }

    /// Says an event. Never blocks, fails or panics: a line nobody can take is lost. Errors and warnings that repeat
    /// word for word are said once in ten seconds, with a count of those left out. What begins or ends an outage is never
    /// left out: the one makes no sense without the other.
    pub fn tell(&self, event: &Event) {
        let severity = event.severity();
        if severity == Severity::Debug && !self.inner.debug {
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
        // The sink is where the clock is read: what the lines say stays pure.
        #[allow(clippy::disallowed_methods)]
        let left_out = if is_limited(event) { limiter.admit(&line, Instant::now()) } else { Some(0) };
        let Some(left_out) = left_out else { return };
        match way {
            // A terminal that shows nothing while all is well is what 3.57 users know; syslog keeps the start and the end.
            Destination::Stderr if severity == Severity::Info && !self.inner.debug => {}
            Destination::Stderr => to_stderr(&stderr_line(severity, &line, left_out)),
            Destination::Syslog(syslog) => {
                syslog.send(&syslog_line(severity, &line, left_out, std::process::id()))
            }
            #[cfg(test)]
            Destination::Kept(..) => {}
        }
    }
}

/// May it be left out when it is said again soon?
fn is_limited(event: &Event) -> bool {
    match event {
        Event::NoChannelUp | Event::ChannelUpAgain { .. } | Event::Refusing => false,
        Event::DescriptorsBack | Event::SignalIgnored { .. } => true,
        _ => event.severity() <= Severity::Warning,
    }
}

fn stderr_line(severity: Severity, line: &str, left_out: u64) -> String {
    let mut text = format!("balance: level={} {line}", severity.name());
    finish(&mut text, left_out);
    text.push('\n');
    text
}

/// The datagram of RFC 3164 without its timestamp: every receiver on a local socket fills in its own.
fn syslog_line(severity: Severity, line: &str, left_out: u64, pid: u32) -> String {
    let mut text = format!("<{}>{IDENT}[{pid}]: {line}", DAEMON | severity.syslog());
    finish(&mut text, left_out);
    text
}

fn finish(text: &mut String, left_out: u64) {
    // Room for the count and the newline.
    let mut end = (LINE_MAX - 40).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    if left_out > 0 {
        text.push_str(&format!(" left_out={left_out}"));
    }
}

/// One write per line, and only if the reader has room: a pager or a full pipe behind stderr must not stop the traffic.
fn to_stderr(text: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    if let Ok(1) = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        // Nobody can be told that telling failed.
        let _ = rustix::io::write(stderr.as_fd(), text.as_bytes());
    }
}

/// The local syslog's socket, connected when it is there.
#[derive(Debug)]
struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    fn send(&mut self, datagram: &str) {
        // Twice: a syslog that was restarted leaves us a dead socket, found out by the first send.
        for _ in 0..2 {
            let Some(socket) = self.socket() else { return };
            match socket.send(datagram.as_bytes()) {
                Ok(_) => return,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.socket = None,
            }
        }
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

/// Holds back what was just said. Pure: the time is an argument.
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
    /// `None`: hold it back. Otherwise say it, and how many like it were held back since the last time.
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
            let path = std::env::temp_dir().join(format!("balance-log-{}-{name}", std::process::id()));
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
        assert_eq!(received(&first), format!("<30>Balance[{}]: event=drained", std::process::id()));

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
        let lost =
            Event::ClientLost { client: [127, 0, 0, 1].into(), reason: crate::observe::End::ClientReset };
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
