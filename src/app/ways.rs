//! Source addresses of connections to channels (`-B`, `--transparent`): whether this host can use them, and
//! the commands for what is missing.
//!
//! Knows: our addresses and those of servers, which rules and routes bring replies back. Never: clients, how
//! a connection is made.
//! Source: docs/transparent.md.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::lookup::Resolved;
use super::{Failure, exit};
use crate::control::WaySign;
use crate::sched::{Addresses, Snapshot};
use crate::spec::{ListenSpan, ServiceSpec};
use crate::sys::{Outgoing, may_come_from, transparent};

/// The packet mark and the number of the routing table in the printed commands. No well-known program uses
/// them.
const MARK: u32 = 0xba1;
/// Maximum number of servers named in a message.
const MOST_NAMED: usize = 4;
/// Maximum number of servers that are checked.
const MOST_SERVERS: usize = 1_000;
// A unit that has either setting already needs both capabilities in it, and a second line adds to the first.
const NO_CAPABILITY: &str = "--transparent needs CAP_NET_ADMIN: start balance as root (with --user it keeps this one), or with \
                             'AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_ADMIN' and \
                             'CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_NET_ADMIN' in its unit";

/// A server to which connections are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct WayTarget {
    ip: IpAddr,
    first_port: u16,
    last_port: u16,
}

/// The servers at these addresses, for a service that listens on this span. Unix sockets are left out.
fn servers<'a>(channels: impl Iterator<Item = &'a Addresses>, span: ListenSpan) -> BTreeSet<WayTarget> {
    let mut servers = BTreeSet::new();
    for addresses in channels {
        let own = addresses.as_slice().iter().filter_map(|address| address.net());
        let members = addresses.members().into_iter().flatten();
        let all = own.chain(members.flat_map(|member| member.addresses.iter().copied()));
        for address in all {
            let (first_port, last_port) = match address.port() {
                0 => span.ports().into_inner(),
                port => (port, port),
            };
            // As a target, the kernel takes the unspecified address for the loopback address.
            let ip = match address.ip().to_canonical() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            servers.insert(WayTarget { ip, first_port, last_port });
        }
    }
    servers
}

/// Why services with `--transparent` could not serve; `None`: they could. `anybody`: the caller may lack
/// privileges that the serving process will have.
pub(super) fn refused<'a>(
    services: impl Iterator<Item = (&'a ServiceSpec, &'a Resolved)>,
    anybody: bool,
) -> Option<Failure> {
    let (mut all, mut is_any) = (BTreeSet::new(), false);
    for (_, found) in services.filter(|(spec, _)| spec.transparent) {
        is_any = true;
        all.append(&mut servers(found.channels.iter().flatten().flatten(), found.span()));
    }
    if !is_any {
        return None;
    }
    let text = match missing(&all) {
        Missing::Nothing => return None,
        Missing::Power if anybody => return None,
        Missing::Power => format!("balance: {NO_CAPABILITY}"),
        Missing::System(why) => format!("balance: --transparent does not work here: {why}"),
        Missing::Commands { commands, server } => format!(
            "balance: --transparent: replies of {server} to clients would not reach balance. Run these commands as root:\n{}\n\
             (they hold until the next boot; docs/transparent.md says how to keep them)",
            commands.join("\n")
        ),
    };
    Some(Failure::new(exit::OS, text))
}

/// The problem of a running service, if it has the option.
pub(super) fn transparent_sign(listen: ListenSpan, outgoing: &Outgoing, now: &Snapshot) -> Option<WaySign> {
    if !outgoing.transparent {
        return None;
    }
    lacking(listen, now)
}

/// The same for a service that has the option.
pub(super) fn lacking(listen: ListenSpan, now: &Snapshot) -> Option<WaySign> {
    let channels = now.groups.iter().flat_map(|group| &group.channels);
    let (found, cure) = match missing(&servers(channels.map(|channel| &channel.addresses), listen)) {
        Missing::Nothing => return None,
        Missing::Power => ("balance may not use clients' addresses".to_owned(), NO_CAPABILITY.to_owned()),
        Missing::System(why) => {
            (format!("--transparent does not work here: {why}"), "leave it out".to_owned())
        }
        Missing::Commands { commands, server } => {
            (format!("replies of {server} to clients do not reach balance"), commands.join("; "))
        }
    };
    let why = "connections from clients' addresses time out".to_owned();
    Some(WaySign { listen, found, why, cure, is_broken: true })
}

/// The problem as a log message.
pub(super) fn in_words(sign: &WaySign) -> String {
    format!("--transparent: {}; type: {}", sign.found, sign.cure)
}

