//! What stops the instance: a signal, or a message that nothing is left to do. All other signals are handled
//! so that they do not.
//!
//! Knows: signals, one pipe. Never: what is being drained, listeners, connections.
//! Source: docs/compatibility.md, "Process".

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGURG, SIGUSR1,
    SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::flag;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::daemon::is_init;
use super::dispositions::{ignore, unblock_all};
use crate::observe::{Event, Log, Severity};

/// The number of the signal whose meaning is a [`Hangup`].
pub const HANGUP: i32 = SIGHUP;
/// Signals that ask the process to end.
const STOPS: &[i32] = &[SIGTERM, SIGINT, SIGQUIT];
/// Signals that would end the process although they have no meaning for it and are not caused by its own
/// faults (as SIGSEGV is).
const IDLE: &[(i32, &str)] = &[
    (SIGUSR1, "USR1"),
    (SIGUSR2, "USR2"),
    (SIGALRM, "ALRM"),
    (SIGVTALRM, "VTALRM"),
    (SIGPROF, "PROF"),
    (SIGIO, "IO"),
    (SIGXCPU, "XCPU"),
    #[cfg(target_os = "linux")]
    (libc::SIGPWR, "PWR"),
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    (libc::SIGSTKFLT, "STKFLT"),
];
/// Signals that are ignored without a handler or a log line, because writes of balance cause them. For
/// SIGTTIN and SIGTTOU a handler would lead to an endless loop; with SIGXFSZ ignored, the write reports that
/// the file is too big.
const MUTE: &[i32] = &[SIGTTIN, SIGTTOU, SIGXFSZ];
/// How often to look for signals if waiting for them fails.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Signals that arrive before there is a [`Shutdown`].
static EARLY: OnceLock<EarlySignals> = OnceLock::new();

struct EarlySignals {
    /// The files are to be read again; they may already have been read.
    is_reload_wanted: Arc<AtomicBool>,
    /// A signal of [`STOPS`] ends the process at once, since there is nothing to clean up yet.
    is_end: Arc<AtomicBool>,
}

/// From now on, a file that would exceed its maximum size is an error of the write and does not end the
/// process.
pub fn expect_full_files() {
    // This cannot fail: the number is a signal.
    let _ = ignore(SIGXFSZ);
}

/// Call it first in a process that is going to serve: from now on it is not ended by signals that will not
/// end it later either. Looking up names at the start may take long.
pub fn expect_signals() {
    let early = EARLY.get_or_init(|| EarlySignals {
        is_reload_wanted: Arc::default(),
        is_end: Arc::new(AtomicBool::new(true)),
    });
    let idle = IDLE.iter().map(|&(signal, _)| signal);
    for signal in idle.chain(MUTE.iter().copied()).chain(real_time()) {
        // If the system refuses, the signal keeps its default action.
        let _ = ignore(signal);
    }
    let _ = flag::register(SIGHUP, Arc::clone(&early.is_reload_wanted));
}

/// Until there is a [`Shutdown`], signals that ask for the end exit the process with code 0. Not for a
/// process whose caller waits for it to go to the background, since it has not served yet.
pub fn expect_the_end(hangup: Hangup) {
    let Some(early) = EARLY.get() else { return };
    for &signal in STOPS {
        let _ = flag::register_conditional_shutdown(signal, 0, Arc::clone(&early.is_end));
    }
    if hangup == Hangup::Stops {
        let _ = flag::register_conditional_shutdown(SIGHUP, 0, Arc::clone(&early.is_end));
        if early.is_reload_wanted.load(Ordering::SeqCst) {
            std::process::exit(0);
        }
    }
}

/// Why [`Shutdown::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT, SIGQUIT, or SIGHUP if that stops: end at once.
    Signal,
    /// SIGTERM: end when no connection is left.
    Drain,
    /// SIGURG: the predecessor was told to drain and passes that on. Repeated signals count once.
    DrainToo,
    /// SIGHUP otherwise: read the configuration files again.
    Reload,
    /// SIGUSR2: start an upgrade to another process.
    Upgrade,
    /// SIGUSR1: reopen the files that are written to.
    Reopen,
    /// A [`Notifier`] was called, because nothing is left to do or for another reason.
    Drained,
    /// The given time has passed.
    TimeIsUp,
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The terminal is gone: stop.
    Stops,
    /// Somebody wants the configuration files to be read again.
    Reloads,
}

