//! A parser of Java's `.properties` files that remembers where each key and value stands.
//!
//! It follows `java.util.Properties.load`: comments (`#`, `!`), the separators `=`, `:` and white
//! space, line continuations, `\uXXXX` and the short escapes. Two leniencies: a file that is valid
//! UTF-8 is read as such and any other as ISO-8859-1 (Java takes the latter always), and a byte
//! order mark is skipped. Invariants: lines and columns count from 1, columns in characters; the
//! memory taken is bounded by [`FILE_BYTES_MAX`]. It does not know which keys exist, and it keeps
//! duplicates, so that its caller can name both places.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest file that is read. A real one has some kilobytes; this keeps a device or a log segment
/// given by mistake out of memory.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Length in characters on that line; a value's continuation lines are not counted.
    pub length: u32,
}

/// One `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, unescaped.
    pub key: String,
    /// The value, unescaped; trailing space stays, as in Java.
    pub value: String,
    /// Where the key stands.
    pub key_span: Span,
    /// Where the value stands; of length 0 behind the separator if it is empty.
    pub value_span: Span,
}

/// A parsed file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// In the order of the file, with duplicates.
    pub entries: Vec<Entry>,
    lines: Vec<String>,
}

/// Why a file could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// What is wrong.
    pub what: &'static str,
    /// What would be right.
    pub hint: &'static str,
    /// Where.
    pub span: Span,
    /// The whole line.
    pub line_text: String,
}

/// Reads a file's bytes, at most [`FILE_BYTES_MAX`].
///
/// # Errors
/// The system's, or `InvalidData` if the file is longer than the bound.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("longer than {FILE_BYTES_MAX} bytes, so no properties file"),
        ));
    }
    Ok(bytes)
}

/// One character of a logical line, with its place.
#[derive(Clone, Copy)]
struct Placed {
    char: char,
    line: u32,
    column: u32,
}

