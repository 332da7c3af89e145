//! The committed baseline and the comparison with it. No process, no clock: numbers in, verdicts out.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::callgrind::PerItem;
use crate::failure::Failure;

/// A change of meaning gets a new number.
const SCHEMA: &str = "gate/1";
/// Where what is counted was made by another compiler or valgrind, limits are this many times wider.
const ELSEWHERE: f64 = 5.0;
/// Callgrind may differ by an instruction or so where an item costs only a few hundred.
const INSTRUCTIONS_SLACK: f64 = 1.0;
/// Reallocations of growing tables are spread over all items: seen up to 0.1. One more in every
/// fourth item is a change of the code.
const ALLOCATIONS_SLACK: f64 = 0.25;
/// And where an item allocates often, so much of them: those of timers and helper threads come and go.
/// 0.21 of 34 and 1 of 689 were seen on a busy machine.
const ALLOCATIONS_SHARE: f64 = 0.015;
/// Instructions of copying that may come to an item without more ado: a copy of a hundred bytes has
/// more, and what an unrelated change moves has less.
const COPYING_SLACK: f64 = 20.0;
/// Timers and requests that come in two pieces: see results/ for how far counters go by themselves.
const COUNTER_LIMIT: f64 = 0.03;
/// One more ring entry, system call or sync in every tenth request is a change of the code.
const COUNTER_SLACK: f64 = 0.1;

/// What makes instruction counts comparable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tools {
    /// `rustc --version`.
    pub(crate) rustc: String,
    /// `valgrind --version`.
    pub(crate) valgrind: String,
    /// `ldd --version`, its first line.
    pub(crate) libc: String,
    /// "release" or "debug".
    pub(crate) profile: String,
}

/// One counted item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What is done once.
    pub(crate) name: String,
    /// In user space, per item.
    pub(crate) instructions: f64,
    /// Calls of malloc and its like, per item.
    pub(crate) allocations: f64,
    /// An increase beyond this share fails.
    pub(crate) limit: f64,
    /// Those of the instructions that copy memory, per item; not in a baseline of before they were
    /// counted.
    #[serde(default)]
    pub(crate) copying: Option<f64>,
    /// More copying beyond this share fails.
    #[serde(default = "copying_limit")]
    pub(crate) copying_limit: f64,
}

impl Entry {
    /// What was counted, with the limits of new entries.
    pub(crate) fn new(name: String, item: PerItem, limit: f64) -> Self {
        Self {
            name,
            instructions: item.instructions,
            allocations: item.allocations,
            limit,
            copying: Some(item.copying),
            copying_limit: copying_limit(),
        }
    }

    /// Whether an item copies more than `before` and its limit allow.
    fn copies_more(&self, before: &Self, wider: f64) -> bool {
        let allowed = |copying: f64| copying * (1.0 + before.copying_limit * wider);
        match (before.copying, self.copying) {
            (Some(before), Some(now)) => now > allowed(before) + COPYING_SLACK * wider,
            _ => false,
        }
    }
}

/// Copying is nearly all in large copies, which do not change a little.
fn copying_limit() -> f64 {
    0.05
}

/// What one request asks of the kernel, counted by the broker; timers may add a little.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counter {
    /// The load, and what is counted.
    pub(crate) name: String,
    /// Per request.
    pub(crate) value: f64,
    /// An increase beyond this share, and [`COUNTER_SLACK`], fails.
    pub(crate) limit: f64,
}

impl Counter {
    /// What was counted, with the limit of new counters.
    pub(crate) fn new(name: String, value: f64) -> Self {
        Self {
            name,
            value,
            limit: COUNTER_LIMIT,
        }
    }
}

/// One measured cost; noisy, so that only a multiple fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// What is measured, with its unit.
    pub(crate) name: String,
    /// The median of some runs.
    pub(crate) value: f64,
    /// A value beyond this multiple fails.
    pub(crate) factor: f64,
}