/// A message about servers of a service with `--transparent` to which there is no route now. It is not known
/// which way their replies would come.
pub(super) fn unrouted(listen: ListenSpan, outgoing: &Outgoing, now: &Snapshot) -> Option<String> {
    if !outgoing.transparent {
        return None;
    }
    let channels = now.groups.iter().flat_map(|group| &group.channels);
    let all = servers(channels.map(|channel| &channel.addresses), listen);
    let ips: BTreeSet<IpAddr> = all.iter().map(|server| server.ip).take(MOST_SERVERS).collect();
    let unrouted: Vec<String> =
        ips.into_iter().filter(|&ip| has_no_route(ip)).map(|ip| ip.to_string()).collect();
    let more = match unrouted.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!unrouted.is_empty()).then(|| {
        format!(
            "--transparent: there is no route to {}{more}, so balance cannot tell whether replies to clients would reach it; once there is \
             one, ask doctor",
            unrouted[..unrouted.len().min(MOST_NAMED)].join(", ")
        )
    })
}

/// A message about addresses of `-B` that this host does not have, and whether none is left.
pub(super) fn missing_sources(outgoing: &Outgoing) -> Option<(String, bool)> {
    let all = outgoing.sources.as_slice();
    let missing: Vec<String> =
        all.iter().filter(|&&source| may_come_from(source).is_err()).map(|at| at.ip().to_string()).collect();
    let is_all = missing.len() == all.len();
    let (addresses, it) = if missing.len() == 1 { ("address", "it") } else { ("addresses", "them") };
    let so = match is_all {
        true => format!("connections to channels fail until it has {it}"),
        false => "balance uses the other addresses".to_owned(),
    };
    let text = format!("-B: this host does not have the {addresses} {}; {so}", missing.join(", "));
    (!missing.is_empty()).then_some((text, is_all))
}

/// The same as a finding for `doctor`.
pub(super) fn source_sign(listen: ListenSpan, outgoing: &Outgoing) -> Option<WaySign> {
    let (text, is_broken) = missing_sources(outgoing)?;
    let (found, why) = text.split_once("; ")?;
    let cure = "ip addr shows the addresses of this host; correct -B, or add the address".to_owned();
    Some(WaySign { listen, found: found.to_owned(), why: why.to_owned(), cure, is_broken })
}

/// What is missing for connections from clients' addresses.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    Nothing,
    Power,
    System(String),
    /// The commands that provide it, and the first server that needs it.
    Commands {
        commands: Vec<String>,
        server: SocketAddr,
    },
}

#[cfg(not(target_os = "linux"))]
fn missing(_: &BTreeSet<WayTarget>) -> Missing {
    let _ = (MARK, MOST_SERVERS);
    match transparent::may_bind(false) {
        Err(e) => Missing::System(e.to_string()),
        Ok(()) => Missing::Nothing,
    }
}

#[cfg(not(target_os = "linux"))]
fn has_no_route(_: IpAddr) -> bool {
    false
}

