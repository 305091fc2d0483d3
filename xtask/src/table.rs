//! A text table: columns as wide as their widest cell, numbers to the right.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// One cell per column.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(
            cells.len(),
            self.columns.len(),
            "a row has one cell per column"
        );
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                self.rows
                    .iter()
                    .map(|row| row[column].chars().count())
                    .chain([self.columns[column].0.chars().count()])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for (column, cell) in cells.enumerate() {
                let width = widths[column];
                if column > 0 {
                    text.push_str("  ");
                }
                match self.columns[column].1 {
                    Align::Left => text.push_str(&format!("{cell:<width$}")),
                    Align::Right => text.push_str(&format!("{cell:>width$}")),
                }
            }
            text.truncate(text.trim_end().len());
            text
        };
        writeln!(
            formatter,
            "{}",
            line(&mut self.columns.iter().map(|(name, _)| *name))
        )?;
        let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
        writeln!(formatter, "{}", line(&mut rules.iter().map(String::as_str)))?;
        for row in &self.rows {
            writeln!(formatter, "{}", line(&mut row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

/// 1234567 as "1,234,567".
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("lane", Align::Left), ("sent", Align::Right)]);
        table.row(vec!["tcp-protobuf".into(), "7".into()]);
        table.row(vec!["udp".into(), "1,234,567".into()]);
        assert_eq!(
            table.to_string(),
            "\
lane               sent
------------  ---------
tcp-protobuf          7
udp           1,234,567
"
        );
    }

    #[test]
    fn a_left_column_at_the_end_leaves_no_blanks() {
        let mut table = Table::new(&[("n", Align::Right), ("why", Align::Left)]);
        table.row(vec!["10".into(), String::new()]);
        table.row(vec!["9".into(), "bad_magic".into()]);
        assert_eq!(
            table.to_string(),
            " n  why\n--  ---------\n10\n 9  bad_magic\n"
        );
    }

    #[test]
    fn digits_are_grouped_by_three() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123456, "123,456"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
