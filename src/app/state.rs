//! The state file's text: what operators changed at run time, one line per fact, together with the line of
//! the service as it was.
//!
//! Knows: how a fact is written and read, and whether the text is whole. Never: files, tables, what a fact is
//! used for.
//! Source: docs/state.md, "The file".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::{self, Write};
use std::num::NonZeroU32;

use ipnet::IpNet;

use crate::config;
use crate::sched::{Addresses, ChannelId, DecidedMember, GroupId};
use crate::spec::{Address, AdminState, ChannelManner, Name, Policy, UnixName, Weight};

/// The first word of the file.
const MAGIC: &str = "balance-state";
/// The version of the format. It changes whenever an older program would misunderstand a file.
const FORMAT: &str = "1";
/// The first word of the last line.
const CHECKSUM: &str = "crc32";

/// All that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KeptState {
    pub(super) services: Vec<KeptService>,
}

/// The changes of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptService {
    /// Where its line wants it to listen. This identifies the service.
    pub(super) place: Address,
    /// The last port of its range; without a range, the same port as in `place`.
    pub(super) last: u16,
    /// Its name; only for people who read the file.
    pub(super) name: Option<Name>,
    pub(super) facts: Vec<Fact>,
}

/// The settings of a channel, which a line or an operator can choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) state: AdminState,
    pub(super) weight: Weight,
    pub(super) maxc: Option<NonZeroU32>,
    pub(super) manner: ChannelManner,
}

/// A host as typed and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: String,
    /// The port; 0: the port that each client came to.
    pub(super) port: u16,
}

/// A channel of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinedChannel {
    pub(super) group: GroupId,
    pub(super) target: Target,
    /// Its number, from 1, among the channels with this target in the group.
    pub(super) nth: NonZeroU32,
}

/// The target of a channel that was created or assigned by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundTarget {
    pub(super) target: Target,
    /// The addresses of its name at that time; never empty.
    pub(super) found: Addresses,
}

/// One difference from the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    /// A group has a policy other than its line or `--policy` says.
    Policy { group: GroupId, line: Policy, now: Policy },
    /// A channel of the line has other settings or another target.
    Changed { channel: LinedChannel, line: Setting, now: Setting, moved: Option<FoundTarget> },
    /// A channel of the line was removed.
    Removed { channel: LinedChannel, line: Setting },
    /// A channel that is in no line. `twins`: how many channels with its target the line of its group has.
    Created { group: GroupId, number: ChannelId, twins: u32, now: Setting, to: FoundTarget },
    /// A decision about one of the channels that a name of the line stands for.
    Member { channel: LinedChannel, decided: DecidedMember },
    /// A network was denied, until this time in seconds since 1970. `None`: until `undeny`.
    Denied { net: IpNet, until: Option<u64> },
}

/// Why a text cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadState {
    /// It is not a state file.
    Foreign,
    /// It has this format, which this version does not know.
    Format(String),
    /// Its end is missing, or something in it was changed.
    Torn,
    /// This line is not understood, though the checksum is right.
    Line(usize),
}

impl fmt::Display for BadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => write!(f, "it is not a state file of balance"),
            Self::Format(format) => {
                let format: String = format.chars().take(20).flat_map(char::escape_debug).collect();
                write!(f, "it has format {format}, and this version reads format {FORMAT}")
            }
            Self::Torn => write!(f, "it is damaged or incomplete: its checksum does not match"),
            Self::Line(number) => write!(f, "line {number} is not understood"),
        }
    }
}

