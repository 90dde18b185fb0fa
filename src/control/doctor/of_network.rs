//! Problems of this host's network: ports, queues, memory of TCP.
//!
//! Knows: signs. Never: where they come from.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::finding::Finding;
use super::kernel::ListenerSign;
use super::of_service::counted;
use super::signs::{AccessSign, Case, WaySign};
use crate::sched::{AdminState, ShownAddress};
use crate::spec::ListenSpan;

/// The length of the listen queue that balance asks for.
const BACKLOG: u64 = 65_535;
/// A burst of new clients can overflow a listen queue that is shorter than this.
const SHORT_QUEUE: u64 = 512;
/// Usage in percent of the limit from which there is advice.
const NEARLY_FULL: u64 = 80;
/// Usage in percent from which it is called broken.
const FULL: u64 = 98;

fn percent(used: u64, most: u64) -> u64 {
    used.saturating_mul(100).checked_div(most).unwrap_or(0)
}

pub(super) fn source_ports(case: &Case) -> Vec<Finding> {
    let Some(ports) = case.kernel.source_ports() else { return Vec::new() };
    let mut towards: BTreeMap<SourceAndTarget<'_>, PortUse> = BTreeMap::new();
    if case.serving().next().is_none() {
        return Vec::new();
    }
    for service in &case.services {
        let from: Vec<_> = service.spec.sources.iter().map(|host| host.name.as_str()).collect();
        for channel in service.table.groups.iter().flat_map(|group| &group.channels) {
            if !channel.addresses.is_known() {
                continue;
            }
            // If the channel has several addresses, this is the one that answered last.
            let Some(to) = channel.used.unwrap_or_else(|| channel.addresses.first()).net() else { continue };
            let targets = match to.port() {
                0 => service.listen.iter().map(|at| at.ports().len() as u64).sum::<u64>().max(1),
                _ => 1,
            };
            let way = SourceAndTarget { from: from.clone(), to, targets };
            let carried = towards.entry(way).or_insert(PortUse { active: 0, most: Some(0) });
            carried.active += u64::from(channel.active);
            if service.is_draining {
                carried.most = carried.most.map(|most| most + u64::from(channel.active));
            } else if channel.state == AdminState::Enabled {
                let maxc = channel.maxc.map(|maxc| u64::from(maxc.get()));
                carried.most = carried.most.zip(maxc).map(|(most, maxc)| most + maxc);
            }
        }
    }
    let of_way = |way: &SourceAndTarget<'_>| {
        let fits = |name: &&&str| name.parse::<IpAddr>().map_or(true, |ip| ip.is_ipv4() == way.to.is_ipv4());
        // A channel without a port of its own is reached at many ports, and each has a full set of source
        // ports.
        let ports = ports.saturating_mul(way.targets);
        ports.saturating_mul(way.from.iter().filter(fits).count().max(1) as u64)
    };
    towards
        .iter()
        .filter_map(|(way, carried)| too_many(ShownAddress(way.to.into()), carried, of_way(way)))
        .collect()
}

pub(super) fn source_addresses(case: &Case) -> Vec<Finding> {
    ways(case, &case.process.sources)
}

pub(super) fn transparent(case: &Case) -> Vec<Finding> {
    ways(case, &case.process.transparent)
}

fn ways(case: &Case, signs: &[WaySign]) -> Vec<Finding> {
    let look = |sign: &WaySign| {
        let service = case.serving().find(|service| service.listen.contains(&sign.listen))?;
        let WaySign { found, why, cure, is_broken, .. } = sign.clone();
        let found = match is_broken {
            true => Finding::broken(found, why, cure),
            false => Finding::advice(found, why, cure),
        };
        Some(found.of(&service.label))
    };
    signs.iter().filter_map(look).collect()
}

/// Source and target of connections. Only connections with the same source and target need different source
/// ports.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct SourceAndTarget<'a> {
    from: Vec<&'a str>,
    to: SocketAddr,
    /// Number of ports at which the target is reached.
    targets: u64,
}

struct PortUse {
    active: u64,
    /// The maximum that all maxc together allow; `None`: at least one channel has no maxc.
    most: Option<u64>,
}

