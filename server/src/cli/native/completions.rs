//! `ringlog completions` and `ringlog man`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::tool::{ToolError, ToolResult, stdout};

/// `ringlog completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell; e.g. `ringlog completions bash > /etc/bash_completion.d/ringlog`
    shell: Shell,
}

/// `ringlog man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory for a page per command; without it, the main page goes to standard output
    dir: Option<PathBuf>,
}

/// Runs `ringlog completions`.
pub(crate) fn run(args: &CompletionsArgs, mut cli: Command) -> ToolResult {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "ringlog", &mut text);
    let mut out = stdout();
    out.write_all(&text)?;
    out.flush()?;
    Ok(())
}

/// Runs `ringlog man`.
pub(crate) fn run_man(args: &ManArgs, cli: Command) -> ToolResult {
    match &args.dir {
        Some(dir) => {
            let made =
                std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(cli, dir));
            made.map_err(|error| ToolError::failed(format!("{}: {error}", dir.display())))
        }
        None => {
            let mut out = stdout();
            clap_mangen::Man::new(cli).render(&mut out)?;
            out.flush()?;
            Ok(())
        }
    }
}