impl KeptState {
    /// The whole text of the file.
    pub(super) fn print(&self) -> String {
        let mut text = format!("{MAGIC} {FORMAT}\n");
        for service in &self.services {
            let name = service.name.as_ref().map_or("-", Name::as_str);
            // Writing to a String cannot fail.
            let range = if service.last == service.place.port() {
                String::new()
            } else {
                format!("-{}", service.last)
            };
            let _ = writeln!(text, "service {}{range} {name}", service.place);
            for fact in &service.facts {
                let _ = writeln!(text, "{fact}");
            }
        }
        let sum = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "{CHECKSUM} {sum:08x}");
        text
    }

    /// Reads what [`print`](Self::print) has made.
    ///
    /// # Errors
    /// The text is anything else.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadState> {
        let end = bytes.iter().position(|&b| b == b'\n').unwrap_or(bytes.len());
        let first = std::str::from_utf8(&bytes[..end]).map_err(|_| BadState::Foreign)?;
        // A text cut off in its first line is a damaged file of ours. An empty one may be any file.
        if end == bytes.len() && end > 0 && format!("{MAGIC} {FORMAT}").starts_with(first) {
            return Err(BadState::Torn);
        }
        match first.split_once(' ') {
            Some((MAGIC, FORMAT)) => {}
            Some((MAGIC, other)) => return Err(BadState::Format(other.to_owned())),
            _ => return Err(BadState::Foreign),
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BadState::Torn)?;
        let body = whole(text).ok_or(BadState::Torn)?;
        let mut state = Self::default();
        for (number, line) in body.lines().enumerate().skip(1) {
            state.add(line).ok_or(BadState::Line(number + 1))?;
        }
        Ok(state)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        if line.starts_with("service ") {
            let (Some("service"), Some(place), Some(name), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return None;
            };
            let name = if name == "-" { None } else { Some(Name::new(name)?) };
            let (place, last) = span(place)?;
            self.services.push(KeptService { place, last, name, facts: Vec::new() });
            return Some(());
        }
        self.services.last_mut()?.facts.push(fact(line)?);
        Some(())
    }
}

/// Reads where a service listens: `127.0.0.1:80`, `127.0.0.1:80-89`, `unix:/run/x.sock`.
fn span(word: &str) -> Option<(Address, u16)> {
    if word.starts_with(UnixName::PREFIX) {
        return Some((word.parse().ok()?, 0));
    }
    let colon = word.rfind(':')?;
    let Some(dash) = word.rfind('-').filter(|&dash| dash > colon) else {
        let place: Address = word.parse().ok()?;
        return Some((place, place.port()));
    };
    let (place, last): (Address, u16) = (word[..dash].parse().ok()?, word[dash + 1..].parse().ok()?);
    // Only the exact form that is written is accepted.
    (last > place.port() && word[dash + 1..] == last.to_string()).then_some((place, last))
}

/// The text without its last line; `None` if the checksum there is wrong.
fn whole(text: &str) -> Option<&str> {
    let lines = text.strip_suffix('\n')?;
    let at = lines.rfind('\n')? + 1;
    let (body, last) = (&text[..at], &lines[at..]);
    (last == format!("{CHECKSUM} {:08x}", crc32fast::hash(body.as_bytes()))).then_some(body)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            host if host.starts_with(UnixName::PREFIX) => f.write_str(host),
            host if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl fmt::Display for LinedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {} {} {}", self.group.index(), self.target, self.nth)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = state_name(self.state);
        write!(f, "{state} weight {} maxc {}", self.weight.get(), self.maxc.map_or(0, NonZeroU32::get))?;
        match config::print_manner(&self.manner) {
            options if options.is_empty() => Ok(()),
            options => write!(f, " options {}", without_blanks(&options)),
        }
    }
}

