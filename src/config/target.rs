//! The grammar of destinations: `host[:port[:maxc]]`, and a comma before the channel's own options.
//!
//! Knows: the shape of hosts, ports and limits. Never: DNS, the services database, defaults, groups.
//! Source: docs/compatibility.md, "Command line".
//!
//! An IPv6 address stands in brackets: `[2001:db8::1]:80:16`. Without brackets it is accepted where nothing else
//! could be meant: a whole word that is an IPv6 address and has more than two colons or starts with `::`
//! (`2001:db8::1`, `::1`). `a::12` has two colons and is therefore host `a` with at most 12 connections, as ever.

use std::ffi::OsStr;
use std::fmt;
use std::net::Ipv6Addr;
use std::num::{NonZeroU16, NonZeroU32};

use super::channel_options::channel_options;
use crate::sched::{MAX_CHANNELS, MAX_GROUPS};
use crate::spec::{AdminState, ChannelSpec, PortWord, Typed, Weight};

impl PortWord {
    /// Reads a port. `None` for what is neither a number from 1 to 65535 nor shaped like a service name (an ASCII
    /// letter or digit, then those and `-_+.*/`, with at least one letter in it).
    pub fn parse(word: &str) -> Option<Self> {
        if let Some(number) = whole_number(word) {
            return u16::try_from(number?).ok().and_then(NonZeroU16::new).map(Self::Number);
        }
        let starts_well = word.starts_with(|c: char| c.is_ascii_alphanumeric());
        let has_letter = word.contains(|c: char| c.is_ascii_alphabetic());
        let is_name = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_+.*/".contains(c));
        (starts_well && has_letter && is_name).then(|| Self::Name(word.to_owned()))
    }
}

impl ChannelSpec {
    /// Reads `host[:port[:maxc]]`, `[v6][:port[:maxc]]` or an unmistakable bare IPv6 address, and behind the first comma
    /// the channel's options.
    ///
    /// # Errors
    /// `InvalidAddress` for a bad or empty host, a bad port, a bad limit, or bytes that are not UTF-8; `UnknownOption`,
    /// `BadOption` and `RepeatedOption` for options of a good address.
    pub fn parse(word: &OsStr) -> Result<Self, TargetError> {
        let shown = word.to_string_lossy().into_owned();
        let text = word.to_str().unwrap_or_default();
        let (address, options) = match text.split_once(',') {
            Some((address, options)) => (address, Some(options)),
            None => (text, None),
        };
        let Some((host, port, maxc)) = split(address) else {
            return Err(TargetError::InvalidAddress { word: shown });
        };
        let (weight, state) = match options {
            Some(options) => channel_options(options, &shown)?,
            None => Default::default(),
        };
        Ok(Self {
            typed: Typed { text: shown },
            host: host.to_owned(),
            port,
            maxc,
            weight: weight.unwrap_or_default(),
            state: state.unwrap_or(AdminState::Enabled),
        })
    }
}

impl fmt::Display for ChannelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        match (&self.port, self.maxc) {
            // Alone, these words mean something else.
            (None, None) if matches!(self.host.as_str(), "!" | "%" | "-") => f.write_str(":")?,
            (None, None) => (),
            (Some(port), None) => write!(f, ":{port}")?,
            (None, Some(maxc)) => write!(f, "::{maxc}")?,
            (Some(port), Some(maxc)) => write!(f, ":{port}:{maxc}")?,
        }
        if self.weight != Weight::default() {
            write!(f, ",weight={}", self.weight.get())?;
        }
        match self.state {
            AdminState::Enabled => Ok(()),
            AdminState::Disabled => f.write_str(",disabled"),
            AdminState::DisabledHard => f.write_str(",disabled=hard"),
        }
    }
}

/// Why the channels of a command line mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// A word is no `host[:port[:maxc]]`.
    #[error("{}", invalid_address(word))]
    InvalidAddress {
        /// The word as typed.
        word: String,
    },
    /// A channel's option that there is not.
    #[error("unknown option '{option}' in [{word}]; a channel has weight=N, disabled and disabled=hard")]
    UnknownOption {
        /// The option as typed.
        option: String,
        /// The whole word as typed.
        word: String,
    },
    /// A channel's option with a value that it cannot have.
    #[error("{option} in [{word}] {wrong}")]
    BadOption {
        /// The option as typed, with its value.
        option: String,
        /// The whole word as typed.
        word: String,
        /// What is wrong and what would be right.
        wrong: &'static str,
    },
    /// A channel's option that is there twice.
    #[error("{option} is there twice in [{word}]; give it once")]
    RepeatedOption {
        /// Its name.
        option: &'static str,
        /// The whole word as typed.
        word: String,
    },
    /// `!` or `%` with no channel before it.
    #[error("{NO_CHANNELS}")]
    EmptyGroup,
    /// More groups than can be numbered.
    #[error("balance: more than {MAX_GROUPS} groups")]
    TooManyGroups,
    /// More channels in one group than can be numbered.
    #[error("balance: more than {MAX_CHANNELS} channels in one group")]
    TooManyChannels,
}

