//! The order of a hand-over as the process goes through it that is there already.
//!
//! Knows: what may be let go of when, and what is taken back after a failure. Never: how any of it is done, a clock.
//!
//! Its rules: nothing is let go of before the successor is ready. One batch is under way at most. A batch belongs to whoever
//! is sure to be the only one that has it: it is released once the successor has said that it took it, and taken back once
//! the successor has refused it, or is dead and everything that it had said before has been heard. After a failure it is as
//! though nobody had asked. Whoever is told that all was handed over has to say that it has heard it: until then it may be
//! dead, and nobody would have the listeners.

use std::collections::BTreeSet;
use std::time::Duration;

use super::message::{FORMAT, FromSuccessor, Offer};

/// A successor is given so long to look at the offer and its own configuration. It may look up names.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// So long to serve from the state it was told.
pub const SERVING_WITHIN: Duration = Duration::from_secs(15);
/// So long to take a batch or refuse it.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(15);
/// Once it has taken connections it is not killed lightly, since they would go with it: so long to take more.
pub const TAKEN_MORE_WITHIN: Duration = Duration::from_secs(300);
/// How long the successor may take to confirm that it has everything.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(15);
/// What was refused is offered again after this time.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// So many refusals in a row, and what is left stays here until it ends: 10 s.
pub const MOST_REFUSALS: u32 = 40;
/// Dials are waited for as long as this at a time.
pub const DIALS_PAUSE: Duration = Duration::from_millis(20);

/// What the process learns. What came of a deed is told before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PredecessorNews {
    /// The successor was started.
    Began,
    /// It said this.
    Heard(FromSuccessor),
    /// All that it said was heard, and then the stream ended, or spoke nonsense, for this reason.
    SuccessorEnded(String),
    /// What [`Predecessor::waits_for`] tells did not come in time.
    TimeUp,
    /// An operator wants the process to stop.
    Cancelled,
    /// This message is in the kernel's hands, whole.
    Sent(PredecessorWord),
    /// This message could not be sent whole, for this reason.
    Unsent(PredecessorWord, String),
    /// The batch that was to be packed holds so many connections; so many others will be ready to go later.
    Packed {
        /// In the batch. None: there is no batch.
        connections: u64,
        /// Those that are dialled still.
        left: u64,
    },
    /// The time to rest is over.
    Rested,
    /// The successor is dead: it was waited for. All that it had said before was heard.
    SuccessorGone,
}

/// What the process is to do, one after the other, in the order in which it was told: also after one that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PredecessorDeed {
    /// Say this.
    Send(PredecessorWord),
    /// Stop accepting clients, leave commands on the control socket alone, leave the checks.
    HoldDoors,
    /// The names of the control socket and the service manager's main process are the successor's now.
    Yield,
    /// Let go of connections and put them into the batch of this number.
    Pack(u64),
    /// This batch is the successor's: close our copies.
    Release(u64),
    /// This batch is ours again: nobody has touched it since it was packed.
    TakeBack(u64),
    /// Come back after this time.
    Rest(Duration),
    /// Kill the successor, wait until it is dead, hear what it had said before, and only then close the stream.
    EndSuccessor,
    /// The names and the service manager's main process are ours again.
    Unyield,
    /// Accept clients, commands and checks again.
    Resume,
    /// The hand-over is over.
    Finish(HandoverOutcome),
}

/// A message to the successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredecessorWord {
    /// What there is.
    Offer,
    /// The state; serve.
    Go,
    /// The batch of this number.
    Batch(u64),
    /// How many connections are left.
    Left,
    /// That was all.
    Done,
}

/// How a hand-over ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandoverOutcome {
    /// The successor has all that it could have. What could not go ends here.
    HandedOver {
        /// So many connections went.
        carried: u64,
    },
    /// The successor has the listeners. All connections end here.
    ListenersOnly,
    /// Nothing has changed, for this reason.
    Failed(String),
}

/// What the successor is to say next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// That it can serve.
    Ready,
    /// That it serves.
    Serving,
    /// That it took this batch, or did not.
    Taken(u64),
    /// That it has heard that this was all.
    Settled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PredecessorStage {
    /// Nothing was said.
    New,
    /// The successor looks at the offer. Everything is as ever.
    Offered,
    /// The doors are held until the successor serves.
    Going,
    /// The successor serves, connections go.
    Handing,
    /// The last message is on its way, and the successor has not said that it has heard it.
    Closing,
    /// It has failed. The successor is being ended.
    Ending,
    /// All is over.
    Over,
}

/// A batch that was packed and is neither released nor taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UnderWay {
    number: u64,
    connections: u64,
}

/// Where the hand-over is.
#[derive(Debug, Clone)]
pub struct Predecessor {
    listeners_only: bool,
    /// How many services were offered.
    services: usize,
    stage: PredecessorStage,
    doors_held: bool,
    has_yielded: bool,
    /// Connections are being let go of for the batch of number `packed`.
    is_packing: bool,
    is_resting: bool,
    /// The number of the last batch.
    packed: u64,
    under_way: Option<UnderWay>,
    refusals: u32,
    carried: u64,
    /// Why it has failed.
    failure: String,
    /// The successor is dead.
    is_alone: bool,
}

impl Predecessor {
    /// Before anything is said.
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

    /// What it waits for, and for how long since it began to wait for that.
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

    /// So many connections have gone.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// It is over.
    pub fn is_over(&self) -> bool {
        self.stage == PredecessorStage::Over
    }

    /// Can it still be called off? Once the successor serves, it cannot.
    pub fn can_be_cancelled(&self) -> bool {
        matches!(self.stage, PredecessorStage::New | PredecessorStage::Offered | PredecessorStage::Going)
    }

    /// Takes note of news. What is to be done now?
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
            // It has everything, and will read the last message when it can.
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
            // What was on its way when the stage changed.
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
            // It says that it has closed its copies untouched.
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

    /// What was in the stream when the successor was ended decides whose the batch under way is.
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
            // The successor has not seen it.
            let mut deeds = Vec::new();
            if connections > 0 {
                deeds.push(PredecessorDeed::TakeBack(number));
            }
            deeds.extend(self.conclude_if_all_is_back());
            return deeds;
        }
        if connections > 0 {
            self.under_way = Some(UnderWay { number, connections });
            // How many are left is told behind each batch, for the successor counts those in it as its own.
            let words = [PredecessorWord::Batch(number), PredecessorWord::Left];
            return words.map(PredecessorDeed::Send).to_vec();
        }
        // The successor counts the batches that it sees.
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

    /// All is ours again.
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

    /// A hand-over that has heard this.
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
            // Where connections were being packed, nothing is over before they are back.
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
        // One that is slow has everything. To kill it would help nobody.
        assert_eq!(closing().learn(News::TimeUp), [Deed::Finish(HandoverOutcome::HandedOver { carried: 0 })]);
    }
}
