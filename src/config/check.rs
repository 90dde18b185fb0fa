//! What a health check does: the SPEC of `--check SPEC` is read into a [`Check`], and a [`Check`] is printed
//! as its SPEC.
//!
//! Knows: the grammar of SPEC and its escapes. Never: how a check is made, the other options.

use std::ffi::OsStr;
use std::ops::RangeInclusive;

use super::number::whole_number;
use crate::spec::{Check, Step};

/// The statuses that `http:` accepts if none are named: success and redirection.
const GOOD: RangeInclusive<u16> = 200..=399;
/// The statuses that HTTP allows (RFC 9110, 15).
const STATUSES: RangeInclusive<u64> = 100..=599;

/// Why a word is not a check. It is printed behind the word in a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CheckError {
    #[error(
        r"is not a check; give tcp, http:/healthz, 'expect:220', 'send:PING\r\n;expect:+PONG' or exec:/path/prog"
    )]
    Unknown,
    #[error("needs a path that begins with / and has no blanks in it, such as http:/healthz")]
    NoPath,
    #[error("names the host '{host}', which is not a host; give one such as http://www.example.org/healthz")]
    NoHost { host: String },
    #[error(
        "has '{list}' where a list of statuses should be; give numbers from 100 to 599, such as 200-299,404, or write the \
         statuses behind it if it belongs to the path, such as {list}=200-399"
    )]
    NoStatuses { list: String },
    #[error("needs an absolute path without control characters, such as exec:/path/prog")]
    NoProgram,
    #[error(
        "has the step '{step}', which is neither send:TEXT nor expect:TEXT; a ; that is text is written \\;"
    )]
    UnknownStep { step: String },
    #[error("has a step without text, '{step}'; give something to send or to expect, such as expect:220")]
    EmptyStep { step: String },
    #[error(r"has the unknown escape '{escape}'; there are \r \n \t \0 \\ \; and \xHH")]
    UnknownEscape { escape: String },
}

/// Reads `tcp`, `http:[//HOST]PATH[=STATUSES]`, `send:TEXT;expect:TEXT...` or `exec:PATH`.
///
/// # Errors
/// See [`CheckError`].
pub(super) fn read_check(word: &OsStr) -> Result<Check, CheckError> {
    let spec = word.to_str().ok_or(CheckError::Unknown)?;
    match spec.split_once(':') {
        None if spec == "tcp" => Ok(Check::Tcp),
        Some(("http", rest)) => http(rest),
        Some(("exec", path)) if path.starts_with('/') && !path.contains(char::is_control) => {
            Ok(Check::Exec(path.into()))
        }
        Some(("exec", _)) => Err(CheckError::NoProgram),
        Some(("send" | "expect", _)) => {
            Ok(Check::Dialogue(split_steps(spec).map(read_step).collect::<Result<_, _>>()?))
        }
        _ => Err(CheckError::Unknown),
    }
}

/// The SPEC that [`read_check`] reads as this check.
pub(super) fn print_check(check: &Check) -> String {
    match check {
        Check::Tcp => "tcp".to_owned(),
        Check::Http { host, path, statuses } => {
            let mut word = match host {
                Some(host) => format!("http://{host}{path}"),
                // A path that begins with `//` would be read as a host; with an empty host in front it is
                // not.
                None if path.starts_with("//") => format!("http://{path}"),
                None => format!("http:{path}"),
            };
            // If the end of the path would be read as statuses, the statuses are printed, too.
            if *statuses != [GOOD] || split_statuses(path).is_some() || mistyped_statuses(path).is_some() {
                let range = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
                    (start, end) if start == end => start.to_string(),
                    (start, end) => format!("{start}-{end}"),
                };
                let ranges: Vec<_> = statuses.iter().map(range).collect();
                word.push_str(&format!("={}", ranges.join(",")));
            }
            word
        }
        Check::Dialogue(steps) => steps.iter().map(print_step).collect::<Vec<_>>().join(";"),
        Check::Exec(path) => format!("exec:{}", path.display()),
    }
}

