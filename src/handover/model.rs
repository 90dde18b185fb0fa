//! A model of a handover: two processes and the kernel between them, explored over schedules from seeds.
//!
//! Knows: which process has copies of what, what is in the stream, when a process may die. Never: how the two
//! state machines decide.
//!
//! Each step is one event, chosen from those that are possible. After each step the model looks for faults: a
//! connection with two owners, one that returns from a process that had it, a batch that is released twice.
//! At the end, each connection that did not die with a process must have exactly one owner, and one process
//! must accept clients.

use std::collections::{BTreeMap, VecDeque};

use super::message::{Acceptance, Batch, Done, FORMAT, FromPredecessor, FromSuccessor, Go, Offer};
use super::predecessor::{HandoverOutcome, Predecessor, PredecessorDeed, PredecessorNews, PredecessorWord};
use super::successor::{Successor, SuccessorDeed, SuccessorNews, SuccessorWord};

struct Lots(u64);

impl Lots {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(x ^ (x >> 31)) * limit as u128) >> 64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Predecessor,
    Successor,
}

/// What may go wrong in a run.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    crash: bool,
    slow: bool,
    cancel: bool,
    /// One check in this many finds no room; 0: all find room.
    refuse: usize,
    unsent: bool,
    hang: bool,
    /// The successor finds that it cannot serve.
    unfit: bool,
    /// This process dies at this step.
    kill: Option<(usize, Who)>,
}

impl Faults {
    fn drawn(lots: &mut Lots) -> Self {
        Self {
            crash: lots.one_in(2),
            slow: lots.one_in(3),
            cancel: lots.one_in(4),
            refuse: [0, 0, 3, 1][lots.below(4)],
            unsent: lots.one_in(4),
            hang: lots.one_in(4),
            unfit: lots.one_in(4),
            kill: None,
        }
    }

    fn are_none(self) -> bool {
        !(self.crash || self.slow || self.cancel || self.unsent || self.hang || self.unfit)
            && self.refuse != 1
            && self.kill.is_none()
    }
}

/// A fault that a driver or a state machine could have, planted to show that the model finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    AdoptBeforeTaken,
    TakeBackBeforeDeath,
    ReleaseOnSend,
    ForgetResume,
    ActOnRefused,
    AcknowledgeTwice,
    DeafToTheDead,
    ReleaseTwice,
    /// The stream ends although the predecessor lives, because a message could not be sent.
    EndTheStreamAlive,
}

/// What one process has of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Nothing,
    /// A connect is in progress; it cannot be handed over.
    Dialling,
    /// The process moves its bytes.
    Owned,
    /// A copy in this batch, which the process does not touch.
    InBatch(u64),
}

#[derive(Debug, Clone)]
struct Connection {
    predecessor: Hold,
    successor: Hold,
    /// Whether the successor has owned it.
    was_adopted: bool,
    /// Whether the message that it was taken was sent; or it was the successor's client from the start.
    is_acknowledged: bool,
    /// Whether it is in a batch that was sent completely and not refused.
    is_sent: bool,
}

impl Connection {
    fn of(who: Who, hold: Hold) -> Self {
        let is_new = who == Who::Successor;
        Self {
            predecessor: if is_new { Hold::Nothing } else { hold },
            successor: if is_new { hold } else { Hold::Nothing },
            was_adopted: is_new,
            is_acknowledged: is_new,
            is_sent: false,
        }
    }
}

/// Work that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Pack(u64),
    Prepare,
    Serve,
    Check(u64),
}

/// The state of a process as a whole.
#[derive(Debug, Default)]
struct Body {
    is_dead: bool,
    accepts: bool,
    work: Option<Work>,
    /// Whether it can no longer send.
    is_mute: bool,
    /// Whether it knows that the other's stream has ended.
    heard_end: bool,
}

/// An event that can happen.
#[derive(Debug, Clone, Copy)]
enum Chance {
    Deed(Who),
    Hear(Who),
    Work(Who),
    Rested,
    Dialled(usize),
    TimeUp,
    Cancel,
    Crash(Who),
    /// The kill takes effect.
    Die,
    Hang,
    Accept(Who),
    Move(Who),
    End(Who),
}

