//! The folder of a result: `result.json`, `latency.hlog`, `env.json`, `report.html`, `README.md`, and where
//! there are lines over many sizes a `picture.svg` of the first of them.
//!
//! It is claimed before the run, so that no run is lost to a folder that cannot be written; it appears
//! as a whole when the run is over; and what is not ours is never replaced.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::environment;
use crate::failure::Failure;
use crate::hdr::{self, Entry};
use crate::html;
use crate::report::{Document, say};

/// Where results with a name go, from where the command is run.
const RESULTS: &str = "results";
/// More results of one name and day are refused.
const SUFFIX_MAX: u32 = 999;

/// Where a result goes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct OutputArgs {
    /// Keep the result in this folder: result.json, latency.hlog, env.json, report.html, README.md
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Keep the result in results/<date>-<NAME>, or with -o call it so
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) name: Option<String>,
}

/// A name that is one component of a path, and reads well in it.
fn name(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.+".contains(letter);
    match text {
        "" => Err("must not be empty".to_owned()),
        text if text.starts_with('.') || !text.chars().all(plain) || text.len() > 100 => {
            Err("must be letters, digits, - _ . + and at most 100 of them".to_owned())
        }
        text => Ok(text.to_owned()),
    }
}

impl OutputArgs {
    /// The folder, if the result is to be kept; an error if it could not be.
    pub(crate) fn claim(&self) -> Result<Option<Folder>, Failure> {
        match (&self.output, &self.name) {
            (Some(output), name) => Folder::claim(output, name.clone()).map(Some),
            (None, Some(name)) => Folder::dated(Path::new(RESULTS), name).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// A folder that may be written.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    name: Option<String>,
}

impl Folder {
    /// `path`, if it is not there, is empty or holds a result of ours.
    pub(crate) fn claim(path: &Path, name: Option<String>) -> Result<Self, Failure> {
        let folder = Self {
            path: path.to_owned(),
            name,
        };
        folder.check()?;
        // A parent that is read-only is found now and not after the run.
        let stage = folder.stage()?;
        fs::remove_dir(&stage).map_err(writing(&stage))?;
        Ok(folder)
    }

    fn check(&self) -> Result<(), Failure> {
        let path = &self.path;
        let refuse = |why: &str| Err(Failure::Usage(format!("{} {why}", path.display())));
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let mut entries = fs::read_dir(path).map_err(reading(path))?;
                if entries.next().is_some() && !is_ours(path) {
                    return refuse(
                        "holds files but no result of ringlog-bench: name another folder, or empty it",
                    );
                }
                Ok(())
            }
            Ok(_) => refuse("is there and is no folder: name another with -o"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(reading(path)(error)),
        }
    }

    /// `results/<date>-<name>`, or with `-2`, `-3` behind it.
    pub(crate) fn dated(results: &Path, name: &str) -> Result<Self, Failure> {
        let first = format!("{}-{name}", environment::today());
        let candidates = (1..=SUFFIX_MAX).map(|number| match number {
            1 => first.clone(),
            number => format!("{first}-{number}"),
        });
        for candidate in candidates {
            let path = results.join(candidate);
            if fs::symlink_metadata(&path).is_err() {
                return Self::claim(&path, Some(name.to_owned()));
            }
        }
        let what = format!("{SUFFIX_MAX} results are named {first}: take another name");
        Err(Failure::Usage(what))
    }

    /// A new, empty folder beside it.
    fn stage(&self) -> Result<PathBuf, Failure> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let stage = format!(".{name}.partial-{}", std::process::id());
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let stage = parent.join(stage);
        if !parent.as_os_str().is_empty() {
            fs::create_dir_all(parent).map_err(writing(parent))?;
        }
        fs::create_dir(&stage).map_err(writing(&stage))?;
        Ok(stage)
    }

    /// Writes all files and shows the folder only when they are whole.
    fn write(&self, files: &[(&str, Vec<u8>)]) -> Result<(), Failure> {
        let stage = self.stage()?;
        let written = self.fill(&stage, files);
        // Best effort: after a success it is gone already.
        fs::remove_dir_all(&stage).ok();
        written
    }

