//! Handing everything over to another process, as the process does it that is there already.
//!
//! Knows: what each deed of the hand-over means here, who is told. Never: the order of the deeds (`handover::predecessor`), how
//! a connection is let go of.
//! Source: docs/upgrade.md.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};

use super::counted;
use super::origin::{HANDOVER, Inheritance, Origin, monotonic};
use super::past;
use super::roster::Roster;
use super::roster::estate::Counts;
use crate::control::{CarriedCount, Control, HttpServer};
use crate::handover::connection::StageRecord;
use crate::handover::frame;
use crate::handover::message::{
    Batch, Counted, Done, EndAsked, FORMAT, FromPredecessor, FromSuccessor, Go, LeftCount, Offer,
    ServiceCounted,
};
use crate::handover::predecessor::{
    HandoverOutcome, Predecessor, PredecessorDeed, PredecessorNews, PredecessorWord,
};
use crate::net::Departing;
use crate::net::server::{Running, Server};
use crate::observe::{Event, Log, Severity};
use crate::process::{self, Notifier};
use crate::sched::{ChannelKey, Loss};
use crate::sys::Clock;
use crate::sys::clock::OwnTime;
use crate::sys::given;
use crate::sys::passing::HandoverStream;
use crate::sys::program;

/// Clients that go at once: two descriptors each.
const BATCH: usize = 100;
/// A message is taken by the kernel, or read by the other process, within this time.
const SENT_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks whether somebody wants it to stop.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// So many looks that bring nothing, and a dead process has said no more.
const LAST_LOOKS: u32 = 10;
const LAST_LOOK: Duration = Duration::from_millis(20);
/// Connections of which none becomes ready to go within this time stay here to their end.
const STUCK: Duration = Duration::from_secs(120);
/// How often the successor is told how many connections there are.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// Why there is no upgrade where the end of this process is a hangup for the next one.
const TERMINAL: &str = "this process is the first one of its terminal, which hangs up when it ends, and that would end the new process, too; \
                        start balance from a shell that stays, under nohup, or in the background (without -f)";
/// What is said to this process only, by whoever started it.
const PRIVATE: &[&str] = &["LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpgradeStage {
    Idle,
    UnderWay,
    /// This process has a successor.
    Over(Pid),
}

