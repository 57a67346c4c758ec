/// Columns of text, two spaces apart, aligned to the left unless said otherwise.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    right: [bool; N],
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned)], right: [false; N] }
    }

    /// Aligns these columns to the right, as numbers are.
    #[must_use]
    pub(crate) fn right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        for column in columns {
            if let Some(right) = self.right.get_mut(column) {
                *right = true;
            }
        }
        self
    }

    pub(crate) fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(crate) fn render(&self) -> String {
        let mut widths = [0usize; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(widths).zip(self.right) {
                line.push_str(&match right {
                    true => format!("{cell:>width$}  "),
                    false => format!("{cell:<width$}  "),
                });
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["ID", "NAME", "STATUS"]);
        table.push(["0a".into(), "a-long-name".into(), "running".into()]);
        table.push(["0b".into(), "b".into(), "".into()]);
        assert_eq!(table.render(), "ID  NAME         STATUS\n0a  a-long-name  running\n0b  b\n");
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let mut table = Table::new(["NAME", "SIZE", ""]).right([1]);
        table.push(["a".into(), "7".into(), "x".into()]);
        assert_eq!(table.render(), "NAME  SIZE\na        7  x\n");
    }
}
