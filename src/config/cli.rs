//! The one table of options: everything about letters, names, arity and help text. `argv` becomes [`RawArgs`].
//!
//! Knows: option letters, arity, help texts, `argv` as a slice. Never: the environment, files, whether a value makes sense.
//! Source: docs/compatibility.md, "Command line".
//!
//! As with getopt, options may stand behind positionals, an option that takes a value takes whatever comes next, and of
//! an option that is repeated the last one counts.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, Parser, ValueEnum, ValueHint};

use super::usage::{help_end, help_synopsis, usage};

/// The width of the help page. Fixed, so that help does not depend on the terminal or the environment.
const HELP_WIDTH: usize = 80;

const LISTENING: &str = "Listening";
const CONNECTING: &str = "Connecting to channels";
const CHOOSING: &str = "Choosing a channel";
const HEALTH: &str = "Health of channels";
const LIMITS: &str = "Limits";
const CONTROLLING: &str = "Talking to a running instance";
const RUNNING: &str = "Running";
const HELPING: &str = "Help";

/// The command line, split into words. No value has been looked at yet.
// The first paragraph of a field is its line in --help, the others are added in the man page.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(
    name = "balance",
    bin_name = "balance",
    version,
    about = "a generic TCP proxy with round robin, client hashing and failover",
    long_about = None,
    override_usage = help_synopsis(),
    after_help = help_end(),
    term_width = HELP_WIDTH,
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true,
)]
pub struct RawArgs {
    /// Port to listen on, or name of a service; the instance to talk to with -i and -c
    #[arg(value_name = "PORT", value_hint = ValueHint::Other)]
    pub port: Option<OsString>,

    /// host[:port[:maxc]], an IPv6 address as [addr]:port:maxc; '!' ends a group, '%' ends it and makes it hash
    ///
    /// A missing or empty port is PORT. maxc is the most simultaneous connections, 0 or none is no limit. The groups are
    /// tried in the order given. An IPv6 address needs no brackets where it is the whole word and has more than two
    /// colons or starts with "::".
    ///
    /// Options of a channel follow with commas: "host:port:maxc,weight=3" gives it three times the clients of a channel
    /// of weight 1 (0 to 256; 0 is no new clients); "host,disabled" starts it disabled, "host,disabled=hard" shows it as
    /// DIS.
    ///
    /// The word "-" in place of a channel leaves its number out: in "host1 - host3", host3 is channel 2.
    // The brackets are the grammar's, for --help; they are no links.
    #[allow(rustdoc::broken_intra_doc_links)]
    #[arg(value_name = "CHANNEL", value_hint = ValueHint::Hostname)]
    pub channels: Vec<OsString>,

    /// Listen on this address or host
    ///
    /// An IPv4 address, an IPv6 address, an IPv4 address in IPv6 notation such as ::ffff:10.1.1.3, or a name. Without -b
    /// and -6 it is 0.0.0.0; with -b, -6 changes nothing.
    #[arg(short, long, value_name = "ADDR", help_heading = LISTENING, allow_hyphen_values = true, value_hint = ValueHint::Hostname)]
    pub bind: Option<OsString>,

    /// Listen on all IPv6 and IPv4 addresses
    #[arg(short = '6', long, help_heading = LISTENING)]
    pub ipv6: bool,

    /// TCP keepalive towards the clients, in seconds and probes
    ///
    /// Seconds of silence before the first probe, seconds between probes, lost probes that end the connection. Without
    /// it keepalive is on, with the system's numbers.
    #[arg(short = 'K', long, value_name = "IDLE:INTVL:CNT", help_heading = LISTENING, allow_hyphen_values = true)]
    pub client_keepalive: Option<OsString>,

    /// Address that connections to the channels come from
    #[arg(short = 'B', long, value_name = "ADDR", help_heading = CONNECTING, allow_hyphen_values = true, value_hint = ValueHint::Hostname)]
    pub source: Option<OsString>,

    /// Give a channel this long to answer a connect [default: 5s]
    ///
    /// Seconds (fractions are fine) or a number with a unit: ms, s, m, h, d. More than 0, at most ten years.
    #[arg(short = 't', long, value_name = "TIME", help_heading = CONNECTING, allow_hyphen_values = true)]
    pub connect_timeout: Option<OsString>,