struct World {
    lots: Lots,
    faults: Faults,
    bug: Option<Bug>,
    predecessor: Predecessor,
    successor: Successor,
    before: Body,
    after: Body,
    deeds: VecDeque<PredecessorDeed>,
    answers: VecDeque<SuccessorDeed>,
    to_successor: VecDeque<(FromPredecessor, Vec<usize>)>,
    to_predecessor: VecDeque<FromSuccessor>,
    connections: Vec<Connection>,
    ended: Vec<bool>,
    rests: bool,
    was_cancelled: bool,
    /// Whether the predecessor has begun to kill its successor.
    is_ending: bool,
    is_hung: bool,
    outcome: Option<HandoverOutcome>,
    taken_back: BTreeMap<u64, bool>,
    log: Vec<String>,
}

type Verdict = Result<(), String>;

impl World {
    fn new(seed: u64, faults: Faults, bug: Option<Bug>) -> Self {
        let mut lots = Lots(seed);
        let listeners_only = lots.one_in(8);
        let count = 1 + lots.below(6);
        let holds: Vec<Hold> =
            (0..count).map(|_| if lots.one_in(4) { Hold::Dialling } else { Hold::Owned }).collect();
        let offer = Offer { format: FORMAT, listeners_only, ..Offer::default() };
        let mut predecessor = Predecessor::new(&offer);
        let deeds = predecessor.learn(PredecessorNews::Began).into();
        Self {
            lots,
            faults,
            bug,
            predecessor,
            successor: Successor::new(),
            before: Body { accepts: true, ..Body::default() },
            after: Body::default(),
            deeds,
            answers: VecDeque::new(),
            to_successor: VecDeque::new(),
            to_predecessor: VecDeque::new(),
            ended: vec![false; count],
            connections: holds.into_iter().map(|hold| Connection::of(Who::Predecessor, hold)).collect(),
            rests: false,
            was_cancelled: false,
            is_ending: false,
            is_hung: false,
            outcome: None,
            taken_back: BTreeMap::new(),
            log: vec![format!("listeners only: {listeners_only}")],
        }
    }

    fn is_retired(&self) -> bool {
        matches!(self.outcome, Some(HandoverOutcome::HandedOver { .. } | HandoverOutcome::ListenersOnly))
    }

    /// The events that bring the handover further, then all others.
    fn chances(&self) -> (Vec<Chance>, Vec<Chance>) {
        let (mut further, mut besides) = (Vec::new(), Vec::new());
        if !self.before.is_dead {
            if !self.deeds.is_empty() {
                further.push(Chance::Deed(Who::Predecessor));
            } else if !self.predecessor.is_over() {
                let ended = self.after.is_dead && (self.is_ending || !self.before.heard_end);
                if !self.to_predecessor.is_empty() || ended {
                    further.push(Chance::Hear(Who::Predecessor));
                }
                if self.rests {
                    further.push(Chance::Rested);
                }
                if self.before.work.is_some() {
                    further.push(Chance::Work(Who::Predecessor));
                }
                if self.faults.slow && self.predecessor.waits_for().is_some() {
                    besides.push(Chance::TimeUp);
                }
                if self.faults.cancel && !self.was_cancelled {
                    besides.push(Chance::Cancel);
                }
            }
            let dialling = |&at: &usize| self.connections[at].predecessor == Hold::Dialling;
            further.extend((0..self.connections.len()).filter(dialling).map(Chance::Dialled));
        }
        if !self.after.is_dead && !self.is_hung {
            if !self.answers.is_empty() {
                further.push(Chance::Deed(Who::Successor));
            } else if !self.successor.is_over() {
                let is_cut = self.bug == Some(Bug::EndTheStreamAlive) && self.before.is_mute;
                let is_at_end = (self.before.is_dead || self.is_retired() || is_cut) && !self.after.heard_end;
                if !self.to_successor.is_empty() || is_at_end {
                    further.push(Chance::Hear(Who::Successor));
                }
                if self.after.work.is_some() {
                    further.push(Chance::Work(Who::Successor));
                }
            }
            if self.faults.hang {
                besides.push(Chance::Hang);
            }
        }
        if self.is_ending && !self.after.is_dead {
            further.push(Chance::Die);
        }
        for who in [Who::Predecessor, Who::Successor] {
            let body = self.body(who);
            if body.is_dead || (who == Who::Successor && self.is_hung) {
                continue;
            }
            besides.extend([Chance::Move(who), Chance::Move(who), Chance::End(who)]);
            if body.accepts && self.connections.len() < 12 {
                besides.push(Chance::Accept(who));
            }
            if self.faults.crash {
                besides.push(Chance::Crash(who));
            }
        }
        (further, besides)
    }

