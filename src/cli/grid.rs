//! A table that loses nothing where it is narrow: what does not fit beside goes below.

use super::table::{Column, table};

/// A table whose columns stand in the order of their importance.
#[derive(Debug)]
pub(super) struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// How far the lines below a row are indented.
const INDENT: &str = "    ";

/// The gap between two columns.
const GAP: usize = 2;

impl Grid {
    pub(super) fn new(columns: &[Column]) -> Self {
        Grid { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column; an empty cell is one with nothing to say.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, no longer than `width` where one is given. Columns without any content are left out. Where not all
    /// columns fit, each row goes on in lines below it, with the columns' names before what they hold.
    pub(super) fn render(mut self, width: Option<usize>) -> String {
        self.drop_empty_columns();
        let Some(width) = width else { return table(&self.columns, &self.rows, None) };
        let longest = width.saturating_sub(GAP).max(8);
        self.rows.iter_mut().flatten().for_each(|cell| *cell = cut(cell, longest));
        let beside = self.fitting(width);
        let head: Vec<Vec<String>> = self.rows.iter().map(|row| row[..beside].to_vec()).collect();
        let lines = table(&self.columns[..beside], &head, None);
        let mut lines = lines.lines();
        let mut text = lines.next().unwrap_or_default().to_owned() + "\n";
        for (line, row) in lines.zip(&self.rows) {
            text.push_str(line);
            text.push('\n');
            text.push_str(&self.below(row, beside, width));
        }
        text
    }

    fn drop_empty_columns(&mut self) {
        let used: Vec<bool> = (0..self.columns.len())
            .map(|column| column == 0 || self.rows.iter().any(|row| !row[column].is_empty()))
            .collect();
        let mut place = 0..;
        self.columns.retain(|_| place.next().is_some_and(|index| used[index]));
        for row in &mut self.rows {
            let mut place = 0..;
            row.retain(|_| place.next().is_some_and(|index| used[index]));
        }
    }

    /// How many columns stand beside each other: at least the first.
    fn fitting(&self, width: usize) -> usize {
        let mut end = 0;
        for (column, kind) in self.columns.iter().enumerate() {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            end += cells.chain([name(*kind).chars().count()]).max().unwrap_or_default();
            if end > width {
                return column.max(1);
            }
            end += GAP;
        }
        self.columns.len()
    }

    /// The rest of a row, in as many lines as it takes.
    fn below(&self, row: &[String], beside: usize, width: usize) -> String {
        let mut text = String::new();
        let mut line = String::new();
        for (kind, cell) in self.columns.iter().zip(row).skip(beside).filter(|(_, cell)| !cell.is_empty()) {
            let piece = format!("{} {cell}", name(*kind).to_lowercase());
            let len = line.chars().count();
            if len > 0 && len + GAP + piece.chars().count() > width {
                text.push_str(&cut(&line, width));
                text.push('\n');
                line.clear();
            }
            line.push_str(if line.is_empty() { INDENT } else { "  " });
            line.push_str(&piece);
        }
        if !line.is_empty() {
            text.push_str(&cut(&line, width));
            text.push('\n');
        }
        text
    }
}

/// No more than `max` characters, the last one telling that there were more.
pub(super) fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// Breaks a text between words into lines of at most `width`; those after the first are indented.
pub(super) fn wrap(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return format!("{text}\n") };
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split(' ') {
        let len = line.chars().count();
        if len > INDENT.len() && len + 1 + word.chars().count() > width {
            lines.push_str(&line);
            lines.push('\n');
            line = INDENT.to_owned() + word;
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines + &line + "\n"
}

fn name(column: Column) -> &'static str {
    match column {
        Column::Text(name) | Column::Number(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(&[
            Column::Text("NAME"),
            Column::Number("HELD"),
            Column::Text("NOTHING"),
            Column::Text("RESTART LSN"),
            Column::Text("USED BY"),
        ]);
        let cells = |cells: [&str; 5]| cells.map(ToOwned::to_owned);
        grid.row(cells(["standby1", "1 B", "", "0/3000060", "walreceiver"]));
        grid.row(cells(["b", "200 B", "", "", "x"]));
        grid
    }

    #[test]
    fn all_columns_stand_beside_where_they_fit() {
        let all = "NAME       HELD  RESTART LSN  USED BY\nstandby1    1 B  0/3000060    walreceiver\n\
                   b         200 B               x\n";
        assert_eq!(grid().render(None), all);
        assert_eq!(grid().render(Some(41)), all);
    }

    #[test]
    fn the_rest_goes_below_where_they_do_not() {
        assert_eq!(
            grid().render(Some(40)),
            "NAME       HELD  RESTART LSN\nstandby1    1 B  0/3000060\n    used by walreceiver\n\
             b         200 B\n    used by x\n"
        );
        assert_eq!(
            grid().render(Some(20)),
            "NAME       HELD\nstandby1    1 B\n    restart lsn 0/3…\n    used by walrece…\nb         200 B\n    used by x\n"
        );
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_is_wide() {
        for width in 10..60 {
            for line in grid().render(Some(width)).lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn a_text_breaks_between_words() {
        assert_eq!(wrap("a warning that is long", Some(12)), "a warning\n    that is\n    long\n");
        assert_eq!(wrap("a warning that is long", None), "a warning that is long\n");
    }
}
