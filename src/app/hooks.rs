//! Runs the programs of `--event-program`.
//!
//! Knows: threads, how long a program may run, how many may run at once. Never: which event is for which
//! program (`observe/hook`), how one is started or killed (`sys/child`).
//! Source: docs/observability.md, "A program for events".
//!
//! As long as no service has a program, there is no thread. Then there is one that waits for events, and one
//! for each running program.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::WaitStatus;

use crate::observe::{Event, HookRun, HookTask, Hooks, Log, Owner, Severity, hook_variables};
use crate::sys::Clock;
use crate::sys::child::{ChildProgram, RunError, Surroundings};
use crate::sys::clock::OwnTime;
use crate::sys::program::StartError;

/// A program that runs longer is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum number of programs that run at the same time, of all services together.
const MOST_RUNNING: usize = 32;
/// How long the end of the process waits until killed programs are reaped.
const PARTING: Duration = Duration::from_millis(200);
/// Stack size of a thread that waits for a program, in bytes.
const STACK: usize = 128 * 1_024;

/// The programs of all services. All clones share their state.
#[derive(Clone)]
pub(super) struct ProgramHooks(Arc<HookThread>);

struct HookThread {
    log: Log,
    clock: Clock,
    /// The logs of the services that have a program.
    logs: Mutex<HashMap<Owner, Log>>,
    /// The channel is closed when the thread ends; `None`: there is no thread.
    thread: Mutex<Option<Receiver<()>>>,
}

/// A running program.
struct RunningHook {
    owner: Owner,
    child: ChildProgram,
    /// When it will be killed, on the thread's own clock.
    until: Duration,
    /// Why it was killed; empty if it was not.
    killed: Arc<OnceLock<String>>,
}

impl ProgramHooks {
    pub(super) fn new(log: &Log, clock: Clock) -> Self {
        Self(Arc::new(HookThread {
            log: log.clone(),
            clock,
            logs: Mutex::default(),
            thread: Mutex::default(),
        }))
    }

    /// Sets the program of the service with this log, or removes it (`None`). `label`: what operators call
    /// the service.
    pub(super) fn set(&self, log: &Log, label: &str, program: Option<&Path>) {
        if program.is_some() {
            self.0.logs().insert(log.owner(), log.clone());
            if let Err(e) = self.start() {
                let text = format!("--event-program: cannot start a thread: {e}");
                return log.tell(&Event::Note { severity: Severity::Error, text });
            }
        } else {
            self.0.logs().remove(&log.owner());
        }
        self.0.log.hooks().set(log.owner(), label, program);
    }

    /// Starts the thread that waits for events, unless it runs already.
    fn start(&self) -> std::io::Result<()> {
        let mut thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (ends, ended) = channel::<()>();
            let inner = Arc::clone(&self.0);
            thread::Builder::new().name("hooks".into()).spawn(move || {
                inner.serve();
                drop(ends);
            })?;
            *thread = Some(ended);
        }
        Ok(())
    }

    /// Lets waiting events be delivered for at most this time, then ends the programs that run.
    pub(super) fn stop(&self, patience: Duration) {
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let left = self.0.log.hooks().finish(patience);
        if left > 0 {
            let text = format!(
                "--event-program: the process ends, and the program missed {}",
                super::counted(left, "event")
            );
            self.0.log.tell(&Event::Note { severity: Severity::Warning, text });
        }
        // Nothing is ever sent on this channel; this waits until the sender is dropped.
        let _: Result<(), RecvTimeoutError> = thread.recv_timeout(2 * PARTING);
    }
}

impl RunningHook {
    /// Kills the program. The first reason is the one that is logged.
    fn kill(&self, why: impl FnOnce() -> String) {
        self.killed.get_or_init(why);
        self.child.kill();
    }
}

