//! The same job again on the same node, after its supervisors were killed.

use crate::support::job::Job;
use crate::support::runtime::on_each;
use crate::support::{LONG, wait};
use crane_supervisor::wire::crane::JobStatus;

#[test]
fn a_job_whose_supervisors_were_killed_runs_again_and_leaves_nothing() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        step.kill9_unguarded();
        pod.kill9_unguarded();

        let again = job.start(&job.facts.pod_step());
        let ran = || job.craned.statuses(0).iter().filter(|status| **status == JobStatus::Running).count();
        wait::holds("the pod is up a second time", LONG, || ran() == 2);
        assert_eq!(runtime.cri().pods(job.id()).len(), 1, "the first pod is gone");
        assert!(runtime.cri().containers(job.id()).is_empty(), "and its container");
        let mut step = job.container(&["sh", "-c", "exit 3"]);
        step.execute();
        let end = job.ended(&mut step);
        assert_eq!((end.final_status(), end.exit_code), (JobStatus::Failed, 3));
        job.end_pod(again);
    });
}

#[test]
fn what_a_killed_pod_step_owed_is_undone_by_its_successor_that_fails() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        pod.kill9_unguarded();
        let mut init = job.facts.pod_step();
        // Fails before it acquires anything of its own.
        init.step_spec.as_mut().unwrap().pod_meta.as_mut().unwrap().run_as_user = 4242;
        init.step_spec.as_mut().unwrap().pod_meta.as_mut().unwrap().run_as_group = 4242;
        let again = job.start(&init);
        job.craned.wait_for(0, JobStatus::Failed, LONG);
        wait::holds("the first pod is gone", LONG, || runtime.cri().pods(job.id()).is_empty());
        job.end_pod(again);
    });
}

#[test]
fn a_step_that_the_requeued_job_does_not_have_is_undone_all_the_same() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        // Nobody is left to undo anything.
        step.kill9_unguarded();
        pod.kill9_unguarded();
        let dir = job.places().temp.join(format!("{}/steps/1", job.id()));
        assert!(dir.join("journal").exists());
        let again = job.pod();
        wait::holds("the step of the earlier run is gone", LONG, || !dir.exists());
        assert!(job.supervisor_log(0).contains("an earlier run of the job left this step"));
        job.end_pod(again);
    });
}

#[test]
fn a_job_is_requeued_twenty_times_with_and_without_leftovers() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let ups = || job.craned.statuses(0).iter().filter(|status| **status == JobStatus::Running).count();
        let ends = || job.craned.statuses(1).iter().filter(|status| **status == JobStatus::Completing).count();
        let mut ended = 0;
        for round in 1..=20 {
            let mut pod = job.start(&job.facts.pod_step());
            wait::holds("the pod is up again", LONG, || ups() == round);
            let code = u32::try_from(round).unwrap();
            let script = format!("echo ready; [ {round} -gt 3 ] || sleep 300; exit {code}");
            let mut step = job.start(&job.facts.container_step(1, &["sh", "-c", &script]));
            step.execute();
            if round <= 3 {
                wait::holds("the container runs", LONG, || job.runtime_log(1).ends_with(b"ready\n"));
                // Once with the guardians at work, else with nobody left to undo anything.
                if round == 1 {
                    step.kill9()
                } else {
                    step.kill9_unguarded()
                }
                if round == 3 {
                    pod.kill9()
                } else {
                    pod.kill9_unguarded()
                }
                continue;
            }
            ended += 1;
            wait::holds("the end is told", LONG, || ends() == ended);
            step.wait_exit(LONG);
            assert_eq!(job.craned.reports(1).last().unwrap().exit_code, code, "round {round}");
            if round % 5 == 0 {
                pod.kill9_unguarded();
            } else {
                pod.shut_down();
                pod.wait_exit(LONG);
            }
        }
        // The twentieth was killed: one more run ends in the orderly way.
        let mut pod = job.start(&job.facts.pod_step());
        wait::holds("the pod is up again", LONG, || ups() == 21);
        pod.shut_down();
        pod.wait_exit(LONG);
    });
}
