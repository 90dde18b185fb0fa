//! Programs that check a channel: run, killed with all their offspring, reaped.
//!
//! Knows: processes and their groups. Never: how long they may take, what follows from their exit codes.
//!
//! One thread per running program starts it (a slow disk holds up nobody else), waits for its end, kills what is left of
//! its group and only then reaps it: as long as it is not reaped, its number is nobody else's. The engine kills under the
//! same lock that the reaping is done under.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, waitpid};

use super::fault::Fault;
use crate::sys::descriptors::{Budget, Taken};
use crate::sys::fault::is_exhausted;
use crate::sys::poller::Waker;
use crate::sys::program::{self, StartError};

/// Programs that run at once.
const PROGRAMS: usize = 32;
/// Descriptors it takes to start one: its three streams.
const DESCRIPTORS: u16 = 3;
/// The stack of a thread that waits, in bytes.
const STACK: usize = 128 * 1_024;
/// What was said to this process by the one that started it, and to no other.
const PRIVATE: &[&str] = &[
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// All programs of one engine.
#[derive(Debug)]
pub(super) struct Programs {
    sender: Sender<Report>,
    reports: Receiver<Report>,
    waker: Waker,
    /// Those that have not reported, the forgotten ones included.
    pub(super) running: usize,
}

/// One program has come to its end.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) key: usize,
    /// How it went: exit code 0, or why not.
    pub(super) result: Result<(), Fault>,
}

/// A program under way. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Program {
    life: Arc<Mutex<Life>>,
    /// It was found to be over, and no report had come.
    is_known_over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Starting,
    /// To be killed as soon as it has started.
    Doomed,
    /// Not reaped: the number is its own.
    Running(Pid),
    Over,
}

impl Programs {
    /// `waker` is used whenever there is a report to take.
    pub(super) fn new(waker: Waker) -> Self {
        let (sender, reports) = channel();
        Self { sender, reports, waker, running: 0 }
    }

    /// Are there as many as may be?
    pub(super) fn is_full(&self) -> bool {
        self.running >= PROGRAMS
    }

    /// Starts one for `target`; its report will bear `key`.
    pub(super) fn run(
        &mut self,
        key: usize,
        path: &Path,
        target: SocketAddr,
        budget: &Arc<Budget>,
    ) -> Result<Program, Fault> {
        let Some(taken) = budget.take(DESCRIPTORS) else {
            return Err(Fault::Exhausted(format!("cannot run {}: no descriptor is left", path.display())));
        };
        let life = Arc::new(Mutex::new(Life::Starting));
        let errand = Errand { path: path.to_owned(), target, life: Arc::clone(&life), taken };
        let (sender, waker) = (self.sender.clone(), self.waker.clone());
        let begun = thread::Builder::new().name("check".into()).stack_size(STACK).spawn(move || {
            let result = errand.run();
            // An engine that is gone does not want to know.
            let _ = sender.send(Report { key, result });
            waker.wake();
        });
        match begun {
            Ok(_) => {
                self.running += 1;
                Ok(Program { life, is_known_over: false })
            }
            Err(e) => Err(Fault::Exhausted(format!("cannot run {}: no thread: {e}", path.display()))),
        }
    }

    /// The next program that has come to its end.
    pub(super) fn report(&mut self) -> Option<Report> {
        let report = self.reports.try_recv().ok()?;
        self.running = self.running.saturating_sub(1);
        Some(report)
    }

    /// Waits until every program has come to its end, what it left behind included, but no longer than `patience`. To be
    /// called when all are killed.
    pub(super) fn join(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.running > 0 && self.reports.recv_timeout(until - Instant::now().min(until)).is_ok() {
            self.running -= 1;
        }
    }
}

