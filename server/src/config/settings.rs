//! The values that were set, each with its source, in order of precedence: flag, environment,
//! `--override`, file, default.
//!
//! Invariant: every text kept here is a value of its key, so the typed getters cannot fail. What a
//! value means together with others is the business of [`super::BrokerConfig`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keys::{self, Effect, Key, KeyType, Value};
use super::problem::{Level, Place, Problem, masked_line, quoted, sounds_secret};
use super::properties::{self, Entry, Properties, SyntaxError};

/// A key that has a flag of `serve` and an environment variable.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnFlag {
    /// The key it sets.
    pub key: &'static str,
    /// The flag.
    pub flag: &'static str,
    /// The environment variable.
    pub env: &'static str,
}

/// All of them.
pub static OWN_FLAGS: &[OwnFlag] = &[
    own("listeners", "--listen", "RINGLOG_LISTEN"),
    own("ringlog.data.dir", "--data-dir", "RINGLOG_DATA_DIR"),
    own(
        "ringlog.zookeeper.port",
        "--zookeeper-port",
        "RINGLOG_ZOOKEEPER_PORT",
    ),
    own("ringlog.http.listen", "--http", "RINGLOG_HTTP"),
    own("ringlog.cores", "--cores", "RINGLOG_CORES"),
    own("ringlog.io", "--io", "RINGLOG_IO"),
    own("ringlog.durability", "--durability", "RINGLOG_DURABILITY"),
    own(
        "ringlog.journal.bytes",
        "--journal-bytes",
        "RINGLOG_JOURNAL_BYTES",
    ),
    own(
        "ringlog.journal.file.bytes",
        "--journal-file-bytes",
        "RINGLOG_JOURNAL_FILE_BYTES",
    ),
    own(
        "ringlog.shards.as.brokers",
        "--shards-as-brokers",
        "RINGLOG_SHARDS_AS_BROKERS",
    ),
    own(
        "ringlog.open.files.max",
        "--open-files-max",
        "RINGLOG_OPEN_FILES_MAX",
    ),
];

const fn own(key: &'static str, flag: &'static str, env: &'static str) -> OwnFlag {
    OwnFlag { key, flag, env }
}

/// The flag and variable of a key, if it has them.
#[must_use]
pub fn own_flag(key: &str) -> Option<&'static OwnFlag> {
    OWN_FLAGS.iter().find(|own| own.key == key)
}

/// Where values come from, before they are read.
#[derive(Debug, Default)]
pub struct Layers {
    /// Flags of `serve` that were given, by key.
    pub flags: Vec<(&'static str, String)>,
    /// Environment variables; those that are not in [`OWN_FLAGS`] are passed over.
    pub env: Vec<(String, String)>,
    /// `--override key=value`, as given.
    pub overrides: Vec<String>,
    /// The properties file.
    pub file: Option<PathBuf>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag of `serve`.
    Flag(&'static str),
    /// An environment variable.
    Env(&'static str),
    /// `--override`.
    Override,
    /// The properties file.
    File(Place),
    /// A change of this broker while it runs.
    DynamicBroker,
    /// A change of all brokers while they run.
    DynamicDefaultBroker,
    /// Nobody set it.
    Default,
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Flag(name) | Self::Env(name) => (*name).to_owned(),
            Self::Override => "--override".to_owned(),
            Self::File(place) => format!("{}:{}", place.path, place.span.line),
            Self::DynamicBroker => "dynamic".to_owned(),
            Self::DynamicDefaultBroker => "dynamic, of all brokers".to_owned(),
            Self::Default => "default".to_owned(),
        }
    }
}

/// One value of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// As it was written, without surrounding space.
    pub text: String,
    /// As it was read.
    pub value: Value,
    /// Where it came from.
    pub source: Source,
}

/// All values that were set.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Highest precedence first.
    set: BTreeMap<&'static str, Vec<Setting>>,
    /// Defaults that depend on the machine or on how the broker was started.
    settled: BTreeMap<&'static str, Setting>,
    has_file: bool,
}

