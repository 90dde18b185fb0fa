//! Options that limit numbers and times.

use std::num::NonZeroU32;

use super::super::duration::print_duration;
use super::super::row::{NUMBER, Need, PLAIN, Row, TIME, set};
use super::super::values::{Count, Span, print_count, print_or};

/// The longest wait queue: each client has a descriptor, and no process has more of them.
const MAX_QUEUE: u32 = 1_000_000;

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        long: "max-connections",
        value: NUMBER,
        help: "Maximum number of connections",
        default: "no limit",
        more: "Clients that wait count. balance accepts no further clients until there is room. Example: balance \
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
        help: "Number of clients that may wait for room",
        default: "0 (none)",
        more: "When all usable channels have reached their limits, up to N clients wait. balance serves them in the order \
               they came. N is at most 1000000. A client does not wait for a channel that is down, nor while a later group \
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
        help: "Close a client that has waited this long in the queue",
        default: "5s",
        more: "More than 0. Example: balance --queue 500 --queue-timeout 10s 5432 db1::100",
        read: |draft, word| set(&mut draft.service.queue_timeout, Span::ANY.read(word)?),
        print: |draft| print_duration(draft.service.queue_timeout),
        needs: &[Need {
            is_met: |draft| draft.service.queue.is_some(),
            wrong: "needs --queue; say how many clients may wait, such as --queue 100",
        }],
        ..PLAIN
    },
    Row {
        long: "pause-timeout",
        value: TIME,
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
        help: "Close a connection at this age",
        default: "0 (never)",
        more: "Give or take 10 %, so that connections that began together do not end together. Example: balance --max-lifetime 1h \
               5432 db1 db2",
        read: |draft, word| set(&mut draft.service.max_lifetime, Span::or("never").read_or(word)?),
        print: |draft| print_or(draft.service.max_lifetime),
        ..PLAIN
    },
];
