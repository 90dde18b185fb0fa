//! The table of commands: the name of each, what it may do, what `help` says, and what reads its arguments.
//!
//! Knows: names, their order, access. Never: how a line is split, what an argument has to be, what exists.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::arguments::{
    alone, assign, create, deny, disable, form_of, last_of, maxc, net_of, one_number, one_or_all, only_form,
    time_of, two_numbers, wait,
};
use super::meaning::Command;
use crate::config::policy_named;
use crate::control::argument::Number;
use crate::control::tapping::TapWanted;
use crate::control::wire::printable;
use crate::sched::Policy;

/// The arguments of `tap`; the limits and the file may be in any order.
pub(super) const TAP_USAGE: &str = "tap <id> [<time>] [<size>] [<file>.pcapng|-]";

/// The arguments of `deny`; the last three may be in any order.
pub(super) const DENY_USAGE: &str = "deny <cidr> [<time>] [kick] [all]";

/// Number of events or ended connections shown if the command does not say how many.
const EVENTS_SHOWN: usize = 20;

/// Number of rows at the beginning of the table that 3.57 has. Newer commands follow them, so that they take
/// none of their prefixes.
pub(crate) const OF_3_57: usize = 16;

/// What a command may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Changes nothing but the session.
    Look,
    /// Changes the instance.
    Change,
    /// Changes the instance if it has arguments, and looks if not.
    ChangeByArguments,
}

/// One row of the command table.
#[derive(Debug)]
pub struct CommandWord {
    /// The full name. Any prefix of it is accepted, unless an earlier row has the same prefix.
    pub name: &'static str,
    /// A second spelling, accepted only as a whole.
    pub alias: Option<&'static str>,
    /// The arguments as `help` shows them, empty if there are none.
    pub arguments: &'static str,
    /// What the command does, as `help` shows it.
    pub help: &'static str,
    /// What the command may change.
    pub access: Access,
    /// Makes a command of the arguments; `None` if they are wrong.
    pub(super) parse: fn(&[&[u8]]) -> Option<Command>,
}

impl CommandWord {
    const fn new(
        name: &'static str,
        arguments: &'static str,
        help: &'static str,
        access: Access,
        parse: fn(&[&[u8]]) -> Option<Command>,
    ) -> Self {
        Self { name, alias: None, arguments, help, access, parse }
    }

    /// Name and arguments, as `help` shows them.
    pub(crate) fn usage(&self) -> String {
        format!("{} {}", self.name, self.arguments).trim_end().to_owned()
    }

    /// Name and all arguments, also where `help` shows a shorter form.
    pub(super) fn full_usage(&self) -> String {
        match self.name {
            "disable" => "disable <channel> [hard]".to_owned(),
            "kill" => "kill [<time>]".to_owned(),
            "show" => "show [json]".to_owned(),
            "tap" => TAP_USAGE.to_owned(),
            "deny" => DENY_USAGE.to_owned(),
            _ => self.usage(),
        }
    }

    fn is_meant_by(&self, word: &[u8]) -> bool {
        let prefix = !word.is_empty() && self.name.as_bytes().starts_with(word);
        prefix || self.alias.is_some_and(|alias| alias.as_bytes() == word)
    }
}

