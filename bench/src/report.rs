//! Results: what is written into `result.json` (units in the names, schema with a version), and lines.
//!
//! The document is read back by `report`, so everything in it has one meaning for writing and reading.

mod summary;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::environment::Environment;
use crate::table::{Chart, Sweep, Table};

pub(crate) use summary::{Latency, Summary};

/// Of every `result.json`; a change of meaning gets a new number.
pub(crate) const SCHEMA: &str = "bench/2";
/// A generator later than this at the 99th percentile measured itself.
pub(crate) const LAG_P99_NS_MAX: u64 = 1_000_000;

/// Whether a result is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Verified as its flags say, by a generator that was in time.
    Valid,
    /// Measured, but the numbers mean nothing.
    Invalid,
    /// Ended early; what there is, is a part.
    Failed,
}

impl Status {
    /// For headings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

/// A `result.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Document {
    /// [`SCHEMA`].
    pub(crate) schema: String,
    /// The command, or `import`.
    pub(crate) kind: String,
    /// What the run is called; the folder's name without its date.
    #[serde(default)]
    pub(crate) name: String,
    /// Whether it counts.
    pub(crate) status: Status,
    /// Why it does not.
    pub(crate) reasons: Vec<String>,
    /// Where the numbers come from, if this harness did not measure them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) imported_from: Option<String>,
    /// Machine, kernel, build, command line; `None` if imported.
    pub(crate) environment: Option<Environment>,
    /// What was measured, one entry for each load: what the charts are drawn of.
    #[serde(default)]
    pub(crate) measurements: Vec<Measurement>,
    /// What a person reads first.
    #[serde(default)]
    pub(crate) tables: Vec<Table>,
    /// Lines over many sizes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) charts: Vec<Chart>,
    /// Curves over a dial.
    #[serde(default)]
    pub(crate) sweeps: Vec<Sweep>,
    /// What a comparison found.
    #[serde(default)]
    pub(crate) effects: Vec<Effect>,
    /// The README, if the command writes a better one than [`readme_text`](Self::readme_text)'s own.
    #[serde(skip)]
    pub(crate) readme: Option<String>,
    /// What only this kind of result has.
    #[serde(flatten)]
    pub(crate) details: Map<String, Value>,
}

/// One load and what it gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// What tells it from the others of the result.
    pub(crate) label: String,
    /// Measurements of one group are drawn as one line, their histograms added; empty for its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) group: String,
    /// What was loaded, as a person would start it.
    pub(crate) target: String,
    /// All flags, resolved.
    #[serde(default)]
    pub(crate) workload: Map<String, Value>,
    /// The numbers.
    pub(crate) summary: Summary,
    /// From the intended send to the receipt by a consumer, if there were consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end_to_end: Option<Latency>,
}

impl Measurement {
    /// Of `target` under a workload that is written with all its settings.
    pub(crate) fn new(
        label: &str,
        target: &str,
        workload: Map<String, Value>,
        summary: Summary,
    ) -> Self {
        Self {
            label: label.to_owned(),
            group: String::new(),
            target: target.to_owned(),
            workload,
            summary,
            end_to_end: None,
        }
    }

    /// With what consumers saw.
    pub(crate) fn with_end_to_end(mut self, latency: Option<Latency>) -> Self {
        self.end_to_end = latency;
        self
    }

    /// Without what happened over time: of dozens of short loads nobody reads it.
    pub(crate) fn without_timeline(mut self) -> Self {
        self.summary.intervals.clear();
        self
    }

    /// As one of several in `group`.
    pub(crate) fn in_group(mut self, group: &str) -> Self {
        group.clone_into(&mut self.group);
        self
    }
}

/// One line of a comparison: the second side divided by the first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Effect {
    /// What was compared.
    pub(crate) measure: String,
    /// Whether the exit code goes by it.
    pub(crate) decides: bool,
    /// Whether a ratio below 1 is the better one.
    pub(crate) less_is_better: bool,
    /// Geometric mean over the pairs.
    pub(crate) ratio: f64,
    /// The lower end of its 95 % interval.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
    /// The smallest change, as a share, that would have been found eight times in ten.
    pub(crate) detectable_share: f64,
    /// Changes below this share do not matter.
    pub(crate) margin_share: f64,
    /// `same`, `faster`, `slower`, `cannot tell`.
    pub(crate) verdict: String,
}

/// The fields of a value, for what is flattened into a document.
pub(crate) fn fields(value: impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        Ok(other) => Map::from_iter([("value".to_owned(), other)]),
        // Only maps with keys that are no strings cannot be written, and no result has one.
        Err(error) => Map::from_iter([("unwritable".to_owned(), error.to_string().into())]),
    }
}

