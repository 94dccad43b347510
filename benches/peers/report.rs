//! From the measurements of all rounds to a table.

use std::fmt::Write as _;

/// How the rounds of a column become one figure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Summary {
    Median,
    /// The median, and how it stands to the forwarder's of the same round.
    Rated,
    Sum,
}

/// One figure of a scenario.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) decimals: usize,
    pub(crate) summary: Summary,
}

/// The figures of one measurement, one for each column; none where one cannot be
/// taken.
pub(crate) type Figures = Vec<Option<f64>>;

/// The measurements of one scenario.
pub(crate) struct Results {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

/// The measurements of one proxy.
struct Row {
    name: String,
    /// None where it failed.
    rounds: Vec<Option<Figures>>,
}

impl Results {
    pub(crate) fn new(columns: Vec<Column>) -> Results {
        Results { columns, rows: Vec::new() }
    }

    /// Notes what `proxy` did in the next round.
    pub(crate) fn add(&mut self, proxy: &str, measured: Option<Figures>) {
        match self.rows.iter_mut().find(|row| row.name == proxy) {
            Some(row) => row.rounds.push(measured),
            None => self.rows.push(Row { name: proxy.to_owned(), rounds: vec![measured] }),
        }
    }

    /// A Markdown table; the first row is what the others are compared with.
    pub(crate) fn table(&self, bound: &str) -> String {
        let mut head = vec!["proxy".to_owned()];
        for column in &self.columns {
            head.push(column.title.to_owned());
            if column.summary == Summary::Rated {
                head.push("÷ forwarder".to_owned());
            }
        }
        let mut lines = vec![head];
        for Row { name, .. } in &self.rows {
            let mut line = vec![name.clone()];
            for (index, column) in self.columns.iter().enumerate() {
                line.push(shown(self.figure(name, index), column.decimals));
                if column.summary == Summary::Rated {
                    line.push(shown(self.ratio(name, bound, index), 2));
                }
            }
            lines.push(line);
        }
        aligned(&lines)
    }

    fn values(&self, name: &str, column: usize) -> Figures {
        let row = self.rows.iter().find(|row| row.name == name);
        let value = |round: &Option<Figures>| *round.as_ref()?.get(column)?;
        row.into_iter().flat_map(|row| &row.rounds).map(value).collect()
    }

    fn figure(&self, name: &str, column: usize) -> Option<f64> {
        let values: Vec<f64> = self.values(name, column).into_iter().flatten().collect();
        match self.columns[column].summary {
            Summary::Sum if !values.is_empty() => Some(values.iter().sum()),
            Summary::Median | Summary::Rated | Summary::Sum => median(values),
        }
    }

    /// The median of the rounds' ratios: what disturbs a round disturbs both.
    fn ratio(&self, name: &str, bound: &str, column: usize) -> Option<f64> {
        let pairs = self.values(name, column).into_iter().zip(self.values(bound, column));
        median(pairs.filter_map(|(value, bound)| Some(value? / bound?)).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn shown(figure: Option<f64>, decimals: usize) -> String {
    let Some(figure) = figure else { return "–".to_owned() };
    let plain = format!("{figure:.decimals$}");
    let whole = plain.find('.').unwrap_or(plain.len());
    let mut text = String::new();
    for (index, letter) in plain.chars().enumerate() {
        if index < whole && index > 0 && (whole - index).is_multiple_of(3) && &text != "-" {
            text.push(',');
        }
        text.push(letter);
    }
    text
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Writing to a String does not fail.
            let _ = match column {
                0 => write!(text, "| {cell:<width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(width + 1);
                text.push_str(&if column == 0 {
                    format!("|{dashes}-")
                } else {
                    format!("|{dashes}:")
                });
            }
            text.push_str("|\n");
        }
    }
    text
}
