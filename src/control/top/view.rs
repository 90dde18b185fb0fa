//! The layout of the whole screen, at any size.
//!
//! Knows: what is left out on a small screen. Never: the terminal, sockets, the clock.
//! Source: docs/observability.md, "Top".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;

use super::channel_table::channels;
use super::desk::{TopDesk, TopMode, TopView};
use super::detail::detail;
use super::figures::{age_of, known_rate};
use super::help::{KEYS, help_lines};
use super::looked::Looked;
use super::paint::{Canvas, Ink, TerminalPowers, TextSide, width_of};
use super::tables::{SPAN, TableView, events, highest, services, sessions};
use crate::control::status::age;

/// From this number of lines on, more than the table is shown.
const TALL: u16 = 16;
/// From this number of lines on, events and a plot are shown as well.
const VERY_TALL: u16 = 36;
/// Height of the plot, in lines.
const PLOT: u16 = 5;

/// Draws the whole screen. `now` is the time on our clock.
pub(super) fn paint(
    cells: &mut Buffer,
    powers: TerminalPowers,
    desk: &mut TopDesk,
    looked: &Looked,
    now: Duration,
) {
    let area = cells.area;
    let canvas = &mut Canvas { cells, powers };
    let mut rest = area;
    title(canvas, take_top(&mut rest, 1), desk, looked, now);
    let foot = take_bottom(&mut rest, 1);
    match &desk.mode {
        TopMode::Help => {
            desk.page = usize::from(rest.height);
            desk.scrolled = page(canvas, rest, &help_lines(), desk.scrolled);
        }
        TopMode::Detail => {
            desk.page = usize::from(rest.height);
            let lines = detail(desk, looked, usize::from(rest.width));
            desk.scrolled = page(canvas, rest, &lines, desk.scrolled);
        }
        _ => tables(canvas, rest, desk, looked, now),
    }
    footer(canvas, foot, desk, looked);
    match &desk.mode {
        TopMode::Confirm(order) => {
            let lines = [
                (order.line.clone(), Ink::Head),
                (order.about.clone(), Ink::Plain),
                (String::new(), Ink::Plain),
                ("y: send it    n: do not".to_owned(), Ink::Head),
            ];
            canvas.popup(area, &lines);
        }
        TopMode::Number(order, typed) => {
            let lines = [
                (order.about().to_owned(), Ink::Plain),
                (format!("{}: {typed}_", order.question), Ink::Head),
                ("Enter: go on    Esc: leave it".to_owned(), Ink::Plain),
            ];
            canvas.popup(area, &lines);
        }
        _ => {}
    }
}

fn take_top(rest: &mut Rect, lines: u16) -> Rect {
    let height = lines.min(rest.height);
    let taken = Rect { height, ..*rest };
    *rest = Rect { y: rest.y + height, height: rest.height - height, ..*rest };
    taken
}

fn take_bottom(rest: &mut Rect, lines: u16) -> Rect {
    let height = lines.min(rest.height);
    rest.height -= height;
    Rect { y: rest.bottom(), height, ..*rest }
}

