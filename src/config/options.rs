//! The table of options: one row per option, which the command line, files, `save`, help, the manual page and completions read.
//!
//! Knows: letters, names, values, sections and texts; which setting each option is for. Never: where words come from, how a
//! page is laid out.
//! Source: docs/compatibility.md, "Command line".
//!
//! `save` prints the rows in this order, those of the process first.

use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::check::{print_check, read_check};
use super::draft::{Draft, Shell};
use super::duration::print_duration;
use super::host::{print_http, read_host, read_http};
use super::policy::PolicyWord;
use super::values::{
    Bad, Count, Span, print_count, print_keepalive, print_moments, print_or, print_seconds,
    print_thousandths, read_keepalive, read_moments, thousandths,
};
use super::wrong::{Word, Wrong};
use crate::spec::{HostSpec, LineFormat, Named, OnDown, Typed};

/// One option.
pub(super) struct Row {
    pub(super) short: Option<char>,
    pub(super) long: &'static str,
    pub(super) value: Value,
    pub(super) scope: Scope,
    pub(super) section: &'static str,
    /// One line, for `--help` and the manual page.
    pub(super) help: &'static str,
    /// What holds without the option, for readers. Empty: nothing worth saying.
    pub(super) default: &'static str,
    /// Paragraphs for the manual page.
    pub(super) more: &'static str,
    /// Reads the value; of a flag, which has none, the option itself.
    pub(super) read: fn(&mut Draft, &Word) -> Result<(), Bad>,
    /// The value as it would be typed; of a flag anything that differs from what holds without it. What does not differ
    /// from that is not printed.
    pub(super) print: fn(&Draft) -> String,
    /// Another option that this one is of no use without.
    pub(super) needs: Option<Need>,
    /// It may be given several times, and each counts.
    pub(super) repeats: bool,
}

/// What an option takes.
#[derive(Clone, Copy)]
pub(super) enum Value {
    /// Nothing.
    Flag,
    /// A word; the name is for help.
    Word(&'static str),
    /// A host or an address.
    Host,
    /// A file or a directory.
    Path,
    /// A program.
    Program,
    /// One of these; the name is for help.
    OneOf(&'static str, &'static [&'static str]),
}

/// What an option is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The process: once, whatever it serves.
    Process,
    /// A service: on each line, or as a default.
    Service,
    /// Something else than serving, or where the lines come from. For the command line only.
    Ask,
}

/// A rule between two options.
#[derive(Clone, Copy)]
pub(super) struct Need {
    pub(super) is_met: fn(&Draft) -> bool,
    /// What stands behind the option's name in the message.
    pub(super) wrong: &'static str,
}

impl Row {
    /// As messages have it: `-t (--connect-timeout)`, `--queue`.
    pub(super) fn name(&self) -> String {
        match self.short {
            Some(short) => format!("-{short} (--{})", self.long),
            None => format!("--{}", self.long),
        }
    }

    /// The shorter way to type it.
    pub(super) fn shortest(&self) -> String {
        self.short.map_or_else(|| format!("--{}", self.long), |short| format!("-{short}"))
    }

    /// An example of its use: `-t TIME`.
    pub(super) fn example(&self) -> String {
        format!("{} {}", self.shortest(), self.value.name()).trim_end().to_owned()
    }

    /// Reads a value, or for a flag the option itself.
    ///
    /// # Errors
    /// The whole message.
    pub(super) fn apply(&self, draft: &mut Draft, word: &Word) -> Result<(), Wrong> {
        let (name, value) = (self.name(), word.shown());
        (self.read)(draft, word).map_err(|bad| match bad {
            Bad::Value(wrong) => Wrong::Usage(format!("{name} '{value}' {wrong}")),
            Bad::Rule(wrong) => Wrong::Usage(format!("{name} {wrong}")),
            Bad::Address(wrong) => wrong,
        })
    }
}

impl Value {
    /// Its name in help. Empty for a flag.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flag => "",
            Self::Word(name) | Self::OneOf(name, _) => name,
            Self::Host => "ADDR",
            Self::Path => "FILE",
            Self::Program => "PROG",
        }
    }

    pub(super) fn is_flag(self) -> bool {
        matches!(self, Self::Flag)
    }
}

const LISTENING: &str = "Listening";
const CONNECTING: &str = "Connecting to channels";
const CHOOSING: &str = "Choosing a channel";
const HEALTH: &str = "Health of channels";
const LIMITS: &str = "Limits";
const CONTROLLING: &str = "Talking to a running instance";
const RUNNING: &str = "Running";
const HELPING: &str = "Help";

const TIME: Value = Value::Word("TIME");
const NUMBER: Value = Value::Word("N");
const KEEPALIVE: Value = Value::Word("IDLE:INTVL:CNT");
const SWITCH: Value = Value::OneOf("on|off", &["on", "off"]);

/// More threads than any machine this was tried on has cores.
const MAX_WORKERS: u32 = 1_024;
/// More clients than any machine has descriptors for.
const MAX_QUEUE: u32 = 1_000_000;
/// Of rise and fall; more in a row would hardly ever happen.
const MOST_IN_A_ROW: u32 = 1_000;
/// Closer together, the probes of many channels would be a load of their own.
const CHECK_INTERVAL: Span =
    Span { least: Duration::from_millis(10), most: Duration::from_secs(86_400), zero: None };
const CHECK_TIMEOUT: Span =
    Span { least: Duration::from_millis(1), most: Duration::from_secs(3_600), zero: None };

