//! `ps`, `inspect` and `stop`: what a person sees of a node's steps, and how they end them.

use crate::support::job::Job;
use crate::support::runtime::on_each;
use crate::support::supervisor::BINARY;
use crate::support::{LONG, wait};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Says ready and ends at TERM.
const PATIENT: &str = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
/// Says ready and heeds no TERM.
const DEAF: &str = "trap '' TERM; echo ready; while :; do sleep 0.05; done";

fn command(job: &Job, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg(name).arg("-C").arg(job.configuration()).args(arguments).stdin(Stdio::null());
    command
}

fn call(job: &Job, name: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    told(&command(job, name, arguments).output().unwrap())
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The job's steps as `ps --json` has them.
#[track_caller]
fn listed(job: &Job, arguments: &[&str]) -> Vec<Value> {
    let number = job.id().to_string();
    let (code, out, err) = call(job, "ps", &[&["--json", "--job", &number], arguments].concat());
    assert_eq!(code, Some(0), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ps_shows_live_steps_and_with_all_the_ended_ones() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        assert_eq!(listed(&job, &["--all"]), Vec::<Value>::new());
        let pod = job.pod();
        let mut step = job.running(PATIENT);
        let steps = listed(&job, &[]);
        assert_eq!(steps.len(), 2, "{steps:?}");
        let (of_pod, of_step) = (&steps[0], &steps[1]);
        assert_eq!(
            (&of_pod["step"], &of_pod["status"], &of_pod["image"]),
            (&0.into(), &"Running".into(), &Value::Null)
        );
        assert_eq!((&of_step["status"], &of_step["state"]), (&"Running".into(), &"live".into()));
        assert_eq!((&of_step["user"], &of_step["uid"]), (&"nobody".into(), &65534.into()));
        assert_eq!((&of_step["image"], &of_step["pid"]), (&runtime.image().into(), &step.pid().into()));
        assert!(of_step["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 4096), "{of_step}");
        let (code, out, _) = call(&job, "ps", &["--job", &job.id().to_string()]);
        let cells: Vec<Vec<_>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!((code, cells[0].join(" ")), (Some(0), "JOB.STEP USER IMAGE STATUS SINCE PID MEM".into()));
        assert_eq!(cells[2][..4], [&format!("{}.1", job.id()), "nobody", &runtime.image(), "Running"]);
        let (code, out, err) = call(&job, "stop", &[&format!("{}.1", job.id())]);
        assert_eq!((code, out), (Some(0), format!("{}.1 stopped: Cancelled(9)\n", job.id())), "{err}");
        job.ended(&mut step);
        assert_eq!(listed(&job, &[]).len(), 1, "an ended step is live");
        let all = listed(&job, &["--all"]);
        assert_eq!((&all[1]["state"], &all[1]["status"]), (&"ended".into(), &"Cancelled(9)".into()), "{all:?}");
        assert_eq!(all[1]["exit_code"], 9);
        job.end_pod(pod);
        assert_eq!(listed(&job, &[]), Vec::<Value>::new());
        assert_eq!(listed(&job, &["--all"]).len(), 2);
    });
}

#[test]
fn a_pod_is_stopped_after_its_containers_and_not_below_them() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        let mut step = job.running(PATIENT);
        let (zero, one) = (format!("{}.0", job.id()), format!("{}.1", job.id()));
        let (code, out, err) = call(&job, "stop", &[&zero]);
        assert_eq!((code, &*out), (Some(1), ""), "{err}");
        assert!(err.contains(&format!("step {zero} is not stopped: it holds the pod of {one}")), "{err}");
        let (code, out, err) = call(&job, "stop", &["--json", &zero, &one]);
        assert_eq!(code, Some(0), "{out}{err}");
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["step"], &lines[1]["step"], &lines[1]["gone"]), (&1.into(), &0.into(), &true.into()));
        job.ended(&mut step);
        job.ended(&mut pod);
        let (code, out, err) = call(&job, "stop", &[&one]);
        assert_eq!((code, out), (Some(0), format!("{one} had ended: Cancelled(9)\n")), "{err}");
        let (code, _, err) = call(&job, "stop", &[&format!("{}.7", job.id())]);
        assert!(code == Some(1) && err.contains("is unknown on this node"), "{err}");
    });
}

#[test]
fn stop_now_does_not_wait_for_the_grace() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running(DEAF);
        let begun = Instant::now();
        let (code, out, err) = call(&job, "stop", &["--now", &format!("{}.1", job.id())]);
        assert_eq!((code, out), (Some(0), format!("{}.1 stopped: Cancelled(265)\n", job.id())), "{err}");
        assert!(begun.elapsed() < Duration::from_secs(9), "it took {:?}", begun.elapsed());
        job.ended(&mut step);
        job.end_pod(pod);
    });
}

#[test]
fn a_supervisor_that_does_not_answer_is_shown_and_not_waited_for_without_end() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running(PATIENT);
        step.signal(Signal::SIGSTOP);
        let steps = listed(&job, &[]);
        assert_eq!((&steps[1]["state"], &steps[1]["status"]), (&"live".into(), &"NoAnswer".into()), "{steps:?}");
        assert_eq!(steps[1]["image"], runtime.image());
        let (code, _, err) = call(&job, "stop", &["--timeout", "1s", &format!("{}.1", job.id())]);
        assert!(code == Some(1) && err.contains("is not stopped: cannot call TerminateStep"), "{err}");
        step.signal(Signal::SIGCONT);
        // Whether the call came through after all is not said.
        let (code, _, err) = call(&job, "stop", &[&format!("{}.1", job.id())]);
        assert_eq!(code, Some(0), "{err}");
        job.ended(&mut step);
        job.end_pod(pod);
    });
}