    fn body(&self, who: Who) -> &Body {
        if who == Who::Predecessor { &self.before } else { &self.after }
    }

    fn run(&mut self) -> Result<usize, String> {
        for step in 0..4_000 {
            let (further, besides) = self.chances();
            let chance = match self.faults.kill {
                Some((at, who)) if at == step && !self.body(who).is_dead => Chance::Crash(who),
                _ if further.is_empty() => {
                    let waits = !self.before.is_dead && self.predecessor.waits_for().is_some();
                    if !waits {
                        self.judge_end()?;
                        return Ok(step);
                    }
                    Chance::TimeUp
                }
                _ if !besides.is_empty() && self.lots.one_in(4) => {
                    let chance = besides[self.lots.below(besides.len())];
                    let is_mishap =
                        matches!(chance, Chance::Crash(_) | Chance::Hang | Chance::TimeUp | Chance::Cancel);
                    // Mishaps are rare, so that they hit every part of a handover.
                    if is_mishap && !self.lots.one_in(6) {
                        continue;
                    }
                    chance
                }
                _ => further[self.lots.below(further.len())],
            };
            self.log.push(format!("{step}: {chance:?}"));
            self.happen(chance)?;
            self.judge()?;
        }
        Err("it does not end".to_owned())
    }

    fn tell_predecessor(&mut self, news: PredecessorNews) {
        self.log.push(format!("   predecessor learns {news:?}"));
        self.deeds.extend(self.predecessor.learn(news));
    }

    fn tell_successor(&mut self, news: SuccessorNews<'_>) {
        self.log.push(format!("   successor learns {news:?}"));
        self.answers.extend(self.successor.learn(news));
    }

    fn happen(&mut self, chance: Chance) -> Verdict {
        match chance {
            Chance::Deed(Who::Predecessor) => {
                if let Some(deed) = self.deeds.pop_front() {
                    self.log.push(format!("   {deed:?}"));
                    return self.predecessor_does(deed);
                }
            }
            Chance::Deed(Who::Successor) => {
                if let Some(deed) = self.answers.pop_front() {
                    self.log.push(format!("   {deed:?}"));
                    return self.successor_does(deed);
                }
            }
            Chance::Hear(Who::Predecessor) => self.predecessor_hears(),
            Chance::Hear(Who::Successor) => self.successor_hears(),
            Chance::Work(who) => self.work(who),
            Chance::Rested => {
                self.rests = false;
                self.tell_predecessor(PredecessorNews::Rested);
            }
            Chance::Dialled(at) => self.connections[at].predecessor = Hold::Owned,
            Chance::TimeUp => self.tell_predecessor(PredecessorNews::TimeUp),
            Chance::Cancel => {
                self.was_cancelled = true;
                self.tell_predecessor(PredecessorNews::Cancelled);
            }
            Chance::Crash(who) => self.die(who),
            Chance::Die => self.die(Who::Successor),
            Chance::Hang => self.is_hung = true,
            Chance::Accept(who) => {
                let hold =
                    if who == Who::Predecessor && self.lots.one_in(2) { Hold::Dialling } else { Hold::Owned };
                self.connections.push(Connection::of(who, hold));
                self.ended.push(false);
            }
            Chance::Move(who) => {
                if let Some(at) = self.any_owned(who) {
                    let is_late = who == Who::Predecessor && self.connections[at].was_adopted;
                    if is_late {
                        return Err(format!("{at} is moved by its first owner after the second"));
                    }
                }
            }
            Chance::End(who) => {
                if let Some(at) = self.any_owned(who) {
                    match who {
                        Who::Predecessor => self.connections[at].predecessor = Hold::Nothing,
                        Who::Successor => self.connections[at].successor = Hold::Nothing,
                    }
                    self.ended[at] = true;
                }
            }
        }
        Ok(())
    }