    /// End a connection after this long without a byte in either direction [default: 0, never]
    #[arg(short = 'T', long, value_name = "TIME", help_heading = CONNECTING, allow_hyphen_values = true)]
    pub idle_timeout: Option<OsString>,

    /// End a connection that one side has closed and that has been silent for this long [default: 1h; 0 is never]
    #[arg(long, value_name = "TIME", help_heading = CONNECTING, allow_hyphen_values = true)]
    pub half_close_timeout: Option<OsString>,

    /// TCP keepalive towards the channels, in seconds and probes
    ///
    /// The numbers are those of --client-keepalive.
    #[arg(short = 'k', long, value_name = "IDLE:INTVL:CNT", help_heading = CONNECTING, allow_hyphen_values = true)]
    pub server_keepalive: Option<OsString>,

    /// Disable a channel whose connect fails, until it is enabled by hand
    #[arg(short, long, help_heading = CHOOSING)]
    pub autodisable: bool,

    /// Let a hash group fail over inside the group too
    #[arg(short = 'H', long, help_heading = CHOOSING)]
    pub hash_failover: bool,

    /// How a group distributes: rr, leastconn, p2c, first or hash
    ///
    /// rr: in turn, which is the default. leastconn: to the channel with the fewest connections for its weight. p2c: to the
    /// better of two channels chosen by lot. first: to the first channel that has room. hash: a client always gets the
    /// same channel.
    ///
    /// One word is for all groups that "!" or the end of the line ends, and for groups that are made later. A list such as
    /// "leastconn,rr" has one word for each group. A group that "%" ends is a hash group.
    #[arg(long, value_name = "NAME[,...]", help_heading = CHOOSING, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub policy: Option<OsString>,

    /// Most load of a hash group's channel, as a multiple of the average
    ///
    /// With 1.25 a channel that has a quarter more connections than the average of its group is passed over, and its
    /// clients get the channel they would have if that one did not exist. 1 to 100, with at most 3 decimals. Without the
    /// option a hash group does not look at the load.
    #[arg(long, value_name = "FACTOR", help_heading = CHOOSING, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub hash_balance: Option<OsString>,

    /// Time a returning channel ramps up [default: 0]
    ///
    /// A channel that was enabled or has come up again gets few clients at first, and its full share after this time. For
    /// groups that are rr, leastconn or p2c.
    #[arg(long, value_name = "TIME", help_heading = CHOOSING, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub slow_start: Option<OsString>,

    /// Keep offering channels whose connect fails
    ///
    /// That is what 3.57 does. Without it such a channel is ejected: as long as another channel is usable it is offered to
    /// no client, and tried in the background after 250 ms, then at longer intervals up to 2 s, until it answers.
    #[arg(long, help_heading = HEALTH)]
    pub no_eject: bool,

    /// Probe the channels: tcp, http:/PATH, send:, expect:, exec:/PROG
    ///
    /// "tcp": the channel takes a connection. "http:/healthz": it answers GET /healthz with a status from 200 to 399;
    /// "http:/healthz=200-299,404" names the statuses (only a list of statuses behind the last "=" is one; any other "="
    /// is part of the path). "expect:220": it says 220. "send:PING\r\n;expect:+PONG": it is sent the one and answers with
    /// the other; any number of steps with ";" between them. \r \n \t \0 \\ \; and \xHH are understood in them.
    /// "exec:/path/prog": the program, which gets host and port as its arguments, exits with 0; it is killed at the
    /// timeout.
    #[arg(long, value_name = "SPEC", help_heading = HEALTH, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub check: Option<OsString>,

    /// Time between a channel's probes [default: 2s]
    ///
    /// 10ms to 1d, from the end of one to the start of the next, give or take 10 %. No channel has more than one probe at
    /// a time.
    #[arg(long, value_name = "TIME", help_heading = HEALTH, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub check_interval: Option<OsString>,

    /// A probe fails after this long [default: 1s]
    ///
    /// 1ms to 1h.
    #[arg(long, value_name = "TIME", help_heading = HEALTH, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub check_timeout: Option<OsString>,

