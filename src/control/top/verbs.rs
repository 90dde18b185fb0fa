//! Commands that keys give: which line is sent for what is selected.
//!
//! Knows: the words of the command language. Never: keys, sockets, the screen.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::facts::ChannelFacts;
use super::samples::ChannelAt;

/// What can be done with a channel.
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

/// A line that is ready to be sent, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopOrder {
    /// As it is sent.
    pub(super) line: String,
    /// For whoever confirms it.
    pub(super) about: String,
}

/// A line that still needs a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnfinishedOrder {
    /// The number goes behind it.
    before: String,
    about: String,
    /// What is asked for.
    pub(super) question: String,
}

/// Which service is meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrderPlace<'a> {
    pub(super) label: &'a str,
    /// There are others.
    pub(super) is_one_of_several: bool,
}

impl ChannelVerb {
    /// Its words, without numbers.
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

    /// What has to be typed for it; nothing for most.
    fn question(self) -> Option<&'static str> {
        match self {
            Self::Weight => Some("weight, 0 to 256"),
            Self::Maxc => Some("maxc, 0 = no limit"),
            _ => None,
        }
    }
}

impl OrderPlace<'_> {
    fn line(&self, command: &str) -> String {
        // `use` makes the group 0 again, and a session has its own.
        match self.is_one_of_several {
            true => format!("use {}; {command}", self.label),
            false => command.to_owned(),
        }
    }

    /// For a channel. `Err`: a number is needed.
    pub(super) fn of_channel(
        &self,
        verb: ChannelVerb,
        at: ChannelAt,
        channel: &ChannelFacts,
    ) -> Result<TopOrder, UnfinishedOrder> {
        let (group, number) = at;
        let [word, more] = verb.words();
        let line = self.line(&format!("group {group}; {word} {number}{more}"));
        let about = format!(
            "{}: group {group} channel {number}, {}, {} connections",
            self.label, channel.address, channel.c
        );
        match verb.question() {
            None => Ok(TopOrder { line, about }),
            Some(question) => Err(UnfinishedOrder { before: line, about, question: question.to_owned() }),
        }
    }

    /// `pause` or `resume`, for the whole service.
    pub(super) fn of_service(&self, verb: ChannelVerb) -> TopOrder {
        let [word, _] = verb.words();
        TopOrder { line: self.line(&format!("{word} all")), about: format!("{}: all channels", self.label) }
    }

    /// `close`.
    pub(super) fn of_session(&self, id: u64, client: &str) -> TopOrder {
        TopOrder {
            line: self.line(&format!("close {id}")),
            about: format!("{}: session {id} of client {client}", self.label),
        }
    }
}

impl UnfinishedOrder {
    /// With the number that was typed. `None`: it is none.
    pub(super) fn with(&self, typed: &str) -> Option<TopOrder> {
        let is_number = !typed.is_empty() && typed.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| TopOrder { line: format!("{} {typed}", self.before), about: self.about.clone() })
    }

    /// What it is about.
    pub(super) fn about(&self) -> &str {
        &self.about
    }
}