    fn any_owned(&mut self, who: Who) -> Option<usize> {
        let owned: Vec<usize> =
            (0..self.connections.len()).filter(|&at| self.hold(who, at) == Hold::Owned).collect();
        if owned.is_empty() { None } else { Some(owned[self.lots.below(owned.len())]) }
    }

    fn hold(&self, who: Who, at: usize) -> Hold {
        let one = &self.connections[at];
        if who == Who::Predecessor { one.predecessor } else { one.successor }
    }

    /// Closes all copies of this process and discards what was on its way to it. What it has sent stays in
    /// the stream.
    fn die(&mut self, who: Who) {
        for one in &mut self.connections {
            match who {
                Who::Predecessor => one.predecessor = Hold::Nothing,
                Who::Successor => one.successor = Hold::Nothing,
            }
        }
        let body = match who {
            Who::Predecessor => {
                self.to_predecessor.clear();
                &mut self.before
            }
            Who::Successor => {
                self.to_successor.clear();
                &mut self.after
            }
        };
        body.is_dead = true;
        body.accepts = false;
    }

    fn predecessor_hears(&mut self) {
        if let Some(message) = self.to_predecessor.pop_front() {
            if self.bug == Some(Bug::DeafToTheDead) && self.is_ending {
                return;
            }
            let again = self.bug == Some(Bug::ReleaseTwice);
            if let (true, FromSuccessor::Taken(number)) = (again, &message) {
                self.deeds.push_back(PredecessorDeed::Release(*number));
            }
            self.tell_predecessor(PredecessorNews::Heard(message));
        } else if self.is_ending && self.after.is_dead {
            self.tell_predecessor(PredecessorNews::SuccessorGone);
        } else {
            self.before.heard_end = true;
            self.tell_predecessor(PredecessorNews::SuccessorEnded("gone".to_owned()));
        }
    }

    fn successor_hears(&mut self) {
        let Some((message, descriptors)) = self.to_successor.pop_front() else {
            self.after.heard_end = true;
            self.tell_successor(SuccessorNews::PredecessorEnded);
            return;
        };
        if let FromPredecessor::Batch(batch) = &message {
            for at in descriptors {
                self.connections[at].successor = Hold::InBatch(batch.number);
            }
        }
        self.tell_successor(SuccessorNews::Heard(&message));
    }

    fn work(&mut self, who: Who) {
        let body = if who == Who::Predecessor { &mut self.before } else { &mut self.after };
        let Some(work) = body.work.take() else { return };
        let unfit = self.faults.unfit && self.lots.one_in(4);
        let fit = if unfit { Err("unfit".to_owned()) } else { Ok(()) };
        match work {
            Work::Pack(number) => {
                let most = 1 + self.lots.below(3);
                let mut connections = 0;
                let mut left = 0;
                for one in &mut self.connections {
                    match one.predecessor {
                        Hold::Owned if connections < most => {
                            one.predecessor = Hold::InBatch(number);
                            connections += 1;
                        }
                        Hold::Dialling => left += 1,
                        _ => {}
                    }
                }
                let connections = connections as u64;
                self.tell_predecessor(PredecessorNews::Packed { connections, left });
            }
            Work::Prepare => self.tell_successor(SuccessorNews::Prepared(fit)),
            Work::Serve => {
                self.after.accepts = fit.is_ok();
                self.tell_successor(SuccessorNews::Served(fit));
            }
            Work::Check(number) => {
                let is_full = self.faults.refuse > 0 && self.lots.one_in(self.faults.refuse);
                let room = if is_full { Err("no room".to_owned()) } else { Ok(()) };
                self.tell_successor(SuccessorNews::Checked(number, room));
            }
        }
    }