fn read_step(step: &str) -> Result<Step, CheckError> {
    let (kind, text): (fn(Vec<u8>) -> Step, _) = match step.split_once(':') {
        Some(("send", text)) => (Step::Send, text),
        Some(("expect", text)) => (Step::Expect, text),
        _ => return Err(CheckError::UnknownStep { step: step.to_owned() }),
    };
    if text.is_empty() {
        return Err(CheckError::EmptyStep { step: step.to_owned() });
    }
    unescape(text).map(kind)
}

fn print_step(step: &Step) -> String {
    let (name, bytes) = match step {
        Step::Send(bytes) => ("send", bytes),
        Step::Expect(bytes) => ("expect", bytes),
    };
    let escaped = |byte: &u8| match byte {
        b'\r' => "\\r".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\0' => "\\0".to_owned(),
        b'\\' | b';' => format!("\\{}", char::from(*byte)),
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    format!("{name}:{}", bytes.iter().map(escaped).collect::<String>())
}

fn http(rest: &str) -> Result<Check, CheckError> {
    let (rest, statuses) = match split_statuses(rest) {
        Some(split) => split,
        None => match mistyped_statuses(rest) {
            Some(list) => return Err(CheckError::NoStatuses { list: list.to_owned() }),
            None => (rest, vec![GOOD]),
        },
    };
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    if !host.is_empty() && !is_authority(host) {
        return Err(CheckError::NoHost { host: host.to_owned() });
    }
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(CheckError::NoPath);
    }
    let host = Some(host.to_owned()).filter(|host| !host.is_empty());
    Ok(Check::Http { host, path: path.to_owned(), statuses })
}

/// Whether this can be the value of a `Host` field: a name or an address, with a port or without.
fn is_authority(word: &str) -> bool {
    let (host, port) = match word.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (word, ""),
    };
    let is_port = port.is_empty() && !word.ends_with(':') || port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c)),
    };
    is_host && is_port
}

/// The path and the list of statuses. `None`: there is no `=`, or what follows the last one is not a list of
/// statuses.
fn split_statuses(text: &str) -> Option<(&str, Vec<RangeInclusive<u16>>)> {
    let (path, list) = text.rsplit_once('=')?;
    Some((path, list.split(',').map(range).collect::<Option<_>>()?))
}

fn range(item: &str) -> Option<RangeInclusive<u16>> {
    let (start, end) = item.split_once('-').unwrap_or((item, item));
    let (start, end) = (status(start)?, status(end)?);
    (start <= end).then_some(start..=end)
}

/// What follows the last `=` if it is not a legal list of statuses, but was hardly meant as anything else. As
/// a part of the path it would make each check fail.
fn mistyped_statuses(text: &str) -> Option<&str> {
    let (path, list) = text.rsplit_once('=')?;
    let has_status = || list.split([',', ';', ' ', '-']).any(|item| status(item).is_some());
    let is_like_one = list.contains(|c: char| c.is_ascii_digit())
        && list.chars().all(|c| c.is_ascii_digit() || ",;-+:. xX".contains(c));
    // The value of a query's parameter may be a number: `?timeout=5`, `?from=2024-01-01`.
    let parameter = path.rsplit_once('?').map(|(_, query)| query.rsplit('&').next().unwrap_or(query));
    let is_value = parameter.is_some_and(|name| !name.contains('='));
    let is_meant =
        if is_value { is_like_one && list.contains([',', '-']) && has_status() } else { is_like_one };
    (is_meant && split_statuses(text).is_none()).then_some(list)
}

fn status(word: &str) -> Option<u16> {
    let number = whole_number(word).flatten().filter(|n| word.len() == 3 && STATUSES.contains(n));
    number.and_then(|n| u16::try_from(n).ok())
}

/// Splits at each `;` that does not follow a backslash.
fn split_steps(spec: &str) -> impl Iterator<Item = &str> {
    let mut is_escaped = false;
    spec.split(move |c| {
        let is_end = c == ';' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    })
}