impl HookThread {
    fn logs(&self) -> MutexGuard<'_, HashMap<Owner, Log>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs programs until the end.
    fn serve(self: &Arc<Self>) {
        let hooks = Arc::clone(self.log.hooks());
        let mut own = OwnTime::at(self.clock.now());
        let mut running: Vec<RunningHook> = Vec::new();
        // The owners of programs that have ended, reported by the threads that wait for them.
        let done: Arc<Mutex<Vec<Owner>>> = Arc::default();
        loop {
            let now = own.reading(self.clock.now());
            let patience = running.iter().map(|one| one.until.saturating_sub(now)).min();
            let task = hooks.next(running.len() < MOST_RUNNING, patience, || !taken(&done).is_empty());
            let now = own.waited(patience, self.clock.now());
            let over = std::mem::take(&mut *taken(&done));
            running.retain(|one| !over.contains(&one.owner));
            match task {
                HookTask::Run(run) => {
                    let one = RunningHook {
                        owner: run.owner,
                        child: ChildProgram::new(),
                        until: now + PATIENCE,
                        killed: Arc::default(),
                    };
                    self.begin(run, &one, &hooks, &done);
                    running.push(one);
                }
                HookTask::Look => {
                    for late in running.iter_mut().filter(|one| one.until <= now) {
                        // A program that has already ended is about to be reaped.
                        if !late.child.has_ended() {
                            late.kill(|| format!("killed after {} s", PATIENCE.as_secs()));
                        }
                        // It ends in a moment; if not, it is killed again.
                        late.until = now + PATIENCE;
                    }
                }
                HookTask::End => break,
            }
        }
        for one in running.iter().filter(|one| !one.child.has_ended()) {
            one.kill(|| "killed, since the process ends".to_owned());
        }
        let begun = self.clock.now();
        while taken(&done).len() < running.len() && self.clock.now().saturating_sub(begun) < PARTING {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs a program on a thread of its own, so that a slow disk delays no other program.
    fn begin(&self, run: HookRun, one: &RunningHook, hooks: &Arc<Hooks>, done: &Arc<Mutex<Vec<Owner>>>) {
        let HookRun { owner, program, environment, skipped } = run;
        let log = self.logs().get(&owner).cloned().unwrap_or_else(|| self.log.of_service(owner, None));
        if skipped > 0 {
            log.tell(&Event::HookBehind { skipped });
        }
        let over = RunOver { owner, hooks: Arc::clone(hooks), done: Arc::clone(done) };
        let (child, killed, name) =
            (one.child.clone(), Arc::clone(&one.killed), program.display().to_string());
        let [told, failed] = [(); 2].map(|()| (log.clone(), name.clone()));
        let work = move || {
            let _over = over;
            let variables = hook_variables();
            let without: Vec<&str> = variables.iter().map(String::as_str).collect();
            let surroundings = Surroundings { arguments: &[], without: &without, with: &environment };
            let cause = match child.run(&program, &surroundings, || ()) {
                Ok(status) => why(status, killed.get()),
                // The process is ending.
                Err(RunError::Doomed) => None,
                Err(RunError::NotStarted(StartError { act: "execve", source })) => Some(source.to_string()),
                Err(RunError::NotStarted(StartError { act, source })) => Some(format!("{act}: {source}")),
                Err(RunError::NotReaped(source)) => Some(format!("cannot wait for it: {source}")),
            };
            let (log, program) = told;
            cause
                .into_iter()
                .for_each(|cause| log.tell(&Event::HookFailed { program: program.clone(), cause }));
        };
        if let Err(e) = thread::Builder::new().name("hook".into()).stack_size(STACK).spawn(work) {
            let (log, program) = failed;
            log.tell(&Event::HookFailed { program, cause: format!("cannot start a thread: {e}") });
        }
    }
}

/// Why a program that has ended was not successful; `None`: it was.
fn why(status: WaitStatus, killed: Option<&String>) -> Option<String> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit code {code}")),
        (None, Some(_)) if killed.is_some() => killed.cloned(),
        (None, Some(signal)) => Some(format!("killed by signal {signal}")),
        (None, None) => Some("ended without an exit code".to_owned()),
    }
}

/// Reports, when dropped, that a program has ended.
struct RunOver {
    owner: Owner,
    hooks: Arc<Hooks>,
    done: Arc<Mutex<Vec<Owner>>>,
}

impl Drop for RunOver {
    fn drop(&mut self) {
        self.hooks.ended(self.owner, || taken(&self.done).push(self.owner));
    }
}

fn taken(done: &Mutex<Vec<Owner>>) -> MutexGuard<'_, Vec<Owner>> {
    done.lock().unwrap_or_else(PoisonError::into_inner)
}
