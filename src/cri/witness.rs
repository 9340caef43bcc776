//! What the kernel and the runtime each say of a container's end, and what
//! follows from both. Pure.
//!
//! The kernel is right about exit or signal, and about out-of-memory kills while
//! its count can be read. The runtime has an end where the kernel's is unknown,
//! and makes up 255 when it was down at the time.

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

/// The signal the kernel kills with when memory is out.
const KILLED: End = End::Signalled(9);

/// How sure we are that the process we held was the container's init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The runtime named its pid, and it was in the container's cgroup.
    Named,
    /// It was seen alone in the container's cgroup while it started.
    Seen,
}

/// What the kernel counted of out-of-memory kills; the later ones know more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OomKills {
    /// It could not be read.
    #[default]
    Unknown,
    /// Some process of the job, while the container ran; its own count could not be read.
    OfJob,
    /// No process of the container.
    None,
    /// At least one process of the container, by whichever limit.
    OfContainer,
}

/// What is known of the memory beside the runtime's reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The kernel's count.
    pub kills: OomKills,
    /// Whether we stopped the container: a SIGKILL may then be ours.
    pub stopped: bool,
}

/// Combines both witnesses.
pub fn judge(kernel: Option<(End, Certainty)>, runtime: Option<&RuntimeWord>, memory: Memory) -> Outcome {
    let Some(word) = runtime else {
        return match kernel {
            Some((end, Certainty::Named)) => ended(end, false, memory),
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
        Some(end) => ended(end, word.reason == "OOMKilled", memory),
        None => Outcome::Lost {
            reason: format!(
                "the runtime lost the exit code of the container (it says {} {:?})",
                word.exit_code, word.reason
            ),
        },
    }
}

/// Whether it was for want of memory that the container ended so.
///
/// A container that loses a child and ends well all the same has coped. A code of 137
/// says nothing: anybody may exit with it.
fn ended(end: End, told: bool, memory: Memory) -> Outcome {
    let killed = match memory.kills {
        OomKills::OfContainer => true,
        // On v1 containerd hears of every shortage in the job, and says OOMKilled of all its containers.
        OomKills::None => false,
        OomKills::OfJob if end == KILLED && !memory.stopped => true,
        OomKills::OfJob | OomKills::Unknown => told,
    };
    if killed && end != End::Exited(0) { Outcome::OutOfMemory(end) } else { Outcome::Ended(end) }
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

    /// [`super::judge`] where nothing is known of the memory.
    fn judge(kernel: Option<(End, Certainty)>, runtime: Option<&RuntimeWord>) -> Outcome {
        super::judge(kernel, runtime, Memory::default())
    }

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

    #[test]
    fn out_of_memory_is_told_from_what_looks_like_it() {
        use OomKills::{None as NoKill, OfContainer, OfJob, Unknown};
        const EXIT_137: End = End::Exited(137);
        let (oom, error, well) = ("OOMKilled", "Error", "Completed");
        // End, the runtime's reason, kernel's count, stopped by us; out of memory?
        let table = [
            // PID 1 was killed.
            (KILLED, oom, OfContainer, false, true),
            (KILLED, error, OfContainer, false, true),
            (KILLED, oom, Unknown, false, true),
            (KILLED, error, OfJob, false, true),
            // By somebody else, or by us.
            (KILLED, error, NoKill, false, false),
            (KILLED, error, Unknown, false, false),
            (KILLED, error, OfJob, true, false),
            (KILLED, error, NoKill, true, false),
            // Another container's: the runtime only knows that memory was out in the job.
            (KILLED, oom, NoKill, false, false),
            (End::Exited(1), oom, NoKill, false, false),
            (End::Exited(1), error, OfJob, false, false),
            // A child was killed, and PID 1 went on.
            (End::Exited(5), oom, OfContainer, false, true),
            (End::Exited(5), error, OfContainer, false, true),
            (End::Exited(5), oom, Unknown, false, true),
            (EXIT_137, error, OfContainer, false, true),
            (End::Signalled(11), error, OfContainer, false, true),
            (End::Exited(0), oom, OfContainer, false, false),
            (End::Exited(0), oom, Unknown, false, false),
            // It was out of memory before we stopped it.
            (KILLED, oom, OfContainer, true, true),
            (End::Signalled(15), error, OfContainer, true, true),
            // It merely exits 137.
            (EXIT_137, error, NoKill, false, false),
            (EXIT_137, error, Unknown, false, false),
            (EXIT_137, error, OfJob, false, false),
            (End::Exited(0), well, NoKill, false, false),
        ];
        for (end, reason, kills, stopped, out) in table {
            let memory = Memory { kills, stopped };
            let code = i32::from(shell_code(end));
            let judged = super::judge(Some((end, Certainty::Named)), Some(&word(code, reason)), memory);
            let wanted = if out { Outcome::OutOfMemory(end) } else { Outcome::Ended(end) };
            assert_eq!(judged, wanted, "{end:?}, {reason}, {memory:?}");
        }
    }

    #[test]
    fn out_of_memory_is_known_without_the_runtime_too() {
        let memory = Memory { kills: OomKills::OfContainer, stopped: false };
        let killed = Some((KILLED, Certainty::Named));
        assert_eq!(super::judge(killed, None, memory), Outcome::OutOfMemory(KILLED));
        // An old kernel: the runtime's 137 is all there is of the end.
        assert_eq!(super::judge(None, Some(&word(137, "Error")), memory), Outcome::OutOfMemory(KILLED));
        assert!(matches!(super::judge(None, None, memory), Outcome::Lost { .. }));
        assert!(matches!(super::judge(None, Some(&word(255, "Unknown")), memory), Outcome::Lost { .. }));
    }
}