impl fmt::Display for FoundTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found: Vec<String> = self.found.as_slice().iter().map(ToString::to_string).collect();
        write!(f, "{} {}", self.target, found.join(","))
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { group, line, now } => {
                let [line, now] = [*line, *now].map(config::policy_name);
                write!(f, "policy group {} line {line} now {now}", group.index())
            }
            Self::Changed { channel, line, now, moved } => {
                write!(f, "changed {channel} line {line} now {now}")?;
                moved.as_ref().map_or(Ok(()), |to| write!(f, " at {to}"))
            }
            Self::Removed { channel, line } => write!(f, "removed {channel} line {line}"),
            Self::Created { group, number, twins, now, to } => {
                let (group, number) = (group.index(), number.index());
                write!(f, "created group {group} number {number} twins {twins} now {now} at {to}")
            }
            Self::Member { channel, decided } => {
                let DecidedMember { host, port, state, maxc, weight, removed } = decided;
                write!(f, "member {channel} is {}", Target { host: host.clone(), port: *port })?;
                if *removed {
                    return write!(f, " removed");
                }
                let weight = weight.map_or_else(|| "-".to_owned(), |weight| weight.get().to_string());
                let maxc = maxc.map_or(0, NonZeroU32::get);
                write!(f, " now {} weight {weight} maxc {maxc}", state_name(*state))
            }
            Self::Denied { net, until } => {
                let until = until.map_or_else(|| "-".to_owned(), |until| until.to_string());
                write!(f, "denied {} until {until}", config::print_net(*net))
            }
        }
    }
}

/// The state of a channel as a word. It keeps the difference between `Disabled` and `DisabledHard`.
fn state_name(state: AdminState) -> &'static str {
    match state {
        AdminState::Enabled => "enabled",
        AdminState::Disabled => "disabled",
        AdminState::DisabledHard => "disabled-hard",
    }
}

fn state_named(word: &str) -> Option<AdminState> {
    let all = [AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard];
    all.into_iter().find(|&state| state_name(state) == word)
}

/// Escapes blanks, because they separate words.
fn without_blanks(text: &str) -> String {
    text.replace('%', "%25").replace(' ', "%20")
}

fn with_blanks(word: &str) -> String {
    word.replace("%20", " ").replace("%25", "%")
}

/// Reads the words of a line one after the other.
struct FactWords<'a>(std::str::Split<'a, char>);

impl<'a> FactWords<'a> {
    fn take(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    /// Takes the next word, which must be this one.
    fn pass(&mut self, word: &str) -> Option<()> {
        (self.take()? == word).then_some(())
    }

    /// Takes a number. Only the exact form that is written is accepted, without sign or leading zeros.
    fn number(&mut self) -> Option<u32> {
        let word = self.take()?;
        let number: u32 = word.parse().ok()?;
        (number.to_string() == word).then_some(number)
    }

    fn group(&mut self) -> Option<GroupId> {
        self.pass("group")?;
        GroupId::new(usize::try_from(self.number()?).ok()?)
    }

    fn policy(&mut self) -> Option<Policy> {
        config::policy_named(self.take()?)
    }

    fn setting(&mut self) -> Option<Setting> {
        let state = state_named(self.take()?)?;
        self.pass("weight")?;
        let weight = Weight::new(self.number()?)?;
        self.pass("maxc")?;
        let maxc = NonZeroU32::new(self.number()?);
        let manner = if self.0.clone().next() == Some("options") {
            self.pass("options")?;
            let word = self.take()?;
            let manner = config::read_manner(&with_blanks(word)).ok()?;
            // Only the exact form that is written is accepted.
            Some(manner).filter(|manner| without_blanks(&config::print_manner(manner)) == word)?
        } else {
            ChannelManner::default()
        };
        Some(Setting { state, weight, maxc, manner })
    }

    fn target(&mut self) -> Option<Target> {
        let word = self.take()?;
        if word.starts_with(UnixName::PREFIX) {
            let name: UnixName = word.parse().ok()?;
            return (name.to_string() == word).then(|| Target { host: word.to_owned(), port: 0 });
        }
        let (host, port) = word.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').filter(|host| host.contains(':'))?,
            None => Some(host).filter(|host| !host.contains(':'))?,
        };
        let target = Target { host: host.to_owned(), port: port.parse().ok()? };
        (config::is_host(host) && target.to_string() == word).then_some(target)
    }

