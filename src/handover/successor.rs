//! The steps of a handover on the side of the successor: the process that starts.
//!
//! Knows: from when on it has each thing. Never: how a step is done, a clock.
//!
//! The rules: The successor does not touch a batch before it has said that it takes it. If the predecessor is
//! dead, everything that came completely from it belongs to the successor. Before the successor serves, a
//! failure ends it, and the predecessor goes on. It has no time limits of its own: a predecessor that waits
//! too long kills it.

use super::message::{FORMAT, FromPredecessor};

/// What the process reports. The result of a deed is reported before anything else.
#[derive(Debug, Clone, PartialEq)]
pub enum SuccessorNews<'a> {
    /// The predecessor sent this message.
    Heard(&'a FromPredecessor),
    /// Everything that the predecessor sent was read; then the stream ended, perhaps within a message. The
    /// predecessor is dead.
    PredecessorEnded,
    /// What came is not a legal message, for this reason.
    Garbled(String),
    /// The process has looked at the offer and at its own configuration. The error says why it cannot serve.
    Prepared(Result<(), String>),
    /// The process has the state and accepts clients. The error says why it does not.
    Served(Result<(), String>),
    /// There is room for the batch with this number. The error says why there is none.
    Checked(u64, Result<(), String>),
    /// This message was sent completely: the kernel has it.
    Sent(SuccessorWord),
    /// This message could not be sent completely.
    Unsent(SuccessorWord),
}

/// What the process must do. Deeds are done in order, each one even if the one before failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuccessorDeed {
    /// Look at the offer.
    Prepare,
    /// Send this message.
    Send(SuccessorWord),
    /// Take over the state that came with `Go`, and accept clients.
    Serve {
        /// Whether there are only listening sockets and no state.
        listeners_only: bool,
    },
    /// Reserve room for this batch, without touching its connections.
    Check(u64),
    /// Take this batch. If there is not enough room, take as much as possible, because no other process has
    /// it.
    Adopt(u64),
    /// Close the copies of this batch, without touching its connections.
    Drop(u64),
    /// Adjust to the number of connections that the predecessor says it has left.
    Trim,
    /// The predecessor has nothing more for this process. The stream may be closed.
    Settle(Settlement),
    /// The predecessor is dead: serve by the own configuration.
    GoOnAlone {
        /// Whether the offered listening sockets are used. Otherwise it is a normal start.
        on_offered: bool,
    },
    /// Serving is not possible, for this reason; end.
    End(String),
}

/// Why nothing more will come from the predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It said that nothing more will come.
    Done,
    /// It is dead; or only listening sockets were handed over, and it drains.
    Ended,
}

/// A message to the predecessor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuccessorWord {
    /// This process can serve.
    Ready,
    /// This process serves.
    Serving,
    /// This batch belongs to this process from now on.
    Taken(u64),
    /// This process cannot take this batch now, for this reason.
    Refused(u64, String),
    /// This process received the last message.
    Settled,
    /// This process cannot serve, for this reason.
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SuccessorStage {
    /// Waits for the offer.
    Waiting,
    /// Looks at the offer.
    Preparing,
    /// Has said that it can serve.
    Accepted,
    /// Takes over the state and begins to accept clients.
    Starting,
    /// Serves.
    Serving,
    /// The handover is over.
    Over,
}

/// How far a batch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BatchStage {
    /// Room for it is being reserved.
    Checking,
    /// The message that it is taken is being sent.
    Taking,
    /// The message could not be sent. Which process has the batch depends on whether the predecessor is dead.
    Unsaid,
}

/// The state of a handover.
#[derive(Debug, Clone)]
pub struct Successor {
    stage: SuccessorStage,
    listeners_only: bool,
    /// Whether the predecessor is dead.
    is_alone: bool,
    /// The number of the last batch that came.
    last: u64,
    batch: Option<BatchStage>,
}

impl Default for Successor {
    fn default() -> Self {
        Self::new()
    }
}

impl Successor {
    /// The state before the first message.
    pub fn new() -> Self {
        Self { stage: SuccessorStage::Waiting, listeners_only: false, is_alone: false, last: 0, batch: None }
    }

    /// Whether the handover is over.
    pub fn is_over(&self) -> bool {
        self.stage == SuccessorStage::Over
    }