const NEEDS_ACCESS_LOG: Option<Need> = Some(Need {
    is_met: |draft| draft.process.access_log.is_some(),
    wrong: "needs --access-log; say where the lines go, such as --access-log /var/log/balance/access.log",
});

const NEEDS_CHECK: Option<Need> = Some(Need {
    is_met: |draft| draft.check.is_some(),
    wrong: "needs --check; say how to probe, such as --check tcp",
});

/// What most rows say where they say nothing.
const PLAIN: Row = Row {
    short: None,
    long: "",
    value: Value::Flag,
    scope: Scope::Service,
    section: "",
    help: "",
    default: "",
    more: "",
    read: |_, _| Ok(()),
    print: |_| String::new(),
    needs: None,
    repeats: false,
};

/// All options.
pub(super) static OPTIONS: &[Row] = &[
    Row {
        short: Some('f'),
        long: "foreground",
        scope: Scope::Process,
        section: RUNNING,
        help: "Stay in the foreground",
        more: "Log to stderr and end with Ctrl-C. Example: balance -f 8888 host1 10.1.1.1:8000",
        read: |draft, _| set(&mut draft.process.foreground, true),
        print: |draft| draft.process.foreground.to_string(),
        ..PLAIN
    },
    Row {
        short: Some('d'),
        long: "debug",
        scope: Scope::Process,
        section: RUNNING,
        help: "Log debug messages to stderr, or to syslog in the background",
        more: "What happens to each client. The command debug switches it while balance runs. Example: balance -f -d 80 web1 web2",
        read: |draft, _| set(&mut draft.process.debug, true),
        print: |draft| draft.process.debug.to_string(),
        ..PLAIN
    },
    Row {
        long: "log-time",
        scope: Scope::Process,
        section: RUNNING,
        help: "Begin each log line on stderr with the time",
        more: "The time is UTC, with milliseconds: 2026-11-28T23:59:59.123Z. Lines in syslog have a time already. Example: \
               balance -f --log-time 80 web1 web2",
        read: |draft, _| set(&mut draft.process.log_time, true),
        print: |draft| draft.process.log_time.to_string(),
        ..PLAIN
    },
    Row {
        short: Some('p'),
        long: "dump",
        scope: Scope::Process,
        section: RUNNING,
        help: "Print all data on stdout; needs -f",
        more: "\"-> N\" announces N bytes from the client, \"-< N\" N bytes from the channel. Bytes that are not printable \
               ASCII are shown as \\XX. Example: balance -fp imap mailserver",
        read: |draft, _| set(&mut draft.process.dump, true),
        print: |draft| draft.process.dump.to_string(),
        ..PLAIN
    },
    Row {
        long: "workers",
        value: NUMBER,
        scope: Scope::Process,
        section: RUNNING,
        help: "Number of threads that move data",
        default: "one per core",
        more: "Example: balance --workers 2 80 web1 web2",
        read: |draft, word| {
            let workers: u16 = Count::to(MAX_WORKERS).read(word)?;
            set(&mut draft.process.workers, NonZeroUsize::new(workers.into()))
        },
        print: |draft| draft.process.workers.map_or_else(String::new, |n| n.to_string()),
        ..PLAIN
    },
    Row {
        long: "busy-poll",
        value: SWITCH,
        scope: Scope::Process,
        section: RUNNING,
        help: "Poll for events for a moment before sleeping",
        default: "off",
        more: "With few clients at a time, polling makes answers faster and uses time of a core that would be idle. With \
               many clients, or with other programs that want the cores, it makes the slowest answers slower. A thread \
               polls for at most 50 microseconds, yields to any other thread that wants the core, and stops polling where \
               it mostly finds nothing. An idle instance sleeps. Example: balance --busy-poll on 5432 db1",
        read: |draft, word| set(&mut draft.process.busy_poll, Some(is_on(word))),
        print: |draft| draft.process.busy_poll.map_or_else(String::new, on_off),
        ..PLAIN
    },
    Row {
        long: "loopback-congestion",
        value: Value::Word("NAME"),
        scope: Scope::Process,
        section: RUNNING,
        help: "Congestion control for connections within this host",
        default: "the system's",
        more: "A congestion control that paces, as bbr does, halves what a connection to 127.0.0.0/8 or ::1 can carry; there, \
               reno or cubic is faster. Connections to anywhere else keep what the system has. Linux only. Example: \
               balance --loopback-congestion cubic 80 127.0.0.1:8080",
        read: |draft, word| {
            let is_name = |name: &&str| {
                !name.is_empty()
                    && name.len() < 16
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
            };
            match word.as_str().filter(is_name) {
                Some(name) => {
                    let named = Named { name: name.to_owned(), typed: word.typed() };
                    set(&mut draft.process.loopback_congestion, Some(named))
                }
                None => {
                    Err(Bad::Value("is not the name of a congestion control, like reno or cubic".to_owned()))
                }
            }
        },
        print: |draft| name_of(draft.process.loopback_congestion.as_ref()),
        ..PLAIN
    },
    Row {
        long: "drain-timeout",
        value: TIME,
        scope: Scope::Process,
        section: RUNNING,
        help: "Let connections finish for this long after SIGTERM",
        default: "30s",
        more: "On SIGTERM, balance frees its ports at once and goes on to serve the connections it has. It exits when the last \
               one has ended. After this time it closes the rest. With 0 it closes all connections at once. SIGINT and a \
               second SIGTERM do the same at any time. Set it lower than what the service manager waits before SIGKILL: systemd \
               waits 90 s, docker stop 10 s. Example: balance --drain-timeout 8s 80 web1 web2",
        read: |draft, word| set(&mut draft.process.drain_timeout, Span::or("at once").read(word)?),
        print: |draft| print_duration(draft.process.drain_timeout),
        ..PLAIN
    },
    Row {
        long: "state",
        value: Value::Path,
        scope: Scope::Process,
        section: RUNNING,
        help: "Keep what commands change in this file over a restart",
        more: "What commands change at run time (disable, enable, weight, maxc, create, assign, remove, policy) is written to FILE, at \
               most once a second, and applied when balance starts again. Where the line of a channel was edited since, the \
               line holds. A FILE that is damaged or of another format is renamed to FILE.bad, and balance starts all the \
               same. Each instance needs a FILE of its own. Example: balance --state /var/lib/balance/web.state 80 web1 web2",
        read: |draft, word| match word.as_str().filter(|path| !path.is_empty()) {
            Some(path) => {
                set(&mut draft.process.state, Some(Named { name: path.to_owned(), typed: word.typed() }))
            }
            None => Err(Bad::Value("is not a file name".to_owned())),
        },
        print: |draft| name_of(draft.process.state.as_ref()),
        ..PLAIN
    },
    Row {
        long: "http",
        value: Value::Word("ADDR:PORT"),
        scope: Scope::Process,
        section: RUNNING,
        help: "Serve a page, metrics and readiness probes by HTTP here",
        default: "off",
        more: "The page at / is for browsers, /metrics is for Prometheus, /healthz says that the process answers, /readyz and /readyz/SERVICE say whether there is a \
               channel for clients. A port alone means 127.0.0.1. Anyone who reaches it can read everything: give an address that only \
               your own network reaches. A request whose Host is neither an address, nor localhost, nor the name given here is refused. \
               Example: balance --http 7780 80 web1 web2",
        read: |draft, word| set(&mut draft.process.http, Some(read_http(word)?)),
        print: |draft| draft.process.http.as_ref().map_or_else(String::new, print_http),
        ..PLAIN
    },
    Row {
        long: "http-token-file",
        value: Value::Path,
        scope: Scope::Process,
        section: RUNNING,
        help: "Let those who have the token in this file give commands by HTTP",
        more: "With it, the page of --http has buttons (disable, enable, drain, kick, weight, maxc, pause, resume, close), and \
               POST /api/v1/command takes such commands. Without it, HTTP is read-only. The token is the text of FILE: 16 to 1024 \
               characters without blanks. balance reads FILE anew for each command. HTTP does not encrypt the token: use it on \
               loopback or in a network that you trust. Example: openssl rand -hex 16 >/etc/balance.token; chmod 600 \
               /etc/balance.token; balance --http 7780 --http-token-file /etc/balance.token 80 web1 web2",
        read: |draft, word| match word.as_str().filter(|path| !path.is_empty()) {
            Some(path) => set(
                &mut draft.process.http_token_file,
                Some(Named { name: path.to_owned(), typed: word.typed() }),
            ),
            None => Err(Bad::Value("is not a file name".to_owned())),
        },
        print: |draft| name_of(draft.process.http_token_file.as_ref()),
        needs: Some(Need {
            is_met: |draft| draft.process.http.is_some(),
            wrong: "needs --http; say where to listen, such as --http 7780",
        }),
        ..PLAIN
    },
    Row {
        long: "access-log",
        value: Value::Path,
        scope: Scope::Process,
        section: RUNNING,
        help: "Write a line about each connection to this file",
        default: "off",
        more: "balance appends to FILE. You may move it away or truncate it at any time: balance notices a file that was moved or deleted within a \
               second, and SIGHUP, SIGUSR1 and the command reopen open FILE again at once. \"syslog\" means the local syslog, \"-\" means \
               stdout and needs -f. Lines that cannot be written in time are dropped and counted; clients never wait. \
               Example: balance --access-log /var/log/balance/access.log 80 web1 web2",
        read: |draft, word| match word.as_str().filter(|path| !path.is_empty()) {
            Some(path) => {
                set(&mut draft.process.access_log, Some(Named { name: path.to_owned(), typed: word.typed() }))
            }
            None => Err(Bad::Value("is not a file name".to_owned())),
        },
        print: |draft| name_of(draft.process.access_log.as_ref()),
        ..PLAIN
    },
    Row {
        long: "log-format",
        value: Value::OneOf("FORMAT", &["text", "json"]),
        scope: Scope::Process,
        section: RUNNING,
        help: "Format of the access log: text or json",
        default: "text",
        more: "text: keys and values, key=value. json: one object on each line. Example: balance --access-log /var/log/balance/access.log \
               --log-format json 80 web1 web2",
        read: |draft, word| {
            let format = if word.text == *"json" { LineFormat::Json } else { LineFormat::Text };
            set(&mut draft.process.log_format, format)
        },
        print: |draft| match draft.process.log_format {
            LineFormat::Text => "text".to_owned(),
            LineFormat::Json => "json".to_owned(),
        },
        needs: NEEDS_ACCESS_LOG,
        ..PLAIN
    },
    Row {
        long: "log-at",
        value: Value::Word("LIST"),
        scope: Scope::Process,
        section: RUNNING,
        help: "When the access log gets a line: start, end, TIME",
        default: "end",
        more: "start: when a client has got its channel. end: when a connection has ended. TIME, at least 1s: each time a connection has \
               gone on for so long. Example: balance --access-log /var/log/balance/access.log --log-at start,end,5m 80 web1 web2",
        read: |draft, word| set(&mut draft.process.log_at, read_moments(word)?),
        print: |draft| print_moments(draft.process.log_at),
        needs: NEEDS_ACCESS_LOG,
        ..PLAIN
    },
    Row {
        long: "control-group",
        value: Value::Word("NAME"),
        scope: Scope::Process,
        section: RUNNING,
        help: "Let this unix group control the instance, too",
        more: "Without it, only root and the user who started the instance can. Example: balance --control-group www 80 web1 web2",
        read: |draft, word| {
            let is_name =
                |name: &&str| !name.is_empty() && !name.contains(|c: char| c.is_control() || c == ':');
            match word.as_str().filter(is_name) {
                Some(name) => {
                    let named = Named { name: name.to_owned(), typed: word.typed() };
                    set(&mut draft.process.control_group, Some(named))
                }
                None => Err(Bad::Value("is not the name of a unix group".to_owned())),
            }
        },
        print: |draft| name_of(draft.process.control_group.as_ref()),
        ..PLAIN
    },
    Row {
        short: Some('6'),
        long: "ipv6",
        section: LISTENING,
        help: "Listen on all IPv6 and IPv4 addresses",
        more: "Example: balance -6 80 web1 web2",
        read: |draft, _| set(&mut draft.ipv6, true),
        print: |draft| draft.ipv6.to_string(),
        ..PLAIN
    },
    Row {
        short: Some('b'),
        long: "bind",
        value: Value::Host,
        section: LISTENING,
        help: "Listen on this address or host",
        default: "0.0.0.0",
        more: "An IPv4 address, an IPv6 address, an IPv4 address in IPv6 notation such as ::ffff:10.1.1.3, or a name. With \
               -b, -6 changes nothing. Example: balance -b 10.1.1.3 80 web1 web2",
        read: |draft, word| set(&mut draft.bind, Some(read_host(word).map_err(Bad::Address)?)),
        print: |draft| print_host(&draft.bind),
        ..PLAIN
    },
    Row {
        short: Some('B'),
        long: "source",
        value: Value::Host,
        section: CONNECTING,
        help: "Connect to the channels from this address",
        more: "It must be an address of this machine. Example: balance -B 10.1.1.3 80 web1 web2",
        read: |draft, word| set(&mut draft.service.source, Some(read_host(word).map_err(Bad::Address)?)),
        print: |draft| print_host(&draft.service.source),
        ..PLAIN
    },
    Row {
        short: Some('t'),
        long: "connect-timeout",
        value: TIME,
        section: CONNECTING,
        help: "Give a channel this long to answer a connect",
        default: "5s",
        more: "Seconds (fractions are fine), or a number with a unit: ms, s, m, h, d. More than 0, at most ten years. The \
               addresses of a name share this time. Example: balance -t 2 80 web1 web2",
        read: |draft, word| match Span::ANY.read(word) {
            Err(_) if Span::or("").read(word) == Ok(Duration::ZERO) => {
                Err(Bad::Rule("must be more than 0; it is 5 seconds without -t".to_owned()))
            }
            span => set(&mut draft.service.connect_timeout, span?),
        },
        print: |draft| print_seconds(draft.service.connect_timeout),
        ..PLAIN
    },
    Row {
        short: Some('T'),
        long: "idle-timeout",
        value: TIME,
        section: CONNECTING,
        help: "Close a connection after this long without a byte in either direction",
        default: "0, never",
        more: "Example: balance -T 10m 80 web1 web2",
        read: |draft, word| set(&mut draft.service.idle_timeout, Span::or("never").read_or(word)?),
        print: |draft| print_seconds(draft.service.idle_timeout.unwrap_or_default()),
        ..PLAIN
    },
    Row {
        long: "half-close-timeout",
        value: TIME,
        section: CONNECTING,
        help: "Close a half-closed connection after this long without a byte",
        default: "10m; 0 is never",
        more: "A connection is half-closed when one side has ended its direction. Only silence counts: as long as the other side \
               takes or sends bytes, the connection lives on. A peer that has closed its connection whole, or whose system has \
               forgotten it, is found much sooner, in about a minute. Example: balance --half-close-timeout 1m 80 web1 web2",
        read: |draft, word| set(&mut draft.service.half_close_timeout, Span::or("never").read_or(word)?),
        print: |draft| print_or(draft.service.half_close_timeout),
        ..PLAIN
    },
    Row {
        short: Some('K'),
        long: "client-keepalive",
        value: KEEPALIVE,
        section: LISTENING,
        help: "TCP keepalive towards the clients",
        more: "Seconds of silence before the first probe, seconds between probes, number of lost probes that end the \
               connection. Without the option keepalive is on, with the system's numbers. Example: balance -K 60:10:6 80 web1 web2",
        read: |draft, word| set(&mut draft.service.client_keepalive, Some(read_keepalive(word)?)),
        print: |draft| print_keepalive(draft.service.client_keepalive),
        ..PLAIN
    },
    Row {
        short: Some('k'),
        long: "server-keepalive",
        value: KEEPALIVE,
        section: CONNECTING,
        help: "TCP keepalive towards the channels",
        more: "The numbers are those of --client-keepalive. Example: balance -k 60:10:6 80 web1 web2",
        read: |draft, word| set(&mut draft.service.server_keepalive, Some(read_keepalive(word)?)),
        print: |draft| print_keepalive(draft.service.server_keepalive),
        ..PLAIN
    },
    Row {
        short: Some('a'),
        long: "autodisable",
        section: CHOOSING,
        help: "Disable a channel whose connect fails, until it is enabled by hand",
        more: "The command enable brings it back. Example: balance -a 80 web1 web2",
        read: |draft, _| set(&mut draft.service.autodisable, true),
        print: |draft| draft.service.autodisable.to_string(),
        ..PLAIN
    },
    Row {
        short: Some('H'),
        long: "hash-failover",
        section: CHOOSING,
        help: "Let a hash group fail over inside the group, too",
        more: "The clients of a channel that is down go to the other channels of the group. Without the option they go to the \
               next group, and are closed if there is none. Example: balance -H 80 web1 web2 web3 %",
        read: |draft, _| set(&mut draft.service.hash_failover, true),
        print: |draft| draft.service.hash_failover.to_string(),
        ..PLAIN
    },
    Row {
        long: "policy",
        value: Value::Word("NAME[,...]"),
        section: CHOOSING,
        help: "How a group chooses a channel: rr, leastconn, p2c, first or hash",
        default: "rr",
        more: "rr: in turn. leastconn: the channel with the fewest connections for its weight. p2c: the better of two \
               channels chosen at random. first: the first channel that has room. hash: always the same channel for the same \
               client.\n\n\
               One word is for all groups that \"!\" or the end of the line ends, and for groups that are created later. A \
               list has one word for each group; one more word is for groups that are created later. A group that \"%\" ends \
               is a hash group. Example: balance --policy leastconn,rr 80 web1 web2 ! web3 web4",
        read: |draft, word| set(&mut draft.policy, PolicyWord::read(&word.lossy()).map_err(Bad::Value)?),
        print: |draft| draft.policy.print(),
        ..PLAIN
    },
    Row {
        long: "hash-balance",
        value: Value::Word("FACTOR"),
        section: CHOOSING,
        help: "Maximum load of one channel in a hash group, as a multiple of the average",
        more: "1 to 100, with at most 3 decimals. With 1.25, a channel that has a quarter more connections than the average of \
               its group is passed over. Its clients get the channel they would get if it did not exist. Without the option \
               a hash group does not look at the load. Example: balance --hash-balance 1.25 80 web1 web2 web3 %",
        read: |draft, word| match thousandths(&word.lossy()) {
            Some(factor @ 1_000..=100_000) => set(&mut draft.service.hash_balance, Some(factor)),
            _ => Err(Bad::Value(
                "is not a number from 1 to 100 with at most 3 decimals, such as 1.25".to_owned(),
            )),
        },
        print: |draft| print_thousandths(draft.service.hash_balance),
        ..PLAIN
    },
    Row {
        long: "slow-start",
        value: TIME,
        section: CHOOSING,
        help: "Ramp a returning channel up over this time",
        more: "A channel that was enabled or has come up again gets few clients at first, and its full share after this time. \
               It works in groups that are rr, leastconn or p2c. Example: balance --slow-start 30s 80 web1 web2",
        read: |draft, word| set(&mut draft.service.slow_start, Span::or("off").read_or(word)?),
        print: |draft| print_or(draft.service.slow_start),
        ..PLAIN
    },
    Row {
        long: "no-eject",
        section: HEALTH,
        help: "Keep offering channels whose connect fails",
        more: "3.57 does so. Without the option such a channel is ejected: no client gets it as long as another channel is \
               usable, and balance tries it in the background, first after 250 ms, then at longer intervals up to 2 s, until \
               it answers. Example: balance --no-eject 80 web1 web2",
        read: |draft, _| set(&mut draft.service.eject, false),
        print: |draft| draft.service.eject.to_string(),
        ..PLAIN
    },
    Row {
        long: "check",
        value: Value::Word("SPEC"),
        section: HEALTH,
        help: "Probe the channels: tcp, http:/PATH, send:, expect:, exec:/PROG",
        more: "tcp: the channel accepts a connection.\n\n\
               http:/healthz: it answers GET /healthz with a status from 200 to 399. http:/healthz=200-299,404 names the good \
               statuses. Only a list of statuses behind the last \"=\" is one; any other \"=\" is part of the path. A list with \
               a typing error in it is an error. \
               http://www.example.org/healthz asks for this Host; the connection goes to the channel all the same.\n\n\
               expect:220: it says 220. send:PING\\r\\n;expect:+PONG: it is sent the one and answers with the other; any number \
               of steps with \";\" between them. \\r \\n \\t \\0 \\\\ \\; and \\xHH are understood in them.\n\n\
               exec:/path/prog: the program exits with 0. It gets host and port as its arguments, and is killed at the timeout.\n\n\
               Example: balance --check http:/healthz 80 web1:8080 web2:8080",
        read: |draft, word| {
            let check = read_check(&word.text).map_err(|error| Bad::Value(error.to_string()))?;
            draft.probe.typed = word.typed();
            set(&mut draft.check, Some(check))
        },
        print: |draft| draft.check.as_ref().map_or_else(String::new, print_check),
        ..PLAIN
    },
    Row {
        long: "check-interval",
        value: TIME,
        section: HEALTH,
        help: "Time between a channel's probes",
        default: "2s",
        more: "10ms to 1d, from the end of one probe to the start of the next, give or take 10 %. A channel has at most one \
               probe at a time. Example: balance --check tcp --check-interval 5s 80 web1 web2",
        read: |draft, word| set(&mut draft.probe.interval, CHECK_INTERVAL.read(word)?),
        print: |draft| print_duration(draft.probe.interval),
        needs: NEEDS_CHECK,
        ..PLAIN
    },
    Row {
        long: "check-timeout",
        value: TIME,
        section: HEALTH,
        help: "Fail a probe after this long",
        default: "1s",
        more: "1ms to 1h. Example: balance --check tcp --check-timeout 500ms 80 web1 web2",
        read: |draft, word| set(&mut draft.probe.timeout, CHECK_TIMEOUT.read(word)?),
        print: |draft| print_duration(draft.probe.timeout),
        needs: NEEDS_CHECK,
        ..PLAIN
    },
    Row {
        long: "check-rise",
        value: NUMBER,
        section: HEALTH,
        help: "Good probes in a row that bring a channel up",
        default: "2",
        more: "1 to 1000. It is for channels that were down. Example: balance --check tcp --check-rise 3 80 web1 web2",
        read: |draft, word| set(&mut draft.probe.rise, Count::to(MOST_IN_A_ROW).read(word)?),
        print: |draft| draft.probe.rise.to_string(),
        needs: NEEDS_CHECK,
        ..PLAIN
    },
    Row {
        long: "check-fall",
        value: NUMBER,
        section: HEALTH,
        help: "Failed probes in a row that take a channel down",
        default: "3",
        more: "1 to 1000. A channel whose very first probe fails is down at once. Example: balance --check tcp --check-fall 2 80 web1 \
               web2",
        read: |draft, word| set(&mut draft.probe.fall, Count::to(MOST_IN_A_ROW).read(word)?),
        print: |draft| draft.probe.fall.to_string(),
        needs: NEEDS_CHECK,
        ..PLAIN
    },
    Row {
        long: "check-port",
        value: NUMBER,
        section: HEALTH,
        help: "Probe this port",
        default: "the channel's",
        more: "Example: balance --check http:/healthz --check-port 8081 80 web1 web2",
        read: |draft, word| {
            let port: u16 = Count::to(u16::MAX as u32).read(word)?;
            set(&mut draft.probe.port, NonZeroU16::new(port))
        },
        print: |draft| print_count(draft.probe.port.map(NonZeroU16::get)),
        needs: NEEDS_CHECK,
        ..PLAIN
    },
    Row {
        long: "fail-open",
        value: SWITCH,
        section: HEALTH,
        help: "Try channels that are down if all of them are",
        default: "on",
        more: "When no channel that is up has room in any group, balance tries those that are ejected or down, in order. With off \
               it closes the client. Example: balance --fail-open off 80 web1 web2",
        read: |draft, word| set(&mut draft.service.fail_open, is_on(word)),
        print: |draft| on_off(draft.service.fail_open),
        ..PLAIN
    },
    Row {
        long: "on-down",
        value: Value::OneOf("keep|kick", &["keep", "kick"]),
        section: HEALTH,
        help: "What to do with connections when their channel goes down",
        default: "keep",
        more: "keep: they live on. kick: balance closes them when --check finds the channel down. An ejection closes no \
               connection. Example: balance --check tcp --on-down kick 6379 redis1 ! redis2",
        read: |draft, word| {
            let is_kick = word.text == "kick";
            set(&mut draft.service.on_down, if is_kick { OnDown::Kick } else { OnDown::Keep })
        },
        print: |draft| match draft.service.on_down {
            OnDown::Keep => "keep".to_owned(),
            OnDown::Kick => "kick".to_owned(),
        },
        needs: Some(Need {
            // Only a check takes a channel down.
            is_met: |draft| draft.service.on_down == OnDown::Keep || draft.check.is_some(),
            wrong: "kick needs --check; say how to probe, such as --check tcp",
        }),
        ..PLAIN
    },
    Row {
        long: "on-remove",
        value: Value::OneOf("keep|kick", &["keep", "kick"]),
        section: HEALTH,
        help: "What to do with connections when a reload removes their channel",
        default: "keep",
        more: "keep: they live on, and the channel is gone with the last of them. kick: balance closes them. The option also holds for \
               the service itself, when its line is gone. Example: balance --on-remove kick --file /etc/balance",
        read: |draft, word| {
            let is_kick = word.text == "kick";
            set(&mut draft.service.on_remove, if is_kick { OnDown::Kick } else { OnDown::Keep })
        },
        print: |draft| match draft.service.on_remove {
            OnDown::Keep => "keep".to_owned(),
            OnDown::Kick => "kick".to_owned(),
        },
        ..PLAIN
    },
    Row {
        long: "on-change",
        value: Value::Program,
        section: HEALTH,
        help: "Run this program for each event of the service",
        more: "PROG is an absolute path. It gets no arguments, and the event in its environment: BALANCE_EVENT is its name, such as \
               ejected, returned, channel_down, channel_up, no_channel_up or commanded; BALANCE_LEVEL, BALANCE_TIME, BALANCE_SERVICE, \
               BALANCE_GROUP, BALANCE_CHANNEL, BALANCE_ADDRESS, BALANCE_CAUSE and so on say the rest, and BALANCE_LINE has all of it. \
               Events of the whole process, such as those of a reload, are among them, and have no BALANCE_SERVICE.\n\n\
               One runs at a time for each service. Up to 100 events wait for it. When there are more, balance leaves out the oldest and \
               logs that. A program that runs for longer than 10 s is killed. What it leaves behind in its process group is killed, too. \
               Example: balance --on-change /usr/local/sbin/tell-me 80 web1 web2",
        read: |draft, word| {
            let is_program = |path: &&str| path.starts_with('/') && !path.contains(char::is_control);
            match word.as_str().filter(is_program) {
                Some(path) => {
                    let named = Named { name: path.to_owned(), typed: word.typed() };
                    set(&mut draft.service.on_change, Some(named))
                }
                None => Err(Bad::Value(
                    "is not an absolute path without control characters, such as /usr/local/sbin/tell-me"
                        .to_owned(),
                )),
            }
        },
        print: |draft| name_of(draft.service.on_change.as_ref()),
        ..PLAIN
    },
    Row {
        long: "refuse-when-down",
        section: HEALTH,
        help: "Close the port while no channel is up",
        more: "Clients are then refused at once (ECONNREFUSED) instead of being accepted and closed. A channel is up when it is \
               enabled, has a weight above 0, and is neither ejected nor down. A channel that is full is up. Made for Linux. Example: \
               balance --refuse-when-down 80 web1 web2",
        read: |draft, _| set(&mut draft.service.refuse_when_down, true),
        print: |draft| draft.service.refuse_when_down.to_string(),
        ..PLAIN
    },
    Row {
        long: "max-connections",
        value: NUMBER,
        section: LIMITS,
        help: "Maximum number of connections",
        default: "no limit",
        more: "Clients that wait are counted. Further clients are not accepted until there is room. Example: balance \
               --max-connections 1000 80 web1 web2",
        read: |draft, word| {
            let most: u32 = Count::or("no limit", u32::MAX).read(word)?;
            set(&mut draft.service.max_connections, NonZeroU32::new(most))
        },
        print: |draft| print_count(draft.service.max_connections),
        ..PLAIN
    },
    Row {
        long: "queue",
        value: NUMBER,
        section: LIMITS,
        help: "Number of clients that may wait for room",
        default: "0, none",
        more: "When all channels that could be used have reached their limits, up to N clients wait. They are served in the \
               order they came. At most 1000000. A client does not wait for a channel that is down, nor while a later group \
               has room. Example: balance --queue 500 5432 db1::100 db2::100",
        read: |draft, word| {
            let most: u32 = Count::or("no queue", MAX_QUEUE).read(word)?;
            set(&mut draft.service.queue, NonZeroU32::new(most))
        },
        print: |draft| print_count(draft.service.queue),
        ..PLAIN
    },
    Row {
        long: "queue-timeout",
        value: TIME,
        section: LIMITS,
        help: "Close a client that has waited this long in the queue",
        default: "5s",
        more: "More than 0. Example: balance --queue 500 --queue-timeout 10s 5432 db1::100",
        read: |draft, word| set(&mut draft.service.queue_timeout, Span::ANY.read(word)?),
        print: |draft| print_duration(draft.service.queue_timeout),
        needs: Some(Need {
            is_met: |draft| draft.service.queue.is_some(),
            wrong: "needs --queue; say how many clients may wait, such as --queue 100",
        }),
        ..PLAIN
    },
    Row {
        long: "pause-timeout",
        value: TIME,
        section: LIMITS,
        help: "Close a client that has waited this long for a resume",
        default: "60s",
        more: "Clients wait while channels are paused (command pause). More than 0. The pause itself goes on. Example: balance \
               --pause-timeout 3m 5432 db1",
        read: |draft, word| set(&mut draft.service.pause_timeout, Span::ANY.read(word)?),
        print: |draft| print_duration(draft.service.pause_timeout),
        ..PLAIN
    },
    Row {
        long: "max-lifetime",
        value: TIME,
        section: LIMITS,
        help: "Close a connection at this age",
        default: "0, never",
        more: "Give or take 10 %, so that connections that began together do not end together. Example: balance --max-lifetime 1h \
               5432 db1 db2",
        read: |draft, word| set(&mut draft.service.max_lifetime, Span::or("never").read_or(word)?),
        print: |draft| print_or(draft.service.max_lifetime),
        ..PLAIN
    },
    Row {
        long: "file",
        value: Value::Path,
        scope: Scope::Ask,
        section: RUNNING,
        help: "Serve the lines of this file, or of the *.conf files of this directory",
        more: "Each line is one service, written as on the command line. The option may be given several times. See SERVICES \
               IN A FILE. Example: balance --file /etc/balance",
        read: |draft, word| {
            draft.ask.files.push(word.text.clone().into());
            Ok(())
        },
        repeats: true,
        ..PLAIN
    },
    Row {
        long: "check-only",
        scope: Scope::Ask,
        section: RUNNING,
        help: "Check the command line or the files, start nothing",
        more: "balance reads all lines and looks all names up. It prints how many services and channels there are, or \
               everything that is wrong. Example: balance --check-only --file /etc/balance",
        read: |draft, _| set(&mut draft.ask.check_only, true),
        ..PLAIN
    },
    Row {
        long: "replace",
        scope: Scope::Ask,
        section: RUNNING,
        help: "Take the ports over from the instance that has them",
        more: "The instance that listens there hands its ports over and serves the connections it has to their end, however long \
               that takes. After SIGTERM they would have 30 s. No client is refused. Both must be of the same user. The new \
               one must listen at exactly the same address, and must serve all services of the old one. If no instance of \
               yours listens there, this is a start like any other, and stderr says so. Example: balance --replace 80 web1 web2 web3",
        read: |draft, _| set(&mut draft.ask.replace, true),
        ..PLAIN
    },
    Row {
        short: Some('M'),
        long: "mmap",
        section: RUNNING,
        help: "Accepted and ignored, for old scripts",
        ..PLAIN
    },
    Row {
        short: Some('c'),
        long: "command",
        value: Value::Word("CMD"),
        scope: Scope::Ask,
        section: CONTROLLING,
        help: "Send commands, separated by ';', print the answers",
        more: "See COMMANDS and EXIT STATUS. Example: balance -c \"disable 1; show\" 80",
        // No command has a word that is not UTF-8.
        read: |draft, word| set(&mut draft.ask.command, Some(word.lossy().into_owned())),
        ..PLAIN
    },
    Row {
        short: Some('i'),
        long: "interactive",
        scope: Scope::Ask,
        section: CONTROLLING,
        help: "Open an interactive shell",
        more: "Example: balance -i 80",
        read: |draft, _| set(&mut draft.ask.interactive, true),
        ..PLAIN
    },
    Row {
        long: "list",
        scope: Scope::Ask,
        section: CONTROLLING,
        help: "List all instances and services on this machine",
        more: "One line for each service, with port, address, pid, user, channels that are up and connections. An instance that \
               does not answer, or that belongs to another user, is listed with what is known of it. Entries that your own dead \
               instances left behind are removed. Example: balance --list",
        read: |draft, _| set(&mut draft.ask.list, true),
        ..PLAIN
    },
    Row {
        long: "help",
        scope: Scope::Ask,
        section: HELPING,
        help: "Print this help",
        read: |draft, _| set(&mut draft.ask.help, true),
        ..PLAIN
    },
    Row {
        long: "version",
        scope: Scope::Ask,
        section: HELPING,
        help: "Print the version",
        read: |draft, _| set(&mut draft.ask.version, true),
        ..PLAIN
    },
    Row {
        long: "man",
        scope: Scope::Ask,
        section: HELPING,
        help: "Print the manual page (man -l <(balance --man))",
        read: |draft, _| set(&mut draft.ask.man, true),
        ..PLAIN
    },
    Row {
        long: "completions",
        value: Value::OneOf("SHELL", &["bash", "zsh", "fish"]),
        scope: Scope::Ask,
        section: HELPING,
        help: "Print a completion script: bash, zsh or fish",
        more: "Example: balance --completions bash",
        read: |draft, word| {
            let shell = match word.as_str() {
                Some("bash") => Shell::Bash,
                Some("zsh") => Shell::Zsh,
                _ => Shell::Fish,
            };
            set(&mut draft.ask.completions, Some(shell))
        },
        ..PLAIN
    },
];

