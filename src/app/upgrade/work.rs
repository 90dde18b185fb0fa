//! One handover in progress: receives the successor's messages and carries out what they require.
//!
//! Knows: what each deed of the handover means here. Never: the order of the deeds
//! (`handover::predecessor`), when there is a handover.
//! Source: docs/upgrade.md.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;

use super::super::roster::estate::Counts;
use super::super::{counted, past};
use super::kin::Kin;
use super::means::HandoverMeans;
use crate::handover::connection::StageRecord;
use crate::handover::frame;
use crate::handover::message::{
    Batch, Counted, Done, EjectedRecord, EndAsked, FromPredecessor, FromSuccessor, Go, LeftCount, Offer,
    ServiceCounted,
};
use crate::handover::predecessor::{
    HandoverOutcome, Predecessor, PredecessorDeed, PredecessorNews, PredecessorWord,
};
use crate::net::Departing;
use crate::net::server::Running;
use crate::observe::{Event, Log};
use crate::process;
use crate::sched::{ChannelKey, Loss};
use crate::sys::child;
use crate::sys::clock::OwnTime;
use crate::sys::passing::HandoverStream;

/// Maximum number of clients in one batch; each needs two descriptors.
const BATCH: usize = 100;
/// How long sending a message may take.
const SENT_WITHIN: Duration = Duration::from_secs(15);
/// How often to check whether the handover must stop.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// After this number of checks without a message, a dead process has said nothing more.
const LAST_LOOKS: u32 = 10;
const LAST_LOOK: Duration = Duration::from_millis(20);
/// If no connection becomes ready to go within this time, the rest stays here to its end.
const STUCK: Duration = Duration::from_secs(120);
/// How often the successor is told the number of remaining connections.
const TOLD_EVERY: Duration = Duration::from_millis(100);

pub(super) fn say_offer(
    stream: &HandoverStream,
    offer: &Offer,
    listeners: &[Arc<OwnedFd>],
    patience: Duration,
) -> io::Result<()> {
    let message = FromPredecessor::Offer(offer.clone());
    let frame = frame::write(&message, &[], listeners.len())?;
    let fds: Vec<_> = listeners.iter().map(|one| one.as_fd()).collect();
    stream.send(&frame, &fds, patience)
}

/// Sends, instead of an offer, why there is none.
pub(super) fn say_why_not(stream: &HandoverStream, why: &str) {
    let message = FromPredecessor::Unwilling(why.to_owned());
    // If this is not received, the other process notices that nothing came.
    let _ = frame::write(&message, &[], 0).and_then(|frame| stream.send(&frame, &[], SENT_WITHIN));
}

/// A handover in progress.
pub(super) struct Work<'a> {
    means: &'a HandoverMeans,
    log: &'a Log,
    stream: HandoverStream,
    /// The other end, until the successor has said something: what it has not read is taken back through this.
    /// Otherwise a process that it has started, and that has this end as its input, would keep the listeners.
    unread: Option<HandoverStream>,
    /// The process id of the successor.
    pid: Pid,
    kin: Kin,
    machine: Predecessor,
    offered: Vec<Running>,
    /// The numbers of the services that the successor serves.
    accepted: Vec<usize>,
    /// The version that the successor reports.
    version: String,
    /// The program, if it is another one than ours.
    program: Option<String>,
    offer: Offer,
    /// Descriptors to send with the offer. `None`: the offer was sent before the successor was started.
    listeners: Option<Vec<Arc<OwnedFd>>>,
    /// The counters at the time when the state was sent.
    baseline: Vec<Counts>,
    /// The batch that was sent and not answered yet.
    batch: Option<Vec<Departing>>,
    /// Number of clients in a batch. It is halved after a refusal, since there may be room for fewer.
    size: usize,
    news: VecDeque<PredecessorNews>,
    /// When the successor was last told the number of remaining connections.
    told_at: Option<Duration>,
    /// Whether it has closed its end of the stream, or reads nothing any more.
    is_deaf: bool,
    /// How it ended, if it ended on its own.
    ended: Option<String>,
    /// Whether it has explained why it cannot serve.
    has_explained: bool,
    /// Since when no connection was ready to go.
    packed_at: Option<Duration>,
    end: Option<HandoverOutcome>,
}