    fn channel(&mut self) -> Option<LinedChannel> {
        Some(LinedChannel {
            group: self.group()?,
            target: self.target()?,
            nth: NonZeroU32::new(self.number()?)?,
        })
    }

    fn destination(&mut self) -> Option<FoundTarget> {
        let target = self.target()?;
        let found: Option<Vec<Address>> = self.take()?.split(',').map(|one| one.parse().ok()).collect();
        let found = found?;
        if found.iter().any(|one| one.port() != target.port) {
            return None;
        }
        Some(FoundTarget { found: Addresses::new(found)?.named(&target.host), target })
    }
}

fn fact(line: &str) -> Option<Fact> {
    let mut words = FactWords(line.split(' '));
    let fact = match words.take()? {
        "policy" => {
            let group = words.group()?;
            words.pass("line")?;
            let line = words.policy()?;
            words.pass("now")?;
            Fact::Policy { group, line, now: words.policy()? }
        }
        "changed" => {
            let channel = words.channel()?;
            words.pass("line")?;
            let line = words.setting()?;
            words.pass("now")?;
            let now = words.setting()?;
            let moved = match words.take() {
                None => return Some(Fact::Changed { channel, line, now, moved: None }),
                Some("at") => Some(words.destination()?),
                Some(_) => return None,
            };
            Fact::Changed { channel, line, now, moved }
        }
        "denied" => {
            let word = words.take()?;
            let net = config::parse_net(word).ok().filter(|net| config::print_net(*net) == word)?;
            words.pass("until")?;
            let until = match words.take()? {
                "-" => None,
                word => Some(word.parse().ok().filter(|until: &u64| until.to_string() == word)?),
            };
            Fact::Denied { net, until }
        }
        "member" => {
            let channel = words.channel()?;
            words.pass("is")?;
            let Target { host, port } = words.target()?;
            let (state, maxc, weight, removed) = match words.take()? {
                "removed" => (AdminState::Enabled, None, None, true),
                "now" => {
                    let state = state_named(words.take()?)?;
                    words.pass("weight")?;
                    let weight = match words.0.clone().next()? {
                        "-" => words.take().map(|_| None)?,
                        _ => Some(Weight::new(words.number()?)?),
                    };
                    words.pass("maxc")?;
                    (state, NonZeroU32::new(words.number()?), weight, false)
                }
                _ => return None,
            };
            Fact::Member { channel, decided: DecidedMember { host, port, state, maxc, weight, removed } }
        }
        "removed" => {
            let channel = words.channel()?;
            words.pass("line")?;
            Fact::Removed { channel, line: words.setting()? }
        }
        "created" => {
            let group = words.group()?;
            words.pass("number")?;
            let number = ChannelId::new(usize::try_from(words.number()?).ok()?)?;
            words.pass("twins")?;
            let twins = words.number()?;
            words.pass("now")?;
            let now = words.setting()?;
            words.pass("at")?;
            Fact::Created { group, number, twins, now, to: words.destination()? }
        }
        _ => return None,
    };
    words.take().is_none().then_some(fact)
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn setting() -> impl Strategy<Value = Setting> {
        let state =
            prop::sample::select(vec![AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard]);
        let manner = config::any_manner();
        (state, 0..=Weight::MAX, any::<u32>(), manner).prop_map(|(state, weight, maxc, manner)| Setting {
            state,
            weight: Weight::new(weight).expect("in range"),
            maxc: NonZeroU32::new(maxc),
            manner,
        })
    }

    fn policy() -> impl Strategy<Value = Policy> {
        prop::sample::select(vec![
            Policy::RoundRobin,
            Policy::Hash,
            Policy::LeastConnections,
            Policy::TwoChoices,
            Policy::First,
        ])
    }

    fn target() -> impl Strategy<Value = Target> {
        let hosts = ["web1", "10.0.0.1", "fe80::1%2", "2001:db8::1", "W#b,x", "h=1;\u{e9}"];
        (prop::sample::select(hosts.to_vec()), 0..=u16::MAX)
            .prop_map(|(host, port)| Target { host: host.to_owned(), port })
    }

    fn destination() -> impl Strategy<Value = FoundTarget> {
        (target(), prop::collection::vec(any::<[u8; 4]>(), 1..4), any::<u8>()).prop_map(
            |(target, ips, six)| {
                let mut found: Vec<SocketAddr> =
                    ips.into_iter().map(|ip| SocketAddr::from((ip, target.port))).collect();
                found.push(
                    format!("[fe80::{six}%{six}]:{}", target.port).parse().expect("an address with a zone"),
                );
                FoundTarget {
                    found: Addresses::new(found.into_iter().map(Address::from).collect())
                        .expect("some")
                        .named(&target.host),
                    target,
                }
            },
        )
    }

    fn group() -> impl Strategy<Value = GroupId> {
        (0..crate::sched::MAX_GROUPS).prop_map(|n| GroupId::new(n).expect("in range"))
    }

    fn channel() -> impl Strategy<Value = LinedChannel> {
        (group(), target(), 1..=u32::MAX).prop_map(|(group, target, nth)| LinedChannel {
            group,
            target,
            nth: NonZeroU32::new(nth).expect("not 0"),
        })
    }

    fn any_fact() -> impl Strategy<Value = Fact> {
        let created = (group(), 0..crate::sched::MAX_CHANNELS, any::<u32>(), setting(), destination());
        prop_oneof![
            (group(), policy(), policy()).prop_map(|(group, line, now)| Fact::Policy { group, line, now }),
            (channel(), setting(), setting(), prop::option::of(destination()))
                .prop_map(|(channel, line, now, moved)| Fact::Changed { channel, line, now, moved }),
            (channel(), setting()).prop_map(|(channel, line)| Fact::Removed { channel, line }),
            (any::<[u8; 4]>(), 0..=32_u8, any::<Option<u64>>()).prop_map(|(ip, length, until)| {
                let net = IpNet::new(ip.into(), length).expect("short").trunc();
                Fact::Denied { net, until }
            }),
            created.prop_map(|(group, number, twins, now, to)| Fact::Created {
                group,
                number: ChannelId::new(number).expect("in range"),
                twins,
                now,
                to
            }),
        ]
    }

    pub(in crate::app) fn state() -> impl Strategy<Value = KeptState> {
        let names = prop::sample::select(vec![None, Name::new("web"), Name::new("a-b.c_9")]);
        let service = (any::<([u8; 4], u16)>(), any::<u16>(), names, prop::collection::vec(any_fact(), 0..6))
            .prop_map(|(place, last, name, facts)| {
                let last = last.max(place.1);
                KeptService { place: SocketAddr::from(place).into(), last, name, facts }
            });
        prop::collection::vec(service, 0..4).prop_map(|services| KeptState { services })
    }

    fn sealed(body: &str) -> String {
        format!("{body}{CHECKSUM} {:08x}\n", crc32fast::hash(body.as_bytes()))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(state in state()) {
            let text = state.print();
            prop_assert_eq!(KeptState::parse(text.as_bytes()), Ok(state), "{}", text);
        }

        #[test]
        fn a_text_that_was_cut_anywhere_is_torn(state in state()) {
            let text = state.print();
            for end in 1..text.len() {
                let torn = KeptState::parse(&text.as_bytes()[..end]);
                prop_assert_eq!(torn, Err(BadState::Torn), "{} of {}", end, text);
            }
        }

        #[test]
        fn no_byte_can_change_unnoticed(state in state(), at in any::<prop::sample::Index>(), by in 1..=255_u8) {
            let mut bytes = state.print().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert!(KeptState::parse(&bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn each_word_that_is_garbled_is_refused_or_read_as_it_stands(
            state in state(),
            at in any::<prop::sample::Index>(),
            with in prop::sample::select(vec![
                "", " ", "-1", "+1", "01", "0", "4294967296", "65535", "257", "x", "now", "line", "group", "a:0", "a:b:1",
                "[a]:1", "[::1]", "::1:80", "10.0.0.1", ",", "\u{e9}", "\t", "1.5", "127.0.0.1:80,",
            ]),
        ) {
            let text = state.print();
            let (body, _) = text.trim_end().rsplit_once('\n').expect("more than one line");
            let spots: Vec<usize> = body.match_indices(' ').map(|(at, _)| at + 1).collect();
            let from = spots[at.index(spots.len())];
            let to = body[from..].find([' ', '\n']).map_or(body.len(), |length| from + length);
            let garbled = sealed(&format!("{}{with}{}\n", &body[..from], &body[to..]));
            if let Ok(read) = KeptState::parse(garbled.as_bytes()) {
                prop_assert_eq!(read.print(), garbled);
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(KeptState::parse(&bytes).is_err());
            let sealed = sealed(&format!("{MAGIC} {FORMAT}\n{}\n", String::from_utf8_lossy(&bytes)));
            let _ = KeptState::parse(sealed.as_bytes());
        }
    }

    #[test]
    fn each_kind_of_bad_text_has_its_reason() {
        let table = [
            ("", BadState::Foreign),
            ("\n", BadState::Foreign),
            ("[state]\nx=1\n", BadState::Foreign),
            ("balance-state", BadState::Torn),
            ("balance-state 1", BadState::Torn),
            ("balance-state 1\n", BadState::Torn),
            ("balance-state 0\nweb1 disabled\n", BadState::Format("0".into())),
            ("balance-state 2\n", BadState::Format("2".into())),
            ("balance-state 1\ncrc32 00000000\n", BadState::Torn),
        ];
        for (text, why) in table {
            assert_eq!(KeptState::parse(text.as_bytes()), Err(why), "{text:?}");
        }
        for (line, number) in [("removed", 2), ("service x -", 2), ("service 0.0.0.0:1 - -", 2)] {
            let text = sealed(&format!("{MAGIC} {FORMAT}\n{line}\n"));
            assert_eq!(KeptState::parse(text.as_bytes()), Err(BadState::Line(number)), "{text:?}");
        }
        assert_eq!(KeptState::parse(sealed("balance-state 1\n").as_bytes()), Ok(KeptState::default()));
        assert_eq!(BadState::Format("\u{1b}[2J".into()).to_string().matches('\u{1b}').count(), 0);
    }

    #[test]
    fn a_file_can_be_read_by_people() {
        let setting = |state| Setting {
            state,
            weight: Weight::ONE,
            maxc: NonZeroU32::new(16),
            manner: ChannelManner::default(),
        };
        let target = Target { host: "web1".into(), port: 80 };
        let channel = LinedChannel { group: GroupId::FIRST, target, nth: NonZeroU32::MIN };
        let fact = Fact::Changed {
            channel,
            line: setting(AdminState::Enabled),
            now: setting(AdminState::DisabledHard),
            moved: None,
        };
        let place = SocketAddr::from(([0, 0, 0, 0], 80)).into();
        let service = KeptService { place, last: 80, name: Name::new("web"), facts: vec![fact] };
        let range = KeptService { last: 89, name: None, facts: Vec::new(), ..service.clone() };
        let text = KeptState { services: vec![service, range] }.print();
        let expected = "balance-state 1\nservice 0.0.0.0:80 web\nchanged group 0 web1:80 1 line enabled weight 1 maxc 16 \
                        now disabled-hard weight 1 maxc 16\nservice 0.0.0.0:80-89 -\ncrc32 ";
        assert_eq!(text.split_at(expected.len()).0, expected);
    }
}
