//! A person, or a pipe, at a program in a container: `run -i`, `-t`, `-d`, `exec`, and what
//! craned's own attach needs; on real runtimes and with real terminals.

use crate::run::{Node, clean, entries, stderr};
use crate::support::job::Job;
use crate::support::runtime::{Runtime, on_each};
use crate::support::terminal::Terminal;
use crate::support::{LONG, wait};
use crane_supervisor::cri::client::{Client, Limits};
use crane_supervisor::cri::endpoint::Endpoint;
use crane_supervisor::cri::find::{self, FindError};
use crane_supervisor::cri::streaming::Wanted;
use crane_supervisor::ids::StepId;
use crane_supervisor::interact::session::{self, Incoming, Protocol};
use crane_supervisor::wire::crane::JobStatus;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::LocalFlags;
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::thread;

/// Runs `command` with `input`.
fn fed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // A program that does not read to the end is another test's.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

impl Node {
    fn exec(&self, step: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crane-supervisor"));
        command.args(["exec", "-C"]).arg(self.0.join("config.yaml")).arg(step).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Starts a job that stays when we leave; its step.
    fn detached(&self, script: &str) -> String {
        let output = self.run(&["-d", "alpine:latest", "--", "sh", "-c", script]);
        let step = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success() && step.ends_with(".1"), "{step:?}: {}", stderr(&output));
        step
    }

    fn terminal(&self, arguments: &[&str]) -> Terminal {
        let config = self.0.join("config.yaml");
        let words = [&["run", "-C", config.to_str().unwrap()], arguments].concat();
        Terminal::start(&words, &self.0.join("cwd"), 101, 33)
    }

    /// Waits until no step of any job is left.
    fn empty(&self) {
        let steps = self.0.join("crane/supervisor/containers");
        wait::holds("the job is over and cleaned up", LONG, || entries(&steps).is_empty());
    }

    /// All that the steps' containers wrote.
    fn output(&self) -> String {
        let logs = self.0.join("crane/supervisor");
        let names = entries(&logs).into_iter().filter(|name| name.ends_with(".container.log"));
        names.map(|name| fs::read_to_string(logs.join(name)).unwrap()).collect()
    }
}

/// Bytes of every value, and no line.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn input_goes_in_and_its_end_is_told() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let output = fed(node.command(&["-i", "alpine:latest", "--", "cat"]), b"hi\n");
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"hi\n"[..], Some(0)), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
        let (output, before, told) = node.told(&["-i", "alpine:latest", "--", "sh", "-c", "cat; echo end; exit 4"]);
        assert_eq!((before.as_str(), output.status.code()), ("end\n", Some(4)), "{}", stderr(&output));
        clean(runtime, &told);
    });
}

#[test]
fn a_program_that_reads_nothing_is_not_waited_for() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let mut command = node.command(&["-i", "alpine:latest", "--", "sh", "-c", "echo done; exit 3"]);
        command.stdin(fs::File::open("/dev/zero").unwrap());
        let output = command.output().unwrap();
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"done\n"[..], Some(3)), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
    });
}

#[test]
fn a_large_binary_input_arrives_whole() {
    let bytes = noise(8 << 20);
    let sum = fed(Command::new("sha256sum"), &bytes).stdout;
    on_each(|runtime| {
        let node = Node::on(runtime);
        let output = fed(node.command(&["-i", "alpine:latest", "--", "sha256sum"]), &bytes);
        assert!(output.stdout == sum, "{:?}; {}", String::from_utf8_lossy(&output.stdout), stderr(&output));
    });
}

#[test]
fn exec_passes_input_output_and_the_exit_code() {
    let bytes = noise(8 << 20);
    on_each(|runtime| {
        let node = Node::on(runtime);
        let step = node.detached("trap 'exit 0' TERM; while :; do sleep 0.05; done");
        let output = node.exec(&step, &["--", "sh", "-c", "echo out; echo err >&2; id -u; exit 7"]).output().unwrap();
        let said = (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output));
        assert_eq!((said, output.status.code()), (("out\n0\n".into(), "err\n".into()), Some(7)));
        let output = fed(node.exec(&step, &["-i", "--", "cat"]), &bytes);
        assert!(output.stdout == bytes, "{} bytes came back; {}", output.stdout.len(), stderr(&output));
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
        let output = fed(node.exec(&step, &["-i", "--", "sh", "-c", "cat >/dev/null; echo end; exit 4"]), b"");
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"end\n"[..], Some(4)), "{}", stderr(&output));
        let output = fed(node.exec(&step, &["-i", "--", "sh", "-c", "head -c 1 >/dev/null; exit 3"]), b"unread");
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let mut piped = node.exec(&step, &["--", "yes"]);
        let mut child = piped.stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(wait::until(LONG, || child.try_wait().unwrap()).expect("it ends").code(), Some(0));
        for (program, code, word) in
            [("no-such", 127, "executable file not found"), ("/etc/passwd", 126, "permission denied")]
        {
            let output = node.exec(&step, &["--", program]).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{program}: {}", stderr(&output));
            assert!(stderr(&output).contains(word), "{program}: {}", stderr(&output));
        }
        end(&node);
        let output = node.exec(&step, &["--", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains("has no container on this node"), "{}", stderr(&output));
    });
}

