//! How a successor is related to this process, and how its end is noticed.
//!
//! Knows: whose child it is. Never: when it has to end, what follows from its end.

#[cfg(all(target_os = "linux", not(portable)))]
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::sys::child;
use crate::sys::program::Footing;

/// How a successor is related to this process.
pub(super) enum Kin {
    /// A child of this process, which reaps it.
    Child,
    /// Started by this process as a child of its parent, which reaps it. So its process id may belong to another
    /// process as soon as it has ended, and this is a descriptor for it. `None`: the kernel has none.
    #[cfg(all(target_os = "linux", not(portable)))]
    Sibling(Option<OwnedFd>),
    /// Started by somebody else.
    Stranger,
}

impl Kin {
    /// For a process that was just started.
    pub(super) fn of(pid: Pid, footing: Footing) -> Self {
        #[cfg(all(target_os = "linux", not(portable)))]
        if footing == Footing::Beside {
            return Self::Sibling(sibling::open(pid));
        }
        // Elsewhere all are children.
        let _ = (pid, footing);
        Self::Child
    }

    /// Whether this process has started it.
    pub(super) fn is_ours(&self) -> bool {
        !matches!(self, Self::Stranger)
    }

    /// How it ended, as far as this process can know; `None`: it runs. A child is reaped then.
    pub(super) fn ended(&self, pid: Pid) -> Option<String> {
        match self {
            Self::Child => {
                let (_, status) = waitpid(Some(pid), WaitOptions::NOHANG).ok()??;
                let code = status.exit_status().map(|code| format!("with exit code {code}"));
                let signal = || Some(format!("by signal {}", status.terminating_signal()?));
                code.or_else(signal).or_else(|| Some(String::new()))
            }
            #[cfg(all(target_os = "linux", not(portable)))]
            Self::Sibling(fd) => sibling::has_ended(fd.as_ref(), pid).then(String::new),
            Self::Stranger => None,
        }
    }

    /// Has it ended, as far as this process can know? A child is not reaped.
    pub(super) fn has_ended(&self, pid: Pid) -> bool {
        match self {
            Self::Child => child::has_ended(pid),
            #[cfg(all(target_os = "linux", not(portable)))]
            Self::Sibling(fd) => sibling::has_ended(fd.as_ref(), pid),
            Self::Stranger => false,
        }
    }

    /// Kills it and what it has started, and waits for its end, if this process has started it.
    pub(super) fn kill(&self, pid: Pid) {
        match self {
            Self::Child => {
                let _ = kill_process(pid, Signal::STOP);
                child::kill_offspring(pid, || true);
                let _ = kill_process(pid, Signal::KILL);
                while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
            }
            #[cfg(all(target_os = "linux", not(portable)))]
            Self::Sibling(fd) => sibling::kill(fd.as_ref(), pid),
            Self::Stranger => {}
        }
    }
}

/// A process that the parent of this one reaps.
#[cfg(all(target_os = "linux", not(portable)))]
mod sibling {
    use std::os::fd::OwnedFd;
    use std::thread;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{
        Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, test_kill_process,
    };

    use super::super::LOOK_AGAIN;
    use crate::sys::child;

    pub(super) fn open(pid: Pid) -> Option<OwnedFd> {
        pidfd_open(pid, PidfdFlags::empty()).ok()
    }

    pub(super) fn has_ended(fd: Option<&OwnedFd>, pid: Pid) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match fd {
            Some(fd) => poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)) == Ok(1),
            None => test_kill_process(pid) == Err(Errno::SRCH),
        }
    }

    pub(super) fn kill(fd: Option<&OwnedFd>, pid: Pid) {
        let send = |signal| {
            let _ = match fd {
                Some(fd) => pidfd_send_signal(fd, signal),
                None => kill_process(pid, signal),
            };
        };
        send(Signal::STOP);
        child::kill_offspring(pid, || !has_ended(fd, pid));
        send(Signal::KILL);
        while !has_ended(fd, pid) {
            thread::sleep(LOOK_AGAIN);
        }
    }
}
