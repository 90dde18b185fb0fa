//! Services, sessions and events as rows of a table.
//!
//! Knows: columns and their contents. Never: sockets, the clock.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use ratatui_core::layout::Rect;

use super::columns::{Column, ColumnPlan, fit};
use super::facts::{EventFacts, ServiceFacts, Shown};
use super::figures::{age_of, count, known_rate};
use super::looked::{Looked, SessionOrder, SessionRow, SortOrder};
use super::paint::{Canvas, Ink, TextSide, width_of};

/// The time that bars cover.
pub(super) const SPAN: Duration = Duration::from_secs(120);

/// From this width on, tables have more columns than the most important ones.
pub(super) const WIDE: u16 = 120;

/// The area of a table, and which row is selected.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableView {
    /// Its area, including the line with the heads.
    pub(super) area: Rect,
    pub(super) selected: Option<usize>,
    /// The time on our clock.
    pub(super) now: Duration,
}

impl TableView {
    pub(super) fn head(&self) -> Rect {
        Rect { height: self.area.height.min(1), ..self.area }
    }

    /// The number of rows that fit.
    pub(super) fn room(&self) -> usize {
        usize::from(self.area.height.saturating_sub(1))
    }

    /// The first row to show, so that the selected one is visible.
    fn first(&self, count: usize) -> usize {
        let room = self.room().max(1);
        let selected = self.selected.unwrap_or(0);
        // The selected row is in the middle, except near both ends.
        selected.saturating_sub(room / 2).min(count.saturating_sub(room))
    }

    /// The numbers of the visible rows, and their lines.
    pub(super) fn lines(&self, count: usize) -> impl Iterator<Item = (usize, Rect)> + use<> {
        let lines = self.area.rows().skip(1);
        (self.first(count)..count).zip(lines)
    }

    pub(super) fn mark(&self, canvas: &mut Canvas<'_>, number: usize, line: Rect) {
        if self.selected == Some(number) {
            canvas.put(line, ">", Ink::Head, TextSide::Left);
            canvas.select(line);
        }
    }
}