/// Hands this process over to another one.
pub(super) struct Upgrader {
    origin: Origin,
    server: Server,
    roster: Arc<Roster>,
    clock: Clock,
    notifier: Notifier,
    control: OnceLock<Weak<Control>>,
    http: OnceLock<Weak<HttpServer>>,
    stage: Mutex<UpgradeStage>,
    /// What this process was asked to do while another one takes over.
    asked: Mutex<Option<EndAsked>>,
    /// What of that the other one was told.
    told: Mutex<Option<EndAsked>>,
    inheritance: OnceLock<Arc<Inheritance>>,
    /// The new process, while it serves and this one still hands over.
    receiver: Mutex<Option<Pid>>,
    /// This process has taken the place of another one.
    is_heir: AtomicBool,
    /// What operators change is kept in a file.
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
            server,
            roster,
            clock,
            notifier,
            control: OnceLock::new(),
            http: OnceLock::new(),
            stage: Mutex::new(UpgradeStage::Idle),
            asked: Mutex::default(),
            told: Mutex::default(),
            inheritance: OnceLock::new(),
            receiver: Mutex::default(),
            is_heir: AtomicBool::new(false),
            keeps_state: AtomicBool::new(false),
        })
    }

    /// The control socket is handed over, too.
    pub(super) fn attach(&self, control: &Arc<Control>) {
        let _ = self.control.set(Arc::downgrade(control));
    }

    /// So is the port of HTTP.
    pub(super) fn attach_http(&self, http: &Arc<HttpServer>) {
        let _ = self.http.set(Arc::downgrade(http));
    }

    /// The HTTP server, if there is one.
    pub(super) fn http(&self) -> Option<Arc<HttpServer>> {
        self.http.get().and_then(Weak::upgrade)
    }

    /// This process has come by it.
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

    /// What the process before was asked to do, if that was not done yet.
    pub(super) fn take_inherited(&self) -> Option<EndAsked> {
        self.inheritance.get()?.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The process before is to end at once, too: without this one it would serve again.
    pub(super) fn end_predecessor(&self) {
        if let Some(from) = self.inheritance.get()
            && let Some(pid) = i32::try_from(from.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::INT);
        }
    }

    /// Connections come from the process before.
    pub(super) fn is_receiving(&self) -> bool {
        self.inheritance.get().is_some_and(|from| from.is_coming.load(Ordering::SeqCst))
    }

    fn stage(&self) -> MutexGuard<'_, UpgradeStage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_under_way(&self) -> bool {
        *self.stage() == UpgradeStage::UnderWay
    }

    /// The process that has taken this one's place.
    pub(super) fn successor(&self) -> Option<Pid> {
        match *self.stage() {
            UpgradeStage::Over(pid) => Some(pid),
            _ => None,
        }
    }

    /// Somebody wants this process to stop. What is under way is called off, unless it is too late for that.
    pub(super) fn cancel(&self, asked: EndAsked) {
        let mut strongest = self.asked();
        *strongest = (*strongest).max(Some(asked));
    }

    /// If somebody wants this process to stop: until what is under way has come to its end.
    pub(super) fn await_called_off(&self) {
        while self.is_under_way() && self.asked().is_some() {
            thread::sleep(LAST_LOOK);
        }
    }

    /// Passes a signal on to the new process, if that serves already and this one still hands over. `false`: it does not.
    pub(super) fn pass_on(&self, signal: Signal) -> bool {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// This process has taken the place of another one.
    pub(super) fn is_heir(&self) -> bool {
        self.is_heir.load(Ordering::SeqCst)
    }

    /// What operators change is kept in a file.
    pub(super) fn set_keeps_state(&self, keeps: bool) {
        self.keeps_state.store(keeps, Ordering::SeqCst);
    }

    /// This process has taken the place of another one, if only its ports.
    pub(super) fn set_heir(&self) {
        self.is_heir.store(true, Ordering::SeqCst);
    }

    /// Was the successor told of this, or of more?
    pub(super) fn has_told(&self, asked: EndAsked) -> bool {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) >= Some(asked)
    }

    fn asked(&self) -> MutexGuard<'_, Option<EndAsked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same on a thread of its own. What came of it is told to the log.
    pub(super) fn upgrade_soon(self: &Arc<Self>) {
        let upgrader = Arc::clone(self);
        let spawned = thread::Builder::new().name("upgrade".into()).spawn(move || upgrader.upgrade(None));
        if let Err(e) = spawned {
            self.tell(Severity::Error, format!("no thread for it: {e}"));
        }
    }

    /// Hands everything over to a new process: of the program at this path, or of this one's. What was handed over, or why
    /// nothing was.
    pub(super) fn upgrade(&self, path: Option<Vec<u8>>) -> Result<String, String> {
        self.conclude(|| self.hand_over(path.map(|path| PathBuf::from(OsString::from_vec(path)))))
    }

    /// One hand-over at a time, and one at most that comes to something.
    fn conclude(&self, act: impl FnOnce() -> Result<(Pid, String), String>) -> Result<String, String> {
        let outcome = self.begin().and_then(|()| {
            let result = act();
            *self.stage() = result.as_ref().map_or(UpgradeStage::Idle, |&(pid, _)| UpgradeStage::Over(pid));
            result.map(|(_, what)| what)
        });
        // The main thread acts on what came meanwhile.
        self.notifier.drained();
        match &outcome {
            Ok(what) => self.tell(Severity::Notice, what.clone()),
            Err(why) => self.tell(Severity::Error, format!("this process goes on: {why}")),
        }
        outcome
    }

    /// Hands the ports over to a process that somebody else has started. What was handed over, or why nothing was.
    pub(super) fn give(&self, stream: UnixStream, pid: u32) -> Result<String, String> {
        self.conclude(|| {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("it has no number")?;
            let Some(_frozen) = self.roster.freeze() else {
                return Err("another one is under way".to_owned());
            };
            let (offer, listeners) = self.offer()?;
            self.tell(Severity::Notice, format!("process {pid} asks for the ports"));
            let offer = Offer { listeners_only: true, ..offer };
            self.work(HandoverStream::from(stream), pid, offer, Some(listeners), false)
        })
    }

    fn begin(&self) -> Result<(), String> {
        if process::is_init() {
            return Err(
                "this is the first process of its container, which ends with it; start another container"
                    .to_owned(),
            );
        }
        if self.is_receiving() {
            return Err("the process before has not handed over all of its connections yet".to_owned());
        }
        let mut stage = self.stage();
        match *stage {
            UpgradeStage::UnderWay => Err("another one is under way".to_owned()),
            UpgradeStage::Over(pid) => Err(format!("process {pid} has taken over already")),
            UpgradeStage::Idle => {
                *self.asked() = None;
                *stage = UpgradeStage::UnderWay;
                Ok(())
            }
        }
    }

    fn tell(&self, severity: Severity, text: String) {
        let text = format!("upgrade: {text}");
        self.roster.log().tell(&Event::Note { severity, text });
    }

    fn hand_over(&self, path: Option<PathBuf>) -> Result<(Pid, String), String> {
        // Whoever has started with the signal ignored lives on.
        if process::leads_terminal() && !given::ignores(process::HANGUP) {
            return Err(TERMINAL.to_owned());
        }
        let Some(_frozen) = self.roster.freeze() else { return Err("another one is under way".to_owned()) };
        let program = path
            .or_else(|| self.origin.program.clone())
            .ok_or("where this program is, is unknown; give its path")?;
        let program = std::path::absolute(&program).unwrap_or(program);
        let (mut offer, listeners) = self.offer()?;
        offer.program = program.as_os_str().as_bytes().to_vec();
        let (ours, theirs) = pair()?;
        let mut stream = HandoverStream::from(ours);
        let mut input = theirs;
        // From its first moment on it has the listeners, even if this process dies in that moment. An offer that is too large for
        // that waits until somebody reads it.
        let mut rest = None;
        if say_offer(&stream, &offer, &listeners, Duration::ZERO).is_err() {
            let (ours, theirs) = pair()?;
            (stream, input, rest) = (HandoverStream::from(ours), theirs, Some(listeners));
        }
        let pid = self.start(&program, &input)?;
        drop(input);
        self.tell(Severity::Notice, format!("process {pid} was started to take over: {}", program.display()));
        self.work(stream, pid, offer, rest, true)
    }

    fn work(
        &self,
        stream: HandoverStream,
        pid: Pid,
        offer: Offer,
        listeners: Option<Vec<OwnedFd>>,
        is_child: bool,
    ) -> Result<(Pid, String), String> {
        let work = Work {
            upgrader: self,
            log: self.roster.log(),
            stream,
            pid,
            is_child,
            machine: Predecessor::new(&offer),
            offered: self.roster.offered(),
            accepted: Vec::new(),
            version: String::new(),
            offer,
            listeners,
            baseline: Vec::new(),
            batch: None,
            size: BATCH,
            news: VecDeque::from([PredecessorNews::Began]),
            told_at: None,
            is_deaf: false,
            ended: None,
            has_explained: false,
            packed_at: None,
            end: None,
        };
        work.run()
    }

    /// What is offered, and the descriptors of it.
    fn offer(&self) -> Result<(Offer, Vec<OwnedFd>), String> {
        let no = |e: io::Error| e.to_string();
        let (services, handles, hosts) = self.roster.offer();
        if services.is_empty() {
            return Err("no service takes clients any more".to_owned());
        }
        let mut descriptors = Vec::new();
        for handle in handles {
            let listener = handle.socket().ok_or("a service has just stopped")?;
            descriptors.push(listener.try_clone().map_err(no)?);
        }
        let control = match self.control.get().and_then(Weak::upgrade) {
            Some(control) => {
                let (offered, fd) = control.offer().map_err(no)?;
                descriptors.push(fd);
                Some(offered)
            }
            None => None,
        };
        let http = self.http().and_then(|http| http.offer().transpose()).transpose().map_err(no)?;
        let http = http.map(|(address, fd)| {
            descriptors.push(fd);
            address
        });
        let offer = Offer {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            services,
            control,
            listeners_only: false,
            began: monotonic().saturating_sub(self.clock.now()),
            hosts: hosts.into_iter().collect(),
            program: Vec::new(),
            http,
            keeps_no_state: !self.keeps_state.load(Ordering::SeqCst),
        };
        Ok((offer, descriptors))
    }

    fn start(&self, path: &Path, input: &UnixStream) -> Result<Pid, String> {
        let directory = self.origin.directory.clone().or_else(|| std::env::current_dir().ok());
        let directory = directory.unwrap_or_else(|| PathBuf::from("/"));
        let me = std::process::id().to_string();
        let with = [(HANDOVER, &*me)];
        let started =
            program::start_successor(path, &self.origin.argv, PRIVATE, &with, &directory, input.as_fd());
        started.map_err(|e| match e.act {
            "execve" => format!("{}: {}", path.display(), e.source),
            act => format!("{act}: {}", e.source),
        })
    }
}

