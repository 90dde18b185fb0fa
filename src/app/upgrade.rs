//! Hands everything over to another process; this is the side of the old process.
//!
//! Knows: when an upgrade is possible, what is offered, who is told. Never: what is done in it (`work`), how
//! a connection is let go of.
//! Source: docs/upgrade.md.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use self::kin::Kin;
use self::means::HandoverMeans;
use self::work::Work;
use super::denied::{self, FileUse};
use super::origin::{HANDOVER, Inheritance, Origin, monotonic};
use super::roster::Roster;
use crate::control::{CarriedCount, Control, HttpServer};
use crate::handover::message::{EndAsked, FORMAT, Offer};
use crate::net::server::Server;
use crate::observe::{Event, Severity};
use crate::process::{self, FenceState, Notifier};
use crate::sys::Clock;
use crate::sys::given;
use crate::sys::passing::HandoverStream;
use crate::sys::program::{self, Footing};

mod kin;
mod means;
mod work;

/// How often to check whether a cancelled handover has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Why there is no upgrade if the end of this process would hang up the terminal of the next one.
const TERMINAL: &str = "this process is the first one of its terminal, which hangs up when it ends, and that would end the new process, too; \
                        start balance from a shell that stays, under nohup, or in the background (without -f)";
/// Environment variables that are meant for this process only.
const PRIVATE: &[&str] = &["LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"];
/// The process that the watchdog watches; this becomes the new process.
const WATCHDOG_PID: &str = "WATCHDOG_PID";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpgradeStage {
    Idle,
    UnderWay,
    /// The successor serves.
    Over(Pid),
}

/// Hands this process over to another one.
pub(super) struct Upgrader {
    origin: Origin,
    means: HandoverMeans,
    notifier: Notifier,
    stage: Mutex<UpgradeStage>,
    inheritance: OnceLock<Arc<Inheritance>>,
    /// Whether this process has replaced another one.
    is_heir: AtomicBool,
    /// Whether operators' changes are kept in a file.
    keeps_state: AtomicBool,
}

impl Upgrader {
    pub(super) fn new(
        origin: Origin,
        server: Server,
        roster: Arc<Roster>,
        clock: Clock,
        notifier: Notifier,
    ) -> Arc<Self> {
        Arc::new(Self {
            origin,
            means: HandoverMeans::new(server, roster, clock),
            notifier,
            stage: Mutex::new(UpgradeStage::Idle),
            inheritance: OnceLock::new(),
            is_heir: AtomicBool::new(false),
            keeps_state: AtomicBool::new(false),
        })
    }

    /// Hands the control socket over, too.
    pub(super) fn attach(&self, control: &Arc<Control>) {
        self.means.attach(control);
    }

    /// Hands the port of HTTP over, too.
    pub(super) fn attach_http(&self, http: &Arc<HttpServer>) {
        self.means.attach_http(http);
    }

    /// The HTTP server, if there is one.
    pub(super) fn http(&self) -> Option<Arc<HttpServer>> {
        self.means.http()
    }

    /// Notes what this process has taken over from another one.
    pub(super) fn inherited(&self, inheritance: Arc<Inheritance>) {
        let _ = self.inheritance.set(inheritance);
    }

