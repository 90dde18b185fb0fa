//! What ends the instance: a signal, or word that nothing is left to do. And what does not: every other signal.
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
/// Signals that ask for the end.
const STOPS: &[i32] = &[SIGTERM, SIGINT, SIGQUIT];
/// Signals that would end the process, have nothing to tell it, and are not its own faults (as SIGSEGV is).
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
/// Signals that are ignored without a handler, and without a word: a write of ours causes them. Of SIGTTIN and SIGTTOU a
/// handler would make an endless loop; with SIGXFSZ ignored the write says that the file is too big.
const MUTE: &[i32] = &[SIGTTIN, SIGTTOU, SIGXFSZ];
/// Between two looks when nothing can be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What comes before there is a [`Shutdown`] to tell it.
static EARLY: OnceLock<EarlySignals> = OnceLock::new();

struct EarlySignals {
    /// The files are to be read again: they may have been read already.
    is_reload_wanted: Arc<AtomicBool>,
    /// A signal that asks for the end is the end, since there is nothing to clean up.
    is_end: Arc<AtomicBool>,
}

/// A file that would get larger than it may is an error of the write from now on, and no end of the process.
pub fn expect_full_files() {
    // It is a signal.
    let _ = ignore(SIGXFSZ);
}

/// To be called first of all in a process that is going to serve: from now on no signal ends it that will not end it later. To look names up
/// may take long.
pub fn expect_signals() {
    let early = EARLY.get_or_init(|| EarlySignals {
        is_reload_wanted: Arc::default(),
        is_end: Arc::new(AtomicBool::new(true)),
    });
    let idle = IDLE.iter().map(|&(signal, _)| signal);
    for signal in idle.chain(MUTE.iter().copied()).chain(real_time()) {
        // As it was, if the system refuses: so it was always.
        let _ = ignore(signal);
    }
    let _ = flag::register(SIGHUP, Arc::clone(&early.is_reload_wanted));
}

/// Signals that ask for the end are it, with exit code 0, until there is a [`Shutdown`]. Not for a process whose caller waits for it to go to the
/// background: it has not served.
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

/// Why [`Shutdown::wait`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT, SIGQUIT, or SIGHUP where it stops: the end, at once.
    Signal,
    /// SIGTERM: the end, once nobody is left to serve.
    Drain,
    /// SIGURG: the process before this one was asked to drain, and passes that on. However often it is said, it is said once.
    DrainToo,
    /// SIGHUP elsewhere: the files are to be read again.
    Reload,
    /// SIGUSR2: another process is to take over.
    Upgrade,
    /// SIGUSR1: files that are written to are to be opened again.
    Reopen,
    /// A [`Notifier`] was told that nothing is left to do, or something else.
    Drained,
    /// Nothing of all that within the time that was given.
    TimeIsUp,
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The terminal is lost: the end.
    Stops,
    /// Somebody wants the files to be read again.
    Reloads,
}

impl Hangup {
    /// What it means to a process that was started as this one was. A hangup is one only for a program in the foreground
    /// that has a terminal to lose, and did not start with the signal ignored (`nohup`): anywhere else (a service manager, a container) the signal is what other servers are
    /// told to reload by.
    ///
    /// To be asked at the start. After a real hangup nobody can know.
    pub fn of_this_process(foreground: bool, was_ignored: bool) -> Self {
        if foreground && !is_init() && !was_ignored && has_terminal() { Self::Stops } else { Self::Reloads }
    }
}

/// Has this process a terminal to lose?
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Does the terminal hang up when this process ends, whatever else runs at it? It does for the leader of a session.
pub fn leads_terminal() -> bool {
    // rustix takes for granted that the leader has a number here. One outside of our namespace of processes has none (0).
    nix::unistd::getsid(None).is_ok_and(|leader| leader == nix::unistd::Pid::this()) && has_terminal()
}

/// The one place that waits for the end.
#[derive(Debug)]
pub struct Shutdown {
    signals: SignalDelivery<UnixStream, SignalOnly>,
    drained: Notifier,
    hangup: Hangup,
    /// Signals that came and were not told yet, since others came before them.
    reload_wanted: bool,
    upgrade_wanted: bool,
    reopen_wanted: bool,
}

/// Tells [`Shutdown::wait`] that nothing is left to do. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Notifier(Arc<Drained>);

#[derive(Debug)]
struct Drained {
    is_drained: AtomicBool,
    waker: UnixStream,
}

impl Notifier {
    /// Nobody waits.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        let (waker, _) = UnixStream::pair().expect("a pair");
        Self(Arc::new(Drained { is_drained: AtomicBool::new(false), waker }))
    }

    /// Wakes the waiter. Never blocks: a pipe that is full wakes it anyway.
    pub fn drained(&self) {
        self.0.is_drained.store(true, Ordering::SeqCst);
        let _ = (&self.0.waker).write(&[0]);
    }
}

impl Shutdown {
    /// Takes over, for the whole process, every signal that would end it and does not come from a fault of its own. They
    /// are let through in this thread and in those that are started later, whatever mask the process was started with.
    ///
    /// # Errors
    /// No descriptors for the pipe, or the system refuses a handler.
    pub fn install(hangup: Hangup) -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let waker = writer.try_clone()?;
        // SIGCHLD: whoever started us may have ignored it, and then nobody could learn how a check's program ended.
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

    /// A handle for the code that knows when the last connection has ended.
    pub fn notifier(&self) -> Notifier {
        self.drained.clone()
    }

    /// Blocks until something ends the instance, or for so long. Signals that do not are told to `log`. May be called again: a
    /// second signal is a second answer.
    pub fn wait(&mut self, patience: Option<Duration>, log: &Log) -> Cause {
        let begun = Instant::now();
        loop {
            // What came is in flags; the pipe only wakes us. So nothing is lost, or invented, where the pipe fails.
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

    /// What has come since this was asked last.
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
        // What ends sooner goes before what ends later, and that before what does not end.
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

    /// Until somebody wrote to the pipe, or for so long. What it is woken by is a signal or a notifier, but it may also be
    /// nothing.
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
            // We hold a writer ourselves, so that it cannot end.
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

enum Meaning {
    /// The end, at once.
    Stop,
    /// The end, once nobody is left to serve.
    Drain,
    DrainToo,
    Reload,
    Upgrade,
    Reopen,
    /// A child ended.
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

/// Takes note of the ends of processes that became ours without our doing: the first process of a container inherits every
/// orphan, and a shell that became this program by exec leaves it its own. Children of other threads (the programs of
/// checks) are theirs to wait for.
#[cfg(target_os = "linux")]
fn reap_orphans() {
    use rustix::process::{WaitOptions, wait};
    // Orphans come to the thread that this is, the main one.
    let of_this_thread = WaitOptions::from_bits_retain(libc::__WNOTHREAD.cast_unsigned());
    while matches!(wait(WaitOptions::NOHANG | of_this_thread), Ok(Some(_)) | Err(rustix::io::Errno::INTR)) {}
}

/// They are told from other children nowhere else.
#[cfg(not(target_os = "linux"))]
fn reap_orphans() {}

/// Those that nobody has given a meaning.
#[cfg(target_os = "linux")]
fn real_time() -> impl Iterator<Item = i32> {
    libc::SIGRTMIN()..=libc::SIGRTMAX()
}

/// They cannot be asked for here.
#[cfg(not(target_os = "linux"))]
fn real_time() -> impl Iterator<Item = i32> {
    std::iter::empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test for what is process-wide: the handlers stay installed.
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
        // What ends sooner counts, and news of other kinds takes nothing away.
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
        // Never blocks, however often it is told.
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