impl Program {
    /// Has it ended though nobody has reported it? Says so once: a report that does not come then never will.
    pub(super) fn is_over_by_now(&mut self) -> bool {
        if std::mem::replace(&mut self.is_known_over, true) {
            return false;
        }
        match *lock(&self.life) {
            Life::Running(pid) => has_ended(pid),
            Life::Over => true,
            Life::Starting | Life::Doomed => false,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let mut life = lock(&self.life);
        match *life {
            Life::Starting => *life = Life::Doomed,
            Life::Running(pid) => kill_group(pid),
            Life::Doomed | Life::Over => {}
        }
    }
}

/// What a thread does for one program.
struct Errand {
    path: PathBuf,
    target: SocketAddr,
    life: Arc<Mutex<Life>>,
    taken: Taken,
}

impl Errand {
    fn run(self) -> Result<(), Fault> {
        let Self { path, target, life, taken } = self;
        if *lock(&life) == Life::Doomed {
            return Err(Fault::Exhausted("forgotten before it ran".into()));
        }
        let pid = program::start(&path, &[host(target), target.port().to_string()], PRIVATE)
            .map_err(|e| not_run(&path, &e))?;
        drop(taken);
        {
            let mut life = lock(&life);
            if *life == Life::Doomed {
                kill_group(pid);
            }
            *life = Life::Running(pid);
        }
        let status = reap(pid, &life).map_err(|e| {
            // Nobody knows how it ended, for example since SIGCHLD was ignored when we were started.
            Fault::Exhausted(format!("cannot wait for {}: {e}", path.display()))
        })?;
        judge(status)
    }
}

/// The address as programs take it: without brackets, with the zone if there is one.
fn host(target: SocketAddr) -> String {
    match target {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => target.ip().to_string(),
    }
}

fn not_run(path: &Path, error: &StartError) -> Fault {
    let StartError { act, source } = error;
    if *act != "execve" {
        // It was not even tried.
        return Fault::Exhausted(format!("cannot run {}: {act}: {source}", path.display()));
    }
    let cause = format!("cannot run {}: {source}", path.display());
    // A program that is being written is ours to wait for.
    let is_ours = is_exhausted(source) || Errno::from_io_error(source) == Some(Errno::TXTBSY);
    if is_ours { Fault::Exhausted(cause) } else { Fault::Channel(cause) }
}

fn judge(status: WaitStatus) -> Result<(), Fault> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Fault::Channel(format!("exit code {code}"))),
        (None, Some(signal)) => Err(Fault::Channel(format!("killed by signal {signal}"))),
        (None, None) => Err(Fault::Channel("ended without an exit code".into())),
    }
}

/// Waits for the end of the program, kills what it left behind, and reaps it, in this order.
#[cfg(not(target_os = "openbsd"))]
fn reap(pid: Pid, life: &Mutex<Life>) -> io::Result<WaitStatus> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let ended = loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let mut life = lock(life);
    *life = Life::Over;
    ended?;
    kill_group(pid);
    // It has ended, so that this does not wait.
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// `waitid` cannot be had: looks again and again. The group is killed an instant after the reaping instead of before, in
/// which its number would have to be given out again to meet a stranger.
#[cfg(target_os = "openbsd")]
fn reap(pid: Pid, life: &Mutex<Life>) -> io::Result<WaitStatus> {
    loop {
        let mut life = lock(life);
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => {}
            ended => {
                *life = Life::Over;
                kill_group(pid);
                return match ended {
                    Ok(Some((_, status))) => Ok(status),
                    Ok(None) => Err(Errno::CHILD.into()),
                    Err(e) => Err(e.into()),
                };
            }
        }
        drop(life);
        thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Of a program that is not reaped.
#[cfg(not(target_os = "openbsd"))]
fn has_ended(pid: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)))
}

/// `waitid` cannot be had, and its thread looks every few milliseconds.
#[cfg(target_os = "openbsd")]
fn has_ended(_: Pid) -> bool {
    false
}

fn kill_group(pid: Pid) {
    // Nobody left to kill is what was wanted.
    let _ = kill_process_group(pid, Signal::KILL);
}

fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_no_brackets() {
        assert_eq!(host("[::1]:80".parse().expect("an address")), "::1");
        assert_eq!(host("[fe80::1%3]:80".parse().expect("an address")), "fe80::1%3");
        assert_eq!(host("127.0.0.1:80".parse().expect("an address")), "127.0.0.1");
    }

    #[test]
    fn want_of_processes_is_not_the_channels_fault() {
        let not_run =
            |act, error: Errno| not_run(Path::new("/check"), &StartError { act, source: error.into() });
        for ours in [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::TXTBSY] {
            assert!(matches!(not_run("execve", ours), Fault::Exhausted(_)), "{ours}");
        }
        for theirs in [Errno::NOENT, Errno::ACCESS, Errno::NOEXEC] {
            assert!(matches!(not_run("execve", theirs), Fault::Channel(_)), "{theirs}");
            assert!(matches!(not_run("open /dev/null", theirs), Fault::Exhausted(_)), "{theirs}");
        }
    }
}
