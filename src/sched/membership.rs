//! A word that stands for a set of channels, and a channel that is there for such a word.
//!
//! Knows: who belongs to whom, what operators decided about those that are not there now. Never: what a resolver says, when channels come
//! and go.
//! Source: docs/names.md.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use super::snapshot::{ChannelSnapshot, DecidedMember, FamilySnapshot};
use super::{AdminState, ChannelKey, GroupId, Weight};

/// What one of a set is known by, whatever number it has: its host and its port.
pub(super) type MemberName = (String, u16);

/// A word that stands for a set of channels.
#[derive(Debug, Default)]
pub(super) struct WordHead {
    /// They, but for those that retire.
    pub(super) members: BTreeSet<ChannelKey>,
    /// Those of them that the name does not have any more, and that go as soon as that leaves another one.
    pub(super) leaving: BTreeSet<ChannelKey>,
    /// What operators decided about some that are not there now, or are to stay away.
    pub(super) decided: BTreeMap<MemberName, MemberDecision>,
    /// Those that are not there now, or about to go, under the numbers that they have again if they come back: one in each group that
    /// they were in.
    pub(super) gone: BTreeMap<(MemberName, GroupId), ChannelKey>,
    /// There was no number left for one.
    pub(super) is_short: bool,
}

/// What an operator decided about one of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberDecision {
    pub(super) state: AdminState,
    pub(super) maxc: Option<NonZeroU32>,
    /// `None`: what the word or the record says.
    pub(super) weight: Option<Weight>,
    /// It was taken away, and does not come back as long as the name has it.
    pub(super) removed: bool,
}

impl WordHead {
    pub(super) fn snapshot(&self, head: ChannelSnapshot) -> FamilySnapshot {
        let decided = self.decided.iter().map(|((host, port), decision)| DecidedMember {
            host: host.clone(),
            port: *port,
            state: decision.state,
            maxc: decision.maxc,
            weight: decision.weight,
            removed: decision.removed,
        });
        FamilySnapshot { head, members: self.members.iter().copied().collect(), decided: decided.collect() }
    }
}
