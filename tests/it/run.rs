//! `crane-supervisor run` as a person types it, on real runtimes: what it
//! prints, how it exits, and that nothing stays.

use crate::support::runtime::{Runtime, on_each, on_each_with_userns, on_each_without_userns};
use crate::support::user::TestUser;
use crate::support::{LONG, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A scratch CraneBaseDir and the configuration that names it.
pub struct Node(pub PathBuf);

impl Node {
    pub fn with(container: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/var/tmp/cs-run-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("cwd")).unwrap();
        let config = format!("CraneBaseDir: {0}/crane/\nContainer:\n{container}", root.display());
        fs::write(root.join("config.yaml"), config).unwrap();
        Self(root)
    }

    pub fn on(runtime: &Runtime) -> Self {
        Self::with(&format!("  Enabled: true\n  RuntimeEndpoint: {}\n", runtime.endpoint()))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crane-supervisor"));
        command.arg("run").arg("-C").arg(self.0.join("config.yaml")).args(arguments).current_dir(self.0.join("cwd"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs with `--json`; the output before the object, and the object. The logs are kept, as evidence.
    pub fn told(&self, arguments: &[&str]) -> (Output, String, serde_json::Value) {
        let output = self.run(&[&["--json", "--keep"], arguments].concat());
        let (before, object) = split(&output.stdout);
        (output, before, object)
    }
}

impl Node {
    /// What the runtime wrote, and what the supervisors did, for a test that failed.
    fn show(&self) {
        let logs = self.0.join("crane/supervisor");
        for name in entries(&logs) {
            if let Ok(text) = fs::read(logs.join(&name)) {
                eprintln!("--- {name}\n{}", String::from_utf8_lossy(&text[text.len().saturating_sub(6000)..]));
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        let steps = entries(&self.0.join("crane/supervisor/containers"));
        let removed = fs::remove_dir_all(&self.0);
        if !std::thread::panicking() {
            assert!(steps.is_empty(), "left in TempDir: {steps:?}");
            removed.unwrap();
        }
    }
}

pub fn split(stdout: &[u8]) -> (String, serde_json::Value) {
    let text = String::from_utf8_lossy(stdout).into_owned();
    let line = text.lines().last().unwrap_or_default().to_owned();
    let before = text.strip_suffix(&format!("{line}\n")).unwrap_or_default().to_owned();
    (before, serde_json::from_str(&line).unwrap_or_else(|error| panic!("no JSON at the end: {error}: {text:?}")))
}

pub fn entries(dir: &Path) -> Vec<String> {
    let Ok(found) = fs::read_dir(dir) else { return Vec::new() };
    found.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Nothing of the job is left anywhere.
pub fn clean(runtime: &Runtime, told: &serde_json::Value) {
    let job = u32::try_from(told["job"].as_u64().unwrap()).unwrap();
    let mut cri = runtime.cri();
    assert_eq!((cri.pods(job).len(), cri.containers(job).len()), (0, 0), "job {job} on {}", runtime.name());
    for step in [0, 1] {
        let socket = format!("/tmp/crane/step_{job}.{step}.sock");
        assert!(!Path::new(&socket).exists(), "{socket}");
    }
    assert!(!Path::new(&format!("/run/crane-supervisor-{job}")).exists(), "the claim of job {job}");
}

/// Without the line that names what was kept: nearly all tests keep it, as evidence.
pub fn stderr(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.split_inclusive('\n').filter(|line| !line.starts_with("crane-supervisor: kept: ")).collect()
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

/// What is said about `arguments` that are refused before anything is started.
fn refused(node: &Node, arguments: &[&str]) -> String {
    let output = node.run(&[arguments, &["alpine:latest", "--", "true"]].concat());
    assert_eq!(output.status.code(), Some(125), "{arguments:?}");
    assert!(output.stdout.is_empty() && !node.0.join("crane").exists(), "{arguments:?} started something");
    stderr(&output)
}

#[test]
fn a_bad_spelling_is_refused_with_its_option() {
    let node = Node::with("  Enabled: true\n  RuntimeEndpoint: /nowhere.sock\n");
    for (arguments, option, reason) in [
        (&["-v", "/srv"][..], "--volume", "no colon"),
        (&["-v", ":/data"], "--volume", "the host path is empty"),
        (&["--volume", "/srv:"], "--volume", "the container path is empty"),
        (&["-v", "/srv:data"], "--volume", "\"data\" is not absolute"),
        (&["-v", "/srv:/data:rx"], "--volume", "\"rx\" after the container path"),
        (&["-v", "/srv:/a", "-v", "/srv:/b:ro"], "-v", "\"/srv\" twice"),
        (&["--userns=maybe"], "--userns", "maybe"),
        (&["-u", "root"], "--user", "not a numeric id"),
        (&["--as", "1000:users"], "--as", "\"users\" is not a numeric id"),
        (&["--as", "no_such_user_here"], "--as", "knows no such user"),
    ] {
        let said = refused(&node, arguments);
        assert!(said.contains(option) && said.contains(reason), "{arguments:?}: {said}");
    }
}

#[test]
fn a_job_may_be_somebody_elses() {
    let user = TestUser::without_ranges();
    on_each(|runtime| {
        let node = Node::on(runtime);
        let ids = format!("{} {}\n", user.uid, user.gid);
        let script = ["alpine:latest", "--", "sh", "-c", "echo $(id -u) $(id -g)"];
        for spelling in [user.name.clone(), user.uid.to_string(), format!("{}:{}", user.uid, user.gid)] {
            let output = node.run(&[&["--keep", "--as", &spelling], &script[..]].concat());
            // The working directory is root's: no copy of the output, which is no failure.
            assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()), "{spelling}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), ids, "{spelling}");
        }
        let cwd = user.dir(&node.0.join("cwd"), 0o700);
        let (output, _, told) = node.told(&["--as", &user.name, "alpine:latest", "--", "echo", "mine"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let copy = cwd.join(format!("{}.out", told["job"]));
        assert_eq!(fs::metadata(&copy).unwrap().uid(), user.uid, "the copy is the job's user's");
        let kept: Vec<_> = told["kept"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
        assert!(kept.contains(&copy.to_str().unwrap()), "{kept:?}");
        clean(runtime, &told);
    });
}

/// A node where user namespaces are the default.
fn node_with_userns(runtime: &Runtime) -> Node {
    let endpoint = runtime.endpoint();
    Node::with(&format!("  Enabled: true\n  UserNsEnabledByDefault: true\n  RuntimeEndpoint: {endpoint}\n"))
}

/// Runs without a user namespace, which is seen from inside; what was said.
fn runs_without(node: &Node, arguments: &[&str]) -> String {
    let output = node.run(&[arguments, &["alpine:latest", "--", "cat", "/proc/self/uid_map"]].concat());
    let map = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(map, "0 0 4294967295", "{arguments:?}: {}", stderr(&output));
    stderr(&output)
}

const SAID: &str = "without a user namespace, although UserNsEnabledByDefault is set";

#[test]
fn a_runtime_that_cannot_gets_no_wish_for_a_user_namespace() {
    on_each_without_userns(|runtime| {
        let said = refused(&Node::on(runtime), &["--userns"]);
        assert!(said.contains("--userns asks for"), "{said}");
        let node = node_with_userns(runtime);
        let said = runs_without(&node, &[]);
        assert!(said.contains(SAID), "{said}");
        assert_eq!(runs_without(&node, &["--userns=false"]), "");
    });
}

#[test]
fn on_the_nodes_network_a_user_namespace_is_never_left_out_unsaid() {
    on_each_with_userns(|runtime| {
        let said = refused(&Node::on(runtime), &["--userns", "--network", "host"]);
        assert!(said.contains("a network of their own"), "{said}");
        let node = node_with_userns(runtime);
        let said = runs_without(&node, &["--network", "host"]);
        assert!(said.contains(SAID), "{said}");
        assert_eq!(runs_without(&node, &["--userns=false"]), "");
    });
}

#[test]
fn root_mounts_nothing_into_a_user_namespace() {
    on_each_with_userns(|runtime| {
        for (node, arguments) in [
            (Node::on(runtime), &["--userns", "-v", "/srv:/data"][..]),
            (node_with_userns(runtime), &["-v", "/srv:/data"]),
            (node_with_userns(runtime), &["--as", "root", "-v", "/srv:/data"]),
        ] {
            let said = refused(&node, arguments);
            assert!(said.contains("--as UID[:GID]"), "{arguments:?}: {said}");
        }
    });
}

/// A node with user namespaces, with bindfs or without it.
fn node_with_mounts(runtime: &Runtime, bindfs: bool) -> Node {
    let node = Node::with("");
    let root = node.0.display();
    let container = format!(
        "  Enabled: true\n  RuntimeEndpoint: {}\n  BindFs:\n    Enabled: {bindfs}\n    MountBaseDir: {root}/mnt\n",
        runtime.endpoint()
    );
    fs::write(node.0.join("config.yaml"), format!("CraneBaseDir: {root}/crane/\nContainer:\n{container}")).unwrap();
    node
}

#[test]
fn what_container_root_writes_belongs_to_the_jobs_user() {
    let user = TestUser::new();
    on_each_with_userns(|runtime| {
        for bindfs in [false, true] {
            let node = node_with_mounts(runtime, bindfs);
            let theirs = user.dir(&node.0.join("theirs"), 0o700);
            user.file(&theirs.join("given"), "from outside", 0o600);
            let volume = format!("{}:/data", theirs.display());
            let script = "id -u; cat /data/given; touch /data/x";
            let (output, before, told) =
                node.told(&["--userns", "--as", &user.name, "-v", &volume, "alpine:latest", "--", "sh", "-c", script]);
            assert_eq!((output.status.code(), before.as_str()), (Some(0), "0\nfrom outside\n"), "{}", stderr(&output));
            let made = fs::metadata(theirs.join("x")).unwrap();
            assert_eq!((made.uid(), made.gid()), (user.uid, user.gid), "bindfs: {bindfs}");
            clean(runtime, &told);

            let user_cwd = user.dir(&node.0.join("cwd"), 0o700);
            user.dir(&user_cwd.join("sub"), 0o700);
            let script = "touch /sub/x 2>/dev/null || echo read-only";
            let (output, before, told) = node.told(&[
                "--userns",
                "--as",
                &user.name,
                "-v",
                "sub:/sub:ro",
                "alpine:latest",
                "--",
                "sh",
                "-c",
                script,
            ]);
            assert_eq!((output.status.code(), before.as_str()), (Some(0), "read-only\n"), "{}", stderr(&output));
            clean(runtime, &told);
            assert!(entries(&node.0.join("mnt")).is_empty(), "bindfs: {bindfs}");
        }
    });
}

#[test]
fn a_host_path_without_a_user_namespace_is_the_users_too() {
    let user = TestUser::without_ranges();
    on_each(|runtime| {
        let node = node_with_mounts(runtime, false);
        let theirs = user.dir(&node.0.join("theirs"), 0o700);
        let volume = format!("{}:/data", theirs.display());
        let script = ["alpine:latest", "--", "touch", "/data/x"];
        let (output, _, told) = node.told(&[&["--as", &user.name, "-v", &volume], &script[..]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(fs::metadata(theirs.join("x")).unwrap().uid(), user.uid);
        clean(runtime, &told);

        let absent = format!("{}/absent:/data", theirs.display());
        let (output, _, _) = node.told(&[&["--as", &user.name, "-v", &absent], &script[..]].concat());
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains("absent"), "{}", stderr(&output));
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
