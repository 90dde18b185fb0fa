//! Tables whose columns are as wide as their contents.
//!
//! Knows: widths. Never: what the cells mean. The columns of `show` are fixed by 3.57 and are not made here.

/// The alignment of a column, with its minimum width in characters.
#[derive(Debug, Clone, Copy)]
pub(super) enum TextColumn {
    Left(usize),
    Right(usize),
}

/// Prints one line per row, with a blank between two columns. Each column is as wide as its widest cell; the
/// last one is not padded.
pub(super) fn table<const N: usize>(columns: [TextColumn; N], rows: &[[String; N]]) -> String {
    let width = |number: usize| {
        let (TextColumn::Left(least) | TextColumn::Right(least)) = columns[number];
        rows.iter().map(|row| row[number].chars().count()).fold(least, usize::max)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        for (number, cell) in row.iter().enumerate() {
            let blanks = widths[number] - cell.chars().count();
            let is_last = number + 1 == N;
            if let TextColumn::Right(_) = columns[number] {
                out.extend(std::iter::repeat_n(' ', blanks));
            }
            out.push_str(cell);
            if let TextColumn::Left(_) = columns[number]
                && !is_last
            {
                out.extend(std::iter::repeat_n(' ', blanks));
            }
            out.push(if is_last { '\n' } else { ' ' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows =
            [row(["n", "name", "why"]), row(["7", "b\u{fc}cher.example", "-"]), row(["1234567", "x", ""])];
        let text = table([TextColumn::Right(3), TextColumn::Left(6), TextColumn::Left(9)], &rows);
        assert_eq!(
            text,
            "      n name           why\n      7 b\u{fc}cher.example -\n1234567 x              \n"
        );
        let text = table([TextColumn::Right(3), TextColumn::Left(6), TextColumn::Left(9)], &rows[..1]);
        assert_eq!(text, "  n name   why\n", "no wider than it need be");
    }
}
