//! The grammar of groups: channels in order, `-` for a number without a channel, and `!` and `%` that end a group.
//!
//! Knows: which words are no channels. Never: how a channel's word is read, what a policy does.
//! Source: docs/compatibility.md, "Command line".

use std::ffi::OsString;
use std::fmt;

use super::target::TargetError;
use crate::sched::{MAX_CHANNELS, MAX_GROUPS};
use crate::spec::{ChannelSpec, GroupSpec, Member, Policy};

/// The word that takes a channel's number and has no channel.
const GAP: &str = "-";

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(target) => target.fmt(f),
            Self::Gap => f.write_str(GAP),
        }
    }
}

/// Reads `CHANNEL ... [!|%] CHANNEL ...`, where `-` may stand for a channel. No word at all is no group at all, which is
/// legal.
///
/// # Errors
/// The first word that is wrong, in order.
pub fn parse_groups(words: &[OsString]) -> Result<Vec<GroupSpec>, TargetError> {
    let mut groups = Vec::new();
    let mut open = Vec::new();
    for word in words {
        let ends_with = match word.to_str() {
            Some("!") => Some(Policy::RoundRobin),
            Some("%") => Some(Policy::Hash),
            _ => None,
        };
        match ends_with {
            Some(policy) => close(&mut groups, &mut open, policy)?,
            None if open.len() == MAX_CHANNELS => return Err(TargetError::TooManyChannels),
            None if word == GAP => open.push(Member::Gap),
            None => open.push(Member::Channel(ChannelSpec::parse(word)?)),
        }
    }
    if !open.is_empty() {
        close(&mut groups, &mut open, Policy::RoundRobin)?;
    }
    Ok(groups)
}

fn close(groups: &mut Vec<GroupSpec>, open: &mut Vec<Member>, policy: Policy) -> Result<(), TargetError> {
    if open.is_empty() {
        return Err(TargetError::EmptyGroup);
    }
    if groups.len() == MAX_GROUPS {
        return Err(TargetError::TooManyGroups);
    }
    groups.push(GroupSpec { policy, members: std::mem::take(open) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_end_of_a_group_says_its_policy() {
        let groups = parse_groups(&words("a b ! c % d")).expect("legal");
        let shape: Vec<_> = groups.iter().map(|g| (g.policy, g.members.len())).collect();
        assert_eq!(shape, [(Policy::RoundRobin, 2), (Policy::Hash, 1), (Policy::RoundRobin, 1)]);
        assert_eq!(parse_groups(&words("a !")).expect("legal").len(), 1);
        assert_eq!(parse_groups(&words("a %")).expect("legal")[0].policy, Policy::Hash);
        assert_eq!(parse_groups(&[]), Ok(Vec::new()));
    }

    #[test]
    fn an_end_with_nothing_before_it_is_an_empty_group() {
        for line in ["!", "%", "! a", "a ! !", "a ! %", "% %"] {
            assert_eq!(parse_groups(&words(line)), Err(TargetError::EmptyGroup), "{line}");
        }
        assert_eq!(TargetError::EmptyGroup.to_string(), "balance: no channels in group");
    }

    #[test]
    fn more_than_can_be_numbered_is_refused() {
        let mut many = vec![OsString::from("a"); MAX_CHANNELS];
        assert_eq!(parse_groups(&many).expect("just legal")[0].members.len(), MAX_CHANNELS);
        many.push("a".into());
        assert_eq!(parse_groups(&many), Err(TargetError::TooManyChannels));
        let mut many = words(&"a ! ".repeat(MAX_GROUPS));
        assert_eq!(parse_groups(&many).expect("just legal").len(), MAX_GROUPS);
        many.push("a".into());
        assert_eq!(parse_groups(&many), Err(TargetError::TooManyGroups));
    }

    #[test]
    fn a_dash_takes_a_number_and_has_no_channel() {
        let numbers = |line: &str| {
            let groups = parse_groups(&words(line)).expect("legal");
            let group =
                |group: GroupSpec| group.members.iter().map(Member::to_string).collect::<Vec<_>>().join(" ");
            groups.into_iter().map(group).collect::<Vec<_>>()
        };
        assert_eq!(numbers("a - b"), ["a - b"]);
        assert_eq!(numbers("- ! a - % -"), ["-", "a -", "-"]);
        assert_eq!(numbers("-: !: %:"), ["-: !: %:"], "hosts, though odd ones");
        let mut many = vec![OsString::from("-"); MAX_CHANNELS];
        assert_eq!(parse_groups(&many).expect("just legal")[0].members.len(), MAX_CHANNELS);
        many.push("-".into());
        assert_eq!(parse_groups(&many), Err(TargetError::TooManyChannels));
    }
}
