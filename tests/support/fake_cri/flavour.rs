//! Where runtimes differ.

use std::time::Duration;
use tonic::Code;

/// What RuntimeConfig answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// UNIMPLEMENTED, as before containerd 2.0.
    Unsaid,
    /// CGROUPFS.
    Cgroupfs,
    /// SYSTEMD, which cannot use craned's cgroups.
    Systemd,
}

/// What happens with a name that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicate {
    /// This code with `... is reserved for "<id>"`.
    Refused(Code),
    /// The existing one's id, as if it had just been made.
    SameId,
}

/// One kind of runtime.
#[derive(Clone, Debug)]
pub struct Flavour {
    /// In failures, and in Version.
    pub name: &'static str,
    /// Version's `runtime_version`.
    pub version: &'static str,
    /// RuntimeConfig.
    pub driver: Driver,
    /// Names that are taken.
    pub duplicate: Duplicate,
    /// The init exists from Create on, its pid is shown from then on and for ever.
    pub pid_after_create: bool,
    /// A missing program fails Create, not Start.
    pub create_looks_for_program: bool,
    /// Stopping or removing something running spends the caller's deadline as its grace.
    pub deadline_is_grace: bool,
    /// StopContainer and StopPodSandbox of what is unknown are NOT_FOUND.
    pub stop_of_unknown_fails: bool,
    /// Longest payload of one log record.
    pub log_chunk: usize,
    /// From the process's end to EXITED.
    pub exit_lag: Duration,
}

impl Flavour {
    /// containerd 1.6.
    pub fn containerd() -> Self {
        Self {
            name: "containerd",
            version: "1.6.20",
            driver: Driver::Unsaid,
            duplicate: Duplicate::Refused(Code::Unknown),
            pid_after_create: false,
            create_looks_for_program: false,
            deadline_is_grace: false,
            stop_of_unknown_fails: true,
            log_chunk: 16384,
            exit_lag: Duration::from_millis(20),
        }
    }

    /// containerd 2.x.
    pub fn containerd2() -> Self {
        Self {
            version: "2.1.9",
            driver: Driver::Cgroupfs,
            duplicate: Duplicate::Refused(Code::FailedPrecondition),
            stop_of_unknown_fails: false,
            ..Self::containerd()
        }
    }

    /// CRI-O.
    pub fn crio() -> Self {
        Self {
            name: "cri-o",
            version: "1.36.3",
            driver: Driver::Cgroupfs,
            duplicate: Duplicate::SameId,
            pid_after_create: true,
            create_looks_for_program: true,
            deadline_is_grace: true,
            stop_of_unknown_fails: false,
            log_chunk: 8192,
            exit_lag: Duration::from_millis(20),
        }
    }

    /// The same on the systemd driver.
    pub fn on_systemd(self) -> Self {
        Self { driver: Driver::Systemd, ..self }
    }
}
