//! Options: where a service listens, and what it asks of clients' sockets.

use super::super::duration::print_duration;
use super::super::host::read_host;
use super::super::row::{KEEPALIVE, Need, PLAIN, Row, TIME, Value, print_host, set};
use super::super::senders::{print_senders, read_senders};
use super::super::values::{Bad, Span, print_keepalive, read_keepalive};
use crate::spec::StartTls;

/// In the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        short: Some('6'),
        long: "ipv6",
        help: "Listen on all IPv6 and all IPv4 addresses",
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
        long: "freebind",
        help: "Listen on the address of -b even while this host does not have it",
        more: "For an address that moves between hosts, as keepalived moves it: balance starts on each of them, and clients come to \
               the one that has the address. Without the option such a start fails with \"Cannot assign requested address\", or needs \
               the sysctl net.ipv4.ip_nonlocal_bind. Without -b, balance listens on all addresses and needs neither. Linux only. \
               Example: balance --freebind -b 192.0.2.10 80 web1 web2 %",
        read: |draft, _| set(&mut draft.service.freebind, true),
        print: |draft| draft.service.freebind.to_string(),
        ..PLAIN
    },
    Row {
        short: Some('K'),
        long: "client-keepalive",
        value: KEEPALIVE,
        help: "Set TCP keepalive for connections of clients",
        more: "The three numbers are: seconds of silence before the first probe, seconds between probes, and how many lost \
               probes end the connection. Without the option, keepalive is on with the system's numbers. Example: balance \
               -K 60:10:6 80 web1 web2",
        read: |draft, word| set(&mut draft.service.client_keepalive, Some(read_keepalive(word)?)),
        print: |draft| print_keepalive(draft.service.client_keepalive),
        ..PLAIN
    },
    Row {
        long: "accept-proxy",
        value: Value::Word("CIDR[,CIDR...]"),
        help: "Take the client's address from the PROXY header of these senders",
        default: "none",
        more: "Connections from these addresses and networks must begin with a PROXY header, version 1 or 2; any stands for every \
               address. Connections from all other addresses must not have one: balance passes their bytes on as they are. \
               Anyone who can connect from one of these addresses can claim to be any client, so list only your own \
               proxies. Example: balance --accept-proxy 10.0.0.5,10.0.1.0/24 80 web1 web2",
        read: |draft, word| set(&mut draft.service.accept_proxy, Some(read_senders(word)?)),
        print: |draft| draft.service.accept_proxy.as_ref().map_or_else(String::new, print_senders),
        joins: true,
        ..PLAIN
    },
    Row {
        long: "starttls",
        value: Value::OneOf("postgres", &["postgres"]),
        help: "Answer clients that ask for TLS in this protocol, to see which host they want",
        default: "off",
        more: "For groups behind @NAME. A client of PostgreSQL sends an SSLRequest and waits for the answer before it names its host. balance \
               answers it, chooses the server, and sends the server an SSLRequest of its own. Clients without TLS go to the groups behind @. \
               Example: balance --starttls postgres 5432 @db1.example.com db1 @db2.example.com db2",
        read: |draft, _| set(&mut draft.service.starttls, Some(StartTls::Postgres)),
        print: |draft| {
            draft.service.starttls.map_or_else(String::new, |StartTls::Postgres| "postgres".to_owned())
        },
        needs: &[Need {
            is_met: |draft| draft.has_names,
            wrong: "needs groups behind @NAME; without them balance does not read what clients ask for, so leave it out",
        }],
        ..PLAIN
    },
    Row {
        long: "greeting-timeout",
        value: TIME,
        help: "Time a client has for its PROXY header or first bytes",
        default: "3s",
        more: "More than 0. balance connects to no channel before the header has come, and with groups behind @NAME, before \
               the client has said what it asks for. After this time, balance resets a client without its header. A client \
               that asks for nothing goes to the groups behind @, or is closed if there are none. Example: balance \
               --accept-proxy any --greeting-timeout 1s 80 web1 web2",
        read: |draft, word| set(&mut draft.service.greeting_timeout, Span::ANY.read(word)?),
        print: |draft| print_duration(draft.service.greeting_timeout),
        needs: &[Need {
            is_met: |draft| draft.service.accept_proxy.is_some() || draft.has_names,
            wrong: "needs --accept-proxy or groups behind @NAME; without them balance waits for nothing, so leave it out",
        }],
        ..PLAIN
    },
];
