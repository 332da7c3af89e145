//! `ringlog dump`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::kafka::dump_log::{DumpOptions, dump_file};
use crate::cli::tool::{ToolError, ToolResult, stdout};

/// `ringlog dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Segments, indexes, snapshots, or directories of partitions
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Records with key and value
    #[arg(short, long)]
    records: bool,
    /// Most bytes of a segment
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
}

/// Runs it.
pub(crate) fn run(args: &DumpArgs) -> ToolResult {
    let options = DumpOptions {
        deep: args.records,
        content: args.records,
        bytes_max: args.max_bytes,
        ..DumpOptions::default()
    };
    let mut out = stdout();
    for file in &args.files {
        for file in expand(file)? {
            dump_file(&file, options, &mut out)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The files of a directory that a dump can show, in order.
fn expand(path: &Path) -> ToolResult<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error| ToolError::failed(format!("{}: {error}", path.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let suffix = file.extension().and_then(|suffix| suffix.to_str());
        if matches!(
            suffix,
            Some("log" | "index" | "timeindex" | "txnindex" | "snapshot")
        ) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
