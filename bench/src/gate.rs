//! The regression gate of `.ci/run`: what the hot paths cost, against `results/baseline.json`.
//!
//! | file | what it does |
//! |---|---|
//! | `callgrind` | counts instructions, allocations, copies: they repeat, so that per cents can be judged |
//! | `scenes` | what a broker is loaded with: one for each hot path |
//! | `broker` | the same for a whole broker, and its CPU time, which only a multiple can judge |
//! | `start` | how long a start takes, and what a broker does when it is idle: coarse as CPU times are |
//! | `kernel` | what a broker on io_uring asks of the kernel per request: entries, calls, syncs |
//! | `baseline` | the file, the comparison, the verdicts |
//! | `study` | how often the verdicts are wrong: runs of the same, and with planted slow-downs |
//!
//! Everything is counted twice with different counts; the difference has no start and no set-up in
//! it. Without valgrind nothing is counted and a line with SKIP says so. Wall-clock is not judged
//! here: that is `compare`, with its interval.

mod baseline;
mod broker;
mod callgrind;
mod kernel;
mod scenes;
mod start;
mod study;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::GateArgs;
use crate::environment::{Environment, output};
use crate::failure::Failure;
use crate::report::say;
use crate::target::Directory;
use crate::transport::Transport;
use baseline::{Baseline, Comparison, Entry, Line, Tools, Verdict};

/// Hot paths repeat to a few instructions; this leaves room for what an unrelated change moves.
const HOT_PATH_LIMIT: f64 = 0.02;
/// What regressed is measured anew, so often in all: a helper thread that allocates, or a timer, between
/// the shorter and the longer run of one measurement does not come each time; a change of the code does.
const LOOKS: usize = 3;

/// Measures and compares, or takes a new baseline, or finds out how often the verdicts are wrong.
pub(crate) async fn gate<T: Transport>(args: &GateArgs) -> Result<(), Failure> {
    let environment = Environment::capture(&args.spawn_args.work_dir());
    if let Some(runs) = args.study {
        return study::study::<T>(args, runs, environment).await;
    }
    if args.update {
        return update(args, measure::<T>(args, &environment).await?);
    }
    let Some(baseline) = Baseline::read(&args.baseline)? else {
        return Err(Failure::Target(format!(
            "there is no {}: make one by --update",
            args.baseline.display()
        )));
    };
    let (measured, comparison) = measure_against::<T>(args, &environment, &baseline).await?;
    let gone = gone(args, &baseline, &measured);
    judge(args, &baseline, &comparison.with_gone(&gone))
}

/// Counted entries of the baseline that were asked for and are no longer there: what is not measured must
/// not pass. Without valgrind nothing could be counted, which was told.
fn gone(args: &GateArgs, baseline: &Baseline, measured: &Baseline) -> Vec<String> {
    let is_due = |name: &str| {
        let is_of_broker = name.starts_with(scenes::NAME_PREFIX);
        !measured.tools.valgrind.is_empty()
            && is_wanted(args, name)
            && !(args.no_broker && is_of_broker)
    };
    let is_there = |name: &str| measured.entries.iter().any(|now| now.name == name);
    let names = baseline.entries.iter().map(|old| &old.name);
    let gone = names.filter(|name| is_due(name) && !is_there(name));
    let is_kept = |name: &str| measured.counters.iter().any(|now| now.name == name);
    let counters = baseline.counters.iter().map(|old| &old.name);
    // Without io_uring there are none, which was told.
    let are_counted = !measured.counters.is_empty();
    let lost = counters.filter(|name| are_counted && is_wanted(args, name) && !is_kept(name));
    gone.chain(lost).cloned().collect()
}

/// Measures, and what is worse than the baseline anew: an entry regresses if it does at each of the looks.
async fn measure_against<T: Transport>(
    args: &GateArgs,
    environment: &Environment,
    baseline: &Baseline,
) -> Result<(Baseline, Comparison), Failure> {
    let mut measured = measure::<T>(args, environment).await?;
    let mut comparison = Comparison::new(baseline, &measured);
    for _ in 1..LOOKS {
        let suspects = comparison.regressions();
        if suspects.is_empty() {
            break;
        }
        suspects
            .iter()
            .for_each(|line| say(&format!("again      {}", line.text)));
        let only = suspects.iter().map(|line| line.name.clone()).collect();
        let again = GateArgs {
            only,
            ..args.clone()
        };
        measured.measured_again(measure::<T>(&again, environment).await?, &again.only);
        comparison = Comparison::new(baseline, &measured);
    }
    Ok((measured, comparison))
}

