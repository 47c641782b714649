//! Aligned columns. Widths are fixed by the first rows, so that later rows can stream.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: &str = "  ";
/// No column is squeezed below this.
const WIDTH_MIN: usize = 6;

/// How one column is laid out.
#[derive(Debug, Clone)]
struct Layout {
    width: usize,
    right: bool,
}

/// A table whose columns are known and whose widths follow from the first rows.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<String>,
    layout: Vec<Layout>,
    /// Cells are cut to their columns, so that lines fit the terminal.
    cut: bool,
}

impl Table {
    /// Sizes columns by `rows`. `right` says which columns hold numbers; `width_max` is the terminal's width.
    pub(crate) fn sized(
        headings: Vec<String>,
        right: &[bool],
        rows: &[Vec<String>],
        width_max: Option<usize>,
    ) -> Self {
        let widest = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
            cells.chain([headings[column].width()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..headings.len()).map(widest).collect();
        if let Some(limit) = width_max {
            squeeze(&mut widths, limit);
        }
        let layout = widths
            .into_iter()
            .enumerate()
            .map(|(column, width)| Layout { width, right: right.get(column).copied().unwrap_or(false) })
            .collect();
        Self { headings, layout, cut: width_max.is_some() }
    }

    /// The line of names.
    pub(crate) fn header(&self) -> String {
        self.line(&self.headings)
    }

    /// A line under the names.
    pub(crate) fn rule(&self) -> String {
        self.layout.iter().map(|l| "─".repeat(l.width.max(1))).collect::<Vec<_>>().join(GAP)
    }

    /// One row.
    pub(crate) fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (at, (cell, layout)) in cells.iter().zip(&self.layout).enumerate() {
            if at > 0 {
                line.push_str(GAP);
            }
            let last = at + 1 == self.layout.len();
            let text = if self.cut { cut(cell, layout.width) } else { cell.clone() };
            let padding = " ".repeat(layout.width.saturating_sub(text.width()));
            match layout.right {
                true => line.extend([padding.as_str(), &text]),
                false if last => line.push_str(&text),
                false => line.extend([text.as_str(), &padding]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Takes from the widest columns until everything fits, but never below the least width.
fn squeeze(widths: &mut [usize], limit: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    loop {
        let total: usize = widths.iter().sum::<usize>() + gaps;
        let Some(widest) = widths.iter().copied().max() else { return };
        if total <= limit || widest <= WIDTH_MIN {
            return;
        }
        // Down to the second widest at once, or as far as needed.
        let second = widths.iter().copied().filter(|w| *w < widest).max().unwrap_or(WIDTH_MIN).max(WIDTH_MIN);
        let widest_count = widths.iter().filter(|w| **w == widest).count();
        let step = (total - limit).div_ceil(widest_count).min(widest - second).max(1);
        for width in widths.iter_mut().filter(|w| **w == widest) {
            *width -= step;
        }
    }
}

/// The text, at most `width` columns wide, ending in `…` where it was cut.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let next = c.width().unwrap_or(0);
        if used + next + 1 > width {
            break;
        }
        out.push(c);
        used += next;
    }
    out.push('…');
    out
}

/// Columns of the terminal on stdout.
pub(crate) fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|c| (*c).to_owned()).collect()
    }

    #[test]
    fn numbers_stand_right_and_wide_characters_count_double() {
        let rows = [row(&["日本", "7"]), row(&["a", "1234"])];
        let table = Table::sized(row(&["name", "n"]), &[false, true], &rows, None);
        let lines: Vec<_> =
            [table.header(), table.rule()].into_iter().chain(rows.iter().map(|r| table.line(r))).collect();
        assert_eq!(lines, ["name     n", "────  ────", "日本     7", "a     1234"]);
    }

    #[test]
    fn the_widest_cells_are_cut_until_lines_fit() {
        let rows = [row(&["short", &"x".repeat(100), &"y".repeat(60)])];
        let table = Table::sized(row(&["a", "b", "c"]), &[], &rows, Some(60));
        let line = table.line(&rows[0]);
        assert!(line.width() <= 60 && line.starts_with("short  xxx") && line.ends_with('…'), "{line}");
    }
}
