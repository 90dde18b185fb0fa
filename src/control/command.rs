//! The command language: what a text says, as [`Command`]s.
//!
//! Knows: lines, words, what was meant by a wrong one. Never: the table of channels, sockets, how an answer
//! looks.
//! Source: docs/control.md, "Commands".
//!
//! `table` has the names, `arguments` reads what follows a name, and `meaning` has the values that this
//! becomes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::control::tapping::TapWanted;
use crate::control::wire::printable;

mod arguments;
mod meaning;
mod table;

pub use meaning::{Command, Form, WaitGoal};
pub(crate) use table::OF_3_57;
use table::row_of;
pub use table::{Access, COMMANDS, CommandWord};

/// How similar (Jaro-Winkler, 0 to 1) an unknown word must be to a command to be offered as a correction.
const ALIKE: f64 = 0.8;

/// No command has more arguments. Of the words after these, the parser only has to know that there are some.
const MAX_ARGUMENTS: usize = 4;

/// Why a text is not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// There is no such command, or the arguments of a command of 3.57 are wrong. 3.57 has only this message.
    #[error("syntax error")]
    Plain,
    /// The arguments of a command that 3.57 does not have are wrong.
    #[error("usage: {usage}")]
    Usage {
        /// The name of the command and its arguments.
        usage: String,
    },
}

/// Is this a `wait` command?
pub(crate) fn is_wait(text: &[u8]) -> bool {
    matches!(parse(text), Ok(Command::Wait { .. }))
}

/// Is there a `tap` command among these?
pub(crate) fn has_tap(text: &[u8]) -> bool {
    text.split(|&byte| byte == b'\n').flat_map(split).any(|one| matches!(parse(one), Ok(Command::Tap(_))))
}

/// The arguments of the `tap` command, if the text is this one command; else `None`.
pub(crate) fn only_tap(text: &[u8]) -> Option<TapWanted> {
    let mut all = text.split(|&byte| byte == b'\n').flat_map(split);
    match (all.next().map(parse), all.next()) {
        (Some(Ok(Command::Tap(wanted))), None) => Some(wanted),
        _ => None,
    }
}

/// Is the text the one command `top`?
pub(crate) fn is_top(text: &[u8]) -> bool {
    let mut all = text.split(|&byte| byte == b'\n').flat_map(split);
    matches!((all.next().map(parse), all.next()), (Some(Ok(Command::Top)), None))
}

/// Splits a line into the texts of its commands at `;`. Blank ones are left out, so an empty line has none.
pub fn split(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b';').filter(|text| words(text).next().is_some())
}

/// Parses the commands of one line.
pub fn parse_line(line: &[u8]) -> impl Iterator<Item = Result<Command, SyntaxError>> {
    split(line).map(parse)
}

/// Does the line have a command that changes the instance? This goes by the words only; the arguments may be
/// wrong.
pub fn is_change(line: &[u8]) -> bool {
    line.split(|&byte| byte == b';').any(|text| {
        let mut words = words(text);
        words.next().and_then(row_of).is_some_and(|(row, _)| match row.access {
            Access::Look => false,
            Access::Change => true,
            Access::ChangeByArguments => words.next().is_some(),
        })
    })
}

/// Parses one command.
///
/// # Errors
/// No command has this name, or its arguments are wrong.
pub fn parse(text: &[u8]) -> Result<Command, SyntaxError> {
    let mut words = words(text);
    let (row, is_new) = words.next().and_then(row_of).ok_or(SyntaxError::Plain)?;
    // One argument too many is enough to see that there are too many; a line of 30 000 words need not be
    // kept.
    let arguments: Vec<&[u8]> = words.take(MAX_ARGUMENTS + 1).collect();
    (row.parse)(&arguments).ok_or_else(|| match is_new {
        true => SyntaxError::Usage { usage: row.full_usage() },
        false => SyntaxError::Plain,
    })
}

