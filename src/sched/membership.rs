//! A word that stands for a set of channels, and the link from a channel to such a word.
//!
//! Knows: which channel belongs to which word, what operators decided about channels that do not exist now.
//! Never: what a resolver says, when channels are added and removed.
//! Source: docs/names.md.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use super::snapshot::{ChannelSnapshot, DecidedMember, FamilySnapshot};
use super::{AdminState, ChannelKey, GroupId, Weight};

/// Identifies a member of a set whatever its number: its host and its port.
pub(super) type MemberName = (String, u16);

/// A word that stands for a set of channels.
#[derive(Debug, Default)]
pub(super) struct WordHead {
    /// Its channels, except retiring ones.
    pub(super) members: BTreeSet<ChannelKey>,
    /// Those of them that the name no longer has. They are removed as soon as another usable channel is left.
    pub(super) leaving: BTreeSet<ChannelKey>,
    /// What operators decided about members that do not exist now, or must stay removed.
    pub(super) decided: BTreeMap<MemberName, MemberDecision>,
    /// Members that were or are being removed, with the numbers that they get again if they return: one for
    /// each group that they were in.
    pub(super) gone: BTreeMap<(MemberName, GroupId), ChannelKey>,
    /// A member could not be added because no number was left.
    pub(super) is_short: bool,
}

/// What an operator decided about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberDecision {
    pub(super) state: AdminState,
    pub(super) maxc: Option<NonZeroU32>,
    /// `None`: what the word or the record says.
    pub(super) weight: Option<Weight>,
    /// An operator removed it, and it does not return as long as the name has it.
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