fn unescape(text: &str) -> Result<Vec<u8>, CheckError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (byte, length) = match *escape.as_bytes() {
            [b'r', ..] => (Some(b'\r'), 1),
            [b'n', ..] => (Some(b'\n'), 1),
            [b't', ..] => (Some(b'\t'), 1),
            [b'0', ..] => (Some(b'\0'), 1),
            [literal @ (b'\\' | b';'), ..] => (Some(literal), 1),
            [b'x', high, low, ..] => (hex(high, low), 3),
            [b'x', ..] => (None, 3),
            _ => (None, 1),
        };
        let Some(byte) = byte else {
            let escape = format!("\\{}", escape.chars().take(length).collect::<String>());
            return Err(CheckError::UnknownEscape { escape });
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(16 * value(high)? + value(low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(spec: &str) -> Result<Check, CheckError> {
        read_check(OsStr::new(spec))
    }

    fn http(path: &str, statuses: &[RangeInclusive<u16>]) -> Check {
        Check::Http { host: None, path: path.to_owned(), statuses: statuses.to_vec() }
    }

    fn hosted(host: &str, path: &str, statuses: &[RangeInclusive<u16>]) -> Check {
        Check::Http { host: Some(host.to_owned()), path: path.to_owned(), statuses: statuses.to_vec() }
    }

    fn send(bytes: &[u8]) -> Step {
        Step::Send(bytes.to_vec())
    }

    fn expect(bytes: &[u8]) -> Step {
        Step::Expect(bytes.to_vec())
    }

    #[test]
    fn every_legal_check_is_read() {
        let table = [
            ("tcp", Check::Tcp),
            ("http:/", http("/", &[200..=399])),
            ("http:/healthz", http("/healthz", &[200..=399])),
            ("http://www.example.org/x=204", hosted("www.example.org", "/x", &[204..=204])),
            ("http://[::1]:8080/", hosted("[::1]:8080", "/", &[200..=399])),
            ("http://web1:80//x", hosted("web1:80", "//x", &[200..=399])),
            ("http:////x", http("//x", &[200..=399])),
            ("http:/x=200-299,404", http("/x", &[200..=299, 404..=404])),
            ("http:/x=100", http("/x", &[100..=100])),
            ("http:/x=599-599", http("/x", &[599..=599])),
            ("http:/x?a=b", http("/x?a=b", &[200..=399])),
            ("http:/x?a=b=204", http("/x?a=b", &[204..=204])),
            ("http:/x?a=200=200-399", http("/x?a=200", &[200..=399])),
            ("http:/x=", http("/x=", &[200..=399])),
            ("http:/x?timeout=5", http("/x?timeout=5", &[200..=399])),
            ("http:/x?a=1&from=2024-01-01", http("/x?a=1&from=2024-01-01", &[200..=399])),
            ("http:/x=600=200-399", http("/x=600", &[200..=399])),
            ("http:/x=v2", http("/x=v2", &[200..=399])),
            ("http:/x=2f3a", http("/x=2f3a", &[200..=399])),
            ("http:/ä;b\\", http("/ä;b\\", &[200..=399])),
            ("expect:220", Check::Dialogue(vec![expect(b"220")])),
            ("send:x", Check::Dialogue(vec![send(b"x")])),
            ("send:PING\\r\\n;expect:+PONG", Check::Dialogue(vec![send(b"PING\r\n"), expect(b"+PONG")])),
            (
                "expect:a\\;b;send: \\\\;expect:\\t\\0\\x00\\xfF\\x7e1",
                Check::Dialogue(vec![expect(b"a;b"), send(b" \\"), expect(b"\t\0\0\xff~1")]),
            ),
            ("send:a:b;send:ä", Check::Dialogue(vec![send(b"a:b"), send("ä".as_bytes())])),
            ("exec:/usr/bin/my check", Check::Exec("/usr/bin/my check".into())),
        ];
        for (spec, kind) in table {
            assert_eq!(parse(spec), Ok(kind), "{spec}");
        }
    }

    #[test]
    fn what_is_no_check_is_told_with_the_part_that_is_wrong() {
        let step = |step: &str| CheckError::UnknownStep { step: step.to_owned() };
        let empty = |step: &str| CheckError::EmptyStep { step: step.to_owned() };
        let escape = |escape: &str| CheckError::UnknownEscape { escape: escape.to_owned() };
        let no_host = |host: &str| CheckError::NoHost { host: host.to_owned() };
        let list = |list: &str| CheckError::NoStatuses { list: list.to_owned() };
        let table = [
            ("http:/x=600", list("600")),
            ("http:/x=99", list("99")),
            ("http:/x=0200", list("0200")),
            ("http:/x=300-200", list("300-200")),
            ("http:/x=200,", list("200,")),
            ("http:/x=200, 404", list("200, 404")),
            ("http:/x=200;404", list("200;404")),
            ("http:/x=200-", list("200-")),
            ("http:/x=200-250-299", list("200-250-299")),
            ("http:/x=+200", list("+200")),
            ("http:/x=2xx", list("2xx")),
            ("http:/x?a=b=600", list("600")),
            ("http:/x?a=200,3000", list("200,3000")),
            ("http://a/x=200,600", list("200,600")),
            ("", CheckError::Unknown),
            ("TCP", CheckError::Unknown),
            ("tcp:", CheckError::Unknown),
            ("tcp:80", CheckError::Unknown),
            ("http", CheckError::Unknown),
            ("https:/", CheckError::Unknown),
            (" tcp", CheckError::Unknown),
            (";expect:x", CheckError::Unknown),
            ("http:", CheckError::NoPath),
            ("http:healthz", CheckError::NoPath),
            ("http:=200", CheckError::NoPath),
            ("http:/a b", CheckError::NoPath),
            ("http://a b", no_host("a b")),
            ("http://a:0/", no_host("a:0")),
            ("http://a:/", no_host("a:")),
            ("http://:80/", no_host(":80")),
            ("http://2001:db8::1/", no_host("2001:db8::1")),
            ("http://me@a/", no_host("me@a")),
            ("http://a\r\nX: y/", no_host("a\r\nX: y")),
            ("http://a", CheckError::NoPath),
            ("http:/a\u{a0}b", CheckError::NoPath),
            ("http:/a\r\nHost: x", CheckError::NoPath),
            ("http:/a =200", CheckError::NoPath),
            ("exec:", CheckError::NoProgram),
            ("exec:prog", CheckError::NoProgram),
            ("exec:./prog", CheckError::NoProgram),
            ("exec:/a\nb", CheckError::NoProgram),
            ("expect:220;", step("")),
            ("send:a;foo", step("foo")),
            ("send:a;b;expect:c", step("b")),
            ("send:a; expect:c", step(" expect:c")),
            ("send:", empty("send:")),
            ("send:a;expect:", empty("expect:")),
            ("send:\\q", escape("\\q")),
            ("send:a\\", escape("\\")),
            ("send:\\xz1", escape("\\xz1")),
            ("send:\\x1", escape("\\x1")),
            ("send:\\x1;expect:a", escape("\\x1")),
            ("send:\\x+1", escape("\\x+1")),
            ("send:\\é", escape("\\é")),
            ("send:\\R", escape("\\R")),
        ];
        for (spec, error) in table {
            assert_eq!(parse(spec), Err(error), "{spec}");
        }
    }

    #[test]
    fn a_check_prints_as_the_shortest_word_that_means_it() {
        let table = [
            ("http:/x=200-399", "http:/x"),
            ("http:/x=404-404", "http:/x=404"),
            ("http:/x=200=200-399", "http:/x=200=200-399"),
            ("http:/x=600=200-399", "http:/x=600=200-399"),
            ("send:\\x0d\\x0A\\x09\\x00\\x5c\\x3b\\x20\\x7f\\x80", "send:\\r\\n\\t\\0\\\\\\; \\x7f\\x80"),
        ];
        for (spec, printed) in table {
            assert_eq!(print_check(&parse(spec).expect("legal")), printed);
        }
    }

    proptest! {
        #[test]
        fn what_was_read_prints_and_reads_the_same(
            spec in "(http:/|send:|expect:|exec:/)[a-z=0-9,;:\\\\ -]{0,16}|http:/x=[1-5][0-9]{2}[-,][0-9]{3}|.*"
        ) {
            if let Ok(kind) = parse(&spec) {
                prop_assert_eq!(parse(&print_check(&kind)), Ok(kind));
            }
        }
    }
}