/// What is wrong with a command that an instance has answered with `syntax error`, and what would be right.
/// `None`: nothing, or the answer says it.
pub(crate) fn what_was_meant(text: &[u8], of_instance: &str) -> Option<String> {
    if parse(text) != Err(SyntaxError::Plain) {
        return None;
    }
    let mut words = words(text);
    let word = words.next()?;
    let lists = format!("balance -c help {of_instance} lists the commands");
    let Some((row, _)) = row_of(word) else {
        let shown = printable(word);
        let likeness = |row: &CommandWord| strsim::jaro_winkler(&shown, row.name);
        let best = COMMANDS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let best = best.filter(|row| likeness(row) > ALIKE);
        let meant = best.map_or_else(String::new, |row| format!("did you mean {}? ", row.name));
        return Some(format!("no command '{shown}'; {meant}{lists}"));
    };
    if row.name == "help"
        && let Some((asked, _)) = words.next().and_then(row_of)
    {
        return Some(format!("{}: {}; help takes no word, and {lists}", asked.full_usage(), asked.help));
    }
    Some(format!("usage: {}", row.full_usage()))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU16, NonZeroU32};
    use std::time::Duration;

    use ipnet::IpNet;

    use super::table::{DENY_USAGE, TAP_USAGE};
    use super::*;
    use crate::control::argument::{HostPort, Number, Port};
    use crate::sched::Policy;
    use crate::spec::ChannelManner;

    fn number(digits: &str) -> Number {
        Number::parse(digits.as_bytes()).expect("a number")
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    fn create(host: &str) -> Command {
        Command::Create { target: Some(host_port(host, 80)), manner: Ok(ChannelManner::default()) }
    }

    fn no_address() -> Command {
        Command::Create { target: None, manner: Ok(ChannelManner::default()) }
    }

    fn host_port(host: &str, port: u16) -> HostPort {
        HostPort { host: host.into(), port: Port::Number(NonZeroU16::new(port).expect("not 0")) }
    }

    #[test]
    fn arguments_become_types() {
        let disable = |digits, hard| Command::Disable { channel: number(digits), hard };
        for (text, command) in [
            ("show", Command::Show(Form::Text)),
            ("  s\t\r\n", Command::Show(Form::Text)),
            ("s json", Command::Show(Form::Json)),
            ("st json", Command::Status(Form::Json)),
            ("sessions", Command::Sessions(None, Form::Text)),
            ("sessions json", Command::Sessions(None, Form::Json)),
            ("sessions 7 json", Command::Sessions(Some(number("7")), Form::Json)),
            ("serv json", Command::Services(Form::Json)),
            ("disable 007", disable("7", false)),
            ("disable -0", disable("0", false)),
            ("disable 1 soft", disable("1", false)),
            ("disable 1 hard", disable("1", true)),
            ("d 99999999999999999999", disable("99999999999999999999", false)),
            ("group -1", Command::Group(number("-1"))),
            ("create ::1 80", create("::1")),
            ("create localhost 0080", create("localhost")),
            ("create localhost 0", no_address()),
            ("create localhost 65536", no_address()),
            ("create unix:/tmp/x.sock::20", no_address()),
            ("create unix:/tmp/x.sock:80", no_address()),
            ("create unix:@x 80", no_address()),
            ("create local\u{1}host 80", no_address()),
            ("assign 0 h 1", Command::Assign { channel: number("0"), target: Some(host_port("h", 1)) }),
            ("assign 0 unix:/x,proxy", Command::Assign { channel: number("0"), target: None }),
            ("maxc 0 0", Command::Maxc { channel: number("0"), maxc: None }),
            ("maxc 0 4294967295", Command::Maxc { channel: number("0"), maxc: NonZeroU32::new(u32::MAX) }),
            ("rr", Command::SetPolicy(Policy::RoundRobin)),
            ("debug", Command::Debug(None)),
            ("deb off", Command::Debug(Some(false))),
            ("events", Command::Events(20, Form::Text)),
            ("events json", Command::Events(20, Form::Json)),
            ("ev 9 json", Command::Events(9, Form::Json)),
            ("ev 007", Command::Events(7, Form::Text)),
            (
                "deny 192.0.2.7",
                Command::Deny { net: Ok(net("192.0.2.7/32")), time: None, kick: false, all: false },
            ),
            (
                "den 192.0.2.0/24 all 10m kick",
                Command::Deny {
                    net: Ok(net("192.0.2.0/24")),
                    time: Some(Duration::from_secs(600)),
                    kick: true,
                    all: true,
                },
            ),
            ("undeny ::1 all", Command::Undeny { net: Ok(net("::1/128")), all: true }),
            ("denied", Command::Denied { all: false, form: Form::Text }),
            ("denied all", Command::Denied { all: true, form: Form::Text }),
            ("denied json", Command::Denied { all: false, form: Form::Json }),
            ("denied all json", Command::Denied { all: true, form: Form::Json }),
            ("ended", Command::Ended(20, Form::Text)),
            ("end 9 json", Command::Ended(9, Form::Json)),
            ("events 99999999999999999999", Command::Events(usize::MAX, Form::Text)),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(command), "{text}");
        }
        let service = Some(HostPort { host: "h".into(), port: Port::Service("smtp".into()) });
        assert_eq!(
            parse(b"create h smtp"),
            Ok(Command::Create { target: service, manner: Ok(ChannelManner::default()) })
        );
        assert_eq!(parse(b"create \xff 80"), Ok(no_address()));
    }

    #[test]
    fn what_is_no_command_is_a_syntax_error() {
        for text in [
            "",
            " ",
            "x",
            "show all",
            "disable",
            "disable x",
            "disable 1x",
            "disable +1",
            "disable -",
            "disable 1 2",
            "disable 1 hard now",
            "group",
            "group 1.0",
            "group 0x1",
            "enable 1 2",
            "create",
            "create h",
            "create h 1 2",
            "assign 0 h",
            "assign x h 1",
            "assign 0 h 1 2",
            "maxc 0",
            "maxc 0 x",
            "maxc 0 -5",
            "maxc 0 4294967296",
            "mrtg-bytes 0",
            "mrtg-bytes 0 x",
            "mrtg-conns 0 0 0",
            "help me",
            "kill x",
            "kill 1 2",
            "kill -1",
            "rr 1",
            "sho w",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(SyntaxError::Plain), "{text:?}");
        }
        assert_eq!(parse(b"\0\xff"), Err(SyntaxError::Plain));
    }

    #[test]
    fn a_wrong_use_of_what_3_57_has_not_is_answered_with_the_usage() {
        let usage = |name: &str| match parse(format!("{name} ! ! ! !").as_bytes()) {
            Err(error) => error.to_string(),
            Ok(command) => panic!("{name} takes anything: {command:?}"),
        };
        for row in &COMMANDS[..OF_3_57] {
            assert_eq!(usage(row.name), "syntax error");
        }
        for row in &COMMANDS[OF_3_57..] {
            if !["tap", "deny"].contains(&row.name) {
                assert_eq!(usage(row.name), format!("usage: {} {}", row.name, row.arguments).trim_end());
            }
        }
        // The usage is found by any legal prefix of a command.
        assert_eq!(usage("tap"), format!("usage: {TAP_USAGE}"));
        assert_eq!(usage("deny"), format!("usage: {DENY_USAGE}"));
        assert_eq!(usage("w"), "usage: wait <channel> [up] [<time>]");
        assert_eq!(usage("debug"), "usage: debug [on|off]");
        for (line, changes) in
            [("debug", false), ("debug on", true), ("show; deb off", true), ("events 9", false)]
        {
            assert_eq!(is_change(line.as_bytes()), changes, "{line}");
        }
        for text in [
            "deny",
            "deny ::1 0",
            "deny ::1 kick kick",
            "deny ::1 1s 2s",
            "deny ::1 x",
            "undeny",
            "undeny ::1 1s",
            "denied ::1",
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(SyntaxError::Usage { .. })), "{text}");
        }
        for text in ["deny x", "undeny 10.0.0.1/33", "deny 1.2.3 kick"] {
            let Ok(Command::Deny { net, .. } | Command::Undeny { net, .. }) = parse(text.as_bytes()) else {
                panic!("{text}")
            };
            assert!(net.is_err(), "{text}");
        }
        for text in ["events -1", "events x", "events 1 2", "events -1 json", "events json 1"] {
            let error = parse(text.as_bytes()).expect_err("no number of events");
            assert_eq!(error.to_string(), "usage: events [<number>] [json]", "{text}");
        }
        assert_eq!(usage("st"), "usage: status [json]");
    }

    #[test]
    fn a_semicolon_separates_commands_and_blank_ones_do_not_count() {
        let all = |line: &[u8]| parse_line(line).collect::<Vec<_>>();
        assert_eq!(all(b" "), []);
        assert_eq!(all(b";; ;"), []);
        let group = Ok(Command::Group(number("1")));
        assert_eq!(all(b"group 1; x;show;"), [group, Err(SyntaxError::Plain), Ok(Command::Show(Form::Text))]);
    }
}