impl Properties {
    /// Parses the bytes of a file.
    ///
    /// # Errors
    /// The first malformed `\u` escape or the first NUL byte; everything else has a meaning.
    pub fn parse(bytes: &[u8]) -> Result<Self, SyntaxError> {
        let text = decode(bytes);
        let lines = split_lines(&text);
        let mut properties = Self {
            entries: Vec::new(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        properties.refuse_binary()?;
        let mut next = 0;
        while next < lines.len() {
            let logical = logical_line(&lines, &mut next);
            if !logical.is_empty() {
                let entry = properties.entry(&logical)?;
                properties.entries.push(entry);
            }
        }
        Ok(properties)
    }

    /// The text of a line, from 1.
    #[must_use]
    pub fn line(&self, line: u32) -> Option<&str> {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        self.lines.get(index).map(String::as_str)
    }

    /// A NUL byte never stands in a properties file, and thousands of warnings about unknown keys
    /// would hide what is wrong.
    fn refuse_binary(&self) -> Result<(), SyntaxError> {
        for (index, line) in self.lines.iter().enumerate() {
            if let Some(column) = line.chars().position(|char| char == '\0') {
                return Err(SyntaxError {
                    what: "NUL byte",
                    hint: "this is a binary file; give a text file of key=value lines",
                    span: Span {
                        line: place(index),
                        column: place(column),
                        length: 1,
                    },
                    line_text: line.clone(),
                });
            }
        }
        Ok(())
    }

    fn entry(&self, logical: &[Placed]) -> Result<Entry, SyntaxError> {
        let key_end = key_end(logical);
        let value_start = value_start(logical, key_end);
        let (key, value) = logical.split_at(key_end);
        let value = value.get(value_start - key_end..).unwrap_or_default();
        let end = logical
            .last()
            .map_or((1, 1), |last| (last.line, last.column + 1));
        Ok(Entry {
            key: self.unescape(key)?,
            value: self.unescape(value)?,
            key_span: span_of(key, end),
            value_span: span_of(value, end),
        })
    }

    fn unescape(&self, raw: &[Placed]) -> Result<String, SyntaxError> {
        let mut units: Vec<u16> = Vec::with_capacity(raw.len());
        let push = |char: char, units: &mut Vec<u16>| {
            units.extend_from_slice(char.encode_utf16(&mut [0; 2]));
        };
        let mut rest = raw.iter();
        while let Some(placed) = rest.next() {
            if placed.char != '\\' {
                push(placed.char, &mut units);
                continue;
            }
            match rest.next().map(|escaped| escaped.char) {
                Some('t') => push('\t', &mut units),
                Some('n') => push('\n', &mut units),
                Some('r') => push('\r', &mut units),
                Some('f') => push('\u{c}', &mut units),
                Some('u') => {
                    let digits: String = rest.by_ref().take(4).map(|digit| digit.char).collect();
                    units.push(self.utf16_unit(&digits, *placed)?);
                }
                Some(other) => push(other, &mut units),
                None => {}
            }
        }
        Ok(String::from_utf16_lossy(&units))
    }

    /// Surrogate pairs come as two escapes, hence UTF-16 units.
    fn utf16_unit(&self, digits: &str, backslash: Placed) -> Result<u16, SyntaxError> {
        let all_hex = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let unit = u16::from_str_radix(digits, 16).ok().filter(|_| all_hex);
        unit.ok_or_else(|| SyntaxError {
            what: "malformed \\uXXXX escape",
            hint: "four hexadecimal digits must follow; write \\\\u for a plain backslash",
            span: Span {
                line: backslash.line,
                column: backslash.column,
                length: 2 + u32::try_from(digits.chars().count()).unwrap_or(0),
            },
            line_text: self.line(backslash.line).unwrap_or_default().to_owned(),
        })
    }
}

/// Counted from 1. A file has at most [`FILE_BYTES_MAX`] lines and columns.
fn place(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

fn decode(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// Splits at `\n`, `\r\n` and a lone `\r`; `str::lines` knows only the first two.
fn split_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\n', '\r']) {
        let (line, tail) = rest.split_at(end);
        lines.push(line);
        rest = tail
            .strip_prefix("\r\n")
            .or_else(|| tail.get(1..))
            .unwrap_or_default();
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\u{c}')
}

/// Joins the next line with its continuations and steps behind them; empty for a comment or a blank.
fn logical_line(lines: &[&str], next: &mut usize) -> Vec<Placed> {
    let mut logical = Vec::new();
    let mut is_first = true;
    while let Some(line) = lines.get(*next) {
        let number = place(*next);
        *next += 1;
        let stripped = line.trim_start_matches(is_space);
        if is_first && stripped.starts_with(['#', '!']) {
            return logical;
        }
        is_first = false;
        let indent = line.chars().count() - stripped.chars().count();
        logical.extend(stripped.chars().enumerate().map(|(index, char)| Placed {
            char,
            line: number,
            column: place(indent + index),
        }));
        let backslashes = stripped.chars().rev().take_while(|c| *c == '\\').count();
        if backslashes % 2 == 0 {
            break;
        }
        logical.pop();
    }
    logical
}

/// The first separator that is not escaped.
fn key_end(logical: &[Placed]) -> usize {
    let mut is_escaped = false;
    for (index, placed) in logical.iter().enumerate() {
        if is_escaped {
            is_escaped = false;
        } else if placed.char == '\\' {
            is_escaped = true;
        } else if is_space(placed.char) || matches!(placed.char, '=' | ':') {
            return index;
        }
    }
    logical.len()
}

/// Behind white space, at most one `=` or `:`, and white space again.
fn value_start(logical: &[Placed], key_end: usize) -> usize {
    let skip_space = |from: usize| {
        let spaces = logical.iter().skip(from);
        from + spaces.take_while(|placed| is_space(placed.char)).count()
    };
    let start = skip_space(key_end);
    match logical.get(start) {
        Some(placed) if matches!(placed.char, '=' | ':') => skip_space(start + 1),
        _ => start,
    }
}

fn span_of(part: &[Placed], end: (u32, u32)) -> Span {
    let Some(first) = part.first() else {
        return Span {
            line: end.0,
            column: end.1,
            length: 0,
        };
    };
    let mut visible = part.iter().filter(|placed| placed.line == first.line);
    let last = visible.rfind(|placed| !is_space(placed.char));
    Span {
        line: first.line,
        column: first.column,
        length: last.map_or(1, |last| last.column + 1 - first.column),
    }
}

#[cfg(test)]
mod tests;