impl Settings {
    /// Reads all layers; what is wrong with them is appended to `problems`.
    pub fn load(layers: &Layers, problems: &mut Vec<Problem>) -> Self {
        let mut settings = Self {
            has_file: layers.file.is_some(),
            ..Default::default()
        };
        for (key, text) in &layers.flags {
            if let Some(own) = own_flag(key) {
                settings.add(
                    own.key,
                    &listen_text(own, text),
                    Source::Flag(own.flag),
                    problems,
                );
            }
        }
        for own in OWN_FLAGS {
            if let Some((_, text)) = layers.env.iter().find(|(name, _)| name == own.env) {
                settings.add(
                    own.key,
                    &listen_text(own, text),
                    Source::Env(own.env),
                    problems,
                );
            }
        }
        // Of several overrides of one key the last holds, as in Kafka.
        for text in layers.overrides.iter().rev() {
            settings.add_override(text, problems);
        }
        if let Some(path) = &layers.file {
            settings.add_file(path, problems);
        }
        settings.note_ignored(problems);
        settings
    }

    /// These settings with changes made while the broker runs on top: what was set for this broker
    /// goes first, then what was set for all. Values that are none of their key are passed over, so
    /// that a store written by a newer release opens.
    #[must_use]
    pub fn with_dynamic(
        &self,
        all_brokers: &BTreeMap<String, String>,
        this_broker: &BTreeMap<String, String>,
    ) -> Self {
        let mut settings = self.clone();
        let layers = [
            (all_brokers, Source::DynamicDefaultBroker),
            (this_broker, Source::DynamicBroker),
        ];
        for (layer, source) in layers {
            for (name, text) in layer {
                let Some(key) = keys::find(name) else {
                    continue;
                };
                let Ok(value) = key.parse(text) else {
                    continue;
                };
                let setting = Setting {
                    text: text.trim().to_owned(),
                    value,
                    source: source.clone(),
                };
                let all = settings.set.entry(key.name).or_default();
                all.insert(0, setting);
            }
        }
        settings
    }

    /// Whether a properties file was given.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.has_file
    }

    /// The value that holds, if it was set.
    #[must_use]
    pub fn set(&self, key: &str) -> Option<&Setting> {
        self.set.get(key).and_then(|all| all.first())
    }

    /// Every value of a key in order of precedence, the default last.
    #[must_use]
    pub fn all(&self, key: &Key) -> Vec<Setting> {
        let mut all = self.set.get(key.name).cloned().unwrap_or_default();
        all.extend(self.default_of(key));
        all
    }

    /// The value that holds, set or default; `None` is Kafka's null.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Setting> {
        self.set(key.name).cloned().or_else(|| self.default_of(key))
    }

    /// Replaces a key's default by what this start makes of it.
    pub(crate) fn settle(&mut self, name: &'static str, text: &str) {
        if let Some(value) = keys::find(name).and_then(|key| key.parse(text).ok()) {
            let source = Source::Default;
            let text = text.to_owned();
            self.settled.insert(
                name,
                Setting {
                    text,
                    value,
                    source,
                },
            );
        }
    }

    /// The whole number that holds for a key; `None` is null.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.value(name)? {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// The switch that holds for a key; null is false.
    #[must_use]
    pub fn boolean(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Boolean(true))
    }

    /// The text that holds for a key; `None` is null.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn value(&self, name: &str) -> Option<Value> {
        self.get(keys::find(name)?).map(|setting| setting.value)
    }

    fn default_of(&self, key: &Key) -> Option<Setting> {
        if let Some(setting) = self.settled.get(key.name) {
            return Some(setting.clone());
        }
        let text = key.default?;
        Some(Setting {
            text: text.to_owned(),
            value: key.parse(text).ok()?,
            source: Source::Default,
        })
    }

    /// A finding about the value that holds for a key, at its place.
    pub(crate) fn problem(&self, level: Level, key: &str, what: &str, hint: &str) -> Problem {
        match self.set(key).map(|setting| &setting.source) {
            Some(Source::File(place)) => Problem::new(level, what, hint).at(Some(place.clone())),
            Some(Source::Default) | None => Problem::new(level, what, hint),
            Some(source) => Problem::new(level, format!("{what} ({})", source.name()), hint),
        }
    }

    fn add_override(&mut self, text: &str, problems: &mut Vec<Problem>) {
        let Some((name, value)) = text.split_once('=') else {
            let what = format!("--override '{}' has no '='", quoted(text));
            let hint = "write it as --override key=value";
            problems.push(Problem::new(Level::Error, what, hint));
            return;
        };
        match keys::find(name.trim()) {
            Some(key) => self.add(key.name, value, Source::Override, problems),
            None => problems.push(unknown_key(name.trim(), " (--override)", None)),
        }
    }

    fn add_file(&mut self, path: &std::path::Path, problems: &mut Vec<Problem>) {
        let shown = path.display().to_string();
        let parsed = match properties::read_file(path) {
            Ok(bytes) => Properties::parse(&bytes),
            Err(error) => {
                let what = format!("cannot read the configuration {shown}: {error}");
                let hint = "give the path of a properties file, or none for the defaults";
                problems.push(Problem::new(Level::Error, what, hint));
                return;
            }
        };
        match parsed {
            Ok(parsed) => self.add_entries(&shown, &parsed, problems),
            Err(error) => problems.push(syntax_problem(&shown, error)),
        }
    }

    fn add_entries(&mut self, path: &str, parsed: &Properties, problems: &mut Vec<Problem>) {
        // From the last to the first, since in Java the last of several holds.
        let mut found = Vec::new();
        let mut lines: BTreeMap<&str, u32> = BTreeMap::new();
        for entry in parsed.entries.iter().rev() {
            let place = |span| entry_place(path, parsed, entry, span);
            if let Some(line) = lines.get(entry.key.as_str()) {
                let what = format!("key '{}' is set twice", quoted(&entry.key));
                let hint = format!("line {line} holds; remove one");
                let problem = Problem::new(Level::Warn, what, hint);
                found.push(problem.at(Some(place(entry.key_span))));
                continue;
            }
            lines.insert(&entry.key, entry.key_span.line);
            match keys::find(&entry.key) {
                Some(key) => {
                    let source = Source::File(place(entry.value_span));
                    self.add(key.name, &entry.value, source, &mut found);
                }
                None => found.push(unknown_key(&entry.key, "", Some(place(entry.key_span)))),
            }
        }
        found.reverse();
        problems.append(&mut found);
    }

    fn add(&mut self, name: &'static str, text: &str, source: Source, problems: &mut Vec<Problem>) {
        let Some(key) = keys::find(name) else {
            return;
        };
        match key.parse(text) {
            Ok(value) => {
                let text = text.trim().to_owned();
                let setting = Setting {
                    text,
                    value,
                    source,
                };
                self.set.entry(name).or_default().push(setting);
            }
            Err(malformed) => {
                let what = format!("invalid value '{}' for '{name}'", quoted(text.trim()));
                let hint = format!("expected {}", malformed.expected);
                problems.push(match source {
                    Source::File(place) => Problem::new(Level::Error, what, hint).at(Some(place)),
                    other => {
                        let what = format!("{what} ({})", other.name());
                        Problem::new(Level::Error, what, hint)
                    }
                });
            }
        }
    }

    fn note_ignored(&self, problems: &mut Vec<Problem>) {
        for name in self.set.keys() {
            if let Some(Effect::AcceptedIgnored(instead)) = keys::find(name).map(|key| key.effect) {
                let what = format!("'{name}' has no effect");
                problems.push(self.problem(Level::Warn, name, &what, instead));
            }
        }
    }
}

