//! Ports and ranges of ports as they are typed.
//!
//! Knows: their forms, and what is often mistaken for a range. Never: the services database, what the ports
//! are for.
//! Source: docs/compatibility.md, "Command line"; docs/port-ranges.md.

use std::num::NonZeroU16;

use super::number::whole_number;
use crate::spec::{PortRange, PortWord, PortsSpec, UnixName};

/// Reads a port: a number from 1 to 65535, or a word with the form of a service name (an ASCII letter or
/// digit, then those and `-_+.*/`, with at least one letter). `None`: neither.
pub fn read_port(word: &str) -> Option<PortWord> {
    if let Some(number) = whole_number(word) {
        return u16::try_from(number?).ok().and_then(NonZeroU16::new).map(PortWord::Number);
    }
    let starts_well = word.starts_with(|c: char| c.is_ascii_alphanumeric());
    let has_letter = word.contains(|c: char| c.is_ascii_alphabetic());
    let is_name = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_+.*/".contains(c));
    (starts_well && has_letter && is_name).then(|| PortWord::Name(word.to_owned()))
}

/// Reads PORT: a port, `unix:/PATH`, or `FIRST-LAST`. Both ends of a range are numbers, because names of
/// services have dashes, too. `None`: none of these; `why_no_ports` says what is wrong with a range or a
/// Unix socket.
pub fn read_ports(word: &str) -> Option<PortsSpec> {
    if word.starts_with(UnixName::PREFIX) {
        return read_unix(word).ok().map(PortsSpec::Unix);
    }
    let Some(ends) = ends_of_range(word) else { return read_port(word).map(PortsSpec::One) };
    let [first, last] = ends.map(|end| end.and_then(|end| u16::try_from(end).ok()).and_then(NonZeroU16::new));
    let (first, last) = (first?, last?);
    match PortRange::new(first, last) {
        Some(range) => Some(PortsSpec::Range(range)),
        // A range with one port is that port.
        None => (first == last).then_some(PortsSpec::One(PortWord::Number(first))),
    }
}

/// The two numbers of a word that can be nothing but a range; a number that does not fit into 64 bits is
/// `None`. `None` for any other word.
fn ends_of_range(word: &str) -> Option<[Option<u64>; 2]> {
    let (first, last) = word.split_once('-')?;
    Some([whole_number(first)?, whole_number(last)?])
}

/// What is wrong with a word that was meant as a range of ports or as a Unix socket, and what would be right.
/// `None`: neither was meant.
pub(super) fn why_no_ports(word: &str) -> Option<String> {
    match word.starts_with(UnixName::PREFIX) {
        true => read_unix(word).err(),
        false => UnixName::meant_by(word).or_else(|| why_no_range(word)).or_else(|| range_apart(word)),
    }
}

/// Reads a Unix socket to listen on. What a channel may have behind its name is not taken for a part of the name.
///
/// # Errors
/// One line that says what is wrong and what would be right.
fn read_unix(word: &str) -> Result<UnixName, String> {
    let name = word.strip_prefix(UnixName::PREFIX).unwrap_or(word);
    let Some(at) = name.find([':', ',']) else { return word.parse() };
    let (before, behind) = name.split_at(at);
    let before = format!("{}{before}", UnixName::PREFIX);
    let escaped = |of: &str| of.replace(',', "%2C").replace(':', "%3A");
    let limit = behind.strip_prefix("::").and_then(whole_number).flatten();
    Err(match (limit, behind.starts_with(',')) {
        (Some(limit), _) => format!(
            "a limit behind two colons is for a channel; write --max-connections {limit} {before} to limit the whole service, and a \
             colon in a name as %3A"
        ),
        (None, true) => format!(
            "options behind a comma are for a channel; write {before}, or {before}{} if the comma is part of the name",
            escaped(behind)
        ),
        (None, false) => format!(
            "a Unix socket has no port; write {before}, or {before}{} if the colon is part of the name",
            escaped(behind)
        ),
    })
}

/// The same for a range that is written in another way: `30000:30010`, `30000..30010`.
fn range_apart(word: &str) -> Option<String> {
    let joints = ["...", "..", ":", "\u{2013}", "\u{2014}"];
    let (first, last) = joints.iter().find_map(|joint| word.split_once(joint))?;
    let right = format!("{first}-{last}");
    ends_of_range(&right)?;
    let why = why_no_range(&right).filter(|_| read_ports(&right).is_none());
    Some(why.unwrap_or_else(|| format!("a range is written {right}")))
}

