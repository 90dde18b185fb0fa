//! The grammar of groups: `@NAME` for clients who ask for it, channels in order, `-` for a number without a
//! channel, and `!` and `%`, which end a group.
//!
//! Knows: which words are not channels. Never: how a channel's word is read, what a policy does.
//! Source: docs/compatibility.md, "Command line".

use super::asked::{MARK, print_asked, read_asked};
use super::channel::{print_channel, read_channel};
use super::wrong::{LineError, Word, Wrong};
use crate::sched::{MAX_CHANNELS, MAX_GROUPS};
use crate::spec::{GroupSpec, Member, Policy, Section, last_tier, reserved_groups};

/// The word for a number in a group that no channel has.
const GAP: &str = "-";

/// Reads `[@NAME ...] CHANNEL ... [!|%] CHANNEL ...`, where `-` may take the place of a channel. Without a
/// word there are no groups, which is legal. Errors are added to `errors`, in the order of the words.
pub fn read_groups(words: &[Word], errors: &mut Vec<LineError>) -> (Vec<GroupSpec>, Vec<Section>) {
    let mut groups = Vec::new();
    let mut open = Vec::new();
    // A group whose only channel is wrong is not reported as empty, too.
    let mut is_begun = false;
    let mut sections = Sections::default();
    for word in words {
        let policy = match word.as_str() {
            Some("!") => Policy::RoundRobin,
            Some("%") => Policy::Hash,
            Some(asked) if asked.starts_with(MARK) => {
                if std::mem::take(&mut is_begun) {
                    groups.push(GroupSpec { policy: Policy::RoundRobin, members: std::mem::take(&mut open) });
                }
                if let Err(wrong) = sections.read(&asked[MARK.len_utf8()..], groups.len(), word) {
                    errors.push(word.wrong(Wrong::Usage(wrong)));
                }
                continue;
            }
            _ => {
                is_begun = true;
                if open.len() == MAX_CHANNELS {
                    let wrong = format!("a group has at most {MAX_CHANNELS} channels; end it with ! or %");
                    errors.push(word.wrong(Wrong::Usage(wrong)));
                    return (groups, sections.all);
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
    if let Some(word) =
        sections.last.filter(|_| sections.all.last().is_some_and(|one| one.group == groups.len()))
    {
        let wrong = format!("no channel follows '{}'", word.shown());
        errors.push(word.wrong(Wrong::Usage(wrong)));
    }
    let (groups, sections) = with_tiers(groups, sections.all);
    if let (Some(word), true) = (words.last(), groups.len() > MAX_GROUPS) {
        let wrong = format!("a service has at most {MAX_GROUPS} groups, but there are {}", groups.len());
        errors.push(word.wrong(Wrong::Usage(wrong)));
    }
    (groups, sections)
}

/// Reserves the numbers of the groups that the SRV priorities of a service name may need: the groups behind
/// it are numbered from the next hundred on.
fn with_tiers(typed: Vec<GroupSpec>, sections: Vec<Section>) -> (Vec<GroupSpec>, Vec<Section>) {
    let mut groups: Vec<GroupSpec> = Vec::with_capacity(typed.len());
    let mut places = Vec::with_capacity(typed.len());
    for group in typed {
        if groups.last().is_some_and(GroupSpec::has_tiers) {
            let next = last_tier(groups.len() - 1) + 1;
            let policy = groups.last().map_or(Policy::RoundRobin, |group| group.policy);
            groups.resize_with(next, || GroupSpec { policy, members: Vec::new() });
        }
        places.push(groups.len());
        groups.push(group);
    }
    let moved = |section: Section| Section {
        group: places.get(section.group).copied().unwrap_or(section.group),
        ..section
    };
    (groups, sections.into_iter().map(moved).collect())
}

/// Which groups are for which clients, as far as the line has been read.
#[derive(Default)]
struct Sections<'a> {
    all: Vec<Section>,
    /// The last word of this kind that was read.
    last: Option<&'a Word>,
}

impl<'a> Sections<'a> {
    /// Reads one name. Groups from number `group` on are for clients who ask for it.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be right.
    fn read(&mut self, asked: &str, group: usize, word: &'a Word) -> Result<(), String> {
        let asked = read_asked(asked)?;
        if self.all.is_empty() && group > 0 {
            return Err(format!(
                "'{}' comes after channels that have no name; write @ before them, and they are for all others",
                word.shown()
            ));
        }
        if self.all.iter().any(|section| section.asked.contains(&asked)) {
            return Err(format!("'{}' is there already; each name has its groups once", word.shown()));
        }
        self.last = Some(word);
        match self.all.last_mut().filter(|section| section.group == group) {
            Some(section) => section.asked.push(asked),
            None => self.all.push(Section { group, asked: vec![asked] }),
        }
        Ok(())
    }
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

/// The words that [`read_groups`] reads as these groups: `@NAME` before those for some clients only, `%`
/// behind each hash group, `!` between other groups.
pub(super) fn print_groups(groups: &[GroupSpec], sections: &[Section]) -> Vec<String> {
    let mut words = Vec::new();
    let section = |index: usize| sections.iter().find(|section| section.group == index);
    let is_reserved = reserved_groups(groups);
    let is_there = |index: &usize| !is_reserved[*index];
    for (index, group) in groups.iter().enumerate() {
        if is_reserved[index] {
            continue;
        }
        words.extend(section(index).into_iter().flat_map(|section| section.asked.iter().map(print_asked)));
        if group.members.is_empty() {
            // No word means an empty group. A gap keeps the numbers of the groups behind it.
            words.push(GAP.to_owned());
        }
        words.extend(group.members.iter().map(print_member));
        let next = (index + 1..groups.len()).find(is_there);
        let is_last = next.is_none_or(|next| section(next).is_some());
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
        let (groups, _) = read_groups(words, &mut errors);
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
    fn names_begin_groups() {
        let read_all = |line: &str| {
            let mut errors = Vec::new();
            let (groups, sections) = read_groups(&words(line), &mut errors);
            let wrong: Vec<_> = errors.into_iter().map(|error| error.wrong).collect();
            if wrong.is_empty() { Ok((groups, sections)) } else { Err(wrong) }
        };
        for (line, again) in [
            ("@a.b x y ! z @*.b u @ v", "@a.b x y ! z @*.b u @ v"),
            ("@A.B @c.d x ! @ y %", "@a.b @c.d x @ y %"),
            ("@TLS a % @http b @ssh c @alpn:h2 d", "@tls a % @http b @ssh c @alpn:h2 d"),
            ("@*.X - @ -", "@*.x - @ -"),
            ("@a.example @ x", "@a.example @ x"),
            ("@under_score.example x", "@under_score.example x"),
        ] {
            let (groups, sections) = read_all(line).expect(line);
            let printed = print_groups(&groups, &sections).join(" ");
            assert_eq!(printed, again);
            assert_eq!(read_all(&printed), Ok((groups, sections)), "{line}");
        }
        let (groups, sections) = read_all("@a.b x ! y @ z").expect("legal");
        assert_eq!((groups.len(), sections.iter().map(|one| one.group).collect::<Vec<_>>()), (3, vec![0, 2]));
        let ask = "not a name that a client can ask for; write @shop.example.com, @*.example.com, @alpn:h2, @tls, @http, @ssh, or @ for all others";
        for (line, wrong) in [
            ("x @a.b y", "'@a.b' comes after channels that have no name; write @ before them, and they are for all others".to_owned()),
            ("@a.b x @A.b y", "'@A.b' is there already; each name has its groups once".to_owned()),
            ("@ x @ y", "'@' is there already; each name has its groups once".to_owned()),
            ("@a.b x @c.d", "no channel follows '@c.d'".to_owned()),
            ("@a.b", "no channel follows '@a.b'".to_owned()),
            ("@a..b x", format!("'@a..b' is {ask}")),
            ("@*.*.b x", format!("'@*.*.b' is {ask}")),
            ("@a*.b x", format!("'@a*.b' is {ask}")),
            ("@a.b. x", format!("'@a.b.' is {ask}")),
            ("@10.0.0.1 x", format!("'@10.0.0.1' is {ask}")),
            ("@a:80 x", format!("'@a:80' is {ask}")),
            ("@b\u{fc}cher.example x", "'@b\u{fc}cher.example' is not written as clients ask for it; write its xn-- form".to_owned()),
            ("@alpn: x", "'@alpn:' is not a protocol; write one such as @alpn:h2".to_owned()),
        ] {
            assert_eq!(read_all(line), Err(vec![Wrong::Usage(wrong)]), "{line}");
        }
        for line in ["@a.b ! x", "@a.b x ! !", "@ %"] {
            let errors = read_all(line).expect_err(line);
            assert_eq!(errors[0], Wrong::EmptyGroup, "{line}");
        }
    }

    #[test]
    fn a_dash_takes_a_number_and_has_no_channel() {
        let again = |line: &str| print_groups(&read(&words(line)).expect("legal"), &[]).join(" ");
        for line in ["a - b", "- ! a - % -", "-: !: %:", "a % b %"] {
            assert_eq!(again(line), line);
        }
        assert_eq!(again("a !"), "a");
    }
}
