//! `status`, `sessions` and `services` as text; 3.57 has no such answers.
//!
//! Knows: columns, units of times. Never: the live table, sockets, the clock.
//! Source: docs/control.md, "status" and "sessions".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::{self, Display, Write};
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{print_manner, print_net};
use crate::control::columns::{TextColumn, table};
use crate::control::services::ServiceSnapshot;
use crate::sched::{
    AdminState, ChannelKey, ChannelSnapshot, DecidedMember, End, EndedSnapshot, FamilySnapshot, HealthState,
    Loss, Peers, SessionSnapshot, ShownAddress, Snapshot,
};
use crate::spec::{FamilyKind, LostSocket};

/// Shown instead of the address of a channel whose name has not been looked up successfully yet.
pub(super) const UNRESOLVED: &str = "unresolved";

/// Writes one line per channel. Then, if there are any, one line each for lists that cannot be read,
/// addresses without a listener, names that stand for several channels, lost clients, and ended connections.
/// New columns go before `why`, which stays last because it may contain blanks.
pub(super) fn status(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    use TextColumn::{Left, Right};
    let columns = [
        Right(5),
        Right(5),
        Left(22),
        Left(5),
        Left(8),
        Right(7),
        Right(6),
        Right(9),
        Right(5),
        Right(9),
        Right(7),
        Right(7),
        Right(7),
        Right(5),
        Left(22),
        Left(7),
        Left(0),
    ];
    let head = [
        "group", "chan", "address", "state", "health", "since", "weight", "c/maxc", "queue", "totalc",
        "failed", "p50", "p99", "addrs", "used", "options", "why",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for group in &snapshot.groups {
        for channel in &group.channels {
            let load = match channel.maxc {
                Some(maxc) => format!("{}/{maxc}", channel.active),
                None => format!("{}/-", channel.active),
            };
            let time = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), short_time);
            rows.push([
                group.id.index().to_string(),
                channel.id.index().to_string(),
                shown_address(channel),
                state_word(channel.state).to_owned(),
                health_word(channel.health.state),
                age(channel.health.age),
                channel.weight.get().to_string(),
                load,
                channel.waiting.to_string(),
                channel.totalc.to_string(),
                channel.failed.to_string(),
                time(channel.connect_p50),
                time(channel.connect_p99),
                format!("{}/{}", channel.addresses_up(), channel.addresses.as_slice().len()),
                channel.used.map_or_else(|| "-".to_owned(), |used| ShownAddress(used).to_string()),
                options_word(channel),
                why(channel),
            ]);
        }
    }
    out.push_str(&table(columns, &rows));
    if let Some(why) = &snapshot.stale_lists {
        writeln!(out, "lists: {why}")?;
    }
    if let Some(at) = &snapshot.not_listening {
        writeln!(out, "not listening on {at}: find what has the port (ss -ltnp), free it and reload")?;
    }
    if let Some(lost) = snapshot.lost_socket {
        writeln!(out, "no client finds its Unix socket: {lost}; {}", anew(lost))?;
    }
    for group in &snapshot.groups {
        group.families.iter().try_for_each(|family| of_many(out, group.id.index(), family))?;
    }
    lost(out, &snapshot.losses)?;
    ends(out, &snapshot.served.ends)
}

/// What makes a Unix socket anew.
pub(super) fn anew(LostSocket { is_replaced, is_passed }: LostSocket) -> &'static str {
    match (is_passed, is_replaced) {
        (true, _) => {
            "systemd has made it: stop the units of balance, its .socket too, then start the .socket unit"
        }
        (false, true) => "remove that file or stop what has made it, then reload makes it anew",
        (false, false) => "reload makes it anew",
    }
}

