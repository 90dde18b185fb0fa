//! Problems of a service: channels, names, limits, connections that nobody uses.
//!
//! Knows: signs. Never: where they come from.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::IpAddr;
use std::time::Duration;

use super::finding::Finding;
use super::signs::{Case, NameSign, ServiceSigns};
use crate::control::status::{health_name, shown_address, why};
use crate::sched::{AdminState, ChannelSnapshot, GroupSnapshot, HealthState, Loss, NoChannel, Weight};
use crate::spec::ListenSpan;

/// What the reason begins with if Landlock refuses a file.
pub(super) const LANDLOCK: &str = "--landlock: ";
/// A part of a cause that says that permissions close a file off.
const FORBIDDEN: &str = " (the user ";
/// Maximum number of channels, names or addresses that a finding lists.
const MOST_NAMED: usize = 4;
/// A connection that has been silent for this long counts as idle: firewalls begin to forget it.
pub(super) const LONG_IDLE: Duration = Duration::from_secs(300);
/// The kernel repeats an unanswered connect request after 1 s. The measured times are less exact than that,
/// so this is a little less.
const ASKED_AGAIN: Duration = Duration::from_millis(900);
/// In seconds: keepalive that begins later than this is too late for most firewalls.
const LATE_KEEPALIVE: u64 = 1_800;

/// The first items of a list, and how many more there are.
fn some(list: impl ExactSizeIterator<Item = String>) -> String {
    let more = list.len().saturating_sub(MOST_NAMED);
    let mut named: Vec<String> = list.take(MOST_NAMED).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named.join(", ")
}

