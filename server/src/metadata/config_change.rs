//! A change of the overrides of a topic or of a broker: replaced as a whole (AlterConfigs) or
//! operation by operation (IncrementalAlterConfigs, KIP-339). Pure; it checks what an operation may
//! do to a key of a type, not whether the outcome is valid.
//!
//! Source: Kafka 3.9 `ConfigAdminManager.prepareIncrementalConfigs`.

use kafka_protocol::ResponseError;

use super::controller::Refusal;
use crate::config::keys::{self, KeyType};
use crate::config::topic::{self, Overrides};

/// What a change does to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets the value.
    Set,
    /// Back to the default.
    Delete,
    /// Adds the elements that a list does not have yet.
    Append,
    /// Takes elements out of a list.
    Subtract,
}

impl Operation {
    /// The operation of Kafka's number (`AlterConfigOp.OpType`).
    #[must_use]
    pub fn from_code(code: i8) -> Option<Operation> {
        Some(match code {
            0 => Self::Set,
            1 => Self::Delete,
            2 => Self::Append,
            3 => Self::Subtract,
            _ => return None,
        })
    }
}

/// A change of overrides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// These are all overrides.
    Replace(Overrides),
    /// One operation for each of these keys, with its value (empty for a delete).
    Operations(Vec<(String, Operation, String)>),
}

/// Whose keys are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// A topic's.
    Topic,
    /// A broker's.
    Broker,
}

impl Keys {
    /// Type and Kafka's default of a key.
    fn find(self, name: &str) -> Option<(KeyType, &'static str)> {
        match self {
            Self::Topic => topic::find(name).map(|key| (key.kind, key.default)),
            Self::Broker => keys::find(name).map(|key| (key.kind, key.default.unwrap_or_default())),
        }
    }
}

impl ConfigChange {
    /// The overrides after the change.
    ///
    /// # Errors
    /// INVALID_CONFIG for an operation that the key's type does not have.
    pub fn apply(&self, current: &Overrides, keys: Keys) -> Result<Overrides, Refusal> {
        let operations = match self {
            Self::Replace(overrides) => return Ok(overrides.clone()),
            Self::Operations(operations) => operations,
        };
        let mut overrides = current.clone();
        for (name, operation, value) in operations {
            match operation {
                Operation::Set => {
                    overrides.insert(name.clone(), value.clone());
                }
                Operation::Delete => {
                    overrides.remove(name);
                }
                Operation::Append => {
                    let mut list = list(&overrides, name, keys, "append")?;
                    let new = elements(value).filter(|element| !list.contains(element));
                    let new: Vec<String> = new.collect();
                    list.extend(new);
                    overrides.insert(name.clone(), list.join(","));
                }
                Operation::Subtract => {
                    let mut list = list(&overrides, name, keys, "subtract")?;
                    let gone: Vec<String> = elements(value).collect();
                    list.retain(|element| !gone.contains(element));
                    overrides.insert(name.clone(), list.join(","));
                }
            }
        }
        Ok(overrides)
    }
}

fn elements(text: &str) -> impl Iterator<Item = String> {
    text.split(',')
        .map(|element| element.trim().to_owned())
        .filter(|element| !element.is_empty())
}

/// The list that is set, or Kafka's default.
fn list(
    overrides: &Overrides,
    name: &str,
    keys: Keys,
    operation: &str,
) -> Result<Vec<String>, Refusal> {
    let refuse = |message| {
        Err(Refusal {
            error: ResponseError::InvalidConfig,
            message,
        })
    };
    let Some((kind, default)) = keys.find(name) else {
        return refuse(format!("Unknown config name: {name}"));
    };
    if kind != KeyType::List {
        return refuse(format!(
            "Config value {operation} is not allowed for config key: {name}"
        ));
    }
    let text = overrides.get(name).map_or(default, String::as_str);
    Ok(elements(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(pairs: &[(&str, &str)]) -> Overrides {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn change(name: &str, operation: Operation, value: &str) -> ConfigChange {
        ConfigChange::Operations(vec![(name.to_owned(), operation, value.to_owned())])
    }

    #[test]
    fn each_operation_does_what_it_says() {
        let before = overrides(&[("retention.ms", "1"), ("cleanup.policy", "delete")]);
        let after = |change: ConfigChange| change.apply(&before, Keys::Topic).unwrap();
        let new = overrides(&[("segment.ms", "2")]);
        assert_eq!(after(ConfigChange::Replace(new.clone())), new);
        let set = after(change("retention.ms", Operation::Set, "7"));
        assert_eq!(set["retention.ms"], "7");
        let deleted = after(change("retention.ms", Operation::Delete, ""));
        assert_eq!(deleted, overrides(&[("cleanup.policy", "delete")]));
        for value in ["compact", "compact,delete", " compact "] {
            let appended = after(change("cleanup.policy", Operation::Append, value));
            assert_eq!(appended["cleanup.policy"], "delete,compact");
        }
        let taken = after(change("cleanup.policy", Operation::Subtract, "delete"));
        assert_eq!(taken["cleanup.policy"], "");
    }

    #[test]
    fn a_list_that_is_not_set_begins_with_its_default() {
        let none = Overrides::new();
        let appended = change("cleanup.policy", Operation::Append, "compact");
        let appended = appended.apply(&none, Keys::Topic).unwrap();
        assert_eq!(appended["cleanup.policy"], "delete,compact");
    }

    #[test]
    fn only_lists_are_appended_to() {
        for operation in [Operation::Append, Operation::Subtract] {
            for (name, keys) in [
                ("retention.ms", Keys::Topic),
                ("no.such.key", Keys::Topic),
                ("message.max.bytes", Keys::Broker),
            ] {
                let refused = change(name, operation, "1").apply(&Overrides::new(), keys);
                assert_eq!(refused.unwrap_err().error, ResponseError::InvalidConfig);
            }
        }
    }
}
