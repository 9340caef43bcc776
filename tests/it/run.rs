//! `crane-supervisor run` as a person types it, on real runtimes: what it
//! prints, how it exits, and that nothing stays.

use crate::support::runtime::{Runtime, on_each};
use crate::support::{LONG, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A scratch CraneBaseDir and the configuration that names it.
struct Node(PathBuf);

impl Node {
    fn with(container: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/var/tmp/cs-run-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("cwd")).unwrap();
        let config = format!("CraneBaseDir: {0}/crane/\nContainer:\n{container}", root.display());
        fs::write(root.join("config.yaml"), config).unwrap();
        Self(root)
    }

    fn on(runtime: &Runtime) -> Self {
        Self::with(&format!("  Enabled: true\n  RuntimeEndpoint: {}\n", runtime.endpoint()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crane-supervisor"));
        command.arg("run").arg("-C").arg(self.0.join("config.yaml")).args(arguments).current_dir(self.0.join("cwd"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs with `--json`; the output before the object, and the object.
    fn told(&self, arguments: &[&str]) -> (Output, String, serde_json::Value) {
        let output = self.run(&[&["--json"], arguments].concat());
        let (before, object) = split(&output.stdout);
        (output, before, object)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let steps = entries(&self.0.join("crane/supervisor/containers"));
        let removed = fs::remove_dir_all(&self.0);
        if !std::thread::panicking() {
            assert!(steps.is_empty(), "left in TempDir: {steps:?}");
            removed.unwrap();
        }
    }
}

fn split(stdout: &[u8]) -> (String, serde_json::Value) {
    let text = String::from_utf8_lossy(stdout).into_owned();
    let line = text.lines().last().unwrap_or_default().to_owned();
    let before = text.strip_suffix(&format!("{line}\n")).unwrap_or_default().to_owned();
    (before, serde_json::from_str(&line).unwrap_or_else(|error| panic!("no JSON at the end: {error}: {text:?}")))
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(found) = fs::read_dir(dir) else { return Vec::new() };
    found.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Nothing of the job is left anywhere.
fn clean(runtime: &Runtime, told: &serde_json::Value) {
    let job = u32::try_from(told["job"].as_u64().unwrap()).unwrap();
    let mut cri = runtime.cri();
    assert_eq!((cri.pods(job).len(), cri.containers(job).len()), (0, 0), "job {job} on {}", runtime.name());
    for step in [0, 1] {
        let socket = format!("/tmp/crane/step_{job}.{step}.sock");
        assert!(!Path::new(&socket).exists(), "{socket}");
    }
    assert!(!Path::new(&format!("/run/crane-supervisor-{job}")).exists(), "the claim of job {job}");
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn hello_is_printed_alone() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let output = node.run(&["alpine:latest", "--", "echo", "Hello from container"]);
        assert_eq!(output.stdout, b"Hello from container\n", "{}", stderr(&output));
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
        assert!(entries(&node.0.join("cwd")).is_empty(), "a success leaves its output behind");
    });
}

#[test]
fn exit_codes_and_both_streams_pass_through() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        for (script, code) in [("exit 7", 7), ("exit 130", 130), ("exit 255", 255)] {
            let (output, _, told) = node.told(&["alpine:latest", "--", "sh", "-c", script]);
            assert_eq!(output.status.code(), Some(code), "{script}: {}", stderr(&output));
            clean(runtime, &told);
        }
        let script = "echo out; echo err >&2; printf unfinished";
        let (output, before, told) = node.told(&["alpine:latest", "--", "sh", "-c", script]);
        assert_eq!(before, "out\nunfinished\n", "the object is on a line of its own");
        assert_eq!(stderr(&output), "err\n");
        clean(runtime, &told);
    });
}

#[test]
fn options_reach_the_container() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let script = "echo $A,$B; pwd; id -u; grep -c . /etc/passwd >/dev/null && echo read";
        let (output, before, told) = node.told(&[
            "-p",
            "CPU",
            "-e",
            "A=1",
            "--env",
            "B=two words",
            "-w",
            "/tmp",
            "-u",
            "0",
            "--network",
            "host",
            "--name",
            "mine",
            "alpine:latest",
            "--",
            "sh",
            "-c",
            script,
        ]);
        assert!(before.starts_with("1,two words\n/tmp\n0\n"), "{before}");
        assert!(stderr(&output).contains("ignoring the partition CPU"), "{}", stderr(&output));
        clean(runtime, &told);
        let (output, before, _) = node.told(&["--entrypoint", "/bin/echo", "alpine:latest", "as", "arguments"]);
        assert_eq!(before, "as arguments\n", "{}", stderr(&output));
    });
}

#[test]
fn a_time_limit_ends_the_job() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let begun = Instant::now();
        let script = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
        let (output, _, told) = node.told(&["--time", "2s", "alpine:latest", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(124));
        assert_eq!(told["status"], "ExceedTimeLimit");
        assert!(stderr(&output).contains("time limit reached"), "{}", stderr(&output));
        assert!(begun.elapsed() < Duration::from_secs(12), "longer than the grace: {:?}", begun.elapsed());
        clean(runtime, &told);
    });
}

fn ready(child: &mut Child) {
    let mut word = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"ready\n");
}

#[test]
fn ctrl_c_stops_the_job_and_leaves_nothing() {
    on_each(|runtime| {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let node = Node::on(runtime);
            let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
            let mut child = node.command(&["--json", "alpine:latest", "--", "sh", "-c", script]).spawn().unwrap();
            ready(&mut child);
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
            let status = wait::until(LONG, || child.try_wait().unwrap()).expect("run did not end");
            assert_eq!(status.code(), Some(5), "the container's own end");
            let mut rest = Vec::new();
            child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
            let (_, told) = split(&rest);
            assert_eq!(told["status"], "Cancelled");
            clean(runtime, &told);
        }
    });
}

#[test]
fn what_cannot_run_is_125_with_its_reason() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        for (arguments, reason) in [
            (&["alpine:latest", "--", "/no/such"][..], "no such file or directory"),
            (&["--pull-policy", "Never", "nowhere:1", "--", "true"], "pull policy is Never"),
            (&["--pull-policy", "sometimes", "alpine:latest", "--", "true"], "sometimes"),
        ] {
            let output = node.run(arguments);
            assert_eq!(output.status.code(), Some(125), "{arguments:?}");
            assert!(stderr(&output).contains(reason), "{arguments:?}: {}", stderr(&output));
        }
    });
}

#[test]
fn the_guides_messages_are_said() {
    for (container, message) in [
        ("  Enabled: false\n", "container feature not enabled"),
        ("  Enabled: true\n", "RuntimeEndpoint is not configured."),
        ("  Enabled: true\n  RuntimeEndpoint: /nowhere.sock\n", "Failed to get CRI version: "),
    ] {
        let output = Node::with(container).run(&["alpine:latest", "--", "true"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains(message), "{message}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let mut child = node.command(&["alpine:latest", "--", "seq", "200000"]).spawn().unwrap();
        let mut first = [0; 2];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        assert_eq!(&first, b"1\n");
        let status = wait::until(LONG, || child.try_wait().unwrap()).expect("run did not end");
        assert_eq!(status.code(), Some(0));
    });
}
