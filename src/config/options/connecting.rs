//! Options about how channels are connected to, and how long a connection may be silent.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::host::read_hosts;
use super::super::row::{KEEPALIVE, NEEDS_ADDRESSES, Need, PLAIN, Row, Scope, TIME, Value, set};
use super::super::values::{Bad, Span, print_keepalive, print_or, print_seconds, read_keepalive};
use super::super::wrong::Word;
use crate::spec::ProxyTlvs;

/// The interval of lookups: at most ten a second, which is more often than any name changes.
const RESOLVE: Span = Span {
    least: Duration::from_millis(100),
    most: Duration::from_secs(86_400),
    zero: Some("only at the start"),
};

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        short: Some('B'),
        long: "source",
        value: Value::Hosts,
        help: "Connect to channels from this address, or from several in turn",
        more: "It must be an address of this machine. With the usual range of source ports, 28 000 connections from one address \
               to one channel are possible at a time (64 000 at most). Several addresses, with commas between them, take turns, and each has all ports. A channel with an IPv4 address gets connections from the IPv4 addresses, one with an IPv6 \
               address from the others. Example: balance -B 10.1.1.3,10.1.1.4 80 web1 web2",
        read: |draft, word| set(&mut draft.service.sources, read_hosts(word).map_err(Bad::Address)?),
        print: |draft| {
            let names: Vec<_> = draft.service.sources.iter().map(|host| host.name.as_str()).collect();
            names.join(",")
        },
        needs: &[Need {
            is_met: |draft| !draft.service.transparent,
            wrong: "cannot go with --transparent, which gives each connection the client's address; leave one of the two out",
        }],
        ..PLAIN
    },
    Row {
        long: "transparent",
        help: "Connect to channels from the client's own address",
        more: "The servers see who the client is, without knowing of balance. If a PROXY header (--accept-proxy) announces a client, its address \
               counts. The port is one that the kernel chooses. The servers' replies have to come back through this host, and the kernel has to \
               give them to balance: at the start balance checks that, and prints the commands that are missing. It needs CAP_NET_ADMIN, which \
               --user leaves it. Checks come from an address of balance, and so do connections for a client whose address cannot be used: one \
               of another family (IPv4, IPv6) than the channel, a loopback address towards another host, the channel's own. \
               Linux only; not with -B. Example: balance --transparent 80 10.2.0.11:8080 10.2.0.12:8080",
        read: |draft, _| set(&mut draft.service.transparent, true),
        print: |draft| draft.service.transparent.to_string(),
        needs: &[
            Need {
                is_met: |draft| draft.service.sources.is_empty(),
                wrong: "cannot go with -B, which gives each connection an address of this host; leave one of the two out",
            },
            NEEDS_ADDRESSES,
        ],
        ..PLAIN
    },
    Row {
        short: Some('t'),
        long: "connect-timeout",
        value: TIME,
        help: "Time a channel has to accept a connection",
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
        long: "race",
        value: TIME,
        help: "Also try the next channel when one has not answered after TIME",
        default: "0 (only after a failure)",
        more: "The first channel that answers gets the client. balance resets the other attempts, and they do not count as failed. After each \
               further TIME, it tries one more. So a machine that has gone costs a client this time instead of that of -t, and balance tries \
               such a channel in the background. The channels are those of one group; in a hash group there is a next one only with -H. Set \
               it longer than a connect usually takes. Example: balance --race 50ms 80 web1 web2",
        read: |draft, word| set(&mut draft.service.race, Span::or("not before it has failed").read_or(word)?),
        print: |draft| print_or(draft.service.race),
        needs: &[
            Need {
                is_met: |draft| draft.service.race.is_none_or(|race| race < draft.service.connect_timeout),
                wrong: "must be less than -t; by then balance goes on to the next channel anyway",
            },
            Need {
                is_met: |draft| draft.service.race.is_none() || draft.has_next_channels(),
                wrong: "is of no use with %, where each client has one channel; add -H, which lets it go to the next one",
            },
        ],
        ..PLAIN
    },
    Row {
        long: "resolve",
        value: TIME,
        help: "Look up the names of channels again every TIME",
        default: "30s; 0 means only at the start",
        more: "100ms to 1d, give or take 10 %. balance asks the system's resolver, as ping does. A name is also looked up \
               at once when \
               one of its channels is ejected or fails a check, at most once a second. New connections go to the addresses \
               that the name has now; connections to an address that is gone live on, unless --on-remove is kick. A lookup that fails \
               changes nothing. balance believes that a name does not exist only after three answers over at least 30 s, \
               and only while another channel is up. With 0, balance looks names up only at the start, on reload and by the \
               command resolve. A channel with the option lazy, such as web2,lazy, may have no address at the start. \
               Example: balance --resolve 10s 80 web1 web2,lazy",
        read: |draft, word| set(&mut draft.service.resolve, RESOLVE.read_or(word)?),
        print: |draft| print_or(draft.service.resolve),
        ..PLAIN
    },
    Row {
        long: "dns",
        value: Value::Word("SERVER[:PORT],..."),
        scope: Scope::Process,
        help: "Ask these name servers instead of the system's resolver",
        default: "the system's resolver",
        more: "Addresses, with commas between; the port is 53 if none is given. balance asks one after the other until one knows, and \
               looks a name up again when its answer expires (its TTL, at least 1 s and at most 1 h) instead of after --resolve. \
               It takes names as they are, without /etc/hosts and search domains. It also asks these servers for names of services, \
               such as _ldap._tcp.example.com; without --dns, it asks those in /etc/resolv.conf. Example: balance \
               --dns 10.0.0.2,[fd00::2]:5353 80 web.internal:8080,each",
        read: |draft, word| set(&mut draft.process.dns, read_servers(word)?),
        print: |draft| {
            let servers: Vec<_> = draft.process.dns.iter().map(print_server).collect();
            servers.join(",")
        },
        ..PLAIN
    },
    Row {
        short: Some('T'),
        long: "idle-timeout",
        value: TIME,
        help: "Close a connection after this long without a byte",
        default: "0 (never)",
        more: "Example: balance -T 10m 80 web1 web2",
        read: |draft, word| set(&mut draft.service.idle_timeout, Span::or("never").read_or(word)?),
        print: |draft| print_seconds(draft.service.idle_timeout.unwrap_or_default()),
        ..PLAIN
    },
    Row {
        long: "half-close-timeout",
        value: TIME,
        help: "Close a half-closed connection after this long without a byte",
        default: "10m; 0 means never",
        more: "A connection is half-closed when one side has ended its direction. Only silence counts: as long as the other side \
               takes or sends bytes, the connection lives on. balance notices a peer that has closed both directions, or \
               whose system has forgotten the connection, within about a minute. Example: balance --half-close-timeout 1m \
               80 web1 web2",
        read: |draft, word| set(&mut draft.service.half_close_timeout, Span::or("never").read_or(word)?),
        print: |draft| print_or(draft.service.half_close_timeout),
        ..PLAIN
    },
    Row {
        short: Some('k'),
        long: "server-keepalive",
        value: KEEPALIVE,
        help: "Set TCP keepalive for connections to channels",
        more: "The three numbers are as for --client-keepalive. Example: balance -k 60:10:6 80 web1 web2",
        read: |draft, word| set(&mut draft.service.server_keepalive, Some(read_keepalive(word)?)),
        print: |draft| print_keepalive(draft.service.server_keepalive),
        ..PLAIN
    },
    Row {
        long: "proxy-tlv",
        value: Value::Word("LIST"),
        help: "Add these values to PROXY headers (version 2): unique-id, crc32c",
        more: "For channels with the option proxy. unique-id names the connection: 16 hexadecimal digits for the instance, \
               and the number that sessions shows. crc32c is a checksum of the header. Write commas between several values. \
               Example: balance --proxy-tlv unique-id,crc32c 80 web1,proxy web2,proxy",
        read: |draft, word| set(&mut draft.service.proxy_tlvs, read_tlvs(word)?),
        print: |draft| print_tlvs(draft.service.proxy_tlvs),
        joins: true,
        ..PLAIN
    },
];

