//! A container's processes end with its step, whatever the runtime says of them; those that
//! the kernel holds are named.

use crate::support::job::Job;
use crate::support::runtime::{Cri, Runtime, on_each};
use crate::support::{LONG, SOON, leaks, wait};
use crane_supervisor::wire::crane::{JobStatus, TerminateSource};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;

/// The host's number of the init of the job's one container, once its step calls it running.
///
/// The program may be ahead of that: until its start is answered the runtime tells 0 as its number.
fn init(cri: &mut Cri, job: &Job) -> i32 {
    wait::holds("the start is answered", LONG, || job.supervisor_log(1).contains("container started"));
    let container = cri.containers(job.id()).first().expect("the container runs").id.clone();
    let status = cri.container_status(&container);
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
    let pid = i32::try_from(info["pid"].as_i64().unwrap()).unwrap();
    assert!(pid > 0, "the runtime does not know the init of a container that runs");
    pid
}

fn parent(pid: i32) -> i32 {
    procfs::process::Process::new(pid).unwrap().stat().unwrap().ppid
}

fn lives(pid: i32) -> bool {
    procfs::process::Process::new(pid).and_then(|process| process.stat()).is_ok_and(|stat| stat.state != 'Z')
}

#[test]
fn a_container_whose_shim_died_ends_with_its_step() {
    on_each(|runtime: &Runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running("trap '' TERM; echo ready; while :; do sleep 1; done");
        let pid = init(&mut runtime.cri(), &job);
        kill(Pid::from_raw(parent(pid)), Signal::SIGKILL).unwrap();
        step.terminate(TerminateSource::UserCancel);
        let report = job.craned.wait_for(1, JobStatus::Completing, LONG);
        assert_eq!(report.final_status(), JobStatus::Cancelled, "{report:?}");
        assert!(!lives(pid), "the process outlives its step");
        step.wait_exit(SOON);
        job.end_pod(pod);
    });
}

/// The job's freezer, as craned suspends a job; `None` where there is none (cgroup v2 is another test's).
fn freezer(job: &Job) -> Option<PathBuf> {
    let file = PathBuf::from(format!("/sys/fs/cgroup/freezer/crane/job_{}/freezer.state", job.id()));
    file.exists().then_some(file)
}

#[test]
fn what_the_kernel_holds_is_named_and_ended_later() {
    on_each(|runtime| {
        let mut job = Job::on(runtime);
        let groups = [0, 1].map(|step| job.make_cgroups(step));
        let pod = job.pod_with(|init| init.supv_cgroup_path = groups[0].clone());
        let mut step = job.running_with("echo ready; exec sleep 300", |init| init.supv_cgroup_path = groups[1].clone());
        let pid = init(&mut runtime.cri(), &job);
        let Some(state) = freezer(&job) else { panic!("no v1 freezer here: this test needs one") };
        fs::write(&state, "FROZEN").unwrap();
        step.terminate(TerminateSource::NormalCompletion);
        job.craned.wait_for(1, JobStatus::Completing, SOON);
        step.wait_exit(SOON);
        let named = format!("cannot kill a process of the container: {pid} (");
        let logged = || job.supervisor_log(1);
        wait::holds("the reaper names the process", LONG, || logged().contains(&named));
        assert!(lives(pid));
        fs::write(&state, "THAWED").unwrap();
        wait::holds("it is ended once it can be", LONG, || !lives(pid));
        let dir = job.places().temp.join(format!("{}/steps/1", job.id()));
        wait::holds("the reaper ends too", LONG, || !dir.exists());
        job.end_pod(pod);
        for group in leaks::cgroups(job.id()) {
            let _kept_by_the_job = fs::remove_dir(group);
        }
    });
}