fn pair() -> Result<(UnixStream, UnixStream), String> {
    UnixStream::pair().map_err(|e| format!("socketpair: {e}"))
}

fn say_offer(
    stream: &HandoverStream,
    offer: &Offer,
    listeners: &[OwnedFd],
    patience: Duration,
) -> io::Result<()> {
    let message = FromPredecessor::Offer(offer.clone());
    let frame = frame::write(&message, &[], listeners.len())?;
    let fds: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    stream.send(&frame, &fds, patience)
}

/// A hand-over under way.
struct Work<'a> {
    upgrader: &'a Upgrader,
    log: &'a Log,
    stream: HandoverStream,
    /// The successor.
    pid: Pid,
    /// We have started it.
    is_child: bool,
    machine: Predecessor,
    offered: Vec<Running>,
    /// The numbers of those that the successor serves.
    accepted: Vec<usize>,
    /// What the successor calls its version.
    version: String,
    offer: Offer,
    /// Descriptors that go with the offer. `None`: it was made before the successor was started.
    listeners: Option<Vec<OwnedFd>>,
    /// What was counted when the successor was told.
    baseline: Vec<Counts>,
    /// Under way.
    batch: Option<Vec<Departing>>,
    /// So many clients go at once: fewer after a refusal, since there may be room for some.
    size: usize,
    news: VecDeque<PredecessorNews>,
    /// When the successor was told last how many connections are left.
    told_at: Option<Duration>,
    /// It has closed its end of the stream, or does not hear us any more.
    is_deaf: bool,
    /// How it has ended by itself.
    ended: Option<String>,
    /// It has said itself why it cannot serve.
    has_explained: bool,
    /// Since when nothing was ready to go.
    packed_at: Option<Duration>,
    end: Option<HandoverOutcome>,
}

