//! Draws text, bars and lines on a grid of cells, with or without colors.
//!
//! Knows: colors, which characters a terminal can show, what is cut off. Never: what the text means, the
//! terminal.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::text::Span;

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TerminalPowers {
    pub(super) has_color: bool,
    pub(super) has_unicode: bool,
}

/// The look of a text. No information depends on it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Head,
    Dim,
    Good,
    Warn,
    Bad,
    Bars,
    /// The head of the column by which the table is sorted.
    Sorted,
    /// A line that must be noticed.
    Alarm,
}

/// The alignment of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextSide {
    Left,
    Right,
}

/// Characters filled by 0 to 8 eighths, from the bottom.
const BLOCKS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
/// The same for terminals with ASCII only.
const ASCII: [&str; 9] = [" ", "_", ".", "-", "-", "=", "=", "#", "#"];

/// The grid to draw on.
pub(super) struct Canvas<'a> {
    pub(super) cells: &'a mut Buffer,
    pub(super) powers: TerminalPowers,
}

impl Canvas<'_> {
    pub(super) fn style(&self, ink: Ink) -> Style {
        let color = |color: Color| match self.powers.has_color {
            true => Style::new().fg(color),
            false => Style::new(),
        };
        let bold = Modifier::BOLD;
        match ink {
            Ink::Plain => Style::new(),
            Ink::Head => Style::new().add_modifier(bold),
            Ink::Dim => Style::new().add_modifier(Modifier::DIM),
            Ink::Good => color(Color::Green),
            Ink::Warn => color(Color::Yellow),
            Ink::Bad => color(Color::Red).add_modifier(bold),
            Ink::Bars => color(Color::Cyan),
            Ink::Sorted => Style::new().add_modifier(bold.union(Modifier::UNDERLINED)),
            Ink::Alarm => color(Color::Red).add_modifier(bold.union(Modifier::REVERSED)),
        }
    }

    /// Writes a text on the first line of this area. If it does not fit, it is cut off, and a mark shows
    /// that.
    pub(super) fn put(&mut self, place: Rect, text: &str, ink: Ink, side: TextSide) {
        let place = place.intersection(self.cells.area);
        if place.is_empty() {
            return;
        }
        let style = self.style(ink);
        let width = width_of(text);
        let room = usize::from(place.width);
        if width <= room {
            let blank = if side == TextSide::Right { place.width - width as u16 } else { 0 };
            self.cells.set_stringn(place.x + blank, place.y, text, room, style);
            return;
        }
        let mark = if self.powers.has_unicode { "…" } else { "~" };
        let (end, _) = self.cells.set_stringn(place.x, place.y, text, room - 1, style);
        self.cells.set_stringn(end, place.y, mark, 1, style);
    }

    /// Writes parts one after the other. Returns the area that is left.
    pub(super) fn run<'t>(&mut self, place: Rect, parts: impl IntoIterator<Item = (&'t str, Ink)>) -> Rect {
        let mut rest = place;
        for (text, ink) in parts {
            self.put(rest, text, ink, TextSide::Left);
            let used = (width_of(text)).min(usize::from(rest.width)) as u16;
            rest = Rect { x: rest.x + used, width: rest.width - used, ..rest };
        }
        rest
    }

    /// Draws a horizontal line with texts in it.
    pub(super) fn rule(&mut self, place: Rect, texts: &[String]) {
        let stroke = if self.powers.has_unicode { "─" } else { "-" };
        let dim = self.style(Ink::Dim);
        for x in place.left()..place.right() {
            self.cells.set_stringn(x, place.y, stroke, 1, dim);
        }
        let mut rest = place;
        for text in texts {
            let inside = Rect { x: rest.x.saturating_add(2), width: rest.width.saturating_sub(4), ..rest };
            let used = width_of(text) as u16 + 2;
            if inside.width < used {
                break;
            }
            let inside = Rect { width: used, ..inside };
            self.put(inside, &format!(" {text} "), Ink::Plain, TextSide::Left);
            rest = Rect { x: inside.right(), width: rest.right().saturating_sub(inside.right()), ..rest };
        }
    }

    /// Draws vertical bars, one column each, the last one at the right edge. A value of `most` fills the
    /// height.
    pub(super) fn bars(&mut self, place: Rect, values: &[Option<f32>], most: f32) {
        let blocks = if self.powers.has_unicode { BLOCKS } else { ASCII };
        let style = self.style(Ink::Bars);
        let left_out = values.len().saturating_sub(usize::from(place.width));
        let indent = usize::from(place.width).saturating_sub(values.len()) as u16;
        for (value, column) in values.iter().skip(left_out).zip(place.columns().skip(usize::from(indent))) {
            let share = value.filter(|value| *value > 0.0 && most > 0.0).map_or(0.0, |value| value / most);
            let full = f32::from(place.height) * 8.0;
            // A small value must still be visible.
            let eighths = if share > 0.0 { (share * full).round().clamp(1.0, full) as usize } else { 0 };
            for (height, cell) in column.rows().rev().enumerate() {
                let part = eighths.saturating_sub(height * 8).min(8);
                if part > 0 {
                    self.cells.set_stringn(cell.x, cell.y, blocks[part], 1, style);
                }
            }
        }
    }

    /// Shows the whole line as selected.
    pub(super) fn select(&mut self, line: Rect) {
        self.cells.set_style(line, Style::new().add_modifier(Modifier::REVERSED));
    }

    /// Draws a box with these lines over everything else; the first line is its title.
    pub(super) fn popup(&mut self, area: Rect, lines: &[(String, Ink)]) {
        let inner = usize::from(area.width.saturating_sub(4)).min(72);
        let parts: Vec<(String, Ink)> = lines
            .iter()
            .flat_map(|(text, ink)| wrapped(text, inner).into_iter().map(|line| (line, *ink)))
            .collect();
        let longest = parts.iter().map(|(line, _)| width_of(line)).max().unwrap_or(0);
        let width = (longest.min(inner) as u16 + 4).min(area.width);
        let height = (parts.len() as u16 + 2).min(area.height);
        let x = area.x + (area.width - width) / 2;
        let y = area.y + (area.height - height) / 2;
        let place = Rect { x, y, width, height };
        for row in place.rows() {
            for cell in row.columns() {
                self.cells[(cell.x, cell.y)].reset();
            }
        }
        let [across, down, corners] = match self.powers.has_unicode {
            true => ["─", "│", "┌┐└┘"],
            false => ["-", "|", "++++"],
        };
        let corner = |number: usize| corners.chars().nth(number).map(String::from).unwrap_or_default();
        let style = self.style(Ink::Head);
        let edge = |top: bool| {
            let middle = across.repeat(usize::from(width.saturating_sub(2)));
            let [left, right] = if top { [0, 1] } else { [2, 3] };
            format!("{}{middle}{}", corner(left), corner(right))
        };
        for (number, row) in place.rows().enumerate() {
            let room = usize::from(row.width);
            match number {
                0 => drop(self.cells.set_stringn(row.x, row.y, edge(true), room, style)),
                _ if number + 1 == usize::from(height) => {
                    self.cells.set_stringn(row.x, row.y, edge(false), room, style);
                }
                _ => {
                    self.cells.set_stringn(row.x, row.y, down, room, style);
                    self.cells.set_stringn(row.right().saturating_sub(1), row.y, down, 1, style);
                    if let Some((text, ink)) = parts.get(number - 1) {
                        let inside = Rect { x: row.x + 2, width: row.width.saturating_sub(4), ..row };
                        self.put(inside, text, *ink, TextSide::Left);
                    }
                }
            }
        }
    }
}

/// The number of columns that a text takes.
pub(super) fn width_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// Breaks a text into lines of at most this many columns, at blanks where possible.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    if width == 0 {
        return Vec::new();
    }
    for word in text.split(' ') {
        let mut word = word;
        loop {
            let line = lines.last_mut().expect("there is always one");
            let blank = usize::from(!line.is_empty());
            if width_of(line) + blank + width_of(word) <= width {
                if blank == 1 {
                    line.push(' ');
                }
                line.push_str(word);
                break;
            }
            if !line.is_empty() {
                lines.push(String::new());
                continue;
            }
            // A word longer than a line is split.
            let cut = word
                .char_indices()
                .map(|(at, c)| at + c.len_utf8())
                .take_while(|end| width_of(&word[..*end]) <= width)
                .last()
                .unwrap_or_else(|| word.chars().next().map_or(0, char::len_utf8));
            line.push_str(&word[..cut]);
            word = &word[cut..];
            lines.push(String::new());
        }
    }
    lines
}