#[test]
fn what_a_killed_supervisor_left_is_shown_with_what_undoes_it() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running(PATIENT);
        step.kill9_unguarded();
        let steps = listed(&job, &[]);
        assert_eq!((&steps[1]["state"], &steps[1]["status"]), (&"left_over".into(), &"LeftOver".into()), "{steps:?}");
        assert_eq!((&steps[1]["user"], &steps[1]["image"]), (&"nobody".into(), &runtime.image().into()));
        let one = format!("{}.1", job.id());
        let (code, _, err) = call(&job, "stop", &[&one]);
        assert!(code == Some(1) && err.contains(&format!("cleanup --job {} undoes", job.id())), "{err}");
        let (code, out, err) = call(&job, "inspect", &[&one]);
        assert_eq!(code, Some(0), "{err}");
        let told: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&told["state"], &told["container"]["state"]), (&"left_over".into(), &"CONTAINER_RUNNING".into()));
        let (code, _, err) = call(&job, "cleanup", &["--job", &job.id().to_string()]);
        assert_eq!(code, Some(0), "{err}");
        job.end_pod(pod);
    });
}

#[test]
fn inspect_tells_all_and_secrets_only_when_asked() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.container_with(1, &["sh", "-c", PATIENT], |init| {
            init.env.insert("TOKEN".into(), "a-secret-of-mine".into());
        });
        step.execute();
        wait::holds("the container says ready", LONG, || job.runtime_log(1).ends_with(b"ready\n"));
        let one = format!("{}.1", job.id());
        let (code, out, err) = call(&job, "inspect", &[&one]);
        assert_eq!(code, Some(0), "{err}");
        assert!(!out.contains("a-secret-of-mine"), "{out}");
        let told: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&told["status"], &told["image"]), (&"Running".into(), &runtime.image().into()));
        assert_eq!(told["container"]["state"], "CONTAINER_RUNNING", "{out}");
        assert!(told["container"]["started_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{out}");
        assert!(told["processes"].as_array().is_some_and(|pids| !pids.is_empty()), "{out}");
        assert!(told["pod"]["id"].is_string() && told["journal"]["entries"].is_array() && told["record"].is_null());
        assert!(told["paths"]["socket"].as_str().is_some_and(|path| path.ends_with(&format!("step_{one}.sock"))));
        let (_, out, _) = call(&job, "inspect", &["--env", &one]);
        let told: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(told["env"]["TOKEN"], "a-secret-of-mine");
        call(&job, "stop", &[&one]);
        job.ended(&mut step);
        let (code, out, _) = call(&job, "inspect", &[&one]);
        let told: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &told["record"]["verdict"]["exit_code"]), (Some(0), &9.into()));
        let (code, _, err) = call(&job, "inspect", &[&format!("{}.9", job.id())]);
        assert!(code == Some(1) && err.contains("is unknown on this node"), "{err}");
        job.end_pod(pod);
    });
}

#[test]
fn a_user_sees_their_own_live_steps_and_is_told_why_no_more() {
    on_each(|runtime| {
        let mut job = Job::on(runtime);
        let (of_pod, of_step) = (job.make_cgroups(0), job.make_cgroups(1));
        let pod = job.pod_with(|init| init.supv_cgroup_path = of_pod);
        let mut step = job.running_with(PATIENT, |init| init.supv_cgroup_path = of_step);
        let as_user = |uid: u32, name: &str, arguments: &[&str]| {
            let mut command = command(&job, name, arguments);
            told(&command.uid(uid).gid(uid).current_dir("/").output().unwrap())
        };
        let number = job.id().to_string();
        let (code, out, err) = as_user(65534, "ps", &["--json", "--job", &number]);
        assert!(code == Some(0) && err.contains("not root: shown are live steps of jobs in which you have"), "{err}");
        let steps: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((steps.len(), &steps[1]["step"], &steps[1]["pid"]), (2, &1.into(), &step.pid().into()), "{out}");
        let (code, out, _) = as_user(65533, "ps", &["--json", "--job", &number]);
        assert_eq!((code, &*out), (Some(0), ""), "another user's steps");
        let one = format!("{number}.1");
        for (name, instead) in [("stop", "ccancel"), ("inspect", "ccon inspect")] {
            let (code, out, err) = as_user(65534, name, &[&one]);
            assert!((code, &*out) == (Some(1), "") && err.contains(&format!("{name} needs root")), "{err}");
            assert!(err.contains(instead), "{err}");
        }
        assert_eq!(call(&job, "stop", &[&one]).0, Some(0));
        job.ended(&mut step);
        job.end_pod(pod);
    });
}

#[test]
fn ps_watches_until_its_reader_has_gone() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut command = command(&job, "ps", &["--job", &job.id().to_string(), "--watch=1s"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let three: Vec<_> = lines.by_ref().take(3).map(Result::unwrap).collect();
        assert!(three[0] == three[2] && three[1].contains("Running"), "{three:?}");
        drop(lines);
        assert!(wait::process_end(child.id(), LONG));
        assert_eq!(child.wait().unwrap().code(), Some(0));
        job.end_pod(pod);
    });
}