pub(super) fn heads<K: Copy>(
    canvas: &mut Canvas<'_>,
    line: Rect,
    columns: &[Column<K>],
    is_sorted: impl Fn(K) -> bool,
) {
    for column in columns {
        let ink = if is_sorted(column.kind) { Ink::Sorted } else { Ink::Head };
        let place = column.cell(line);
        let side = if column.side == TextSide::Right { TextSide::Right } else { TextSide::Left };
        canvas.put(place, column.head, ink, side);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServiceCell {
    Name,
    Listen,
    State,
    Up,
    Connections,
    Queue,
    Conns,
    Sent,
    Rcvd,
    File,
    Bars,
}

/// Draws the services of the process and marks the shown one.
pub(super) fn services(canvas: &mut Canvas<'_>, view: &TableView, looked: &Looked) {
    use ServiceCell::{Bars, Connections, Conns, File, Listen, Name, Queue, Rcvd, Sent, State, Up};
    let all = &looked.last.services;
    let longest = |of: &dyn Fn(&ServiceFacts) -> usize| all.iter().map(of).max().unwrap_or(0);
    let listen = |one: &ServiceFacts| one.listen.iter().map(Shown::as_str).collect::<Vec<_>>().join(",");
    let up = |one: &ServiceFacts| format!("{}/{}", one.channels_up, one.channels);
    let name = longest(&|one| width_of(&one.label()));
    // If no service has a name, their labels already say where they listen.
    let is_named = all.iter().any(|one| one.name.is_some());
    let listens = if is_named { longest(&|one| width_of(&listen(one))) } else { 0 };
    let plan = |kind, head: &'static str, side, least: usize, wish: usize, rank| ColumnPlan {
        kind,
        head,
        side,
        least: least.max(head.len()),
        wish,
        rank,
    };
    let mut plans = vec![
        plan(Name, "service", TextSide::Left, name.min(15), name.min(40), 0),
        plan(Listen, "listen", TextSide::Left, listens.min(15), listens.min(45), 8),
        plan(State, "state", TextSide::Left, 8, 8, 1),
        plan(Up, "up", TextSide::Right, longest(&|one| up(one).len()), 0, 2),
        plan(Connections, "conns", TextSide::Right, 5, 6, 3),
        plan(Queue, "queue", TextSide::Right, 5, 5, 7),
        plan(Conns, "conn/s", TextSide::Right, 6, 6, 4),
        plan(Sent, "sent/s", TextSide::Right, 6, 6, 5),
        plan(Rcvd, "rcvd/s", TextSide::Right, 6, 6, 6),
        plan(File, "file", TextSide::Left, 7, 7, 10),
        plan(Bars, "last 2m", TextSide::Left, 7, 60, 9),
    ];
    plans.retain(|plan| is_named || plan.kind != Listen);
    let columns = fit(&plans, view.area.width);
    heads(canvas, view.head(), &columns, |_| false);
    let shown = looked.label().map(str::to_owned);
    let shown_at = all.iter().position(|one| Some(one.label()) == shown);
    let view = TableView { selected: shown_at, ..*view };
    for (number, line) in view.lines(all.len()) {
        let Some(service) = all.get(number) else { continue };
        let label = service.label();
        let rates = looked.service_rates(&label).filter(|_| service.is_serving());
        for column in &columns {
            let place = column.cell(line);
            let (text, ink) = match column.kind {
                Name => (label.clone(), Ink::Head),
                Listen => (listen(service), Ink::Plain),
                State => (service.state().to_owned(), service_ink(service)),
                Up => {
                    let is_down = service.channels_up == 0;
                    let some = service.channels_up < service.channels;
                    let ink = if is_down {
                        Ink::Bad
                    } else if some {
                        Ink::Warn
                    } else {
                        Ink::Good
                    };
                    (up(service), ink)
                }
                Connections => (count(service.connections, 6), Ink::Plain),
                Queue => {
                    let ink = if service.queue > 0 { Ink::Warn } else { Ink::Plain };
                    (count(service.queue, 5), ink)
                }
                Conns => (known_rate(rates.map(|one| one.conns)), Ink::Plain),
                Sent => (known_rate(rates.map(|one| one.sent)), Ink::Plain),
                Rcvd => (known_rate(rates.map(|one| one.rcvd)), Ink::Plain),
                File => (service.file.as_ref().map_or("-", Shown::as_str).to_owned(), Ink::Plain),
                Bars => {
                    if let Some(samples) = looked.samples.of(&label) {
                        let values = samples.all_bars(view.now, SPAN, usize::from(place.width));
                        canvas.bars(place, &values, highest(&values));
                    }
                    continue;
                }
            };
            canvas.put(place, &text, ink, column.side);
        }
        if shown_at == Some(number) {
            canvas.put(line, ">", Ink::Head, TextSide::Left);
        }
    }
}

pub(super) fn service_ink(service: &ServiceFacts) -> Ink {
    match service.state() {
        "serving" => Ink::Good,
        _ => Ink::Warn,
    }
}

/// The highest of these values; 0 if there is none.
pub(super) fn highest(values: &[Option<f32>]) -> f32 {
    values.iter().flatten().fold(0.0, |most, one| one.max(most))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionCell {
    Sorted(SessionOrder),
    State,
}

/// Draws the connections of the shown service.
pub(super) fn sessions(
    canvas: &mut Canvas<'_>,
    view: &TableView,
    rows: &[SessionRow<'_>],
    order: SortOrder<SessionOrder>,
) {
    use SessionOrder::{Age, Channel, Client, Id, Idle, Rcvd, RcvdRate, Sent, SentRate};
    let longest = |of: &dyn Fn(&SessionRow<'_>) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let client = longest(&|row| row.session.client.as_ref().map_or(1, |client| width_of(client.as_str())))
        .clamp(11, 47);
    let plan = |kind: SessionOrder, side, least: usize, wish: usize, rank| ColumnPlan {
        kind: SessionCell::Sorted(kind),
        head: kind.name(),
        side,
        least: least.max(kind.name().len()),
        wish,
        rank,
    };
    let id = longest(&|row| row.session.id.to_string().len());
    let plans = [
        plan(Id, TextSide::Right, id, id.max(6), 0),
        plan(Client, TextSide::Left, client.min(21), client, 1),
        plan(Channel, TextSide::Left, longest(&|row| row.channel().len()), 7, 2),
        plan(Age, TextSide::Right, 6, 7, 3),
        plan(Idle, TextSide::Right, 6, 7, 4),
        plan(SentRate, TextSide::Right, 6, 6, 5),
        plan(RcvdRate, TextSide::Right, 6, 6, 6),
        plan(Sent, TextSide::Right, 6, 20, 7),
        plan(Rcvd, TextSide::Right, 6, 20, 8),
        ColumnPlan {
            kind: SessionCell::State,
            head: "state",
            side: TextSide::Left,
            least: 5,
            wish: 18,
            rank: 9,
        },
    ];
    let columns = fit(&plans, view.area.width);
    heads(canvas, view.head(), &columns, |kind| kind == SessionCell::Sorted(order.column));
    for (number, line) in view.lines(rows.len()) {
        let Some(row) = rows.get(number) else { continue };
        for column in &columns {
            let place = column.cell(line);
            let room = usize::from(place.width);
            let session = row.session;
            let text = match column.kind {
                SessionCell::Sorted(Id) => session.id.to_string(),
                SessionCell::Sorted(Client) => session.client.as_ref().map_or("-", Shown::as_str).to_owned(),
                SessionCell::Sorted(Channel) => row.channel(),
                SessionCell::Sorted(Age) => age_of(session.age_seconds),
                SessionCell::Sorted(Idle) => age_of(session.idle_seconds),
                SessionCell::Sorted(SentRate) => known_rate(row.rates.map(|one| one.sent)),
                SessionCell::Sorted(RcvdRate) => known_rate(row.rates.map(|one| one.rcvd)),
                SessionCell::Sorted(Sent) => count(session.sent_bytes, room),
                SessionCell::Sorted(Rcvd) => count(session.rcvd_bytes, room),
                SessionCell::State => session.state(),
            };
            canvas.put(place, &text, Ink::Plain, column.side);
        }
        view.mark(canvas, number, line);
    }
}

/// Draws the last events.
pub(super) fn events(canvas: &mut Canvas<'_>, view: &TableView, rows: &[&EventFacts]) {
    let is_wide = view.area.width >= WIDE;
    let time = |at: &Shown| match is_wide {
        true => at.to_string(),
        false => at.as_str().get(11..19).unwrap_or(at.as_str()).to_owned(),
    };
    let plan = |kind: u8, head, least, wish, rank| ColumnPlan {
        kind,
        head,
        side: TextSide::Left,
        least,
        wish,
        rank,
    };
    let width = if is_wide { 24 } else { 8 };
    let plans = [
        plan(0, "time", width, width, 0),
        plan(1, "level", 7, 7, 2),
        plan(2, "event", 10, usize::MAX / 2, 1),
    ];
    let columns = fit(&plans, view.area.width);
    heads(canvas, view.head(), &columns, |_| false);
    for (number, line) in view.lines(rows.len()) {
        let Some(event) = rows.get(number) else { continue };
        let ink = level_ink(event.level.as_str());
        for column in &columns {
            let text = match column.kind {
                0 => time(&event.at),
                1 => event.level.to_string(),
                _ => event.line.as_str().strip_prefix("event=").unwrap_or(event.line.as_str()).to_owned(),
            };
            canvas.put(
                column.cell(line),
                &text,
                if column.kind == 1 { ink } else { Ink::Plain },
                TextSide::Left,
            );
        }
        view.mark(canvas, number, line);
    }
}

fn level_ink(level: &str) -> Ink {
    match level {
        "error" => Ink::Bad,
        "warning" => Ink::Warn,
        "notice" => Ink::Head,
        _ => Ink::Dim,
    }
}
