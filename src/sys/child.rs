//! A program under way: run on a thread, killed with all its offspring by any other, reaped.
//!
//! Knows: processes and their groups. Never: how long they may take, what follows from how they end.
//!
//! The thread that runs it waits for its end, kills what is left of its group and only then reaps it: as long as it is not
//! reaped, its number is nobody else's. Others kill under the same lock that the reaping is done under.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, waitpid};

use super::program::{self, StartError};

/// What was said to this process by the one that started it, and to no other.
const PRIVATE: &[&str] = &[
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "BALANCE_HANDOVER",
];

/// A program that is about to run, runs, or has run. Every clone is the same one.
#[derive(Debug, Clone)]
pub(crate) struct ChildProgram(Arc<Mutex<Life>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Starting,
    /// To be killed as soon as it has started.
    Doomed,
    /// Not reaped: the number is its own.
    Running(Pid),
    Over,
}

/// What it is run with.
#[derive(Debug, Default)]
pub(crate) struct Surroundings<'a> {
    /// Its arguments, without its name.
    pub(crate) arguments: &'a [String],
    /// Variables of ours that it does not get.
    pub(crate) without: &'a [&'a str],
    /// Variables that it gets.
    pub(crate) with: &'a [(String, String)],
}

/// Why nobody knows how a program has ended.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It was killed before it ran.
    Doomed,
    /// It does not run.
    NotStarted(StartError),
    /// For example since SIGCHLD was ignored when we were started.
    NotReaped(io::Error),
}

impl ChildProgram {
    /// One that does not run yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Life::Starting)))
    }

    /// Runs the program of this path to its end, on this thread, as [`program::start`] does. To be called once. `started` is
    /// called as soon as it runs.
    pub(crate) fn run(
        &self,
        path: &Path,
        Surroundings { arguments, without, with }: &Surroundings<'_>,
        started: impl FnOnce(),
    ) -> Result<WaitStatus, RunError> {
        if *self.life() == Life::Doomed {
            return Err(RunError::Doomed);
        }
        let without: Vec<&str> = PRIVATE.iter().chain(*without).copied().collect();
        let started_as = program::start(path, arguments, &without, with);
        let pid = match started_as {
            Ok(pid) => pid,
            Err(error) => {
                *self.life() = Life::Over;
                return Err(RunError::NotStarted(error));
            }
        };
        started();
        {
            let mut life = self.life();
            if *life == Life::Doomed {
                kill_group(pid);
            }
            *life = Life::Running(pid);
        }
        reap(pid, &self.0).map_err(RunError::NotReaped)
    }

    /// Kills it and what is left of its group.
    pub(crate) fn kill(&self) {
        let mut life = self.life();
        match *life {
            Life::Starting => *life = Life::Doomed,
            Life::Running(pid) => kill_group(pid),
            Life::Doomed | Life::Over => {}
        }
    }

    /// Has it ended, whoever knows of it?
    pub(crate) fn has_ended(&self) -> bool {
        match *self.life() {
            Life::Running(pid) => has_ended(pid),
            Life::Over => true,
            Life::Starting | Life::Doomed => false,
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        lock(&self.0)
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
        std::thread::sleep(std::time::Duration::from_millis(10));
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
