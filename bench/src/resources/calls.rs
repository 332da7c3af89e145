//! Counts the system calls of a process, if that was asked for: by `perf stat` on the tracepoint.
//!
//! The tracepoint makes every system call of the whole machine slower, so that a run that counts is
//! no run to compare latencies of; therefore it must be asked for. Counting needs `perf` and the right
//! to use tracepoints (root, or kernel.perf_event_paranoid below 0).

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Count;

/// How a count by perf begins to say so.
pub(crate) const PERF: &str = "perf stat";
/// Set once by the command line, before anything is measured.
static REQUESTED: AtomicBool = AtomicBool::new(false);
/// perf opens its counters in a few milliseconds; longer means that it never will.
const PATIENCE: Duration = Duration::from_secs(5);

/// From now on every measurement counts system calls.
pub(crate) fn request_system_calls() {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Whether they are to be counted.
pub(super) fn are_requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// A `perf stat` that counts.
#[derive(Debug)]
pub(super) struct CallCounter {
    child: Child,
    output: PathBuf,
}

impl CallCounter {
    /// Attaches to all threads of a process.
    pub(super) fn start(pid: Option<u32>) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = pid.ok_or("the broker's process is not known (--pid)")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlog-bench-{}-{number}-perf", std::process::id());
        let output = std::env::temp_dir().join(name);
        let child = Command::new("perf")
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p"])
            .arg(pid.to_string())
            .arg("-o")
            .arg(&output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("perf cannot be started: {error}"))?;
        let mut counter = Self { child, output };
        counter.await_attached()?;
        Ok(counter)
    }

    /// It has attached when it holds an event; it shows them in its file descriptors.
    fn await_attached(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        let directory = format!("/proc/{}/fd", self.child.id());
        while begin.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!(
                    "perf ended ({status}): tracepoints need root, or kernel.perf_event_paranoid below 0"
                ));
            }
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            let mut links = entries.flat_map(|entry| fs::read_link(entry.path()));
            if links.any(|link| link.to_string_lossy().contains("[perf_event]")) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(format!(
            "perf did not attach within {} s",
            PATIENCE.as_secs()
        ))
    }

    /// The calls since the start.
    pub(super) fn stop(mut self) -> Count {
        let unavailable = |what: String| Count::Unavailable(what);
        // perf prints its counts when it is interrupted.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && let Err(error) = kill_process(pid, Signal::INT)
        {
            return unavailable(format!("perf cannot be ended: {error}"));
        }
        if let Err(error) = self.child.wait() {
            return unavailable(format!("perf cannot be waited for: {error}"));
        }
        match fs::read_to_string(&self.output) {
            Ok(text) => parse(&text),
            Err(error) => unavailable(format!("perf wrote no counts: {error}")),
        }
    }
}

impl Drop for CallCounter {
    fn drop(&mut self) {
        // Both are gone already after `stop`; after an error nobody else ends them.
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_file(&self.output).ok();
    }
}

/// `COUNT,,raw_syscalls:sys_enter,..`: the first column is no number if it could not be counted.
fn parse(text: &str) -> Count {
    let line = text.lines().find(|line| line.contains("sys_enter"));
    let count = line.and_then(|line| line.split(',').next()?.parse().ok());
    match (count, line) {
        (Some(count), _) => Count::Counted {
            count,
            source: format!("{PERF}, raw_syscalls:sys_enter"),
        },
        (None, Some(line)) => Count::Unavailable(format!("perf says {line}")),
        (None, None) => Count::Unavailable("perf counted nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_prints_is_a_count_or_a_reason() {
        let text = "# started on Mon\n\n4711,,raw_syscalls:sys_enter,1000,100.00,,\n";
        assert_eq!(parse(text).count(), Some(4711));
        let refused = parse("<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n");
        assert!(matches!(&refused, Count::Unavailable(why) if why.contains("not supported")));
        assert!(matches!(parse(""), Count::Unavailable(_)));
    }

    #[test]
    fn a_process_that_is_gone_or_unknown_is_a_reason() {
        for pid in [None, Some(u32::MAX)] {
            let reason = CallCounter::start(pid).unwrap_err();
            assert!(!reason.is_empty(), "{pid:?}");
        }
    }
}
