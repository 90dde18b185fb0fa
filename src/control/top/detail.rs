//! All details of the selected row, as lines of text.
//!
//! Knows: the words of `status` and `sessions`. Never: sockets, the clock, where anything stands on the
//! screen.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::channel_table::channel_ink;
use super::desk::{TopDesk, TopView};
use super::facts::{EventFacts, Shown, TableFacts};
use super::figures::{age_of, connect, count, known_rate};
use super::looked::{ChannelRow, Looked, SessionRow};
use super::paint::{Ink, wrapped};

/// The lines, the most important ones first.
pub(super) fn detail(desk: &TopDesk, looked: &Looked, width: usize) -> Vec<(String, Ink)> {
    let place = desk.place(looked).unwrap_or(usize::MAX);
    let mut lines = Vec::new();
    let mut put =
        |text: String, ink: Ink| lines.extend(wrapped(&text, width).into_iter().map(|line| (line, ink)));
    match desk.view {
        TopView::Channels => {
            let rows = looked.channels(&desk.filter, desk.channel_order);
            if let Some(row) = rows.get(place) {
                channel(row, &mut put);
            }
            if let Some(table) = looked.table() {
                service(table, &mut put);
            }
        }
        TopView::Sessions => {
            let rows = looked.sessions(&desk.filter, desk.session_order);
            if let Some(row) = rows.get(place) {
                session(row, &mut put);
            }
        }
        TopView::Events => {
            if let Some(row) = looked.events(&desk.filter).get(place) {
                event(row, &mut put);
            }
        }
    }
    lines
}

fn channel(row: &ChannelRow<'_>, put: &mut impl FnMut(String, Ink)) {
    let ChannelRow { group, channel, rates } = row;
    let host = channel.typed_host();
    put(
        format!(
            "{} {}{host}  {} {} for {}  c/maxc {}  weight {}  queue {}",
            row.name(),
            channel.address,
            channel.state,
            channel.health_word(),
            age_of(channel.health_age_seconds),
            channel.load(),
            channel.weight,
            channel.queue,
        ),
        Ink::Head,
    );
    put(format!("why: {}", channel.why_word()), channel_ink(channel));
    put(
        format!(
            "totalc {}  failed {}  p50 {}  p99 {}  addrs {}  sent {}  rcvd {}",
            channel.totalc,
            channel.failed,
            connect(channel.connect_p50_seconds),
            connect(channel.connect_p99_seconds),
            channel.addresses_word(),
            count(channel.sent_bytes, 6),
            count(channel.rcvd_bytes, 6),
        ),
        Ink::Plain,
    );
    let rate = |of: fn(super::samples::SeenRates) -> f64| known_rate(rates.map(of));
    put(
        format!(
            "{} conn/s  {} sent/s  {} rcvd/s  used {}  policy of the group {}{}{}",
            rate(|one| one.conns),
            rate(|one| one.sent),
            rate(|one| one.rcvd),
            channel.used.as_ref().map_or("-", Shown::as_str),
            group.policy,
            if channel.autodisabled { "  autodisabled" } else { "" },
            if channel.removing { "  removing" } else { "" },
        ),
        Ink::Plain,
    );
    if channel.failures.total > 0 {
        put(format!("failed: {} ({})", channel.failures.total, channel.failures.words()), Ink::Warn);
    }
    if channel.ended.total > 0 {
        put(format!("ended: {} ({})", channel.ended.total, channel.ended.words()), Ink::Plain);
    }
    if channel.addresses.len() > 1 {
        for one in &channel.addresses {
            let why = one.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            let (word, ink) = if one.up { ("up", Ink::Good) } else { ("not up", Ink::Bad) };
            put(format!("address {} {word}{why}", one.address), ink);
        }
    }
}

fn service(table: &TableFacts, put: &mut impl FnMut(String, Ink)) {
    if table.lost.total > 0 {
        put(format!("lost clients: {} ({})", table.lost.total, table.lost.words()), Ink::Warn);
    }
    if table.ended.total > 0 {
        put(format!("ended, all channels: {} ({})", table.ended.total, table.ended.words()), Ink::Plain);
    }
    for one in table.changed_by_hand.iter().flatten() {
        put(format!("changed by hand: {one}"), Ink::Plain);
    }
}

fn session(row: &SessionRow<'_>, put: &mut impl FnMut(String, Ink)) {
    let SessionRow { session, rates } = row;
    put(format!("session {}", session.id), Ink::Head);
    put(format!("client {}", session.client.as_ref().map_or("-", Shown::as_str)), Ink::Plain);
    put(format!("group/chan {}", row.channel()), Ink::Plain);
    put(format!("age {}  idle {}", age_of(session.age_seconds), age_of(session.idle_seconds)), Ink::Plain);
    put(
        format!(
            "sent {}  rcvd {}  {} sent/s  {} rcvd/s",
            session.sent_bytes,
            session.rcvd_bytes,
            known_rate(rates.map(|one| one.sent)),
            known_rate(rates.map(|one| one.rcvd)),
        ),
        Ink::Plain,
    );
    put(format!("state {}", session.state()), Ink::Plain);
}

fn event(event: &EventFacts, put: &mut impl FnMut(String, Ink)) {
    put(format!("{} {}", event.at, event.level), Ink::Head);
    put(event.line.to_string(), Ink::Plain);
}