#[cfg(target_os = "linux")]
use linux::{has_no_route, missing};

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::path::Path;

    use super::{
        BTreeSet, IpAddr, Ipv4Addr, Ipv6Addr, MARK, MOST_SERVERS, Missing, SocketAddr, WayTarget, transparent,
    };
    use crate::sys::netlink::{self, AskedPacket};

    /// What one address family lacks.
    #[derive(Default)]
    struct Lacks {
        /// A server on another host whose replies are not routed to us.
        remote: Option<WayTarget>,
        /// Servers on this host whose replies are not routed to us.
        local: Vec<WayTarget>,
        /// A server whose replies would be routed to us by a mark, but nothing sets that mark.
        unmarked: Option<WayTarget>,
        has_rule: bool,
    }

    /// Is there no route to this address?
    pub(super) fn has_no_route(to: IpAddr) -> bool {
        let unreachable = |e: &io::Error| {
            matches!(
                rustix::io::Errno::from_io_error(e),
                Some(rustix::io::Errno::NETUNREACH | rustix::io::Errno::HOSTUNREACH)
            )
        };
        netlink::interface_towards(to).is_err_and(|e| unreachable(&e))
    }

    pub(super) fn missing(servers: &BTreeSet<WayTarget>) -> Missing {
        // Without channels, IPv4 is still checked.
        let has = |is_v6| servers.iter().any(|server| server.ip.is_ipv6() == is_v6);
        let families: Vec<bool> =
            [false, true].into_iter().filter(|&is_v6| has(is_v6) || servers.is_empty() && !is_v6).collect();
        for &is_v6 in &families {
            match transparent::may_bind(is_v6) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Missing::Power,
                Err(e) => return Missing::System(e.to_string()),
            }
        }
        let (mut commands, mut marks, mut first) = (Vec::new(), Vec::new(), None);
        for is_v6 in families {
            // If the kernel does not answer, nothing is known.
            let Ok(lacks) = lacks(servers, is_v6) else { continue };
            let ip = if is_v6 { "ip -6" } else { "ip" };
            if lacks.remote.is_some() && !lacks.has_rule {
                commands.push(format!("{ip} rule add fwmark {MARK:#x} lookup {MARK}"));
            }
            for WayTarget { ip: address, first_port, last_port } in &lacks.local {
                let ports = match first_port == last_port {
                    true => first_port.to_string(),
                    false => format!("{first_port}-{last_port}"),
                };
                // 6 is TCP. By its name, `ip` finds it only where there is /etc/protocols.
                commands.push(format!("{ip} rule add from {address} ipproto 6 sport {ports} lookup {MARK}"));
            }
            if lacks.remote.is_some() || !lacks.local.is_empty() {
                let all = if is_v6 { "::/0" } else { "0.0.0.0/0" };
                commands.push(format!("{ip} route replace local {all} dev lo table {MARK}"));
            }
            if lacks.unmarked.is_some() || lacks.remote.is_some() && is_marked(is_v6) == Some(false) {
                marks.push(is_v6);
            }
            first = first.or(lacks.remote).or(lacks.local.first().copied()).or(lacks.unmarked);
        }
        commands.extend(marking(&marks));
        match first {
            Some(WayTarget { ip, first_port, .. }) if !commands.is_empty() => {
                Missing::Commands { commands, server: SocketAddr::new(ip, first_port) }
            }
            _ => Missing::Nothing,
        }
    }

    fn lacks(servers: &BTreeSet<WayTarget>, is_v6: bool) -> io::Result<Lacks> {
        let rules = netlink::marks(is_v6)?;
        let has_rule = rules.contains(&(MARK, MARK));
        let mut lacks = Lacks { has_rule, ..Lacks::default() };
        // Addresses reserved for documentation stand for any client.
        let client: IpAddr = match is_v6 {
            true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            false => Ipv4Addr::new(198, 51, 100, 1).into(),
        };
        for server in servers.iter().filter(|server| server.ip.is_ipv6() == is_v6).take(MOST_SERVERS) {
            // A server that cannot be reached at all has another problem.
            let Ok(interface) = netlink::interface_towards(server.ip) else { continue };
            let from = SocketAddr::new(server.ip, server.first_port);
            let comes = |mark| {
                netlink::is_delivered(&AskedPacket { from, to: client, interface, mark }).unwrap_or(false)
            };
            // Our own commands set no mark on packets that this host sends.
            let may_have = |mark| interface.is_some() || mark != MARK;
            match () {
                () if comes(0) => {}
                () if rules.iter().any(|&(mark, _)| may_have(mark) && comes(mark)) => {
                    if is_marked(is_v6) == Some(false) {
                        lacks.unmarked.get_or_insert(*server);
                    }
                }
                () if interface.is_none() => lacks.local.push(*server),
                () => {
                    lacks.remote.get_or_insert(*server);
                }
            }
        }
        Ok(lacks)
    }

    /// Does anything set marks on packets? `None`: the kernel does not tell.
    fn is_marked(is_v6: bool) -> Option<bool> {
        let tables = if is_v6 { "ip6_tables_names" } else { "ip_tables_names" };
        let legacy = std::fs::read_to_string(format!("/proc/thread-self/net/{tables}"));
        if legacy.is_ok_and(|names| names.lines().any(|name| name == "mangle")) {
            return Some(true);
        }
        match netlink::nftables_mark(is_v6) {
            Ok(marks) => Some(marks),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => None,
            // A kernel without nftables sets no marks by it.
            Err(_) => Some(false),
        }
    }

    /// The command that marks replies to connections from clients' addresses, using the program that this
    /// host has.
    fn marking(families: &[bool]) -> Vec<String> {
        let has = |program: &str| {
            let mut places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"].iter();
            places.any(|place| Path::new(place).join(program).exists())
        };
        if families.is_empty() {
            return Vec::new();
        }
        if !has("nft") && has("iptables") {
            let program = |&is_v6: &bool| if is_v6 { "ip6tables" } else { "iptables" };
            let command = |program| {
                format!(
                    "{program} -t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark {MARK:#x}"
                )
            };
            return families.iter().map(program).map(command).collect();
        }
        let table = match families {
            [false] => "ip",
            [true] => "ip6",
            _ => "inet",
        };
        vec![format!(
            "nft 'table {table} balance {{ chain transparent {{ type filter hook prerouting priority mangle; meta l4proto tcp socket \
             transparent 1 meta mark set {MARK:#x}; }}; }}'"
        )]
    }
}
