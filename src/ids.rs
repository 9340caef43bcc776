//! Who a step is: job and step number, as every path, label and log line names it.

use std::fmt;
use std::str::FromStr;

/// A step of a job, written `JOB.STEP`.
///
/// Step 0 is a job's pod step, 1 its primary step, 2 and up are steps added
/// later (craned's numbering).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId {
    /// The job, never 0.
    pub job: u32,
    /// The step within the job.
    pub step: u32,
}

/// `JOB.STEP` was not of that form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a step: expected JOB.STEP, two numbers such as 42.1")]
pub struct ParseStepIdError(String);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job, self.step)
    }
}

impl FromStr for StepId {
    type Err = ParseStepIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseStepIdError(text.chars().take(64).collect());
        let (job, step) = text.split_once('.').ok_or_else(error)?;
        Ok(Self { job: plain_number(job).ok_or_else(error)?, step: plain_number(step).ok_or_else(error)? })
    }
}

/// Digits only: `u32::from_str` would take a leading `+`.
fn plain_number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_id_reads_back_as_written() {
        let id = StepId { job: 42, step: 0 };
        assert_eq!(id.to_string(), "42.0");
        assert_eq!("42.0".parse(), Ok(id));
    }

    #[test]
    fn anything_but_two_numbers_is_refused() {
        for text in ["", "42", "42.", ".1", "42.1.2", "+4.1", "4.-1", "4294967296.0", "a.b"] {
            assert!(text.parse::<StepId>().is_err(), "{text:?} was accepted");
        }
    }
}