/// `1 channel`, `2 channels`.
pub(super) fn counted(count: impl TryInto<u64>, thing: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Why the channel gets no clients; `None`: it gets some.
fn why_unusable(channel: &ChannelSnapshot) -> Option<String> {
    let state = match channel.state {
        AdminState::Enabled if channel.weight == Weight::ZERO => "has weight 0".to_owned(),
        AdminState::Enabled if channel.is_up() => return None,
        AdminState::Enabled => match why(channel).as_str() {
            "-" => format!("is {}", health_name(channel.health.state)),
            why => format!("is {} ({why})", health_name(channel.health.state)),
        },
        AdminState::Disabled | AdminState::DisabledHard => "is disabled".to_owned(),
    };
    Some(format!("channel {} ({}) {state}", channel.id.index(), shown_address(channel)))
}

/// The channels of a group without those that were removed and still have connections.
fn present(group: &GroupSnapshot) -> impl Iterator<Item = &ChannelSnapshot> {
    group.channels.iter().filter(|one| !one.retires)
}

fn unusable(group: &GroupSnapshot) -> Vec<String> {
    present(group).filter_map(why_unusable).collect()
}

/// Is there a channel, but none that gets clients?
fn is_dead(group: &GroupSnapshot) -> bool {
    present(group).next().is_some() && !present(group).any(ChannelSnapshot::is_up)
}

/// The command for a group. For group 0, which is current at the beginning, no `group` is needed.
fn in_group(group: &GroupSnapshot, command: &str) -> String {
    match group.id.index() {
        0 => command.to_owned(),
        number => format!("group {number}; {command}"),
    }
}

/// The command that makes one unusable channel of the group usable.
fn cure(service: &ServiceSigns, group: &GroupSnapshot) -> String {
    let has = |wanted: fn(&ChannelSnapshot) -> bool| present(group).find(|one| wanted(one));
    let is_off = |one: &ChannelSnapshot| one.state != AdminState::Enabled;
    let has_no_weight = |one: &ChannelSnapshot| one.weight == Weight::ZERO;
    if let Some(channel) = has(is_off) {
        service.command(&in_group(group, &format!("enable {}", channel.id.index())))
    } else if let Some(channel) = has(has_no_weight) {
        service.command(&in_group(group, &format!("weight {} 1", channel.id.index())))
    } else if let Some(name) =
        present(group).find(|one| has_no_address(one)).and_then(|one| one.addresses.host())
    {
        format!("getent ahosts {name}; {} asks again", service.command("resolve"))
    } else {
        format!("start the server; {} shows when it is back", service.command("status"))
    }
}

/// Nobody can be sent to a name as long as it has no address.
fn has_no_address(channel: &ChannelSnapshot) -> bool {
    channel.addresses.as_slice().is_empty()
}

pub(super) fn groups(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in case.serving() {
        let groups = || service.table.groups.iter().filter(|group| present(group).next().is_some());
        let is_served = groups().any(|group| !is_dead(group));
        if groups().next().is_none() {
            let found = Finding::broken(
                "the service has no channel",
                "balance closes each client at once",
                service.command("create HOST PORT; enable 0"),
            );
            findings.push(found.of(&service.label));
        }
        // With --fail-open, clients go to these channels whatever their health; not to those that are
        // disabled or have no weight or no address.
        let may_take = |one: &ChannelSnapshot| {
            one.state == AdminState::Enabled && one.weight != Weight::ZERO && !has_no_address(one)
        };
        let may_fail_open = service.spec.fail_open && groups().any(|group| present(group).any(may_take));
        let last = groups().next_back().map(|group| group.id);
        for group in groups().filter(|group| is_dead(group)) {
            let is_last = Some(group.id) == last;
            let found = format!(
                "group {} has no usable channel: {}",
                group.id.index(),
                some(unusable(group).into_iter())
            );
            let found = match (is_served, may_fail_open) {
                (true, _) => Finding::advice(
                    found,
                    if is_last {
                        "clients that the groups before it cannot take are closed"
                    } else {
                        "clients go to the next group"
                    },
                    cure(service, group),
                ),
                _ if !is_served && service.spec.refuse_when_down => Finding::broken(
                    found,
                    "no other group has one, and clients are refused (--refuse-when-down)",
                    cure(service, group),
                ),
                (false, true) => Finding::broken(
                    found,
                    "no other group has one, and clients are sent to channels that do not answer (--fail-open)",
                    cure(service, group),
                ),
                (false, false) => Finding::broken(
                    found,
                    match service.spec.queue {
                        None => "no other group has one, and balance closes new clients",
                        Some(_) => {
                            "no other group has one, and balance closes new clients or lets them wait in the queue"
                        }
                    },
                    cure(service, group),
                ),
            };
            findings.push(found.of(&service.label));
        }
    }
    findings
}

pub(super) fn channels(case: &Case) -> Vec<Finding> {
    let is_out = |one: &&ChannelSnapshot| {
        let is_down = matches!(one.health.state, HealthState::Ejected | HealthState::Down);
        one.state == AdminState::Enabled && is_down
    };
    let mut findings = Vec::new();
    for service in case.serving() {
        for group in service.table.groups.iter().filter(|group| !is_dead(group)) {
            let out: Vec<String> = present(group).filter(is_out).filter_map(why_unusable).collect();
            if !out.is_empty() {
                let found = Finding::advice(
                    format!(
                        "{} of {} in group {} cannot be used: {}",
                        out.len(),
                        counted(present(group).count(), "channel"),
                        group.id.index(),
                        some(out.into_iter())
                    ),
                    "the others carry its clients, and fewer may fail before the group has none left",
                    format!("start the server; {} shows when it is back", service.command("status")),
                );
                findings.push(found.of(&service.label));
            }
            let partly = present(group).filter(|one| one.is_up() && !one.addresses_out.is_empty());
            for one in partly {
                let (address, why) = &one.addresses_out[0];
                let found = Finding::advice(
                    format!(
                        "channel {} in group {}: {} of its {} addresses do not answer, such as {address} ({why})",
                        one.id.index(),
                        group.id.index(),
                        one.addresses_out.len(),
                        one.addresses.as_slice().len()
                    ),
                    "its clients go to the other addresses",
                    format!("start the server, or take {address} out of the name's addresses"),
                );
                findings.push(found.of(&service.label));
            }
        }
    }
    findings
}

pub(super) fn slow_connects(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in case.serving() {
        for group in &service.table.groups {
            for channel in present(group) {
                let Some(slow) = channel.connect_p99.filter(|&time| time >= ASKED_AGAIN) else { continue };
                let found = Finding::advice(
                    format!(
                        "of the last connects to channel {} in group {} ({}), one in a hundred took {:.1} s or more",
                        channel.id.index(),
                        group.id.index(),
                        channel.addresses.first(),
                        slow.as_secs_f64()
                    ),
                    "a connect request that is lost is sent again after 1 s: the server's listen queue overflows, or the network drops packets",
                    format!(
                        "on the server: nstat -az TcpExtListenOverflows, and raise its listen backlog; here: {}",
                        service.command(&in_group(group, &format!("maxc {} 1000", channel.id.index())))
                    ),
                );
                findings.push(found.of(&service.label));
            }
        }
    }
    findings
}

fn listed(addresses: &[IpAddr]) -> String {
    some(addresses.iter().map(ToString::to_string))
}

pub(super) fn names(case: &Case) -> Vec<Finding> {
    let look = |NameSign { host, known, found }: &NameSign| match found {
        None => Some(Finding::advice(
            format!("no name server has answered for '{host}' in time"),
            "a start waits for it, and a reload keeps the old addresses",
            format!("getent ahosts {host}, and compare the name servers in /etc/resolv.conf"),
        )),
        Some(Err(why)) if why.contains(LANDLOCK) || why.contains(FORBIDDEN) => Some(Finding::broken(
            format!("the name '{host}' cannot be looked up now: {why}"),
            match known.is_empty() {
                true => "its channel gets no client".to_owned(),
                false => format!("balance still uses {}, and does not notice a change", listed(known)),
            },
            match why.contains(LANDLOCK) {
                true => "restart balance",
                false => "let this user read that file",
            },
        )),
        Some(Err(why)) if known.is_empty() => Some(Finding::broken(
            format!("the name '{host}' has no address yet ({why})"),
            "its channel gets no client until a resolver knows an address",
            format!("getent ahosts {host}, and put the name into DNS or /etc/hosts"),
        )),
        Some(Err(why)) => Some(Finding::broken(
            format!("the name '{host}' has no address now ({why}); balance still uses {}", listed(known)),
            "this process goes on, but it cannot be started again",
            format!("getent ahosts {host}, and put the name into DNS or /etc/hosts again"),
        )),
        Some(Ok(now)) if now != known => Some(Finding::advice(
            format!("the name '{host}' means {} now, and balance uses {}", listed(now), listed(known)),
            "clients go to the old addresses until the name is looked up again",
            case.serving()
                .next()
                .map_or_else(|| case.command("resolve"), |service| service.command("resolve")),
        )),
        Some(Ok(_)) => None,
    };
    case.names.iter().filter_map(look).collect()
}

pub(super) fn circles(case: &Case) -> Vec<Finding> {
    let look = |(at, text): &(ListenSpan, String)| {
        let service = case.serving().find(|service| service.listen.contains(at))?;
        let found = Finding::advice(
            text.clone(),
            "a circle uses up connections and descriptors for nothing",
            "give the channel the address of a server, or a maxc (HOST:PORT:MAXC) if the circle is meant",
        );
        Some(found.of(&service.label))
    };
    case.process.circles.iter().filter_map(look).collect()
}

pub(super) fn lists(case: &Case) -> Vec<Finding> {
    let look = |service: &ServiceSigns| {
        let why = service.table.stale_lists.as_ref()?;
        let found = Finding::broken(
            format!("a file of --allow or --deny has changed and cannot be read: {why}"),
            "balance uses an older version of the file",
            match why.contains(LANDLOCK) {
                true => "restart balance, or put the file into a directory that it was started with",
                false => "correct the file; balance reads it again by itself",
            },
        );
        Some(found.of(&service.label))
    };
    case.serving().filter_map(look).collect()
}

pub(super) fn full(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in case.serving() {
        let lost = |wanted: Loss| {
            service.table.losses.iter().find(|(why, _)| *why == wanted).map_or(0, |&(_, count)| count)
        };
        let [full, queue, late] =
            [Loss::NoChannel(NoChannel::Full), Loss::QueueFull, Loss::QueueTimeout].map(lost);
        if full + queue + late > 0 {
            let found = Finding::advice(
                format!(
                    "{} got no channel, since all were at their maxc: {full} at once, {queue} since the queue was full, \
                     {late} after waiting in it",
                    counted(full + queue + late, "client")
                ),
                "balance closed their connections without an answer; the number is since the start or the last reset",
                match service.spec.queue {
                    None => "raise maxc, or let clients wait: --queue 1000".to_owned(),
                    Some(queue) => format!("raise maxc, add channels, or raise --queue {queue}"),
                },
            );
            findings.push(found.of(&service.label));
        }
    }
    findings
}

pub(super) fn greetings(case: &Case) -> Vec<Finding> {
    let look = |service: &ServiceSigns| {
        let losses = &service.table.losses;
        let &(_, clients) = losses.iter().find(|(why, _)| *why == Loss::GreetingsFull)?;
        let found = Finding::advice(
            format!(
                "{} got no channel, since there was no memory left for the first bytes of a client",
                counted(clients, "client")
            ),
            "clients send long first messages and do not finish them, or wait for a channel with them; the number is since the start or the last reset",
            format!(
                "{} names one in each greetings_full; deny ADDRESS keeps one out, --client-max limits all",
                service.command("events")
            ),
        );
        Some(found.of(&service.label))
    };
    case.serving().filter_map(look).collect()
}

pub(super) fn limit(case: &Case) -> Vec<Finding> {
    let look = |service: &ServiceSigns| {
        let limit = service.spec.max_connections?.get();
        if (service.connections as u64) < u64::from(limit) {
            return None;
        }
        let found = Finding::broken(
            format!("the service has {} clients, and --max-connections is {limit}", service.connections),
            "new clients wait until one of these has gone",
            format!(
                "find idle ones ({}), raise --max-connections, or close idle connections: -T 3600",
                service.command("sessions")
            ),
        );
        Some(found.of(&service.label))
    };
    case.serving().filter_map(look).collect()
}

pub(super) fn keepalive(case: &Case) -> Vec<Finding> {
    let late = case.kernel.keepalive_time.filter(|&time| time >= LATE_KEEPALIVE);
    let mut findings = Vec::new();
    for service in &case.services {
        let (Some(time), Some((count, longest))) = (late, service.idle) else { continue };
        let spec = &service.spec;
        let missing = match (spec.client_keepalive, spec.server_keepalive) {
            (Some(_), Some(_)) => continue,
            (None, None) => "-K 60:10:6 -k 60:10:6",
            (None, Some(_)) => "-K 60:10:6",
            (Some(_), None) => "-k 60:10:6",
        };
        if count > 0 && spec.idle_timeout.is_none() {
            let found = Finding::advice(
                format!(
                    "{} {} been silent for more than {} s (the longest for {} s), and the system's keepalive begins after {time} s",
                    counted(count, "connection"),
                    if count == 1 { "has" } else { "have" },
                    LONG_IDLE.as_secs(),
                    longest.as_secs()
                ),
                if service.is_draining {
                    "firewalls and NAT forget silent connections after some minutes, and a dead client keeps this process for hours"
                } else {
                    "firewalls and NAT forget silent connections after some minutes, and a dead client holds its slot for hours"
                },
                if service.is_draining {
                    let sessions = match service.asked_at {
                        Some(_) => service.command(&format!("use {}; sessions", service.label)),
                        None => service.command("sessions"),
                    };
                    format!("{sessions} shows which; close ID ends one")
                } else {
                    format!("start balance with {missing}, or close idle connections: -T 3600")
                },
            );
            findings.push(found.of(&service.label));
        }
    }
    findings
}