/// Draws the top line: the process, or since when it has not answered.
fn title(canvas: &mut Canvas<'_>, line: Rect, desk: &TopDesk, looked: &Looked, now: Duration) {
    if let Some((since, why)) = &looked.trouble {
        let span = now.saturating_sub(*since);
        let why = why.trim_end().replace('\n', " ");
        let blank = " ".repeat(usize::from(line.width));
        canvas.put(line, &blank, Ink::Alarm, TextSide::Left);
        return canvas.put(line, &format!("no answer for {}: {why}", age(span)), Ink::Alarm, TextSide::Left);
    }
    let process = &looked.last.process;
    let taken_at = looked.last.taken_at.as_str();
    let clock = if line.width >= 100 { taken_at } else { taken_at.get(11..19).unwrap_or(taken_at) };
    let right = match (desk.is_frozen, looked.at) {
        (_, None) => "asking ...".to_owned(),
        (true, _) => format!("FROZEN at {clock}"),
        (false, _) => format!("{clock}{}", if line.width >= 100 { "" } else { " UTC" }),
    };
    let view = match desk.view {
        TopView::Channels => "channels",
        TopView::Sessions => "sessions",
        TopView::Events => "events, the newest first",
    };
    // `FROZEN` comes before everything else, and the time comes before what was taken over.
    let kept = right.len() + 1;
    let always = if desk.is_frozen { kept } else { 0 };
    let mut rest = canvas.run(line, [("balance ", Ink::Head), (process.version.as_str(), Ink::Plain)]);
    if looked.at.is_some() {
        let taken_over = process.taken_over.as_ref().map(|before| {
            let draining = before.draining.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
            format!("  from process {}: carried {}, draining {draining}", before.pid, before.carried)
        });
        let up = format!("  pid {}  up {}", process.pid, age_of(process.uptime_seconds));
        let view = format!("  {view}");
        let parts =
            [(Some(up), Ink::Plain, always), (Some(view), Ink::Head, always), (taken_over, Ink::Plain, kept)];
        for (text, ink, kept) in
            parts.iter().filter_map(|(text, ink, kept)| Some((text.as_ref()?, *ink, kept)))
        {
            // A part that does not fit completely is left out.
            if width_of(text) + kept <= usize::from(rest.width) {
                rest = canvas.run(rest, [(text.as_str(), ink)]);
            }
        }
    }
    let ink = if desk.is_frozen { Ink::Alarm } else { Ink::Plain };
    if usize::from(rest.width) > right.len() {
        canvas.put(rest, &right, ink, TextSide::Right);
    }
}

/// Draws the bottom line: the keys or a message.
fn footer(canvas: &mut Canvas<'_>, line: Rect, desk: &TopDesk, looked: &Looked) {
    if let Some(message) = &desk.message {
        let ink = if message.is_bad { Ink::Bad } else { Ink::Good };
        return canvas.put(line, &message.text.trim_end().replace('\n', "; "), ink, TextSide::Left);
    }
    if let TopMode::Filter(_) = &desk.mode {
        let text = format!("/{}_", desk.filter);
        let rest = canvas.run(line, [(text.as_str(), Ink::Head)]);
        return canvas.put(rest, "  Enter: keep it  Esc: as before", Ink::Dim, TextSide::Left);
    }
    let keys: &[(&str, &str)] = match (&desk.mode, desk.view) {
        (TopMode::Help, _) => &[("Esc", "back"), ("Up Down", "scroll")],
        (TopMode::Detail, TopView::Channels) => &[
            ("Esc", "back"),
            ("Left Right", "channel"),
            ("d", "disable"),
            ("e", "enable"),
            ("w", "weight"),
            ("?", "help"),
        ],
        (TopMode::Detail, _) => &[("Esc", "back"), ("Left Right", "row"), ("?", "help")],
        (_, TopView::Channels) => KEYS,
        (_, TopView::Sessions) => &[
            ("q", "quit"),
            ("?", "help"),
            ("1", "channels"),
            ("3", "events"),
            ("/", "filter"),
            ("<>", "sort"),
            ("x", "close"),
            ("Enter", "detail"),
        ],
        (_, TopView::Events) => &[
            ("q", "quit"),
            ("?", "help"),
            ("1", "channels"),
            ("2", "sessions"),
            ("/", "filter"),
            ("Enter", "detail"),
        ],
    };
    let mut rest = line;
    let is_one = looked.labels().len() < 2;
    for (key, what) in keys.iter().filter(|(key, _)| !(is_one && *key == "Tab")) {
        let gap = if rest.x > line.x { "  " } else { "" };
        if usize::from(rest.width) < gap.len() + key.len() + 1 + what.len() {
            break;
        }
        rest = canvas.run(rest, [(gap, Ink::Plain), (*key, Ink::Head), (" ", Ink::Plain), (*what, Ink::Dim)]);
    }
}

