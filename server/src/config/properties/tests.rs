//! Tests of the properties parser against the behaviour of `java.util.Properties.load`.

use super::*;

fn pairs(text: &str) -> Vec<(String, String)> {
    let parsed = Properties::parse(text.as_bytes()).expect("parses");
    let pair = |entry: Entry| (entry.key, entry.value);
    parsed.entries.into_iter().map(pair).collect()
}

fn pair(key: &str, value: &str) -> Vec<(String, String)> {
    vec![(key.to_owned(), value.to_owned())]
}

#[test]
fn separators_are_equals_colon_and_space() {
    for text in [
        "a=b",
        "a:b",
        "a b",
        "a = b",
        "  a\t:\u{c} b",
        "a =b",
        "a\tb",
    ] {
        assert_eq!(pairs(text), pair("a", "b"), "{text:?}");
    }
    assert_eq!(pairs("a==b"), pair("a", "=b"));
    assert_eq!(pairs("a = : b"), pair("a", ": b"));
    assert_eq!(pairs("a"), pair("a", ""));
    assert_eq!(pairs("a="), pair("a", ""));
    assert_eq!(pairs("=b"), pair("", "b"));
}

#[test]
fn comments_and_blank_lines_are_skipped() {
    assert_eq!(
        pairs("# x=1\n\n  ! y=2 \\\na=b # no comment here\n \t\n"),
        pair("a", "b # no comment here")
    );
}

#[test]
fn lines_end_with_any_of_the_three_line_ends() {
    let two = vec![pair("a", "1").remove(0), pair("b", "2").remove(0)];
    for text in ["a=1\nb=2", "a=1\r\nb=2\r\n", "a=1\rb=2\r", "a=1\n\r\nb=2"] {
        assert_eq!(pairs(text), two, "{text:?}");
    }
}

#[test]
fn continuation_joins_lines_and_drops_their_indent() {
    assert_eq!(pairs("a=1,\\\n    2,\\\r\n  # 3"), pair("a", "1,2,# 3"));
    assert_eq!(
        pairs("a=x\\\\\nb"),
        [pair("a", "x\\"), pair("b", "")].concat()
    );
    assert_eq!(pairs("a=x\\"), pair("a", "x"));
    assert_eq!(
        pairs("a=x\\\n\nb=1"),
        [pair("a", "x"), pair("b", "1")].concat()
    );
}

#[test]
fn escapes_are_javas() {
    assert_eq!(
        pairs(r"a\=b\:c\ d=\t\n\r\f\\\q"),
        pair("a=b:c d", "\t\n\r\u{c}\\q")
    );
    assert_eq!(pairs(r"a=\u00e4\u20AC\uD83D\uDE00"), pair("a", "ä€😀"));
    assert_eq!(pairs(r"a=\uD83D"), pair("a", "\u{fffd}"));
}

#[test]
fn trailing_space_of_a_value_stays_but_is_not_underlined() {
    let parsed = Properties::parse(b"a=b  ").expect("parses");
    assert_eq!(parsed.entries[0].value, "b  ");
    assert_eq!(parsed.entries[0].value_span.length, 1);
}

#[test]
fn utf8_and_latin1_are_both_read() {
    assert_eq!(pairs("a=ä"), pair("a", "ä"));
    let latin1 = Properties::parse(b"a=\xe4").expect("parses");
    assert_eq!(latin1.entries[0].value, "ä");
    let marked = Properties::parse(b"\xef\xbb\xbfa=b").expect("parses");
    assert_eq!(marked.entries[0].key, "a");
}

#[test]
fn places_are_kept_over_comments_and_continuations() {
    let parsed = Properties::parse(b"# one\n\n  log.dirs = /a,\\\n   /b\nx=1\ny=").expect("parses");
    let span = |line, column, length| Span {
        line,
        column,
        length,
    };
    assert_eq!(parsed.entries[0].key_span, span(3, 3, 8));
    assert_eq!(parsed.entries[0].value_span, span(3, 14, 3));
    assert_eq!(parsed.entries[0].value, "/a,/b");
    assert_eq!(parsed.entries[1].key_span, span(5, 1, 1));
    assert_eq!(parsed.entries[2].value_span, span(6, 3, 0));
    assert_eq!(parsed.line(5), Some("x=1"));
    assert_eq!(parsed.line(0), None);
    assert_eq!(parsed.line(7), None);
}

#[test]
fn malformed_unicode_escape_is_an_error_with_its_place() {
    for text in ["a=1\nkey=x\\u12g4", "a=1\nkey=x\\u+123"] {
        let error = Properties::parse(text.as_bytes()).expect_err("malformed");
        assert_eq!(error.what, "malformed \\uXXXX escape");
        assert_eq!(
            error.span,
            Span {
                line: 2,
                column: 6,
                length: 6
            }
        );
    }
    assert!(Properties::parse(b"a=\\u1").is_err());
    assert!(Properties::parse(b"a=\\u").is_err());
}

#[test]
fn binary_file_is_refused_by_its_first_nul() {
    let error = Properties::parse(b"a=b\n\x7fELF\x00\x01").expect_err("binary");
    assert_eq!(
        (error.what, error.span.line, error.span.column),
        ("NUL byte", 2, 5)
    );
}

/// Bytes drawn from those with a meaning, by a fixed linear congruence, so that a failure repeats.
#[test]
fn garbage_never_panics_and_places_stay_in_the_file() {
    let alphabet = b"a=: \t\\u0D8\n\r#!\x0c\xff\xe4\x80z";
    let mut state: u64 = 1;
    let mut step = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 40).expect("24 bits")
    };
    for round in 0..20_000 {
        let length = step() % 40;
        let bytes: Vec<u8> = (0..length)
            .map(|_| alphabet[step() % alphabet.len()])
            .collect();
        if let Ok(parsed) = Properties::parse(&bytes) {
            for entry in &parsed.entries {
                for span in [entry.key_span, entry.value_span] {
                    let line = parsed.line(span.line);
                    let line = line.unwrap_or_else(|| panic!("round {round}: {bytes:?} {span:?}"));
                    let end = usize::try_from(span.column + span.length).expect("small");
                    assert!(
                        end <= line.chars().count() + 2,
                        "round {round}: {bytes:?} {span:?}"
                    );
                }
            }
        }
    }
    for byte in 0..=255_u8 {
        let _ = Properties::parse(&[byte; 9]);
    }
}

#[test]
fn file_over_the_bound_is_refused_unread() {
    let error = read_file(Path::new("/dev/zero")).expect_err("endless");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}