/// `results/baseline.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    schema: String,
    /// The commit whose numbers these are.
    pub(crate) commit: String,
    /// The machine of `costs`.
    pub(crate) machine: String,
    /// What `entries` were counted with.
    pub(crate) tools: Tools,
    /// Counted.
    pub(crate) entries: Vec<Entry>,
    /// Counted by the broker; none in a baseline of before there were any.
    #[serde(default)]
    pub(crate) counters: Vec<Counter>,
    /// Measured.
    pub(crate) costs: Vec<Cost>,
}

impl Baseline {
    /// Of numbers that were just taken.
    pub(crate) fn new(commit: String, machine: String, tools: Tools) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            commit,
            machine,
            tools,
            entries: Vec::new(),
            counters: Vec::new(),
            costs: Vec::new(),
        }
    }

    /// Reads the file; `None` if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(Failure::system(format!("reading {}", path.display())))?,
        };
        let damaged = |what: String| {
            Failure::Target(format!(
                "{}: {what}; take it from git, or make it anew by --update",
                path.display()
            ))
        };
        let baseline: Self =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if baseline.schema != SCHEMA {
            return Err(damaged(format!("schema {}, not {SCHEMA}", baseline.schema)));
        }
        Ok(Some(baseline))
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::Target(format!("writing JSON: {error}")))?;
        fs::write(path, text + "\n").map_err(Failure::system(format!("writing {}", path.display())))
    }

    /// Takes over the numbers with these names from a second measurement.
    pub(crate) fn measured_again(&mut self, again: Self, names: &[String]) {
        let is_meant = |name: &String| names.contains(name);
        self.accept(Self {
            entries: again
                .entries
                .into_iter()
                .filter(|it| is_meant(&it.name))
                .collect(),
            counters: again
                .counters
                .into_iter()
                .filter(|it| is_meant(&it.name))
                .collect(),
            costs: again
                .costs
                .into_iter()
                .filter(|it| is_meant(&it.name))
                .collect(),
            ..again
        });
    }

    /// Takes over what was measured, entry by entry; limits that somebody set by hand stay.
    pub(crate) fn accept(&mut self, measured: Self) {
        for mut entry in measured.entries {
            match self.entries.iter_mut().find(|old| old.name == entry.name) {
                Some(old) => {
                    entry.limit = old.limit;
                    entry.copying_limit = old.copying_limit;
                    *old = entry;
                }
                None => self.entries.push(entry),
            }
        }
        for mut counter in measured.counters {
            match self
                .counters
                .iter_mut()
                .find(|old| old.name == counter.name)
            {
                Some(old) => {
                    counter.limit = old.limit;
                    *old = counter;
                }
                None => self.counters.push(counter),
            }
        }
        for mut cost in measured.costs {
            match self.costs.iter_mut().find(|old| old.name == cost.name) {
                Some(old) => {
                    cost.factor = old.factor;
                    *old = cost;
                }
                None => self.costs.push(cost),
            }
        }
        (self.commit, self.machine, self.tools) =
            (measured.commit, measured.machine, measured.tools);
    }
}

/// How a number stands to its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Within the limit.
    Same,
    /// Better by more than the limit: worth a new baseline.
    Better,
    /// Not in the baseline.
    New,
    /// Beyond the limit.
    Regressed,
}

/// One line of the comparison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    /// What it is about.
    pub(crate) name: String,
    /// Counted in instructions, in which a slow-down of a few per cent shows.
    pub(crate) is_counted: bool,
    /// How it stands.
    pub(crate) verdict: Verdict,
    /// New divided by old, less 1: of the instructions, or of the cost; of a counter the difference.
    pub(crate) change: Option<f64>,
    /// For a person.
    pub(crate) text: String,
}

/// All of the comparison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    /// What differs between here and where the baseline was made.
    pub(crate) notes: Vec<String>,
    /// One for each number.
    pub(crate) lines: Vec<Line>,
}

