use super::*;
use crate::sys::files::scratch::Dir;
use std::path::Path;

fn config(dir: &Path, level: Level) -> LogConfig {
    let path = dir.join("7.1.log");
    LogConfig { path, level, max_bytes: 0, max_files: 1, step: StepId { job: 7, step: 1 } }
}

/// What the log holds after `events`.
fn logged(level: Level, events: impl FnOnce()) -> String {
    let dir = Dir::new();
    let config = config(dir.path(), level);
    let path = config.path.clone();
    let (subscriber, telemetry) = build(config).unwrap();
    tracing::subscriber::with_default(subscriber, events);
    assert_eq!(telemetry.dropped_lines(), 0);
    drop(telemetry);
    std::fs::read_to_string(path).unwrap()
}

/// A line without its time, which must be one.
fn timeless(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == crate::logs::stamp::LENGTH && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line}");
    rest
}

#[test]
fn a_line_has_time_level_step_message_and_fields() {
    let log = logged(Level::Info, || {
        tracing::info!(image = "alpine:latest", code = 7u32, path = ?Path::new("/a b"), "container started");
        tracing::warn!(error = %io::Error::from_raw_os_error(2), "no message=first");
        tracing::debug!("not shown");
        tracing::error!(only = "fields");
    });
    let lines: Vec<_> = log.lines().map(timeless).collect();
    assert_eq!(
        lines,
        [
            r#"INFO  7.1 container started image=alpine:latest code=7 path="/a b""#,
            r#"WARN  7.1 no message=first error="No such file or directory (os error 2)""#,
            r#"ERROR 7.1 only=fields"#,
        ]
    );
}

#[test]
fn foreign_text_cannot_forge_a_line_or_a_field() {
    let evil = "x\n2026-11-21T00:00:00.000000Z ERROR 7.1 forged\u{1b}[2J\u{2028}";
    let log = logged(Level::Trace, || {
        tracing::info!("{evil}");
        tracing::info!(name = evil, other = ?evil, shown = %"a\" uid=\"0", "m");
    });
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(!log.contains(['\u{1b}', '\u{2028}']));
    assert!(log.contains(r#"shown="a\" uid=\"0""#), "{log}");
}

#[test]
fn a_line_is_bounded() {
    let log = logged(Level::Info, || tracing::info!(value = "v".repeat(1 << 20), "{}", "m".repeat(1 << 20)));
    assert!(log.len() < 3 * LONGEST_VALUE && log.matches('…').count() == 2, "{}", log.len());
}

#[test]
fn other_crates_are_heard_from_warn_up_only() {
    let log = logged(Level::Trace, || {
        tracing::trace!("ours");
        tracing::info!(target: "h2::codec", "payload");
        tracing::info!(target: "crane", "also foreign");
        tracing::warn!(target: "hyper", "broken");
    });
    let lines: Vec<_> = log.lines().map(timeless).collect();
    assert_eq!(lines, ["TRACE 7.1 ours", "WARN  7.1 broken"]);
}

#[test]
fn off_is_silence() {
    assert_eq!(logged(Level::Off, || tracing::error!("x")), "");
    assert_eq!(logged(Level::Error, || tracing::warn!(target: "hyper", "x")), "");
}

#[test]
fn levels_are_the_six_words_and_nothing_else() {
    for word in ["trace", "debug", "info", "warn", "error", "off"] {
        assert!(word.parse::<Level>().is_ok());
    }
    let error = "Verbose".parse::<Level>().unwrap_err().to_string();
    assert_eq!(error, "unknown log level \"Verbose\": expected one of trace, debug, info, warn, error, off");
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_with_its_path() {
    let missing = config(Path::new("/nonexistent"), Level::Info);
    assert!(build(missing).err().unwrap().to_string().contains("/nonexistent/7.1.log"));
}

#[test]
fn the_level_is_turned_up_twice_and_back() {
    for (level, shown) in [
        (Level::Info, "d d t"),
        (Level::Off, "d d t"),
        (Level::Debug, "d d t d d t"),
        (Level::Trace, "d t d t d t d t"),
    ] {
        let dir = Dir::new();
        let config = config(dir.path(), level);
        let path = config.path.clone();
        let (subscriber, telemetry) = build(config).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..4 {
                tracing::debug!("d");
                tracing::trace!("t");
                telemetry.volume().turn();
            }
        });
        drop(telemetry);
        let log = std::fs::read_to_string(path).unwrap();
        let words = log.lines().filter_map(|line| line.rsplit(' ').next()).filter(|word| word.len() == 1);
        assert_eq!(words.collect::<Vec<_>>().join(" "), shown, "{level:?}");
    }
}
