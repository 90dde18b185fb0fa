//! The steps of a handover on the side of the predecessor: the process that runs already.
//!
//! Knows: when each thing may be given up, and what is taken back after a failure. Never: how a step is done,
//! a clock.
//!
//! The rules: The predecessor gives up nothing before the successor is ready. At most one batch is on its
//! way. A batch belongs to the process that is certainly the only one to have it: the predecessor releases it
//! when the successor has said that it took it, and takes it back when the successor has refused it, or is
//! dead and everything that it had sent was read. After a failure, all is as if no handover had been asked
//! for. The successor must confirm the last message: without that it may be dead, and no process would have
//! the listening sockets.

use std::collections::BTreeSet;
use std::time::Duration;

use super::message::{FORMAT, FromSuccessor, Offer};

/// How long the successor may look at the offer and at its own configuration; it may have to look up names.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long the successor may take to serve from the state it got.
pub const SERVING_WITHIN: Duration = Duration::from_secs(15);
/// How long the successor may take to accept or refuse a batch.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(15);
/// The same once the successor has connections. To end it then would close these connections, so it gets more
/// time.
pub const TAKEN_MORE_WITHIN: Duration = Duration::from_secs(300);
/// How long the successor may take to confirm that it has everything.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(15);
/// The time until a refused batch is offered again.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// After this many refusals in a row (10 s), the remaining connections stay here until they end.
pub const MOST_REFUSALS: u32 = 40;
/// The pause before the predecessor looks again whether connects in progress have ended.
pub const DIALS_PAUSE: Duration = Duration::from_millis(20);

/// What the process reports. The result of a deed is reported before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PredecessorNews {
    /// The successor was started.
    Began,
    /// The successor sent this message.
    Heard(FromSuccessor),
    /// Everything that the successor sent was read; then the stream ended, or had no legal message, for this
    /// reason.
    SuccessorEnded(String),
    /// The message that [`Predecessor::waits_for`] names did not come in time.
    TimeUp,
    /// An operator asked the process to stop.
    Cancelled,
    /// This message was sent completely: the kernel has it.
    Sent(PredecessorWord),
    /// This message could not be sent completely, for this reason.
    Unsent(PredecessorWord, String),
    /// The batch is packed.
    Packed {
        /// The number of connections in the batch. 0: there is no batch.
        connections: u64,
        /// How many more connections may come later, because their connects are in progress.
        left: u64,
    },
    /// The pause is over.
    Rested,
    /// The successor is dead: its exit status was collected, and everything that it had sent was read.
    SuccessorGone,
}

/// What the process must do. Deeds are done in order, each one even if the one before failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PredecessorDeed {
    /// Send this message.
    Send(PredecessorWord),
    /// Stop accepting clients, answering commands and making checks.
    HoldDoors,
    /// Give the names of the control socket, and the role of main process for the service manager, to the
    /// successor.
    Yield,
    /// Detach connections from the workers, and put them into the batch with this number.
    Pack(u64),
    /// This batch is the successor's: close the copies here.
    Release(u64),
    /// This batch stays here: no process has touched it since it was packed.
    TakeBack(u64),
    /// Report [`PredecessorNews::Rested`] after this time.
    Rest(Duration),
    /// Kill the successor, wait until it is dead, read what it had sent, and only then close the stream.
    EndSuccessor,
    /// Take back the names and the role of main process for the service manager.
    Unyield,
    /// Accept clients, answer commands and make checks again.
    Resume,
    /// The handover is over.
    Finish(HandoverOutcome),
}

/// A message to the successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredecessorWord {
    /// [`FromPredecessor::Offer`](super::message::FromPredecessor::Offer).
    Offer,
    /// The state, and the request to serve.
    Go,
    /// The batch with this number.
    Batch(u64),
    /// How many connections are left.
    Left,
    /// Nothing more will come.
    Done,
}

/// How a handover ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandoverOutcome {
    /// The successor has everything that it could get. What could not be handed over ends in this process.
    HandedOver {
        /// How many connections were handed over.
        carried: u64,
    },
    /// The successor has the listening sockets only. All connections end in this process.
    ListenersOnly,
    /// Nothing has changed, for this reason.
    Failed(String),
}