    /// Takes in a report and returns what to do now.
    pub fn learn(&mut self, news: SuccessorNews<'_>) -> Vec<SuccessorDeed> {
        use SuccessorStage::{Over, Preparing, Serving, Starting};
        match (self.stage, news) {
            (Over, _) => Vec::new(),
            // Nothing more counts from a predecessor that is dead.
            (_, SuccessorNews::Heard(_) | SuccessorNews::Garbled(_)) if self.is_alone => Vec::new(),
            (_, SuccessorNews::Heard(message)) => self.hear(message),
            (_, SuccessorNews::Garbled(why)) => self.fail(why),
            (_, SuccessorNews::PredecessorEnded) => self.lose_predecessor(),
            (Preparing, SuccessorNews::Prepared(Ok(()))) if self.is_alone => self.go_on_alone(true),
            (Preparing, SuccessorNews::Prepared(Ok(()))) => {
                self.stage = SuccessorStage::Accepted;
                vec![SuccessorDeed::Send(SuccessorWord::Ready)]
            }
            (Preparing, SuccessorNews::Prepared(Err(why))) => self.fail(why),
            (Starting, SuccessorNews::Served(Ok(()))) if self.is_alone => self.settle(Settlement::Ended),
            (Starting, SuccessorNews::Served(Ok(()))) => {
                self.stage = Serving;
                vec![SuccessorDeed::Send(SuccessorWord::Serving)]
            }
            // The state could not be used. The listening sockets can, and no other process has them.
            (Starting, SuccessorNews::Served(Err(_))) if self.is_alone => self.go_on_alone(true),
            (Starting, SuccessorNews::Served(Err(why))) => self.fail(why),
            (Serving, SuccessorNews::Checked(number, room)) if self.is_at(number, BatchStage::Checking) => {
                self.decide(number, room)
            }
            (Serving, SuccessorNews::Sent(SuccessorWord::Taken(number)))
                if self.is_at(number, BatchStage::Taking) =>
            {
                self.adopt()
            }
            (Serving, SuccessorNews::Unsent(SuccessorWord::Taken(number)))
                if self.is_at(number, BatchStage::Taking) =>
            {
                if self.is_alone {
                    return self.adopt();
                }
                self.batch = Some(BatchStage::Unsaid);
                Vec::new()
            }
            // A message could not be sent: either the predecessor is dead, which is reported next, or its
            // time limit ends this process.
            _ => Vec::new(),
        }
    }

    fn is_at(&self, number: u64, stage: BatchStage) -> bool {
        self.last == number && self.batch == Some(stage)
    }

    fn hear(&mut self, message: &FromPredecessor) -> Vec<SuccessorDeed> {
        use SuccessorStage::{Accepted, Preparing, Serving, Starting, Waiting};
        match (self.stage, message) {
            (Waiting, FromPredecessor::Offer(offer)) => {
                self.listeners_only = offer.listeners_only || offer.format != FORMAT;
                self.stage = Preparing;
                vec![SuccessorDeed::Prepare]
            }
            (Accepted, FromPredecessor::Go(_)) => {
                self.stage = Starting;
                vec![SuccessorDeed::Serve { listeners_only: self.listeners_only }]
            }
            (Serving, FromPredecessor::Batch(batch))
                if self.batch.is_none() && !self.listeners_only && batch.number == self.last + 1 =>
            {
                self.last = batch.number;
                self.batch = Some(BatchStage::Checking);
                vec![SuccessorDeed::Check(batch.number)]
            }
            (Serving, FromPredecessor::Left(_)) => vec![SuccessorDeed::Trim],
            (Serving, FromPredecessor::Done(_)) if self.batch.is_none() => {
                let mut deeds = self.settle(Settlement::Done);
                deeds.push(SuccessorDeed::Send(SuccessorWord::Settled));
                deeds
            }
            (_, message) => self.fail(format!("the old process sent {} out of order", named(message))),
        }
    }

    fn lose_predecessor(&mut self) -> Vec<SuccessorDeed> {
        self.is_alone = true;
        match (self.stage, self.batch) {
            (SuccessorStage::Waiting, _) => self.go_on_alone(false),
            (SuccessorStage::Accepted, _) => self.go_on_alone(true),
            (SuccessorStage::Serving, None) => self.settle(Settlement::Ended),
            (SuccessorStage::Serving, Some(BatchStage::Unsaid)) => self.adopt(),
            // What is under way is finished first.
            _ => Vec::new(),
        }
    }