/// `--listen` takes what people type: `9192`, `host:9192`, or the listener in full.
fn listen_text(own: &OwnFlag, text: &str) -> String {
    if own.key != "listeners" {
        return text.to_owned();
    }
    let one = |part: &str| {
        let part = part.trim();
        if part.contains("://") {
            part.to_owned()
        } else if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            format!("PLAINTEXT://127.0.0.1:{part}")
        } else {
            format!("PLAINTEXT://{part}")
        }
    };
    text.split(',').map(one).collect::<Vec<_>>().join(",")
}

fn entry_place(path: &str, parsed: &Properties, entry: &Entry, span: properties::Span) -> Place {
    let is_secret = sounds_secret(&entry.key);
    let line = parsed.line(span.line).unwrap_or_default();
    let line_text = if is_secret && span.line != entry.key_span.line {
        "***".to_owned()
    } else {
        masked_line(line, &entry.key, entry.value_span, entry.key_span.line)
    };
    Place {
        path: path.to_owned(),
        span,
        line_text,
    }
}

fn syntax_problem(path: &str, error: SyntaxError) -> Problem {
    let place = Place {
        path: path.to_owned(),
        span: error.span,
        line_text: match error.line_text.split_once(['=', ':', ' ']) {
            Some((key, _)) if sounds_secret(key) => format!("{key}=***"),
            _ => error.line_text,
        },
    };
    Problem::new(Level::Error, error.what, error.hint).at(Some(place))
}