/// All that `args` asks for.
async fn measure<T: Transport>(
    args: &GateArgs,
    environment: &Environment,
) -> Result<Baseline, Failure> {
    let hot_paths = beside(args.hot_paths.as_ref(), "ringlog-hot-paths")?;
    let ringlog = beside(args.spawn_args.ringlog.as_ref(), "ringlog")?;
    let valgrind = callgrind::version();
    let tools = Tools {
        rustc: environment.rustc().to_owned(),
        valgrind: valgrind.clone().unwrap_or_default(),
        libc: first_line(&output("ldd", &["--version"])),
        profile: format!(
            "{} hot paths, {} broker",
            profile(&hot_paths),
            profile(&ringlog)
        ),
    };
    let machine = environment.machine();
    let mut measured = Baseline::new(environment.commit().to_owned(), machine, tools);
    if valgrind.is_some() {
        measured.entries = count_hot_paths(args, &hot_paths)?;
        if !args.no_broker {
            measured.entries.extend(broker::count::<T>(args).await?);
        }
    } else {
        say("SKIP counting instructions: valgrind is not installed (apt-get install valgrind)");
    }
    if !args.no_broker {
        measured.counters = kernel::count::<T>(args).await?;
        measured.costs = broker::costs::<T>(args).await?;
        measured.costs.extend(start::costs::<T>(args).await?);
    }
    Ok(measured)
}

fn update(args: &GateArgs, measured: Baseline) -> Result<(), Failure> {
    let path = &args.baseline;
    let baseline = match Baseline::read(path)? {
        Some(mut baseline) => {
            let gone = gone(args, &baseline, &measured);
            for line in Comparison::new(&baseline, &measured).with_gone(&gone).lines {
                tell(&line);
            }
            baseline.entries.retain(|old| !gone.contains(&old.name));
            baseline.counters.retain(|old| !gone.contains(&old.name));
            baseline.accept(measured);
            baseline
        }
        None => measured,
    };
    baseline.write(path)?;
    say(&format!(
        "wrote {}: commit it with the reason for what changed",
        path.display()
    ));
    Ok(())
}

fn judge(args: &GateArgs, baseline: &Baseline, comparison: &Comparison) -> Result<(), Failure> {
    for note in &comparison.notes {
        say(&format!("note: {note}"));
    }
    for line in &comparison.lines {
        tell(line);
    }
    let count = |verdict| {
        let with = comparison
            .lines
            .iter()
            .filter(|line| line.verdict == verdict);
        with.count()
    };
    if count(Verdict::Better) + count(Verdict::New) > 0 {
        say("better or new entries: keep them by --update, or later losses up to here go unseen");
    }
    let regressions = comparison.regressions();
    if regressions.is_empty() {
        say(&format!(
            "gate passed: {} entries against commit {}",
            comparison.lines.len(),
            baseline.commit
        ));
        return Ok(());
    }
    let texts: Vec<_> = regressions.iter().map(|line| line.text.as_str()).collect();
    Err(Failure::Regressed(format!(
        "gate failed: {} of {} entries regressed against commit {}:\n  {}\n\
         If the cost is meant, accept it: run the same command with --update and commit {} with the \
         reason. To see where it goes: valgrind --tool=callgrind, then callgrind_annotate.",
        regressions.len(),
        comparison.lines.len(),
        baseline.commit,
        texts.join("\n  "),
        args.baseline.display()
    )))
}

fn tell(line: &Line) {
    let word = match line.verdict {
        Verdict::Same => "same",
        Verdict::Better => "better",
        Verdict::New => "new",
        Verdict::Regressed => "REGRESSED",
    };
    say(&format!("{word:<10} {}", line.text));
}

/// Whether `--only` asks for an entry.
fn is_wanted(args: &GateArgs, name: &str) -> bool {
    args.only.is_empty() || args.only.iter().any(|word| name.contains(word))
}

fn count_hot_paths(args: &GateArgs, program: &Path) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for (name, count) in list(program)? {
        if !is_wanted(args, &name) {
            continue;
        }
        // A planted slow-down does more than it says.
        let done = count + count * args.plant / 100;
        let run = |count: u64| {
            let directory = Directory::new(&args.spawn_args, "gate")?;
            let place = directory.path().display().to_string();
            let name = match args.plant_copy {
                true => format!("{name}, copied once more"),
                false => name.clone(),
            };
            let arguments = [name, count.to_string(), place];
            callgrind::run(directory.path(), program, &arguments)
        };
        let item = run(done)?.per_item(run(2 * done)?, count);
        entries.push(Entry::new(name, item, HOT_PATH_LIMIT));
    }
    Ok(entries)
}

/// The hot paths that `program` knows, each with how often the shorter run does it.
fn list(program: &Path) -> Result<Vec<(String, u64)>, Failure> {
    let missing = format!(
        "running {} (cargo build --release -p ringlog-hot-paths?)",
        program.display()
    );
    let output = Command::new(program).output();
    let output = output.map_err(Failure::system(missing))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let entry = |line: &str| {
        let (count, name) = line.split_once('\t')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    let entries: Option<Vec<_>> = text.lines().map(entry).collect();
    let entries = entries.filter(|entries| !entries.is_empty());
    entries.ok_or_else(|| Failure::Target(format!("{} lists {text:?}", program.display())))
}

/// The binary that was named, or the one that lies beside this one.
fn beside(named: Option<&PathBuf>, name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::system("finding this binary"))?;
    Ok(named.cloned().unwrap_or_else(|| own.with_file_name(name)))
}

/// Cargo names the folder of a binary after its profile.
fn profile(binary: &Path) -> String {
    let folder = binary.parent().and_then(Path::file_name);
    folder.map_or("unknown".to_owned(), |name| {
        name.to_string_lossy().into_owned()
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
