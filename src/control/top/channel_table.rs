//! Channels as rows of a table.
//!
//! Knows: their columns and contents, which columns are left out first. Never: sockets, the clock.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use ratatui_core::layout::Rect;

use super::columns::{Column, ColumnPlan, fit};
use super::facts::{ChannelFacts, Shown};
use super::figures::{age_of, connect, count, known_rate};
use super::looked::{ChannelOrder, ChannelRow, SortOrder};
use super::paint::{Canvas, Ink, TextSide, width_of};
use super::samples::SampledTable;
use super::tables::{SPAN, TableView, WIDE, heads, highest};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChannelCell {
    Name,
    Address,
    Word,
    State,
    Health,
    Since,
    Weight,
    Load,
    Queue,
    Failed,
    Totalc,
    Conns,
    Sent,
    Rcvd,
    P50,
    P99,
    Bars,
    Addrs,
    Used,
    Why,
}

impl ChannelCell {
    fn order(self) -> Option<ChannelOrder> {
        Some(match self {
            Self::Name => ChannelOrder::Number,
            Self::Address => ChannelOrder::Address,
            Self::Word | Self::Health => ChannelOrder::State,
            Self::Load => ChannelOrder::Load,
            Self::Failed => ChannelOrder::Failed,
            Self::Conns => ChannelOrder::Conns,
            Self::Sent => ChannelOrder::Sent,
            Self::Rcvd => ChannelOrder::Rcvd,
            Self::P50 => ChannelOrder::P50,
            _ => return None,
        })
    }
}