    /// Changes what this process has of each connection in this batch.
    fn turn(&mut self, who: Who, number: u64, into: Hold) -> Result<Vec<usize>, String> {
        let all: Vec<usize> =
            (0..self.connections.len()).filter(|&at| self.hold(who, at) == Hold::InBatch(number)).collect();
        for &at in &all {
            let one = &mut self.connections[at];
            match who {
                Who::Predecessor => one.predecessor = into,
                Who::Successor => one.successor = into,
            }
        }
        if all.is_empty() { Err(format!("{who:?} has no batch {number}")) } else { Ok(all) }
    }

    fn predecessor_does(&mut self, deed: PredecessorDeed) -> Verdict {
        match deed {
            PredecessorDeed::Send(word) => {
                let is_lost =
                    self.after.is_dead || self.before.is_mute || (self.faults.unsent && self.lots.one_in(30));
                if is_lost {
                    self.before.is_mute = true;
                    self.tell_predecessor(PredecessorNews::Unsent(word, "nobody reads".to_owned()));
                    return Ok(());
                }
                self.post(word);
                self.tell_predecessor(PredecessorNews::Sent(word));
                if let (PredecessorWord::Batch(number), Some(Bug::ReleaseOnSend)) = (word, self.bug) {
                    self.turn(Who::Predecessor, number, Hold::Nothing)?;
                }
            }
            PredecessorDeed::HoldDoors => self.before.accepts = false,
            PredecessorDeed::Resume if self.bug == Some(Bug::ForgetResume) => {}
            PredecessorDeed::Resume => self.before.accepts = true,
            PredecessorDeed::Yield | PredecessorDeed::Unyield => {}
            PredecessorDeed::Pack(number) => self.before.work = Some(Work::Pack(number)),
            PredecessorDeed::Release(_) if self.bug == Some(Bug::ReleaseOnSend) => {}
            PredecessorDeed::Release(number) => {
                if self.taken_back.remove(&number).is_none() {
                    self.turn(Who::Predecessor, number, Hold::Nothing)?;
                }
            }
            PredecessorDeed::TakeBack(number) => {
                if self.taken_back.remove(&number).is_none() {
                    self.turn(Who::Predecessor, number, Hold::Owned)?;
                }
            }
            PredecessorDeed::Rest(_) => self.rests = true,
            PredecessorDeed::EndSuccessor => {
                self.is_ending = true;
                if self.bug == Some(Bug::TakeBackBeforeDeath) {
                    for number in 1..100 {
                        if self.turn(Who::Predecessor, number, Hold::Owned).is_ok() {
                            self.taken_back.insert(number, true);
                        }
                    }
                }
            }
            PredecessorDeed::Finish(outcome) => self.outcome = Some(outcome),
        }
        Ok(())
    }

    fn post(&mut self, word: PredecessorWord) {
        let mut descriptors = Vec::new();
        let message = match word {
            PredecessorWord::Offer => {
                let listeners_only = self.log[0].ends_with("true");
                FromPredecessor::Offer(Offer { format: FORMAT, listeners_only, ..Offer::default() })
            }
            PredecessorWord::Go => FromPredecessor::Go(Box::<Go>::default()),
            PredecessorWord::Batch(number) => {
                for (at, one) in self.connections.iter_mut().enumerate() {
                    if one.predecessor == Hold::InBatch(number) {
                        one.is_sent = true;
                        descriptors.push(at);
                    }
                }
                FromPredecessor::Batch(Batch { number, ..Batch::default() })
            }
            PredecessorWord::Left => FromPredecessor::Left(Vec::new()),
            PredecessorWord::Done => FromPredecessor::Done(Done::default()),
        };
        self.to_successor.push_back((message, descriptors));
    }

