//! A container's init as a plain process of its own group.

use super::log::Log;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

/// What to run, taken from CRI's container configuration.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory, if it exists here.
    pub dir: String,
    /// Host ids.
    pub uid: Option<u32>,
    /// Host ids.
    pub gid: Option<u32>,
}

/// A started init; with a gate it waits before its program until [`Init::open`].
pub struct Init {
    /// Its pid, which is also its group.
    pub pid: u32,
    gate: Option<ChildStdin>,
}

impl Program {
    /// Does the program exist? Bare names are looked for in the usual places.
    pub fn exists(&self) -> bool {
        let name = self.command.first().map_or("", String::as_str);
        let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"];
        if name.starts_with('/') {
            Path::new(name).exists()
        } else {
            places.iter().any(|p| Path::new(p).join(name).exists())
        }
    }

    /// Starts it at once.
    pub fn start(&self) -> std::io::Result<(Init, Child)> {
        let name = self.command.first().cloned().unwrap_or_default();
        let mut command = Command::new(name);
        command.args(self.command.iter().skip(1)).stdin(Stdio::null());
        self.spawn(command)
    }

    /// Starts a process that becomes it when the gate opens.
    pub fn start_gated(&self) -> std::io::Result<(Init, Child)> {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r _; exec \"$@\" </dev/null", "sh"]).args(&self.command).stdin(Stdio::piped());
        self.spawn(command)
    }

    fn spawn(&self, mut command: Command) -> std::io::Result<(Init, Child)> {
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").envs(self.env.iter().cloned());
        command.current_dir(if Path::new(&self.dir).is_dir() { &self.dir } else { "/" });
        if let (Some(uid), gid) = (self.uid, self.gid) {
            command.uid(uid).gid(gid.unwrap_or(uid));
        }
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        Ok((Init { pid: child.id(), gate: child.stdin.take() }, child))
    }
}

impl Init {
    /// Lets a gated init become its program.
    pub fn open(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            let _ = gate.write_all(b"\n");
        }
    }

    /// Signals the init's group; its end in between is no error.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

/// Copies the output and waits for the end; then ends the rest of the group,
/// as the end of a pid namespace does, and drains what it wrote.
pub fn attend(mut child: Child, log: Option<Log>) -> i32 {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let pid = child.id();
    let copy = |stream: &'static str, log: Option<Log>, from: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || match (log, from) {
            (Some(log), Some(from)) => log.copy(stream, from),
            (None, Some(mut from)) => drop(std::io::copy(&mut from, &mut std::io::sink())),
            (_, None) => {}
        })
    };
    let copies = [
        copy("stdout", log.clone(), out.map(|from| Box::new(from) as _)),
        copy("stderr", log, err.map(|from| Box::new(from) as _)),
    ];
    let status = child.wait();
    Init { pid, gate: None }.signal(Signal::SIGKILL);
    copies.into_iter().for_each(|copy| drop(copy.join()));
    status.map_or(255, shown)
}

/// The exit code as runtimes show it: 128+N for signals.
fn shown(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