/// The message that the successor must send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// That it can serve.
    Ready,
    /// That it serves.
    Serving,
    /// That it took or refused the batch with this number.
    Taken(u64),
    /// That it received the last message.
    Settled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PredecessorStage {
    /// Nothing was sent.
    New,
    /// The successor looks at the offer. This process serves as usual.
    Offered,
    /// No clients are accepted until the successor serves.
    Going,
    /// The successor serves, and connections are handed over.
    Handing,
    /// The last message was sent, and the successor has not confirmed it.
    Closing,
    /// The handover has failed, and the successor is being killed.
    Ending,
    /// The handover is over.
    Over,
}

/// A batch that was packed and is neither released nor taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UnderWay {
    number: u64,
    connections: u64,
}

/// The state of a handover.
#[derive(Debug, Clone)]
pub struct Predecessor {
    listeners_only: bool,
    /// How many services were offered.
    services: usize,
    stage: PredecessorStage,
    doors_held: bool,
    has_yielded: bool,
    /// Whether connections are being detached for the batch with the number `packed`.
    is_packing: bool,
    is_resting: bool,
    /// The number of the last batch.
    packed: u64,
    under_way: Option<UnderWay>,
    refusals: u32,
    carried: u64,
    /// Why the handover failed.
    failure: String,
    /// Whether the successor is dead.
    is_alone: bool,
}

impl Predecessor {
    /// The state before the first message.
    pub fn new(offer: &Offer) -> Self {
        Self {
            listeners_only: offer.listeners_only,
            services: offer.services.len(),
            stage: PredecessorStage::New,
            doors_held: false,
            has_yielded: false,
            is_packing: false,
            is_resting: false,
            packed: 0,
            under_way: None,
            refusals: 0,
            carried: 0,
            failure: String::new(),
            is_alone: false,
        }
    }

    /// The message that it waits for, and the most time that this may take. `None`: it waits for no message.
    pub fn waits_for(&self) -> Option<(Awaited, Duration)> {
        match (self.stage, self.under_way) {
            (PredecessorStage::Offered, _) => Some((Awaited::Ready, READY_WITHIN)),
            (PredecessorStage::Going, _) => Some((Awaited::Serving, SERVING_WITHIN)),
            (PredecessorStage::Handing, Some(batch)) => {
                let patience = if self.carried > 0 { TAKEN_MORE_WITHIN } else { TAKEN_WITHIN };
                Some((Awaited::Taken(batch.number), patience))
            }
            (PredecessorStage::Closing, _) => Some((Awaited::Settled, SETTLED_WITHIN)),
            _ => None,
        }
    }

    /// How many connections were handed over.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// Whether the handover is over.
    pub fn is_over(&self) -> bool {
        self.stage == PredecessorStage::Over
    }

    /// Whether the handover can still be cancelled. It cannot once the successor serves.
    pub fn can_be_cancelled(&self) -> bool {
        matches!(self.stage, PredecessorStage::New | PredecessorStage::Offered | PredecessorStage::Going)
    }

    /// Takes in a report and returns what to do now.
    pub fn learn(&mut self, news: PredecessorNews) -> Vec<PredecessorDeed> {
        use PredecessorStage::{Closing, Ending, Going, Handing, New, Offered, Over};
        match (self.stage, news) {
            (Over, _) => Vec::new(),
            (New, PredecessorNews::Began) => {
                self.stage = Offered;
                vec![PredecessorDeed::Send(PredecessorWord::Offer)]
            }
            (New, PredecessorNews::Cancelled) => {
                "it was cancelled".clone_into(&mut self.failure);
                self.conclude()
            }
            (Offered | Going | Handing | Closing, PredecessorNews::Heard(message)) => self.hear(message),
            (Ending, PredecessorNews::Heard(message)) => self.hear_late(&message),
            (Offered | Going | Handing | Closing, PredecessorNews::SuccessorEnded(why)) => {
                self.fail(format!("the new process ended: {why}"))
            }
            (Offered | Going | Handing | Closing, PredecessorNews::Unsent(_, why)) => {
                self.fail(format!("the new process cannot be told anything: {why}"))
            }
            (Offered | Going | Handing, PredecessorNews::TimeUp) => self.lose_patience(),
            (Offered | Going, PredecessorNews::Cancelled) => self.fail("it was cancelled".to_owned()),
            // The successor has everything, and will read the last message when it can.
            (Closing, PredecessorNews::TimeUp) => self.finish_handed_over(),
            (Handing | Ending, PredecessorNews::Packed { connections, left }) if self.is_packing => {
                self.is_packing = false;
                self.pack(connections, left)
            }
            (Handing, PredecessorNews::Rested) if self.is_resting => self.next_batch(),
            (Ending, PredecessorNews::SuccessorGone) => {
                self.is_alone = true;
                self.conclude_if_all_is_back()
            }
            // A report that was on its way when the stage changed.
            _ => Vec::new(),
        }
    }

