//! Columns, aligned by what is seen: colours take no room.

/// A table under construction. Cells may hold ANSI styles.
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: one cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines of the table. Columns in which every cell is empty are left out, the last column is never padded,
    /// and each line is cut to `width` columns where one is given.
    pub(crate) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let bold = anstyle::Style::new().bold();
        let shown: Vec<usize> = (0..self.head.len())
            .filter(|column| {
                self.rows.iter().any(|row| row.get(*column).is_some_and(|cell| !cell.is_empty()))
            })
            .collect();
        let widths: Vec<usize> = shown
            .iter()
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(*column)).map(|cell| visible(cell));
                cells.chain(self.head.get(*column).map(|head| visible(head))).max().unwrap_or(0)
            })
            .collect();
        let head = shown
            .iter()
            .filter_map(|column| self.head.get(*column))
            .map(|head| format!("{bold}{head}{bold:#}"))
            .collect::<Vec<_>>();
        let body = self.rows.iter().map(|row| {
            shown.iter().map(|column| row.get(*column).cloned().unwrap_or_default()).collect::<Vec<_>>()
        });
        std::iter::once(head)
            .chain(body)
            .map(|cells| {
                let line = pad(&cells, &widths);
                width.map_or(line.clone(), |width| cut(&line, width))
            })
            .collect()
    }
}

fn pad(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if index > 0 {
            line.push_str("  ");
        }
        line.push_str(cell);
        if index + 1 < cells.len() {
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(visible(cell))));
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// Columns that a text takes on the screen: its characters without ANSI escapes.
pub(crate) fn visible(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(|part| part.chars().count()).sum()
}

/// The text cut to `width` columns, with `…` where something is missing; styles stay closed.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if visible(text) <= width {
        return text.into();
    }
    let mut out = String::new();
    let mut columns = 0;
    let mut escape = false;
    for c in text.chars() {
        if c == '\u{1b}' {
            escape = true;
        }
        if escape {
            out.push(c);
            escape = !c.is_ascii_alphabetic();
        } else if columns + 1 < width {
            out.push(c);
            columns += 1;
        } else {
            break;
        }
    }
    out.push('…');
    if text.contains('\u{1b}') {
        out.push_str("\u{1b}[0m");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(lines: Vec<String>) -> String {
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string() + "\n").collect()
    }

    #[test]
    fn columns_align_whatever_their_colour_and_empty_ones_vanish() {
        let red = anstyle::AnsiColor::Red.on_default();
        let mut table = Table::new(&["NAME", "STATE", "PORTS", "REASON"]);
        table.row(vec!["db".into(), format!("{red}✗ failed{red:#}"), String::new(), "exit code 1".into()]);
        table.row(vec!["a-longer-name".into(), "✓ running".into(), String::new(), String::new()]);
        insta::assert_snapshot!(plain(table.lines(None)), @r"
        NAME           STATE      REASON
        db             ✗ failed   exit code 1
        a-longer-name  ✓ running
        ");
    }

    #[test]
    fn long_lines_are_cut_by_what_is_seen() {
        let red = anstyle::AnsiColor::Red.on_default();
        assert_eq!(cut("hello", 5), "hello");
        assert_eq!(cut("hello world", 6), "hello…");
        let styled = cut(&format!("{red}hello world{red:#}"), 6);
        assert_eq!(visible(&styled), 6);
        assert!(styled.ends_with("\u{1b}[0m"));
    }
}
