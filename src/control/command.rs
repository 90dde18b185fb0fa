//! The command language: one table of words, and a parser that makes a [`Command`] of a text.
//!
//! Knows: words, arguments, access. Never: the table of channels, sockets, how an answer looks.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{parse_duration, parse_net_around, policy_named, read_manner};
use crate::control::argument::{HostPort, Number};
use crate::control::tapping::TapWanted;
use crate::control::wire::printable;
use crate::sched::Policy;
use crate::spec::{ChannelCheck, ChannelManner, Check, UnixName};

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

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitGoal {
    /// The channel has no connections.
    Idle,
    /// The channel is up, and a check or a connect that began after the command has succeeded.
    Up,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text for people, and for scripts that cut columns.
    Text,
    /// One line of JSON.
    Json,
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
    parse: fn(&[&[u8]]) -> Option<Command>,
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
    fn full_usage(&self) -> String {
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

/// How similar (Jaro-Winkler, 0 to 1) an unknown word must be to a command to be offered as a correction.
const ALIKE: f64 = 0.8;

/// The arguments of `tap`; the limits and the file may be in any order.
const TAP_USAGE: &str = "tap <id> [<time>] [<size>] [<file>.pcapng|-]";

/// The arguments of `deny`; the last three may be in any order.
const DENY_USAGE: &str = "deny <cidr> [<time>] [kick] [all]";

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

/// Number of events or ended connections shown if the command does not say how many.
const EVENTS_SHOWN: usize = 20;

/// Number of rows at the beginning of the table that 3.57 has. Newer commands follow them, so that they take
/// none of their prefixes.
pub(crate) const OF_3_57: usize = 16;

/// No command has more arguments. Of the words after these, the parser only has to know that there are some.
const MAX_ARGUMENTS: usize = 4;

/// A parsed command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// End the session.
    Quit,
    /// Show all channels of all groups.
    Show(Form),
    /// `status`
    Status(Form),
    /// Print the list of commands.
    Help,
    /// Stop the service. Its connections are closed after this time; `None`: they may stay as long as they
    /// like.
    Kill(Option<Duration>),
    /// Send no new connections to a channel; `hard` also closes the existing ones.
    Disable {
        /// Its number in the current group.
        channel: Number,
        /// Close its connections.
        hard: bool,
    },
    /// Change the current group.
    Group(Number),
    /// Set a channel's counters to zero.
    Reset(Number),
    /// Send new connections to a channel again.
    Enable(Number),
    /// Create a channel, disabled.
    Create {
        /// The address; `None` if what was typed cannot be one.
        target: Option<HostPort>,
        /// The options typed after the address, or what is wrong with them.
        manner: Result<ChannelManner, String>,
    },
    /// Give a disabled channel a new address.
    Assign {
        /// Its number in the current group.
        channel: Number,
        /// The address; `None` if what was typed cannot be one. The answer reports that only after the checks
        /// that come first.
        target: Option<HostPort>,
    },
    /// Set the connection limit of a channel.
    Maxc {
        /// Its number in the current group.
        channel: Number,
        /// The limit; `None` = no limit (typed as 0).
        maxc: Option<NonZeroU32>,
    },
    /// Print the byte counters of a channel for MRTG.
    MrtgBytes {
        /// Its group.
        group: Number,
        /// Its number in the group.
        channel: Number,
    },
    /// Print the connection counter of a channel for MRTG.
    MrtgConns {
        /// Its group.
        group: Number,
        /// Its number in the group.
        channel: Number,
    },
    /// Print version and limits.
    Version,
    /// Set the policy of the current group by its 3.57 command.
    SetPolicy(Policy),
    /// Disable a channel and say how many connections are left.
    Drain(Number),
    /// Answer when a channel has no connections left, or when it works, or when the time is over.
    Wait {
        /// Its number in the current group.
        channel: Number,
        /// What to wait for.
        until: WaitGoal,
        /// How long to wait; `None` = without a limit.
        patience: Option<Duration>,
    },
    /// Close a channel's connections.
    Kick(Number),
    /// Remove a channel.
    Remove(Number),
    /// Set a channel's share of clients.
    Weight {
        /// Its number in the current group.
        channel: Number,
        /// The weight as typed.
        weight: Number,
    },
    /// Set the policy of the current group; `None` = the name that was typed is no policy.
    Policy(Option<Policy>),
    /// List all connections, or those of a channel of the current group.
    Sessions(Option<Number>, Form),
    /// Close one connection.
    Close(Number),
    /// Print the command line of the instance as it is now.
    Save,
    /// Show all services of the process.
    Services(Form),
    /// Change the current service to the one that this word names.
    Use(String),
    /// Open the file of the access log again.
    Reopen,
    /// Read the files of services again.
    Reload {
        /// Also drop what operators have changed by hand.
        clean: bool,
    },
    /// Make new clients wait for a channel of the current group, or (`None`) for all channels of the service.
    Pause(Option<Number>),
    /// End a pause; the argument is as for `Pause`.
    Resume(Option<Number>),
    /// Hand everything over to a new process that runs the program at this path; `None`: our own program.
    Upgrade(Option<Vec<u8>>),
    /// Say whether the current service has a usable channel.
    Ready {
        /// Ask this for each service of the process.
        all: bool,
    },
    /// Look for common problems in all services, or in the one that this word names.
    Doctor(Option<String>, Form),
    /// Show this many of the last events.
    Events(usize, Form),
    /// Show this many of the connections that ended last.
    Ended(usize, Form),
    /// Switch debug messages on or off; `None`: show the setting.
    Debug(Option<bool>),
    /// Refuse clients from a network.
    Deny {
        /// The network, or what is wrong with it.
        net: Result<IpNet, String>,
        /// For how long; `None`: until `undeny`.
        time: Option<Duration>,
        /// Also close the connections that come from there.
        kick: bool,
        /// Do this in all services of the process.
        all: bool,
    },
    /// End a `deny`.
    Undeny {
        /// The network, or what is wrong with it.
        net: Result<IpNet, String>,
        /// Do this in all services of the process.
        all: bool,
    },
    /// Show what is denied.
    Denied {
        /// Show it for all services of the process.
        all: bool,
        /// How it is told.
        form: Form,
    },
    /// Look up the names of all channels of the service, or of one channel of the current group.
    Resolve(Option<Number>),
    /// Show what a connection carries.
    Tap(TapWanted),
    /// Show the instance live. The program that asks draws it; the instance itself cannot.
    Top,
}

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

/// The row that a word means, and whether it is a command that 3.57 does not have.
fn row_of(word: &[u8]) -> Option<(&'static CommandWord, bool)> {
    let (number, row) = COMMANDS.iter().enumerate().find(|(_, row)| row.is_meant_by(word))?;
    Some((row, number >= OF_3_57))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).filter(|word| !word.is_empty())
}

