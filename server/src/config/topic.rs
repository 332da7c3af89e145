//! Topic-level configuration: Kafka's topic keys, their defaults from the broker's configuration,
//! and their validation with Kafka's words for `INVALID_CONFIG`.
//!
//! Sources: Kafka 3.9 `LogConfig` (types, bounds) and `ServerTopicConfigSynonyms` (which broker key
//! backs which topic key, with its unit). It stores no overrides; who owns a topic hands them in.

use std::collections::BTreeMap;
use std::fmt;

use super::keys::{self, Effect, KeyType, Malformed, Rule, Unit, Value};
use super::settings::{ConfigSource, Described, Settings, Synonym};

/// A broker key that backs a topic key, and the factor from its unit to the topic key's.
pub type BrokerSynonym = (&'static str, i64);

/// One topic key.
#[derive(Debug)]
pub struct TopicKey {
    /// Kafka's name.
    pub name: &'static str,
    /// Kafka's type.
    pub kind: KeyType,
    /// What a number counts.
    pub unit: Unit,
    /// Values that are taken.
    pub rule: Rule,
    /// Broker keys that give its default, the first that is not null; empty if there is none.
    pub synonyms: &'static [BrokerSynonym],
    /// The default if no broker key gives one.
    pub default: &'static str,
    /// One line for people.
    pub documentation: &'static str,
}

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Braces at the call keep rustfmt away, so that a key stays a line.
macro_rules! table {
    ($([$name:literal, $kind:ident, $unit:ident, $rule:expr, [$($synonym:expr),*], $default:literal, $doc:literal],)*) => {
        &[$(TopicKey {
            name: $name,
            kind: KeyType::$kind,
            unit: Unit::$unit,
            rule: $rule,
            synonyms: &[$($synonym),*],
            default: $default,
            documentation: $doc,
        }),*]
    };
}

const CODECS: Rule = Rule::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]);

