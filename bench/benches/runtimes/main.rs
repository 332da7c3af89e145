//! One append loop on several runtimes: `cargo bench -p ringlog-bench --bench runtimes`.
//!
//! | file | what lives there |
//! |---|---|
//! | `scene` | what is appended: the same bytes for all, and what the file must hold in the end |
//! | `reactors` | the loop on ours (both drivers, and with the journal), tokio-uring, glommio, tokio |
//! | `meter` | wall clock, and CPU time of the whole process |
//! | `table` | medians and spread, as text, Markdown and JSON |
//!
//! Every append is what a broker does with a frame: a buffer of its own, the batch validated, its
//! offset patched in, one write at the end of the file, waited for before the next; with durable
//! answers it is on stable storage by then. Runs go in turns, each round beginning with another
//! runtime. After each run the file's length and CRC are checked: a loop that lost bytes has no time.
//!
//! `cargo bench ... -- [--results DIR] [--repetitions N] [WORD]`: DIR (or `RINGLOG_RESULTS`) gets
//! README.md and result.json; only scenes with WORD in their name. `cargo test` runs all of it once,
//! tiny. Files go to TMPDIR; a runtime that cannot run here is told on a line with SKIP.
#![forbid(unsafe_code)]

mod meter;
mod reactors;
mod scene;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use meter::Cost;
use reactors::{RUNTIMES, Trouble};
use scene::{SCENES, Scene};
use table::{Row, Table};

/// Odd, so that the median is a run.
const REPETITIONS: usize = 7;

/// The command line. What cargo adds for its own harness is let pass.
struct Arguments {
    is_bench: bool,
    is_list: bool,
    results: Option<PathBuf>,
    repetitions: usize,
    word: Option<String>,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            is_bench: false,
            is_list: false,
            results: std::env::var_os("RINGLOG_RESULTS").map(PathBuf::from),
            repetitions: REPETITIONS,
            word: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--bench" => arguments.is_bench = true,
                "--list" => arguments.is_list = true,
                "--results" => arguments.results = Some(value()?.into()),
                "--repetitions" => {
                    let number = value()?.parse().ok().filter(|number| *number > 0);
                    arguments.repetitions = number.ok_or("--repetitions needs a number above 0")?;
                }
                "--test-threads" | "--skip" | "--format" | "--color" => {
                    value()?;
                }
                flag if flag.starts_with('-') => {}
                _ => arguments.word = Some(word),
            }
        }
        Ok(arguments)
    }
}

fn main() -> ExitCode {
    match Arguments::read(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            complain(&reason);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if arguments.is_list {
        return Ok(());
    }
    let is_wanted = |scene: &Scene| {
        let word = arguments.word.as_ref();
        word.is_none_or(|word| scene.name.contains(word.as_str()))
    };
    let repetitions = if arguments.is_bench {
        arguments.repetitions
    } else {
        1
    };
    let mut table = Table::new(arguments.is_bench);
    for scene in SCENES.iter().filter(|scene| is_wanted(scene)) {
        let scene = if arguments.is_bench {
            scene.clone()
        } else {
            scene.tiny()
        };
        for row in measure(&scene, repetitions, &mut table.skipped)? {
            table.rows.push(row);
        }
    }
    table.lines().iter().for_each(|line| say(line));
    match &arguments.results {
        Some(directory) if arguments.is_bench => table.write(directory),
        _ => Ok(()),
    }
}

/// All runtimes on one scene.
fn measure(
    scene: &Scene,
    repetitions: usize,
    skipped: &mut Vec<String>,
) -> Result<Vec<Row>, String> {
    let expected = scene.expected();
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); RUNTIMES.len()];
    let mut cannot = [false; RUNTIMES.len()];
    for round in 0..repetitions {
        for turn in 0..RUNTIMES.len() {
            let at = (round + turn) % RUNTIMES.len();
            let runtime = RUNTIMES[at];
            if cannot[at] || (runtime.is_durable_only && !scene.is_durable) {
                continue;
            }
            let scratch = Scratch::new()?;
            let path = scratch.0.join("appended");
            match (runtime.run)(scene, &path) {
                Ok(cost) => {
                    let named = |what| format!("{} on {}: {what}", scene.name, runtime.name);
                    expected.check(&path).map_err(named)?;
                    costs[at].push(cost);
                }
                Err(Trouble::Failed(reason)) => {
                    return Err(format!("{} on {}: {reason}", scene.name, runtime.name));
                }
                Err(Trouble::Unavailable(reason)) => {
                    cannot[at] = true;
                    let line = format!("SKIP {} in {:?}: {reason}", runtime.name, scene.name);
                    complain(&line);
                    skipped.push(line);
                }
            }
        }
    }
    let rows = RUNTIMES.iter().zip(&costs);
    let rows = rows.filter_map(|(runtime, costs)| Row::new(scene, runtime.name, costs));
    Ok(rows.collect())
}

/// A folder that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let name = format!("ringlog-runtimes-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let made = std::fs::create_dir_all(&path);
        made.map_err(|error| told(&path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind in TMPDIR harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What went wrong with a file.
fn told(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// Prints a line of the result.
fn say(line: &str) {
    use std::io::Write;
    // A reader that has gone away does not make the numbers wrong.
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[expect(clippy::print_stderr, reason = "the one place where failures are told")]
fn complain(what: &str) {
    eprintln!("runtimes: {what}");
}
