//! `ringlog configs`.

use std::io::Write;

use clap::Args;

use super::ServerArgs;
use crate::cli::kafka::configs::source_name;
use crate::cli::tool::{ToolError, ToolResult, print_table, stdout};
use crate::client::admin::{BROKER_RESOURCE, ConfigChange, TOPIC_RESOURCE};

/// `ringlog configs`.
#[derive(Debug, Args)]
pub(crate) struct ConfigsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// A topic; with --broker, the id of a broker
    name: String,
    /// The name is a broker's id
    #[arg(long)]
    broker: bool,
    /// Defaults, too
    #[arg(short, long)]
    all: bool,
    /// Set a key; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Back to the default; may be repeated
    #[arg(short, long, value_name = "KEY")]
    unset: Vec<String>,
}

/// Runs it.
pub(crate) fn run(args: &ConfigsArgs) -> ToolResult {
    let resource_type = if args.broker {
        BROKER_RESOURCE
    } else {
        TOPIC_RESOURCE
    };
    let mut changes = Vec::new();
    for pair in &args.set {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(ToolError::failed(format!("'{pair}': give it as KEY=VALUE")));
        };
        changes.push(ConfigChange::Set(key.to_owned(), value.to_owned()));
    }
    changes.extend(args.unset.iter().cloned().map(ConfigChange::Delete));
    let mut client = args.server.connect()?;
    if !changes.is_empty() {
        client.alter_configs(resource_type, &args.name, &changes)?;
    }
    let mut configs = client.describe_configs(resource_type, &args.name)?;
    configs.retain(|config| args.all || !config.is_default);
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<_> = configs
        .iter()
        .map(|config| {
            let value = match (config.is_sensitive, &config.value) {
                (true, _) => "(hidden)".to_owned(),
                (false, value) => value.as_deref().unwrap_or("").to_owned(),
            };
            vec![
                config.name.to_string(),
                value,
                source_name(config.config_source).to_lowercase(),
            ]
        })
        .collect();
    let mut out = stdout();
    if rows.is_empty() {
        writeln!(
            out,
            "{} has no config of its own (--all shows the defaults)",
            args.name
        )?;
    } else {
        print_table(&mut out, &["KEY", "VALUE", "FROM"], &rows)?;
    }
    out.flush()?;
    Ok(())
}
