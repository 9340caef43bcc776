//! What the kernel and the runtime each say of a container's end, and what
//! follows from both. Pure.
//!
//! The kernel is right about exit or signal. The runtime knows what the kernel
//! does not (an out-of-memory kill of a child), and makes up 255 when it was
//! down at the time.

use crate::exit_code;
use crate::outcome::{End, Outcome};

/// What ContainerStatus says of an exited container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeWord {
    /// As reported; 128+N for signal N.
    pub exit_code: i32,
    /// CRI's reason: Completed, Error, OOMKilled, StartError, Unknown.
    pub reason: String,
    /// The runtime's explanation.
    pub message: String,
}

/// How sure we are that the process we held was the container's init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The runtime named its pid, and it was in the container's cgroup.
    Named,
    /// It was seen alone in the container's cgroup while it started.
    Seen,
}

/// Combines both witnesses.
pub fn judge(kernel: Option<(End, Certainty)>, runtime: Option<&RuntimeWord>) -> Outcome {
    let Some(word) = runtime else {
        return match kernel {
            Some((end, Certainty::Named)) => Outcome::Ended(end),
            Some((_, Certainty::Seen)) | None => Outcome::Lost {
                reason: "the container ended, and neither the kernel nor the runtime can say how".to_owned(),
            },
        };
    };
    if word.reason == "StartError" {
        let reason = first_line(&word.message, "the container could not be started");
        return Outcome::Failed { code: exit_code::SPAWN_FAILED, reason };
    }
    let told = told(word);
    let end = match (kernel, told) {
        (Some((end, Certainty::Named)), _) | (Some((end, Certainty::Seen)), None) => Some(end),
        // Another process of the container may have been held: it counts only where both agree.
        (Some((end, Certainty::Seen)), Some(code)) => Some(if shell_code(end) == code { end } else { decode(code) }),
        (None, Some(code)) => Some(decode(code)),
        (None, None) => None,
    };
    match end {
        Some(end) if word.reason == "OOMKilled" => Outcome::OutOfMemory(end),
        Some(end) => Outcome::Ended(end),
        None => Outcome::Lost {
            reason: format!(
                "the runtime lost the exit code of the container (it says {} {:?})",
                word.exit_code, word.reason
            ),
        },
    }
}

/// The code the runtime really learnt, if it did.
fn told(word: &RuntimeWord) -> Option<u8> {
    let invented = word.reason == "Unknown";
    u8::try_from(word.exit_code).ok().filter(|_| !invented)
}

fn shell_code(end: End) -> u8 {
    match end {
        End::Exited(code) => code,
        End::Signalled(signal) => signal.saturating_add(128),
    }
}

/// Without the kernel's word, 129 to 192 read as a signal, as runtimes write them.
fn decode(code: u8) -> End {
    match code {
        129..=192 => End::Signalled(code - 128),
        _ => End::Exited(code),
    }
}

fn first_line(text: &str, otherwise: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or(otherwise);
    line.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(exit_code: i32, reason: &str) -> RuntimeWord {
        RuntimeWord { exit_code, reason: reason.to_owned(), message: String::new() }
    }

    #[test]
    fn the_kernel_tells_exit_130_from_a_signal() {
        let kernel = |end| Some((end, Certainty::Named));
        assert_eq!(judge(kernel(End::Exited(130)), Some(&word(130, "Error"))), Outcome::Ended(End::Exited(130)));
        assert_eq!(judge(kernel(End::Signalled(2)), Some(&word(130, "Error"))), Outcome::Ended(End::Signalled(2)));
        assert_eq!(judge(None, Some(&word(137, "Error"))), Outcome::Ended(End::Signalled(9)));
    }

    #[test]
    fn a_made_up_255_is_lost_unless_the_kernel_knows() {
        assert!(matches!(judge(None, Some(&word(255, "Unknown"))), Outcome::Lost { .. }));
        assert!(matches!(judge(None, Some(&word(-1, "Error"))), Outcome::Lost { .. }));
        assert_eq!(
            judge(Some((End::Exited(7), Certainty::Seen)), Some(&word(255, "Unknown"))),
            Outcome::Ended(End::Exited(7))
        );
        assert_eq!(judge(None, Some(&word(255, "Error"))), Outcome::Ended(End::Exited(255)));
    }

    #[test]
    fn a_guessed_process_never_overrules_the_runtime() {
        let guess = Some((End::Exited(0), Certainty::Seen));
        assert_eq!(judge(guess, Some(&word(7, "Error"))), Outcome::Ended(End::Exited(7)));
    }

    #[test]
    fn out_of_memory_and_a_failed_start_have_names() {
        let killed = Some((End::Signalled(9), Certainty::Named));
        assert_eq!(judge(killed, Some(&word(137, "OOMKilled"))), Outcome::OutOfMemory(End::Signalled(9)));
        assert!(matches!(judge(None, Some(&word(128, "StartError"))), Outcome::Failed { code: 324, .. }));
        assert!(matches!(judge(None, None), Outcome::Lost { .. }));
        assert!(matches!(judge(Some((End::Exited(0), Certainty::Seen)), None), Outcome::Lost { .. }));
    }
}
