//! One line of a diagnosis, and the limit on finding it out.

use serde::Serialize;
use std::fmt;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long one probe of the node may take: a file system or name service that hangs is a finding.
pub const LIMIT: Duration = Duration::from_secs(10);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Some jobs will not run, or it could not be told.
    Warn,
    /// No container job will run.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at; docs/operating.md lists them.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// All is well.
pub fn ok(check: &'static str, found: impl Into<String>) -> Line {
    Line { check, level: Level::Ok, found: found.into(), remedy: None }
}

/// Some jobs will not run, or it cannot be told.
pub fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Line {
    Line { check, level: Level::Warn, found: found.into(), remedy: Some(remedy.into()) }
}

/// No container job will run.
pub fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Line {
    Line { check, level: Level::Fail, found: found.into(), remedy: Some(remedy.into()) }
}

/// What only root can tell.
pub fn untold(check: &'static str, what: &str) -> Line {
    warn(check, format!("{what}: not told without root"), "run check as root (sudo)")
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "OK  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        let line = match &self.remedy {
            None => format!("{level} {}: {}", self.check, self.found),
            Some(remedy) => format!("{level} {}: {}; {remedy}", self.check, self.found),
        };
        // What was found may be a file's or a runtime's words.
        f.write_str(&line.replace(char::is_control, " "))
    }
}

/// Looks on a thread of its own; one that does not come back in time is a finding too.
pub async fn within(check: &'static str, what: &str, look: impl FnOnce() -> Vec<Line> + Send + 'static) -> Vec<Line> {
    answer(LIMIT, check, what, look).await.unwrap_or_else(|line| vec![line])
}

/// As [`within`], for a look at something else than lines, or that takes longer.
///
/// # Errors
/// The line that says what did not answer.
pub async fn answer<T: Send + 'static>(
    limit: Duration,
    check: &'static str,
    what: &str,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Line> {
    match timeout(limit, spawn_blocking(look)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(warn(check, format!("{what}: {error}"), "tell us: this is a fault of the program")),
        Err(_elapsed) => Err(fail(
            check,
            format!("{what}: no answer within {} s", limit.as_secs()),
            "a file system or name service hangs: look at the kernel's log",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_with_its_remedy() {
        assert_eq!(ok("a", "b").to_string(), "OK   a: b");
        assert_eq!(fail("a", "b\nc", "do d").to_string(), "FAIL a: b c; do d");
        assert!(Level::Fail > Level::Warn && Level::Warn > Level::Ok);
    }
}