    fn decide(&mut self, number: u64, room: Result<(), String>) -> Vec<SuccessorDeed> {
        match room {
            _ if self.is_alone => self.adopt(),
            Ok(()) => {
                self.batch = Some(BatchStage::Taking);
                vec![SuccessorDeed::Send(SuccessorWord::Taken(number))]
            }
            Err(why) => {
                self.batch = None;
                vec![SuccessorDeed::Drop(number), SuccessorDeed::Send(SuccessorWord::Refused(number, why))]
            }
        }
    }

    fn adopt(&mut self) -> Vec<SuccessorDeed> {
        self.batch = None;
        let mut deeds = vec![SuccessorDeed::Adopt(self.last)];
        if self.is_alone {
            deeds.extend(self.settle(Settlement::Ended));
        }
        deeds
    }

    fn settle(&mut self, how: Settlement) -> Vec<SuccessorDeed> {
        self.stage = SuccessorStage::Over;
        vec![SuccessorDeed::Settle(how)]
    }

    fn go_on_alone(&mut self, on_offered: bool) -> Vec<SuccessorDeed> {
        self.stage = SuccessorStage::Over;
        vec![SuccessorDeed::GoOnAlone { on_offered }]
    }

    fn fail(&mut self, why: String) -> Vec<SuccessorDeed> {
        self.stage = SuccessorStage::Over;
        let mut deeds = Vec::new();
        if self.batch.take().is_some() {
            deeds.push(SuccessorDeed::Drop(self.last));
        }
        if !self.is_alone {
            deeds.push(SuccessorDeed::Send(SuccessorWord::Failed(why.clone())));
        }
        deeds.push(SuccessorDeed::End(why));
        deeds
    }
}