impl<'a> Work<'a> {
    /// `listeners` are sent with the offer; `None`: that was sent already. `input` is the other end of the
    /// stream if we have started the successor.
    pub(super) fn new(
        means: &'a HandoverMeans,
        stream: HandoverStream,
        pid: Pid,
        offer: Offer,
        listeners: Option<Vec<Arc<OwnedFd>>>,
        kin: Kin,
        input: Option<UnixStream>,
    ) -> Self {
        Self {
            means,
            log: means.roster.log(),
            stream,
            unread: input.filter(|_| child::TELLS_ENDS).map(HandoverStream::from),
            pid,
            kin,
            machine: Predecessor::new(&offer),
            offered: means.roster.offered(),
            accepted: Vec::new(),
            version: String::new(),
            program: None,
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
        }
    }

    /// The answer names this program.
    pub(super) fn naming(mut self, program: &Path) -> Self {
        self.program = Some(program.display().to_string());
        self
    }

    /// The version, and the program if it is another one.
    fn called(&self) -> String {
        [Some(&self.version), self.program.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
            .join(", ")
    }

    pub(super) fn run(mut self) -> Result<(Pid, String), String> {
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
                    self.pid,
                    self.called()
                );
                self.leave();
                Ok((self.pid, what))
            }
            Some(HandoverOutcome::ListenersOnly) => {
                let left = self.means.server.connections();
                let stay = if left == 1 { "stays" } else { "stay" };
                let left = counted(left, "connection");
                let what = format!(
                    "process {} ({}) serves now; it takes no connections over, and {left} {stay} here to their end",
                    self.pid,
                    self.called()
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

    /// Takes no clients any more; the process ends with its last connection.
    fn leave(&self) {
        if let Some(control) = self.means.control() {
            control.yield_names();
        }
        if let Some(http) = self.means.http() {
            http.let_go();
        }
        *self.means.receiver() = None;
        // The listeners are held, so no client that waits there is accepted.
        self.means.server.stop_listening();
        // Clients that were still being connected to a channel could not leave and are served here.
        self.means.server.release_doors();
    }

    /// The services that the successor serves.
    fn accepted(&self) -> Vec<Running> {
        self.accepted.iter().filter_map(|&number| self.offered.get(number).cloned()).collect()
    }

    fn left(&self) -> usize {
        self.means.server.connections()
    }

    /// Waits for the next message of the successor, or for the end of the time for it.
    fn hear(&mut self) -> PredecessorNews {
        let clock = self.means.clock;
        let mut own = OwnTime::at(clock.now());
        let began = own.reading(clock.now());
        loop {
            if self.means.asked().is_some() && self.machine.can_be_cancelled() {
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
            // As long as we have the other end, too, the stream does not end.
            if self.unread.is_some() && self.kin.has_ended(self.pid) && self.take_back_offer() {
                self.is_deaf = true;
                return PredecessorNews::SuccessorEnded("it has not read what it was offered".to_owned());
            }
            let now = own.waited(Some(LOOK_AGAIN), clock.now());
            let patience = self.machine.waits_for().map_or(SENT_WITHIN, |(_, patience)| patience);
            if now.saturating_sub(began) >= patience {
                return PredecessorNews::TimeUp;
            }
        }
    }

    /// Takes back what the successor has not read. Returns whether there was anything.
    fn take_back_offer(&mut self) -> bool {
        self.unread.take().is_some_and(|mut unread| unread.drain())
    }

    fn receive(&mut self, patience: Duration) -> Heard {
        match self.stream.receive(Some(patience)) {
            Ok(Some(received)) => match received.message() {
                Ok(message) => {
                    // It has read the offer.
                    self.unread = None;
                    self.has_explained |= matches!(message, FromSuccessor::Failed(_));
                    if let FromSuccessor::Ready(acceptance) = &message {
                        self.accepted.clone_from(&acceptance.services);
                        self.version.clone_from(&acceptance.version);
                    }
                    Heard::Message(message)
                }
                Err(e) => Heard::End(format!("it sent an invalid message: {e}")),
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
                if let Some(control) = self.means.control() {
                    control.hold();
                }
                if let Some(http) = self.means.http() {
                    http.hold();
                }
                self.means.roster.leave_channels();
                self.means.server.hold_doors();
            }
            PredecessorDeed::Yield => {
                self.means.roster.leave_files(&self.accepted(), true);
                *self.means.receiver() = Some(self.pid);
                if self.kin.is_ours() {
                    process::tell_main_process(pid_number(self.pid));
                }
            }
            PredecessorDeed::Unyield => {
                self.means.roster.leave_files(&self.accepted(), false);
                *self.means.receiver() = None;
                if self.kin.is_ours() {
                    process::tell_main_process(std::process::id());
                }
            }
            PredecessorDeed::Pack(_) => {
                let accepted: Vec<_> =
                    self.accepted.iter().map(|&number| self.offered[number].id()).collect();
                let mut packed = self.means.server.pack_of(self.size, accepted.iter().copied());
                for one in &mut packed {
                    let number = self.offered.iter().position(|running| running.id() == one.service());
                    one.call_service(number.unwrap_or(usize::MAX));
                }
                let mut left = self.means.server.connections_of(&accepted).saturating_sub(packed.len());
                let now = self.means.clock.now();
                if !packed.is_empty() {
                    self.packed_at = None;
                } else if now.saturating_sub(*self.packed_at.get_or_insert(now)) > STUCK {
                    left = 0;
                }
                let news = PredecessorNews::Packed { connections: packed.len() as u64, left: left as u64 };
                self.batch = (!packed.is_empty()).then_some(packed);
                self.news.push_back(news);
            }
            // Both processes have these descriptors, so closing ours affects nobody.
            PredecessorDeed::Release(_) => {
                self.size = (2 * self.size).min(BATCH);
                drop(self.batch.take());
            }
            PredecessorDeed::TakeBack(_) => {
                self.size = (self.size / 2).max(1);
                if let Some(batch) = self.batch.take() {
                    self.means.server.take_back(batch);
                }
            }
            PredecessorDeed::Rest(pause) => {
                thread::sleep(pause);
                self.news.push_back(PredecessorNews::Rested);
            }
            PredecessorDeed::EndSuccessor => self.end_successor(),
            PredecessorDeed::Resume => {
                // If the process must end at once, it does not accept clients for a moment.
                if *self.means.asked() != Some(EndAsked::AtOnce) {
                    self.means.server.release_doors();
                }
                self.means.roster.mind_channels();
                let missed = self.means.control().map_or_else(Vec::new, |control| control.release());
                for (path, cause) in missed {
                    let cause = format!("no control socket at {}: {cause}", path.display());
                    self.log.tell(&Event::NoRendezvous { cause });
                }
            }
            PredecessorDeed::Finish(outcome) => self.end = Some(outcome),
        }
    }

    /// Kills the successor, waits for its end, and reads what it had sent before.
    fn end_successor(&mut self) {
        self.ended = self.own_end();
        if self.ended.is_none() {
            self.kin.kill(self.pid);
        }
        self.take_back_offer();
        // Only processes that it has started may still hold the other end.
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

    /// How the successor ended, if it did so on its own; a child is reaped then. If it has closed its end of
    /// the stream, it is about to end, so this waits a little.
    fn own_end(&self) -> Option<String> {
        for _ in 0..LAST_LOOKS {
            let ended = self.kin.ended(self.pid);
            if ended.is_some() || !self.is_deaf || !self.kin.is_ours() {
                return ended;
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
                let now = self.means.clock.now();
                if self.told_at.is_some_and(|at| now.saturating_sub(at) < TOLD_EVERY) {
                    return Ok(());
                }
                self.told_at = Some(now);
                let left = FromPredecessor::Left(self.left_counts());
                self.stream.send(&none(&left)?, &[], SENT_WITHIN)
            }
            PredecessorWord::Done => {
                let asked = *self.means.asked();
                *self.means.told() = asked;
                let (counted, served) = self.counted();
                let draining = self.left() as u64;
                let ejected = self.ejected();
                let done = FromPredecessor::Done(Done { counted, served, draining, asked, ejected });
                self.stream.send(&none(&done)?, &[], SENT_WITHIN)
            }
        }
    }

    /// The whole state. It is gathered after everything that could change it was stopped.
    fn go(&mut self) -> Go {
        let services = self.means.roster.records(&self.offered);
        self.baseline = self.totals();
        Go {
            next_id: self.means.server.next_id(),
            connections: self.means.server.connections() as u64,
            services,
            debug: self.log.debug_by_hand(),
            events: past::records(self.log, &self.means.roster.owners(&self.offered)),
        }
    }

    fn totals(&self) -> Vec<Counts> {
        self.means.roster.counted(&self.offered)
    }

    /// The increase of the counters since the state was sent: of channels, and of services.
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

    fn ejected(&self) -> Vec<EjectedRecord> {
        let all = self.means.roster.ejected(&self.offered).into_iter().enumerate();
        all.flat_map(|(service, channels)| {
            channels.into_iter().map(move |(key, health)| {
                let (group, channel) = (key.group.index(), key.channel.index());
                EjectedRecord { service, group, channel, health }
            })
        })
        .collect()
    }

    /// The number of connections of each channel here, without those in the batch that was sent.
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
        for (service, active) in self.means.roster.active(&self.offered).into_iter().enumerate() {
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