impl Hangup {
    /// What SIGHUP means to this process. It means a lost terminal only in a foreground program that has a
    /// terminal and was not started with the signal ignored (`nohup`). Elsewhere (a service manager, a
    /// container) SIGHUP asks for a reload, as with other servers.
    ///
    /// Call it at the start: after a real hangup nobody can know.
    pub fn of_this_process(foreground: bool, was_ignored: bool) -> Self {
        if foreground && !is_init() && !was_ignored && has_terminal() { Self::Stops } else { Self::Reloads }
    }
}

/// Does the process have a controlling terminal?
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Does the terminal hang up when this process ends, whatever else runs on it? It does for the leader of a
/// session.
pub fn leads_terminal() -> bool {
    // rustix assumes that the leader has a number here. A leader outside our PID namespace has none (0).
    nix::unistd::getsid(None).is_ok_and(|leader| leader == nix::unistd::Pid::this()) && has_terminal()
}

/// Waits for signals; the only place that does.
#[derive(Debug)]
pub struct Shutdown {
    signals: SignalDelivery<UnixStream, SignalOnly>,
    drained: Notifier,
    hangup: Hangup,
    /// Signals that arrived but were not returned yet, because others came first.
    reload_wanted: bool,
    upgrade_wanted: bool,
    reopen_wanted: bool,
}

/// Wakes [`Shutdown::wait`]. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Notifier(Arc<Drained>);

#[derive(Debug)]
struct Drained {
    is_drained: AtomicBool,
    waker: UnixStream,
}

impl Notifier {
    /// A notifier on which nobody waits.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        let (waker, _) = UnixStream::pair().expect("a pair");
        Self(Arc::new(Drained { is_drained: AtomicBool::new(false), waker }))
    }

    /// Wakes the waiting thread. Never blocks: a full pipe wakes it, too.
    pub fn drained(&self) {
        self.0.is_drained.store(true, Ordering::SeqCst);
        let _ = (&self.0.waker).write(&[0]);
    }
}

