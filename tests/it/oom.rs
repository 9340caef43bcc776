//! Out of memory: whose process died, by whose limit, and what is no such thing.

use crate::support::job::Job;
use crate::support::runtime::{Runtime, on_each};
use crate::support::supervisor::Supervisor;
use crate::support::{LONG, leaks, wait};
use crane_supervisor::wire::crane::StepStatusChangeRequest;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{JobStatus, TerminateSource};
use std::fs;
use std::path::{Path, PathBuf};

const LIMIT: u64 = 64 << 20;
/// One endless line, held in memory.
const HOG: [&str; 2] = ["tail", "/dev/zero"];

fn end(report: &StepStatusChangeRequest) -> (JobStatus, u32) {
    (report.final_status(), report.exit_code)
}

fn limited(init: &mut InitSupervisorRequest) {
    for share in init.step_spec.as_mut().unwrap().task_res_map.values_mut() {
        (share.memory_bytes, share.memory_sw_bytes) = (LIMIT, LIMIT);
    }
}

/// A container of its own limit that runs `script`.
fn run_limited(runtime: &Runtime, script: &str) -> (JobStatus, u32) {
    end(&Job::on(runtime).run_with(&["sh", "-c", script], limited))
}

#[test]
fn a_hog_as_pid_1_is_out_of_memory() {
    on_each(|runtime| {
        let report = Job::on(runtime).run_with(&HOG, limited);
        assert_eq!(end(&report), (JobStatus::OutOfMemory, 265), "{report:?}");
    });
}

#[test]
fn a_child_that_is_killed_counts_unless_all_ends_well() {
    on_each(|runtime| {
        assert_eq!(run_limited(runtime, "tail /dev/zero; exit 5"), (JobStatus::OutOfMemory, 5));
        assert_eq!(run_limited(runtime, "tail /dev/zero"), (JobStatus::OutOfMemory, 265), "sh becomes tail");
        assert_eq!(run_limited(runtime, "tail /dev/zero; exit $?"), (JobStatus::OutOfMemory, 137));
        assert_eq!(run_limited(runtime, "tail /dev/zero; exit 0"), (JobStatus::Completed, 0));
    });
}

#[test]
fn exit_137_is_not_out_of_memory() {
    on_each(|runtime| {
        assert_eq!(run_limited(runtime, "exit 137"), (JobStatus::Failed, 137));
        // In the pod's pid namespace the container is not PID 1 and can kill itself.
        assert_eq!(run_limited(runtime, "kill -9 $$"), (JobStatus::Failed, 265));
    });
}

#[test]
fn an_earlier_kill_keeps_its_name_when_the_step_is_cancelled() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running_with("exec 2>/dev/null; tail /dev/zero; echo ready; exec sleep 60", limited);
        step.terminate(TerminateSource::UserCancel);
        assert_eq!(end(&job.ended(&mut step)), (JobStatus::OutOfMemory, 271));
        job.end_pod(pod);
    });
}

/// A job whose own memory cgroup is limited, and its containers' are not.
struct LimitedJob {
    job: Job,
    pod: Supervisor,
}

impl LimitedJob {
    fn on(runtime: &Runtime) -> Self {
        let mut job = Job::on(runtime);
        let group = job.make_cgroups(0);
        let memory = PathBuf::from(format!("/sys/fs/cgroup/memory/crane/job_{}", job.id()));
        fs::write(memory.join("memory.limit_in_bytes"), LIMIT.to_string()).unwrap();
        let _where_swap_is_counted = fs::write(memory.join("memory.memsw.limit_in_bytes"), LIMIT.to_string());
        let pod = job.pod_with(|init| init.supv_cgroup_path = group);
        Self { job, pod }
    }

    fn start(&mut self, number: u32, script: &str) -> Supervisor {
        let group = self.job.make_cgroups(number);
        let mut step = self.job.container_with(number, &["sh", "-c", script], |init| init.supv_cgroup_path = group);
        step.execute();
        step
    }

    fn end(self) {
        self.job.end_pod(self.pod);
        // Those of the job itself, in controllers that craned does not use here, are the runtime's.
        for group in leaks::cgroups(self.job.id()) {
            let _kept_by_the_job = fs::remove_dir(group);
        }
    }
}

#[test]
fn the_jobs_limit_counts_as_the_containers_own() {
    on_each(|runtime| {
        let mut job = LimitedJob::on(runtime);
        for (number, (script, code)) in (1..).zip([("exec tail /dev/zero", 265), ("tail /dev/zero; exit 5", 5)]) {
            let mut step = job.start(number, script);
            assert_eq!(end(&job.job.ended(&mut step)), (JobStatus::OutOfMemory, code), "{script}");
        }
        job.end();
    });
}

#[test]
fn another_container_of_the_job_is_not_out_of_memory() {
    on_each(|runtime| {
        let mut job = LimitedJob::on(runtime);
        let gate = job.job.places().root.join("gate");
        fs::create_dir(&gate).unwrap();
        job.job = job.job.with_mount(&gate, "/gate");
        // A runtime on v1 calls the neighbour OOMKilled too: its group is told of what happens in
        // the job. Where the node is so busy that the runtime removes the kernel's count before it
        // is read, nothing says otherwise; that must not be the rule.
        let told = (0..5).any(|round| neighbour_of_a_hog(&mut job, &gate, 2 * round + 1) == (JobStatus::Failed, 3));
        assert!(told, "the neighbour was out of memory each time");
        job.end();
    });
}

/// How a container ends that exits 3 after another one of the job was killed.
fn neighbour_of_a_hog(job: &mut LimitedJob, gate: &Path, number: u32) -> (JobStatus, u32) {
    let open = format!("open-{number}");
    let script = format!("echo ready; until [ -e /gate/{open} ]; do sleep 0.1; done; exit 3");
    let mut neighbour = job.start(number, &script);
    wait::holds("the neighbour runs", LONG, || job.job.runtime_log(number).ends_with(b"ready\n"));
    let mut hog = job.start(number + 1, "exec tail /dev/zero");
    assert_eq!(end(&job.job.ended(&mut hog)), (JobStatus::OutOfMemory, 265));
    fs::write(gate.join(open), "").unwrap();
    end(&job.job.ended(&mut neighbour))
}