fn alone(args: &[&[u8]], command: Command) -> Option<Command> {
    args.is_empty().then_some(command)
}

/// The arguments without the last word `json`, and the form that it stands for.
fn form_of<'a>(args: &'a [&'a [u8]]) -> (&'a [&'a [u8]], Form) {
    match args {
        [args @ .., b"json"] => (args, Form::Json),
        args => (args, Form::Text),
    }
}

/// The form, if there is no other argument; else `None`.
fn only_form(args: &[&[u8]]) -> Option<Form> {
    if let ([], form) = form_of(args) { Some(form) } else { None }
}

fn one_number(args: &[&[u8]]) -> Option<Number> {
    if let [number] = args { Number::parse(number) } else { None }
}

/// The channel; `Some(None)`: all channels; `None`: the arguments are wrong.
#[allow(clippy::option_option, reason = "the outer one says that it cannot be understood")]
fn one_or_all(args: &[&[u8]]) -> Option<Option<Number>> {
    match args {
        [] | [b"all"] => Some(None),
        [number] => Number::parse(number).map(Some),
        _ => None,
    }
}

fn two_numbers(args: &[&[u8]]) -> Option<(Number, Number)> {
    if let [first, second] = args { Some((Number::parse(first)?, Number::parse(second)?)) } else { None }
}

fn disable(args: &[&[u8]]) -> Option<Command> {
    let (channel, hard) = match args {
        [channel] | [channel, b"soft"] => (channel, false),
        [channel, b"hard"] => (channel, true),
        _ => return None,
    };
    Some(Command::Disable { channel: Number::parse(channel)?, hard })
}

fn create(args: &[&[u8]]) -> Option<Command> {
    let (last, before) = args.split_last()?;
    let (last, options) = match last.iter().position(|&byte| byte == b',') {
        Some(at) => (&last[..at], Some(&last[at + 1..])),
        None => (*last, None),
    };
    let target = match before {
        [] if is_unix(last) => HostPort::unix(last),
        // A Unix socket has no port.
        [host] if is_unix(host) => None,
        [host] => HostPort::parse(host, last),
        _ => return None,
    };
    let manner = options.map_or_else(
        || Ok(ChannelManner::default()),
        |options| read_manner(&String::from_utf8_lossy(options)).and_then(without_program),
    );
    Some(Command::Create { target, manner })
}

/// Only the person who starts the instance or writes its files may choose a program to run, not everybody who
/// may give commands.
fn without_program(manner: ChannelManner) -> Result<ChannelManner, String> {
    match manner.check {
        ChannelCheck::Own(Check::Exec(_)) => {
            Err("check=exec: cannot be given at run time; write it in the service's line".to_owned())
        }
        _ => Ok(manner),
    }
}

fn assign(args: &[&[u8]]) -> Option<Command> {
    let (channel, target) = match args {
        [channel, name] if is_unix(name) => (channel, HostPort::unix(name)),
        [channel, name, _] if is_unix(name) => (channel, None),
        [channel, host, port] => (channel, HostPort::parse(host, port)),
        _ => return None,
    };
    Some(Command::Assign { channel: Number::parse(channel)?, target })
}

fn is_unix(word: &[u8]) -> bool {
    word.starts_with(UnixName::PREFIX.as_bytes())
}

fn wait(args: &[&[u8]]) -> Option<Command> {
    let (channel, rest) = args.split_first()?;
    let (until, rest) = match rest {
        [b"up", rest @ ..] => (WaitGoal::Up, rest),
        rest => (WaitGoal::Idle, rest),
    };
    let patience = match rest {
        [] => None,
        [time] => Some(time_of(time)?),
        _ => return None,
    };
    Some(Command::Wait { channel: Number::parse(channel)?, until, patience })
}

fn net_of(word: &[u8]) -> Result<IpNet, String> {
    let text = std::str::from_utf8(word).map_err(|_| "is not UTF-8".to_owned()).and_then(parse_net_around);
    text.map_err(|why| format!("{} {why}", printable(word)))
}

/// The words after the network may be in any order, each at most once.
fn deny(args: &[&[u8]]) -> Option<Command> {
    let (net, rest) = args.split_first()?;
    let (mut time, mut kick, mut all) = (None, false, false);
    for word in rest {
        let is_new = match *word {
            b"kick" => !std::mem::replace(&mut kick, true),
            b"all" => !std::mem::replace(&mut all, true),
            word => time.replace(time_of(word).filter(|time| !time.is_zero())?).is_none(),
        };
        if !is_new {
            return None;
        }
    }
    Some(Command::Deny { net: net_of(net), time, kick, all })
}

fn time_of(word: &[u8]) -> Option<Duration> {
    parse_duration(std::str::from_utf8(word).ok()?).ok()
}

/// A number that is too large means all of them.
fn last_of(number: &Number) -> Option<usize> {
    let is_negative = number.to_string().starts_with('-');
    (!is_negative).then(|| number.index().unwrap_or(usize::MAX))
}

fn maxc(args: &[&[u8]]) -> Option<Command> {
    let (channel, limit) = two_numbers(args)?;
    Some(Command::Maxc { channel, maxc: NonZeroU32::new(limit.to_u32()?) })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::control::argument::Port;

    fn meant_by(word: &str) -> Option<&'static str> {
        COMMANDS.iter().find(|row| row.is_meant_by(word.as_bytes())).map(|row| row.name)
    }

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
        let page = include_str!("../../docs/control.md");
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