    fn hear(&mut self, message: FromSuccessor) -> Vec<PredecessorDeed> {
        use PredecessorStage::{Closing, Going, Handing, Offered};
        let is_under_way = |number: u64| self.under_way.is_some_and(|batch| batch.number == number);
        match (self.stage, message) {
            (_, FromSuccessor::Failed(why)) => self.fail(format!("the new process cannot serve: {why}")),
            (Offered, FromSuccessor::Ready(acceptance)) => {
                let mut seen = BTreeSet::new();
                if !acceptance.services.iter().all(|&number| number < self.services && seen.insert(number)) {
                    return self.fail("the new process accepts what was not offered".to_owned());
                }
                self.listeners_only |= acceptance.format != FORMAT;
                self.stage = Going;
                self.doors_held = true;
                vec![PredecessorDeed::HoldDoors, PredecessorDeed::Send(PredecessorWord::Go)]
            }
            (Going, FromSuccessor::Serving) => {
                self.has_yielded = true;
                let mut deeds = vec![PredecessorDeed::Yield];
                if self.listeners_only {
                    deeds.extend(self.finish(HandoverOutcome::ListenersOnly));
                } else {
                    self.stage = Handing;
                    deeds.extend(self.next_batch());
                }
                deeds
            }
            (Handing, FromSuccessor::Taken(number)) if is_under_way(number) => {
                let mut deeds = self.release(number);
                self.refusals = 0;
                deeds.extend(self.next_batch());
                deeds
            }
            // By this the successor says that it closed its copies untouched.
            (Handing, FromSuccessor::Refused(number, _)) if is_under_way(number) => {
                self.under_way = None;
                self.refusals += 1;
                let mut deeds = vec![PredecessorDeed::TakeBack(number)];
                deeds.extend(if self.refusals < MOST_REFUSALS {
                    self.rest(REFUSED_PAUSE)
                } else {
                    self.close()
                });
                deeds
            }
            (Closing, FromSuccessor::Settled) => self.finish_handed_over(),
            (_, message) => self.fail(format!("the new process sent {} out of order", named(&message))),
        }
    }

    /// What the successor sent before it was killed decides which process has the batch on its way.
    fn hear_late(&mut self, message: &FromSuccessor) -> Vec<PredecessorDeed> {
        let under_way = self.under_way.map(|batch| batch.number);
        match message {
            FromSuccessor::Taken(number) if under_way == Some(*number) => self.release(*number),
            FromSuccessor::Refused(number, _) if under_way == Some(*number) => {
                self.under_way = None;
                vec![PredecessorDeed::TakeBack(*number)]
            }
            _ => Vec::new(),
        }
    }

    fn lose_patience(&mut self) -> Vec<PredecessorDeed> {
        let Some((awaited, patience)) = self.waits_for() else { return Vec::new() };
        let what = match awaited {
            Awaited::Ready => "was not ready",
            Awaited::Serving => "did not serve",
            Awaited::Taken(_) => "did not take connections",
            Awaited::Settled => "did not hear that this was all",
        };
        self.fail(format!("the new process {what} within {} s", patience.as_secs()))
    }

    fn release(&mut self, number: u64) -> Vec<PredecessorDeed> {
        self.carried += self.under_way.take().map_or(0, |batch| batch.connections);
        vec![PredecessorDeed::Release(number)]
    }

    fn next_batch(&mut self) -> Vec<PredecessorDeed> {
        self.is_resting = false;
        self.is_packing = true;
        self.packed += 1;
        vec![PredecessorDeed::Pack(self.packed)]
    }

