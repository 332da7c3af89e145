//! Tables and curves of a result: what a person reads first, and what the report draws.

use serde::{Deserialize, Serialize};

use crate::report::{Latency, Spread, Summary};

/// Rows that belong side by side, such as the scales of a preset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// Its heading.
    pub(crate) title: String,
    /// What each column is, unit included: `p99, us`.
    pub(crate) columns: Vec<String>,
    /// As many cells as columns each.
    pub(crate) rows: Vec<Vec<Cell>>,
    /// What one must know to read it.
    pub(crate) notes: Vec<String>,
}

/// A cell of a [`Table`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Cell {
    /// Not measured; never 0.
    Nothing(()),
    /// A number.
    Number(f64),
    /// Of several runs.
    Spread(Spread),
    /// Words.
    Text(String),
}

impl Cell {
    /// A number that may be missing.
    pub(crate) fn of(number: Option<f64>) -> Self {
        number.map_or(Self::Nothing(()), Self::Number)
    }

    /// As it stands in a table: three significant digits, or all before the point.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Nothing(()) => "-".to_owned(),
            Self::Number(number) => digits(*number),
            Self::Spread(spread) if spread.runs == 1 => digits(spread.median),
            Self::Spread(spread) => {
                let (low, high) = (digits(spread.min), digits(spread.max));
                format!("{} [{low}, {high}]", digits(spread.median))
            }
            Self::Text(text) => text.clone(),
        }
    }

    /// Whether it stands right-aligned.
    pub(crate) fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// At least three significant digits, thousands apart: `0.0123`, `12.3`, `12 345`.
pub(crate) fn digits(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() {
        return "-".to_owned();
    }
    if size == 0.0 {
        return "0".to_owned();
    }
    if size >= 99.95 {
        return grouped(number);
    }
    let decimals = match size {
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        size if size >= 0.1 => 3,
        size if size >= 0.01 => 4,
        _ => return format!("{number:.1e}"),
    };
    format!("{number:.decimals$}")
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(number: f64) -> String {
    let plain = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (place, digit) in plain.chars().enumerate() {
        if place > 0 && (plain.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    let sign = if number < 0.0 && plain != "0" {
        "-"
    } else {
        ""
    };
    format!("{sign}{text}")
}

impl Table {
    /// As lines of Markdown.
    pub(crate) fn markdown(&self) -> Vec<String> {
        let mut lines = vec![format!("## {}", self.title), String::new()];
        lines.extend(self.notes.iter().map(|note| format!("- {note}")));
        if !self.notes.is_empty() {
            lines.push(String::new());
        }
        let row = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
        let plain = |text: &str| text.replace('|', "\\|");
        lines.push(row(self.columns.iter().map(|name| plain(name)).collect()));
        lines.push(row(vec!["---".to_owned(); self.columns.len()]));
        for cells in &self.rows {
            lines.push(row(cells.iter().map(|cell| plain(&cell.text())).collect()));
        }
        lines
    }

    /// As aligned lines for a terminal.
    pub(crate) fn plain(&self) -> Vec<String> {
        let cells = |row: &Vec<Cell>| row.iter().map(Cell::text).collect::<Vec<_>>();
        let texts: Vec<_> = self.rows.iter().map(cells).collect();
        let width = |column: usize| {
            let of = |row: &Vec<String>| row.get(column).map_or(0, |text| text.chars().count());
            let widest = texts.iter().map(of).max().unwrap_or(0);
            widest.max(self.columns[column].chars().count())
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let line = |row: &[String], right: &dyn Fn(usize) -> bool| {
            let padded = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (text, width))| {
                    if right(column) {
                        format!("{text:>width$}")
                    } else {
                        format!("{text:<width$}")
                    }
                });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let number = |column: usize| {
            let first = self.rows.first().and_then(|row| row.get(column));
            first.is_some_and(Cell::is_number)
        };
        let mut lines = vec![line(&self.columns, &number)];
        lines.extend(texts.iter().map(|row| line(row, &number)));
        lines
    }
}

/// Points of one or several curves over one dial: rate against latency, scale against throughput.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Sweep {
    /// Its heading.
    pub(crate) title: String,
    /// What was turned, unit included: `requests/s asked for`.
    pub(crate) variable: String,
    /// In the order in which they were measured.
    pub(crate) points: Vec<Point>,
    /// The latency that a search kept to, in microseconds of its percentile.
    pub(crate) objective: Option<Objective>,
}

/// What a search for the highest rate had to keep.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Objective {
    /// `p99`.
    pub(crate) percentile: String,
    /// Not more than this.
    pub(crate) limit_us: f64,
}

/// One setting of the dial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Which curve it is of: the name of a broker.
    pub(crate) line: String,
    /// Where the dial stood.
    pub(crate) value: f64,
    /// Answers a second.
    pub(crate) requests_per_s: f64,
    /// Records a second.
    pub(crate) records_per_s: f64,
    /// 10^6 bytes of batches a second.
    pub(crate) megabytes_per_s: f64,
    /// The latencies.
    pub(crate) latency: Latency,
    /// Broker CPU per request.
    pub(crate) broker_cpu_us_per_request: Option<f64>,
    /// Why it means nothing; empty if it is valid.
    pub(crate) reasons: Vec<String>,
}

