//! How often the gate is wrong: runs of the same (false alarms), and with planted slow-downs (misses).
//!
//! One run at the start is the baseline; then rounds of three runs, with nothing, 5 % and 10 % more
//! work than is told, each compared as `gate` does it. The gate alarms if any entry regresses; a
//! slow-down must be found in every entry that it was planted in. CPU times are in the runs without a
//! slow-down only: they alarm at twice the baseline, which 10 % is not.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::baseline::{Comparison, Verdict};
use super::{measure, measure_against};
use crate::cli::GateArgs;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::report::{SCHEMA, say};
use crate::transport::Transport;

/// Per cent of more work; the first is the control.
const PLANTS: [u64; 3] = [0, 5, 10];
/// Of the runs without a slow-down at most so many may alarm.
const FALSE_ALARMS_MAX: f64 = 0.05;
/// Of the slow-downs by the last of [`PLANTS`] at least so many must be found, in each entry.
const FOUND_MIN: f64 = 0.95;
/// Two-sided 95 %.
const Z: f64 = 1.959_964;

/// One entry in one run.
#[derive(Debug, Clone, Serialize)]
struct Seen {
    entry: String,
    verdict: Verdict,
    /// Of the instructions or the CPU time, as a share.
    change: Option<f64>,
}

/// One run of the gate.
#[derive(Debug, Clone, Serialize)]
struct StudyRun {
    planted_percent: u64,
    is_alarm: bool,
    entries: Vec<Seen>,
}

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Share {
    hits: usize,
    of: usize,
    /// The 95 % interval of E. B. Wilson, as shares.
    low: f64,
    high: f64,
}

impl Share {
    fn new(hits: usize, of: usize) -> Self {
        let (share, count) = (hits as f64 / of as f64, of as f64);
        let middle = share + Z * Z / (2.0 * count);
        let half = Z * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt();
        let scale = 1.0 + Z * Z / count;
        Self {
            hits,
            of,
            low: ((middle - half) / scale).max(0.0),
            high: ((middle + half) / scale).min(1.0),
        }
    }

    fn share(self) -> f64 {
        self.hits as f64 / self.of as f64
    }

    fn told(self) -> String {
        let percent = |share: f64| share * 100.0;
        format!(
            "{} of {} ({:.1} to {:.1} %)",
            self.hits,
            self.of,
            percent(self.low),
            percent(self.high)
        )
    }
}

/// One entry over all runs with one slow-down.
#[derive(Debug, Clone, Serialize)]
struct EntryRates {
    entry: String,
    planted_percent: u64,
    regressed: Share,
    change_min: f64,
    change_max: f64,
}

/// What the runs say.
#[derive(Debug, Clone, Serialize)]
struct Rates {
    false_alarms: Share,
    entries: Vec<EntryRates>,
}

/// `result.json`.
#[derive(Debug, Serialize)]
struct StudyResult {
    schema: &'static str,
    kind: &'static str,
    status: &'static str,
    /// Why it is invalid.
    reasons: Vec<String>,
    environment: Environment,
    rates: Rates,
    runs: Vec<StudyRun>,
}

impl StudyResult {
    fn new(environment: Environment, runs: Vec<StudyRun>) -> Self {
        let rates = Rates::of(&runs);
        let reasons = rates.reasons();
        Self {
            schema: SCHEMA,
            kind: "gate-study",
            status: match reasons.is_empty() {
                true => "valid",
                false => "invalid",
            },
            reasons,
            environment,
            rates,
            runs,
        }
    }