    fn successor_does(&mut self, deed: SuccessorDeed) -> Verdict {
        match deed {
            SuccessorDeed::Send(word) => {
                if let (SuccessorWord::Taken(number), Some(Bug::AdoptBeforeTaken)) = (&word, self.bug) {
                    self.adopt(*number)?;
                }
                let is_gone = self.before.is_dead || self.is_retired() || self.after.is_mute;
                if is_gone || (self.faults.unsent && self.lots.one_in(30)) {
                    self.after.is_mute = true;
                    self.tell_successor(SuccessorNews::Unsent(word));
                    return Ok(());
                }
                self.answer(&word);
                self.tell_successor(SuccessorNews::Sent(word));
            }
            SuccessorDeed::Prepare => self.after.work = Some(Work::Prepare),
            SuccessorDeed::Serve { .. } => self.after.work = Some(Work::Serve),
            SuccessorDeed::Check(number) => self.after.work = Some(Work::Check(number)),
            SuccessorDeed::Adopt(number) => {
                let adopted = self.adopt(number);
                if self.bug != Some(Bug::AdoptBeforeTaken) {
                    adopted?;
                }
            }
            SuccessorDeed::Drop(number) if self.bug == Some(Bug::ActOnRefused) => self.adopt(number)?,
            SuccessorDeed::Drop(number) => {
                for at in self.turn(Who::Successor, number, Hold::Nothing)? {
                    self.connections[at].is_sent = false;
                }
            }
            SuccessorDeed::Trim | SuccessorDeed::Settle(_) => {}
            SuccessorDeed::GoOnAlone { .. } => self.after.accepts = true,
            SuccessorDeed::End(_) => self.die(Who::Successor),
        }
        Ok(())
    }

    fn answer(&mut self, word: &SuccessorWord) {
        let message = match word {
            SuccessorWord::Ready => {
                FromSuccessor::Ready(Acceptance { format: FORMAT, ..Acceptance::default() })
            }
            SuccessorWord::Serving => FromSuccessor::Serving,
            SuccessorWord::Taken(number) => {
                for one in &mut self.connections {
                    let is_adopted = one.successor == Hold::Owned && self.bug == Some(Bug::AdoptBeforeTaken);
                    one.is_acknowledged |= one.successor == Hold::InBatch(*number) || is_adopted;
                }
                FromSuccessor::Taken(*number)
            }
            SuccessorWord::Refused(number, why) => FromSuccessor::Refused(*number, why.clone()),
            SuccessorWord::Settled => FromSuccessor::Settled,
            SuccessorWord::Failed(why) => FromSuccessor::Failed(why.clone()),
        };
        if self.bug == Some(Bug::AcknowledgeTwice) && matches!(word, SuccessorWord::Taken(_)) {
            self.to_predecessor.push_back(message.clone());
        }
        self.to_predecessor.push_back(message);
    }

    fn adopt(&mut self, number: u64) -> Verdict {
        for at in self.turn(Who::Successor, number, Hold::Owned)? {
            self.connections[at].was_adopted = true;
        }
        Ok(())
    }

    /// Checks what must hold after each step.
    fn judge(&self) -> Verdict {
        for (at, one) in self.connections.iter().enumerate() {
            if one.predecessor == Hold::Owned && one.successor == Hold::Owned {
                return Err(format!("{at} has two owners"));
            }
            if one.predecessor == Hold::Owned && one.was_adopted {
                return Err(format!("{at} is owned by its first owner after the second"));
            }
        }
        Ok(())
    }

    /// Checks what must hold when nothing more happens.
    fn judge_end(&self) -> Verdict {
        let old_lives = !self.before.is_dead;
        let new_lives = !self.after.is_dead && !self.is_hung;
        if old_lives && !self.predecessor.is_over() {
            return Err("the predecessor waits for ever".to_owned());
        }
        if new_lives && !self.successor.is_over() {
            return Err("the successor waits for ever".to_owned());
        }
        let in_charge = (old_lives && !self.is_retired()) || new_lives;
        let accepting = [&self.before, &self.after].into_iter().filter(|body| body.accepts).count();
        if in_charge && accepting != 1 {
            return Err(format!("{accepting} processes accept clients"));
        }
        for (at, one) in self.connections.iter().enumerate().filter(|(at, _)| !self.ended[*at]) {
            let of_old = if one.is_acknowledged { Hold::Nothing } else { Hold::Owned };
            let came = one.is_acknowledged || (!old_lives && one.is_sent);
            if old_lives && one.predecessor != of_old {
                return Err(format!("{at} is lost or leaked by its first owner: {one:?}"));
            }
            if new_lives && came && one.successor != Hold::Owned {
                return Err(format!("{at} is lost by its second owner: {one:?}"));
            }
            if new_lives && !came && one.successor != Hold::Nothing {
                return Err(format!("{at} is leaked by its second owner: {one:?}"));
            }
        }
        if self.faults.are_none() && !(new_lives && self.is_retired()) {
            return Err(format!("nothing went wrong, and yet: {:?}", self.outcome));
        }
        Ok(())
    }
}