fn named(message: &FromPredecessor) -> &'static str {
    match message {
        FromPredecessor::Offer(_) => "\"offer\"",
        FromPredecessor::Go(_) => "\"go\"",
        FromPredecessor::Batch(_) => "\"batch\"",
        FromPredecessor::Unwilling(_) => "\"unwilling\"",
        FromPredecessor::Left(_) => "\"left\"",
        FromPredecessor::Done(_) => "\"done\"",
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Batch, Done, Offer};
    use super::*;
    use SuccessorDeed as Deed;
    use SuccessorNews as News;
    use SuccessorWord as Word;

    fn offer() -> FromPredecessor {
        FromPredecessor::Offer(Offer { format: FORMAT, ..Offer::default() })
    }

    fn go() -> FromPredecessor {
        FromPredecessor::Go(Box::default())
    }

    fn batch(number: u64) -> FromPredecessor {
        FromPredecessor::Batch(Batch { number, ..Batch::default() })
    }

    fn done() -> FromPredecessor {
        FromPredecessor::Done(Done::default())
    }

    fn at(stage: SuccessorStage) -> Successor {
        Successor { stage, ..Successor::new() }
    }

    fn with_batch(batch: BatchStage) -> Successor {
        Successor { last: 1, batch: Some(batch), ..at(SuccessorStage::Serving) }
    }

    fn no_room() -> Result<(), String> {
        Err("no room".to_owned())
    }

    #[test]
    fn all_comes_batch_by_batch() {
        let mut one = Successor::new();
        assert_eq!(one.learn(News::Heard(&offer())), [Deed::Prepare]);
        assert_eq!(one.learn(News::Prepared(Ok(()))), [Deed::Send(Word::Ready)]);
        assert_eq!(one.learn(News::Heard(&go())), [Deed::Serve { listeners_only: false }]);
        assert_eq!(one.learn(News::Served(Ok(()))), [Deed::Send(Word::Serving)]);
        assert_eq!(one.learn(News::Heard(&batch(1))), [Deed::Check(1)]);
        assert_eq!(one.learn(News::Heard(&FromPredecessor::Left(Vec::new()))), [Deed::Trim]);
        assert_eq!(one.learn(News::Checked(1, Ok(()))), [Deed::Send(Word::Taken(1))]);
        assert_eq!(one.learn(News::Sent(Word::Taken(1))), [Deed::Adopt(1)]);
        assert_eq!(one.learn(News::Heard(&batch(2))), [Deed::Check(2)]);
        let refusal = [Deed::Drop(2), Deed::Send(Word::Refused(2, "no room".to_owned()))];
        assert_eq!(one.learn(News::Checked(2, no_room())), refusal);
        assert_eq!(one.learn(News::Heard(&batch(3))), [Deed::Check(3)]);
        one.learn(News::Checked(3, Ok(())));
        one.learn(News::Sent(Word::Taken(3)));
        let settled = [Deed::Settle(Settlement::Done), Deed::Send(Word::Settled)];
        assert_eq!(one.learn(News::Heard(&done())), settled);
        assert_eq!(one.learn(News::Heard(&done())), [], "it was over");
        assert!(one.is_over());
    }

    #[test]
    fn a_predecessor_that_dies_leaves_what_has_come_whole() {
        use SuccessorStage::{Accepted, Preparing, Serving, Starting, Waiting};
        let alone = |on_offered| vec![Deed::GoOnAlone { on_offered }];
        let settled = vec![Deed::Settle(Settlement::Ended)];
        let adopted = vec![Deed::Adopt(1), Deed::Settle(Settlement::Ended)];
        for (mut one, then, end) in [
            (at(Waiting), None, alone(false)),
            (at(Preparing), Some(News::Prepared(Ok(()))), alone(true)),
            (at(Preparing), Some(News::Prepared(no_room())), vec![Deed::End("no room".to_owned())]),
            (at(Accepted), None, alone(true)),
            (at(Starting), Some(News::Served(Ok(()))), settled.clone()),
            (at(Starting), Some(News::Served(no_room())), alone(true)),
            (at(Serving), None, settled),
            (with_batch(BatchStage::Checking), Some(News::Checked(1, Ok(()))), adopted.clone()),
            (with_batch(BatchStage::Checking), Some(News::Checked(1, no_room())), adopted.clone()),
            (with_batch(BatchStage::Taking), Some(News::Unsent(Word::Taken(1))), adopted.clone()),
            (with_batch(BatchStage::Taking), Some(News::Sent(Word::Taken(1))), adopted.clone()),
            (with_batch(BatchStage::Unsaid), None, adopted),
        ] {
            let before = format!("{one:?}");
            let mut deeds = one.learn(News::PredecessorEnded);
            assert_eq!(deeds.is_empty(), then.is_some(), "{before}");
            deeds.extend(then.into_iter().flat_map(|news| one.learn(news)));
            assert_eq!(deeds, end, "{before}");
            assert!(one.is_over(), "{before}");
        }
    }

    #[test]
    fn a_batch_that_could_not_be_taken_aloud_is_not_touched() {
        let mut one = with_batch(BatchStage::Taking);
        assert_eq!(one.learn(News::Unsent(Word::Taken(1))), []);
        assert_eq!(one.learn(News::Sent(Word::Taken(1))), [], "too late");
    }

    #[test]
    fn what_is_said_out_of_turn_ends_it() {
        use SuccessorStage::{Accepted, Preparing, Serving, Starting, Waiting};
        let said = [offer(), go(), batch(1), batch(2), done()];
        let all = [at(Waiting), at(Preparing), at(Accepted), at(Starting), at(Serving)];
        let only = Successor { listeners_only: true, ..at(Serving) };
        let more = [with_batch(BatchStage::Checking), only];
        for (place, one) in all.into_iter().chain(more).enumerate() {
            for (which, message) in said.iter().enumerate() {
                let is_in_turn = matches!((place, which), (0, 0) | (2, 1) | (4, 2 | 4) | (6, 4));
                let deeds = one.clone().learn(News::Heard(message));
                let is_end = matches!(deeds.last(), Some(Deed::End(_)));
                assert_eq!(is_end, !is_in_turn, "{message:?} at {one:?}: {deeds:?}");
                assert_eq!(is_end && place == 5, deeds.contains(&Deed::Drop(1)), "{deeds:?}");
            }
        }
    }

    #[test]
    fn a_failure_before_it_serves_ends_it() {
        let end = [Deed::Send(Word::Failed("no room".to_owned())), Deed::End("no room".to_owned())];
        assert_eq!(at(SuccessorStage::Preparing).learn(News::Prepared(no_room())), end);
        assert_eq!(at(SuccessorStage::Starting).learn(News::Served(no_room())), end);
        assert_eq!(Successor::new().learn(News::Garbled("no room".to_owned())), end);
    }
}