    /// README.md and result.json.
    fn write(&self, directory: &Path) -> Result<(), Failure> {
        let mut readme = vec!["# Error rates of the gate\n".to_owned()];
        let environment = self.environment.lines();
        readme.extend(environment.iter().map(|line| format!("- {line}")));
        readme.push(String::new());
        readme.extend(self.rates.lines());
        readme.extend(self.reasons.iter().map(|why| format!("\nFAILED: {why}")));
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::Target(format!("writing JSON: {error}")))?;
        let write = || {
            fs::create_dir_all(directory)?;
            fs::write(directory.join("README.md"), readme.join("\n") + "\n")?;
            fs::write(directory.join("result.json"), json + "\n")
        };
        let what = format!("writing the study into {}", directory.display());
        write().map_err(Failure::system(what))
    }
}

/// Runs the gate `runs` times for each of [`PLANTS`], in turns.
pub(super) async fn study<T: Transport>(
    args: &GateArgs,
    runs: u64,
    environment: Environment,
) -> Result<(), Failure> {
    let baseline = measure::<T>(args, &environment).await?;
    if baseline.entries.is_empty() {
        let what = "nothing is counted: without valgrind, or with an --only that no entry has, \
                    there is nothing to study";
        return Err(Failure::Usage(what.to_owned()));
    }
    let mut done = Vec::new();
    for round in 1..=runs {
        for plant in PLANTS {
            let planted = GateArgs {
                plant,
                ..args.clone()
            };
            let (_, comparison) = measure_against::<T>(&planted, &environment, &baseline).await?;
            let run = seen(plant, &comparison);
            say(&line(round, &run));
            done.push(run);
        }
    }
    let result = StudyResult::new(environment, done);
    result.rates.lines().iter().for_each(|line| say(line));
    if let Some(directory) = &args.output {
        result.write(directory)?;
    }
    match result.reasons.is_empty() {
        true => Ok(()),
        false => Err(Failure::Target(result.reasons.join("; "))),
    }
}

fn seen(planted_percent: u64, comparison: &Comparison) -> StudyRun {
    let lines = comparison.lines.iter();
    // What is only measured has no slow-down planted in it.
    let lines = lines.filter(|line| planted_percent == 0 || line.is_counted);
    let entries = lines.map(|line| Seen {
        entry: line.name.clone(),
        verdict: line.verdict,
        change: line.change,
    });
    let entries: Vec<_> = entries.collect();
    let regressed = |seen: &Seen| seen.verdict == Verdict::Regressed;
    StudyRun {
        planted_percent,
        is_alarm: entries.iter().any(regressed),
        entries,
    }
}

fn line(round: u64, run: &StudyRun) -> String {
    let word = if run.is_alarm { "alarm" } else { "quiet" };
    let changes = run.entries.iter().filter_map(|seen| seen.change);
    let changes: Vec<_> = changes
        .map(|change| format!("{:+.2}", change * 100.0))
        .collect();
    let planted = run.planted_percent;
    format!(
        "round {round:>3}, {planted:>2} % planted: {word}  {} %",
        changes.join(" ")
    )
}

impl Rates {
    fn of(runs: &[StudyRun]) -> Self {
        let with = |plant| runs.iter().filter(move |run| run.planted_percent == plant);
        let alarms = with(0).filter(|run| run.is_alarm).count();
        let mut entries = Vec::new();
        for plant in PLANTS {
            let first = with(plant).next();
            for name in first.iter().flat_map(|run| &run.entries).map(|s| &s.entry) {
                let all = with(plant).flat_map(|run| &run.entries);
                let all: Vec<_> = all.filter(|seen| seen.entry == *name).collect();
                let regressed = all.iter().filter(|s| s.verdict == Verdict::Regressed);
                let changes = all.iter().filter_map(|seen| seen.change);
                entries.push(EntryRates {
                    entry: name.clone(),
                    planted_percent: plant,
                    regressed: Share::new(regressed.count(), all.len()),
                    change_min: changes.clone().fold(f64::INFINITY, f64::min),
                    change_max: changes.fold(f64::NEG_INFINITY, f64::max),
                });
            }
        }
        Self {
            false_alarms: Share::new(alarms, with(0).count()),
            entries,
        }
    }

