//! A container that sees another's processes (`pid: TARGET`), on real runtimes.

use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::runtime::on_each;
use crate::support::supervisor::Supervisor;
use crane_supervisor::wire::crane::JobStatus;
use crane_supervisor::wire::crane::pod_job_additional_meta::NamespaceMode;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;

fn target(init: &mut InitSupervisorRequest, id: &str) {
    let namespace = init.pod().namespace.get_or_insert_default();
    (namespace.pid, namespace.target_id) = (NamespaceMode::Target.into(), id.to_owned());
}

/// Step `number`, which is to see the processes of `id`.
fn second(job: &Job, number: u32, id: &str) -> Supervisor {
    let script = "tr '\\0' ' ' </proc/1/cmdline; echo";
    let mut step = job.container_with(number, &["sh", "-c", script], |init| target(init, id));
    step.execute();
    step
}

#[test]
fn the_processes_of_a_container_of_the_job_are_seen() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done; : first";
        let mut first = job.running_with(script, |init| {
            init.pod().namespace.get_or_insert_default().pid = NamespaceMode::Container.into();
        });
        let id = runtime.cri().containers(job.id()).first().unwrap().id.clone();
        for (number, target) in [(2, "1"), (3, id.as_str())] {
            let mut step = second(&job, number, target);
            let report = job.ended(&mut step);
            assert_eq!(report.final_status(), JobStatus::Completed, "{target}: {report:?}");
            assert!(job.output(number, "stdout").contains(": first"), "{target}: {}", job.output(number, "stdout"));
        }
        first.terminate(crane_supervisor::wire::crane::TerminateSource::UserCancel);
        job.ended(&mut first);
        job.end_pod(pod);
    });
}

#[test]
fn what_is_none_of_the_jobs_own_is_refused() {
    on_each(|runtime| {
        let other = Job::on(runtime);
        let others_pod = other.pod();
        let mut others = other.running("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        let id = runtime.cri().containers(other.id()).first().unwrap().id.clone();
        let job = Job::on(runtime);
        let pod = job.pod();
        for (number, target) in [(2, id.as_str()), (3, "1"), (4, "4"), (5, "")] {
            let mut step = second(&job, number, target);
            let report = job.ended(&mut step);
            assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323), "{target}: {report:?}");
            assert!(report.reason.contains("target_id"), "{target}: {}", report.reason);
        }
        job.end_pod(pod);
        others.terminate(crane_supervisor::wire::crane::TerminateSource::UserCancel);
        other.ended(&mut others);
        other.end_pod(others_pod);
    });
}
