//! Pulls that go wrong, played by the fake: what is tried again, what is not, what craned
//! is told, and what the administrator's rules change. Real registries: `images`.

use crate::support::fake_cri::{FakeCri, Fault, Method, PASSWORD, PRIVATE_IMAGE, REMOTE_IMAGE};
use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::{LONG, SOON, wait};
use crane_supervisor::cri::api::PullImageRequest;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest, TerminateSource};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Code;

const REAUTHORIZE: &str = "Supervisor: { Container: { ReauthorizeImages: true } }\n";

fn remote(init: &mut InitSupervisorRequest) {
    init.image().image = REMOTE_IMAGE.into();
}

fn pulls(fake: &FakeCri) -> usize {
    fake.requests::<PullImageRequest>().len()
}

#[track_caller]
fn completed(report: &StepStatusChangeRequest) {
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0), "{report:?}");
}

#[track_caller]
fn failed(report: &StepStatusChangeRequest, words: &[&str]) {
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323), "{report:?}");
    for word in words {
        assert!(report.reason.contains(word), "{word:?} is not in {:?}", report.reason);
    }
    assert!(!report.reason.contains(char::is_control), "{:?} is not one line", report.reason);
}

/// A job whose container step runs where `/etc/crane/config.yaml` is `config`.
#[track_caller]
fn run_configured(
    fake: &Arc<FakeCri>,
    config: &str,
    edit: impl FnOnce(&mut InitSupervisorRequest),
) -> StepStatusChangeRequest {
    let job = Job::on_fake(fake);
    let pod = job.pod();
    let mut init = job.facts.container_step(1, &["true"]);
    edit(&mut init);
    let mut step = job.start_configured(&init, config);
    job.craned.wait_for(1, JobStatus::Starting, SOON);
    step.execute();
    let report = job.ended(&mut step);
    job.end_pod(pod);
    report
}

#[test]
fn what_may_pass_is_tried_again() {
    for (code, words) in [
        (Code::Unknown, "failed to pull and unpack image: dial tcp 127.0.0.1:5000: connect: connection refused"),
        (Code::Unknown, "failed to copy: httpReadSeeker: failed open: unexpected EOF"),
        (Code::Unknown, "unexpected status from HEAD request to http://h/v2/: 503 Service Unavailable"),
        (Code::Unavailable, "the runtime is restarting"),
    ] {
        let fake = FakeCri::containerd();
        fake.fault(Method::PullImage, 2, Fault::Fail(code, words));
        completed(&Job::on_fake(&fake).run_with(&["true"], remote));
        assert_eq!(pulls(&fake), 3, "{words}");
    }
}

#[test]
fn what_stays_wrong_is_told_at_once_with_its_cause() {
    for (code, words, told) in [
        (Code::Unknown, "write /var/lib/x: no space left on device", ["disk for images is full", "no space left"]),
        (Code::NotFound, "registry.test/app:1: not found", ["registry.test has no such image", "not found"]),
        (Code::Unknown, "x: 401 Unauthorized\nsecond line", ["ccon login registry.test", "401"]),
        (Code::Unknown, "dial tcp: lookup registry.test: no such host", ["no host named registry.test", "lookup"]),
        (Code::Unknown, "x509: certificate signed by unknown authority", ["no trusted TLS", "x509"]),
        (Code::NotFound, "no match for platform in manifest: not found", ["architecture", "no match"]),
        (Code::Unknown, "unexpected commit digest sha256:1, expected sha256:2", ["digest", "sha256:2"]),
        (Code::Unknown, "words of tomorrow", ["the container runtime refuses", "words of tomorrow"]),
    ] {
        let fake = FakeCri::containerd();
        fake.fault(Method::PullImage, 1, Fault::Fail(code, words));
        let report = Job::on_fake(&fake).run_with(&["true"], remote);
        failed(&report, &[&[REMOTE_IMAGE], &told[..]].concat());
        assert_eq!(pulls(&fake), 1, "{words}");
    }
}

#[test]
fn a_pull_that_a_restart_of_the_runtime_cuts_off_is_made_again() {
    let fake = FakeCri::containerd();
    fake.fault(Method::PullImage, 1, Fault::Hang);
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.container_with(1, &["true"], remote);
    step.execute();
    fake.wait_for(Method::PullImage, 1, SOON);
    fake.cut_connections();
    completed(&job.ended(&mut step));
    assert_eq!(pulls(&fake), 2);
    job.end_pod(pod);
}

#[test]
fn a_pull_has_craneds_limit_or_the_images_own_and_no_other() {
    let craneds = |init: &mut InitSupervisorRequest| init.config().image_pull_timeout = 1;
    let own = |init: &mut InitSupervisorRequest| {
        init.config().image_pull_timeout = 3000;
        init.image().pull_timeout = 1;
    };
    for limit in [&craneds as &dyn Fn(&mut InitSupervisorRequest), &own] {
        let fake = FakeCri::containerd();
        fake.fault(Method::PullImage, 1, Fault::Hang);
        let begun = Instant::now();
        let report = Job::on_fake(&fake).run_with(&["true"], |init| {
            remote(init);
            limit(init);
        });
        failed(&report, &[REMOTE_IMAGE, "longer than the 1 s"]);
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
        assert_eq!(pulls(&fake), 1);
    }
    let fake = FakeCri::containerd();
    completed(&Job::on_fake(&fake).run_with(&["true"], remote));
    let deadlines: Vec<_> = fake.calls().into_iter().filter(|call| call.method == Method::PullImage).collect();
    assert_eq!(deadlines[0].deadline, None, "a pull without a limit has a deadline");
}