/// All topic keys of Kafka 3.9, sorted by name.
pub static KEYS: &[TopicKey] = table! {
    ["cleanup.policy", List, Plain, Rule::OneOf(&["compact", "delete"]), [("log.cleanup.policy", 1)], "delete", "What happens to old segments: delete, compact or both."],
    ["compression.gzip.level", Int, Plain, Rule::Any, [("compression.gzip.level", 1)], "-1", "Level of gzip when the broker compresses."],
    ["compression.lz4.level", Int, Plain, Rule::Between(1, 17), [("compression.lz4.level", 1)], "9", "Level of lz4 when the broker compresses."],
    ["compression.type", String, Plain, CODECS, [("compression.type", 1)], "producer", "Codec of stored batches; 'producer' stores them as they came and is the one that acts here."],
    ["compression.zstd.level", Int, Plain, Rule::Between(-131072, 22), [("compression.zstd.level", 1)], "3", "Level of zstd when the broker compresses."],
    ["delete.retention.ms", Long, Ms, Rule::AtLeast(0), [("log.cleaner.delete.retention.ms", 1)], "86400000", "How long a compacted topic keeps its tombstones."],
    ["file.delete.delay.ms", Long, Ms, Rule::AtLeast(0), [("log.segment.delete.delay.ms", 1)], "60000", "Wait between renaming a segment to .deleted and removing it."],
    ["flush.messages", Long, Plain, Rule::AtLeast(1), [("log.flush.interval.messages", 1)], "9223372036854775807", "Sync the log to disk after so many messages."],
    ["flush.ms", Long, Ms, Rule::AtLeast(0), [("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)], "9223372036854775807", "Sync the log to disk after so long."],
    ["follower.replication.throttled.replicas", List, Plain, Rule::Any, [], "", "Replicas whose copying is throttled at the follower."],
    ["index.interval.bytes", Int, Bytes, Rule::AtLeast(0), [("log.index.interval.bytes", 1)], "4096", "Bytes of a log between two index entries."],
    ["leader.replication.throttled.replicas", List, Plain, Rule::Any, [], "", "Replicas whose copying is throttled at the leader."],
    ["local.retention.bytes", Long, Bytes, Rule::AtLeast(-2), [("log.local.retention.bytes", 1)], "-2", "Bytes kept locally of a tiered log."],
    ["local.retention.ms", Long, Ms, Rule::AtLeast(-2), [("log.local.retention.ms", 1)], "-2", "Time for which a tiered log is kept locally."],
    ["max.compaction.lag.ms", Long, Ms, Rule::AtLeast(1), [("log.cleaner.max.compaction.lag.ms", 1)], "9223372036854775807", "Longest time a record may stay uncompacted."],
    ["max.message.bytes", Int, Bytes, Rule::AtLeast(0), [("message.max.bytes", 1)], "1048588", "Largest record batch that is taken."],
    ["message.downconversion.enable", Boolean, Plain, Rule::Any, [("log.message.downconversion.enable", 1)], "true", "Convert batches for clients of old versions."],
    ["message.format.version", String, Plain, Rule::Any, [("log.message.format.version", 1)], "3.0-IV1", "Format of stored messages, of old brokers."],
    ["message.timestamp.after.max.ms", Long, Ms, Rule::AtLeast(0), [("log.message.timestamp.after.max.ms", 1)], "9223372036854775807", "How far a record's timestamp may lie in the future."],
    ["message.timestamp.before.max.ms", Long, Ms, Rule::AtLeast(0), [("log.message.timestamp.before.max.ms", 1)], "9223372036854775807", "How far a record's timestamp may lie in the past."],
    ["message.timestamp.difference.max.ms", Long, Ms, Rule::AtLeast(0), [("log.message.timestamp.difference.max.ms", 1)], "9223372036854775807", "Old spelling of the two bounds before.max.ms and after.max.ms."],
    ["message.timestamp.type", String, Plain, Rule::OneOf(&["CreateTime", "LogAppendTime"]), [("log.message.timestamp.type", 1)], "CreateTime", "Whether a record carries its producer's time or the time of append."],
    ["min.cleanable.dirty.ratio", Double, Plain, Rule::Ratio, [("log.cleaner.min.cleanable.ratio", 1)], "0.5", "Dirty part of a log at which it is compacted."],
    ["min.compaction.lag.ms", Long, Ms, Rule::AtLeast(0), [("log.cleaner.min.compaction.lag.ms", 1)], "0", "Shortest time a record stays uncompacted."],
    ["min.insync.replicas", Int, Plain, Rule::AtLeast(1), [("min.insync.replicas", 1)], "1", "Replicas in sync that acks=all asks for."],
    ["preallocate", Boolean, Plain, Rule::Any, [("log.preallocate", 1)], "false", "Reserve a segment's full size when it is made."],
    ["remote.log.copy.disable", Boolean, Plain, Rule::Any, [], "false", "Stop copying segments to tiered storage."],
    ["remote.log.delete.on.disable", Boolean, Plain, Rule::Any, [], "false", "Delete the tiered part of a log when tiering is turned off."],
    ["remote.storage.enable", Boolean, Plain, Rule::Any, [], "false", "Keep old segments in tiered storage."],
    ["retention.bytes", Long, Bytes, Rule::Any, [("log.retention.bytes", 1)], "-1", "Size at which a partition's oldest segments are deleted; -1 means no bound."],
    ["retention.ms", Long, Ms, Rule::AtLeast(-1), [("log.retention.ms", 1), ("log.retention.minutes", MINUTE_MS), ("log.retention.hours", HOUR_MS)], "604800000", "Age at which segments are deleted; -1 means never."],
    ["segment.bytes", Int, Bytes, Rule::AtLeast(14), [("log.segment.bytes", 1)], "1073741824", "Size at which a new segment starts."],
    ["segment.index.bytes", Int, Bytes, Rule::AtLeast(4), [("log.index.size.max.bytes", 1)], "10485760", "Largest offset index of a segment."],
    ["segment.jitter.ms", Long, Ms, Rule::AtLeast(0), [("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)], "0", "Random part taken off segment.ms."],
    ["segment.ms", Long, Ms, Rule::AtLeast(1), [("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)], "604800000", "Age at which a new segment starts."],
    ["unclean.leader.election.enable", Boolean, Plain, Rule::Any, [("unclean.leader.election.enable", 1)], "false", "Let a replica that is behind become leader."],
};

/// Overrides of a topic, by name.
pub type Overrides = BTreeMap<String, String>;

/// The message of an `INVALID_CONFIG` answer, in Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidConfig(pub String);

/// `message.timestamp.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// A record carries its producer's time.
    CreateTime,
    /// A record carries the time of its append.
    LogAppendTime,
}

/// `compression.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer sent it.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// `cleanup.policy`; neither keeps everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Delete old segments.
    pub delete: bool,
    /// Keep the last record of each key.
    pub compact: bool,
}

/// What holds for one topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `compression.type`.
    pub compression_type: CompressionType,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `file.delete.delay.ms`.
    pub file_delete_delay_ms: i64,
    /// `flush.messages`; `i64::MAX` means never.
    pub flush_messages: i64,
    /// `flush.ms`; `i64::MAX` means never.
    pub flush_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `max.message.bytes`.
    pub max_message_bytes: u32,
    /// `message.downconversion.enable`.
    pub message_downconversion_enable: bool,
    /// `message.timestamp.after.max.ms`.
    pub message_timestamp_after_max_ms: i64,
    /// `message.timestamp.before.max.ms`.
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
    /// `preallocate`.
    pub preallocate: bool,
    /// `retention.bytes`; `None` means no bound.
    pub retention_bytes: Option<u64>,
    /// `retention.ms`; `None` means for ever.
    pub retention_ms: Option<i64>,
    /// `segment.bytes`.
    pub segment_bytes: u32,
    /// `segment.index.bytes`.
    pub segment_index_bytes: u32,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election_enable: bool,
}

/// The topic key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static TopicKey> {
    let index = KEYS.binary_search_by(|key| key.name.cmp(name)).ok()?;
    KEYS.get(index)
}

/// The known name most like `name`, if one is near enough to be meant.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    keys::nearest_of(name, KEYS.iter().map(|key| key.name))
}

/// What `ringlog config explain KEY` prints.
impl fmt::Display for TopicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.synonyms.iter().map(|(name, _)| *name).collect();
        writeln!(f, "{} (topic)", self.name)?;
        keys::explain_body(f, &self.facts())?;
        if !names.is_empty() {
            writeln!(f, "  from     {}", names.join(", "))?;
        }
        Ok(())
    }
}

impl TopicKey {
    fn facts(&self) -> keys::Facts {
        keys::Facts {
            kind: self.kind,
            unit: self.unit,
            rule: self.rule,
            default: Some(self.default),
            effect: self.effect(),
            documentation: self.documentation,
        }
    }

    /// What setting it does; as its broker key does.
    #[must_use]
    pub fn effect(&self) -> Effect {
        let broker = self.synonyms.first();
        let broker = broker.and_then(|(name, _)| keys::find(name));
        broker.map_or(
            Effect::AcceptedIgnored("there is one node and no tiered storage"),
            |key| key.effect,
        )
    }

    fn parse(&self, text: &str) -> Result<Value, InvalidConfig> {
        let invalid = |malformed: Malformed| {
            let reason = malformed.kafka_reason;
            let text = text.trim();
            InvalidConfig(format!(
                "Invalid value {text} for configuration {}: {reason}",
                self.name
            ))
        };
        keys::parse(self.kind, self.rule, text).map_err(invalid)
    }

    /// The texts that back this key from the broker's configuration, in order of precedence: as Kafka
    /// describes the first of its broker keys, so none where that one is null (`ConfigHelper`, 3.9).
    fn broker_synonyms(&self, broker: &Settings) -> Vec<Synonym> {
        let first = self.synonyms.first();
        let key = first.and_then(|(name, _)| keys::find(name));
        key.map_or_else(Vec::new, |key| broker.describe_key(key).synonyms)
    }

    /// The default that the broker's configuration gives, in this key's unit.
    fn broker_default(&self, broker: &Settings) -> (String, ConfigSource) {
        for (name, factor) in self.synonyms {
            let Some(setting) = keys::find(name).and_then(|key| broker.get(key)) else {
                continue;
            };
            let text = match setting.value {
                // Negative retention times of any unit and size mean "for ever" (KafkaConfig
                // logRetentionTimeMillis, 3.9).
                Value::Integer(number) if number < 0 && self.unit == Unit::Ms && *factor > 1 => {
                    "-1".to_owned()
                }
                Value::Integer(number) => number.saturating_mul(*factor).to_string(),
                _ => setting.text,
            };
            return (text, ConfigSource::from(&setting.source));
        }
        (self.default.to_owned(), ConfigSource::Default)
    }
}

/// Checks overrides as CreateTopics and AlterConfigs must: names, values, and how they fit together.
///
/// # Errors
/// Kafka's message for the first thing that is wrong.
pub fn validate(broker: &Settings, overrides: &Overrides) -> Result<TopicConfig, InvalidConfig> {
    for name in overrides.keys() {
        if find(name).is_none() {
            return Err(InvalidConfig(format!("Unknown topic config name: {name}")));
        }
    }
    let config = TopicConfig::resolve(broker, overrides)?;
    let (min, max) = (config.min_compaction_lag_ms, config.max_compaction_lag_ms);
    if min > max {
        return Err(InvalidConfig(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"
        )));
    }
    let tiered = overrides.get("remote.storage.enable");
    if tiered.is_some_and(|text| text.trim().eq_ignore_ascii_case("true")) {
        return Err(InvalidConfig(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured \
             with remote log storage."
                .to_owned(),
        ));
    }
    Ok(config)
}

/// Reads every key of one topic, in order to fill [`TopicConfig`].
struct Reader<'a> {
    broker: &'a Settings,
    overrides: &'a Overrides,
}