impl Document {
    /// A result: `valid` without reasons, else `invalid`.
    pub(crate) fn new(
        kind: &str,
        environment: Environment,
        reasons: Vec<String>,
        body: impl Serialize,
    ) -> Self {
        Self {
            kind: kind.to_owned(),
            name: kind.to_owned(),
            imported_from: None,
            environment: Some(environment),
            details: fields(body),
            ..Self::imported("", reasons, Vec::new())
        }
    }

    /// A result of other tools.
    pub(crate) fn imported(
        from: &str,
        reasons: Vec<String>,
        measurements: Vec<Measurement>,
    ) -> Self {
        let status = if reasons.is_empty() {
            Status::Valid
        } else {
            Status::Invalid
        };
        Self {
            schema: SCHEMA.to_owned(),
            kind: "import".to_owned(),
            name: "import".to_owned(),
            status,
            reasons,
            imported_from: Some(from.to_owned()),
            environment: None,
            measurements,
            tables: Vec::new(),
            charts: Vec::new(),
            sweeps: Vec::new(),
            effects: Vec::new(),
            readme: None,
            details: Map::new(),
        }
    }

    /// What is there of a run that failed.
    pub(crate) fn failed(
        kind: &str,
        environment: Environment,
        reason: String,
        body: impl Serialize,
    ) -> Self {
        Self {
            status: Status::Failed,
            ..Self::new(kind, environment, vec![reason], body)
        }
    }

    /// With what was measured.
    pub(crate) fn with_measurements(mut self, measurements: Vec<Measurement>) -> Self {
        self.measurements = measurements;
        self
    }

    /// With tables.
    pub(crate) fn with_tables(mut self, tables: Vec<Table>) -> Self {
        self.tables = tables;
        self
    }

    /// With curves.
    pub(crate) fn with_sweeps(mut self, sweeps: Vec<Sweep>) -> Self {
        self.sweeps = sweeps;
        self
    }

    /// With lines over many sizes; the first of them becomes the result's picture.
    pub(crate) fn with_charts(mut self, charts: Vec<Chart>) -> Self {
        self.charts = charts;
        self
    }

    /// With what a comparison found.
    pub(crate) fn with_effects(mut self, effects: Vec<Effect>) -> Self {
        self.effects = effects;
        self
    }

    /// With a README of its own.
    pub(crate) fn with_readme(mut self, readme: String) -> Self {
        self.readme = Some(readme);
        self
    }

    /// The README of its folder.
    pub(crate) fn readme_text(&self) -> String {
        if let Some(readme) = &self.readme {
            return readme.clone();
        }
        let mut lines = vec![format!("# {}", self.name), String::new()];
        lines.push(match self.reasons.as_slice() {
            [] => "- valid".to_owned(),
            reasons => format!(
                "- {}: {}",
                self.status.name().to_uppercase(),
                reasons.join("; ")
            ),
        });
        let from = self.imported_from.iter();
        lines.extend(from.map(|from| format!("- imported from {from}, not measured here")));
        let told = self.environment.iter().flat_map(Environment::lines);
        lines.extend(told.map(|line| format!("- {line}")));
        for table in &self.tables {
            lines.push(String::new());
            lines.extend(table.markdown());
        }
        for measurement in &self.measurements {
            lines.extend([
                String::new(),
                format!("## {}", measurement.label),
                String::new(),
            ]);
            lines.extend([format!("`{}`", measurement.target), String::new()]);
            lines.push("```".to_owned());
            lines.extend(measurement.summary.lines());
            lines.push("```".to_owned());
        }
        lines.join("\n") + "\n"
    }
}

/// Prints a line of a result.
#[expect(clippy::print_stdout, reason = "results are this program's output")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Median, least and greatest of some numbers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq)]
pub(crate) struct Spread {
    /// The middle one, or the mean of the two middle ones.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many.
    pub(crate) runs: usize,
}

impl Spread {
    /// Of at least one number.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self {
            median,
            min,
            max,
            runs: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_of_even_and_odd_counts() {
        let median = |values: &[f64]| Spread::of(values).unwrap().median;
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn latencies_are_told_in_microseconds() {
        let mut histogram = crate::phase::histogram();
        for microseconds in 1..=1000 {
            histogram.record(microseconds * 1000).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert!((latency.p50_us - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.p99_us - 990.0).abs() < 1.0, "{latency:?}");
        assert_eq!(latency.count, 1000);
    }
}