impl Shutdown {
    /// Takes over, for the whole process, every signal that would end it and is not caused by a fault of its
    /// own. The signals are unblocked in this thread and in those started later, whatever mask the process
    /// was started with.
    ///
    /// # Errors
    /// There are no descriptors for the pipe, or the system refuses a handler.
    pub fn install(hangup: Hangup) -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let waker = writer.try_clone()?;
        // SIGCHLD may have been ignored by the program that started balance, and then the exit status of a
        // check's program would be lost.
        let idle = IDLE.iter().map(|&(signal, _)| signal);
        let all = STOPS.iter().copied().chain(idle).chain([SIGHUP, SIGCHLD, SIGURG]).chain(real_time());
        let signals = SignalDelivery::with_pipe(reader, writer, SignalOnly, all)?;
        for signal in MUTE {
            ignore(*signal)?;
        }
        let early = EARLY.get();
        early.iter().for_each(|early| early.is_end.store(false, Ordering::SeqCst));
        unblock_all();
        let reload_wanted = early.is_some_and(|early| early.is_reload_wanted.swap(false, Ordering::SeqCst));
        let drained = Notifier(Arc::new(Drained { is_drained: AtomicBool::new(false), waker }));
        Ok(Self {
            signals,
            drained,
            hangup,
            reload_wanted: reload_wanted && hangup == Hangup::Reloads,
            upgrade_wanted: false,
            reopen_wanted: false,
        })
    }

    /// A notifier for the code that knows when the last connection has ended.
    pub fn notifier(&self) -> Notifier {
        self.drained.clone()
    }

    /// Blocks until a signal or notifier gives a [`Cause`], or until `patience` is over. Signals without
    /// effect are logged to `log`. It may be called again: a second signal is a second result.
    pub fn wait(&mut self, patience: Option<Duration>, log: &Log) -> Cause {
        let begun = Instant::now();
        loop {
            // Arrived signals are in flags; the pipe only wakes this thread. So nothing is lost or invented
            // if the pipe fails.
            if let Some(cause) = self.came(log) {
                return cause;
            }
            let left = patience.map(|patience| patience.saturating_sub(begun.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Cause::TimeIsUp;
            }
            if let Err(error) = self.sleep(left) {
                let text = format!("cannot wait for signals: {error}; looking for them every {LOOK_AGAIN:?}");
                log.tell(&Event::Note { severity: Severity::Warning, text });
                thread::sleep(LOOK_AGAIN);
            }
        }
    }

    /// The most urgent cause that has arrived since the last call.
    fn came(&mut self, log: &Log) -> Option<Cause> {
        let came: Vec<i32> = self.signals.pending().collect();
        let (mut stops, mut drains, mut drains_too) = (false, false, false);
        for &signal in &came {
            match meaning(signal, self.hangup) {
                Meaning::Stop => stops = true,
                Meaning::Drain => drains = true,
                Meaning::DrainToo => drains_too = true,
                Meaning::Reload => self.reload_wanted = true,
                Meaning::Upgrade => self.upgrade_wanted = true,
                Meaning::Reopen => self.reopen_wanted = true,
                Meaning::Child => reap_orphans(),
                Meaning::Nothing { name, why } => log.tell(&Event::SignalIgnored { signal: name, why }),
            }
        }
        // What ends the process sooner comes first; what does not end it comes last.
        if stops {
            return Some(Cause::Signal);
        }
        if drains {
            return Some(Cause::Drain);
        }
        if drains_too {
            return Some(Cause::DrainToo);
        }
        if std::mem::take(&mut self.reload_wanted) {
            return Some(Cause::Reload);
        }
        if std::mem::take(&mut self.reopen_wanted) {
            return Some(Cause::Reopen);
        }
        if std::mem::take(&mut self.upgrade_wanted) {
            return Some(Cause::Upgrade);
        }
        self.drained.0.is_drained.swap(false, Ordering::SeqCst).then_some(Cause::Drained)
    }

    /// Waits until somebody writes to the pipe, or until `patience` is over. It may also return for no
    /// reason.
    fn sleep(&mut self, patience: Option<Duration>) -> io::Result<()> {
        let reader = self.signals.get_read();
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut [PollFd::new(reader, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut reader: &UnixStream = reader;
        match reader.read(&mut [0; 64]) {
            // This process holds a writer itself, so the pipe cannot end.
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

enum Meaning {
    /// End at once.
    Stop,
    /// End when no connection is left.
    Drain,
    DrainToo,
    Reload,
    Upgrade,
    Reopen,
    /// A child process ended.
    Child,
    Nothing {
        name: String,
        why: &'static str,
    },
}

fn meaning(signal: i32, hangup: Hangup) -> Meaning {
    let nothing = |name: &str, why| Meaning::Nothing { name: name.to_owned(), why };
    match signal {
        SIGCHLD => Meaning::Child,
        SIGHUP if hangup == Hangup::Stops => Meaning::Stop,
        SIGHUP => Meaning::Reload,
        SIGTERM => Meaning::Drain,
        SIGURG => Meaning::DrainToo,
        SIGUSR1 => Meaning::Reopen,
        SIGUSR2 => Meaning::Upgrade,
        SIGXCPU => nothing("XCPU", "the limit of CPU time (ulimit -t) is used up"),
        signal if STOPS.contains(&signal) => Meaning::Stop,
        signal => match IDLE.iter().find(|&&(idle, _)| idle == signal) {
            Some((_, name)) => nothing(name, "balance does not use it"),
            None => nothing(&signal.to_string(), "balance does not use it"),
        },
    }
}

/// Reaps processes that became our children without our doing: the first process of a container inherits
/// every orphan, and a shell that became balance by exec leaves it its children. Children of other threads
/// (programs of checks) are left to those threads.
#[cfg(target_os = "linux")]
fn reap_orphans() {
    use rustix::process::{WaitOptions, wait};
    // Orphans become children of this thread, the main one.
    let of_this_thread = WaitOptions::from_bits_retain(libc::__WNOTHREAD.cast_unsigned());
    while matches!(wait(WaitOptions::NOHANG | of_this_thread), Ok(Some(_)) | Err(rustix::io::Errno::INTR)) {}
}

/// Other systems cannot tell orphans from other children.
#[cfg(not(target_os = "linux"))]
fn reap_orphans() {}

/// Real-time signals, which have no meaning for balance.
#[cfg(target_os = "linux")]
fn real_time() -> impl Iterator<Item = i32> {
    libc::SIGRTMIN()..=libc::SIGRTMAX()
}

/// Other systems do not let a program ask for them.
#[cfg(not(target_os = "linux"))]
fn real_time() -> impl Iterator<Item = i32> {
    std::iter::empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    // A single test for everything that is process-wide, since the handlers stay installed.
    #[test]
    fn signals_and_notifiers_wake_the_waiter() {
        let log = Log::stderr(false);
        let mut shutdown = Shutdown::install(Hangup::Stops).expect("handlers");
        for (signal, cause) in [
            (SIGTERM, Cause::Drain),
            (SIGINT, Cause::Signal),
            (SIGQUIT, Cause::Signal),
            (SIGHUP, Cause::Signal),
            (SIGURG, Cause::DrainToo),
            (SIGUSR2, Cause::Upgrade),
            (SIGUSR1, Cause::Reopen),
        ] {
            let harmless = [SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU, SIGXFSZ, SIGTTOU, SIGTTIN];
            for signal in harmless.into_iter().chain(real_time()).chain([signal]) {
                signal_hook::low_level::raise(signal).expect("a signal to ourselves");
            }
            assert_eq!(shutdown.wait(None, &log), cause);
        }
        // The more urgent cause is returned first, and other signals are not lost.
        let notifier = shutdown.notifier();
        notifier.drained();
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::raise(signal).expect("a signal to ourselves");
        }
        assert_eq!(shutdown.wait(None, &log), Cause::Signal);
        assert_eq!(shutdown.wait(None, &log), Cause::Drained);
        notifier.drained();
        signal_hook::low_level::raise(SIGTERM).expect("a signal to ourselves");
        assert_eq!([(); 2].map(|()| shutdown.wait(None, &log)), [Cause::Drain, Cause::Drained]);
        assert_eq!(shutdown.wait(Some(Duration::from_millis(1)), &log), Cause::TimeIsUp);
        let notifier = shutdown.notifier();
        thread::spawn(move || notifier.drained()).join().expect("telling does not panic");
        assert_eq!(shutdown.wait(None, &log), Cause::Drained);
        // Never blocks, however often it is called.
        let notifier = shutdown.notifier();
        for _ in 0..100_000 {
            notifier.drained();
        }
        assert_eq!(shutdown.wait(None, &log), Cause::Drained);
    }

    #[test]
    fn signals_that_others_reload_by_are_named_with_what_was_not_done() {
        let told = |signal| match meaning(signal, Hangup::Reloads) {
            Meaning::Nothing { name, why } => format!("{name}: {why}"),
            Meaning::Reload => "reload".to_owned(),
            Meaning::Upgrade => "upgrade".to_owned(),
            Meaning::Reopen => "reopen".to_owned(),
            Meaning::Drain | Meaning::DrainToo => "drain".to_owned(),
            Meaning::Stop | Meaning::Child => String::new(),
        };
        assert_eq!(told(SIGHUP), "reload");
        assert_eq!(told(SIGUSR1), "reopen");
        assert_eq!(told(SIGUSR2), "upgrade");
        assert_eq!(told(SIGALRM), "ALRM: balance does not use it");
        assert_eq!(told(63), "63: balance does not use it");
        assert_eq!((told(SIGTERM), told(SIGINT)), ("drain".to_owned(), String::new()));
    }
}
