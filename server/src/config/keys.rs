//! Every broker key that Apache Kafka 3.9 and Ringlog know, in one table: name, type, unit, default,
//! rule, effect and a line of documentation.
//!
//! The table serves the parser of `server.properties`, `DescribeConfigs` and `ringlog config
//! explain` alike, so these cannot disagree. Names, types, defaults and bounds are Kafka 3.9's
//! `KafkaConfig.configDef()`; where a default differs on purpose, the documentation says so.
//! What it does not do: know values that are set (see `settings`) or how they depend on each other.

mod table;

use std::fmt;

pub use table::KEYS;

/// Kafka's type of a key (`ConfigDef.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `true` or `false`, in any case.
    Boolean,
    /// 16-bit integer.
    Short,
    /// 32-bit integer.
    Int,
    /// 64-bit integer.
    Long,
    /// Floating point.
    Double,
    /// Text.
    String,
    /// Texts with commas between.
    List,
    /// Name of a Java class.
    Class,
    /// Text that is never shown.
    Password,
}

impl KeyType {
    /// Kafka's name, as its error messages print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::Short => "SHORT",
            Self::Int => "INT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::String => "STRING",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }

    /// The number that `DescribeConfigs` v3+ sends (`DescribeConfigsResponse.ConfigType`).
    #[must_use]
    pub fn wire_code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
            Self::Class => 8,
            Self::Password => 9,
        }
    }
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// No unit, or not a number.
    Plain,
    /// Milliseconds.
    Ms,
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Hours.
    Hours,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The unit's name, empty for [`Unit::Plain`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Ms => "ms",
            Self::Seconds => "seconds",
            Self::Minutes => "minutes",
            Self::Hours => "hours",
            Self::Bytes => "bytes",
        }
    }
}

/// Which values of its type a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// All of them.
    Any,
    /// Numbers from this one on.
    AtLeast(i64),
    /// Numbers from the first to the second, both included.
    Between(i64, i64),
    /// Numbers from 0 to 1.
    Ratio,
    /// One of these words; for a list, each element is one of them.
    OneOf(&'static [&'static str]),
}

/// What setting a key does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what its documentation says.
    Acts,
    /// It is read and shown, and changes nothing; the text says what happens instead.
    AcceptedIgnored(&'static str),
}

/// One row of the table.
#[derive(Debug)]
pub struct Key {
    /// Kafka's name.
    pub name: &'static str,
    /// Kafka's type.
    pub kind: KeyType,
    /// What a number counts.
    pub unit: Unit,
    /// The default as Kafka 3.9 prints it; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// Values that are taken.
    pub rule: Rule,
    /// What setting it does.
    pub effect: Effect,
    /// One line for people.
    pub documentation: &'static str,
}

/// A value of its key's type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a boolean key.
    Boolean(bool),
    /// Of a short, int or long key; within the bounds of the type.
    Integer(i64),
    /// Of a double key.
    Double(f64),
    /// Of a string, class or password key.
    Text(String),
    /// Of a list key.
    List(Vec<String>),
}

/// Why a text is no value of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Kafka's reason, as after the last colon of its `ConfigException`.
    pub kafka_reason: String,
    /// What would be right, for people: "a whole number from 1 to 17".
    pub expected: String,
}

/// The key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    let index = KEYS.binary_search_by(|key| key.name.cmp(name)).ok()?;
    KEYS.get(index)
}

/// The known name most like `name`, if one is near enough to be meant.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    nearest_of(name, KEYS.iter().map(|key| key.name))
}