/// All commands. A shortened word means the first row that it fits. So the order is part of the language (`r`
/// is `reset`, `m` is `maxc`), and a new command goes to the end.
pub const COMMANDS: &[CommandWord] = &[
    CommandWord::new("quit", "", "quit interactive mode", Access::Look, |args| alone(args, Command::Quit)),
    // `json` is not listed as an argument here, because `help` prints this row exactly as 3.57 does.
    CommandWord::new("show", "", "show all channels in all groups", Access::Look, |args| {
        only_form(args).map(Command::Show)
    }),
    CommandWord {
        name: "help",
        alias: Some("?"),
        arguments: "",
        help: "prints this message",
        access: Access::Look,
        parse: |args| alone(args, Command::Help),
    },
    CommandWord::new("kill", "", "kills master process and quits interactive mode", Access::Change, |args| {
        match args {
            [] => Some(Command::Kill(None)),
            [time] => Some(Command::Kill(Some(time_of(time)?))),
            _ => None,
        }
    }),
    CommandWord::new(
        "disable",
        "<channel>",
        "disables specified channel in current group",
        Access::Change,
        disable,
    ),
    CommandWord::new("group", "<group>", "changes current group to <group>", Access::Look, |args| {
        one_number(args).map(Command::Group)
    }),
    CommandWord::new(
        "reset",
        "<channel>",
        "reset all counters of channel in current group",
        Access::Change,
        |args| one_number(args).map(Command::Reset),
    ),
    CommandWord::new("enable", "<channel>", "enables channel in current group", Access::Change, |args| {
        one_number(args).map(Command::Enable)
    }),
    CommandWord::new(
        "create",
        "<host> <port>",
        "creates a channel in the current group",
        Access::Change,
        create,
    ),
    CommandWord::new(
        "assign",
        "<channel> <host> <port>",
        "reassigns a channel in the current group",
        Access::Change,
        assign,
    ),
    CommandWord::new(
        "maxc",
        "<channel> <maxc>",
        "specifies new maxc for channel of current group",
        Access::Change,
        maxc,
    ),
    CommandWord::new("mrtg-bytes", "<grp> <ch>", "print bytes in/out in MRTG format", Access::Look, |args| {
        two_numbers(args).map(|(group, channel)| Command::MrtgBytes { group, channel })
    }),
    CommandWord::new(
        "mrtg-conns",
        "<grp> <ch>",
        "print total connections in MRTG format",
        Access::Look,
        |args| two_numbers(args).map(|(group, channel)| Command::MrtgConns { group, channel }),
    ),
    CommandWord::new("version", "", "show version id", Access::Look, |args| alone(args, Command::Version)),
    CommandWord::new(
        "hash",
        "",
        "sets distribution scheme of current group to Hash",
        Access::Change,
        |args| alone(args, Command::SetPolicy(Policy::Hash)),
    ),
    CommandWord::new(
        "rr",
        "",
        "sets distribution scheme of current group to Round Robin",
        Access::Change,
        |args| alone(args, Command::SetPolicy(Policy::RoundRobin)),
    ),
    CommandWord::new("status", "[json]", "shows state and failures of all channels", Access::Look, |args| {
        only_form(args).map(Command::Status)
    }),
    CommandWord::new(
        "drain",
        "<channel>",
        "disables a channel and prints how many connections are left",
        Access::Change,
        |args| one_number(args).map(Command::Drain),
    ),
    CommandWord::new(
        "wait",
        "<channel> [up] [<time>]",
        "waits until a channel has no connections; up: until it works",
        Access::Look,
        wait,
    ),
    CommandWord::new("kick", "<channel>", "closes all connections of a channel", Access::Change, |args| {
        one_number(args).map(Command::Kick)
    }),
    CommandWord::new(
        "remove",
        "<channel>",
        "removes a disabled channel without connections",
        Access::Change,
        |args| one_number(args).map(Command::Remove),
    ),
    CommandWord::new(
        "weight",
        "<channel> <weight>",
        "specifies new weight (0 to 256) for channel of current group",
        Access::Change,
        |args| two_numbers(args).map(|(channel, weight)| Command::Weight { channel, weight }),
    ),
    CommandWord::new(
        "policy",
        "<name>",
        "sets policy of current group: rr, leastconn, p2c, first, hash",
        Access::Change,
        |args| {
            if let [name] = args {
                Some(Command::Policy(std::str::from_utf8(name).ok().and_then(policy_named)))
            } else {
                None
            }
        },
    ),
    CommandWord::new(
        "sessions",
        "[<channel>] [json]",
        "lists the connections of all channels, or of one",
        Access::Look,
        |args| {
            let (args, form) = form_of(args);
            match args {
                [] => Some(Command::Sessions(None, form)),
                [channel] => Some(Command::Sessions(Some(Number::parse(channel)?), form)),
                _ => None,
            }
        },
    ),
    CommandWord::new("close", "<id>", "closes one connection", Access::Change, |args| {
        one_number(args).map(Command::Close)
    }),
    CommandWord::new(
        "save",
        "",
        "prints the command line that starts this instance as it is now",
        Access::Look,
        |args| alone(args, Command::Save),
    ),
    CommandWord::new("services", "[json]", "shows the services of this process", Access::Look, |args| {
        only_form(args).map(Command::Services)
    }),
    CommandWord::new(
        "use",
        "<service>",
        "changes the current service, by name, address:port or port",
        Access::Look,
        |args| if let [word] = args { Some(Command::Use(printable(word))) } else { None },
    ),
    CommandWord::new(
        "reload",
        "[clean]",
        "reads the files again; clean: also drops changes made by hand",
        Access::Change,
        |args| match args {
            [] => Some(Command::Reload { clean: false }),
            [b"clean"] => Some(Command::Reload { clean: true }),
            _ => None,
        },
    ),
    CommandWord::new("reopen", "", "opens the file of the access log again", Access::Change, |args| {
        args.is_empty().then_some(Command::Reopen)
    }),
    CommandWord::new(
        "pause",
        "[<channel>|all]",
        "makes new clients of a channel, or of all channels, wait",
        Access::Change,
        |args| one_or_all(args).map(Command::Pause),
    ),
    CommandWord::new(
        "resume",
        "[<channel>|all]",
        "ends a pause, and serves the clients that wait",
        Access::Change,
        |args| one_or_all(args).map(Command::Resume),
    ),
    CommandWord::new(
        "upgrade",
        "[<path>]",
        "hands everything over to a new process, or to the program at path",
        Access::Change,
        |args| match args {
            [] => Some(Command::Upgrade(None)),
            [path] => Some(Command::Upgrade(Some(path.to_vec()))),
            _ => None,
        },
    ),
    CommandWord::new(
        "events",
        "[<number>] [json]",
        "shows the last 20 events, or the last <number>, with times",
        Access::Look,
        |args| {
            let (args, form) = form_of(args);
            match args {
                [] => Some(Command::Events(EVENTS_SHOWN, form)),
                [number] => last_of(&Number::parse(number)?).map(|most| Command::Events(most, form)),
                _ => None,
            }
        },
    ),
    CommandWord::new(
        "debug",
        "[on|off]",
        "switches debug messages on or off, or shows the setting",
        Access::ChangeByArguments,
        |args| match args {
            [] => Some(Command::Debug(None)),
            [b"on"] => Some(Command::Debug(Some(true))),
            [b"off"] => Some(Command::Debug(Some(false))),
            _ => None,
        },
    ),
    CommandWord::new(
        "ready",
        "[all]",
        "says whether current service, or each one, has a usable channel",
        Access::Look,
        |args| match args {
            [] => Some(Command::Ready { all: false }),
            [b"all"] => Some(Command::Ready { all: true }),
            _ => None,
        },
    ),
    CommandWord::new(
        "tap",
        "<id> [<limit>...] [<file>]",
        "shows what a connection carries, up to a limit (10m, 1GiB), or writes it to file.pcapng",
        Access::Look,
        |args| TapWanted::parse(args).map(Command::Tap),
    ),
    CommandWord::new(
        "doctor",
        "[<service>] [json]",
        "looks for what usually goes wrong, and says what to do",
        Access::Look,
        |args| {
            let (args, form) = form_of(args);
            match args {
                [] => Some(Command::Doctor(None, form)),
                [service] => Some(Command::Doctor(Some(printable(service)), form)),
                _ => None,
            }
        },
    ),
    CommandWord::new(
        "top",
        "",
        "shows the instance live, in the terminal that -c top or -i runs in",
        Access::Look,
        |args| alone(args, Command::Top),
    ),
    CommandWord::new(
        "ended",
        "[<number>] [json]",
        "shows the last connections that ended, and why: 20 or <number>",
        Access::Look,
        |args| {
            let (args, form) = form_of(args);
            match args {
                [] => Some(Command::Ended(EVENTS_SHOWN, form)),
                [number] => last_of(&Number::parse(number)?).map(|most| Command::Ended(most, form)),
                _ => None,
            }
        },
    ),
    CommandWord::new(
        "deny",
        "<cidr> [<time>] [kick]",
        "refuses clients from an address or a network; kick: closes their connections",
        Access::Change,
        deny,
    ),
    CommandWord::new("undeny", "<cidr> [all]", "ends a deny", Access::Change, |args| match args {
        [net] => Some(Command::Undeny { net: net_of(net), all: false }),
        [net, b"all"] => Some(Command::Undeny { net: net_of(net), all: true }),
        _ => None,
    }),
    CommandWord::new(
        "denied",
        "[all] [json]",
        "shows what deny refuses, and for how much longer",
        Access::Look,
        |args| {
            let (args, form) = form_of(args);
            match args {
                [] => Some(Command::Denied { all: false, form }),
                [b"all"] => Some(Command::Denied { all: true, form }),
                _ => None,
            }
        },
    ),
    CommandWord::new(
        "resolve",
        "[<channel>]",
        "looks names up now, of all channels of current service or of one",
        Access::Change,
        |args| match args {
            [] => Some(Command::Resolve(None)),
            [channel] => Number::parse(channel).map(|channel| Command::Resolve(Some(channel))),
            _ => None,
        },
    ),
];

