//! A running program: started on a thread, killed with all its offspring by any thread, and reaped.
//!
//! Knows: processes and process groups. Never: how long they may take, what follows from how they end.
//!
//! The thread that starts the program waits for its end, kills what is left of its process group and only
//! then reaps it. Until it is reaped, its number belongs to no other process. Other threads kill it under the
//! same lock under which it is reaped.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, waitpid};

use super::program::{self, StartError};

/// Environment variables that the service manager set for this process only. Programs do not get them.
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

/// A program that is about to run, runs, or has run. All clones refer to the same one.
#[derive(Debug, Clone)]
pub(crate) struct ChildProgram(Arc<Mutex<Life>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Starting,
    /// To be killed as soon as it has started.
    Doomed,
    /// Not reaped yet, so the process ID is still its own.
    Running(Pid),
    Over,
}

/// How a program is run.
#[derive(Debug, Default)]
pub(crate) struct Surroundings<'a> {
    /// Its arguments, without its name.
    pub(crate) arguments: &'a [String],
    /// Variables of our environment that it does not get.
    pub(crate) without: &'a [&'a str],
    /// Variables that are added to its environment.
    pub(crate) with: &'a [(String, String)],
}

/// Why the exit status of a program is unknown.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It was killed before it started.
    Doomed,
    /// It could not be started.
    NotStarted(StartError),
    /// It could not be reaped, for example because SIGCHLD was ignored when balance started.
    NotReaped(io::Error),
}

impl ChildProgram {
    /// A program that has not been started.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Life::Starting)))
    }

    /// Runs the program at this path to its end, on this thread, as [`program::start`] does. Call it only
    /// once. `started` is called as soon as the program runs.
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

    /// Kills the program and what is left of its process group. Before the start, it prevents the start.
    pub(crate) fn kill(&self) {
        let mut life = self.life();
        match *life {
            Life::Starting => *life = Life::Doomed,
            Life::Running(pid) => kill_group(pid),
            Life::Doomed | Life::Over => {}
        }
    }

    /// Has the program ended, even if nobody has reaped it?
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
    // It has ended, so this does not block.
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// OpenBSD has no `waitid`, so this polls. The group is killed just after the reaping instead of before. For
/// it to hit a stranger, the process ID would have to be reused in that instant.
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

/// Has this child of ours ended, which is not reaped yet?
#[cfg(not(target_os = "openbsd"))]
pub(crate) fn has_ended(pid: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)))
}

/// Without `waitid` this is unknown; the program's own thread polls every few milliseconds.
#[cfg(target_os = "openbsd")]
pub(crate) fn has_ended(_: Pid) -> bool {
    false
}

/// Can [`has_ended`] be known?
pub(crate) const TELLS_ENDS: bool = cfg!(not(target_os = "openbsd"));

/// Kills what this process has started, as far as `/proc` shows that: a process whose parent has ended before is
/// not found. The process itself stands still, so it starts nothing more; `is_there` says whether its number
/// still is its own.
pub(crate) fn kill_offspring(of: Pid, is_there: impl Fn() -> bool) {
    let mut all = vec![of];
    // Who has ended meanwhile need not be told.
    let signal = |pid: &Pid, signal| {
        let _ = kill_process(*pid, signal);
    };
    loop {
        let new: Vec<Pid> = children_of(&all).into_iter().filter(|pid| !all.contains(pid)).collect();
        if new.is_empty() || !is_there() {
            break;
        }
        // A process that stands still starts nothing, and gives its number to nobody.
        new.iter().for_each(|pid| signal(pid, Signal::STOP));
        all.extend(new);
    }
    all[1..].iter().for_each(|pid| signal(pid, Signal::KILL));
}

/// The processes whose parent is one of these. Empty if `/proc` is not that of this process.
fn children_of(parents: &[Pid]) -> Vec<Pid> {
    let own = std::process::id().to_string();
    if fs::read_link("/proc/self").ok().as_deref() != Some(Path::new(&own)) {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |text: &str| Pid::from_raw(text.parse().ok().filter(|&pid: &i32| pid > 0)?);
    let found = entries.flatten().filter_map(|entry| {
        let child = pid(entry.file_name().to_str()?)?;
        // The name of a program, in parentheses, may contain anything.
        let stat = fs::read(entry.path().join("stat")).ok()?;
        let after = stat.rsplit(|&byte| byte == b')').next()?;
        let parent = pid(std::str::from_utf8(after).ok()?.split_whitespace().nth(1)?)?;
        parents.contains(&parent).then_some(child)
    });
    found.collect()
}

fn kill_group(pid: Pid) {
    // If nobody is left to kill, nothing has to be done.
    let _ = kill_process_group(pid, Signal::KILL);
}

fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}
