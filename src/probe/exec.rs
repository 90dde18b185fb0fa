//! Programs that check a channel.
//!
//! Knows: how many may run, whose fault it is that one cannot be run. Never: how long they may take, what
//! follows from their exit codes, how a program is killed (`sys/child`).
//!
//! One thread per running program starts it (so a slow disk delays no other probe) and waits for its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::WaitStatus;

use super::fault::Fault;
use crate::spec::Address;
use crate::sys::child::{ChildProgram, RunError, Surroundings};
use crate::sys::descriptors::{Budget, Taken};
use crate::sys::fault::is_exhausted;
use crate::sys::poller::Waker;
use crate::sys::program::StartError;

/// Maximum number of programs at once.
const PROGRAMS: usize = 32;
/// Descriptors needed to start a program: its three streams.
const DESCRIPTORS: u16 = 3;
/// Stack size of a thread that waits for a program, in bytes.
const STACK: usize = 128 * 1_024;
/// All programs of one engine.
#[derive(Debug)]
pub(super) struct Programs {
    sender: Sender<Report>,
    reports: Receiver<Report>,
    waker: Waker,
    /// Programs that have not reported yet, including cancelled ones.
    pub(super) running: usize,
}

/// The report of a program that has ended.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) key: usize,
    /// `Ok` for exit code 0, otherwise what went wrong.
    pub(super) result: Result<(), Fault>,
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Program {
    child: ChildProgram,
    /// It was found to have ended without a report.
    is_known_over: bool,
}

impl Programs {
    /// Creates an empty set. `waker` is used whenever a report has arrived.
    pub(super) fn new(waker: Waker) -> Self {
        let (sender, reports) = channel();
        Self { sender, reports, waker, running: 0 }
    }

    /// Is the maximum number of programs running?
    pub(super) fn is_full(&self) -> bool {
        self.running >= PROGRAMS
    }

    /// Starts the program at `path` for `target`; its report will carry `key`.
    pub(super) fn run(
        &mut self,
        key: usize,
        path: &Path,
        target: Address,
        budget: &Arc<Budget>,
    ) -> Result<Program, Fault> {
        let Some(taken) = budget.take(DESCRIPTORS) else {
            return Err(Fault::Exhausted(format!("cannot run {}: no descriptor is left", path.display())));
        };
        let child = ChildProgram::new();
        let errand = Errand { path: path.to_owned(), target, child: child.clone(), taken };
        let (sender, waker) = (self.sender.clone(), self.waker.clone());
        let begun = thread::Builder::new().name("check".into()).stack_size(STACK).spawn(move || {
            let result = errand.run();
            // An engine that was dropped needs no report.
            let _ = sender.send(Report { key, result });
            waker.wake();
        });
        match begun {
            Ok(_) => {
                self.running += 1;
                Ok(Program { child, is_known_over: false })
            }
            Err(e) => Err(Fault::Exhausted(format!("cannot run {}: no thread: {e}", path.display()))),
        }
    }

    /// Takes the next report. `None` if there is none.
    pub(super) fn report(&mut self) -> Option<Report> {
        let report = self.reports.try_recv().ok()?;
        self.running = self.running.saturating_sub(1);
        Some(report)
    }

    /// Waits until every program has ended, including what it left behind, but at most for `patience`. Call
    /// it after all have been killed.
    pub(super) fn join(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.running > 0 && self.reports.recv_timeout(until - Instant::now().min(until)).is_ok() {
            self.running -= 1;
        }
    }
}

impl Program {
    /// Has it ended without a report so far? Returns `true` only once: a report that does not arrive after
    /// that never will.
    pub(super) fn is_over_by_now(&mut self) -> bool {
        if std::mem::replace(&mut self.is_known_over, true) {
            return false;
        }
        self.child.has_ended()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill();
    }
}

/// What a thread needs to run one program.
struct Errand {
    path: PathBuf,
    target: Address,
    child: ChildProgram,
    taken: Taken,
}

impl Errand {
    fn run(self) -> Result<(), Fault> {
        let Self { path, target, child, taken } = self;
        let arguments = [host(target), target.port().to_string()];
        let surroundings = Surroundings { arguments: &arguments, ..Surroundings::default() };
        match child.run(&path, &surroundings, || drop(taken)) {
            Ok(status) => judge(status),
            Err(RunError::Doomed) => Err(Fault::Exhausted("forgotten before it ran".into())),
            Err(RunError::NotStarted(error)) => Err(not_run(&path, &error)),
            Err(RunError::NotReaped(error)) => {
                Err(Fault::Exhausted(format!("cannot wait for {}: {error}", path.display())))
            }
        }
    }
}

/// The address as programs take it: without brackets, with a zone if it has one.
fn host(target: Address) -> String {
    match target {
        Address::Net(SocketAddr::V6(v6)) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => target.host(),
    }
}

fn not_run(path: &Path, error: &StartError) -> Fault {
    let StartError { act, source } = error;
    if *act != "execve" {
        // The program was not even tried.
        return Fault::Exhausted(format!("cannot run {}: {act}: {source}", path.display()));
    }
    let cause = format!("cannot run {}: {source}", path.display());
    // A program that is open for writing (TXTBSY) can be run a moment later.
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