impl Work<'_> {
    fn run(mut self) -> Result<(Pid, String), String> {
        while self.end.is_none() {
            let news = match self.news.pop_front() {
                Some(news) => news,
                None => self.hear(),
            };
            for deed in self.machine.learn(news) {
                self.carry_out(deed);
            }
        }
        match self.end.take() {
            Some(HandoverOutcome::HandedOver { carried }) => {
                let draining = self.left();
                let what = format!(
                    "process {} ({}) serves now: carried {carried}, draining {draining}",
                    self.pid, self.version
                );
                self.leave();
                Ok((self.pid, what))
            }
            Some(HandoverOutcome::ListenersOnly) => {
                let left = self.upgrader.server.connections();
                let stay = if left == 1 { "stays" } else { "stay" };
                let left = counted(left, "connection");
                let what = format!(
                    "process {} ({}) serves now; it takes no connections over, and {left} {stay} here to their end",
                    self.pid, self.version
                );
                self.leave();
                Ok((self.pid, what))
            }
            Some(HandoverOutcome::Failed(why)) => {
                let carried = self.machine.carried();
                let why = match self.ended.filter(|_| !self.has_explained) {
                    Some(how) => format!("the new process ended {how}").trim_end().to_owned(),
                    None => why,
                };
                Err(match carried {
                    0 => why,
                    lost => {
                        let lost = counted(usize::try_from(lost).unwrap_or(usize::MAX), "connection");
                        format!("{why}; {lost} that it had taken over went with it")
                    }
                })
            }
            None => Err("it was forgotten".to_owned()),
        }
    }

    /// This process takes no clients any more, and goes with the last that it has.
    fn leave(&self) {
        if let Some(control) = self.control() {
            control.yield_names();
        }
        if let Some(http) = self.upgrader.http() {
            http.let_go();
        }
        *self.upgrader.receiver.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // The doors are held: nobody is accepted who waits there.
        self.upgrader.server.stop_listening();
        // Who is connected to a channel only now, and could not leave, is served here.
        self.upgrader.server.release_doors();
    }

    fn control(&self) -> Option<Arc<Control>> {
        self.upgrader.control.get().and_then(Weak::upgrade)
    }

    fn left(&self) -> usize {
        self.upgrader.server.connections()
    }

    /// Waits for what the successor says, as long as that may take.
    fn hear(&mut self) -> PredecessorNews {
        let clock = self.upgrader.clock;
        let mut own = OwnTime::at(clock.now());
        let began = own.reading(clock.now());
        loop {
            if self.upgrader.asked().is_some() && self.machine.can_be_cancelled() {
                return PredecessorNews::Cancelled;
            }
            match self.receive(LOOK_AGAIN) {
                Heard::Message(message) => return PredecessorNews::Heard(message),
                Heard::Nothing => {}
                Heard::End(why) => {
                    self.is_deaf = true;
                    return PredecessorNews::SuccessorEnded(why);
                }
            }
            let now = own.waited(Some(LOOK_AGAIN), clock.now());
            let patience = self.machine.waits_for().map_or(SENT_WITHIN, |(_, patience)| patience);
            if now.saturating_sub(began) >= patience {
                return PredecessorNews::TimeUp;
            }
        }
    }

    fn receive(&mut self, patience: Duration) -> Heard {
        match self.stream.receive(Some(patience)) {
            Ok(Some(received)) => match received.message() {
                Ok(message) => {
                    self.has_explained |= matches!(message, FromSuccessor::Failed(_));
                    if let FromSuccessor::Ready(acceptance) = &message {
                        self.accepted.clone_from(&acceptance.services);
                        self.version.clone_from(&acceptance.version);
                    }
                    Heard::Message(message)
                }
                Err(e) => Heard::End(format!("it says what is no message: {e}")),
            },
            Ok(None) => Heard::End("it has closed the connection".to_owned()),
            Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                Heard::Nothing
            }
            Err(e) => Heard::End(e.to_string()),
        }
    }

    fn carry_out(&mut self, deed: PredecessorDeed) {
        match deed {
            PredecessorDeed::Send(word) => {
                let news = match self.send(word) {
                    Ok(()) => PredecessorNews::Sent(word),
                    Err(e) => {
                        self.is_deaf = true;
                        PredecessorNews::Unsent(word, e.to_string())
                    }
                };
                self.news.push_back(news);
            }
            PredecessorDeed::HoldDoors => {
                if let Some(control) = self.control() {
                    control.hold();
                }
                if let Some(http) = self.upgrader.http() {
                    http.hold();
                }
                self.upgrader.roster.leave_channels();
                self.upgrader.server.hold_doors();
            }
            PredecessorDeed::Yield => {
                *self.upgrader.receiver.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.pid);
                if self.is_child {
                    process::tell_main_process(pid_number(self.pid));
                }
            }
            PredecessorDeed::Unyield => {
                *self.upgrader.receiver.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if self.is_child {
                    process::tell_main_process(std::process::id());
                }
            }
            PredecessorDeed::Pack(_) => {
                let accepted: Vec<_> =
                    self.accepted.iter().map(|&number| self.offered[number].id()).collect();
                let mut packed = self.upgrader.server.pack_of(self.size, accepted.iter().copied());
                for one in &mut packed {
                    let number = self.offered.iter().position(|running| running.id() == one.service());
                    one.call_service(number.unwrap_or(usize::MAX));
                }
                let mut left = self.upgrader.server.connections_of(&accepted).saturating_sub(packed.len());
                let now = self.upgrader.clock.now();
                if !packed.is_empty() {
                    self.packed_at = None;
                } else if now.saturating_sub(*self.packed_at.get_or_insert(now)) > STUCK {
                    left = 0;
                }
                let news = PredecessorNews::Packed { connections: packed.len() as u64, left: left as u64 };
                self.batch = (!packed.is_empty()).then_some(packed);
                self.news.push_back(news);
            }
            // Both processes have them: closing ours changes nothing for anybody.
            PredecessorDeed::Release(_) => {
                self.size = (2 * self.size).min(BATCH);
                drop(self.batch.take());
            }
            PredecessorDeed::TakeBack(_) => {
                self.size = (self.size / 2).max(1);
                if let Some(batch) = self.batch.take() {
                    self.upgrader.server.take_back(batch);
                }
            }
            PredecessorDeed::Rest(pause) => {
                thread::sleep(pause);
                self.news.push_back(PredecessorNews::Rested);
            }
            PredecessorDeed::EndSuccessor => self.end_successor(),
            PredecessorDeed::Resume => {
                // A process that is to end at once lets nobody in for a moment.
                if *self.upgrader.asked() != Some(EndAsked::AtOnce) {
                    self.upgrader.server.release_doors();
                }
                self.upgrader.roster.mind_channels();
                if let Some(http) = self.upgrader.http() {
                    http.release();
                }
                let missed = self.control().map_or_else(Vec::new, |control| control.release());
                for (path, cause) in missed {
                    let cause = format!("no control socket at {}: {cause}", path.display());
                    self.log.tell(&Event::NoRendezvous { cause });
                }
            }
            PredecessorDeed::Finish(outcome) => self.end = Some(outcome),
        }
    }

    /// It is killed, waited for, and what it had said before is heard.
    fn end_successor(&mut self) {
        if self.is_child {
            self.ended = self.own_end();
        }
        if self.is_child && self.ended.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
            while matches!(waitpid(Some(self.pid), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
        }
        // Nobody holds the other end any more but what it may have started.
        let mut looks = 0;
        while looks < LAST_LOOKS {
            match self.receive(LOOK_AGAIN) {
                Heard::Message(message) => self.news.push_back(PredecessorNews::Heard(message)),
                Heard::Nothing => looks += 1,
                Heard::End(_) => break,
            }
        }
        self.news.push_back(PredecessorNews::SuccessorGone);
    }

    /// How the successor has ended by itself, if it has. It is reaped then. One that has closed its end of the stream is about to end.
    fn own_end(&self) -> Option<String> {
        for _ in 0..LAST_LOOKS {
            if let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG).ok()? {
                let code = status.exit_status().map(|code| format!("with exit code {code}"));
                let signal = || Some(format!("by signal {}", status.terminating_signal()?));
                return code.or_else(signal).or_else(|| Some(String::new()));
            }
            if !self.is_deaf {
                return None;
            }
            thread::sleep(LAST_LOOK);
        }
        None
    }

    fn send(&mut self, word: PredecessorWord) -> io::Result<()> {
        let none = |message: &FromPredecessor| frame::write(message, &[], 0);
        match word {
            PredecessorWord::Offer => {
                let listeners = self.listeners.take();
                listeners.map_or(Ok(()), |all| say_offer(&self.stream, &self.offer, &all, SENT_WITHIN))
            }
            PredecessorWord::Go => {
                let go = FromPredecessor::Go(Box::new(self.go()));
                self.stream.send(&none(&go)?, &[], SENT_WITHIN)
            }
            PredecessorWord::Batch(number) => {
                let batch = self.batch.as_deref().unwrap_or_default();
                let connections = batch.iter().map(|one| one.record().clone()).collect();
                let message = FromPredecessor::Batch(Batch { number, connections });
                let attached: Vec<u8> = batch.iter().flat_map(|one| one.bytes()).copied().collect();
                let fds: Vec<_> = batch.iter().flat_map(|one| one.descriptors()).collect();
                self.stream.send(&frame::write(&message, &attached, fds.len())?, &fds, SENT_WITHIN)
            }
            PredecessorWord::Left => {
                let now = self.upgrader.clock.now();
                if self.told_at.is_some_and(|at| now.saturating_sub(at) < TOLD_EVERY) {
                    return Ok(());
                }
                self.told_at = Some(now);
                let left = FromPredecessor::Left(self.left_counts());
                self.stream.send(&none(&left)?, &[], SENT_WITHIN)
            }
            PredecessorWord::Done => {
                let asked = *self.upgrader.asked();
                *self.upgrader.told.lock().unwrap_or_else(PoisonError::into_inner) = asked;
                let (counted, served) = self.counted();
                let done =
                    FromPredecessor::Done(Done { counted, served, draining: self.left() as u64, asked });
                self.stream.send(&none(&done)?, &[], SENT_WITHIN)
            }
        }
    }

    /// All there is to know, after everybody was stopped who could change it.
    fn go(&mut self) -> Go {
        let services = self.upgrader.roster.records(&self.offered);
        self.baseline = self.totals();
        Go {
            next_id: self.upgrader.server.next_id(),
            connections: self.upgrader.server.connections() as u64,
            services,
            debug: self.log.debug_by_hand(),
            events: past::records(self.log, &self.upgrader.roster.owners(&self.offered)),
        }
    }

    fn totals(&self) -> Vec<Counts> {
        self.upgrader.roster.counted(&self.offered)
    }

    /// What was counted since the successor was told: of channels, and of services.
    fn counted(&self) -> (Vec<Counted>, Vec<ServiceCounted>) {
        let (mut channels, mut services) = (Vec::new(), Vec::new());
        let none = Counts::default();
        let befores = self.baseline.iter().chain(std::iter::repeat(&none));
        for (service, (now, before)) in self.totals().into_iter().zip(befores).enumerate() {
            for (key, now) in &now.channels {
                let counts = before.channels.get(key).map_or_else(|| now.clone(), |before| now.since(before));
                if !counts.is_empty() {
                    channels.push(Counted {
                        service,
                        group: key.group.index(),
                        channel: key.channel.index(),
                        totalc: counts.totalc,
                        failed: counts.failed,
                        sent_bytes: counts.sent_bytes,
                        rcvd_bytes: counts.rcvd_bytes,
                        tally: counts.ended.record(),
                    });
                }
            }
            let had = |why: Loss| before.losses.iter().find(|one| one.0 == why).map_or(0, |one| one.1);
            let losses =
                now.losses.iter().map(|&(why, count)| (why.to_string(), count.saturating_sub(had(why))));
            services.push(ServiceCounted {
                service,
                tally: now.served.since(&before.served).record(),
                losses: losses.filter(|(_, count)| *count > 0).collect(),
            });
        }
        (channels, services)
    }

    /// How many connections each channel has here, without those that are on their way.
    fn left_counts(&self) -> Vec<LeftCount> {
        let mut under_way: HashMap<_, u32> = HashMap::new();
        for one in self.batch.iter().flatten() {
            if let StageRecord::Relaying(relaying) = &one.record().stage
                && let Some(key) = ChannelKey::new(relaying.group, relaying.channel)
            {
                *under_way.entry((one.service(), key)).or_default() += 1;
            }
        }
        let mut all = Vec::new();
        for (service, active) in self.upgrader.roster.active(&self.offered).into_iter().enumerate() {
            for (key, active) in active {
                let gone = under_way.get(&(self.offered[service].id(), key)).copied().unwrap_or_default();
                let (group, channel) = (key.group.index(), key.channel.index());
                all.push(LeftCount { service, group, channel, active: active.saturating_sub(gone) });
            }
        }
        all.retain(|one| one.active > 0);
        all
    }
}

enum Heard {
    Message(FromSuccessor),
    Nothing,
    End(String),
}

fn pid_number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}
