//! Options about the health of channels, and what follows from it.

use std::num::NonZeroU16;
use std::time::Duration;

use super::super::check::{print_check, read_check};
use super::super::draft::Draft;
use super::super::duration::print_duration;
use super::super::row::{
    NEEDS_PORT, NUMBER, Need, PLAIN, Row, SWITCH, TIME, Value, is_on, name_of, on_off, set,
};
use super::super::values::{Bad, Count, Span, print_count, print_or};
use crate::spec::{Named, OnDown};

/// The most for rise and fall. Longer rows of the same result hardly ever occur.
const MOST_IN_A_ROW: u32 = 1_000;

/// With shorter intervals, the checks of many channels would be a load of their own.
const CHECK_INTERVAL: Span =
    Span { least: Duration::from_millis(10), most: Duration::from_secs(86_400), zero: None };

const CHECK_TIMEOUT: Span =
    Span { least: Duration::from_millis(1), most: Duration::from_secs(3_600), zero: None };

const NEEDS_CHECK: &[Need] =
    &[Need { is_met: Draft::is_checked, wrong: "needs --check; say how to check, such as --check tcp" }];

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        long: "no-eject",
        help: "Keep using channels whose connect fails",
        more: "Without the option, balance ejects such a channel: no client gets it as long as another channel is usable. \
               balance tries it in the background, first after 250 ms, then at longer intervals up to 2 s, until it \
               answers. 3.57 ejected no channel. Example: balance --no-eject 80 web1 web2",
        read: |draft, _| set(&mut draft.service.eject, false),
        print: |draft| draft.service.eject.to_string(),
        ..PLAIN
    },
    Row {
        long: "first-byte",
        value: TIME,
        help: "Eject a channel that sends nothing for TIME while others answer",
        default: "0 (never)",
        more: "balance ejects a channel that accepts connections but sends nothing for this time to three different clients in a row. \
               The time begins when a client has sent something. Another channel of its group must have answered a client within \
               this time in the last ten seconds. It \
               never ejects more than half of a group for this. Clients that have sent nothing do not count, unless other channels of the \
               group speak first. Set it longer than the slowest request takes. It has no effect with --no-eject and -a. Example: balance \
               --first-byte 2s 80 web1 web2",
        read: |draft, word| set(&mut draft.service.first_byte, Span::or("never").read_or(word)?),
        print: |draft| print_or(draft.service.first_byte),
        ..PLAIN
    },
    Row {
        long: "check",
        value: Value::Like("SPEC", || vec!["tcp", "http:/", "expect:", "send:", "exec:/"]),
        help: "Check the channels by: tcp, http:/PATH, send:, expect:, exec:/PROG",
        more: "tcp: the channel accepts a connection.\n\n\
               http:/healthz: the channel answers GET /healthz with a status from 200 to 399. http:/healthz=200-299,404 \
               names the good statuses. Only a list of statuses after the last \"=\" counts; any other \"=\" is part of the \
               path. A list with a typing error is an error. \
               http://www.example.org/healthz sends this Host; the connection still goes to the channel.\n\n\
               expect:220: the channel says 220. send:PING\\r\\n;expect:+PONG: balance sends PING and the channel answers \
               +PONG. There may be any number of steps, with \";\" between them. \\r \\n \\t \\0 \\\\ \\; and \\xHH are \
               understood in them.\n\n\
               exec:/path/prog: the program exits with 0. It gets host and port as its arguments, and is killed at the timeout.\n\n\
               A channel may have a check of its own, such as db:5432,check=tcp, or none, by check=none.\n\n\
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
        help: "Time between two checks",
        default: "2s",
        more: "10ms to 1d, from the end of one check to the start of the next, give or take 10 %. A channel has at most one \
               check at a time. Example: balance --check tcp --check-interval 5s 80 web1 web2",
        read: |draft, word| set(&mut draft.probe.interval, CHECK_INTERVAL.read(word)?),
        print: |draft| print_duration(draft.probe.interval),
        needs: NEEDS_CHECK,
        ..PLAIN
    },
    Row {
        long: "check-timeout",
        value: TIME,
        help: "Time a check may take",
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
        help: "Number of good checks in a row that bring a channel up",
        default: "2",
        more: "1 to 1000. It counts for channels that were down. Example: balance --check tcp --check-rise 3 80 web1 web2",
        read: |draft, word| set(&mut draft.probe.rise, Count::to(MOST_IN_A_ROW).read(word)?),
        print: |draft| draft.probe.rise.to_string(),
        needs: NEEDS_CHECK,
        ..PLAIN
    },
    Row {
        long: "check-fall",
        value: NUMBER,
        help: "Number of failed checks in a row that take a channel down",
        default: "3",
        more: "1 to 1000. A channel whose very first check fails is down at once. Example: balance --check tcp --check-fall 2 80 web1 \
               web2",
        read: |draft, word| set(&mut draft.probe.fall, Count::to(MOST_IN_A_ROW).read(word)?),
        print: |draft| draft.probe.fall.to_string(),
        needs: NEEDS_CHECK,
        ..PLAIN
    },
    Row {
        long: "check-port",
        value: NUMBER,
        help: "Check this port",
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
        help: "Try channels that are down when all of them are down",
        default: "on",
        more: "When no channel that is up has room in any group, balance tries those that are ejected or down, in order. \
               With off, it closes the client instead. Example: balance --fail-open off 80 web1 web2",
        read: |draft, word| set(&mut draft.service.fail_open, is_on(word)),
        print: |draft| on_off(draft.service.fail_open),
        ..PLAIN
    },
    Row {
        long: "on-down",
        value: Value::OneOf("keep|kick", &["keep", "kick"]),
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
        needs: &[Need {
            // Only a check takes a channel down.
            is_met: |draft| draft.service.on_down == OnDown::Keep || draft.is_checked(),
            wrong: "kick needs --check; say how to check, such as --check tcp",
        }],
        ..PLAIN
    },
    Row {
        long: "on-remove",
        value: Value::OneOf("keep|kick", &["keep", "kick"]),
        help: "What to do with connections when a reload removes their channel",
        default: "keep",
        more: "keep: they live on, and the channel is gone with the last of them. kick: balance closes them. The option \
               also holds for \
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
        long: "event-program",
        older: &["on-change"],
        value: Value::Program,
        help: "Run this program for each event of the service",
        more: "PROG is an absolute path. It gets no arguments. The event is in its environment: BALANCE_EVENT is its name, such as \
               ejected, returned, channel_down, channel_up, no_channel_up or commanded; BALANCE_LEVEL, BALANCE_TIME, BALANCE_SERVICE, \
               BALANCE_GROUP, BALANCE_CHANNEL, BALANCE_ADDRESS, BALANCE_CAUSE and so on say the rest, and BALANCE_LINE has all of it. The program also gets events of the whole process, such as those of a reload; they have no BALANCE_SERVICE.\n\n\
               One runs at a time for each service. Up to 100 events wait for it. When there are more, balance drops the oldest and logs that. balance kills a program that runs for longer than 10 s, and everything that is left in its process group. \
               Example: balance --event-program /usr/local/sbin/tell-me 80 web1 web2",
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
        help: "Close the port while no channel is usable",
        more: "Clients are then refused at once (ECONNREFUSED) instead of being accepted and closed. A channel is usable when it is \
               enabled, has a weight above 0, and is neither ejected nor down. A full channel is usable. Made for Linux. Example: \
               balance --refuse-when-down 80 web1 web2",
        read: |draft, _| set(&mut draft.service.refuse_when_down, true),
        print: |draft| draft.service.refuse_when_down.to_string(),
        needs: &[NEEDS_PORT],
        ..PLAIN
    },
];