impl Comparison {
    /// Compares what was measured with `baseline`.
    pub(crate) fn new(baseline: &Baseline, measured: &Baseline) -> Self {
        let mut notes = Vec::new();
        let wider = if baseline.tools == measured.tools {
            1.0
        } else {
            notes.push(format!(
                "the baseline was counted with {}, here is {}: limits are {ELSEWHERE} times wider; \
                 --update makes a baseline of here",
                told(&baseline.tools),
                told(&measured.tools)
            ));
            ELSEWHERE
        };
        let mut lines = Vec::new();
        for now in &measured.entries {
            let before = baseline.entries.iter().find(|old| old.name == now.name);
            lines.push(compare_entry(before, now, wider));
        }
        for now in &measured.counters {
            let before = baseline.counters.iter().find(|old| old.name == now.name);
            lines.push(Line {
                is_counted: false,
                ..compare_counter(before, now)
            });
        }
        let same_machine = baseline.machine == measured.machine;
        if !same_machine && !measured.costs.is_empty() {
            notes.push(format!(
                "costs of the baseline are of {}, this is {}: told, not judged",
                baseline.machine, measured.machine
            ));
        }
        for now in &measured.costs {
            let before = baseline.costs.iter().find(|old| old.name == now.name);
            lines.push(Line {
                is_counted: false,
                ..compare_cost(before, now, same_machine)
            });
        }
        Self { notes, lines }
    }

    /// With the entries that the baseline has and that are no longer measured: they fail.
    pub(crate) fn with_gone(mut self, names: &[String]) -> Self {
        self.lines.extend(names.iter().map(|name| {
            let text = format!("{name:<44} gone: it is in the baseline and was not measured");
            line(name, Verdict::Regressed, None, text)
        }));
        self
    }

    /// The lines that fail the gate.
    pub(crate) fn regressions(&self) -> Vec<&Line> {
        let failing = |line: &&Line| line.verdict == Verdict::Regressed;
        self.lines.iter().filter(failing).collect()
    }
}

fn told(tools: &Tools) -> String {
    format!(
        "{}, {}, {}, {}",
        tools.rustc, tools.valgrind, tools.libc, tools.profile
    )
}

fn compare_entry(before: Option<&Entry>, now: &Entry, wider: f64) -> Line {
    let Some(before) = before else {
        let text = format!(
            "{:<44} {:>11.1} instructions, {:.2} allocations, {} copying (new)",
            now.name,
            now.instructions,
            now.allocations,
            told_copying(now)
        );
        return line(&now.name, Verdict::New, None, text);
    };
    let limit = before.limit * wider;
    let change = now.instructions / before.instructions - 1.0;
    let slower = now.instructions > before.instructions * (1.0 + limit) + INSTRUCTIONS_SLACK;
    let slack = ALLOCATIONS_SLACK.max(before.allocations * ALLOCATIONS_SHARE);
    let more = wider <= 1.0 && now.allocations > before.allocations + slack;
    let copies = now.copies_more(before, wider);
    let faster = now.instructions < before.instructions * (1.0 - limit) - INSTRUCTIONS_SLACK;
    let verdict = match (slower || more || copies, faster) {
        (true, _) => Verdict::Regressed,
        (false, true) => Verdict::Better,
        (false, false) => Verdict::Same,
    };
    let text = format!(
        "{:<44} {:>11.1} -> {:>11.1} instructions, {:+.2} % (limit {:.1} %), allocations \
         {:.2} -> {:.2}, copying {} -> {}",
        now.name,
        before.instructions,
        now.instructions,
        change * 100.0,
        limit * 100.0,
        before.allocations,
        now.allocations,
        told_copying(before),
        told_copying(now)
    );
    line(&now.name, verdict, Some(change), text)
}

fn told_copying(entry: &Entry) -> String {
    // Adding 0 makes a rounded -0 a 0.
    let copying = entry
        .copying
        .map(|copying| format!("{:.0}", copying.round() + 0.0));
    copying.unwrap_or_else(|| "unknown".to_owned())
}

fn compare_counter(before: Option<&Counter>, now: &Counter) -> Line {
    let Some(before) = before else {
        let text = format!("{:<60} {:>8.3} (new)", now.name, now.value);
        return line(&now.name, Verdict::New, None, text);
    };
    let more = before.value * before.limit + COUNTER_SLACK;
    let verdict = if now.value > before.value + more {
        Verdict::Regressed
    } else if now.value < before.value - more {
        Verdict::Better
    } else {
        Verdict::Same
    };
    let text = format!(
        "{:<60} {:>8.3} -> {:>8.3} (limit +{more:.2})",
        now.name, before.value, now.value
    );
    line(&now.name, verdict, Some(now.value - before.value), text)
}

