//! A line of our own log taken apart again, for programs that read it as JSON.
//!
//! Pure. The log itself stays text: an administrator reads it with `less` at night. Foreign
//! input all the same, since a log is a file; what is no such line is text and no more.
//! Called by `logs::print`.

use super::stamp;
use serde_json::{Map, Value, json};

/// Levels as `telemetry` writes them.
const LEVELS: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];

/// `TIME LEVEL JOB.STEP message name=value …` as an object: time, level, step, message, fields. Of any
/// other line: text alone.
pub fn object(line: &str) -> Value {
    known(line).unwrap_or_else(|| json!({ "text": line }))
}

fn known(line: &str) -> Option<Value> {
    let (time, rest) = line.split_once(' ')?;
    stamp::since_epoch(time.as_bytes())?;
    let (level, rest) = rest.split_once(' ')?;
    let level = *LEVELS.iter().find(|known| **known == level)?;
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    let (step, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let numbers =
        step.split_once('.').is_some_and(|(job, step)| job.parse::<u32>().is_ok() && step.parse::<u32>().is_ok());
    let (message, fields) = message_and_fields(rest);
    numbers.then(|| json!({ "time": time, "level": level, "step": step, "message": message, "fields": fields }))
}

/// The fields are the longest end of the line that is nothing but fields.
fn message_and_fields(rest: &str) -> (&str, Map<String, Value>) {
    let begins = std::iter::once(0).chain(rest.match_indices(' ').map(|(at, _)| at + 1));
    for at in begins.take(MOST_WORDS) {
        if let Some(fields) = fields(&rest[at..]) {
            return (rest[..at].trim_end(), fields);
        }
    }
    (rest, Map::new())
}

/// A message of more words has no fields: lines are bounded, the time to read one is too.
const MOST_WORDS: usize = 256;

fn fields(mut text: &str) -> Option<Map<String, Value>> {
    let mut found = Map::new();
    loop {
        let (name, rest) = text.split_once('=')?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(plain) {
            return None;
        }
        let (value, rest) = value(rest)?;
        found.insert(name.to_owned(), value.into());
        match rest.strip_prefix(' ') {
            Some(more) => text = more,
            None => return rest.is_empty().then_some(found),
        }
    }
}

/// A value and what follows it; without the quotes around it and the backslashes before inner ones.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find(' ').unwrap_or(text.len());
        return (end > 0 && !text[..end].contains('"')).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            '"' if !escaped => return Some((inner[..at].replace("\\\"", "\""), &inner[at + 1..])),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line =
            r#"2026-11-25T14:13:54.694238Z INFO  42.1 state a=b event=StageDone(Start) to="Running, \"x\"" ms=3"#;
        let told = object(line);
        assert_eq!((told["level"].as_str(), told["step"].as_str()), (Some("INFO"), Some("42.1")));
        assert_eq!(told["time"].as_str(), Some("2026-11-25T14:13:54.694238Z"));
        assert_eq!(told["message"].as_str(), Some("state"));
        let fields: Vec<_> =
            told["fields"].as_object().unwrap().iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
        assert_eq!(fields, [("a", "b"), ("event", "StageDone(Start)"), ("ms", "3"), ("to", "Running, \"x\"")]);
        let none = object("2026-11-25T14:13:54.694238Z ERROR 42.1 done, x=1 or so");
        assert_eq!((none["message"].as_str(), none["fields"].as_object().unwrap().len()), (Some("done, x=1 or so"), 0));
    }

    #[test]
    fn what_is_no_line_of_ours_is_text() {
        for line in [
            "",
            "crashed: SIGSEGV",
            "2026-11-25T14:13:54Z NOTE  42.1 x",
            "2026-11-25T14:13:54Z INFO  x.1 y",
            "a INFO  1.1 b",
        ] {
            assert_eq!(object(line), json!({ "text": line }));
        }
    }

    proptest! {
        #[test]
        fn any_line_is_an_object(line in "\\PC{0,200}", head in any::<bool>()) {
            let line = if head { format!("2026-11-25T14:13:54Z WARN  1.2 {line}") } else { line };
            prop_assert!(object(&line).is_object());
        }
    }
}
