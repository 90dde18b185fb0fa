//! What ends the instance: a signal, or word that nothing is left to do. And what does not: every other signal.
//!
//! Knows: signals, one pipe. Never: what is being drained, listeners, connections.
//! Source: docs/compatibility.md, "Process".

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGXCPU, SIGXFSZ,
};
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

/// Why [`Shutdown::wait`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT, SIGQUIT, or SIGHUP where it stops: the end, at once.
    Signal,
    /// SIGTERM: the end, once nobody is left to serve.
    Drain,
    /// SIGHUP elsewhere: the files are to be read again.
    Reload,
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
        let has_terminal = || File::open("/dev/tty").is_ok();
        if foreground && !is_init() && !was_ignored && has_terminal() { Self::Stops } else { Self::Reloads }
    }
}

/// The one place that waits for the end.
#[derive(Debug)]
pub struct Shutdown {
    signals: SignalDelivery<UnixStream, SignalOnly>,
    drained: Notifier,
    hangup: Hangup,
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
        let all = STOPS.iter().copied().chain(idle).chain([SIGHUP, SIGCHLD]).chain(real_time());
        let signals = SignalDelivery::with_pipe(reader, writer, SignalOnly, all)?;
        for signal in MUTE {
            ignore(*signal)?;
        }
        unblock_all();
        let drained = Notifier(Arc::new(Drained { is_drained: AtomicBool::new(false), waker }));
        Ok(Self { signals, drained, hangup })
    }

    /// A handle for whoever knows when the last connection ended.
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
        let (mut stops, mut drains, mut reloads) = (false, false, false);
        for &signal in &came {
            match meaning(signal, self.hangup) {
                Meaning::Stop => stops = true,
                Meaning::Drain => drains = true,
                Meaning::Reload => reloads = true,
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
        if reloads {
            return Some(Cause::Reload);
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
    Reload,
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
        SIGUSR1 => nothing("USR1", "there is no log file to reopen"),
        SIGUSR2 => nothing("USR2", "upgrading in place comes with a later version"),
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
        ] {
            let harmless =
                [SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU, SIGXFSZ, SIGTTOU, SIGTTIN];
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
            Meaning::Drain => "drain".to_owned(),
            Meaning::Stop | Meaning::Child => String::new(),
        };
        assert_eq!(told(SIGHUP), "reload");
        assert_eq!(told(SIGUSR1), "USR1: there is no log file to reopen");
        assert_eq!(told(SIGUSR2), "USR2: upgrading in place comes with a later version");
        assert_eq!(told(SIGALRM), "ALRM: balance does not use it");
        assert_eq!(told(63), "63: balance does not use it");
        assert_eq!((told(SIGTERM), told(SIGINT)), ("drain".to_owned(), String::new()));
    }
}
