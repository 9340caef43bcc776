//! What a test does to its testbed, and how it puts it right again.

use super::runtime::Runtime;
use super::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// One runtime of the testbed.
pub struct Bed {
    /// The runtime.
    pub runtime: Runtime,
    /// How long it is kept frozen.
    pub frozen: Duration,
    dir: PathBuf,
    home: PathBuf,
}

impl Bed {
    /// The testbed that `runtime` is of.
    pub fn of(runtime: &Runtime, frozen: Duration) -> Self {
        let dir = PathBuf::from(std::env::var_os("CRANE_TESTBED_DIR").expect("scripts/testbed sets it"));
        let home = dir.join(runtime.name());
        Self { runtime: runtime.clone(), frozen, dir, home }
    }

    fn testbed(&self, words: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/testbed");
        let mut command = Command::new(script);
        command.arg(words[0]).arg(&self.dir).args(&words[1..]);
        assert!(command.status().expect("scripts/testbed starts").success(), "testbed {words:?}");
    }

    /// Ends the runtime.
    pub fn stop(&self, how: Signal) {
        let name = self.runtime.name();
        if how == Signal::SIGKILL { self.testbed(&["stop", &name, "--kill"]) } else { self.testbed(&["stop", &name]) }
    }

    /// Starts it again, and waits until it answers.
    pub fn start(&self) {
        self.testbed(&["start", &self.runtime.name()]);
    }

    /// SIGSTOP and SIGCONT.
    pub fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(self.home.join("pid")).expect("the runtime runs");
        kill(Pid::from_raw(pid.trim().parse().expect("a pid")), signal).expect("it is ours");
    }

    /// Shell text that runs before each call of the OCI runtime, whose arguments are `$*`.
    pub fn before_oci(&self, text: &str) {
        for name in ["runc", "runc-new"] {
            self.wrap(&self.home.join(format!("oci-{name}")), text);
        }
    }

    /// Shell text that runs before the network plugin; `$CNI_COMMAND` says for what.
    pub fn before_network(&self, text: &str) {
        self.wrap(&self.home.join("cni-bin/bridge"), text);
    }

    fn wrap(&self, program: &PathBuf, text: &str) {
        let Ok(real) = fs::read_link(program) else { return };
        let part = program.with_extension("part");
        let script = format!("#!/bin/sh\n{text}\nexec '{}' \"$@\"\n", real.display());
        fs::write(&part, script).expect("the testbed is ours");
        fs::set_permissions(&part, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        let kept = program.with_extension("real");
        fs::rename(program, &kept).expect("it is ours");
        fs::rename(&part, program).expect("it is ours");
    }

    /// Puts wrapped programs back.
    pub fn repair(&self) {
        for program in ["oci-runc", "oci-runc-new", "cni-bin/bridge"].map(|name| self.home.join(name)) {
            let kept = program.with_extension("real");
            if kept.symlink_metadata().is_ok() {
                fs::rename(&kept, &program).expect("it is ours");
            }
        }
        // A runtime that was frozen or busy is itself again when it answers.
        wait::until(Duration::from_secs(60), || (!self.runtime.cri().version().is_empty()).then_some(()));
    }
}