    pub(super) fn carried(&self) -> Option<CarriedCount> {
        let from = self.inheritance.get()?;
        let mut draining = Some(from.draining.load(Ordering::Relaxed)).filter(|&left| left != u64::MAX);
        let pid = i32::try_from(from.pid).ok().and_then(Pid::from_raw);
        if pid.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH)) {
            draining = draining.map(|_| 0);
        }
        Some(CarriedCount { carried: from.carried.load(Ordering::Relaxed), draining, pid: from.pid })
    }

    /// What the predecessor was asked to do and has not done yet.
    pub(super) fn take_inherited(&self) -> Option<EndAsked> {
        self.inheritance.get()?.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the predecessor at once, too: without this process it would serve again.
    pub(super) fn end_predecessor(&self) {
        if let Some(from) = self.inheritance.get()
            && let Some(pid) = i32::try_from(from.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::INT);
        }
    }

    /// Is the predecessor still sending connections?
    pub(super) fn is_receiving(&self) -> bool {
        self.inheritance.get().is_some_and(|from| from.is_coming.load(Ordering::SeqCst))
    }

    fn stage(&self) -> MutexGuard<'_, UpgradeStage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_under_way(&self) -> bool {
        *self.stage() == UpgradeStage::UnderWay
    }

    /// The process that has replaced this one.
    pub(super) fn successor(&self) -> Option<Pid> {
        match *self.stage() {
            UpgradeStage::Over(pid) => Some(pid),
            _ => None,
        }
    }

    /// Notes that this process must stop. A handover in progress is cancelled, unless it is too late for
    /// that.
    pub(super) fn cancel(&self, asked: EndAsked) {
        let mut strongest = self.means.asked();
        *strongest = (*strongest).max(Some(asked));
    }

    /// If this process must stop, waits until the handover in progress has ended.
    pub(super) fn await_called_off(&self) {
        while self.is_under_way() && self.means.asked().is_some() {
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Sends a signal to the new process, if that serves already while this one still hands over. `false`:
    /// there is none.
    pub(super) fn pass_on(&self, signal: Signal) -> bool {
        self.means.receiver().is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Has this process replaced another one?
    pub(super) fn is_heir(&self) -> bool {
        self.is_heir.load(Ordering::SeqCst)
    }

    /// Notes whether operators' changes are kept in a file.
    pub(super) fn set_keeps_state(&self, keeps: bool) {
        self.keeps_state.store(keeps, Ordering::SeqCst);
    }

    /// Notes that this process has replaced another one, even if it took only the ports.
    pub(super) fn set_heir(&self) {
        self.is_heir.store(true, Ordering::SeqCst);
    }

    /// Was the successor told of this request, or of a stronger one?
    pub(super) fn has_told(&self, asked: EndAsked) -> bool {
        *self.means.told() >= Some(asked)
    }

    /// Upgrades on a thread of its own. The result is logged.
    pub(super) fn upgrade_soon(self: &Arc<Self>) {
        let upgrader = Arc::clone(self);
        let spawned = thread::Builder::new().name("upgrade".into()).spawn(move || upgrader.upgrade(None));
        if let Err(e) = spawned {
            self.tell(Severity::Error, format!("cannot start a thread: {e}"));
        }
    }

    /// Hands everything over to a new process, which runs the program at this path or (`None`) our own.
    /// Returns what was handed over, or why nothing was.
    pub(super) fn upgrade(&self, path: Option<Vec<u8>>) -> Result<String, String> {
        self.conclude(true, || self.hand_over(path.map(|path| PathBuf::from(OsString::from_vec(path)))))
    }

    /// Runs one handover. Only one runs at a time, and after a successful one there is no other.
    fn conclude(
        &self,
        is_told_there: bool,
        act: impl FnOnce() -> Result<(Pid, String), String>,
    ) -> Result<String, String> {
        let outcome = self.begin().and_then(|()| {
            let result = act();
            if result.is_err()
                && let Some(http) = self.http()
                && let Err(e) = http.release()
            {
                self.tell(Severity::Error, format!("--http: nothing is answered any more: {e}"));
            }
            *self.stage() = result.as_ref().map_or(UpgradeStage::Idle, |&(pid, _)| UpgradeStage::Over(pid));
            result.map(|(_, what)| what)
        });
        // The main thread acts on requests that came meanwhile.
        self.notifier.drained();
        match &outcome {
            // The new process logs this event in its own words, so it is not counted again here.
            Ok(what) if is_told_there => {
                let text = format!("upgrade: {what}");
                self.means.roster.log().tell_again(&Event::Note { severity: Severity::Notice, text });
            }
            Ok(what) => self.tell(Severity::Notice, what.clone()),
            Err(why) => {
                let text = format!("upgrade: this process goes on: {why}");
                let note = Event::Note { severity: Severity::Error, text };
                self.means.roster.log().tell_each_time(&note);
            }
        }
        outcome
    }

    /// Hands the ports over to a process that the operator has started. Returns what was handed over, or why
    /// nothing was.
    pub(super) fn give(&self, stream: UnixStream, pid: u32) -> Result<String, String> {
        let mut is_offered = false;
        let refusal = stream.try_clone();
        let outcome = self.conclude(false, || {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("it has no number")?;
            let Some(_frozen) = self.means.roster.freeze() else {
                return Err("another one is under way".to_owned());
            };
            let (offer, listeners) = self.offer()?;
            self.tell(Severity::Notice, format!("process {pid} asks for the ports"));
            let offer = Offer { listeners_only: true, ..offer };
            is_offered = true;
            Work::new(
                &self.means,
                HandoverStream::from(stream),
                pid,
                offer,
                Some(listeners),
                Kin::Stranger,
                None,
            )
            .run()
        });
        if let (Err(why), Ok(stream), false) = (&outcome, refusal, is_offered) {
            work::say_why_not(&HandoverStream::from(stream), why);
        }
        outcome
    }

    fn begin(&self) -> Result<(), String> {
        if process::is_init() {
            return Err(
                "it is the first process of its container, and the container would end with it; start a second container"
                    .to_owned(),
            );
        }
        if let Some(init) = process::init_that_ends_with_us(&self.origin.argv) {
            return Err(format!(
                "its parent is {init}, the first process of its container, and the container would end with it; start a second container"
            ));
        }
        if self.is_receiving() {
            return Err("the old process has not handed over all of its connections yet".to_owned());
        }
        let mut stage = self.stage();
        match *stage {
            UpgradeStage::UnderWay => Err("another one is under way".to_owned()),
            UpgradeStage::Over(pid) => Err(format!("process {pid} has taken over already")),
            UpgradeStage::Idle => {
                *self.means.asked() = None;
                *stage = UpgradeStage::UnderWay;
                Ok(())
            }
        }
    }

    fn tell(&self, severity: Severity, text: String) {
        let text = format!("upgrade: {text}");
        self.means.roster.log().tell(&Event::Note { severity, text });
    }

    fn hand_over(&self, path: Option<PathBuf>) -> Result<(Pid, String), String> {
        // A process started with SIGHUP ignored survives the hangup.
        if process::leads_terminal() && !given::ignores(process::HANGUP) {
            return Err(TERMINAL.to_owned());
        }
        let Some(_frozen) = self.means.roster.freeze() else {
            return Err("another one is under way".to_owned());
        };
        let program = path
            .or_else(|| self.origin.program.clone())
            .ok_or("where this program is, is unknown; give its path")?;
        let program = std::path::absolute(&program).unwrap_or(program);
        let is_other = self.origin.program.as_ref() != Some(&program);
        let (mut offer, listeners) = self.offer()?;
        offer.program = program.as_os_str().as_bytes().to_vec();
        let (ours, theirs) = pair()?;
        let mut stream = HandoverStream::from(ours);
        let mut input = theirs;
        // The listeners are sent before the start, so that the new process has them even if this one dies. If
        // the offer is too large for the socket's buffer, it is sent after the start.
        let mut rest = None;
        if work::say_offer(&stream, &offer, &listeners, Duration::ZERO).is_err() {
            let (ours, theirs) = pair()?;
            (stream, input, rest) = (HandoverStream::from(ours), theirs, Some(listeners));
        }
        // If a main process is not a child of systemd when systemd is told of it, systemd does not wait for its
        // end: a stop would kill it at once.
        let beside = process::has_manager() && program::CAN_START_BESIDE;
        let footing = if beside { Footing::Beside } else { Footing::Child };
        let pid = self.start(&program, &input, footing)?;
        let kin = Kin::of(pid, footing);
        self.tell(Severity::Notice, format!("process {pid} was started to take over: {}", program.display()));
        let work = Work::new(&self.means, stream, pid, offer, rest, kin, Some(input));
        if is_other { work.naming(&program).run() } else { work.run() }
    }

    /// The offer and its descriptors.
    fn offer(&self) -> Result<(Offer, Vec<Arc<OwnedFd>>), String> {
        let no = |e: io::Error| e.to_string();
        let (services, handles, hosts) = self.means.roster.offer();
        if services.is_empty() {
            return Err("no service takes clients any more".to_owned());
        }
        if let Some(deaf) = services.iter().find(|one| one.listen.is_empty()) {
            let name = deaf.name.clone().unwrap_or_else(|| deaf.place.to_string());
            return Err(format!(
                "service {name} could not get its port back and listens nowhere; reload first"
            ));
        }
        let mut descriptors = Vec::new();
        for handle in handles {
            let listener = handle.socket().ok_or("a service has just stopped")?;
            // The descriptor is shared, not duplicated: for many ports, there would not be enough
            // descriptors.
            descriptors.push(listener);
        }
        let control = match self.means.control() {
            Some(control) => {
                let (offered, fd) = control.offer().map_err(no)?;
                descriptors.push(Arc::new(fd));
                Some(offered)
            }
            None => None,
        };
        let http = self.http().and_then(|http| http.offer().transpose()).transpose().map_err(no)?;
        let http = http.map(|(address, fd)| {
            descriptors.push(Arc::new(fd));
            address
        });
        let offer = Offer {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            services,
            control,
            listeners_only: false,
            began: monotonic().saturating_sub(self.means.clock.now()),
            hosts: hosts.into_iter().collect(),
            program: Vec::new(),
            http,
            is_fenced: FenceState::now().is_some_and(FenceState::holds),
            keeps_no_state: !self.keeps_state.load(Ordering::SeqCst),
        };
        Ok((offer, descriptors))
    }

    fn start(&self, path: &Path, input: &UnixStream, footing: Footing) -> Result<Pid, String> {
        // If no name is relative, it need not be the present one: the user of --user may not be able to enter that.
        let present = || std::env::current_dir().ok().filter(|here| can_enter(here));
        let directory = self.origin.directory.clone().or_else(present).unwrap_or_else(|| PathBuf::from("/"));
        let me = std::process::id().to_string();
        let with = [(HANDOVER, &*me)];
        let is_watched = std::env::var_os(WATCHDOG_PID).is_some_and(|pid| pid == *me);
        let private: Vec<&str> = PRIVATE.iter().copied().chain(is_watched.then_some(WATCHDOG_PID)).collect();
        let argv = &self.origin.argv;
        let started =
            program::start_successor(path, argv, &private, &with, &directory, input.as_fd(), footing);
        started.map_err(|e| match e.act {
            "execve" => {
                format!("{}: {}", path.display(), denied::told(&e.source, path, FileUse::Run))
            }
            "chdir" => format!("chdir {}: {}", directory.display(), e.source),
            act => format!("{act}: {}", e.source),
        })
    }
}

fn can_enter(directory: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, directory, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

fn pair() -> Result<(UnixStream, UnixStream), String> {
    UnixStream::pair().map_err(|e| format!("socketpair: {e}"))
}
