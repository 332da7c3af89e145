//! The resource BROKER_LOGGER of DescribeConfigs and IncrementalAlterConfigs (KIP-412): the log
//! level, of one logger, `root`. A change acts at once and ends with the process.

use kafka_protocol::ResponseError;
use log::LevelFilter;

use crate::config::keys::KeyType;
use crate::config::settings::{ConfigSource, Described};
use crate::handlers::describe_configs::{Row, check_broker_id};
use crate::metadata::config_change::Operation;
use crate::metadata::controller::Refusal;
use crate::shard::Shard;

const ROOT: &str = "root";
/// `DescribeConfigsResponse.ConfigSource.DYNAMIC_BROKER_LOGGER_CONFIG`.
const SOURCE: i8 = 6;

fn invalid(message: String) -> Refusal {
    Refusal {
        error: ResponseError::InvalidRequest,
        message,
    }
}

fn check_name(shard: &Shard, name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(invalid("Broker id must not be empty".to_owned()));
    }
    check_broker_id(shard, name, "")
}

pub(crate) fn describe(shard: &Shard, name: &str) -> Result<Vec<Row>, Refusal> {
    check_name(shard, name)?;
    let described = Described {
        name: ROOT,
        value: Some(log::max_level().as_str().to_owned()),
        source: ConfigSource::DynamicBroker,
        is_sensitive: false,
        kind: KeyType::String,
        synonyms: Vec::new(),
        documentation: "Lines of this level and above are written.",
    };
    Ok(vec![Row {
        described,
        source: SOURCE,
        is_read_only: false,
    }])
}

pub(crate) fn alter(
    shard: &Shard,
    name: &str,
    operations: &[(String, Operation, String)],
    validate_only: bool,
) -> Result<(), Refusal> {
    check_name(shard, name)?;
    let mut level = None;
    for (logger, operation, value) in operations {
        let refusal = match operation {
            _ if logger != ROOT => format!("Logger {logger} does not exist!"),
            Operation::Set => match parse(value) {
                Some(filter) => {
                    level = Some(filter);
                    continue;
                }
                None => format!(
                    "Cannot set the log level of {ROOT} to {value} as it is not a supported log \
                     level. Valid log levels are DEBUG, ERROR, FATAL, INFO, TRACE, WARN"
                ),
            },
            Operation::Delete => {
                "Removing the log level of the root logger is not allowed".to_owned()
            }
            Operation::Append | Operation::Subtract => {
                format!("{operation:?} operation is not allowed for the BROKER_LOGGER resource")
            }
        };
        let error = match operation {
            Operation::Set => ResponseError::InvalidConfig,
            _ => ResponseError::InvalidRequest,
        };
        return Err(Refusal {
            error,
            message: refusal,
        });
    }
    if let Some(level) = level
        && !validate_only
    {
        log::info!("The log level is now {level}");
        log::set_max_level(level);
    }
    Ok(())
}

/// Kafka's names; FATAL lines are ERROR lines here.
fn parse(text: &str) -> Option<LevelFilter> {
    Some(match text {
        "FATAL" | "ERROR" => LevelFilter::Error,
        "WARN" => LevelFilter::Warn,
        "INFO" => LevelFilter::Info,
        "DEBUG" => LevelFilter::Debug,
        "TRACE" => LevelFilter::Trace,
        _ => return None,
    })
}
