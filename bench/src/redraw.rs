//! `report` and `env`: results that are there already, drawn again or side by side; and this machine.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::{EnvArgs, ReportArgs};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::html;
use crate::report::{Document, SCHEMA, say};
use crate::table::Table;

/// A result of an hour is 5 MB; what is larger is not read into memory.
const RESULT_BYTES_MAX: u64 = 256 << 20;

/// Draws one page of one or several results.
pub(crate) fn report(args: &ReportArgs) -> Result<(), Failure> {
    let mut documents = Vec::new();
    for path in &args.results {
        documents.push(read(path)?);
    }
    distinguish(&mut documents, &args.results);
    let output = match (&args.output, args.results.as_slice()) {
        (Some(output), _) => output.clone(),
        (None, [one]) if one.is_dir() => one.join("report.html"),
        (None, _) => PathBuf::from("report.html"),
    };
    write(&output, &html::page(&documents))?;
    for document in &documents {
        say(&format!(
            "{:<12} {} ({} of {} measurements)",
            document.status.name(),
            document.name,
            document.kind,
            document.measurements.len()
        ));
    }
    say(&format!("drawn        {}", output.display()));
    Ok(())
}

/// Two results of one name would be one line in a chart.
fn distinguish(documents: &mut [Document], paths: &[PathBuf]) {
    let names: Vec<_> = documents
        .iter()
        .map(|document| document.name.clone())
        .collect();
    for ((document, path), name) in documents.iter_mut().zip(paths).zip(&names) {
        if names.iter().filter(|other| *other == name).count() > 1 {
            document.name = format!("{name} ({})", path.display());
        }
    }
}

/// Reads `DIR/result.json` or a file of that kind.
pub(crate) fn read(path: &Path) -> Result<Document, Failure> {
    let file = if path.is_dir() {
        path.join("result.json")
    } else {
        path.to_owned()
    };
    let text = read_text(&file)?;
    parse(&text).map_err(|why| Failure::Usage(format!("{}: {why}", file.display())))
}

/// A whole file that is text and not too large.
pub(crate) fn read_text(file: &Path) -> Result<String, Failure> {
    let shown = file.display();
    let metadata = fs::metadata(file).map_err(Failure::system(format!("reading {shown}")))?;
    if !metadata.is_file() {
        return Err(Failure::Usage(format!("{shown} is no file")));
    }
    if metadata.len() > RESULT_BYTES_MAX {
        let megabytes = metadata.len() / 1_000_000;
        return Err(Failure::Usage(format!(
            "{shown} has {megabytes} MB: that is no result"
        )));
    }
    let bytes = fs::read(file).map_err(Failure::system(format!("reading {shown}")))?;
    String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("{shown} is no text")))
}

fn parse(text: &str) -> Result<Document, String> {
    #[derive(Deserialize)]
    struct Head {
        schema: Option<String>,
    }
    let head: Head = serde_json::from_str(text).map_err(|error| {
        format!("no result of ringlog-bench ({error}); results of other tools come in by `import`")
    })?;
    match head.schema.as_deref() {
        Some(SCHEMA) => {}
        Some(other) if other.starts_with("bench/") => {
            return Err(format!(
                "has schema {other}, this program reads {SCHEMA}: use the commit that it names, or run it again"
            ));
        }
        _ => {
            return Err(format!(
                "has no \"schema\": \"{SCHEMA}\": results of other tools come in by `import`"
            ));
        }
    }
    serde_json::from_str(text).map_err(|error| format!("is damaged: {error}"))
}

/// Writes beside the place and renames: a page is there as a whole or not.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial-{}", std::process::id()));
    let written = fs::File::create_new(&partial)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // Best effort: the failure is told anyway.
        fs::remove_file(&partial).ok();
    }
    written.map_err(Failure::system(format!("writing {}", path.display())))
}

/// Prints what results record of this machine.
pub(crate) fn env(args: &EnvArgs) -> Result<(), Failure> {
    let directory = args.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let environment = Environment::capture(&directory);
    if args.json {
        let text = serde_json::to_string_pretty(&environment);
        say(&text.map_err(|error| Failure::Target(format!("writing JSON: {error}")))?);
        return Ok(());
    }
    let rows = environment.flat().into_iter();
    let table = Table {
        columns: vec!["what".to_owned(), "is".to_owned()],
        rows: rows
            .map(|(name, value)| vec![name.as_str().into(), value.as_str().into()])
            .collect(),
        ..Table::default()
    };
    for line in table.plain() {
        say(&line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_result_is_refused_with_what_to_do() {
        for (text, told) in [
            ("", "import"),
            ("[1, 2]", "import"),
            ("{\"workload\": \"omb\"}", "import"),
            ("{\"schema\": \"bench/1\"}", "run it again"),
            ("{\"schema\": \"bench/2\", \"kind\": 7}", "damaged"),
            ("{\"schema\": \"bench/2\", \"kind\": \"produce\"", "import"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(told), "{text:?}: {refused}");
        }
    }

    #[test]
    fn a_result_that_is_not_there_is_named() {
        let refused = read(Path::new("/no/such/result")).unwrap_err().to_string();
        assert!(refused.contains("/no/such/result"), "{refused}");
    }
}