/// Writes the line of a name that stands for several channels, such as `group 0 channel 0:
/// db.internal:5432,each: channels 2, 3`, and what is wrong with the name.
fn of_many(out: &mut String, group: usize, family: &FamilySnapshot) -> fmt::Result {
    let FamilySnapshot { head, members, .. } = family;
    let removed = removed_members(family);
    let (host, port) = (head.addresses.host().unwrap_or("-"), head.addresses.port());
    let each = if head.addresses.family() == Some(FamilyKind::Each) { ",each" } else { "" };
    // An SRV name has no port of its own, since its records have them, unless one was typed.
    let port = if port == 0 { String::new() } else { format!(":{port}") };
    write!(out, "group {group} channel {}: {host}{port}{each}: ", head.id.index())?;
    let numbers = |keys: &[ChannelKey]| {
        let all: Vec<String> = keys.iter().map(|key| key.channel.index().to_string()).collect();
        format!("channel{} {}", if all.len() == 1 { "" } else { "s" }, all.join(", "))
    };
    let parts: Vec<String> = members
        .chunk_by(|one, other| one.group == other.group)
        .map(|keys| match keys[0].group.index() {
            own if own == group => numbers(keys),
            other => format!("group {other} {}", numbers(keys)),
        })
        .collect();
    write!(out, "{}", if parts.is_empty() { "no channels".to_owned() } else { parts.join("; ") })?;
    if head.state != AdminState::Enabled {
        write!(out, "; {}", state_word(head.state))?;
    }
    if !removed.is_empty() {
        write!(out, "; removed by hand: {}", removed.join(", "))?;
    }
    if let Some((why, since)) = head.naming.as_ref().and_then(|naming| naming.failing.as_ref()) {
        write!(out, "; resolve: {why} since {}", age(*since))?;
    }
    writeln!(out)
}

/// The channels of a name that an operator has removed, as `host:port`.
pub(super) fn removed_members(family: &FamilySnapshot) -> Vec<String> {
    family.decided.iter().filter(|one| one.removed).map(DecidedMember::words).collect()
}

/// The first address of a channel, or `unresolved`.
pub(super) fn shown_address(channel: &ChannelSnapshot) -> String {
    let addresses = &channel.addresses;
    if addresses.is_known() { ShownAddress(addresses.first()).to_string() } else { UNRESOLVED.to_owned() }
}

/// Writes how many clients were lost before they had a channel, and why; nothing if there were none.
fn lost(out: &mut String, losses: &[(Loss, u64)]) -> fmt::Result {
    if losses.is_empty() {
        return Ok(());
    }
    let all: u64 = losses.iter().map(|(_, count)| count).sum();
    let reasons: Vec<String> = losses.iter().map(|(why, count)| format!("{why} {count}")).collect();
    writeln!(out, "lost clients: {all} ({})", reasons.join(", "))
}

/// Writes how many connections have ended and how, the most frequent reason first; nothing if there were
/// none.
fn ends(out: &mut String, ends: &[(End, u64)]) -> fmt::Result {
    if ends.is_empty() {
        return Ok(());
    }
    let all: u64 = ends.iter().map(|(_, count)| count).sum();
    let mut ends = ends.to_vec();
    ends.sort_by_key(|&(how, count)| (std::cmp::Reverse(count), how.to_string()));
    let ends: Vec<String> = ends.iter().map(|(how, count)| format!("{how} {count}")).collect();
    writeln!(out, "ended: {all} ({})", ends.join(", "))
}

/// Writes one line per service. No value contains a blank, so that scripts can cut the columns.
pub(super) fn services(out: &mut String, services: &[ServiceSnapshot]) -> fmt::Result {
    use TextColumn::{Left, Right};
    let columns = [Left(16), Left(22), Right(11), Right(11), Left(8), Left(0)];
    let head = ["name", "listen", "up/channels", "connections", "state", "file"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(services.iter().map(|service| {
        let listen = service.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        [
            service.name.as_deref().unwrap_or("-").to_owned(),
            listen,
            format!("{}/{}", service.up, service.channels),
            service.connections.to_string(),
            service_word(service).to_owned(),
            service.file_word().unwrap_or("-").to_owned(),
        ]
    }));
    out.push_str(&table(columns, &rows));
    Ok(())
}

pub(super) fn service_word(service: &ServiceSnapshot) -> &'static str {
    match service {
        ServiceSnapshot { is_draining: true, .. } => "draining",
        ServiceSnapshot { listens_nowhere: true, .. } => "not-listening",
        ServiceSnapshot { is_paused: true, .. } => "paused",
        _ => "serving",
    }
}