impl Reader<'_> {
    fn value(&self, name: &str) -> Result<Value, InvalidConfig> {
        let unknown = || InvalidConfig(format!("Unknown topic config name: {name}"));
        let key = find(name).ok_or_else(unknown)?;
        match self.overrides.get(name) {
            Some(text) => key.parse(text),
            None => key.parse(&key.broker_default(self.broker).0),
        }
    }

    fn long(&self, name: &str) -> Result<i64, InvalidConfig> {
        match self.value(name)? {
            Value::Integer(number) => Ok(number),
            other => Err(self.wrong(name, &other)),
        }
    }

    fn size(&self, name: &str) -> Result<u32, InvalidConfig> {
        let number = self.long(name)?;
        u32::try_from(number).map_err(|_| self.wrong(name, &Value::Integer(number)))
    }

    fn boolean(&self, name: &str) -> Result<bool, InvalidConfig> {
        Ok(self.value(name)? == Value::Boolean(true))
    }

    fn text(&self, name: &str) -> Result<String, InvalidConfig> {
        match self.value(name)? {
            Value::Text(text) => Ok(text),
            other => Err(self.wrong(name, &other)),
        }
    }

    fn ratio(&self, name: &str) -> Result<f64, InvalidConfig> {
        match self.value(name)? {
            Value::Double(number) => Ok(number),
            other => Err(self.wrong(name, &other)),
        }
    }

    fn has(&self, name: &str, word: &str) -> Result<bool, InvalidConfig> {
        let value = self.value(name)?;
        Ok(matches!(value, Value::List(list) if list.iter().any(|element| element == word)))
    }

    fn wrong(&self, name: &str, value: &Value) -> InvalidConfig {
        InvalidConfig(format!("Invalid value {value:?} for configuration {name}"))
    }
}

