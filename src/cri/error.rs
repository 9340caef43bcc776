//! What a failed CRI call means for us.
//!
//! The class decides what happens next; the text is only for people. One
//! exception: containerd before 2.0 reports a taken name, and that it is only starting,
//! as UNKNOWN, so those two are also read from its wording.

use std::time::Duration;
use tonic::{Code, Status};

/// What to do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The object is not there (any more).
    Gone,
    /// The runtime is away, restarting or slow; what was asked may have been done.
    Unsure,
    /// The name is taken: by an earlier attempt of ours, most likely.
    NameTaken,
    /// The runtime does not have this call.
    Unimplemented,
    /// Asking again gives the same answer.
    Permanent,
}

/// A CRI call that did not work.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The runtime answered with an error, or the connection broke.
    #[error("{call}: {message}")]
    Refused {
        /// The CRI method.
        call: &'static str,
        /// gRPC's code.
        code: Code,
        /// The runtime's first line.
        message: String,
    },
    /// No answer in time.
    #[error("{call}: no answer from the runtime within {limit:?}")]
    TimedOut {
        /// The CRI method.
        call: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The runtime went away while it started a container, and knows now that it did not.
    #[error("StartContainer: the runtime went away while it started the container, which did not run: {0}")]
    CutOff(Box<CriError>),
    /// The answer lacks what the protocol promises.
    #[error("{call}: the runtime's answer has no {missing}")]
    Malformed {
        /// The CRI method.
        call: &'static str,
        /// The missing field.
        missing: &'static str,
    },
}

impl CriError {
    /// Wraps a gRPC status.
    pub fn of(call: &'static str, status: &Status) -> Self {
        let message = status.message().lines().next().unwrap_or_default();
        let message = match message.char_indices().nth(1024) {
            Some((cut, _)) => &message[..cut],
            None if message.is_empty() => status.code().description(),
            None => message,
        };
        let source = std::error::Error::source(status).map(root_of);
        // A runtime's own words come without a cause; with one, the connection broke.
        let code = if source.is_some() { Code::Unavailable } else { status.code() };
        let source = source.filter(|cause| !message.contains(cause.as_str()));
        let message = match source {
            Some(cause) => format!("{message}: {cause}"),
            None => message.to_owned(),
        };
        Self::Refused { call, code, message }
    }

    /// Whether it is about the pod's network; for a hint to people alone.
    pub fn names_network(&self) -> bool {
        let text = self.to_string();
        ["cni", "CNI", "setup network", "pod network"].iter().any(|word| text.contains(word))
    }

    /// Whether the node's packet filter refused the pod's network for something that passes: another pod
    /// or program changed it just then, or holds its lock (iptables' exit status 4).
    ///
    /// As for the names above, no code tells it; what follows is one more try.
    pub fn names_busy_packet_filter(&self) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        message.contains("iptables") && message.contains("exit status 4:")
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::TimedOut { .. } | Self::CutOff(_) => Class::Unsure,
            Self::Malformed { .. } => Class::Permanent,
            Self::Refused { code, message, .. } => match code {
                Code::NotFound => Class::Gone,
                Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Aborted
                | Code::ResourceExhausted => Class::Unsure,
                Code::AlreadyExists => Class::NameTaken,
                Code::Unimplemented => Class::Unimplemented,
                Code::Unknown | Code::FailedPrecondition if message.contains("is reserved for") => Class::NameTaken,
                // containerd that listens already and reads its state still.
                Code::Unknown if message.contains("server is not initialized yet") => Class::Unsure,
                _ => Class::Permanent,
            },
        }
    }
}

impl CriError {
    /// Whether the container's program is missing or cannot be executed.
    ///
    /// Runtimes have no code for it; CRI-O already says so at CreateContainer.
    /// Only craned's exit code hangs on this, no decision.
    pub fn names_missing_program(&self) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        let why = ["no such file or directory", "executable file not found", "permission denied"];
        message.contains("exec: ") && why.iter().any(|why| message.contains(why))
    }

    /// Whether an OCI runtime failed to set the flags of a mount that are locked.
    ///
    /// As above, no code tells it; what follows is a second try that asks for less.
    pub fn names_locked_mount(&self) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        message.contains("error mounting") && message.contains("operation not permitted")
    }

    /// Whether the container is being started already, by a call whose answer did not come.
    ///
    /// containerd's wording; its code is UNKNOWN, as for starts that failed.
    pub fn names_start_under_way(&self) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        message.contains("already in starting state")
    }

    /// Whether containerd 1.7 is copying the image for the same user namespace for another container.
    pub fn names_snapshot_in_the_making(&self) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        message.contains("-remap\"") && message.contains("already exists")
    }
}

/// The innermost cause says what happened; the layers above only that something did.
fn root_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(deeper) = root.source() {
        root = deeper;
    }
    root.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_is_seen_on_every_containerd() {
        for code in [Code::Unknown, Code::FailedPrecondition] {
            let status = Status::new(code, r#"failed to reserve container name "job-1-1": name is reserved for "abc""#);
            assert_eq!(CriError::of("CreateContainer", &status).class(), Class::NameTaken);
        }
        let other = Status::new(Code::Unknown, "no such image");
        assert_eq!(CriError::of("CreateContainer", &other).class(), Class::Permanent);
    }

    #[test]
    fn a_packet_filter_that_is_busy_is_told_from_one_that_refuses() {
        let of = |text: &str| CriError::of("RunPodSandbox", &Status::new(Code::Unknown, text));
        let race = r#"plugin type="portmap" failed (add): unable to create chain CNI-HOSTPORT-SETMARK: running [/usr/sbin/iptables -t nat -N CNI-HOSTPORT-SETMARK --wait]: exit status 4: iptables v1.8.9 (nf_tables):  CHAIN_USER_ADD failed (File exists): chain CNI-HOSTPORT-SETMARK"#;
        assert!(of(race).names_busy_packet_filter());
        assert!(!of(&race.replace("exit status 4", "exit status 2")).names_busy_packet_filter());
        assert!(!of("exit status 4: of another program").names_busy_packet_filter());
    }

    #[test]
    fn a_containerd_that_is_starting_is_waited_for() {
        let status = Status::new(Code::Unknown, "server is not initialized yet");
        assert_eq!(CriError::of("PodSandboxStatus", &status).class(), Class::Unsure);
    }

    #[test]
    fn a_connection_that_broke_leaves_open_what_was_done() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert_eq!(CriError::of("StartContainer", &broken).class(), Class::Unsure);
    }

    #[test]
    fn a_long_message_is_cut_to_its_first_line() {
        let status = Status::new(Code::Internal, format!("{}\nsecond", "é".repeat(5000)));
        assert!(CriError::of("X", &status).to_string().chars().count() < 1100);
    }
}
