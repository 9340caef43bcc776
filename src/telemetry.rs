//! Our own log: one physical line per event, with time, level and step.
//!
//! Events go through a bounded queue to one worker thread, so that a slow disk
//! never holds up a step; what does not fit is counted. Every foreign character a
//! terminal or a reader could mistake is escaped, and lines are bounded. Events of
//! other crates show from warn up only, whatever the level: theirs may carry whole
//! messages, passwords included. Started once by main, before anything is logged.

use crate::ids::StepId;
use crate::logs::escape::{OneLine, push_value};
use crate::logs::rotate::{LostLines, RotatingFile};
use crate::logs::stamp::rfc3339_micros;
use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

/// Lines that wait for the worker; its default of 128 000 costs 4 MiB in advance.
const QUEUED_LINES: usize = 512;
/// The longest message or value, in bytes.
const LONGEST_VALUE: usize = 2048;
/// The longest list of fields, in bytes.
const LONGEST_FIELDS: usize = 8192;
/// The target of all events of this crate.
const OWN_TARGET: &str = "crane_supervisor";

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Trace,
    /// Retries and details.
    Debug,
    /// One line per change of state.
    Info,
    /// What an administrator should look at.
    Warn,
    /// Broken promises only.
    Error,
    /// Nothing.
    Off,
}

/// A word that is no level.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown log level {0:?}: expected one of trace, debug, info, warn, error, off")]
pub struct ParseLevelError(String);

impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "off" => Ok(Self::Off),
            _ => Err(ParseLevelError(word.chars().take(32).collect())),
        }
    }
}

impl Level {
    /// The level after this one, where `configured` is the least.
    fn next(self, configured: Self) -> Self {
        match self {
            Self::Trace => configured,
            Self::Debug => Self::Trace,
            Self::Info | Self::Warn | Self::Error | Self::Off => Self::Debug,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
            Self::Off => LevelFilter::OFF,
        }
    }
}

/// The level of a running log; clones are of the same log.
#[derive(Clone, Debug)]
pub struct Volume {
    configured: Level,
    now: Arc<Mutex<Level>>,
    filter: reload::Handle<Targets, Registry>,
}

impl Volume {
    /// Turns the log up: to debug, to trace, then back to what is configured.
    pub fn turn(&self) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.next(self.configured);
        // Fails only for a log that is no more.
        let _ = self.filter.reload(targets(*now));
        tracing::warn!(level = ?*now, configured = ?self.configured, "log level changed by SIGUSR1");
    }
}

fn targets(level: Level) -> Targets {
    let level = level.filter();
    Targets::new().with_target(OWN_TARGET, level).with_default(level.min(LevelFilter::WARN))
}

/// What our log is and how large it may grow.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The newest file.
    pub path: PathBuf,
    /// How much is logged.
    pub level: Level,
    /// Bytes per file; 0 means no limit.
    pub max_bytes: u64,
    /// Number of files; 0 and 1 keep one.
    pub max_files: u64,
    /// Named on every line.
    pub step: StepId,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The file cannot be opened.
    #[error("cannot open the log {}: {source}", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was started before.
    #[error("cannot start the log: the process has one already")]
    Twice,
}

/// Keeps the log going; dropping it writes what is queued, for about a second at most.
#[derive(Debug)]
pub struct Telemetry {
    _worker: WorkerGuard,
    volume: Volume,
    queue_full: ErrorCounter,
    not_written: LostLines,
}

impl Telemetry {
    /// Changes how much is logged.
    pub fn volume(&self) -> Volume {
        self.volume.clone()
    }

    /// Lines lost so far to a full queue or a full disk.
    pub fn dropped_lines(&self) -> u64 {
        self.not_written.count().saturating_add(self.queue_full.dropped_lines() as u64)
    }
}

/// Opens the log and sends all events of the process to it.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(config: LogConfig) -> Result<Telemetry, TelemetryError> {
    let (subscriber, telemetry) = build(config)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)?;
    Ok(telemetry)
}

fn build(config: LogConfig) -> Result<(impl Subscriber + Send + Sync, Telemetry), TelemetryError> {
    let LogConfig { path, level, max_bytes, max_files, step } = config;
    let file =
        RotatingFile::open(&path, max_bytes, max_files).map_err(|source| TelemetryError::Open { path, source })?;
    let not_written = file.lost_lines();
    let (writer, worker): (NonBlocking, WorkerGuard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUED_LINES).thread_name("log").finish(file);
    let (filter, handle) = reload::Layer::new(targets(level));
    let volume = Volume { configured: level, now: Arc::new(Mutex::new(level)), filter: handle };
    let telemetry = Telemetry { _worker: worker, volume, queue_full: writer.error_counter(), not_written };
    // Its own complaints would go to standard error, which is craned's.
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(writer)
        .event_format(Line { step });
    Ok((tracing_subscriber::registry().with(filter).with(lines), telemetry))
}

/// `TIME LEVEL JOB.STEP message name=value …`
#[derive(Clone, Copy, Debug)]
struct Line {
    step: StepId,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stamp = rfc3339_micros(now);
        let stamp = str::from_utf8(&stamp).map_err(|_| fmt::Error)?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        write!(writer, "{stamp} {:<5} {}", event.metadata().level(), self.step)?;
        let separator = if fields.message.is_empty() { "" } else { " " };
        writeln!(writer, "{separator}{}{}", fields.message, fields.others)
    }
}

/// An event's fields, escaped: the message apart, whatever its place among them.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field.name(), format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field.name(), format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record(field.name(), format_args!("{value}"));
    }
}

impl Fields {
    fn record(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if name == "message" {
            // Writing to a string does not fail; a value's own formatting may, then it is cut there.
            let _ = OneLine::new(&mut self.message, LONGEST_VALUE).write_fmt(value);
        } else if self.others.len() < LONGEST_FIELDS {
            let mut text = String::new();
            let _ = OneLine::new(&mut text, LONGEST_VALUE).write_fmt(value);
            self.others.push(' ');
            self.others.push_str(name);
            self.others.push('=');
            push_value(&mut self.others, &text);
        }
    }
}

#[cfg(test)]
mod tests;
