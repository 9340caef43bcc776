//! The second witness of an end: the proc connector, on kernels whose pidfds tell nothing.
//!
//! Needs the feature `failpoints`, by which this kernel plays an older one; and the kernel's
//! first network namespace, in which alone the connector answers.

use crate::support::fake_cri::{FakeCri, Flavour};
use crate::support::job::Job;
use crate::support::runtime::on_each;
use crate::support::supervisor::{Start, Supervisor};
use crate::support::{LONG, SOON};
use crane_supervisor::wire::crane::JobStatus;

/// A container step on an old kernel, executed.
fn start(job: &Job, number: u32, script: &str) -> Supervisor {
    let mut start = Start::like_craned(&job.places().root, job.id(), number);
    start.env.push(("CRANE_OLD_KERNEL".into(), "1".into()));
    start.outside = true;
    let mut step = start.spawn();
    step.send(&job.facts.container_step(number, &["sh", "-c", script]));
    assert_eq!(step.ready(SOON), Some(true), "{}", step.stderr());
    job.craned.wait_for(number, JobStatus::Starting, LONG);
    step.execute();
    step
}

#[test]
fn codes_are_told_from_signals_on_an_old_kernel() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let cases = [
            ("exit 0", 0),
            ("exit 7", 7),
            ("exit 130", 130),
            ("exit 137", 137),
            ("exit 255", 255),
            ("kill -2 $$", 258),
            ("sleep 0.5; exit 143", 143),
            ("sleep 0.5; kill -9 $$", 265),
        ];
        for (number, (script, code)) in (1..).zip(cases) {
            let mut step = start(&job, number, script);
            assert_eq!(job.ended(&mut step).exit_code, code, "{script}\n{}", job.supervisor_log(number));
            assert!(!job.supervisor_log(number).contains("will not tell"), "{script}");
        }
        job.end_pod(pod);
    });
}

#[test]
fn a_code_the_runtime_forgot_is_known_on_an_old_kernel() {
    let fake = FakeCri::with(Flavour::containerd());
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = start(&job, 1, "sleep 1; exit 7");
    fake.forget_exit_codes();
    assert_eq!(job.ended(&mut step).exit_code, 7, "{}", job.supervisor_log(1));
    job.end_pod(pod);
}