/// Reads the list of `--proxy-tlv`.
///
/// # Errors
/// A word of the list is unknown.
fn read_tlvs(word: &Word) -> Result<ProxyTlvs, Bad> {
    let mut tlvs = ProxyTlvs::default();
    for name in word.lossy().split(',') {
        match name {
            "unique-id" => tlvs.unique_id = true,
            "crc32c" => tlvs.crc32c = true,
            _ => {
                return Err(Bad::Value("is not a list of values; give unique-id, crc32c or both".to_owned()));
            }
        }
    }
    Ok(tlvs)
}

fn print_tlvs(tlvs: ProxyTlvs) -> String {
    let names = [(tlvs.unique_id, "unique-id"), (tlvs.crc32c, "crc32c")];
    names.into_iter().filter_map(|(is_there, name)| is_there.then_some(name)).collect::<Vec<_>>().join(",")
}

const DNS_PORT: u16 = 53;

/// Reads the list of `--dns`. Port 53 (RFC 1035, 4.2) is the default; a server that is given twice counts
/// once.
///
/// # Errors
/// One of them is not an address, or there are more than [`MOST_SERVERS`].
fn read_servers(word: &Word) -> Result<Vec<SocketAddr>, Bad> {
    let text = word.as_str().unwrap_or_default();
    let server = |server: &str| {
        let bare = server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(server);
        let with_port = || server.parse::<SocketAddr>().ok().filter(|server| server.port() != 0);
        let without = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT));
        without.or_else(with_port).ok_or_else(|| {
            let server = server.escape_debug();
            Bad::Rule(format!(
                "needs addresses, and '{server}' is not one; give one such as 10.0.0.2, 10.0.0.2:5353 or [fd00::2]:5353"
            ))
        })
    };
    let mut servers = Vec::new();
    for one in text.split(',') {
        let one = server(one)?;
        if !servers.contains(&one) {
            servers.push(one);
        }
    }
    if servers.len() > MOST_SERVERS {
        return Err(Bad::Rule(format!("takes at most {MOST_SERVERS} servers")));
    }
    Ok(servers)
}

/// A lookup has time to ask this many servers, one after the other.
const MOST_SERVERS: usize = 8;

fn print_server(server: &SocketAddr) -> String {
    if server.port() == DNS_PORT { server.ip().to_string() } else { server.to_string() }
}