#[test]
fn a_pull_may_take_long_but_not_do_nothing() {
    let fake = FakeCri::containerd();
    let download = fake.make_image_store().join("layer");
    std::fs::create_dir(&download).unwrap();
    fake.fault(Method::PullImage, 2, Fault::Hang);
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut init = job.facts.container_step(1, &["true"]);
    remote(&mut init);
    let mut step = job.start_configured(&init, "Supervisor: { Container: { PullStallTimeout: 2 } }\n");
    job.craned.wait_for(1, JobStatus::Starting, SOON);
    step.execute();
    fake.wait_for(Method::PullImage, 1, SOON);
    // Something comes for three times the limit.
    for bytes in 1..60 {
        std::fs::write(download.join("data"), vec![0; bytes]).unwrap();
        wait::pause(Duration::from_millis(100));
    }
    assert_eq!(pulls(&fake), 1, "a pull that went on was given up");
    assert_eq!(step.check().status(), JobStatus::Running);
    let report = job.craned.wait_for(1, JobStatus::Completing, LONG);
    failed(&report, &[REMOTE_IMAGE, "nothing came from registry.test for 2 s"]);
    assert_eq!(pulls(&fake), 2, "once more, and not for ever");
    fake.release();
    step.wait_exit(SOON);
    job.end_pod(pod);
}

#[test]
fn a_cancel_ends_the_wait_between_two_tries() {
    let fake = FakeCri::containerd();
    fake.fault(Method::PullImage, 20, Fault::Fail(Code::Unknown, "connection refused"));
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.container_with(1, &["true"], remote);
    step.execute();
    fake.wait_for(Method::PullImage, 3, LONG);
    let begun = Instant::now();
    step.terminate(TerminateSource::UserCancel);
    let report = job.ended(&mut step);
    assert_eq!(report.final_status(), JobStatus::Cancelled, "{report:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    job.end_pod(pod);
}

#[test]
fn a_bad_reference_is_refused_before_any_call() {
    for image in ["", "UPPER/x:1", "docker://alpine", "a@sha256:00", "h:99999/a", "a b"] {
        let fake = FakeCri::containerd();
        let report = Job::on_fake(&fake).run_with(&["true"], |init| init.image().image = image.into());
        failed(&report, &["container_meta.image.image: "]);
        let asked = [Method::ImageStatus, Method::PullImage, Method::CreateContainer];
        assert!(!fake.methods().iter().any(|method| asked.contains(method)), "{image}: {:?}", fake.methods());
    }
}

#[test]
fn a_private_image_that_is_here_is_only_for_whom_its_registry_lets() {
    let fake = FakeCri::containerd();
    let with = |password: &'static str, policy: &'static str| {
        move |init: &mut InitSupervisorRequest| {
            init.image().image = PRIVATE_IMAGE.into();
            init.image().pull_policy = policy.into();
            if !password.is_empty() {
                init.image().username = "someone".into();
                init.image().password = password.into();
            }
        }
    };
    // Never does not bring it.
    failed(&run_configured(&fake, REAUTHORIZE, with(PASSWORD, "Never")), &["pull policy is Never"]);
    assert_eq!(pulls(&fake), 0);
    completed(&run_configured(&fake, REAUTHORIZE, with(PASSWORD, "IfNotPresent")));
    for policy in ["IfNotPresent", "Never"] {
        completed(&run_configured(&fake, REAUTHORIZE, with(PASSWORD, policy)));
        for password in ["", "wrong"] {
            let report = run_configured(&fake, REAUTHORIZE, with(password, policy));
            failed(&report, &[PRIVATE_IMAGE, "ccon login registry.test"]);
        }
        // Without the rule it is anybody's, as with any runtime.
        completed(&run_configured(&fake, "Supervisor: {}\n", with("", policy)));
    }
    // The rule holds although the file cannot be read any more.
    failed(&run_configured(&fake, "Supervisor: { Container: { ReauthorizeImages: [\n", with("", "Never")), &[]);
}

#[test]
fn an_id_is_no_way_around_the_registry() {
    let id = "c".repeat(64);
    for (config, words) in
        [(REAUTHORIZE, "asks the registry for every image"), ("Supervisor: {}\n", "not on this node")]
    {
        let fake = FakeCri::containerd();
        fake.hold_image(&id);
        let report = run_configured(&fake, config, |init| {
            let missing = "d".repeat(64);
            let image = if config == REAUTHORIZE { &id } else { &missing };
            init.image().image = format!("sha256:{image}");
        });
        failed(&report, &[words, "an id cannot be pulled"]);
        assert_eq!(pulls(&fake), 0);
    }
    let fake = FakeCri::containerd();
    fake.hold_image(&id);
    completed(&run_configured(&fake, "", |init| init.image().image = format!("sha256:{id}")));
}