/// Runs one schedule, and returns the number of steps.
fn explore(seed: u64, faults: Faults, bug: Option<Bug>) -> Result<usize, String> {
    explored(seed, faults, bug).map(|(steps, _)| steps)
}

/// The same, and the final state.
fn explored(seed: u64, faults: Faults, bug: Option<Bug>) -> Result<(usize, World), String> {
    let mut world = World::new(seed, faults, bug);
    match world.run() {
        Ok(steps) => Ok((steps, world)),
        Err(why) => Err(format!("seed {seed}, {faults:?}: {why}\n{}", world.log.join("\n"))),
    }
}

fn drawn(seed: u64) -> Faults {
    Faults::drawn(&mut Lots(seed ^ 0x5eed))
}

#[test]
fn each_connection_has_one_owner_whatever_happens() {
    // How often each outcome was reached. A run in which an outcome is never reached shows nothing about it.
    let mut ends = BTreeMap::<String, u32>::new();
    for seed in 0..10_000 {
        let (_, world) = explored(seed, drawn(seed), None).unwrap_or_else(|why| panic!("{why}"));
        let outcome = match &world.outcome {
            Some(HandoverOutcome::HandedOver { carried: 0 }) => "handed over, no connections",
            Some(HandoverOutcome::HandedOver { .. }) => "handed over",
            Some(HandoverOutcome::ListenersOnly) => "listeners only",
            Some(HandoverOutcome::Failed(_)) => "failed",
            None => "none",
        };
        let dead = [&world.before, &world.after].map(|body| body.is_dead);
        *ends.entry(format!("{outcome}, dead: {dead:?}")).or_default() += 1;
    }
    for end in [
        "handed over, dead: [false, false]",
        "handed over, dead: [false, true]",
        "handed over, no connections, dead: [false, false]",
        "listeners only, dead: [false, false]",
        "failed, dead: [false, true]",
        "none, dead: [true, false]",
        "none, dead: [true, true]",
    ] {
        assert!(ends.get(end).is_some_and(|&count| count >= 10), "{end} is rare: {ends:#?}");
    }
}

#[test]
fn either_process_may_be_killed_before_each_step() {
    let mut points = 0;
    for seed in 0..20 {
        let calm = Faults { refuse: [0, 3][usize::from(seed % 4 == 3)], ..Faults::default() };
        let steps = explore(seed, calm, None).unwrap_or_else(|why| panic!("{why}"));
        for step in 0..=steps {
            for who in [Who::Predecessor, Who::Successor] {
                let faults = Faults { kill: Some((step, who)), ..calm };
                if let Err(why) = explore(seed, faults, None) {
                    panic!("{why}");
                }
                points += 1;
            }
        }
    }
    assert!(points > 500, "only {points} points");
}

#[test]
fn planted_bugs_are_found() {
    for (bug, shown_by) in [
        (Bug::AdoptBeforeTaken, "owned by its first owner after the second"),
        (Bug::TakeBackBeforeDeath, "two owners"),
        (Bug::ReleaseOnSend, "Predecessor has no batch"),
        (Bug::ForgetResume, "0 processes accept clients"),
        (Bug::ActOnRefused, "two owners"),
        (Bug::AcknowledgeTwice, "nothing went wrong, and yet"),
        (Bug::DeafToTheDead, "owned by its first owner after the second"),
        (Bug::ReleaseTwice, "Predecessor has no batch"),
        (Bug::EndTheStreamAlive, "owned by its first owner after the second"),
    ] {
        let found = (0..5_000).find_map(|seed| explore(seed, drawn(seed), Some(bug)).err());
        let Some(found) = found else { panic!("{bug:?} was not found") };
        let verdict = found.lines().next().unwrap_or_default();
        assert!(verdict.contains(shown_by), "{bug:?} was found by {verdict}");
    }
}