impl Point {
    /// Of a measured phase.
    pub(crate) fn of(line: &str, value: f64, summary: &Summary, reasons: &[String]) -> Self {
        Self {
            line: line.to_owned(),
            value,
            requests_per_s: summary.requests as f64 / summary.elapsed_s.max(1e-9),
            records_per_s: summary.records_per_s,
            megabytes_per_s: summary.megabytes_per_s,
            latency: summary.latency.clone(),
            broker_cpu_us_per_request: summary.broker_cpu_us_per_request,
            reasons: reasons.to_vec(),
        }
    }
}

/// Lines over numbers of many sizes: both axes are logarithmic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chart {
    /// Its heading.
    pub(crate) title: String,
    /// What goes to the right.
    pub(crate) x: String,
    /// What goes up, unit included.
    pub(crate) y: String,
    /// In the order of the legend.
    pub(crate) lines: Vec<Line>,
}

/// A line of a [`Chart`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// As the legend has it.
    pub(crate) name: String,
    /// In the order of x.
    pub(crate) points: Vec<(f64, f64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let told = [
            0.0,
            0.001_234,
            0.012_34,
            1.234,
            12.34,
            123.4,
            1_234_567.8,
            -1000.0,
        ];
        let told: Vec<_> = told.into_iter().map(digits).collect();
        let expected = [
            "0",
            "1.2e-3",
            "0.0123",
            "1.23",
            "12.3",
            "123",
            "1 234 568",
            "-1 000",
        ];
        assert_eq!(told, expected);
        assert_eq!(digits(f64::NAN), "-");
    }

    #[test]
    fn a_table_reads_as_markdown_and_as_lines() {
        let table = Table {
            title: "Scales".to_owned(),
            columns: vec!["scale".to_owned(), "msg/s".to_owned()],
            rows: vec![
                vec!["x1".into(), 1000.0.into()],
                vec!["a|b".into(), Cell::of(None)],
            ],
            notes: Vec::new(),
        };
        let markdown = table.markdown().join("\n");
        assert!(
            markdown.contains("| x1 | 1 000 |\n| a\\|b | - |"),
            "{markdown}"
        );
        assert_eq!(
            table.plain(),
            ["scale  msg/s", "x1     1 000", "a|b        -"]
        );
    }

    #[test]
    fn cells_are_read_back_as_they_were() {
        let spread = Spread::of(&[1.0, 2.0, 3.0]).unwrap();
        let cells = vec![Cell::of(None), 1.5.into(), "x".into(), Cell::Spread(spread)];
        let text = serde_json::to_string(&cells).unwrap();
        assert_eq!(
            serde_json::from_str::<Vec<Cell>>(&text).unwrap(),
            cells,
            "{text}"
        );
    }
}