    /// Good probes in a row to be up [default: 2]
    ///
    /// 1 to 1000. It is for channels that were down.
    #[arg(long, value_name = "N", help_heading = HEALTH, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub check_rise: Option<OsString>,

    /// Failed probes in a row to be down [default: 3]
    ///
    /// 1 to 1000. A channel whose very first probe fails is down at once.
    #[arg(long, value_name = "N", help_heading = HEALTH, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub check_fall: Option<OsString>,

    /// Port that is probed [default: the channel's]
    #[arg(long, value_name = "N", help_heading = HEALTH, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub check_port: Option<OsString>,

    /// If all channels are down, try them [default: on]
    ///
    /// It holds when no channel that is up has room, in no group. Those that are ejected or down are then tried in order;
    /// off closes the client.
    #[arg(long, value_name = "on|off", help_heading = HEALTH, allow_hyphen_values = true, value_parser = ["on", "off"], hide_possible_values = true)]
    pub fail_open: Option<String>,

    /// A down channel's connections [default: keep]
    ///
    /// keep: they live on. kick: they are closed when --check finds the channel down; an ejection closes nothing.
    #[arg(long, value_name = "keep|kick", help_heading = HEALTH, allow_hyphen_values = true, value_parser = ["keep", "kick"], hide_possible_values = true)]
    pub on_down: Option<String>,

    /// Close the port while no channel is up
    ///
    /// Clients are then refused at once (ECONNREFUSED) instead of being accepted and closed. A channel is up when it is
    /// enabled, of a weight above 0, and neither ejected nor down; one that is full is up. Made for Linux.
    #[arg(long, help_heading = HEALTH)]
    pub refuse_when_down: bool,

    /// Most connections at a time [default: 0, no limit]
    ///
    /// Those of the whole instance, clients that wait included. More clients are not accepted until there is room.
    #[arg(long, value_name = "N", help_heading = LIMITS, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub max_connections: Option<OsString>,

    /// Clients that may wait for room [default: 0, none]
    ///
    /// When all channels that could be used have reached their limits, up to N clients wait and are served in the order
    /// they came. At most 1000000. A channel that is down is not waited for, and none is while a later group has room.
    #[arg(long, value_name = "N", help_heading = LIMITS, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub queue: Option<OsString>,

    /// How long a client may wait [default: 5s]
    ///
    /// Then it is closed. More than 0.
    #[arg(long, value_name = "TIME", help_heading = LIMITS, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub queue_timeout: Option<OsString>,

    /// End a connection at this age [default: 0, never]
    ///
    /// Give or take 10 %, so that connections that began together do not end together.
    #[arg(long, value_name = "TIME", help_heading = LIMITS, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub max_lifetime: Option<OsString>,

    /// Send one command (or several, separated by ';'), print the answer, exit
    #[arg(short, long, value_name = "CMD", help_heading = CONTROLLING, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub command: Option<OsString>,

    /// Open an interactive shell
    #[arg(short, long, help_heading = CONTROLLING)]
    pub interactive: bool,

    /// Stay in the foreground
    #[arg(short, long, help_heading = RUNNING)]
    pub foreground: bool,

    /// Print all data on stdout; needs -f
    ///
    /// "-> N" and "-< N" announce N bytes from the client and from the channel. Bytes that are not printable ASCII are
    /// shown as \XX.
    #[arg(short = 'p', long, help_heading = RUNNING)]
    pub dump: bool,

    /// Tell on stderr what happens
    #[arg(short, long, help_heading = RUNNING)]
    pub debug: bool,

    /// Number of threads that move data [default: one per core]
    #[arg(long, value_name = "N", help_heading = RUNNING, allow_hyphen_values = true)]
    pub workers: Option<OsString>,

    /// Look for events for a moment before sleeping [default: on where cores can be spared]
    ///
    /// It makes answers faster and costs time of a core that would be idle. A thread looks for at most 50 microseconds, giving
    /// way to whoever wants the core, and only while that mostly finds something; an idle instance sleeps. The default is on
    /// where the process has two cores or more and no limit of processor time.
    #[arg(long, value_name = "on|off", help_heading = RUNNING, allow_hyphen_values = true, value_parser = ["on", "off"], hide_possible_values = true)]
    pub busy_poll: Option<String>,