    fn pack(&mut self, connections: u64, left: u64) -> Vec<PredecessorDeed> {
        let number = self.packed;
        if self.stage == PredecessorStage::Ending {
            // The batch was never sent.
            let mut deeds = Vec::new();
            if connections > 0 {
                deeds.push(PredecessorDeed::TakeBack(number));
            }
            deeds.extend(self.conclude_if_all_is_back());
            return deeds;
        }
        if connections > 0 {
            self.under_way = Some(UnderWay { number, connections });
            // The successor counts the connections in a batch as its own, so the number of those left follows
            // each batch.
            let words = [PredecessorWord::Batch(number), PredecessorWord::Left];
            return words.map(PredecessorDeed::Send).to_vec();
        }
        // The numbers of batches that are sent must have no gaps.
        self.packed -= 1;
        if left == 0 {
            return self.close();
        }
        let mut deeds = vec![PredecessorDeed::Send(PredecessorWord::Left)];
        deeds.extend(self.rest(DIALS_PAUSE));
        deeds
    }

    fn rest(&mut self, pause: Duration) -> Vec<PredecessorDeed> {
        self.is_resting = true;
        vec![PredecessorDeed::Rest(pause)]
    }

    fn close(&mut self) -> Vec<PredecessorDeed> {
        self.stage = PredecessorStage::Closing;
        [PredecessorWord::Left, PredecessorWord::Done].map(PredecessorDeed::Send).to_vec()
    }

    fn fail(&mut self, why: String) -> Vec<PredecessorDeed> {
        self.stage = PredecessorStage::Ending;
        self.is_resting = false;
        self.failure = why;
        vec![PredecessorDeed::EndSuccessor]
    }

    fn conclude_if_all_is_back(&mut self) -> Vec<PredecessorDeed> {
        if self.is_alone && !self.is_packing { self.conclude() } else { Vec::new() }
    }

    /// Takes everything back and ends the handover.
    fn conclude(&mut self) -> Vec<PredecessorDeed> {
        let mut deeds = Vec::new();
        if let Some(batch) = self.under_way.take() {
            deeds.push(PredecessorDeed::TakeBack(batch.number));
        }
        if std::mem::take(&mut self.has_yielded) {
            deeds.push(PredecessorDeed::Unyield);
        }
        if std::mem::take(&mut self.doors_held) {
            deeds.push(PredecessorDeed::Resume);
        }
        let failure = std::mem::take(&mut self.failure);
        deeds.extend(self.finish(HandoverOutcome::Failed(failure)));
        deeds
    }

    fn finish_handed_over(&mut self) -> Vec<PredecessorDeed> {
        let carried = self.carried;
        self.finish(HandoverOutcome::HandedOver { carried })
    }

    fn finish(&mut self, outcome: HandoverOutcome) -> Vec<PredecessorDeed> {
        self.stage = PredecessorStage::Over;
        vec![PredecessorDeed::Finish(outcome)]
    }
}