/// The same for a word of digits and dashes.
pub(super) fn why_no_range(word: &str) -> Option<String> {
    let is_meant = word.contains('-') && word.starts_with(|c: char| c.is_ascii_digit());
    if !is_meant || !word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return None;
    }
    let right = "a range is two ports from 1 to 65535, the lower one first, such as 20000-20999";
    Some(match ends_of_range(word) {
        Some([Some(first @ 1..), Some(last @ 1..)]) if last < first && first <= u64::from(u16::MAX) => {
            format!("the ports of a range go up; write {last}-{first}")
        }
        Some([Some(first), Some(last)]) if first == 0 || last == 0 => format!("there is no port 0; {right}"),
        Some(_) => format!("no port is above 65535; {right}"),
        None => right.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_a_letter_is_a_service_name_and_the_rest_is_nothing() {
        for word in ["smtp", "5x", "z3950", "3com-tsmux", "whois++", "kerberos_master", "x"] {
            assert_eq!(read_port(word), Some(PortWord::Name(word.to_owned())));
        }
        for word in
            ["", "0", "65536", "-1", "+5", " 5", "5 ", "1.5", "99999999999999999999999", "-x", "a:b", "ß"]
        {
            assert_eq!(read_port(word), None, "{word:?}");
        }
        for n in [1, 65_535] {
            assert_eq!(read_port(&n.to_string()), NonZeroU16::new(n).map(PortWord::Number));
        }
    }

    #[test]
    fn a_range_is_two_numbers_and_a_dash_and_what_has_a_letter_is_a_name() {
        let range = |first, last| {
            let [first, last] = [first, last].map(|port| NonZeroU16::new(port).expect("not 0"));
            PortRange::new(first, last).map(PortsSpec::Range)
        };
        for (word, ports) in [
            ("20000-20999", range(20_000, 20_999)),
            ("1-65535", range(1, 65_535)),
            ("0080-081", range(80, 81)),
            ("80-80", Some(PortsSpec::One(PortWord::Number(NonZeroU16::new(80).expect("not 0"))))),
            ("http-alt", Some(PortsSpec::One(PortWord::Name("http-alt".into())))),
            ("9-to-5", Some(PortsSpec::One(PortWord::Name("9-to-5".into())))),
            ("80-http", Some(PortsSpec::One(PortWord::Name("80-http".into())))),
        ] {
            assert_eq!(read_ports(word), ports, "{word}");
            assert!(ports.is_some());
            assert_eq!(why_no_range(word).is_some(), read_port(word).is_none(), "{word}");
        }
        for (word, why) in [
            ("20999-20000", "go up; write 20000-20999"),
            ("0-100", "there is no port 0"),
            ("100-0", "there is no port 0"),
            ("1-65536", "no port is above 65535"),
            ("70000-80000", "no port is above 65535"),
            ("70000-80", "no port is above 65535"),
            ("1-99999999999999999999", "no port is above 65535"),
            ("80-", "a range is two ports"),
            ("80-90-100", "a range is two ports"),
            ("80--90", "a range is two ports"),
        ] {
            assert_eq!(read_ports(word), None, "{word}");
            assert!(
                why_no_range(word).is_some_and(|text| text.contains(why)),
                "{word}: {:?}",
                why_no_range(word)
            );
        }
        for word in ["-", "", "80", "-80", "80 -90", "a-b", "80-90/tcp", "٣-٤"] {
            assert_eq!(why_no_range(word), None, "{word}");
            assert_eq!(why_no_ports(word), None, "{word}");
        }
        for (word, why) in [
            ("30000:30010", "a range is written 30000-30010"),
            ("30000..30010", "a range is written 30000-30010"),
            ("30000\u{2013}30010", "a range is written 30000-30010"),
            ("30010:30000", "the ports of a range go up; write 30000-30010"),
            ("/run/app.sock", "a Unix socket is written unix:/run/app.sock"),
            ("Unix:/x", "a Unix socket is written unix:/x"),
            (
                "unix:/x/lim::5",
                "a limit behind two colons is for a channel; write --max-connections 5 unix:/x/lim to limit the whole service, and a \
                 colon in a name as %3A",
            ),
            (
                "unix:@y,weight=2",
                "options behind a comma are for a channel; write unix:@y, or unix:@y%2Cweight=2 if the comma is part of the name",
            ),
            (
                "unix:/x/y:80,proxy",
                "a Unix socket has no port; write unix:/x/y, or unix:/x/y%3A80%2Cproxy if the colon is part of the name",
            ),
            (
                "unix:/x/y::z",
                "a Unix socket has no port; write unix:/x/y, or unix:/x/y%3A%3Az if the colon is part of the name",
            ),
        ] {
            assert_eq!((read_ports(word), why_no_ports(word).as_deref()), (None, Some(why)), "{word}");
        }
        for word in ["1:2:3", ":80", "1..", "*:80", "1.2.3.4:80", "[::1]:80"] {
            assert_eq!(why_no_ports(word), None, "{word}");
        }
        for word in ["80 -90", "80-90 ", "+80-90", "٣-٤"] {
            assert_eq!(read_ports(word), None, "{word}");
        }
    }
}