/// Stops a job that was left.
fn stop(node: &Node, step: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crane-supervisor"));
    let output = command.args(["stop", "-C"]).arg(node.0.join("config.yaml")).arg(step).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    node.empty();
}

/// The same by a signal to the process that conducts it.
fn end(node: &Node) {
    let pid = conductor(node);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    node.empty();
}

/// The process that conducts the job of `node`, found by its configuration's path.
fn conductor(node: &Node) -> i32 {
    let config = node.0.join("config.yaml").display().to_string();
    let found = procfs::process::all_processes().unwrap().flatten().find(|process| {
        process.cmdline().is_ok_and(|words| words.contains(&config) && words.contains(&"--behind".into()))
    });
    found.expect("somebody conducts the job").pid
}

#[test]
fn a_step_that_is_not_there_is_named() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        for (step, word) in [("3999999999.1", "has no container on this node"), ("42.0", "holds the job's pod")] {
            let output = node.exec(step, &["--", "true"]).output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{step}");
            assert!(stderr(&output).contains(word) && output.stdout.is_empty(), "{step}: {}", stderr(&output));
        }
    });
    let node = Node::with("  Enabled: true\n  RuntimeEndpoint: /nowhere.sock\n");
    let output = node.exec("42.1", &["--", "true"]).output().unwrap();
    assert!(stderr(&output).contains("/nowhere.sock"), "{}", stderr(&output));
}

#[test]
fn a_terminal_is_the_programs_and_then_as_before() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let mut terminal = node.terminal(&["-it", "alpine:latest", "--", "sh"]);
        let before = terminal.settings();
        wait::holds("keys go through", LONG, || !terminal.settings().local_flags.contains(LocalFlags::ICANON));
        // The size is sent once more when the program is there, a bit later.
        terminal.type_in("until stty size | grep '33 101'; do :; done; tty\r");
        terminal.expect("33 101\r\n/dev/pts/");
        terminal.resize(120, 40);
        // The shell asks once the change has reached it.
        terminal.type_in("until stty size | grep '40 120'; do :; done; echo $((6*7))\r");
        terminal.expect("\r\n42\r\n");
        // Ctrl-C is the program's, not ours.
        terminal.type_in("sh -c 'trap \"echo caught; exit\" INT; echo $((6*8)); while :; do sleep 0.05; done'\r");
        terminal.expect("\r\n48\r\n");
        terminal.type_in("\x03");
        terminal.expect("caught\r\n");
        terminal.type_in("exit 9\r");
        assert_eq!(terminal.ended().code(), Some(9), "{}", terminal.rest());
        assert!(terminal.settings() == before, "the terminal is not as it was");
        node.empty();
    });
}

#[test]
fn ctrl_p_ctrl_q_leaves_and_the_job_goes_on() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let script = "echo early; read line; echo got $line; while ! test -e /tmp/go; do sleep 0.05; done; echo late";
        let mut terminal = node.terminal(&["-t", "alpine:latest", "--", "sh", "-c", script]);
        let before = terminal.settings();
        terminal.expect("early");
        wait::holds("keys go through", LONG, || !terminal.settings().local_flags.contains(LocalFlags::ICANON));
        terminal.type_in("a\x10b\r");
        terminal.expect("got a");
        terminal.type_in("\x10\x11");
        terminal.expect("goes on");
        assert_eq!(terminal.ended().code(), Some(0));
        assert!(terminal.settings() == before, "the terminal is not as it was");
        let step = entries(&node.0.join("crane/supervisor/containers")).pop().expect("the job goes on") + ".1";
        assert!(!node.output().contains("late"));
        let output = node.exec(&step, &["--", "touch", "/tmp/go"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        node.empty();
        assert!(node.output().contains("stdout F late"), "{}", node.output());
    });
}