fn too_many(to: ShownAddress, &PortUse { active, most }: &PortUse, ports: u64) -> Option<Finding> {
    let cure = "sysctl -w net.ipv4.ip_local_port_range='1024 65535', more addresses of the server, or -B with more of your own";
    let why =
        "an address of this machine can use each source port only once for each address and port of a server";
    let found = format!("{active} connections to {to}, and there are {ports} source ports");
    match percent(active, ports) {
        FULL.. => Some(Finding::broken(found, format!("{why}; new clients of it fail or wait"), cure)),
        NEARLY_FULL.. => Some(Finding::advice(found, why, cure)),
        _ => {
            let most = most.filter(|&most| most > ports)?;
            let found = format!("maxc allows {most} connections to {to}, and there are {ports} source ports");
            Some(Finding::advice(found, why, cure))
        }
    }
}

pub(super) fn listen_port(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in case.serving() {
        for at in &service.listen {
            let mut ports = at.ports().filter(|&port| case.kernel.is_source_port(port));
            let Some(lowest) = ports.next() else { continue };
            let (port, are) = match ports.next_back() {
                None => (lowest.to_string(), format!("port {lowest} is one")),
                Some(highest) => {
                    (format!("{lowest}-{highest}"), format!("ports {lowest} to {highest} are some"))
                }
            };
            let (first, last) = case.kernel.port_range.unwrap_or_default();
            let found = Finding::advice(
                format!("{are} of those that the system gives to connections ({first} to {last})"),
                "a connection of any program can have it when balance is started, which then fails: address already in use",
                format!("sysctl -w net.ipv4.ip_local_reserved_ports={port} (and in /etc/sysctl.d)"),
            );
            findings.push(found.of(&service.label));
        }
    }
    findings
}

/// Would a client of one address reach the other listener if the first did not exist?
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    // A listener on [::] that also takes IPv4 clients cannot exist beside one on an IPv4 address, so families
    // are not mixed here.
    let covers = |wide: IpAddr, of: IpAddr| wide.is_unspecified() && wide.is_ipv6() == of.is_ipv6();
    one == other || covers(one, other) || covers(other, one)
}

pub(super) fn not_listening(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in case.serving() {
        let Some(missing) = &service.table.not_listening else { continue };
        let spans = missing.split(", ").filter_map(|at| at.parse::<ListenSpan>().ok());
        let mut others = case.kernel.listeners.iter().filter(|one| !one.is_ours);
        let is_there = |other: &&ListenerSign| {
            let is_in_the_way = |at: ListenSpan| {
                at.ports().contains(&other.address.port())
                    && at.ip().is_some_and(|ip| overlap(other.address.ip(), ip))
            };
            spans.clone().any(is_in_the_way)
        };
        let (who, why) = match others.find(is_there) {
            Some(other) => (
                format!(": another process (user {}) listens on {}", other.uid, other.address),
                "new clients reach that process, or are refused",
            ),
            None => (String::new(), "new clients are refused"),
        };
        let ports = spans.clone().next().map_or(0, |at| at.first().port());
        let cure = format!(
            "ss -ltnp 'sport = :{ports}' shows what has the port; free it, then {}",
            service.command("reload")
        );
        let found = format!("this service does not listen on {missing}, and lost it in a reload{who}");
        findings.push(Finding::broken(found, why, cure).of(&service.label));
    }
    findings
}

pub(super) fn socket_file(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in case.serving() {
        let Some(lost) = service.table.lost_socket else { continue };
        let at = service.spec.listen.ports.to_string();
        let reload = service.command("reload");
        let cure = match (lost.is_passed, lost.is_replaced) {
            (true, _) => {
                "systemd has made it: stop the units of balance, its .socket too, then start the .socket unit"
                    .to_owned()
            }
            (false, true) => {
                format!("remove that file, or stop what has made it; then {reload} makes the socket anew")
            }
            (false, false) => {
                format!("{reload} makes it anew; find what removes it, a cleaner of old files perhaps")
            }
        };
        let found = format!("this service listens on {at}, and {lost}");
        let why = match lost.is_replaced {
            true => "new clients reach something else, or are refused",
            false => "no new client finds the service",
        };
        findings.push(Finding::broken(found, why, cure).of(&service.label));
    }
    findings
}