fn channel_columns(rows: &[ChannelRow<'_>], width: u16) -> Vec<Column<ChannelCell>> {
    use ChannelCell::{
        Address, Addrs, Bars, Conns, Failed, Health, Load, Name, P50, P99, Queue, Rcvd, Sent, Since, State,
        Totalc, Used, Weight, Why, Word,
    };
    let longest = |of: &dyn Fn(&ChannelRow<'_>) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let address = longest(&|row| width_of(row.channel.address.as_str())).clamp(11, 45);
    let name = longest(&|row| row.name().len());
    let load = longest(&|row| row.channel.load().len()).min(13);
    let p50 = longest(&|row| connect(row.channel.connect_p50_seconds).len());
    let used = longest(&|row| row.channel.used.as_ref().map_or(1, |used| width_of(used.as_str())));
    let why = longest(&|row| width_of(&row.channel.why_word()));
    let plan = |kind, head: &'static str, side, least: usize, wish: usize, rank| ColumnPlan {
        kind,
        head,
        side,
        least: least.max(head.len()),
        wish: wish.max(head.len()),
        rank,
    };
    let mut plans = vec![
        plan(Name, "chan", TextSide::Left, name, name, 0),
        plan(Address, "address", TextSide::Left, address.min(15), address, 1),
        plan(Word, "state", TextSide::Left, 8, 8, 2),
        plan(Load, "c/maxc", TextSide::Right, load, load, 3),
        plan(Failed, "failed", TextSide::Right, 6, 6, 7),
        plan(Conns, "conn/s", TextSide::Right, 6, 6, 4),
        plan(Sent, "sent/s", TextSide::Right, 6, 6, 5),
        plan(Rcvd, "rcvd/s", TextSide::Right, 6, 6, 6),
        plan(P50, "p50", TextSide::Right, p50.max(5), p50, 8),
        plan(Bars, "last 2m", TextSide::Left, 7, 40, 9),
    ];
    if width >= WIDE {
        plans.retain(|plan| plan.kind != Word);
        let at = |plans: &[ColumnPlan<ChannelCell>], kind| {
            plans.iter().position(|plan| plan.kind == kind).map_or(plans.len(), |at| at + 1)
        };
        let more = [
            (Address, plan(State, "state", TextSide::Left, 5, 5, 2)),
            (State, plan(Health, "health", TextSide::Left, 8, 8, 2)),
            (Health, plan(Since, "since", TextSide::Right, 7, 7, 13)),
            (Since, plan(Weight, "weight", TextSide::Right, 6, 6, 10)),
            (Load, plan(Queue, "queue", TextSide::Right, 5, 5, 11)),
            (Queue, plan(Totalc, "totalc", TextSide::Right, 8, 8, 15)),
            (P50, plan(P99, "p99", TextSide::Right, 7, 7, 14)),
            (P99, plan(Addrs, "addrs", TextSide::Right, 5, 5, 16)),
            (Addrs, plan(Used, "used", TextSide::Left, used.min(21), used.min(45), 18)),
            (Bars, plan(Why, "why", TextSide::Left, 20, why.max(20), 12)),
        ];
        for (behind, plan) in more {
            // If there is no room for a column, those of lower rank are left out as well.
            let place = at(&plans, behind);
            plans.insert(place, plan);
        }
    }
    fit(&plans, width)
}

/// Draws the channels of the shown service.
pub(super) fn channels(
    canvas: &mut Canvas<'_>,
    view: &TableView,
    rows: &[ChannelRow<'_>],
    (order, samples): (SortOrder<ChannelOrder>, Option<&SampledTable>),
) {
    use ChannelCell::{
        Address, Addrs, Bars, Conns, Failed, Health, Load, Name, P50, P99, Queue, Rcvd, Sent, Since, State,
        Totalc, Used, Weight, Why, Word,
    };
    let columns = channel_columns(rows, view.area.width);
    heads(canvas, view.head(), &columns, |kind| kind.order() == Some(order.column));
    let width = columns
        .iter()
        .find(|column| column.kind == Bars)
        .map_or(0, |column| usize::from(column.cell(view.area).width));
    let bars = |row: &ChannelRow<'_>| samples.map(|one| one.bars(row.at(), view.now, SPAN, width));
    let shown: Vec<(usize, Rect)> = view.lines(rows.len()).collect();
    let all: Vec<_> =
        shown.iter().map(|(number, _)| rows.get(*number).and_then(bars).unwrap_or_default()).collect();
    // All channels have the same scale, so that their bars can be compared.
    let most = all.iter().map(|values| highest(values)).fold(0.0, f32::max);
    let has_why = columns.iter().any(|column| column.kind == Why);
    for ((number, line), values) in shown.iter().zip(&all) {
        let Some(row) = rows.get(*number) else { continue };
        let channel = row.channel;
        let ink = channel_ink(channel);
        let is_quiet = row.rates.is_none_or(|one| one.conns + one.sent + one.rcvd == 0.0);
        let tells_why = !has_why && is_quiet && (channel.is_enabled() && !channel.up || channel.paused);
        for column in &columns {
            let place = column.cell(*line);
            if tells_why && column.kind == Conns {
                canvas.put(column.rest(*line), &channel.why_word(), ink, TextSide::Left);
                break;
            }
            let rate = |of: fn(super::samples::SeenRates) -> f64| (known_rate(row.rates.map(of)), Ink::Plain);
            let (text, ink) = match column.kind {
                Name => (row.name(), Ink::Plain),
                Address => (channel.address.to_string(), Ink::Plain),
                Word => (channel.word(), ink),
                State => {
                    let ink = if channel.is_enabled() { Ink::Plain } else { Ink::Dim };
                    (channel.state.to_string(), ink)
                }
                Health => (channel.health_word(), health_ink(channel)),
                Since => (age_of(channel.health_age_seconds), Ink::Plain),
                Weight => (channel.weight.to_string(), Ink::Plain),
                Load => {
                    let is_full = channel.maxc.is_some_and(|maxc| channel.c >= maxc);
                    (channel.load(), if is_full { Ink::Warn } else { Ink::Plain })
                }
                Queue => (count(channel.queue, 5), Ink::Plain),
                Failed => {
                    let ink = if channel.failed > 0 { Ink::Warn } else { Ink::Plain };
                    (count(channel.failed, 6), ink)
                }
                Totalc => (count(channel.totalc, 8), Ink::Plain),
                Conns => rate(|one| one.conns),
                Sent => rate(|one| one.sent),
                Rcvd => rate(|one| one.rcvd),
                P50 => (connect(channel.connect_p50_seconds), Ink::Plain),
                P99 => (connect(channel.connect_p99_seconds), Ink::Plain),
                Addrs => (channel.addresses_word(), Ink::Plain),
                Used => (channel.used.as_ref().map_or("-", Shown::as_str).to_owned(), Ink::Plain),
                Why => (channel.why_word(), ink),
                Bars => {
                    canvas.bars(place, values, most);
                    continue;
                }
            };
            canvas.put(place, &text, ink, column.side);
        }
        view.mark(canvas, *number, *line);
    }
}

/// The color for the state of a channel.
pub(super) fn channel_ink(channel: &ChannelFacts) -> Ink {
    match () {
        () if channel.removing || !channel.is_enabled() => Ink::Dim,
        () if channel.paused => Ink::Warn,
        () => health_ink(channel),
    }
}

fn health_ink(channel: &ChannelFacts) -> Ink {
    match channel.health.as_str() {
        "up" if channel.failing.is_some() => Ink::Warn,
        "up" => Ink::Good,
        "ejected" | "down" => Ink::Bad,
        _ => Ink::Warn,
    }
}
