//! Which columns a table has at which width.
//!
//! Knows: what is left out first. Never: the contents of the columns.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use ratatui_core::layout::Rect;

use super::paint::TextSide;

/// A column that a table may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnPlan<K> {
    pub(super) kind: K,
    pub(super) head: &'static str,
    pub(super) side: TextSide,
    /// Minimum width; without it the column is left out.
    pub(super) least: usize,
    /// Preferred width.
    pub(super) wish: usize,
    /// Columns with a lower rank get their place first.
    pub(super) rank: u8,
}

/// A column that the table has.
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

    /// The area from its cell to the end of this line.
    pub(super) fn rest(&self, line: Rect) -> Rect {
        let (x, right) = (line.x.saturating_add(self.x), line.right());
        Rect { x: x.min(right), width: right.saturating_sub(x), ..line }
    }
}

/// Chooses the columns that fit, and keeps their order. The space left over goes to columns that prefer more,
/// by rank.
pub(super) fn fit<K: Copy>(plans: &[ColumnPlan<K>], width: u16) -> Vec<Column<K>> {
    // One character is for the mark of the selected row.
    let mut left = usize::from(width).saturating_sub(1);
    let mut by_rank: Vec<usize> = (0..plans.len()).collect();
    by_rank.sort_by_key(|place| plans[*place].rank);
    let mut widths = vec![0; plans.len()];
    for &place in &by_rank {
        let blank = usize::from(widths.iter().any(|width| *width > 0));
        let least = plans[place].least + blank;
        if least > left {
            // A column that matters less does not take its place.
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
