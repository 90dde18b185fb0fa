//! Commands given by keys: which line is sent for the selected row.
//!
//! Knows: the words of the command language. Never: keys, sockets, the screen.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::facts::{ChannelFacts, SessionFacts, Shown};
use super::looked::TopLook;
use super::samples::ChannelAt;
use super::target::{TargetPart, TopTarget};

/// The commands for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelVerb {
    Disable,
    DisableHard,
    Enable,
    Drain,
    Kick,
    Pause,
    Resume,
    Reset,
    Weight,
    Maxc,
}

/// A complete command line, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopOrder {
    /// The line to send.
    pub(super) line: String,
    /// A description for the operator who confirms it.
    pub(super) about: String,
    /// What must still be the same when it is sent.
    pub(super) target: TopTarget,
}

/// A command line that still needs a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnfinishedOrder {
    /// The line up to the number.
    before: String,
    about: String,
    target: TopTarget,
    /// The question for the number.
    pub(super) question: String,
}

/// The state from which a command is made, for the shown service.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrderPlace<'a>(pub(super) &'a TopLook);

impl ChannelVerb {
    /// The command word, and what follows the numbers.
    fn words(self) -> [&'static str; 2] {
        match self {
            Self::Disable => ["disable", ""],
            Self::DisableHard => ["disable", " hard"],
            Self::Enable => ["enable", ""],
            Self::Drain => ["drain", ""],
            Self::Kick => ["kick", ""],
            Self::Pause => ["pause", ""],
            Self::Resume => ["resume", ""],
            Self::Reset => ["reset", ""],
            Self::Weight => ["weight", ""],
            Self::Maxc => ["maxc", ""],
        }
    }

    /// The question for a number; `None`: the command needs none.
    fn question(self) -> Option<&'static str> {
        match self {
            Self::Weight => Some("weight, 0 to 256"),
            Self::Maxc => Some("maxc, 0 = no limit"),
            _ => None,
        }
    }
}

impl OrderPlace<'_> {
    /// `use` always comes first, whatever the session's current service is, and however many services there
    /// are by then.
    fn line(target: &TopTarget, command: &str) -> String {
        format!("use {}; {command}", target.label)
    }

    /// A command for a channel. `Err`: it still needs a number. `None`: no service is shown.
    pub(super) fn of_channel(
        self,
        verb: ChannelVerb,
        at: ChannelAt,
        channel: &ChannelFacts,
    ) -> Option<Result<TopOrder, UnfinishedOrder>> {
        let target = TopTarget::of(self.0, TargetPart::channel(at, channel))?;
        let (group, number) = at;
        let [word, more] = verb.words();
        let line = Self::line(&target, &format!("group {group}; {word} {number}{more}"));
        let about = format!(
            "{}: group {group} channel {number}, {}{}, {} connections",
            target.label,
            channel.address,
            channel.typed_host(),
            channel.c
        );
        Some(match verb.question() {
            None => Ok(TopOrder { line, about, target }),
            Some(question) => {
                Err(UnfinishedOrder { before: line, about, target, question: question.to_owned() })
            }
        })
    }

    /// `pause` or `resume` for the whole service.
    pub(super) fn of_service(self, verb: ChannelVerb) -> Option<TopOrder> {
        let target = TopTarget::of(self.0, TargetPart::All)?;
        let [word, _] = verb.words();
        let line = Self::line(&target, &format!("{word} all"));
        Some(TopOrder { line, about: format!("{}: all channels", target.label), target })
    }

    /// `close` for a connection.
    pub(super) fn of_session(self, session: &SessionFacts) -> Option<TopOrder> {
        let target = TopTarget::of(self.0, TargetPart::session(session))?;
        let id = session.id;
        let client = session.client.as_ref().map_or("-", Shown::as_str);
        let line = Self::line(&target, &format!("close {id}"));
        Some(TopOrder { line, about: format!("{}: session {id} of client {client}", target.label), target })
    }
}

impl UnfinishedOrder {
    /// The command with the typed number. `None`: it is not a number.
    pub(super) fn with(&self, typed: &str) -> Option<TopOrder> {
        let is_number = !typed.is_empty() && typed.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| TopOrder {
            line: format!("{} {typed}", self.before),
            about: self.about.clone(),
            target: self.target.clone(),
        })
    }

    /// A description of the command.
    pub(super) fn about(&self) -> &str {
        &self.about
    }
}
