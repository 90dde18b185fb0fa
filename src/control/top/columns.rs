//! Which columns a table has at which width.
//!
//! Knows: what is left out first. Never: what stands in them.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use ratatui_core::layout::Rect;

use super::paint::TextSide;

/// One column that a table may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnPlan<K> {
    pub(super) kind: K,
    pub(super) head: &'static str,
    pub(super) side: TextSide,
    /// It is not there if it cannot have this.
    pub(super) least: usize,
    /// What it would like to have.
    pub(super) wish: usize,
    /// The lower, the sooner it gets a place.
    pub(super) rank: u8,
}

/// One column that it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column<K> {
    pub(super) kind: K,
    pub(super) head: &'static str,
    pub(super) side: TextSide,
    x: u16,
    width: u16,
}

impl<K> Column<K> {
    /// Its cell in this line.
    pub(super) fn cell(&self, line: Rect) -> Rect {
        let (x, right) = (line.x.saturating_add(self.x), line.right());
        Rect { x: x.min(right), width: self.width.min(right.saturating_sub(x)), ..line }
    }

    /// From its cell to the end of this line.
    pub(super) fn rest(&self, line: Rect) -> Rect {
        let (x, right) = (line.x.saturating_add(self.x), line.right());
        Rect { x: x.min(right), width: right.saturating_sub(x), ..line }
    }
}

/// Gives as many columns as fit a place, from left to right; what is left goes to those that wish for more, by rank.
pub(super) fn fit<K: Copy>(plans: &[ColumnPlan<K>], width: u16) -> Vec<Column<K>> {
    // The mark of the row that is selected.
    let mut left = usize::from(width).saturating_sub(1);
    let mut by_rank: Vec<usize> = (0..plans.len()).collect();
    by_rank.sort_by_key(|place| plans[*place].rank);
    let mut widths = vec![0; plans.len()];
    for &place in &by_rank {
        let blank = usize::from(widths.iter().any(|width| *width > 0));
        let least = plans[place].least + blank;
        if least > left {
            // What matters less does not take its place.
            break;
        }
        widths[place] = plans[place].least;
        left -= least;
    }
    for &place in &by_rank {
        if widths[place] > 0 {
            let more = plans[place].wish.saturating_sub(widths[place]).min(left);
            widths[place] += more;
            left -= more;
        }
    }
    let mut x = 1;
    let mut columns = Vec::new();
    for (plan, width) in plans.iter().zip(widths).filter(|(_, width)| *width > 0) {
        let ColumnPlan { kind, head, side, .. } = *plan;
        columns.push(Column { kind, head, side, x: x as u16, width: width as u16 });
        x += width + 1;
    }
    columns
}
