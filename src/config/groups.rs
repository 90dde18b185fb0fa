//! The grammar of groups: channels in order, `-` for a number without a channel, and `!` and `%` that end a group.
//!
//! Knows: which words are no channels. Never: how a channel's word is read, what a policy does.
//! Source: docs/compatibility.md, "Command line".

use super::channel::{print_channel, read_channel};
use super::wrong::{LineError, Word, Wrong};
use crate::sched::{MAX_CHANNELS, MAX_GROUPS};
use crate::spec::{GroupSpec, Member, Policy};

/// The word that takes a channel's number and has no channel.
const GAP: &str = "-";

/// Reads `CHANNEL ... [!|%] CHANNEL ...`, where `-` may stand for a channel. No word at all is no group at all, which is
/// legal. What is wrong goes to `errors`, in order.
pub fn read_groups(words: &[Word], errors: &mut Vec<LineError>) -> Vec<GroupSpec> {
    let mut groups = Vec::new();
    let mut open = Vec::new();
    // A group whose only channel is wrong is not empty as well.
    let mut is_begun = false;
    for word in words {
        let policy = match word.as_str() {
            Some("!") => Policy::RoundRobin,
            Some("%") => Policy::Hash,
            _ => {
                is_begun = true;
                if open.len() == MAX_CHANNELS {
                    let wrong = format!("a group has at most {MAX_CHANNELS} channels; end it with ! or %");
                    errors.push(word.wrong(Wrong::Usage(wrong)));
                    return groups;
                }
                match read_member(word) {
                    Ok(member) => open.push(member),
                    Err(wrong) => errors.push(word.wrong(wrong)),
                }
                continue;
            }
        };
        if !std::mem::take(&mut is_begun) {
            errors.push(word.wrong(Wrong::EmptyGroup));
        }
        groups.push(GroupSpec { policy, members: std::mem::take(&mut open) });
    }
    if is_begun {
        groups.push(GroupSpec { policy: Policy::RoundRobin, members: open });
    }
    if let (Some(word), true) = (words.last(), groups.len() > MAX_GROUPS) {
        let wrong = format!("a service has at most {MAX_GROUPS} groups, but there are {}", groups.len());
        errors.push(word.wrong(Wrong::Usage(wrong)));
    }
    groups
}

fn read_member(word: &Word) -> Result<Member, Wrong> {
    if word.text == GAP { Ok(Member::Gap) } else { read_channel(word).map(Member::Channel) }
}

pub(super) fn print_member(member: &Member) -> String {
    match member {
        Member::Channel(channel) => print_channel(channel),
        Member::Gap => GAP.to_owned(),
    }
}

/// The words that mean the groups: `!` stands between groups, `%` behind each hash group.
pub(super) fn print_groups(groups: &[GroupSpec]) -> Vec<String> {
    let mut words = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        if group.members.is_empty() {
            // No line can say "nothing"; a gap at least lets the groups behind it keep their numbers.
            words.push(GAP.to_owned());
        }
        words.extend(group.members.iter().map(print_member));
        let is_last = index + 1 == groups.len();
        match group.policy {
            Policy::Hash => words.push("%".to_owned()),
            _ if is_last => (),
            _ => words.push("!".to_owned()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::channel::tests::word;
    use super::*;

    fn words(line: &str) -> Vec<Word> {
        line.split_whitespace().map(word).collect()
    }

    fn read(words: &[Word]) -> Result<Vec<GroupSpec>, Vec<Wrong>> {
        let mut errors = Vec::new();
        let groups = read_groups(words, &mut errors);
        if errors.is_empty() {
            Ok(groups)
        } else {
            Err(errors.into_iter().map(|error| error.wrong).collect())
        }
    }

    #[test]
    fn the_end_of_a_group_says_its_policy() {
        let groups = read(&words("a b ! c % d")).expect("legal");
        let shape: Vec<_> = groups.iter().map(|g| (g.policy, g.members.len())).collect();
        assert_eq!(shape, [(Policy::RoundRobin, 2), (Policy::Hash, 1), (Policy::RoundRobin, 1)]);
        assert_eq!(read(&words("a !")).expect("legal").len(), 1);
        assert_eq!(read(&words("a %")).expect("legal")[0].policy, Policy::Hash);
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    #[test]
    fn an_end_with_nothing_before_it_is_an_empty_group() {
        for line in ["!", "%", "! a", "a ! !", "a ! %"] {
            assert_eq!(read(&words(line)), Err(vec![Wrong::EmptyGroup]), "{line}");
        }
        assert_eq!(read(&words("% %")), Err(vec![Wrong::EmptyGroup, Wrong::EmptyGroup]));
    }

    #[test]
    fn every_wrong_word_is_told_and_a_group_of_wrong_words_is_not_empty() {
        let errors = read(&words("a:0 ! b 80 % !")).expect_err("three wrong words");
        assert!(
            matches!(&errors[..], [Wrong::Address { .. }, Wrong::Address { .. }, Wrong::EmptyGroup]),
            "{errors:?}"
        );
    }

    #[test]
    fn more_than_can_be_numbered_is_refused() {
        for text in ["a", GAP] {
            let mut many = vec![word(text); MAX_CHANNELS];
            assert_eq!(read(&many).expect("just legal")[0].members.len(), MAX_CHANNELS);
            many.push(word(text));
            let wrong = "a group has at most 65535 channels; end it with ! or %".to_owned();
            assert_eq!(read(&many), Err(vec![Wrong::Usage(wrong)]));
        }
        let mut many = words(&"a ! ".repeat(MAX_GROUPS));
        assert_eq!(read(&many).expect("just legal").len(), MAX_GROUPS);
        many.push(word("a"));
        let wrong = "a service has at most 65535 groups, but there are 65536".to_owned();
        assert_eq!(read(&many), Err(vec![Wrong::Usage(wrong)]));
    }

    #[test]
    fn a_dash_takes_a_number_and_has_no_channel() {
        let again = |line: &str| print_groups(&read(&words(line)).expect("legal")).join(" ");
        for line in ["a - b", "- ! a - % -", "-: !: %:", "a % b %"] {
            assert_eq!(again(line), line);
        }
        assert_eq!(again("a !"), "a");
    }
}
