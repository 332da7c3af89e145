//! House rules that no lint knows, over the files that git tracks or would add.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// Lines of a source file, without its tests.
const LINES_MAX: usize = 600;
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// The page of a result holds the result whole, and the drawings of it.
const REPORT_BYTES_MAX: usize = 3 * FILE_BYTES_MAX;
/// The kernel's room, and a test's counting allocator, which cannot be written without.
const UNSAFE: [&str; 2] = ["engine/src/io", "server/tests/schema_allocation/alloc"];
/// The command lines: what they print is their result.
const PRINTING: [&str; 2] = ["server/src/cli", "bench/src/report.rs"];
/// Sends every API only what must be refused, which is no exercise of it.
const REFUSED_ONLY: &str = "tests/broker/bad_counts.rs";
/// Units that make a number in the README a measured one.
const UNITS: &str = "ns us µs ms KiB MiB GiB KB MB GB MB/s GB/s MiB/s GiB/s records/s requests/s %";

/// Names relative to the repository, and contents.
fn files(extension: &str) -> Vec<(String, String)> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let listed = list.current_dir(root).output().expect("git is installed");
    assert!(listed.status.success(), "{list:?}: {listed:?}");
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    let named = names.lines().filter(|name| name.ends_with(extension));
    let read = |name: &str| {
        let bytes = fs::read(root.join(name)).ok()?; // deleted, and not committed yet
        Some((name.into(), String::from_utf8_lossy(&bytes).into_owned()))
    };
    named.filter_map(read).collect()
}

/// Lines of code for which `found` holds, but for those in `rooms`.
fn findings(rooms: &[&str], what: &str, found: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, source) in files(".rs") {
        let free = rooms.iter().any(|room| name.starts_with(room));
        let found = |(_, line): &(usize, &str)| !free && found(line);
        for (index, line) in source.lines().enumerate().filter(found) {
            findings.push(format!("{name}:{}: {what}: {}", index + 1, line.trim()));
        }
    }
    findings
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn a_source_file_is_short_and_opens_with_what_it_holds() {
    let mut problems = Vec::new();
    for (name, source) in files(".rs") {
        if !source.starts_with("//!") {
            problems.push(format!("{name}: does not open with //!"));
        }
        let is_test = format!("/{name}").contains("/tests/") || name.ends_with("/tests.rs");
        let shipped = source.split("\n#[cfg(test)]\nmod tests {").next();
        let lines = shipped.map_or(0, |shipped| shipped.lines().count());
        if lines > LINES_MAX && !is_test {
            problems.push(format!("{name}: {lines} lines, at most {LINES_MAX}"));
        }
    }
    none(&problems);
}

#[test]
fn nothing_stands_where_it_does_not_belong() {
    let keyword = concat!("un", "safe");
    let is_unsafe = |line: &str| words(line.split("//").next().unwrap_or("")).any(|w| w == keyword);
    let mut problems = findings(&UNSAFE, keyword, is_unsafe);
    let notes = ["FIX ME", "TO DO", "d bg!"].map(|note| note.replace(' ', ""));
    let is_note = |line: &str| notes.iter().any(|note| line.contains(note));
    problems.extend(findings(&[], "left over", is_note));
    let macros = ["pri nt!(", "pri ntln!("].map(|name| name.replace(' ', ""));
    let plain = |line: &str| line.replace(concat!("ep", "rint"), "");
    let prints = |line: &str| macros.iter().any(|name| plain(line).contains(name));
    problems.extend(findings(&PRINTING, "prints", prints));
    none(&problems);
}

#[test]
fn every_api_has_its_handler_file_and_a_test() {
    let sources = files(".rs");
    let dispatch = sources.iter().find(|f| f.0 == "server/src/dispatch.rs");
    let table = dispatch.and_then(|(_, text)| text.split("&[Api] = &[").nth(1));
    let rows = table.and_then(|table| table.split("\n];").next());
    let rows = rows.expect("dispatch.rs has the table");
    let is_test = |name: &str| name.starts_with("tests/broker/") && name != REFUSED_ONLY;
    let mut problems = Vec::new();
    for row in rows.split("key: ApiKey::").skip(1) {
        let api = words(row).next().unwrap_or_default();
        let handler = row.split("handler: ").nth(1).unwrap_or_default();
        let module = words(handler).next().unwrap_or_default();
        let file = format!("server/src/handlers/{module}.rs");
        if !sources.iter().any(|(name, _)| *name == file) {
            problems.push(format!("{api}: no {file}"));
        }
        let request = format!("{api}Request");
        let mut tests = sources.iter().filter(|(name, _)| is_test(name));
        if !tests.any(|(_, text)| words(text).any(|word| word == request)) {
            problems.push(format!("{api}: no test in tests/broker sends it"));
        }
    }
    none(&problems);
}

#[test]
fn no_file_is_large_or_names_a_package_registry() {
    let hosts = "index_crates_io static_crates_io pypi_org pythonhosted_org npmjs_org \
                 proxy_golang_org sum_golang_org repo_maven_apache_org repo1_maven_org";
    let hosts = hosts.replace('_', ".");
    let mut problems = Vec::new();
    for (name, text) in files("") {
        let limit = match name.starts_with("results/") && name.ends_with("/report.html") {
            true => REPORT_BYTES_MAX,
            false => FILE_BYTES_MAX,
        };
        if text.len() > limit {
            problems.push(format!("{name}: more than {limit} bytes"));
        }
        let named = hosts.split(' ').filter(|host| text.contains(*host));
        problems.extend(named.map(|host| format!("{name}: names {host}")));
    }
    none(&problems);
}

#[test]
fn a_measured_number_in_the_readme_links_to_its_evidence() {
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let is_unit = |word: &str| UNITS.split(' ').any(|unit| unit == word);
    let is_measured = |line: &str| {
        let spaced = line.replace('%', " %");
        let marks = |c: char| c.is_whitespace() || "(),;:*|`".contains(c);
        let words = spaced.split(marks).map(|word| word.trim_end_matches('.'));
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        let mut pairs = words.windows(2);
        pairs.any(|pair| is_number(pair[0]) && is_unit(pair[1]))
    };
    let readmes = files("README.md");
    let readme = readmes.iter().find(|(name, _)| name == "README.md");
    let (_, readme) = readme.expect("README.md is there");
    let prose = readme.split("```").step_by(2).flat_map(str::lines);
    let bare = prose.filter(|line| is_measured(line) && !line.contains("](results/"));
    none(&bare.map(str::to_owned).collect::<Vec<_>>());
}