/// What is said of a group that ends before it has begun.
pub(super) const NO_CHANNELS: &str = "balance: no channels in group";

/// What is said of an address that cannot be one or is not known.
pub(super) fn invalid_address(word: &str) -> String {
    format!("unknown or invalid address [{word}]")
}

/// Could this be a host: an IPv6 address (with or without a zone), or a word without colons, brackets, blanks and
/// control characters? Whether it exists is for the resolver.
pub fn is_host(word: &str) -> bool {
    if word.contains(':') {
        return is_ipv6(word);
    }
    !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control() || "[]".contains(c))
}

/// An IPv6 address, `%zone` allowed as in `fe80::1%eth0`.
fn is_ipv6(word: &str) -> bool {
    let (address, zone) = word.split_once('%').unwrap_or((word, "0"));
    let zone_is_name = zone.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone_is_name
}

/// A word that can be nothing but an IPv6 address, though it has no brackets.
fn is_bare_ipv6(word: &str) -> bool {
    let unmistakable = word.starts_with("::") || word.contains('%') || word.matches(':').count() > 2;
    unmistakable && is_ipv6(word)
}

fn split(word: &str) -> Option<(&str, Option<PortWord>, Option<NonZeroU32>)> {
    if is_bare_ipv6(word) {
        return Some((word, None, None));
    }
    let (host, rest) = match word.strip_prefix('[') {
        Some(inside) => inside.split_once(']').filter(|(host, _)| host.contains(':'))?,
        None => word.split_at(word.find(':').unwrap_or(word.len())),
    };
    if !is_host(host) {
        return None;
    }
    if rest.is_empty() {
        return Some((host, None, None));
    }
    let rest = rest.strip_prefix(':')?;
    let (port, maxc) = match rest.split_once(':') {
        // An empty limit is not "no limit": a limit that was meant and got lost is worse than a message.
        Some((port, maxc)) => (port, u32::try_from(whole_number(maxc)??).ok()?),
        None => (rest, 0),
    };
    let port = if port.is_empty() { None } else { Some(PortWord::parse(port)?) };
    Some((host, port, NonZeroU32::new(maxc)))
}