pub(super) fn socket_permissions(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in case.serving() {
        let Some(AccessSign { wanted, now, is_foreign }) = &service.access else { continue };
        let at = service.spec.listen.ports.to_string();
        let found = format!("the permissions of {at} are {now}, and its line says {wanted}");
        let finding = match is_foreign {
            true => Finding::advice(
                found,
                "balance has not made this socket, so --socket-mode and --socket-group have no effect",
                "set SocketMode= and SocketGroup= in its .socket unit, and take the options out of the line",
            ),
            false => Finding::broken(
                found,
                "they decide who can connect, and somebody else has changed them or balance may not",
                format!("{} sets them again, or says why it cannot", service.command("reload")),
            ),
        };
        findings.push(finding.of(&service.label));
    }
    findings
}

pub(super) fn shared_port(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in case.serving() {
        for at in &service.listen {
            let others = case.kernel.listeners.iter().filter(|one| !one.is_ours);
            let Some(ip) = at.ip() else { continue };
            for other in
                others.filter(|one| at.ports().contains(&one.address.port()) && overlap(one.address.ip(), ip))
            {
                let (address, uid, port) = (other.address, other.uid, other.address.port());
                let why = if address.ip() == ip {
                    "the system divides new clients between the two (SO_REUSEPORT), and each knows only its own"
                } else if ip.is_unspecified() {
                    "clients of that address never come to this service"
                } else {
                    "when this service ends, its clients reach that one instead of being refused"
                };
                let found = Finding::advice(
                    format!(
                        "another process (user {uid}) listens on {address}, too, and this service on {at}"
                    ),
                    why,
                    format!(
                        "ss -ltnp 'sport = :{port}' shows which; stop it, or give each a port of its own"
                    ),
                );
                findings.push(found.of(&service.label));
            }
        }
    }
    findings
}

pub(super) fn backlog(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    let most = case.kernel.somaxconn.unwrap_or(BACKLOG).min(BACKLOG);
    if !case.is_serving {
        return findings;
    }
    let again = case.command("upgrade");
    let raise = |to: u64| format!("sysctl -w net.core.somaxconn={to} (and in /etc/sysctl.d), then {again}");
    let more = (most * 4).clamp(4_096, BACKLOG);
    for service in case.serving() {
        let is_its = |address: &SocketAddr| service.listen.iter().any(|at| at.contains((*address).into()));
        let full = case.kernel.listeners.iter().filter(|one| one.is_ours && is_its(&one.address));
        for one in full.filter(|one| percent(one.queue, most) >= NEARLY_FULL) {
            let found = Finding::broken(
                format!(
                    "{} wait to be accepted on {}, and the listen queue has {most} places",
                    counted(one.queue, "client"),
                    one.address
                ),
                "more clients are not answered until they try again, after 1 s, 3 s, 7 s",
                raise(more),
            );
            findings.push(found.of(&service.label));
        }
    }
    let overflows = case.kernel.listen_overflows.saturating_sub(case.process.before.listen_overflows);
    if overflows > 0 {
        findings.push(Finding::advice(
            format!(
                "{} did not fit into a listen queue since balance serves (all programs of this network counted), and one has {most} places here",
                counted(overflows, "connection")
            ),
            "their clients have waited a second or more, or were refused",
            if most < BACKLOG { raise(more) } else { "find the listener: ss -ltn (Recv-Q against Send-Q), and give balance more --workers".to_owned() },
        ));
    } else if most < SHORT_QUEUE {
        findings.push(Finding::advice(
            format!(
                "the listen queue has {most} places (net.core.somaxconn), and balance asks for {BACKLOG}"
            ),
            "when more clients come at once, the rest has to try again after a second",
            raise(more),
        ));
    }
    findings
}

