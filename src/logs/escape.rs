//! Foreign text made harmless for a log: one line, bounded, nothing a terminal obeys.
//!
//! Pure. Newlines, control characters, and the Unicode characters that break lines
//! or reorder text are written as escapes, so that nobody's text can forge a line
//! or hide one. Called by `telemetry` for every message and value, and by
//! `sys::crash`.

use std::fmt::{self, Write};

/// Appends text to a line, escaped and bounded.
#[derive(Debug)]
pub struct OneLine<'a> {
    line: &'a mut String,
    /// Bytes that may still be written.
    left: usize,
}

impl<'a> OneLine<'a> {
    /// Appends to `line` at most `max` bytes, then `…` once for all the rest.
    pub fn new(line: &'a mut String, max: usize) -> Self {
        Self { line, left: max }
    }

    fn push(&mut self, c: char) {
        if self.left == 0 {
            return;
        }
        let before = self.line.len();
        if obeyed(c) {
            self.line.extend(c.escape_default());
        } else {
            self.line.push(c);
        }
        match self.left.checked_sub(self.line.len() - before) {
            Some(left) if left > 0 => self.left = left,
            _ => {
                self.left = 0;
                self.line.truncate(before);
                self.line.push('…');
            }
        }
    }
}

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().for_each(|c| self.push(c));
        Ok(())
    }
}

/// Characters that a terminal or viewer acts upon instead of showing them.
fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{61c}' | '\u{feff}')
}

/// Appends a value that is already escaped so that its end is certain: quoted unless plain.
pub fn push_value(line: &mut String, value: &str) {
    if is_plain(value) || is_quoted(value) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for c in value.chars() {
        if c == '"' {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('"');
}

/// A value without space, quote or equals sign cannot be taken for another field.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && !value.contains([' ', '"', '=']) && !value.contains(char::is_whitespace)
}

/// One string literal as `Debug` writes it: its only bare quotes are the first and the last.
fn is_quoted(value: &str) -> bool {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return false;
    };
    let mut escaped = false;
    for c in inner.chars() {
        match c {
            '"' if !escaped => return false,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    !escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str, max: usize) -> String {
        let mut line = String::new();
        OneLine::new(&mut line, max).write_str(text).unwrap();
        line
    }

    fn value(text: &str) -> String {
        let mut line = String::new();
        push_value(&mut line, text);
        line
    }

    #[test]
    fn nothing_a_terminal_obeys_is_left() {
        assert_eq!(escaped("a\nb\r\t\u{1b}[31m\u{9b}\u{202e}é", 100), r"a\nb\r\t\u{1b}[31m\u{9b}\u{202e}é");
    }

    #[test]
    fn long_text_ends_with_a_mark() {
        assert_eq!(escaped("abcdef", 4), "abc…");
        assert_eq!(escaped("abc", 4), "abc");
        assert_eq!(escaped("ab\u{1b}x", 4), "ab…");
    }

    #[test]
    fn a_value_cannot_pass_for_two_fields() {
        assert_eq!(value("/a/b:c"), "/a/b:c");
        assert_eq!(value(""), r#""""#);
        assert_eq!(value("x uid=0"), r#""x uid=0""#);
        assert_eq!(value(r#"x" uid="0"#), r#""x\" uid=\"0""#);
        assert_eq!(value(r#""a b""#), r#""a b""#);
        assert_eq!(value(r#""a" uid="0""#), r#""\"a\" uid=\"0\"""#);
        assert_eq!(value(r#""a\""#), r#""\"a\\"""#);
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_bounded_line(text in any::<String>(), max in 1usize..50) {
            let line = escaped(&text, max);
            prop_assert!(!line.chars().any(obeyed));
            prop_assert!(line.len() <= max + '…'.len_utf8());
        }
    }
}
