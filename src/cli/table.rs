//! Tables for people: columns by their width, no lines.

use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// A table, no wider than `width` characters where one is given; with a newline at its end.
pub(super) fn table(columns: &[Column], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(columns.iter().map(|column| match column {
        Column::Text(name) | Column::Number(name) => *name,
    }));
    table.add_rows(rows);
    for (column, kind) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if matches!(kind, Column::Number(_)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_lines_have_no_tail() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "200".to_owned()]];
        let text = table(&[Column::Text("NAME"), Column::Number("N")], &rows, None);
        assert_eq!(text, "NAME      N\na         1\nlonger  200\n");
    }
}