/// Draws lines from number `from` on. Returns the line that is really at the top.
fn page(canvas: &mut Canvas<'_>, area: Rect, lines: &[(String, Ink)], from: usize) -> usize {
    let from = from.min(lines.len().saturating_sub(usize::from(area.height)));
    for ((text, ink), line) in lines.iter().skip(from).zip(area.rows()) {
        canvas.put(line, text, *ink, TextSide::Left);
    }
    from
}

/// Draws the services, the chosen table, and what belongs to it.
fn tables(canvas: &mut Canvas<'_>, area: Rect, desk: &mut TopDesk, looked: &Looked, now: Duration) {
    let mut rest = area;
    let whole = area.height + 2;
    let listed = looked.last.services.len().min(u16::MAX.into()) as u16;
    if whole >= TALL {
        let most = (whole / 5).max(1);
        let place = take_top(&mut rest, listed.min(most) + 1);
        services(canvas, &TableView { area: place, selected: None, now }, looked);
    } else if whole >= 5 {
        service_line(canvas, take_top(&mut rest, 1), looked);
    }
    if whole >= VERY_TALL {
        plot(canvas, take_top(&mut rest, PLOT + 1), looked, now);
    }
    let place = desk.place(looked);
    match desk.view {
        TopView::Channels => {
            let rows = looked.channels(&desk.filter, desk.channel_order);
            let samples = looked.label().and_then(|label| looked.samples.of(label));
            let all =
                looked.table().map_or(0, |table| table.groups.iter().map(|group| group.channels.len()).sum());
            // If there is little room, lines are cut off instead of broken.
            let width = if whole >= VERY_TALL { usize::from(area.width) } else { usize::MAX };
            let lines = detail(desk, looked, width);
            if whole >= TALL {
                let told = told(desk, "channels", rows.len(), all);
                below(canvas, &mut rest, rows.len(), looked, &Below { whole, lines: &lines, told, now });
            }
            desk.page = usize::from(rest.height.saturating_sub(1));
            let view = TableView { area: rest, selected: place, now };
            channels(canvas, &view, &rows, (desk.channel_order, samples));
            if rows.is_empty() {
                nothing(canvas, rest, desk, looked, "no channels");
            }
        }
        TopView::Sessions => {
            let rows = looked.sessions(&desk.filter, desk.session_order);
            let all = looked.last.sessions.as_ref().map_or(0, Vec::len);
            if whole >= TALL {
                canvas.rule(take_bottom(&mut rest, 1), &told(desk, "sessions", rows.len(), all));
            }
            desk.page = usize::from(rest.height.saturating_sub(1));
            sessions(canvas, &TableView { area: rest, selected: place, now }, &rows, desk.session_order);
            if rows.is_empty() {
                nothing(canvas, rest, desk, looked, "no sessions");
            }
        }
        TopView::Events => {
            let rows = looked.events(&desk.filter);
            let all = looked.last.events.as_ref().map_or(0, Vec::len);
            if whole >= TALL {
                canvas.rule(take_bottom(&mut rest, 1), &told(desk, "events", rows.len(), all));
            }
            desk.page = usize::from(rest.height.saturating_sub(1));
            events(canvas, &TableView { area: rest, selected: place, now }, &rows);
            if rows.is_empty() {
                nothing(canvas, rest, desk, looked, "no events");
            }
        }
    }
}

/// The text in the line below a table: the number of rows, the filter and the order.
fn told(desk: &TopDesk, what: &str, shown: usize, all: usize) -> Vec<String> {
    let order = match desk.view {
        TopView::Channels => Some((desk.channel_order.column.name(), desk.channel_order.is_reversed)),
        TopView::Sessions => Some((desk.session_order.column.name(), desk.session_order.is_reversed)),
        TopView::Events => None,
    };
    let what = if all == 1 { what.trim_end_matches('s') } else { what };
    let mut texts =
        vec![if shown == all { format!("{all} {what}") } else { format!("{shown} of {all} {what}") }];
    if !desk.filter.is_empty() {
        texts.push(format!("filter: {}", desk.filter));
    }
    if let Some((column, is_reversed)) = order {
        texts.push(format!("sorted by {column}{}", if is_reversed { ", reversed" } else { "" }));
    }
    texts
}