/// The candidate most like `name`; ties go to the first. Names longer than any key are not compared,
/// since the comparison's cost grows with the length.
pub(crate) fn nearest_of(
    name: &str,
    candidates: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    const NAME_CHARS_MAX: usize = 128;
    const SIMILARITY_MIN: f64 = 0.75;
    if name.chars().count() > NAME_CHARS_MAX {
        return None;
    }
    let lower = name.to_lowercase();
    let mut best: Option<(f64, &'static str)> = None;
    for candidate in candidates {
        let similarity = strsim::normalized_damerau_levenshtein(&lower, candidate);
        if similarity >= SIMILARITY_MIN && best.is_none_or(|(most, _)| similarity > most) {
            best = Some((similarity, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Keys that exist under a prefix for each listener, so that the table cannot list them.
#[must_use]
pub fn is_listener_key(name: &str) -> bool {
    name.strip_prefix("listener.name.")
        .is_some_and(|rest| rest.contains('.'))
}

impl Key {
    /// Whether the value is a secret, to be sent as null and printed nowhere.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.kind == KeyType::Password
    }

    /// Reads a value as Kafka's `ConfigDef.parseType` does: surrounding space is cut first.
    ///
    /// # Errors
    /// The reason, in Kafka's words and in ours.
    pub fn parse(&self, text: &str) -> Result<Value, Malformed> {
        parse(self.kind, self.rule, text)
    }

    /// What a value looks like: "a whole number of at least 1".
    #[must_use]
    pub fn expected(&self) -> String {
        expected(self.kind, self.rule)
    }
}

/// Reads a value of a type under a rule; the topic keys share it.
pub(crate) fn parse(kind: KeyType, rule: Rule, text: &str) -> Result<Value, Malformed> {
    let text = text.trim();
    let malformed = |kafka_reason: String| Malformed {
        kafka_reason,
        expected: expected(kind, rule),
    };
    let not_a_number = || malformed(format!("Not a number of type {}", kind.name()));
    let value = match kind {
        KeyType::Boolean if text.eq_ignore_ascii_case("true") => Value::Boolean(true),
        KeyType::Boolean if text.eq_ignore_ascii_case("false") => Value::Boolean(false),
        KeyType::Boolean => {
            return Err(malformed(
                "Expected value to be either true or false".to_owned(),
            ));
        }
        KeyType::Short => Value::Integer(text.parse::<i16>().map_err(|_| not_a_number())?.into()),
        KeyType::Int => Value::Integer(text.parse::<i32>().map_err(|_| not_a_number())?.into()),
        KeyType::Long => Value::Integer(text.parse::<i64>().map_err(|_| not_a_number())?),
        KeyType::Double => Value::Double(text.parse::<f64>().map_err(|_| not_a_number())?),
        KeyType::List if text.is_empty() => Value::List(Vec::new()),
        KeyType::List => Value::List(text.split(',').map(|part| part.trim().to_owned()).collect()),
        KeyType::String | KeyType::Class | KeyType::Password => Value::Text(text.to_owned()),
    };
    check(rule, &value).map_err(malformed)?;
    Ok(value)
}

/// Kafka's validators; the error is the reason in Kafka's words.
fn check(rule: Rule, value: &Value) -> Result<(), String> {
    let word = |word: &str, words: &[&str]| {
        if words.contains(&word) {
            Ok(())
        } else {
            Err(format!("String must be one of: {}", words.join(", ")))
        }
    };
    match (rule, value) {
        (Rule::AtLeast(min) | Rule::Between(min, _), Value::Integer(number)) if *number < min => {
            Err(format!("Value must be at least {min}"))
        }
        (Rule::Between(_, max), Value::Integer(number)) if *number > max => {
            Err(format!("Value must be no more than {max}"))
        }
        (Rule::Ratio, Value::Double(number)) if number.is_nan() || *number < 0.0 => {
            Err("Value must be at least 0".to_owned())
        }
        (Rule::Ratio, Value::Double(number)) if *number > 1.0 => {
            Err("Value must be no more than 1".to_owned())
        }
        (Rule::OneOf(words), Value::Text(text)) => word(text, words),
        (Rule::OneOf(words), Value::List(list)) => {
            list.iter().try_for_each(|element| word(element, words))
        }
        _ => Ok(()),
    }
}

fn expected(kind: KeyType, rule: Rule) -> String {
    let type_max = match kind {
        KeyType::Short => i64::from(i16::MAX),
        KeyType::Int => i64::from(i32::MAX),
        _ => i64::MAX,
    };
    match (kind, rule) {
        (KeyType::Boolean, _) => "true or false".to_owned(),
        (KeyType::Short | KeyType::Int | KeyType::Long, Rule::AtLeast(min)) => {
            format!("a whole number from {min} to {type_max}")
        }
        (KeyType::Short | KeyType::Int | KeyType::Long, Rule::Between(min, max)) => {
            format!("a whole number from {min} to {max}")
        }
        (KeyType::Short | KeyType::Int | KeyType::Long, _) => {
            format!("a whole number up to {type_max}")
        }
        (KeyType::Double, Rule::Ratio) => "a number from 0 to 1".to_owned(),
        (KeyType::Double, _) => "a number".to_owned(),
        (KeyType::List, Rule::OneOf(words)) => {
            format!("a list, with commas between, of {}", words.join(", "))
        }
        (KeyType::List, _) => "a list, with commas between".to_owned(),
        (_, Rule::OneOf(words)) => format!("one of {}", words.join(", ")),
        (KeyType::String | KeyType::Class | KeyType::Password, _) => "a text".to_owned(),
    }
}

/// What `ringlog config explain KEY` prints.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        let facts = Facts {
            kind: self.kind,
            unit: self.unit,
            rule: self.rule,
            default: self.default,
            effect: self.effect,
            documentation: self.documentation,
        };
        explain_body(f, &facts)?;
        if let Some(own) = super::settings::own_flag(self.name) {
            writeln!(f, "  flag     {}", own.flag)?;
            writeln!(f, "  env      {}", own.env)?;
        }
        Ok(())
    }
}

/// What a broker key and a topic key have in common.
pub(crate) struct Facts {
    pub(crate) kind: KeyType,
    pub(crate) unit: Unit,
    pub(crate) rule: Rule,
    pub(crate) default: Option<&'static str>,
    pub(crate) effect: Effect,
    pub(crate) documentation: &'static str,
}

/// The lines below a key's name.
pub(crate) fn explain_body(f: &mut fmt::Formatter<'_>, facts: &Facts) -> fmt::Result {
    let unit = facts.unit.name();
    let space = if unit.is_empty() { "" } else { " " };
    let default = match facts.default {
        None => "null".to_owned(),
        Some("") => "empty".to_owned(),
        Some(text) => format!("{text}{space}{unit}"),
    };
    let value = expected(facts.kind, facts.rule);
    writeln!(f, "  {}", facts.documentation)?;
    writeln!(f, "  type     {}", facts.kind.name().to_lowercase())?;
    writeln!(f, "  value    {value}{space}{unit}")?;
    writeln!(f, "  default  {default}")?;
    match facts.effect {
        Effect::Acts => writeln!(f, "  effect   acts"),
        Effect::AcceptedIgnored(instead) => {
            writeln!(f, "  effect   accepted and ignored: {instead}")
        }
    }
}

#[cfg(test)]
mod tests;