    /// Markdown.
    fn lines(&self) -> Vec<String> {
        let alarms = self.false_alarms.told();
        let mut lines = vec![
            format!(
                "Runs of the same in which any entry regressed: **{alarms}**; at most 5 % may."
            ),
            String::new(),
            "In brackets Wilson's 95 % interval; changes are of the instructions (CPU time in the \
             last rows of 0 %)."
                .to_owned(),
            String::new(),
            "| planted | entry | regressed | smallest change | largest change |".to_owned(),
            "|---|---|---|---|---|".to_owned(),
        ];
        lines.extend(self.entries.iter().map(|entry| {
            format!(
                "| {} % | {} | {} | {:+.2} % | {:+.2} % |",
                entry.planted_percent,
                entry.entry,
                entry.regressed.told(),
                entry.change_min * 100.0,
                entry.change_max * 100.0
            )
        }));
        lines
    }

    /// Why the gate is not to be trusted.
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.false_alarms.share() > FALSE_ALARMS_MAX {
            reasons.push(format!("false alarms: {}", self.false_alarms.told()));
        }
        let largest = PLANTS[PLANTS.len() - 1];
        let planted = |entry: &&EntryRates| entry.planted_percent == largest;
        for entry in self.entries.iter().filter(planted) {
            if entry.regressed.share() < FOUND_MIN {
                reasons.push(format!(
                    "{largest} % in {:?} were found in only {}",
                    entry.entry,
                    entry.regressed.told()
                ));
            }
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(planted_percent: u64, verdict: Verdict) -> StudyRun {
        StudyRun {
            planted_percent,
            is_alarm: verdict == Verdict::Regressed,
            entries: vec![Seen {
                entry: "append".to_owned(),
                verdict,
                change: Some(planted_percent as f64 / 100.0),
            }],
        }
    }

    /// So many runs of each kind, of which so many regressed.
    fn rates(regressed: [usize; 3]) -> Rates {
        let mut runs = Vec::new();
        for (plant, regressed) in PLANTS.into_iter().zip(regressed) {
            for number in 0..40 {
                let verdict = match number < regressed {
                    true => Verdict::Regressed,
                    false => Verdict::Same,
                };
                runs.push(run(plant, verdict));
            }
        }
        Rates::of(&runs)
    }

    /// By hand: with no hit it ends at z²/(n + z²), and half of all is in its middle.
    #[test]
    fn intervals_are_wilsons() {
        let near = |a: f64, b: f64| (a - b).abs() < 5e-5;
        let none = Share::new(0, 40);
        assert!(near(none.low, 0.0) && near(none.high, 0.0876), "{none:?}");
        let half = Share::new(20, 40);
        assert!(
            near(half.low, 0.3520) && near(half.high, 0.6480),
            "{half:?}"
        );
        let all = Share::new(40, 40);
        assert!(near(all.low, 0.9124) && near(all.high, 1.0), "{all:?}");
    }

    #[test]
    fn false_alarms_and_misses_beyond_what_is_allowed_are_told() {
        assert_eq!(rates([2, 0, 38]).reasons(), Vec::<String>::new());
        let reasons = rates([3, 0, 40]).reasons();
        assert!(reasons[0].contains("3 of 40"), "{reasons:?}");
        let reasons = rates([0, 40, 37]).reasons();
        assert!(reasons[0].contains("10 % in \"append\""), "{reasons:?}");
    }

    #[test]
    fn each_entry_has_a_row_for_each_slow_down_with_the_range_of_its_change() {
        let lines = rates([0, 40, 40]).lines();
        assert!(lines[0].contains("**0 of 40"), "{lines:?}");
        assert_eq!(lines.len(), 6 + 3);
        assert!(lines[7].contains("| 5 % | append | 40 of 40"), "{lines:?}");
        assert!(lines[7].ends_with("| +5.00 % | +5.00 % |"), "{lines:?}");
    }
}