/// In the order that help has them.
pub(super) const SECTIONS: [&str; 8] =
    [LISTENING, CONNECTING, CHOOSING, HEALTH, LIMITS, CONTROLLING, RUNNING, HELPING];

/// The options that have to be said, in short form and with their values, for `draft` to be what it is.
pub(super) fn print_options(draft: &Draft, plain: &Draft, scope: Scope) -> Vec<String> {
    let mut words = Vec::new();
    for row in OPTIONS.iter().filter(|row| row.scope == scope) {
        let value = (row.print)(draft);
        if value != (row.print)(plain) {
            words.push(row.shortest());
            words.extend((!row.value.is_flag()).then_some(value));
        }
    }
    words
}

/// The options of a service that have other values in `after`, as `NAME VALUE` and what the value was. Where it listens is left
/// out.
pub(super) fn changes(before: &Draft, after: &Draft) -> Vec<String> {
    let rows =
        OPTIONS.iter().filter(|row| row.scope == Scope::Service && !["bind", "ipv6"].contains(&row.long));
    let plain = Draft::new(Draft::ANY_PORT, Typed::default());
    let change = |row: &Row| {
        let [was, is, usual] = [before, after, &plain].map(|draft| (row.print)(draft));
        if was == is {
            return None;
        }
        let name = format!("--{}", row.long);
        let shown = |value: String| match (row.value.is_flag(), value == usual, value.is_empty()) {
            (true, true, _) => "off".to_owned(),
            (true, false, _) => "on".to_owned(),
            (false, _, true) => "none".to_owned(),
            (false, _, false) => value,
        };
        let (is, was) = (shown(is), shown(was));
        Some(format!("{name} is {is}, was {was}"))
    };
    rows.filter_map(change).collect()
}

/// The options of the process that have other values in `after`, by their names.
pub(super) fn changed_names(before: &Draft, after: &Draft) -> Vec<String> {
    let rows = OPTIONS.iter().filter(|row| row.scope == Scope::Process);
    rows.filter(|row| (row.print)(before) != (row.print)(after))
        .map(|row| format!("--{}", row.long))
        .collect()
}

fn set<T>(setting: &mut T, value: T) -> Result<(), Bad> {
    *setting = value;
    Ok(())
}

fn is_on(word: &Word) -> bool {
    word.text == *"on"
}

/// Nothing for `None`.
fn name_of(named: Option<&Named>) -> String {
    named.map_or_else(String::new, |named| named.name.clone())
}

fn on_off(is_on: bool) -> String {
    if is_on { "on".to_owned() } else { "off".to_owned() }
}

fn print_host(host: &Option<HostSpec>) -> String {
    host.as_ref().map_or_else(String::new, |host| host.name.clone())
}