fn named(message: &FromSuccessor) -> &'static str {
    match message {
        FromSuccessor::Ready(_) => "\"ready\"",
        FromSuccessor::Serving => "\"serving\"",
        FromSuccessor::Taken(_) => "\"taken\"",
        FromSuccessor::Refused(..) => "\"refused\"",
        FromSuccessor::Settled => "\"settled\"",
        FromSuccessor::Failed(_) => "\"failed\"",
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Acceptance;
    use super::*;
    use PredecessorDeed as Deed;
    use PredecessorNews as News;
    use PredecessorWord as Word;

    fn ready() -> News {
        News::Heard(FromSuccessor::Ready(Acceptance { format: FORMAT, ..Acceptance::default() }))
    }

    fn taken(number: u64) -> News {
        News::Heard(FromSuccessor::Taken(number))
    }

    fn refused(number: u64) -> News {
        News::Heard(FromSuccessor::Refused(number, "no room".to_owned()))
    }

    fn settled() -> News {
        News::Heard(FromSuccessor::Settled)
    }

    fn packed(connections: u64) -> News {
        News::Packed { connections, left: 0 }
    }

    /// A handover after these reports.
    fn after(news: impl IntoIterator<Item = News>) -> Predecessor {
        let mut one = Predecessor::new(&Offer::default());
        for news in news {
            one.learn(news);
        }
        one
    }

    fn serving() -> [News; 3] {
        [News::Began, ready(), News::Heard(FromSuccessor::Serving)]
    }

    fn failed(deeds: &[Deed]) -> &str {
        match deeds.last() {
            Some(Deed::Finish(HandoverOutcome::Failed(why))) => why,
            other => panic!("{other:?} is not a failure"),
        }
    }

    #[test]
    fn all_goes_batch_by_batch() {
        let mut one = Predecessor::new(&Offer::default());
        assert_eq!(one.learn(News::Began), [Deed::Send(Word::Offer)]);
        assert_eq!(one.learn(ready()), [Deed::HoldDoors, Deed::Send(Word::Go)]);
        assert_eq!(one.learn(News::Heard(FromSuccessor::Serving)), [Deed::Yield, Deed::Pack(1)]);
        assert_eq!(one.learn(packed(3)), [Deed::Send(Word::Batch(1)), Deed::Send(Word::Left)]);
        assert_eq!(one.learn(taken(1)), [Deed::Release(1), Deed::Pack(2)]);
        let dialling = News::Packed { connections: 0, left: 2 };
        assert_eq!(one.learn(dialling), [Deed::Send(Word::Left), Deed::Rest(DIALS_PAUSE)]);
        assert_eq!(one.learn(News::Rested), [Deed::Pack(2)], "there was no second batch");
        assert_eq!(one.learn(packed(2)), [Deed::Send(Word::Batch(2)), Deed::Send(Word::Left)]);
        assert_eq!(one.learn(taken(2)), [Deed::Release(2), Deed::Pack(3)]);
        assert_eq!(one.learn(packed(0)), [Deed::Send(Word::Left), Deed::Send(Word::Done)]);
        assert_eq!(one.learn(News::Sent(Word::Done)), [], "it may be dead");
        assert_eq!(one.learn(settled()), [Deed::Finish(HandoverOutcome::HandedOver { carried: 5 })]);
        assert!(one.is_over());
    }

    #[test]
    fn another_format_or_a_wish_hands_over_listeners_only() {
        let end = [Deed::Yield, Deed::Finish(HandoverOutcome::ListenersOnly)];
        let other = Acceptance { format: FORMAT + 1, ..Acceptance::default() };
        let mut one = after([News::Began, News::Heard(FromSuccessor::Ready(other))]);
        assert_eq!(one.learn(News::Heard(FromSuccessor::Serving)), end);
        let mut one = Predecessor::new(&Offer { listeners_only: true, ..Offer::default() });
        one.learn(News::Began);
        one.learn(ready());
        assert_eq!(one.learn(News::Heard(FromSuccessor::Serving)), end);
    }

    #[test]
    fn doors_are_opened_again_if_they_were_held() {
        for (news, end) in [
            (vec![News::Began], vec![]),
            (vec![News::Began, ready()], vec![Deed::Resume]),
            (serving().to_vec(), vec![Deed::Unyield, Deed::Resume]),
        ] {
            let mut one = after(news);
            assert_eq!(one.learn(News::SuccessorEnded("gone".to_owned())), [Deed::EndSuccessor]);
            // If connections were being packed, the handover is not over before they are back.
            let mut deeds = one.learn(News::SuccessorGone);
            deeds.extend(one.learn(packed(0)));
            assert_eq!(deeds[..deeds.len() - 1], end);
            assert_eq!(failed(&deeds), "the new process ended: gone");
        }
    }

    #[test]
    fn a_batch_under_way_waits_for_what_a_dead_successor_had_said() {
        let under_way = || after(serving().into_iter().chain([packed(4)]));
        let mut one = under_way();
        assert_eq!(one.learn(News::TimeUp), [Deed::EndSuccessor]);
        assert_eq!(one.learn(taken(1)), [Deed::Release(1)]);
        assert_eq!(one.learn(taken(1)), [], "once");
        assert_eq!(one.learn(News::SuccessorGone)[..2], [Deed::Unyield, Deed::Resume]);
        let mut one = under_way();
        one.learn(News::TimeUp);
        assert_eq!(one.learn(refused(1)), [Deed::TakeBack(1)]);
        assert_eq!(one.learn(News::SuccessorGone)[..2], [Deed::Unyield, Deed::Resume]);
        let mut one = under_way();
        one.learn(News::TimeUp);
        let deeds = one.learn(News::SuccessorGone);
        assert_eq!(deeds[..3], [Deed::TakeBack(1), Deed::Unyield, Deed::Resume]);
        assert_eq!(failed(&deeds), "the new process did not take connections within 15 s");
    }

    #[test]
    fn a_batch_that_was_packed_too_late_is_taken_back() {
        let mut one = after(serving());
        one.learn(News::SuccessorEnded("gone".to_owned()));
        assert_eq!(one.learn(News::SuccessorGone), [], "connections are on their way");
        assert_eq!(one.learn(packed(1))[..3], [Deed::TakeBack(1), Deed::Unyield, Deed::Resume]);
    }

    #[test]
    fn what_is_refused_is_offered_again_and_stays_at_last() {
        let mut one = after(serving());
        for number in 1..u64::from(MOST_REFUSALS) {
            one.learn(packed(1));
            assert_eq!(one.learn(refused(number)), [Deed::TakeBack(number), Deed::Rest(REFUSED_PAUSE)]);
            assert_eq!(one.learn(News::Rested), [Deed::Pack(number + 1)]);
        }
        let last = u64::from(MOST_REFUSALS);
        one.learn(packed(1));
        let close = [Deed::TakeBack(last), Deed::Send(Word::Left), Deed::Send(Word::Done)];
        assert_eq!(one.learn(refused(last)), close);
        one.learn(News::Sent(Word::Done));
        assert_eq!(one.learn(settled()), [Deed::Finish(HandoverOutcome::HandedOver { carried: 0 })]);
    }

    #[test]
    fn it_can_be_cancelled_until_the_successor_serves() {
        for news in [vec![News::Began], vec![News::Began, ready()]] {
            let mut one = after(news);
            assert!(one.can_be_cancelled());
            assert_eq!(one.learn(News::Cancelled), [Deed::EndSuccessor]);
            assert_eq!(failed(&one.learn(News::SuccessorGone)), "it was cancelled");
        }
        let mut one = after(serving());
        assert!(!one.can_be_cancelled());
        assert_eq!(one.learn(News::Cancelled), []);
        assert_eq!(failed(&after([]).learn(News::Cancelled)), "it was cancelled");
    }

    #[test]
    fn what_is_said_out_of_turn_is_a_failure() {
        let early = [ready(), News::Heard(FromSuccessor::Serving), taken(1), taken(2), refused(7), settled()];
        let under_way: Vec<News> = serving().into_iter().chain([packed(1)]).collect();
        let all = [vec![News::Began], vec![News::Began, ready()], serving().to_vec(), under_way];
        for (at, news) in all.into_iter().enumerate() {
            for (said, message) in early.iter().enumerate() {
                let is_in_turn = matches!((at, said), (0, 0) | (1, 1) | (3, 2));
                let mut one = after(news.clone());
                let deeds = one.learn(message.clone());
                assert_eq!(
                    deeds == [Deed::EndSuccessor],
                    !is_in_turn,
                    "{message:?} after {news:?}: {deeds:?}"
                );
            }
        }
        let other = Acceptance { format: FORMAT, services: vec![0], ..Acceptance::default() };
        let mut one = after([News::Began]);
        assert_eq!(one.learn(News::Heard(FromSuccessor::Ready(other))), [Deed::EndSuccessor]);
    }

    #[test]
    fn a_last_message_that_cannot_be_sent_leaves_us_in_charge() {
        let mut one = after(serving().into_iter().chain([packed(0)]));
        assert_eq!(one.learn(News::Unsent(Word::Done, "broken pipe".to_owned())), [Deed::EndSuccessor]);
        assert_eq!(one.learn(News::SuccessorGone)[..2], [Deed::Unyield, Deed::Resume]);
    }

    #[test]
    fn a_successor_that_dies_before_it_has_heard_the_last_message_leaves_us_in_charge() {
        let closing = || after(serving().into_iter().chain([packed(0), News::Sent(Word::Done)]));
        let mut one = closing();
        assert!(matches!(one.waits_for(), Some((Awaited::Settled, _))));
        assert_eq!(one.learn(News::SuccessorEnded("gone".to_owned())), [Deed::EndSuccessor]);
        assert_eq!(one.learn(News::SuccessorGone)[..2], [Deed::Unyield, Deed::Resume]);
        // A slow successor has everything; to kill it would not help.
        assert_eq!(closing().learn(News::TimeUp), [Deed::Finish(HandoverOutcome::HandedOver { carried: 0 })]);
    }
}
