//! A node's configuration for one test of a command, and the command run with it.

use super::runtime::Runtime;
use super::supervisor::BINARY;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A scratch directory with a `config.yaml`; gone when dropped.
pub struct ConfiguredNode(pub PathBuf);

/// What a command said and how it ended.
pub struct Said {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl ConfiguredNode {
    /// With this configuration; `ROOT` in it stands for the directory.
    pub fn with(config: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/var/tmp/cs-node-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&root).expect("/var/tmp is there");
        let config = config.replace("ROOT", &root.display().to_string());
        std::fs::write(root.join("config.yaml"), config).expect("the directory is ours");
        Self(root)
    }

    /// With containers on `runtime`, and `more` below `Container:`.
    pub fn on(runtime: &Runtime, more: &str) -> Self {
        let endpoint = runtime.endpoint();
        Self::with(&format!(
            "CraneBaseDir: ROOT/crane/\nContainer:\n  Enabled: true\n  RuntimeEndpoint: {endpoint}\n{more}"
        ))
    }

    /// Runs a command of ours as root.
    pub fn call(&self, name: &str, arguments: &[&str]) -> Said {
        said(self.command(name, arguments).output().expect("our binary starts"))
    }

    /// Runs it as another user.
    pub fn call_as(&self, uid: u32, name: &str, arguments: &[&str]) -> Said {
        said(self.command(name, arguments).uid(uid).gid(uid).output().expect("our binary starts"))
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg(name).arg("-C").arg(self.0.join("config.yaml")).args(arguments);
        command.current_dir(&self.0).env("HOME", &self.0).env_remove("SUDO_UID").env_remove("SUDO_GID");
        command.stdin(Stdio::null());
        command
    }
}

fn said(output: Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

impl Drop for ConfiguredNode {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
