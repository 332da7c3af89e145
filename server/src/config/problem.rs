//! What is wrong with a configuration: what, where, what to do; for a terminal and for the log.
//!
//! Invariant: no text made here shows the value of a key that sounds like a secret, known or not.

use std::fmt;

use super::properties::Span;

/// Longest piece of a file's line that is shown, in characters.
const LINE_CHARS_MAX: usize = 160;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// It works, though not as it is written.
    Warn,
    /// The broker does not start with it.
    Error,
}

impl Level {
    fn label(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warning",
            Self::Error => "error",
        }
    }
}

/// A place in a properties file, with the line to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as the user named it.
    pub path: String,
    /// Where in the file.
    pub span: Span,
    /// The whole line.
    pub line_text: String,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub level: Level,
    /// What is wrong, in one line.
    pub what: String,
    /// Where, if it is in a file.
    pub place: Option<Place>,
    /// Why, or what to do.
    pub hint: String,
    /// Whether it is about a key that nobody knows: `config check` is stricter there than a start.
    pub is_unknown_key: bool,
}

impl Problem {
    /// A finding without a place.
    pub(crate) fn new(level: Level, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            level,
            what: what.into(),
            place: None,
            hint: hint.into(),
            is_unknown_key: false,
        }
    }

    /// The same at a place.
    pub(crate) fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// The finding as one line, for the log.
    #[must_use]
    pub fn one_line(&self) -> String {
        let Self { what, hint, .. } = self;
        match &self.place {
            Some(place) => format!("{what} in {}:{}: {hint}", place.path, place.span.line),
            None => format!("{what}: {hint}"),
        }
    }

    /// Sends the finding to the log, at its level.
    pub fn log(&self) {
        let level = match self.level {
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::log!(target: "ringlog.Config", level, "{}", self.one_line());
    }
}

/// The finding as a terminal shows it: headline, line of the file, underline with the hint.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.level.label();
        let Self { what, hint, .. } = self;
        let Some(place) = &self.place else {
            return write!(f, "{label}: {what}\n   | {hint}");
        };
        let Span {
            line,
            column,
            length,
        } = place.span;
        let number = format!("{line:>3}");
        let indent = usize::try_from(column.saturating_sub(1)).unwrap_or(0);
        let shown = shown_line(&place.line_text);
        let room = shown.chars().count();
        // A place behind the shown piece is underlined at its end.
        let indent = indent.min(room);
        let length = usize::try_from(length).unwrap_or(0).min(room - indent);
        let margin = " ".repeat(number.len() + 4 + indent);
        let carets = "^".repeat(length.max(1));
        writeln!(f, "{label}: {what} in {}:{line}", place.path)?;
        writeln!(f, "   | {number} | {shown}")?;
        write!(f, "   |{margin}{carets} {hint}")
    }
}

/// One character a column, so that the underline fits, and nothing that steers a terminal.
fn shown_line(line: &str) -> String {
    let plain = |char: char| match char {
        '\t' => ' ',
        char if char.is_control() => '\u{fffd}',
        char => char,
    };
    let shown: String = line.chars().take(LINE_CHARS_MAX).map(plain).collect();
    shown.trim_end().to_owned()
}

/// A text from outside, fit to stand in a message: printable and short.
pub(crate) fn quoted(text: &str) -> String {
    const TEXT_CHARS_MAX: usize = 80;
    let mut shown = shown_line(text);
    if let Some((end, _)) = shown.char_indices().nth(TEXT_CHARS_MAX) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

/// Whether a key's value may be a secret. Also asked for unknown keys, since a misspelt
/// `ssl.keystore.pasword` still carries the password.
pub(crate) fn sounds_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    [
        "pass",
        "pasw",
        "pwd",
        "secret",
        "jaas",
        "token",
        "credential",
        ".key",
    ]
    .iter()
    .any(|part| key.contains(part))
}

/// The line of a file with the value masked if its key sounds secret.
pub(crate) fn masked_line(line: &str, key: &str, value: Span, key_line: u32) -> String {
    if !sounds_secret(key) || value.line != key_line {
        return line.to_owned();
    }
    let before = usize::try_from(value.column.saturating_sub(1)).unwrap_or(0);
    let shown: String = line.chars().take(before).collect();
    shown + "***"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(column: u32, length: u32, line_text: &str) -> Problem {
        let place = Place {
            path: "config/server.properties".to_owned(),
            span: Span {
                line: 12,
                column,
                length,
            },
            line_text: line_text.to_owned(),
        };
        Problem::new(Level::Error, "unknown key 'k'", "do this").at(Some(place))
    }

    #[test]
    fn underline_stands_under_its_column() {
        assert_eq!(
            problem(3, 2, "a\tkk=1  ").to_string(),
            "error: unknown key 'k' in config/server.properties:12\n   |  12 | a kk=1\n   |         ^^ do this"
        );
    }

    #[test]
    fn underline_stays_within_a_cut_line_and_control_characters_do_not_pass() {
        let text = problem(5000, 7, &"\u{1b}".repeat(6000)).to_string();
        assert!(
            !text.contains('\u{1b}') && text.chars().count() < 500,
            "{text}"
        );
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 81);
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!(
            problem(1, 1, "k=1").one_line(),
            "unknown key 'k' in config/server.properties:12: do this"
        );
    }

    #[test]
    fn secret_values_are_masked() {
        let span = Span {
            line: 1,
            column: 22,
            length: 6,
        };
        let line = "ssl.keystore.pasword=hunter";
        assert_eq!(
            masked_line(line, "ssl.keystore.pasword", span, 1),
            "ssl.keystore.pasword=***"
        );
        assert_eq!(masked_line("a=b", "a", span, 1), "a=b");
    }
}