fn compare_cost(before: Option<&Cost>, now: &Cost, same_machine: bool) -> Line {
    let Some(before) = before else {
        let text = format!("{:<44} {:>11.3} (new)", now.name, now.value);
        return line(&now.name, Verdict::New, None, text);
    };
    let factor = now.value / before.value;
    let verdict = match same_machine && factor > before.factor {
        true => Verdict::Regressed,
        false => Verdict::Same,
    };
    let text = format!(
        "{:<44} {:>11.3} -> {:>11.3}, x{factor:.2} (limit x{:.1})",
        now.name, before.value, now.value, before.factor
    );
    line(&now.name, verdict, Some(factor - 1.0), text)
}

fn line(name: &str, verdict: Verdict, change: Option<f64>, text: String) -> Line {
    Line {
        name: name.to_owned(),
        is_counted: true,
        verdict,
        change,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(rustc: &str) -> Tools {
        Tools {
            rustc: rustc.to_owned(),
            valgrind: "valgrind-3.19.0".to_owned(),
            libc: "glibc".to_owned(),
            profile: "release".to_owned(),
        }
    }

    fn baseline(instructions: f64, allocations: f64, cost: f64) -> Baseline {
        let mut baseline = Baseline::new("c0ffee".to_owned(), "vm".to_owned(), tools("rustc 1"));
        let item = PerItem {
            instructions,
            allocations,
            copying: 1000.0,
        };
        baseline
            .entries
            .push(Entry::new("append".to_owned(), item, 0.02));
        baseline.costs.push(Cost {
            name: "CPU s/GB".to_owned(),
            value: cost,
            factor: 2.0,
        });
        baseline
    }

    fn verdicts(before: &Baseline, now: &Baseline) -> Vec<Verdict> {
        let comparison = Comparison::new(before, now);
        comparison.lines.iter().map(|line| line.verdict).collect()
    }

    #[test]
    fn an_increase_beyond_the_limit_regresses_and_a_smaller_one_does_not() {
        let before = baseline(10_000.0, 3.0, 1.0);
        let of = |now| verdicts(&before, &now)[0];
        assert_eq!(of(baseline(10_190.0, 3.0, 1.0)), Verdict::Same);
        assert_eq!(of(baseline(10_210.0, 3.0, 1.0)), Verdict::Regressed);
        assert_eq!(of(baseline(9_700.0, 3.0, 1.0)), Verdict::Better);
        assert_eq!(of(baseline(10_000.0, 4.0, 1.0)), Verdict::Regressed);
        let before = baseline(10_000.0, 690.0, 1.0);
        let of = |now| verdicts(&before, &now)[0];
        assert_eq!(of(baseline(10_000.0, 700.0, 1.0)), Verdict::Same);
        assert_eq!(of(baseline(10_000.0, 701.0, 1.0)), Verdict::Regressed);
    }

    #[test]
    fn a_copy_more_regresses_even_where_the_instructions_stay_within_their_limit() {
        let mut before = baseline(10_000.0, 3.0, 1.0);
        let now = |copying| {
            let mut now = baseline(10_100.0, 3.0, 1.0);
            now.entries[0].copying = Some(copying);
            now
        };
        assert_eq!(verdicts(&before, &now(1069.0))[0], Verdict::Same);
        assert_eq!(verdicts(&before, &now(1071.0))[0], Verdict::Regressed);
        before.entries[0].copying_limit = 0.1;
        assert_eq!(verdicts(&before, &now(1071.0))[0], Verdict::Same);
        // A baseline of before copies were counted says nothing about them.
        before.entries[0].copying = None;
        assert_eq!(verdicts(&before, &now(9000.0))[0], Verdict::Same);
        let text = r#"{"name":"append","instructions":1.5,"allocations":2.0,"limit":0.02}"#;
        let old: Entry = serde_json::from_str(text).unwrap();
        assert_eq!((old.copying, old.copying_limit), (None, 0.05));
    }

    #[test]
    fn a_cost_regresses_only_beyond_its_factor_and_on_the_same_machine() {
        let before = baseline(1.0, 0.0, 1.0);
        let mut now = baseline(1.0, 0.0, 1.9);
        assert_eq!(verdicts(&before, &now)[1], Verdict::Same);
        now = baseline(1.0, 0.0, 2.1);
        assert_eq!(verdicts(&before, &now)[1], Verdict::Regressed);
        now.machine = "another".to_owned();
        assert_eq!(verdicts(&before, &now)[1], Verdict::Same);
    }

    #[test]
    fn a_counter_regresses_by_a_sync_in_every_fifth_request_and_not_by_a_timer() {
        let of = |value| {
            let mut baseline = baseline(1.0, 0.0, 1.0);
            baseline.counters = vec![Counter::new("kernel: syncs".to_owned(), value)];
            baseline
        };
        let verdict = |before, now| verdicts(&of(before), &of(now))[1];
        assert_eq!(verdict(0.0, 0.2), Verdict::Regressed);
        assert_eq!(verdict(1.0, 1.1), Verdict::Same);
        assert_eq!(verdict(1.0, 1.2), Verdict::Regressed);
        assert_eq!(verdict(2.0, 1.0), Verdict::Better);
        let unknown = verdicts(&baseline(1.0, 0.0, 1.0), &of(1.0))[1];
        assert_eq!(unknown, Verdict::New);
    }

    #[test]
    fn another_compiler_widens_the_limits_and_says_so() {
        let before = baseline(10_000.0, 3.0, 1.0);
        let mut now = baseline(10_900.0, 4.0, 1.0);
        now.tools = tools("rustc 2");
        let comparison = Comparison::new(&before, &now);
        assert!(comparison.notes[0].contains("rustc 2"), "{comparison:?}");
        assert!(comparison.regressions().is_empty(), "{comparison:?}");
        now.entries[0].instructions = 11_100.0;
        assert_eq!(verdicts(&before, &now)[0], Verdict::Regressed);
    }

    #[test]
    fn accepting_takes_the_numbers_and_leaves_limits_and_other_entries() {
        let mut kept = baseline(10_000.0, 3.0, 1.0);
        kept.entries[0].limit = 0.1;
        kept.entries.push(Entry {
            name: "other".to_owned(),
            ..kept.entries[0].clone()
        });
        kept.accept(baseline(12_000.0, 2.0, 1.5));
        let (first, other) = (&kept.entries[0], &kept.entries[1]);
        assert_eq!((first.instructions, first.limit), (12_000.0, 0.1));
        assert_eq!((other.instructions, kept.costs[0].value), (10_000.0, 1.5));
    }

    #[test]
    fn a_second_measurement_takes_the_place_of_what_was_meant_only() {
        let mut measured = baseline(12_000.0, 3.0, 2.5);
        let again = || baseline(10_000.0, 2.0, 1.0);
        measured.measured_again(again(), &["CPU s/GB".to_owned()]);
        let now = (measured.entries[0].instructions, measured.costs[0].value);
        assert_eq!(now, (12_000.0, 1.0));
        measured.measured_again(again(), &["append".to_owned()]);
        assert_eq!(measured, again());
    }

    #[test]
    fn a_file_that_is_no_baseline_is_named_with_the_remedy() {
        let path =
            std::env::temp_dir().join(format!("ringlog-baseline-{}.json", std::process::id()));
        assert_eq!(Baseline::read(&path).unwrap(), None);
        fs::write(&path, "{").unwrap();
        let error = Baseline::read(&path).unwrap_err().to_string();
        assert!(error.contains("--update"), "{error}");
        baseline(1.0, 1.0, 1.0).write(&path).unwrap();
        assert_eq!(
            Baseline::read(&path).unwrap(),
            Some(baseline(1.0, 1.0, 1.0))
        );
        fs::remove_file(&path).unwrap();
    }
}
