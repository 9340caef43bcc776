//! Calls that are cut off in the middle, which runtimes do not always clean up after: containerd keeps
//! a task that CRI can neither start nor remove, or forgets a shim that runs.

use crate::support::bed::Bed;
use crate::support::fake_cri::{FakeCri, Fault, Flavour, Method};
use crate::support::job::Job;
use crate::support::mounting::is_long;
use crate::support::runtime::{Runtime, on_each_alone};
use crate::support::supervisor::BINARY;
use crate::support::{LONG, wait};
use crane_supervisor::wire::crane::JobStatus;
use std::process::Command;
use std::time::Duration;
use tonic::Code;

/// How often something is killed.
fn rounds() -> u32 {
    if is_long() { 120 } else { 24 }
}

/// What a clean-up of the job by hand leaves, one line each.
#[track_caller]
fn cleaned(job: &Job) {
    let config = job.configuration();
    let job = job.id().to_string();
    let output = Command::new(BINARY).args(["cleanup", "--job", &job, "-C"]).arg(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// No shim came of which `runtime` does not know the pod, but those that other tests left
/// which kill guardians too.
#[track_caller]
fn none_forgotten(runtime: &Runtime, before: &[String]) {
    let known = |id: &String| before.contains(id);
    wait::holds("no shim was forgotten", LONG, || forgotten_shims(runtime).iter().all(known));
}

/// Shims of `runtime` whose pods it does not know.
fn forgotten_shims(runtime: &Runtime) -> Vec<String> {
    let shims = shims(runtime);
    // Asked after: a pod that comes meanwhile is no stranger.
    let known: Vec<String> = runtime.cri().all_pods().into_iter().map(|pod| pod.id).collect();
    shims.into_iter().filter(|id| !known.contains(id)).collect()
}

/// The pods that have a shim of `runtime`.
fn shims(runtime: &Runtime) -> Vec<String> {
    let socket = runtime.endpoint().replace("unix://", "");
    let shims: Vec<Vec<String>> = procfs::process::all_processes()
        .unwrap()
        .filter_map(|process| process.ok()?.cmdline().ok())
        .filter(|words| words.first().is_some_and(|name| name.contains("containerd-shim")) && words.contains(&socket))
        .collect();
    let id = |words: &Vec<String>| words.iter().skip_while(|word| *word != "-id").nth(1).cloned();
    shims.iter().filter_map(id).collect()
}

#[test]
fn a_start_cut_off_in_the_oci_runtime_with_nobody_left_can_be_undone() {
    on_each_alone(|runtime| {
        let bed = Bed::of(runtime, Duration::ZERO);
        for phase in ["create", "start"] {
            let job = Job::on(runtime);
            let pod = job.pod();
            let mark = job.places().root.join("begun");
            bed.before_oci(&format!("case \" $* \" in *' {phase} '*) touch {}; sleep 1 ;; esac", mark.display()));
            let mut step = job.container(&["sleep", "300"]);
            step.execute();
            wait::holds("the start is under way", LONG, || mark.exists());
            step.kill9_unguarded();
            bed.repair();
            cleaned(&job);
            job.end_pod(pod);
        }
    });
}

#[test]
fn a_start_cut_off_at_any_moment_with_nobody_left_can_be_undone() {
    on_each_alone(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        for round in 0..rounds() {
            let mut step = job.container_with(1 + round, &["sleep", "300"], |_| {});
            step.execute();
            wait::pause(Duration::from_millis(u64::from(20 + round * 96 / rounds())));
            step.kill9_unguarded();
        }
        cleaned(&job);
        job.end_pod(pod);
    });
}

#[test]
fn a_pod_step_killed_at_any_moment_leaves_no_shim_that_its_runtime_forgot() {
    on_each_alone(|runtime| {
        let before = forgotten_shims(runtime);
        let mut jobs = Vec::new();
        for round in 0..rounds() {
            let job = Job::on(runtime);
            let mut pod = job.start(&job.facts.pod_step());
            wait::pause(Duration::from_millis(u64::from(3 + round * 144 / rounds())));
            pod.kill9();
            jobs.push(job);
        }
        // Each job's check of what is left waits for its pod to go.
        drop(jobs);
        none_forgotten(runtime, &before);
    });
}

/// The shim is started by then, so a call that is cut off leaves it forgotten or half made.
#[test]
fn a_pod_in_the_making_is_let_finish_and_then_undone() {
    on_each_alone(|runtime| {
        let before = forgotten_shims(runtime);
        let bed = Bed::of(runtime, Duration::ZERO);
        for killed in [false, true] {
            let job = Job::on(runtime);
            let others = shims(runtime);
            let mark = job.places().root.join("begun");
            bed.before_oci(&format!("case \" $* \" in *' create '*) touch {}; sleep 4 ;; esac", mark.display()));
            let mut pod = job.start(&job.facts.pod_step());
            wait::holds("the pod is in the making", LONG, || mark.exists());
            // That none is forgotten, below, says something only where one that is there is seen.
            wait::holds("its shim is seen", LONG, || shims(runtime).iter().any(|id| !others.contains(id)));
            if killed {
                pod.kill9();
                // It is the guardian's meanwhile, and not called clean.
                cleaned(&job);
                assert!(job.places().temp.join(format!("{}/steps/0", job.id())).exists(), "taken from the guardian");
            } else {
                pod.shut_down();
                pod.wait_exit(Duration::from_secs(3));
            }
            bed.repair();
            wait::holds("the pod came", LONG, || !runtime.cri().pods(job.id()).is_empty());
            drop(job);
        }
        none_forgotten(runtime, &before);
    });
}

#[test]
fn a_container_that_cri_cannot_remove_goes_by_way_of_its_task() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    fake.fault(
        Method::RemoveContainer,
        1,
        Fault::Fail(Code::Unknown, "cannot delete running task 7: failed precondition"),
    );
    let mut step = job.container(&["true"]);
    step.execute();
    assert_eq!(job.ended(&mut step).final_status(), JobStatus::Completed);
    job.end_pod(pod);
    let calls = [Method::RemoveContainer, Method::TasksKill, Method::TasksDelete];
    let made: Vec<_> = fake.methods().into_iter().filter(|method| calls.contains(method)).collect();
    assert_eq!(made, [&calls[..], &[Method::RemoveContainer]].concat());
}

#[test]
fn a_runtime_without_tasks_is_told_about_in_its_own_words() {
    let fake = FakeCri::with(Flavour::crio());
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    fake.fault(Method::RemoveContainer, 1, Fault::Fail(Code::Internal, "the storage is busy"));
    let mut step = job.container(&["true"]);
    step.execute();
    assert_eq!(job.ended(&mut step).final_status(), JobStatus::Completed);
    job.end_pod(pod);
    let log = job.supervisor_log(1);
    assert!(log.contains("RemoveContainer: the storage is busy"), "{log}");
}
