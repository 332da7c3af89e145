//! Flags the way Kafka's tools read them (joptsimple and argparse4j): `--flag value`,
//! `--flag=value`, any unambiguous beginning of a name, flags repeated.

use std::collections::BTreeMap;

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Name without dashes.
    pub name: &'static str,
    /// What its value is; empty if it takes none.
    pub value: &'static str,
    /// How many values follow.
    pub arity: Arity,
    /// One line.
    pub help: &'static str,
}

/// How many values follow a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// None.
    Flag,
    /// One.
    One,
    /// One, unless the next word is a flag.
    Optional,
    /// All up to the next flag.
    Many,
}

/// A flag without a value.
#[must_use]
pub const fn flag(name: &'static str, help: &'static str) -> Spec {
    Spec {
        name,
        value: "",
        arity: Arity::Flag,
        help,
    }
}

/// A flag with one value.
#[must_use]
pub const fn one(name: &'static str, value: &'static str, help: &'static str) -> Spec {
    Spec {
        name,
        value,
        arity: Arity::One,
        help,
    }
}

/// A flag whose value may be left out.
#[must_use]
pub const fn optional(name: &'static str, value: &'static str, help: &'static str) -> Spec {
    Spec {
        name,
        value,
        arity: Arity::Optional,
        help,
    }
}

/// A flag with several values.
#[must_use]
pub const fn many(name: &'static str, value: &'static str, help: &'static str) -> Spec {
    Spec {
        name,
        value,
        arity: Arity::Many,
        help,
    }
}

/// What was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    given: BTreeMap<&'static str, Vec<String>>,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// joptsimple's message.
    pub fn parse(specs: &[Spec], args: &[String]) -> Result<Self, String> {
        let mut given: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        let mut words = args.iter().peekable();
        while let Some(word) = words.next() {
            let Some(body) = word.strip_prefix("--") else {
                return Err(format!("'{word}' is not a flag: flags begin with --"));
            };
            let (name, attached) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let spec = find(specs, name)?;
            let values = given.entry(spec.name).or_default();
            match (spec.arity, attached) {
                (Arity::Flag, None) => {}
                (Arity::Flag, Some(_)) => {
                    return Err(format!("Option {} does not take an argument", spec.name));
                }
                (_, Some(value)) => values.push(value),
                (Arity::One, None) => match words.next() {
                    Some(value) => values.push(value.clone()),
                    None => return Err(format!("Option {} requires an argument", spec.name)),
                },
                (Arity::Optional, None) => {
                    values.extend(words.next_if(|next| !next.starts_with("--")).cloned());
                }
                (Arity::Many, None) => {
                    while let Some(value) = words.next_if(|next| !next.starts_with("--")) {
                        values.push(value.clone());
                    }
                }
            }
        }
        Ok(Self { given })
    }

    /// Whether the flag was given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Its last value.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<&str> {
        self.given.get(name)?.last().map(String::as_str)
    }

    /// All its values.
    #[must_use]
    pub fn all(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    /// Its value as a number.
    ///
    /// # Errors
    /// joptsimple's message if it is none.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, super::ToolError> {
        let Some(value) = self.last(name) else {
            return Ok(None);
        };
        let message = || format!("Cannot parse argument '{value}' of option {name}");
        let parsed = value.trim().parse();
        parsed
            .map(Some)
            .map_err(|_| super::ToolError::Usage(message()))
    }

    /// `a=b` pairs of a repeatable flag; commas do not split.
    #[must_use]
    pub fn pairs(&self, name: &str) -> Vec<(String, String)> {
        let values = self.all(name).iter();
        let pairs = values.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
            .collect()
    }
}

fn find<'a>(specs: &'a [Spec], name: &str) -> Result<&'a Spec, String> {
    if let Some(spec) = specs.iter().find(|spec| spec.name == name) {
        return Ok(spec);
    }
    let mut matching = specs.iter().filter(|spec| spec.name.starts_with(name));
    match (matching.next(), matching.next()) {
        (Some(spec), None) if !name.is_empty() => Ok(spec),
        _ => Err(format!("{name} is not a recognized option")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[Spec] = &[
        flag("list", ""),
        one("topic", "name", ""),
        one("topic-list", "names", ""),
        many("producer-props", "k=v", ""),
        optional("state", "state", ""),
    ];

    fn parse(args: &[&str]) -> Result<Options, String> {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Options::parse(SPECS, &args)
    }

    #[test]
    fn all_spellings_of_a_flag_are_taken() {
        let options = parse(&["--li", "--topic=a", "--topic", "b", "--state"]).unwrap();
        assert!(options.has("list") && options.has("state"));
        assert_eq!(options.all("topic"), ["a", "b"]);
        let options = parse(&["--producer-props", "a=1", "b=2", "--list"]).unwrap();
        assert_eq!(options.pairs("producer-props").len(), 2);
        assert!(options.has("list"));
    }

    #[test]
    fn mistakes_are_told_as_joptsimple_tells_them() {
        assert_eq!(
            parse(&["--no"]).unwrap_err(),
            "no is not a recognized option"
        );
        assert_eq!(
            parse(&["--to"]).unwrap_err(),
            "to is not a recognized option"
        );
        assert_eq!(
            parse(&["--topic"]).unwrap_err(),
            "Option topic requires an argument"
        );
    }
}