/// `None`: not all digits. `Some(None)`: digits, but more than fit.
pub(super) fn whole_number(word: &str) -> Option<Option<u64>> {
    let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| word.parse().ok())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(n: u16) -> Option<PortWord> {
        NonZeroU16::new(n).map(PortWord::Number)
    }

    fn name(word: &str) -> Option<PortWord> {
        Some(PortWord::Name(word.to_owned()))
    }

    #[test]
    fn every_legal_shape_of_a_channel_is_read() {
        let table: &[(&str, &str, Option<PortWord>, u32)] = &[
            ("host1", "host1", None, 0),
            ("10.1.1.1:8000", "10.1.1.1", number(8000), 0),
            ("host:imap", "host", name("imap"), 0),
            ("host:http-alt:7", "host", name("http-alt"), 7),
            ("host:", "host", None, 0),
            ("host::0", "host", None, 0),
            ("localhost::12", "localhost", None, 12),
            ("localhost:25:4294967295", "localhost", number(25), u32::MAX),
            ("h:0080:007", "h", number(80), 7),
            ("[::1]", "::1", None, 0),
            ("[::1]:80", "::1", number(80), 0),
            ("[2001:db8::1]:80:3", "2001:db8::1", number(80), 3),
            ("[2001:db8::1]::3", "2001:db8::1", None, 3),
            ("[fe80::1%eth0]:80", "fe80::1%eth0", number(80), 0),
            ("fe80::1%eth0", "fe80::1%eth0", None, 0),
            ("::1", "::1", None, 0),
            ("::", "::", None, 0),
            ("2001:DB8::1", "2001:DB8::1", None, 0),
            ("::ffff:10.1.1.3", "::ffff:10.1.1.3", None, 0),
            ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8", None, 0),
            ("a::12", "a", None, 12),
            ("1:2:3", "1", number(2), 3),
        ];
        for (word, host, port, maxc) in table {
            let target = ChannelSpec::parse(OsStr::new(word)).unwrap_or_else(|e| panic!("{word}: {e}"));
            assert_eq!((target.weight, target.state), (Weight::ONE, AdminState::Enabled), "{word}");
            assert_eq!(target.typed.text, *word);
            assert_eq!(target.host, *host, "{word}");
            assert_eq!(target.port, *port, "{word}");
            assert_eq!(target.maxc, NonZeroU32::new(*maxc), "{word}");
        }
    }

    #[test]
    fn what_is_no_channel_is_named_as_typed() {
        for word in [
            "",
            ":",
            ":80",
            ":80:1",
            "host:0",
            "host:65536",
            "host:99999999999",
            "host:+5",
            "host: 5",
            "host:5 ",
            "host:-1",
            "host:80:",
            "host:80:-1",
            "host:80:x",
            "host:80:5x",
            "host:80:4294967296",
            "host:80:+5",
            "host:80:1:2",
            "host:::",
            "a b",
            "a\tb",
            "a\0b",
            "[::1",
            "::1]",
            "[]",
            "[]:80",
            "[host]:80",
            "[10.1.1.1]:80",
            "[::1]80",
            "[::1]x:80",
            "[[::1]]",
            "[fe80::1%]",
            "[fe80::1%a b]",
            "host:a b",
            "host:-x",
            "host:ä",
            "2001:db8::g",
            ",",
            ",weight=1",
            ":80,weight=1",
            "host:0,weight=1",
            "host:0,colour=red",
            "[::1,weight=1]",
        ] {
            let error = ChannelSpec::parse(OsStr::new(word)).expect_err(word);
            assert_eq!(error.to_string(), format!("unknown or invalid address [{word}]"));
        }
    }

    #[test]
    fn a_word_with_a_letter_is_a_service_name_and_the_rest_is_nothing() {
        for word in ["smtp", "5x", "z3950", "3com-tsmux", "whois++", "kerberos_master", "x"] {
            assert_eq!(PortWord::parse(word), name(word));
        }
        for word in
            ["", "0", "65536", "-1", "+5", " 5", "5 ", "1.5", "99999999999999999999999", "-x", "a:b", "ß"]
        {
            assert_eq!(PortWord::parse(word), None, "{word:?}");
        }
        assert_eq!(PortWord::parse("1"), number(1));
        assert_eq!(PortWord::parse("65535"), number(65535));
    }

    prop_compose! {
        pub(in super::super) fn any_target()(
            host in prop_oneof![
                "[a-z0-9!%~*$'\"-][a-z0-9.-]{0,20}",
                any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).to_string()),
                any::<[u8; 4]>().prop_map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            ],
            port in prop_oneof![
                Just(None),
                any::<NonZeroU16>().prop_map(|n| Some(PortWord::Number(n))),
                "[0-9]{0,3}[a-z][a-z0-9+-]{0,8}".prop_map(|name| Some(PortWord::Name(name))),
            ],
            maxc in any::<Option<NonZeroU32>>(),
            weight in (0..=Weight::MAX).prop_map(|n| Weight::new(n).expect("in range")),
            state in prop::sample::select(vec![
                AdminState::Enabled,
                AdminState::Disabled,
                AdminState::DisabledHard,
            ]),
        ) -> ChannelSpec {
            ChannelSpec { typed: Typed::default(), host, port, maxc, weight, state }
        }
    }

    proptest! {
        #[test]
        fn a_printed_target_reads_as_itself(target in any_target()) {
            prop_assert_eq!(ChannelSpec::parse(OsStr::new(&target.to_string())), Ok(target));
        }

        #[test]
        fn what_was_read_prints_and_reads_the_same(word in "[a-f0-9:.%!\\[\\]-]{0,24}(,weight=[0-9]{0,3}|,disabled|,disabled=hard){0,2}") {
            if let Ok(target) = ChannelSpec::parse(OsStr::new(&word)) {
                let again = ChannelSpec::parse(OsStr::new(&target.to_string())).expect("printed from a legal one");
                prop_assert_eq!(again, target);
            }
        }
    }
}
