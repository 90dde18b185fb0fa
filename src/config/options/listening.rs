//! Options: where a service listens, and what it asks of clients' sockets.

use super::super::host::read_host;
use super::super::row::{KEEPALIVE, PLAIN, Row, Value, print_host, set};
use super::super::values::{Bad, print_keepalive, read_keepalive};

/// In the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        short: Some('6'),
        long: "ipv6",
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
        help: "Listen on this address or host",
        default: "0.0.0.0",
        more: "An IPv4 address, an IPv6 address, an IPv4 address in IPv6 notation such as ::ffff:10.1.1.3, or a name. With \
               -b, -6 changes nothing. Example: balance -b 10.1.1.3 80 web1 web2",
        read: |draft, word| set(&mut draft.bind, Some(read_host(word).map_err(Bad::Address)?)),
        print: |draft| print_host(&draft.bind),
        ..PLAIN
    },
    Row {
        short: Some('K'),
        long: "client-keepalive",
        value: KEEPALIVE,
        help: "TCP keepalive towards the clients",
        more: "Seconds of silence before the first probe, seconds between probes, number of lost probes that end the \
               connection. Without the option keepalive is on, with the system's numbers. Example: balance -K 60:10:6 80 web1 web2",
        read: |draft, word| set(&mut draft.service.client_keepalive, Some(read_keepalive(word)?)),
        print: |draft| print_keepalive(draft.service.client_keepalive),
        ..PLAIN
    },
];