pub(super) fn health_word(state: HealthState) -> String {
    match ramp_percent(state) {
        Some(percent) => format!("{}:{percent}%", health_name(state)),
        None => health_name(state).into(),
    }
}

pub(super) fn health_name(state: HealthState) -> &'static str {
    match state {
        HealthState::Up => "up",
        HealthState::Untried => "untried",
        HealthState::Ramping(_) => "ramp",
        HealthState::Ejected => "ejected",
        HealthState::Down => "down",
    }
}

/// The share of its weight that a returning channel gets, in percent; `None`: it is not returning.
pub(super) fn ramp_percent(state: HealthState) -> Option<u32> {
    if let HealthState::Ramping(steps) = state { Some(steps * 100 / 64) } else { None }
}

/// The options of the channel as one types them; `-` if it has none. Blanks are written as `\x20`, since they
/// would end the column.
fn options_word(channel: &ChannelSnapshot) -> String {
    match print_manner(&channel.manner) {
        options if options.is_empty() => "-".to_owned(),
        options => options.replace(' ', "\\x20"),
    }
}

/// Why the channel gets no or fewer clients: whether it is paused, why it is not up, how many checks failed
/// lately, which of its addresses do not answer, the last error of a client's connect, and why it lost races.
/// `-` if there is nothing to say.
pub(super) fn why(channel: &ChannelSnapshot) -> String {
    let mut parts = Vec::new();
    if channel.paused {
        parts.push("paused".to_owned());
    }
    if let Some(why) = &channel.health.why {
        parts.push(match channel.health.failing {
            Some((failures, fall)) => format!("up {failures}/{fall}: {why}"),
            None => why.clone(),
        });
    }
    if channel.health.state != HealthState::Ejected {
        parts.extend(
            channel.addresses_out.iter().map(|(address, why)| format!("{}: {why}", ShownAddress(*address))),
        );
    }
    if let Some((why, since)) = channel.naming.as_ref().and_then(|naming| naming.failing.as_ref()) {
        // This error says more than the general one of a channel without an address.
        if channel.health.why.as_ref() == Some(why) || !channel.addresses.is_known() {
            parts.retain(|part| Some(part) != channel.health.why.as_ref());
        }
        parts.push(format!("resolve: {why} since {}", age(*since)));
    }
    if let Some((what, ago)) = &channel.last_error
        && channel.health.why.as_ref() != Some(what)
    {
        parts.push(format!("last error {} ago: {what}", age(*ago)));
    }
    let (outrun, unanswered) = (channel.ended.outrun, channel.ended.unanswered);
    if outrun > 0 {
        let races = if outrun == 1 { "race" } else { "races" };
        parts.push(match (unanswered, outrun - unanswered.min(outrun)) {
            (0, _) => format!("lost {outrun} {races}: slower than another"),
            (_, 0) => format!("lost {outrun} {races}: no answer yet"),
            (silent, slower) => format!("lost {outrun} {races}: no answer yet {silent}, slower {slower}"),
        });
    }
    if parts.is_empty() { "-".into() } else { parts.join("; ") }
}

/// Writes one line per connection. New columns go before `state`.
pub(super) fn sessions(out: &mut String, list: &[SessionSnapshot]) -> fmt::Result {
    let width = client_width(list.iter().map(|one| one.client));
    let line = |out: &mut String, cells: [&dyn Display; 9]| {
        let [id, client, group, channel, age, idle, sent, rcvd, state] = cells;
        writeln!(
            out,
            "{id:>8} {client:<width$} {group:>5} {channel:>5} {age:>7} {idle:>7} {sent:>11} {rcvd:>11} {state}"
        )
    };
    line(out, [&"id", &"client", &"group", &"chan", &"age", &"idle", &"sent", &"rcvd", &"state"])?;
    for session in list {
        let number = |of: fn(ChannelKey) -> usize| {
            session.channel.map_or_else(|| "-".to_owned(), |key| of(key).to_string())
        };
        let state =
            session.half_closed.map_or_else(|| "-".to_owned(), |since| format!("half-closed:{}", age(since)));
        let (client, via) = parts_of(session.client);
        let port = session.port.map_or_else(String::new, |port| format!(" port {port}"));
        line(
            out,
            [
                &session.id,
                &client,
                &number(|key| key.group.index()),
                &number(|key| key.channel.index()),
                &age(session.age),
                &age(session.idle),
                &session.sent_bytes,
                &session.rcvd_bytes,
                &format_args!("{state}{via}{port}"),
            ],
        )?;
    }
    Ok(())
}

