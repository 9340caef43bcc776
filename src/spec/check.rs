//! Checks of single fields that can refuse a step.

use super::Refusal;
use crate::cri::endpoint::Endpoint;
use crate::ids::StepId;
use crate::wire::crane::StepToD;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use std::path::{Path, PathBuf};
use tracing::level_filters::LevelFilter;

/// A unix socket address holds 107 bytes and a NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// The node's name becomes part of a file name.
const NODE_NAME_MAX: usize = 200;

pub(super) fn refusal(field: &'static str, problem: impl Into<String>) -> Refusal {
    Refusal { field, problem: problem.into() }
}

/// Job and step, said twice by craned and the same both times.
pub(super) fn identity(init: &InitSupervisorRequest, step: &StepToD) -> Result<StepId, Refusal> {
    if init.job_id == 0 {
        return Err(refusal("job_id", "missing or 0"));
    }
    if step.job_id != init.job_id {
        return Err(refusal("step_spec.job_id", format!("{} is not job_id {}", step.job_id, init.job_id)));
    }
    if step.step_id != init.step_id {
        return Err(refusal("step_spec.step_id", format!("{} is not step_id {}", step.step_id, init.step_id)));
    }
    node(&init.craned_id)?;
    Ok(StepId { job: init.job_id, step: init.step_id })
}

fn node(name: &str) -> Result<(), Refusal> {
    let problem = match name {
        "" => "missing: reports and file names need the node's name",
        name if name.len() > NODE_NAME_MAX => "longer than 200 bytes",
        name if name.contains(['/', '\0', '\n']) => "holds a slash, newline or NUL: it is part of a file name",
        _ => return Ok(()),
    };
    Err(refusal("craned_id", problem))
}

/// An absolute path without NUL or `..`.
pub(super) fn absolute(field: &'static str, text: &str) -> Result<PathBuf, Refusal> {
    let problem = match Path::new(text) {
        _ if text.is_empty() => "missing: an absolute path is needed".to_owned(),
        path if !path.is_absolute() => format!("{text:?} is not an absolute path"),
        path if text.contains('\0') || path.components().any(|part| part.as_os_str() == "..") => {
            format!("{text:?} holds a NUL or '..'")
        }
        path => return Ok(path.to_owned()),
    };
    Err(refusal(field, problem))
}

pub(super) fn socket(field: &'static str, text: &str) -> Result<PathBuf, Refusal> {
    let path = absolute(field, text.strip_prefix("unix://").unwrap_or(text))?;
    match path.as_os_str().len() > SOCKET_PATH_MAX {
        true => Err(refusal(field, format!("{text:?} is longer than {SOCKET_PATH_MAX} bytes"))),
        false => Ok(path),
    }
}

pub(super) fn endpoint(field: &'static str, text: &str) -> Result<Endpoint, Refusal> {
    Endpoint::parse(text).map_err(|problem| refusal(field, problem.to_string()))
}

/// craned's six words; an empty one is its default.
pub(super) fn level(text: &str) -> Result<LevelFilter, Refusal> {
    match text {
        "trace" => Ok(LevelFilter::TRACE),
        "debug" => Ok(LevelFilter::DEBUG),
        "info" | "" => Ok(LevelFilter::INFO),
        "warn" => Ok(LevelFilter::WARN),
        "error" => Ok(LevelFilter::ERROR),
        "off" => Ok(LevelFilter::OFF),
        other => Err(refusal("debug_level", format!("{other:?} is none of trace, debug, info, warn, error, off"))),
    }
}