    fn fill(&self, stage: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), Failure> {
        for (name, bytes) in files {
            let path = stage.join(name);
            let write = || {
                let mut file = fs::File::create_new(&path)?;
                file.write_all(bytes)?;
                file.sync_all()
            };
            write().map_err(writing(&path))?;
        }
        // Renaming replaces an empty folder; a result of ours is replaced file by file.
        if fs::rename(stage, &self.path).is_ok() {
            return Ok(());
        }
        self.check()?;
        for (name, _) in files {
            let path = self.path.join(name);
            fs::rename(stage.join(name), &path).map_err(writing(&path))?;
        }
        Ok(())
    }
}

fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    Failure::system(format!("writing {}", path.display()))
}

fn reading(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    Failure::system(format!("reading {}", path.display()))
}

/// Whether a folder holds a result of ours, of whatever version.
fn is_ours(path: &Path) -> bool {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let text = fs::read_to_string(path.join("result.json")).unwrap_or_default();
    serde_json::from_str::<Head>(&text).is_ok_and(|head| head.schema.starts_with("bench/"))
}

impl Document {
    /// Writes the folder of this result.
    pub(crate) fn write(mut self, folder: &Folder) -> Result<(), Failure> {
        let own = || Some(folder.path.file_name()?.to_string_lossy().into_owned());
        if let Some(name) = folder.name.clone().or_else(own) {
            self.name = name;
        }
        let mut files = vec![("README.md", self.readme_text().into_bytes())];
        if let Some(environment) = &self.environment {
            files.push(("env.json", json(environment)?));
        }
        if let Some(log) = latency_log(&self)? {
            files.push(("latency.hlog", log));
        }
        if let Some(picture) = self.charts.first().and_then(html::picture) {
            files.push(("picture.svg", picture.into_bytes()));
        }
        files.push(("result.json", json(&self)?));
        files.push((
            "report.html",
            html::page(std::slice::from_ref(&self)).into_bytes(),
        ));
        folder.write(&files)?;
        say(&format!(
            "saved        {} (a person opens report.html)",
            folder.path.display()
        ));
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Failure> {
    let written = serde_json::to_vec_pretty(value);
    let mut bytes = written.map_err(|error| Failure::Target(format!("writing JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// All intervals of all measurements, or their whole phase; then, over the whole phase, service times and the generator's lag.
fn latency_log(document: &Document) -> Result<Option<Vec<u8>>, Failure> {
    let mut entries = Vec::new();
    let several = document.measurements.len() > 1;
    for measurement in &document.measurements {
        let summary = &measurement.summary;
        let tag = |what: &str| match several {
            true => format!("{}:{what}", measurement.label),
            false => what.to_owned(),
        };
        let mut add = |what: &str, (from_s, duration_s): (f64, f64), text: &str| {
            let histogram = hdr::decode(text).ok().filter(|read| !read.is_empty());
            entries.extend(histogram.map(|histogram| Entry {
                tag: tag(what),
                begin_s: summary.began_unix_s + from_s,
                duration_s,
                histogram,
            }));
        };
        for interval in &summary.intervals {
            let what = if interval.warm_up {
                "warm-up"
            } else {
                "latency"
            };
            let span = (interval.begin_s, interval.duration_s);
            add(what, span, &interval.hdr_v2_deflate);
        }
        let whole = (0.0, summary.elapsed_s);
        if summary.intervals.is_empty() {
            add("latency", whole, &summary.latency.hdr_v2_deflate);
        }
        if let Some(end_to_end) = &measurement.end_to_end {
            add("end-to-end", whole, &end_to_end.hdr_v2_deflate);
        }
        add("service", whole, &summary.service_time.hdr_v2_deflate);
        add(
            "generator-lag",
            whole,
            &summary.generator_lag.hdr_v2_deflate,
        );
    }
    if entries.is_empty() {
        return Ok(None);
    }
    entries.sort_by(|first, second| first.begin_s.total_cmp(&second.begin_s));
    let start_s = entries.first().map_or(0.0, |first| first.begin_s);
    let comments = [
        format!("ringlog-bench {}: {}", document.kind, document.name),
        "nanoseconds; Tag=latency is from the intended send time in an open loop".to_owned(),
    ];
    hdr::interval_log(&comments, start_s, &entries)
        .map(Some)
        .map_err(Failure::Target)
}

#[cfg(test)]
mod tests;
