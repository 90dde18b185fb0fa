//! The table of options: one row for each option. The command line, files, `save`, help, the manual page and
//! completions read it.
//!
//! Knows: the sections, and in which options two drafts differ. The files of this folder have the rows of one
//! section each, and `row` says what a row is. Never: where words come from, how a page is laid out.
//! Source: docs/compatibility.md, "Command line".
//!
//! `save` prints the rows in this order, those of the process first.

mod access;
mod choosing;
mod connecting;
mod controlling;
mod health;
mod helping;
mod limits;
mod listening;
mod running;

use super::draft::Draft;
use super::row::{Row, Scope};
use crate::spec::Typed;

/// The sections in the order of help, each with its options.
pub(super) static SECTIONS: [(&str, &[Row]); 9] = [
    ("Listening", listening::ROWS),
    ("Connecting to channels", connecting::ROWS),
    ("Choosing a channel", choosing::ROWS),
    ("Health of channels", health::ROWS),
    ("Access", access::ROWS),
    ("Limits", limits::ROWS),
    ("Talking to a running instance", controlling::ROWS),
    ("Running", running::ROWS),
    ("Help", helping::ROWS),
];

/// All options.
pub(super) fn options() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|(_, rows)| *rows)
}

/// The options, in their short form and with their values, in which `draft` differs from `plain`.
pub(super) fn print_options(draft: &Draft, plain: &Draft, scope: Scope) -> Vec<String> {
    let mut words = Vec::new();
    for row in options().filter(|row| row.scope == scope) {
        let value = (row.print)(draft);
        if value != (row.print)(plain) {
            words.push(row.shortest());
            words.extend((!row.value.is_flag()).then_some(value));
        }
    }
    words
}

/// The options of a service that have other values in `after`: each with its name, its value and its earlier
/// value. Listen addresses are left out.
pub(super) fn changes(before: &Draft, after: &Draft) -> Vec<String> {
    let rows = options().filter(|row| row.scope == Scope::Service && !["bind", "ipv6"].contains(&row.long));
    let plain = Draft::new(Draft::ANY_PORT, Typed::default());
    let change = |row: &Row| {
        let [was, is, usual] = [before, after, &plain].map(|draft| (row.print)(draft));
        if was == is {
            return None;
        }
        let name = format!("--{}", row.long);
        let shown = |value: String| match (row.value.is_flag(), value == usual, value.is_empty()) {
            (true, true, _) => "off".to_owned(),
            (true, false, _) => "on".to_owned(),
            (false, _, true) => "none".to_owned(),
            (false, _, false) => value,
        };
        let (is, was) = (shown(is), shown(was));
        Some(format!("{name} is {is}, was {was}"))
    };
    rows.filter_map(change).collect()
}

/// The names of the process's options that have other values in `after`.
pub(super) fn changed_names(before: &Draft, after: &Draft) -> Vec<String> {
    let rows = options().filter(|row| row.scope == Scope::Process);
    rows.filter(|row| (row.print)(before) != (row.print)(after))
        .map(|row| format!("--{}", row.long))
        .collect()
}