impl TopicConfig {
    /// What holds for a topic with these overrides. Unknown names are passed over, so that a store
    /// written by a newer release opens.
    ///
    /// # Errors
    /// Kafka's message for the first value that is malformed.
    pub fn resolve(broker: &Settings, overrides: &Overrides) -> Result<Self, InvalidConfig> {
        let reader = Reader { broker, overrides };
        for key in KEYS {
            reader.value(key.name)?;
        }
        Ok(Self {
            cleanup_policy: CleanupPolicy {
                delete: reader.has("cleanup.policy", "delete")?,
                compact: reader.has("cleanup.policy", "compact")?,
            },
            compression_type: match reader.text("compression.type")?.as_str() {
                "uncompressed" => CompressionType::Uncompressed,
                "gzip" => CompressionType::Gzip,
                "snappy" => CompressionType::Snappy,
                "lz4" => CompressionType::Lz4,
                "zstd" => CompressionType::Zstd,
                _ => CompressionType::Producer,
            },
            delete_retention_ms: reader.long("delete.retention.ms")?,
            file_delete_delay_ms: reader.long("file.delete.delay.ms")?,
            flush_messages: reader.long("flush.messages")?,
            flush_ms: reader.long("flush.ms")?,
            index_interval_bytes: reader.size("index.interval.bytes")?,
            max_compaction_lag_ms: reader.long("max.compaction.lag.ms")?,
            max_message_bytes: reader.size("max.message.bytes")?,
            message_downconversion_enable: reader.boolean("message.downconversion.enable")?,
            message_timestamp_after_max_ms: reader.long("message.timestamp.after.max.ms")?,
            message_timestamp_before_max_ms: reader.long("message.timestamp.before.max.ms")?,
            message_timestamp_type: match reader.text("message.timestamp.type")?.as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            min_cleanable_dirty_ratio: reader.ratio("min.cleanable.dirty.ratio")?,
            min_compaction_lag_ms: reader.long("min.compaction.lag.ms")?,
            min_insync_replicas: i32::try_from(reader.long("min.insync.replicas")?)
                .unwrap_or(i32::MAX),
            preallocate: reader.boolean("preallocate")?,
            retention_bytes: u64::try_from(reader.long("retention.bytes")?).ok(),
            retention_ms: Some(reader.long("retention.ms")?).filter(|ms| *ms >= 0),
            segment_bytes: reader.size("segment.bytes")?,
            segment_index_bytes: reader.size("segment.index.bytes")?,
            segment_jitter_ms: reader.long("segment.jitter.ms")?,
            segment_ms: reader.long("segment.ms")?,
            unclean_leader_election_enable: reader.boolean("unclean.leader.election.enable")?,
        })
    }
}

/// All topic keys as `DescribeConfigs` shows them, sorted by name.
#[must_use]
pub fn describe(broker: &Settings, overrides: &Overrides) -> Vec<Described> {
    let describe_key = |key: &TopicKey| {
        let mut synonyms = key.broker_synonyms(broker);
        let (mut value, mut source) = key.broker_default(broker);
        if let Some(text) = overrides.get(key.name) {
            value.clone_from(text);
            source = ConfigSource::DynamicTopic;
            let synonym = Synonym {
                name: key.name,
                value: Some(text.clone()),
                source,
            };
            synonyms.insert(0, synonym);
        }
        Described {
            name: key.name,
            value: Some(value),
            source,
            is_sensitive: false,
            kind: key.kind,
            synonyms,
            documentation: key.documentation,
        }
    };
    KEYS.iter().map(describe_key).collect()
}

#[cfg(test)]
mod tests;