    /// Let the members of this unix group control the instance, too
    ///
    /// Without it, only the user who started the instance and root can.
    #[arg(long, value_name = "NAME", help_heading = RUNNING, allow_hyphen_values = true, value_hint = ValueHint::Other)]
    pub control_group: Option<OsString>,

    /// Accepted and ignored, for the sake of old scripts
    #[arg(short = 'M', long, help_heading = RUNNING)]
    pub mmap: bool,

    /// Print this help
    // HelpShort: the long texts are for the man page.
    #[arg(long, action = ArgAction::HelpShort, help_heading = HELPING)]
    help: Option<bool>,

    /// Print the version
    #[arg(long, action = ArgAction::Version, help_heading = HELPING)]
    version: Option<bool>,

    /// Print the manual page (man -l <(balance --man))
    #[arg(long, help_heading = HELPING)]
    pub man: bool,

    /// Print a completion script: bash, zsh or fish
    #[arg(long, value_name = "SHELL", help_heading = HELPING, hide_possible_values = true)]
    pub completions: Option<Shell>,
}

/// A shell that completions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// Fish.
    Fish,
}

/// Why there are no [`RawArgs`]: help was asked for, or the words are wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// `--help`: the text for stdout, exit 0.
    #[error("{0}")]
    Help(String),
    /// `--version`: the text for stdout, exit 0.
    #[error("{0}")]
    Version(String),
    /// The text for stderr, exit 64: a line that says what is wrong and what would be right, then the usage.
    #[error("{text}")]
    Usage {
        /// Ends with a newline.
        text: String,
    },
}

/// Splits `argv` (program name first) by the table.
///
/// # Errors
/// [`CliError`]: unknown options, missing values, and requests for help or version.
pub fn parse(argv: &[OsString]) -> Result<RawArgs, CliError> {
    RawArgs::try_parse_from(argv).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp => CliError::Help(error.to_string()),
        ErrorKind::DisplayVersion => CliError::Version(error.to_string()),
        _ => CliError::Usage { text: usage(&blame(&error)) },
    })
}

/// The table itself, for those who print it.
pub(super) fn table() -> clap::Command {
    RawArgs::command()
}

/// One line in our words: what is wrong with which word, what would be right.
fn blame(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(all)) => all.join(", "),
        _ => String::new(),
    };
    let word = text(ContextKind::InvalidArg);
    let value = text(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument => {
            format!("unknown option '{word}'; {}", cure(&word, &text(ContextKind::SuggestedArg)))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            let (option, example) = spelled(&word);
            format!("option {option} needs a value: {example}")
        }
        ErrorKind::InvalidValue => {
            let (option, _) = spelled(&word);
            format!("'{value}' is no value of {option}; it is one of {}", text(ContextKind::ValidValue))
        }
        ErrorKind::TooManyValues => {
            let (option, example) = spelled(&word);
            format!("option {option} takes no value, but has '{value}'; write {example}")
        }
        // No other error can come from this table; should one come all the same, its own words must do.
        _ => {
            let all = error.to_string();
            let line = all.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}

fn cure(word: &str, similar: &str) -> String {
    let meant = match word {
        "-h" => "--help",
        "-v" | "-V" => "--version",
        _ => similar,
    };
    match meant {
        "" => "'balance --help' lists all options".to_owned(),
        _ => format!("did you mean '{meant}'?"),
    }
}

/// An option as it is in the table (`--bind <ADDR>`), as a name for both spellings and as an example.
fn spelled(word: &str) -> (String, String) {
    let (name, value) = word.split_once(' ').unwrap_or((word, ""));
    let value = value.trim_matches(['<', '>']);
    let short = table()
        .get_arguments()
        .find(|arg| arg.get_long() == name.strip_prefix("--"))
        .and_then(|arg| arg.get_short());
    match short {
        Some(short) => (format!("-{short} ({name})"), format!("-{short} {value}").trim_end().to_owned()),
        None => (name.to_owned(), format!("{name} {value}").trim_end().to_owned()),
    }
}
