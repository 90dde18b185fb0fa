//! Options of the process.

use std::num::NonZeroUsize;

use super::super::duration::print_duration;
use super::super::host::{print_http, read_http};
use super::super::row::{
    NUMBER, Need, PLAIN, Row, SWITCH, Scope, TIME, Value, is_on, name_of, on_off, set, unix_group,
};
use super::super::values::{Bad, Count, Span, print_moments, read_moments};
use crate::spec::{LineFormat, Named};

/// More threads than any machine that `balance` was tried on has cores.
const MAX_WORKERS: u32 = 1_024;

const NEEDS_ACCESS_LOG: &[Need] = &[Need {
    is_met: |draft| draft.process.access_log.is_some(),
    wrong: "needs --access-log; say where the lines go, such as --access-log /var/log/balance/access.log",
}];

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        short: Some('f'),
        long: "foreground",
        scope: Scope::Process,
        help: "Stay in the foreground",
        more: "balance logs to stderr and ends with Ctrl-C. Example: balance -f 8888 host1 10.1.1.1:8000",
        read: |draft, _| set(&mut draft.process.foreground, true),
        print: |draft| draft.process.foreground.to_string(),
        ..PLAIN
    },
    Row {
        short: Some('d'),
        long: "debug",
        scope: Scope::Process,
        help: "Log debug messages to stderr, or to syslog in the background",
        more: "They say what happens to each client. The command debug switches them on and off while balance runs. \
               Example: balance -f -d 80 web1 web2",
        read: |draft, _| set(&mut draft.process.debug, true),
        print: |draft| draft.process.debug.to_string(),
        ..PLAIN
    },
    Row {
        long: "log-time",
        scope: Scope::Process,
        help: "Start each log line on stderr with the time",
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
        help: "Print all data that passes on stdout (needs -f)",
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
        help: "Poll for events for a moment before a worker sleeps",
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
        help: "Set the congestion control of connections within this host",
        default: "the system's",
        more: "A congestion control that paces, such as bbr, halves the throughput of a connection to 127.0.0.0/8 or ::1. \
               There, reno or cubic is faster. Connections to anywhere else keep the system's setting. A user other than root, \
               also that of --user, may use only those that net.ipv4.tcp_allowed_congestion_control lists. reno is one of \
               them on every usual system. Linux only. Example: balance --loopback-congestion reno 80 127.0.0.1:8080",
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
        help: "Keep what commands change, in this file, over a restart",
        more: "What commands change at run time (disable, enable, weight, maxc, create, assign, remove, policy, deny, undeny) is written \
               to FILE, at \
               most once a second, and applied when balance starts again. If the line of a channel was edited meanwhile, \
               the line wins. balance renames a FILE that is damaged or of another format to FILE.bad, and starts without \
               it. Each instance needs a FILE of its own. Example: balance --state /var/lib/balance/web.state 80 web1 web2",
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
        help: "Serve a web page, metrics and readiness by HTTP",
        default: "off",
        more: "The page at / is for browsers, /metrics is for Prometheus, /healthz says that the process answers, /readyz \
               and /readyz/SERVICE say whether there is a \
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
        help: "Accept commands by HTTP from anyone who has the token in this file",
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
        needs: &[Need {
            is_met: |draft| draft.process.http.is_some(),
            wrong: "needs --http; say where to listen, such as --http 7780",
        }],
        ..PLAIN
    },
    Row {
        long: "access-log",
        value: Value::Path,
        scope: Scope::Process,
        help: "Write a line about each connection to this file",
        default: "off",
        more: "balance appends to FILE. You may move it away or truncate it at any time: balance notices a file that was \
               moved or deleted within a \
               second, and SIGHUP, SIGUSR1 and the command reopen open FILE again at once. \"syslog\" means the local \
               syslog, \"-\" means \
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
        long: "access-log-format",
        older: &["log-format"],
        value: Value::OneOf("FORMAT", &["text", "json"]),
        scope: Scope::Process,
        help: "Format of the access log: text or json",
        default: "text",
        more: "text: keys and values, key=value. json: one object on each line. Example: balance --access-log \
               /var/log/balance/access.log \
               --access-log-format json 80 web1 web2",
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
        long: "access-log-at",
        older: &["log-at"],
        value: Value::Word("LIST"),
        scope: Scope::Process,
        help: "Write a line of the access log at: start, end, every TIME",
        default: "end",
        more: "start: when a client has its channel. end: when a connection has ended. TIME, at least 1s: again and again \
               after this time, as long as the connection lasts. Example: balance --access-log /var/log/balance/access.log \
               --access-log-at start,end,5m 80 web1 web2",
        read: |draft, word| set(&mut draft.process.log_at, read_moments(word)?),
        print: |draft| print_moments(draft.process.log_at),
        needs: NEEDS_ACCESS_LOG,
        ..PLAIN
    },
    Row {
        long: "control-group",
        value: Value::Word("NAME"),
        scope: Scope::Process,
        help: "Let the members of this Unix group control the instance",
        more: "Root and the user who started the instance can always control it. With --user, that user must be a member of the group. Example: balance \
               --control-group www 80 web1 web2",
        read: |draft, word| set(&mut draft.process.control_group, Some(unix_group(word)?)),
        print: |draft| name_of(draft.process.control_group.as_ref()),
        ..PLAIN
    },
    Row {
        long: "user",
        value: Value::Word("NAME[:GROUP]"),
        scope: Scope::Process,
        help: "Run as this unprivileged user",
        more: "Started as root, balance reads the files of --file, and becomes NAME before it opens anything else. Of root's powers it keeps one: to listen on ports \
               below 1024, at the start and after a reload (CAP_NET_BIND_SERVICE). With --transparent it keeps CAP_NET_ADMIN, too. Programs of checks and of --event-program do \
               not get it. No program that balance starts can gain privileges (no_new_privs), core files are off, and \
               --landlock closes all other files. NAME must be able to read the configuration and to write the logs and the state \
               file. NAME and GROUP may be numbers. Without GROUP, NAME's own groups count. Started as NAME, balance gives up \
               the rest in the same way. Example: balance --user balance 80 web1 web2",
        read: |draft, word| {
            let is_part =
                |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_control() || c == ':');
            let is_account = |text: &&str| match text.split_once(':') {
                Some((user, group)) => is_part(user) && is_part(group),
                None => is_part(text),
            };
            match word.as_str().filter(is_account) {
                Some(name) => {
                    let named = Named { name: name.to_owned(), typed: word.typed() };
                    set(&mut draft.process.user, Some(named))
                }
                None => Err(Bad::Value("is not a user, like balance or balance:www-data".to_owned())),
            }
        },
        print: |draft| name_of(draft.process.user.as_ref()),
        ..PLAIN
    },
    Row {
        long: "landlock",
        value: SWITCH,
        scope: Scope::Process,
        help: "Let balance open only the files that it needs",
        default: "on with --user",
        more: "balance can then read the directories of its configuration, lists and tokens, and what the system \
               needs to look names up. It can write in the directories of its logs, its state file and its control socket. The kernel \
               (Linux 5.13 or later) refuses all else, also to programs of checks, which can read the system's programs and write in \
               /tmp. The directories are those of the start: a file elsewhere needs a restart. The command doctor says \
               whether it holds. Example: balance --user balance --landlock off 80 web1 web2",
        read: |draft, word| set(&mut draft.process.landlock, Some(is_on(word))),
        print: |draft| draft.process.landlock.map_or_else(String::new, on_off),
        ..PLAIN
    },
    Row {
        long: "file",
        value: Value::Path,
        scope: Scope::Ask,
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
        help: "Check the command line or the files, and start nothing",
        more: "balance reads all lines and looks all names up. It prints how many services and channels there are, or \
               everything that is wrong. Example: balance --check-only --file /etc/balance",
        read: |draft, _| set(&mut draft.ask.check_only, true),
        ..PLAIN
    },
    Row {
        long: "replace",
        scope: Scope::Ask,
        help: "Take over the ports from the instance that has them",
        more: "The instance that listens there hands over its ports and serves its connections to their end, however long \
               that takes. (After SIGTERM they would have 30 s.) No client is refused. Both instances must belong to the same user. The new one must listen on exactly the same address, and must serve all services of the old one. If no instance of \
               yours listens there, this is a start like any other, and stderr says so. Example: balance --replace 80 web1 web2 web3",
        read: |draft, _| set(&mut draft.ask.replace, true),
        ..PLAIN
    },
    Row { short: Some('M'), long: "mmap", help: "Accepted and ignored, for old scripts", ..PLAIN },
];