pub(super) fn memory(case: &Case) -> Vec<Finding> {
    let kernel = &case.kernel;
    let (Some((pressure, most)), Some(used)) = (kernel.tcp_mem, kernel.tcp_mem_used) else {
        return Vec::new();
    };
    let cure = format!(
        "sysctl -w net.ipv4.tcp_mem='{} {} {}' (and in /etc/sysctl.d)",
        pressure.saturating_mul(3) / 2,
        pressure.saturating_mul(2),
        most.saturating_mul(2)
    );
    let found =
        format!("TCP uses {used} pages of memory; pressure begins at {pressure}, and {most} are the limit");
    let aborts = kernel.memory_aborts.saturating_sub(case.process.before.memory_aborts);
    let pressures = kernel.memory_pressures.saturating_sub(case.process.before.memory_pressures);
    if aborts > 0 {
        let found = format!(
            "{found}; the system has reset {} for it since balance serves",
            counted(aborts, "connection")
        );
        return vec![Finding::broken(found, "connections are cut in the middle", cure)];
    }
    if used >= most && most > 0 {
        return vec![Finding::broken(found, "the system drops segments and resets connections", cure)];
    }
    if used >= pressure && pressure > 0 {
        return vec![Finding::advice(
            found,
            "the system shrinks the windows of all connections, and they get slow",
            cure,
        )];
    }
    if pressures > 0 {
        let found = format!("{found}; it was under pressure {pressures} times since balance serves");
        return vec![Finding::advice(found, "connections got slow then", cure)];
    }
    Vec::new()
}

pub(super) fn orphans(case: &Case) -> Vec<Finding> {
    let (Some(orphans), Some(most)) = (case.kernel.orphans, case.kernel.max_orphans) else {
        return Vec::new();
    };
    if percent(orphans, most) < NEARLY_FULL {
        return Vec::new();
    }
    vec![Finding::advice(
        format!("{orphans} closed sockets still wait to deliver their last bytes, and {most} are the limit"),
        "beyond it the system resets them, and clients miss the end of what was sent",
        format!(
            "sysctl -w net.ipv4.tcp_max_orphans={} (and in /etc/sysctl.d)",
            most.saturating_mul(2).max(4_096)
        ),
    )]
}

pub(super) fn time_wait(case: &Case) -> Vec<Finding> {
    let (Some(waits), Some(most)) = (case.kernel.time_waits, case.kernel.max_time_waits) else {
        return Vec::new();
    };
    let overflows = case.kernel.time_wait_overflows.saturating_sub(case.process.before.time_wait_overflows);
    if percent(waits, most) < NEARLY_FULL && overflows == 0 {
        return Vec::new();
    }
    vec![Finding::advice(
        format!(
            "{waits} sockets are in TIME_WAIT, {most} are the limit, and {overflows} did not fit since balance serves"
        ),
        "what does not fit is forgotten early, and late segments of an old connection can meet a new one",
        format!(
            "sysctl -w net.ipv4.tcp_max_tw_buckets={} (and in /etc/sysctl.d)",
            most.saturating_mul(2).max(65_536)
        ),
    )]
}

pub(super) fn conntrack(case: &Case) -> Vec<Finding> {
    let Some((count, most)) = case.kernel.conntrack else { return Vec::new() };
    let found = format!("the firewall tracks {count} connections, and {most} are the limit");
    let cure = format!(
        "sysctl -w net.netfilter.nf_conntrack_max={} (and in /etc/sysctl.d), or notrack rules for these ports",
        most.saturating_mul(2).max(65_536)
    );
    let why = "beyond it packets of new connections are dropped (dmesg: nf_conntrack: table full)";
    match percent(count, most) {
        FULL.. => vec![Finding::broken(found, why, cure)],
        NEARLY_FULL.. => vec![Finding::advice(found, why, cure)],
        _ => Vec::new(),
    }
}

pub(super) fn congestion(case: &Case) -> Vec<Finding> {
    let Some(named) = case.kernel.congestion.as_ref().filter(|name| name.starts_with("bbr")) else {
        return Vec::new();
    };
    if case.process.loopback_congestion.is_some() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for service in case.serving() {
        let channels = service.table.groups.iter().flat_map(|group| &group.channels);
        let local = channels.filter(|one| {
            one.addresses.is_known() && one.addresses.as_slice().iter().all(|at| at.is_loopback())
        });
        let count = local.count();
        if count > 0 {
            let found = Finding::advice(
                format!(
                    "{} on loopback, and the system's congestion control is {named}",
                    counted(count, "channel")
                ),
                "bbr paces what it sends, and on loopback that costs most of the throughput",
                "start balance with --loopback-congestion reno, or sysctl -w net.ipv4.tcp_congestion_control=cubic",
            );
            findings.push(found.of(&service.label));
        }
    }
    findings
}
