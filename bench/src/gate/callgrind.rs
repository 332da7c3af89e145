//! Runs a program under valgrind's callgrind and reads what it counted.
//!
//! Instructions are user space's: the kernel's part of a system call is not in them. They repeat to
//! a few in a million as long as the same code paths of libc are taken; those depend on the CPU, so
//! the variants of its copy functions are pinned by `GLIBC_TUNABLES`. Format of the output:
//! valgrind manual, "Callgrind Format Specification".

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// The C library's ways to get memory; Rust's allocator calls them.
const ALLOCATING: [&str; 6] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
];

/// The C library's ways to copy, without the underscores and the variants of a CPU: a copy that the
/// compiler made into moves of its own, and one inside a codec, is not among them.
const COPYING: [&str; 3] = ["memcpy", "memmove", "mempcpy"];

/// One choice of copy functions for all CPUs with AVX2 or without.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2_Usable,-AVX2,-AVX512F_Usable,-AVX512VL,-ERMS,-FSRM,\
                        -Prefer_No_VZEROUPPER:glibc.cpu.x86_non_temporal_threshold=0xc0000:\
                        glibc.malloc.tcache_count=7";

/// What one run counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Instructions of all threads.
    pub(crate) instructions: u64,
    /// Calls of the C library's allocating functions.
    pub(crate) allocations: u64,
    /// Instructions inside the C library's copying functions: copied bytes by another measure, one
    /// for every 5 of them or so where a copy is large.
    pub(crate) copying: u64,
}

/// The difference of two [`Counts`], for one item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PerItem {
    /// Instructions of all threads.
    pub(crate) instructions: f64,
    /// Calls of the C library's allocating functions.
    pub(crate) allocations: f64,
    /// Those of the instructions that copy.
    pub(crate) copying: f64,
}

impl Counts {
    /// What one of `items` costs, if `more` did so many more of them than `self`.
    pub(crate) fn per_item(self, more: Self, items: u64) -> PerItem {
        let per = |less: u64, more: u64| (more as f64 - less as f64) / items as f64;
        PerItem {
            instructions: per(self.instructions, more.instructions),
            allocations: per(self.allocations, more.allocations),
            copying: per(self.copying, more.copying),
        }
    }
}

/// The version of valgrind that is installed; `None` if none is.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("valgrind").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// The words before the program: valgrind with its output in `directory`, in a fixed environment.
pub(crate) fn wrapper(directory: &Path) -> Vec<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    vec![
        "env".to_owned(),
        "-i".to_owned(),
        format!("PATH={path}"),
        format!("GLIBC_TUNABLES={TUNABLES}"),
        "valgrind".to_owned(),
        "--quiet".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", out_file(directory).display()),
    ]
}

fn out_file(directory: &Path) -> PathBuf {
    directory.join("callgrind.out")
}

/// Runs `program` to its end under [`wrapper`].
pub(crate) fn run(
    directory: &Path,
    program: &Path,
    arguments: &[String],
) -> Result<Counts, Failure> {
    let words = wrapper(directory);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(program).args(arguments);
    let output = command.output();
    let output = output.map_err(Failure::system("running valgrind"))?;
    if !output.status.success() {
        return Err(Failure::Target(format!(
            "{command:?} ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    read(directory)
}

/// What the run in `directory` counted.
pub(crate) fn read(directory: &Path) -> Result<Counts, Failure> {
    let path = out_file(directory);
    let text = fs::read_to_string(&path);
    let text = text.map_err(Failure::system(format!("reading {}", path.display())))?;
    parse(&text)
        .ok_or_else(|| Failure::Target(format!("{} is not as callgrind writes it", path.display())))
}

fn parse(text: &str) -> Option<Counts> {
    let mut instructions = None;
    let (mut allocations, mut copying) = (0, 0);
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut callee = "";
    let mut is_copying = false;
    // The line after `calls=` has what the callee cost: that is counted where the callee stands.
    let mut is_callees = false;
    for line in text.lines() {
        if let Some(total) = line.strip_prefix("totals: ") {
            instructions = total.trim().parse().ok();
        } else if let Some(name) = line.strip_prefix("fn=") {
            is_copying = copies(resolve(&mut names, name));
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = resolve(&mut names, name);
        } else if let Some(calls) = line.strip_prefix("calls=") {
            is_callees = true;
            if ALLOCATING.contains(&callee) {
                allocations += calls.split(' ').next()?.parse::<u64>().ok()?;
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            if is_copying && !is_callees {
                // A position, then the cost, which is left out if it is 0.
                let cost = line.split(' ').nth(1).map_or(Ok(0), str::parse::<u64>);
                copying += cost.ok()?;
            }
            is_callees = false;
        }
    }
    Some(Counts {
        instructions: instructions?,
        allocations,
        copying,
    })
}

/// Whether a function of that name copies memory: `__memcpy_avx_unaligned_erms`, `memcpy@@GLIBC_2.14`.
fn copies(name: &str) -> bool {
    let name = name.trim_start_matches('_');
    COPYING.iter().any(|copying| name.starts_with(copying))
}

/// `(12) name` defines a number, `(12)` refers to it.
fn resolve<'a>(names: &mut HashMap<&'a str, &'a str>, field: &'a str) -> &'a str {
    match field.split_once(' ') {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(field).copied().unwrap_or(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_allocating_calls_are_read() {
        let text = "version: 1\nevents: Ir\n\nfn=(1) main\n16 400\ncfn=(2) malloc\ncalls=5 50\n16 90\n\
                    cfn=(3) free\ncalls=7 60\n16 70\nfn=(4) other\n1 1\ncfn=(2)\ncalls=2 50\n1 9\n\
                    totals: 570\n";
        let counts = parse(text).unwrap();
        assert_eq!((counts.instructions, counts.allocations), (570, 7));
        assert_eq!(parse("fn=(1) main\n"), None);
    }

    #[test]
    fn instructions_inside_a_copy_are_read_and_those_of_its_callers_are_not() {
        let text = "fn=(1) main\n16 400\ncfn=(2) __memcpy_avx_unaligned_erms\ncalls=5 50\n16 90\n\
                    fn=(2)\n50 60\n+3 20\n* 10\n-1\ncfn=(3) memmove\ncalls=1 9\n* 1000\n\
                    fn=(4) memcmp\n7 7000\nfn=(3)\nfi=(9) other.c\n9 1000\ntotals: 8490\n";
        assert_eq!(parse(text).unwrap().copying, 90 + 1000);
        assert!(copies("memcpy@@GLIBC_2.14") && copies("__mempcpy_sse2") && !copies("memset"));
    }

    #[test]
    fn the_set_up_is_not_in_what_an_item_costs() {
        let of = |instructions, allocations, copying| Counts {
            instructions,
            allocations,
            copying,
        };
        let item = of(1500, 11, 90).per_item(of(2500, 31, 140), 10);
        let expected = PerItem {
            instructions: 100.0,
            allocations: 2.0,
            copying: 5.0,
        };
        assert_eq!(item, expected);
    }
}