/// The row that a word means, and whether it is a command that 3.57 does not have.
pub(super) fn row_of(word: &[u8]) -> Option<(&'static CommandWord, bool)> {
    let (number, row) = COMMANDS.iter().enumerate().find(|(_, row)| row.is_meant_by(word))?;
    Some((row, number >= OF_3_57))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant_by(word: &str) -> Option<&'static str> {
        COMMANDS.iter().find(|row| row.is_meant_by(word.as_bytes())).map(|row| row.name)
    }

    #[test]
    fn commands_are_looked_up_in_the_order_of_3_57() {
        let names: Vec<&str> = COMMANDS.iter().map(|row| row.name).collect();
        let first = "quit show help kill disable group reset enable create assign maxc mrtg-bytes mrtg-conns version hash rr";
        assert_eq!(names[..OF_3_57].join(" "), first);
        for new in &names[OF_3_57..] {
            // A new command must not be a prefix by which an old command was called.
            assert!(!names[..OF_3_57].iter().any(|old| old.starts_with(new)), "{new}");
            assert_eq!(meant_by(new), Some(*new), "{new} is hidden by an older command");
        }
    }

    #[test]
    fn the_documents_list_all_commands_in_this_order() {
        let page = include_str!("../../../docs/control.md");
        let (_, list) = page.split_once("takes the first in this list:").expect("the list");
        let (list, _) = list.split_once(". So ").expect("its end");
        let words: Vec<&str> = list.split('`').skip(1).step_by(2).filter(|word| *word != "?").collect();
        assert_eq!(words, COMMANDS.iter().map(|row| row.name).collect::<Vec<_>>());
    }

    #[test]
    fn a_prefix_means_the_first_command_that_has_it() {
        for (word, name) in [
            ("s", "show"),
            ("h", "help"),
            ("?", "help"),
            ("ha", "hash"),
            ("r", "reset"),
            ("rr", "rr"),
            ("m", "maxc"),
            ("mrtg", "mrtg-bytes"),
            ("mrtg-c", "mrtg-conns"),
            ("k", "kill"),
            ("q", "quit"),
            ("d", "disable"),
            ("g", "group"),
            ("e", "enable"),
            ("c", "create"),
            ("a", "assign"),
            ("v", "version"),
            ("st", "status"),
            ("dr", "drain"),
            ("w", "wait"),
            ("we", "weight"),
            ("kic", "kick"),
            ("ki", "kill"),
            ("re", "reset"),
            ("rem", "remove"),
            ("p", "policy"),
            ("se", "sessions"),
            ("cl", "close"),
            ("sa", "save"),
        ] {
            assert_eq!(meant_by(word), Some(name), "{word}");
        }
        for word in ["", "shows", "x", "Show", "??", "help?", "\0"] {
            assert_eq!(meant_by(word), None, "{word:?}");
        }
    }
}