#[test]
fn a_signal_ends_the_job_and_leaves_the_terminal_as_it_was() {
    on_each(|runtime| {
        for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
            let node = Node::on(runtime);
            let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
            let mut terminal = node.terminal(&["-it", "alpine:latest", "--", "sh", "-c", script]);
            let before = terminal.settings();
            terminal.expect("ready");
            wait::holds("keys go through", LONG, || !terminal.settings().local_flags.contains(LocalFlags::ICANON));
            kill(Pid::from_raw(terminal.pid()), signal).unwrap();
            let status = terminal.ended();
            assert!(terminal.settings() == before, "{signal}: the terminal is not as it was");
            assert_eq!(status.code(), Some(0), "{}", terminal.rest());
            assert!(terminal.rest().contains("stopping the container"), "{}", terminal.rest());
            node.empty();
        }
    });
}

#[test]
fn a_terminals_process_that_is_killed_takes_its_job_along() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
        let mut terminal = node.terminal(&["-it", "alpine:latest", "--", "sh", "-c", script]);
        terminal.expect("ready");
        kill(Pid::from_raw(terminal.pid()), Signal::SIGKILL).unwrap();
        assert!(!terminal.ended().success());
        node.empty();
    });
}

#[test]
fn a_job_that_was_left_at_once_is_found_by_its_step() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let left = node.detached("trap 'exit 0' TERM; while :; do sleep 0.05; done");
        stop(&node, &left);
        let step = node.detached("echo from behind; exit 5");
        node.empty();
        let logs = Command::new(env!("CARGO_BIN_EXE_crane-supervisor"))
            .args(["logs", "-C"])
            .arg(node.0.join("config.yaml"))
            .arg(&step)
            .output()
            .unwrap();
        assert_eq!(logs.stdout, b"from behind\n", "{}", stderr(&logs));
        let output = node.run(&["-d", "--pull-policy", "Never", "nowhere:1"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{}", stderr(&output));
        assert!(stderr(&output).contains("pull policy is Never"), "{}", stderr(&output));
    });
}

#[test]
fn a_terminal_is_given_only_where_there_is_one() {
    on_each(|runtime| {
        let node = Node::on(runtime);
        let output = node.run(&["-it", "alpine:latest", "--", "true"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains("leave out -t"), "{}", stderr(&output));
        // Without -i the program has one all the same.
        let output = node.run(&["-t", "alpine:latest", "--", "tty"]);
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("/dev/"), "{}", stderr(&output));
    });
}

/// As craned attaches: by labels, over the runtime's stream.
async fn attach(runtime: &Runtime, job: &Job, tty: bool) -> (session::Sender, session::Receiver) {
    let endpoint = Endpoint::parse(&runtime.endpoint()).unwrap();
    let client = Client::new(&endpoint, &endpoint, Limits::default());
    let step = StepId { job: job.id(), step: 1 };
    let container = loop {
        // The program may be ahead of its runtime's word that it runs.
        match find::running(&client, step, Some(job.facts.uid)).await {
            Ok(container) => break container,
            Err(FindError::NotRunning { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    let wanted = Wanted { stdin: true, stdout: true, stderr: !tty, tty };
    session::open(&client.attach(&container, wanted).await.unwrap(), Protocol::WebSocket).await.unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn craneds_attach_finds_an_input_and_a_terminal() {
    on_each(|runtime| {
        for tty in [false, true] {
            let job = Job::on(runtime);
            let pod = job.pod();
            let script = "echo ready; read line; test -t 0 && echo terminal; echo got $line; cat";
            let mut step = job.container_with(1, &["sh", "-c", script], |init| {
                let meta = init.step_spec.as_mut().unwrap().container_meta.as_mut().unwrap();
                (meta.stdin, meta.stdin_once, meta.tty) = (true, !tty, tty);
            });
            step.execute();
            wait::holds("it is ready", LONG, || job.output_so_far(1).contains("ready"));
            block_on(async {
                let (mut sender, mut receiver) = attach(runtime, &job, tty).await;
                sender.input(if tty { b"line\r" as &[u8] } else { b"line\nmore" }).await.unwrap();
                if tty {
                    let mut shown = String::new();
                    while !shown.contains("got line") {
                        match receiver.next().await.unwrap() {
                            Incoming::Stdout(bytes) => shown.push_str(&String::from_utf8_lossy(&bytes)),
                            other => panic!("{other:?} after {shown:?}"),
                        }
                    }
                    assert!(shown.contains("terminal"), "{shown:?}");
                }
                session::close(sender, receiver).await;
            });
            if tty {
                // Nobody's going ends a terminal's program: craned's next attach finds it.
                block_on(async {
                    let (mut sender, receiver) = attach(runtime, &job, tty).await;
                    sender.input(b"\x04").await.unwrap();
                    session::close(sender, receiver).await;
                });
            }
            let report = job.ended(&mut step);
            assert_eq!(report.final_status(), JobStatus::Completed, "tty: {tty}: {report:?}");
            if !tty {
                assert_eq!(job.output(1, "stdout"), "ready\ngot line\nmore");
            }
            job.end_pod(pod);
        }
    });
}
