//! What every command line tool shares: where it writes, how it fails, how a signal ends it.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Exit;
use crate::client::ClientError;

/// Why a tool failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// What was asked cannot be done.
    #[error("{0}")]
    Failed(String),
    /// A broker said so, or could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A record batch could not be built.
    #[error(transparent)]
    Records(#[from] ringlog_engine::record::BatchError),
    /// Standard output is closed, or a file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ToolError {
    /// A failure that is told in one line.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
}

/// What a tool answers.
pub type ToolResult<T = ()> = Result<T, ToolError>;

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| {
        i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
    })
}

/// Runs a native command: errors are told with their remedy, a closed pipe (`| head`) is no error.
pub fn finish(result: ToolResult) -> Exit {
    match result {
        Ok(()) => Exit::Ok,
        Err(ToolError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => super::fail(&error.to_string()),
    }
}

/// Standard output, buffered unless a person watches.
#[must_use]
pub fn stdout() -> Box<dyn Write> {
    let out = io::stdout();
    if out.is_terminal() {
        Box::new(out.lock())
    } else {
        Box::new(io::BufWriter::with_capacity(64 * 1024, out.lock()))
    }
}

/// Set by SIGINT and SIGTERM; a second one ends the process at once.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the system refuses the handler.
    pub fn listen() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The order matters: the first signal arms what the second one triggers.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Whether it is time to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A table with columns as wide as they need.
pub fn print_table(out: &mut dyn Write, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<_> = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(&widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}