/// Kafka passes over unknown keys with a line in the log, since plugins bring keys of their own.
fn unknown_key(name: &str, where_text: &str, place: Option<Place>) -> Problem {
    if keys::is_listener_key(name) {
        let what = format!("'{}'{where_text} has no effect", quoted(name));
        let hint = "this release speaks PLAINTEXT without authentication on every listener";
        return Problem::new(Level::Warn, what, hint).at(place);
    }
    let what = format!("unknown key '{}'{where_text}", quoted(name));
    let hint = match keys::nearest(name) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => "Kafka 3.9 has no such key; it changes nothing".to_owned(),
    };
    let mut problem = Problem::new(Level::Warn, what, hint).at(place);
    problem.is_unknown_key = true;
    problem
}

/// Kafka's number for where a value came from (`DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// An override of the topic.
    DynamicTopic = 1,
    /// A change of this broker while it runs.
    DynamicBroker = 2,
    /// A change of all brokers while they run.
    DynamicDefaultBroker = 3,
    /// Flag, environment, `--override` or file.
    StaticBroker = 4,
    /// Nobody set it.
    Default = 5,
}

impl From<&Source> for ConfigSource {
    fn from(source: &Source) -> Self {
        match source {
            Source::Default => Self::Default,
            Source::DynamicBroker => Self::DynamicBroker,
            Source::DynamicDefaultBroker => Self::DynamicDefaultBroker,
            Source::Flag(_) | Source::Env(_) | Source::Override | Source::File(_) => {
                Self::StaticBroker
            }
        }
    }
}

/// One value under one name, as `DescribeConfigs` lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The key's name.
    pub name: &'static str,
    /// Its value; `None` for null and for secrets.
    pub value: Option<String>,
    /// Where it came from.
    pub source: ConfigSource,
}

/// One row of a `DescribeConfigs` answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The key's name.
    pub name: &'static str,
    /// The value that holds; `None` for null and for secrets.
    pub value: Option<String>,
    /// Where it came from.
    pub source: ConfigSource,
    /// Whether the value is a secret.
    pub is_sensitive: bool,
    /// Kafka's type.
    pub kind: KeyType,
    /// All values in order of precedence, the one that holds first.
    pub synonyms: Vec<Synonym>,
    /// One line for people.
    pub documentation: &'static str,
}

/// Keys of one thing in several units, in order of precedence (Kafka's
/// `DynamicBrokerConfig.brokerConfigSynonyms`).
const LESSER_UNITS: &[&[&str]] = &[
    &["log.roll.ms", "log.roll.hours"],
    &["log.roll.jitter.ms", "log.roll.jitter.hours"],
    &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
    &[
        "log.retention.ms",
        "log.retention.minutes",
        "log.retention.hours",
    ],
];

impl Settings {
    /// All broker keys as `DescribeConfigs` shows them, sorted by name.
    #[must_use]
    pub fn describe(&self) -> Vec<Described> {
        keys::KEYS
            .iter()
            .map(|key| self.describe_key(key))
            .collect()
    }

    /// One broker key as `DescribeConfigs` shows it.
    pub(crate) fn describe_key(&self, key: &Key) -> Described {
        let mut synonyms = self.synonyms(key);
        let own = synonyms.first().cloned();
        if own.is_some() {
            // The other units of the same thing, which hold where this key is null.
            let after = LESSER_UNITS.iter().find(|names| names.contains(&key.name));
            let names = after.copied().unwrap_or_default().iter();
            let lesser = names.skip_while(|name| **name != key.name).skip(1);
            let lesser = lesser.filter_map(|name| keys::find(name));
            synonyms.extend(lesser.flat_map(|key| self.synonyms(key)));
            synonyms.sort_by_key(|synonym| synonym.source as i8);
        }
        let holds = own.as_ref();
        Described {
            name: key.name,
            value: holds.and_then(|synonym| synonym.value.clone()),
            source: holds.map_or(ConfigSource::Default, |synonym| synonym.source),
            is_sensitive: key.is_sensitive(),
            kind: key.kind,
            documentation: key.documentation,
            synonyms,
        }
    }

    /// The values of one broker key.
    fn synonyms(&self, key: &Key) -> Vec<Synonym> {
        let synonym = |setting: Setting| Synonym {
            name: key.name,
            value: (!key.is_sensitive()).then_some(setting.text),
            source: ConfigSource::from(&setting.source),
        };
        // Kafka lists one static value, however many places set it.
        let mut all: Vec<Synonym> = self.all(key).into_iter().map(synonym).collect();
        all.dedup_by_key(|synonym| synonym.source);
        all
    }
}
