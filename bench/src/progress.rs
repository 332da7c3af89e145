//! How far a load is, while it runs: one line that renews itself on a terminal, plain lines otherwise.
//!
//! On standard error, so that results stay clean. A task of its own looks at counters that are kept
//! anyway; the hot path knows nothing of it. Pipes get a line each ten seconds.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::phase::{Phase, Position};

const TERMINAL_EVERY: Duration = Duration::from_millis(250);
const PIPE_EVERY: Duration = Duration::from_secs(10);
const BAR: usize = 30;

thread_local! {
    /// What is running and what it does; phases come and go under one name.
    static CURRENT: std::cell::RefCell<Option<Rc<Phase>>> = const { std::cell::RefCell::new(None) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Nothing is told from now on.
pub(crate) fn be_quiet() {
    QUIET.set(true);
}

/// The phase that is told about; called once when it begins.
pub(crate) fn follow(phase: &Rc<Phase>) {
    CURRENT.with_borrow_mut(|current| *current = Some(Rc::clone(phase)));
}

/// Tells until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    task: Option<JoinHandle<()>>,
    is_terminal: bool,
}

impl Progress {
    /// Of what is called `name`.
    pub(crate) fn begin(name: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        if QUIET.get() {
            return Self {
                task: None,
                is_terminal: false,
            };
        }
        let every = if is_terminal {
            TERMINAL_EVERY
        } else {
            PIPE_EVERY
        };
        let task = tokio::task::spawn_local(async move {
            let mut before = (Instant::now(), 0);
            loop {
                tokio::time::sleep(every).await; // the pace of the lines
                let phase = CURRENT.with_borrow(Clone::clone);
                let Some(position) = phase.map(|phase| phase.position()) else {
                    continue;
                };
                let now = Instant::now();
                let done = position.answered.saturating_sub(before.1);
                let rate = done as f64 / (now - before.0).as_secs_f64();
                before = (now, position.answered);
                let line = line(name, &position, rate);
                if is_terminal {
                    tell(&format!("\r{line}\x1b[K"));
                } else {
                    tell(&format!("{line}\n"));
                }
            }
        });
        Self {
            task: Some(task),
            is_terminal,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            if self.is_terminal {
                tell("\r\x1b[K");
            }
        }
        CURRENT.with_borrow_mut(|current| *current = None);
    }
}

fn line(name: &str, position: &Position, rate: f64) -> String {
    let bar = position.share.map_or(String::new(), |share| {
        let full = (share.clamp(0.0, 1.0) * BAR as f64) as usize;
        format!(
            "[{}{}] {:>3.0} %  ",
            "#".repeat(full),
            "-".repeat(BAR - full),
            share.clamp(0.0, 1.0) * 100.0
        )
    });
    format!(
        "{name:<9} {bar}{} requests, {rate:.0}/s, {} in flight, {:.0} s",
        position.answered,
        position.in_flight,
        position.elapsed.as_secs_f64()
    )
}

/// Best effort: who closed standard error wants no progress.
fn tell(text: &str) {
    let mut out = std::io::stderr().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut position = Position {
            answered: 500,
            in_flight: 4,
            elapsed: Duration::from_secs(2),
            share: Some(0.5),
        };
        let text = line("produce", &position, 250.0);
        assert!(text.starts_with("produce   [###############---"), "{text}");
        assert!(
            text.contains(" 50 %  500 requests, 250/s, 4 in flight, 2 s"),
            "{text}"
        );
        position.share = None;
        assert!(!line("produce", &position, 0.0).contains('['));
    }
}