/// Writes one line for each connection that has ended.
pub(super) fn ended(out: &mut String, list: &[EndedSnapshot]) -> fmt::Result {
    let width = client_width(list.iter().map(|one| one.client));
    let line = |out: &mut String, cells: [&dyn Display; 9]| {
        let [id, client, group, channel, ended, lasted, sent, rcvd, how] = cells;
        writeln!(
            out,
            "{id:>8} {client:<width$} {group:>5} {channel:>5} {ended:>7} {lasted:>7} {sent:>11} {rcvd:>11} {how}"
        )
    };
    line(out, [&"id", &"client", &"group", &"chan", &"ended", &"lasted", &"sent", &"rcvd", &"end"])?;
    for one in list {
        let number = |of: fn(ChannelKey) -> usize| {
            one.channel.map_or_else(|| "-".to_owned(), |key| of(key).to_string())
        };
        let (client, via) = parts_of(one.client);
        line(
            out,
            [
                &one.id,
                &client,
                &number(|key| key.group.index()),
                &number(|key| key.channel.index()),
                &age(one.ended),
                &age(one.age.saturating_sub(one.ended)),
                &one.sent_bytes,
                &one.rcvd_bytes,
                &format_args!("{}{via}", one.how),
            ],
        )?;
    }
    Ok(())
}

/// The width of the column of clients, in characters.
fn client_width(clients: impl Iterator<Item = Option<Peers>>) -> usize {
    clients.map(|client| parts_of(client).0.len()).fold(26, usize::max)
}

/// The client as its column shows it, and the proxy that it came by, if any, for the end of the line.
fn parts_of(client: Option<Peers>) -> (String, String) {
    let name = client.map_or_else(|| "-".to_owned(), |client| client.client().to_string());
    let via = client.and_then(|client| client.via());
    (name, via.map_or_else(String::new, |via| format!(" via {via}")))
}

/// Writes one line per denied network. New columns go before `network`.
pub(super) fn denied(out: &mut String, list: &[(Option<String>, IpNet, Option<Duration>)]) -> fmt::Result {
    let has_services = list.iter().any(|(service, ..)| service.is_some());
    let mut line = |service: &str, left: &str, network: &str| match has_services {
        true => writeln!(out, "{service:<22} {left:>8} {network}"),
        false => writeln!(out, "{left:>8} {network}"),
    };
    line("service", "left", "network")?;
    list.iter().try_for_each(|(service, net, left)| {
        line(service.as_deref().unwrap_or("-"), &left.map_or_else(|| "-".to_owned(), age), &print_net(*net))
    })
}

/// A duration as people say it: `1.2s`, `45s`, `12m03s`, `3h12m`, `2d03h`.
pub(super) fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", span.as_millis() as f64 / 1_000.0),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A time that is usually short: `80us`, `3.5ms`, `1.2s`.
pub(super) fn short_time(span: Duration) -> String {
    let micros = span.as_micros();
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..1_000_000 => format!("{:.1}ms", micros as f64 / 1e3),
        _ => format!("{:.1}s", micros as f64 / 1e6),
    }
}

pub(super) fn state_word(state: AdminState) -> &'static str {
    match state {
        AdminState::Enabled => "ENA",
        AdminState::Disabled => "dis",
        AdminState::DisabledHard => "DIS",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_as_people_say_them() {
        for (millis, said) in [
            (0, "0.0s"),
            (1_234, "1.2s"),
            (9_999, "10.0s"),
            (45_000, "45s"),
            (723_000, "12m03s"),
            (11_520_000, "3h12m"),
            (183_600_000, "2d03h"),
        ] {
            assert_eq!(age(Duration::from_millis(millis)), said);
        }
        for (micros, said) in [(80, "80us"), (3_500, "3.5ms"), (1_200_000, "1.2s")] {
            assert_eq!(short_time(Duration::from_micros(micros)), said);
        }
    }
}
