//! Options about where a service listens, and about clients' sockets.

use super::super::draft::Draft;
use super::super::duration::print_duration;
use super::super::host::read_host;
use super::super::row::{
    KEEPALIVE, NEEDS_PORT, Need, PLAIN, Row, TIME, Value, name_of, print_host, set, unix_group,
};
use super::super::senders::{print_senders, read_senders};
use super::super::values::{Bad, Span, print_keepalive, read_keepalive};
use super::super::wrong::Word;
use crate::spec::StartTls;

/// For options that are set on the file of a Unix socket.
const NEEDS_FILE: Need = Need {
    is_met: |draft| draft.service.listen.ports.unix().is_some_and(|name| !name.is_abstract()),
    wrong: "is for a service that listens on the socket of a path, such as unix:/run/x.sock; leave it out",
};

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        short: Some('6'),
        long: "ipv6",
        help: "Listen on all IPv6 and all IPv4 addresses",
        more: "Example: balance -6 80 web1 web2",
        read: |draft, _| set(&mut draft.ipv6, true),
        print: |draft| draft.ipv6.to_string(),
        needs: &[NEEDS_PORT],
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
        needs: &[NEEDS_PORT],
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
        needs: &[NEEDS_PORT],
        ..PLAIN
    },
    Row {
        long: "socket-mode",
        value: Value::Word("MODE"),
        help: "Set the permissions of the Unix socket that the service listens on",
        default: "as the umask leaves them; 660 with --socket-group",
        more: "Three octal digits, as chmod takes them. A user needs the permission to write (6 or 7) to connect. The socket has its permissions \
               before anybody can connect to it. For services whose PORT is unix:/PATH; an abstract name has no permissions. Example: \
               balance --socket-mode 666 unix:/run/pg.sock db1:5432",
        read: |draft, word| set(&mut draft.service.socket_mode, Some(read_mode(word)?)),
        print: |draft| draft.service.socket_mode.map_or_else(String::new, |mode| format!("{mode:03o}")),
        needs: &[NEEDS_FILE],
        ..PLAIN
    },
    Row {
        long: "socket-group",
        value: Value::Word("GROUP"),
        help: "Set the group of the Unix socket that the service listens on",
        default: "that of the process",
        more: "The name or the number of a Unix group. Its members can connect: without --socket-mode the permissions are 660. A process that does \
               not run as root can only give the socket to a group that it is in. Example: balance --socket-group www-data \
               unix:/run/pg.sock db1:5432",
        read: |draft, word| set(&mut draft.service.socket_group, Some(unix_group(word)?)),
        print: |draft| name_of(draft.service.socket_group.as_ref()),
        needs: &[NEEDS_FILE],
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
        needs: &[NEEDS_PORT],
        ..PLAIN
    },
    Row {
        long: "accept-proxy",
        value: Value::Word("CIDR[,CIDR...]"),
        help: "Take the client's address from the PROXY header of these senders",
        default: "none",
        more: "Connections from these addresses and networks must begin with a PROXY header, version 1 or 2; any stands for every \
               address, and unix for all who come by a Unix socket. Connections from all other addresses must not have one: balance passes their bytes on as they are. \
               Anyone who can connect from one of these addresses can claim to be any client, so list only your own \
               proxies. Example: balance --accept-proxy 10.0.0.5,10.0.1.0/24 80 web1 web2",
        read: |draft, word| set(&mut draft.service.accept_proxy, Some(read_senders(word)?)),
        print: |draft| draft.service.accept_proxy.as_ref().map_or_else(String::new, print_senders),
        needs: &[Need {
            is_met: Draft::hears_senders,
            wrong: "has no sender that can connect to this service: for a Unix socket write unix, for a port the addresses of proxies, or any",
        }],
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

/// Reads the mode of a file: three octal digits, or four with a leading 0.
fn read_mode(word: &Word) -> Result<u32, Bad> {
    let digits = word.as_str().filter(|text| (3..=4).contains(&text.len()));
    let digits = digits.filter(|text| text.bytes().all(|digit| (b'0'..=b'7').contains(&digit)));
    let mode = digits.and_then(|text| u32::from_str_radix(text, 8).ok()).filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| Bad::Value("is not a mode; give three octal digits such as 660".to_owned()))
}