fn nothing(canvas: &mut Canvas<'_>, area: Rect, desk: &TopDesk, looked: &Looked, what: &str) {
    let Some(line) = area.rows().nth(1) else { return };
    let is_known = match desk.view {
        TopView::Channels => looked.at.is_some(),
        TopView::Sessions => looked.last.sessions.is_some(),
        TopView::Events => looked.last.events.is_some(),
    };
    let text = match (is_known, desk.filter.is_empty()) {
        (false, _) => "asking the instance ...".to_owned(),
        (true, true) => what.to_owned(),
        (true, false) => format!("{what} with \"{}\"; Esc shows all", desk.filter),
    };
    canvas.put(line, &format!("  {text}"), Ink::Dim, TextSide::Left);
}

/// Draws what belongs to the channels below them: details of the selected one, and the last events. The
/// channels get the lines that they need first.
fn below(canvas: &mut Canvas<'_>, rest: &mut Rect, rows: usize, looked: &Looked, parts: &Below<'_>) {
    let most = if parts.whole >= VERY_TALL { 8 } else { 3 };
    let lines = parts.lines.len().min(most) as u16;
    let needed = rows.min(usize::from(u16::MAX) - 1) as u16 + 1;
    let spare = rest.height.saturating_sub(needed + 1 + lines);
    // The minimum for events: a rule, the heads, and some rows.
    let events_wish = match parts.whole {
        VERY_TALL.. => spare.max(8),
        _ if spare >= 5 => spare,
        _ => 0,
    };
    let height = (1 + lines + events_wish).min(rest.height.saturating_sub(3));
    let mut place = take_bottom(rest, height);
    canvas.rule(take_top(&mut place, 1), &parts.told);
    page(canvas, take_top(&mut place, lines), parts.lines, 0);
    if events_wish > 0 && place.height >= 3 {
        canvas.rule(take_top(&mut place, 1), &["events, the newest first".to_owned()]);
        events(canvas, &TableView { area: place, selected: None, now: parts.now }, &looked.events(""));
    }
}

/// What is drawn below the channels.
struct Below<'a> {
    /// Number of lines of the whole screen.
    whole: u16,
    lines: &'a [(String, Ink)],
    told: Vec<String>,
    now: Duration,
}

/// Draws the shown service in one line.
fn service_line(canvas: &mut Canvas<'_>, line: Rect, looked: &Looked) {
    let Some((label, table)) = looked.last.tables.first() else { return };
    let service = &table.service;
    let rates = looked.service_rates(label);
    let counts = format!(
        " {}/{} up  {} conns  {} conn/s  {} sent/s  {} rcvd/s",
        service.channels_up,
        service.channels,
        service.connections,
        known_rate(rates.map(|one| one.conns)),
        known_rate(rates.map(|one| one.sent)),
        known_rate(rates.map(|one| one.rcvd)),
    );
    let ink = super::tables::service_ink(service);
    let state = format!(" {} ", service.state());
    canvas.run(line, [(label.as_str(), Ink::Head), (state.as_str(), ink), (counts.as_str(), Ink::Plain)]);
}

/// Draws how many bytes per second the service has carried.
fn plot(canvas: &mut Canvas<'_>, area: Rect, looked: &Looked, now: Duration) {
    let mut rest = area;
    let Some(label) = looked.label() else { return };
    let span = SPAN * 5;
    let columns = usize::from(area.width);
    let values = looked.samples.of(label).map(|one| one.all_bars(now, span, columns)).unwrap_or_default();
    let most = highest(&values);
    let told = [
        format!("{label}: bytes a second, sent and received, last {}", age(span)),
        format!("most {}", super::figures::rate(f64::from(most))),
    ];
    canvas.rule(take_top(&mut rest, 1), &told);
    canvas.bars(rest, &values, most);
}
