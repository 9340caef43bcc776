//! Images from a real registry with a password, on real runtimes, over a line that is slow
//! or breaks. What only a script can show is in `pulls`.

use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::registry::{Registry, USER, base64_of};
use crate::support::runtime::on_each;
use crate::support::{LONG, SOON, wait};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest, TerminateSource};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PASSWORD: &str = "pass-of-the-test-registry";
/// Bytes a second of a slow line.
const SLOW: u64 = 1 << 20;

/// MiB of a large image: 100 with `scripts/test --long`.
fn large() -> u64 {
    if std::env::var("CRANE_TEST_SIZE").is_ok_and(|size| size == "long") { 100 } else { 8 }
}

fn of<'a>(image: &'a str, password: &'a str) -> impl Fn(&mut InitSupervisorRequest) + use<'a> {
    move |init| {
        init.image().image = image.into();
        init.image().username = USER.into();
        init.image().password = password.into();
        // As ccon fills it in.
        init.image().server_address = image.split('/').next().unwrap_or_default().into();
    }
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
    assert!(!report.reason.contains('\n') && !report.reason.contains(PASSWORD), "{}", report.reason);
}

#[test]
fn a_large_image_over_a_slow_line_is_waited_for_and_answers_come_meanwhile() {
    on_each(|runtime| {
        let registry = Registry::start(PASSWORD);
        let image = registry.push("big:1", large());
        registry.throttle(SLOW);
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.container_with(1, &["echo", "there"], of(&image, PASSWORD));
        let begun = Instant::now();
        step.execute();
        let mut slowest = Duration::ZERO;
        while job.craned.statuses(1).last() != Some(&JobStatus::Completing) {
            assert!(begun.elapsed() < LONG + Duration::from_secs(2 * large()), "the job does not end");
            let asked = Instant::now();
            if step.client().check().is_ok() {
                slowest = slowest.max(asked.elapsed());
            }
            wait::pause(Duration::from_millis(20));
        }
        completed(&job.ended(&mut step));
        assert_eq!(job.output(1, "stdout"), "there\n");
        assert!(
            begun.elapsed() >= Duration::from_secs(large() * 8 / 10),
            "the line was not slow: {:?}",
            begun.elapsed()
        );
        // Waiting for the pull it would be seconds; the machine may be busy for some time.
        assert!(slowest < Duration::from_secs(1), "CheckStatus took {slowest:?}");
        job.end_pod(pod);
    });
}

#[test]
fn a_cancel_during_a_pull_ends_it_within_a_second() {
    on_each(|runtime| {
        let registry = Registry::start(PASSWORD);
        let image = registry.push("big:2", large());
        registry.throttle(SLOW);
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.container_with(1, &["true"], of(&image, PASSWORD));
        step.execute();
        wait::holds("a part of the image has come", LONG, || registry.sent() > SLOW);
        let begun = Instant::now();
        step.terminate(TerminateSource::UserCancel);
        let report = job.craned.wait_for(1, JobStatus::Completing, SOON);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_eq!(report.final_status(), JobStatus::Cancelled, "{report:?}");
        step.wait_exit(SOON);
        // The runtime gives up too.
        let quiet = wait::until(LONG, || {
            let before = registry.sent();
            wait::pause(Duration::from_secs(1));
            (registry.sent() == before).then_some(())
        });
        assert!(quiet.is_some(), "the runtime goes on pulling");
        job.end_pod(pod);
    });
}

#[test]
fn what_a_registry_refuses_is_told_in_words_a_user_understands() {
    on_each(|runtime| {
        let registry = Registry::start(PASSWORD);
        let image = registry.push("small:1", 0);
        let (host, missing) = (registry.host(), format!("{}/small:nine", registry.host()));
        let login = format!("ccon login {host}");
        let denied = [image.as_str(), &login, "401"];
        failed(&Job::on(runtime).run_with(&["true"], of(&image, "wrong-password")), &denied);
        let anonymous = |init: &mut InitSupervisorRequest| init.image().image = image.clone();
        failed(&Job::on(runtime).run_with(&["true"], anonymous), &[&image, &login]);
        let words = format!("{host} has no such image");
        failed(&Job::on(runtime).run_with(&["true"], of(&missing, PASSWORD)), &[&missing, &words, "not found"]);
        // Nobody is asked any more: here it is.
        completed(&Job::on(runtime).run_with(&["true"], of(&image, PASSWORD)));
        completed(&Job::on(runtime).run_with(&["true"], of(&image, "wrong-password")));
        let always = |init: &mut InitSupervisorRequest| {
            of(&image, "wrong-password")(init);
            init.image().pull_policy = "Always".into();
        };
        failed(&Job::on(runtime).run_with(&["true"], always), &denied);
    });
}

#[test]
fn a_name_that_does_not_resolve_is_called_that() {
    on_each(|runtime| {
        let image = "no-such-registry.invalid/a:1";
        let report = Job::on(runtime).run_with(&["true"], |init| init.image().image = image.into());
        // Which of the two depends on what the name server is that cannot be reached in here.
        let words = ["knows no host named no-such-registry.invalid", "no-such-registry.invalid cannot be reached"];
        assert!(words.iter().any(|words| report.reason.contains(words)), "{report:?}");
        failed(&report, &[image, "lookup"]);
    });
}

#[test]
fn a_registry_that_is_killed_under_a_pull_and_comes_back_costs_nothing() {
    on_each(|runtime| {
        let registry = Registry::start(PASSWORD);
        let image = registry.push("big:3", 4);
        registry.throttle(SLOW);
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.container_with(1, &["true"], of(&image, PASSWORD));
        step.execute();
        wait::holds("a part of the image has come", LONG, || registry.sent() > SLOW);
        registry.kill();
        wait::holds("it is tried again", LONG, || job.supervisor_log(1).contains("the pull is tried again"));
        registry.throttle(0);
        registry.come_back();
        completed(&job.ended(&mut step));
        job.end_pod(pod);
    });
}

#[test]
fn two_steps_that_pull_the_same_image_at_once_both_have_it() {
    on_each(|runtime| {
        let registry = Registry::start(PASSWORD);
        let image = registry.push("big:4", 4);
        registry.throttle(SLOW);
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut steps = [1, 2].map(|number| job.container_with(number, &["true"], of(&image, PASSWORD)));
        steps.iter_mut().for_each(|step| step.execute());
        steps.iter_mut().for_each(|step| completed(&job.ended(step)));
        job.end_pod(pod);
    });
}

/// Files below `dir` that hold any of `canaries`; a runtime's unpacked images aside.
fn files_with(dir: &Path, canaries: &[String]) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(path) = open.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_dir() && !path.ends_with("snapshots") && !path.ends_with("rootfs") {
            open.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if meta.is_file() && std::fs::read(&path).is_ok_and(|bytes| holds(&bytes, canaries)) {
            found.push(path);
        }
    }
    found
}

fn holds(bytes: &[u8], canaries: &[String]) -> bool {
    canaries.iter().any(|canary| bytes.windows(canary.len()).any(|part| part == canary.as_bytes()))
}

/// Arguments and environments of all processes that hold any of `canaries`.
fn processes_with(canaries: &[String]) -> Vec<PathBuf> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let files = pids.flat_map(|dir| ["cmdline", "environ"].map(|name| dir.join(name)));
    files.filter(|path| std::fs::read(path).is_ok_and(|bytes| holds(&bytes, canaries))).collect()
}

#[test]
fn a_password_is_nowhere_on_disk_nor_in_any_command_line_or_environment() {
    on_each(|runtime| {
        let password = format!("canary-{}-{}", runtime.name().replace('.', "-"), std::process::id());
        let canaries = [password.clone(), base64_of(&format!("{USER}:{password}"))];
        let registry = Registry::start(&password);
        let image = registry.push("secret:1", 2);
        let missing = format!("{}/none:1", registry.host());
        registry.throttle(SLOW);
        let job = Job::on(runtime);
        let pod = job.pod();
        let look = |when: &str| {
            let bed = PathBuf::from(std::env::var("CRANE_TESTBED_DIR").unwrap());
            let dirs = [&job.places().root, &bed, Path::new("/tmp/crane"), Path::new("/var/tmp"), Path::new("/run")];
            let mut found: Vec<_> = dirs.iter().flat_map(|dir| files_with(dir, &canaries)).collect();
            found.extend(processes_with(&canaries));
            assert!(found.is_empty(), "{when} the password is in {found:?}");
        };
        // The look itself finds what is there.
        let planted = job.places().root.join("planted");
        std::fs::write(&planted, &password).unwrap();
        let mut carrier = std::process::Command::new("sleep").arg("60").env("PLANTED", &password).spawn().unwrap();
        assert_eq!(files_with(&job.places().root, &canaries), std::slice::from_ref(&planted));
        assert_eq!(processes_with(&canaries), [PathBuf::from(format!("/proc/{}/environ", carrier.id()))]);
        std::fs::remove_file(planted).unwrap();
        carrier.kill().unwrap();
        carrier.wait().unwrap();
        let trace = |init: &mut InitSupervisorRequest| init.debug_level = "trace".into();
        let mut step = job.container_with(1, &["sh", "-c", "echo ready; sleep 300"], |init| {
            of(&image, &password)(init);
            trace(init);
        });
        step.execute();
        wait::holds("a part of the image has come", LONG, || registry.sent() > SLOW);
        look("during the pull");
        wait::holds("the container says ready", LONG, || job.runtime_log(1).ends_with(b"ready\n"));
        look("while the container runs");
        step.terminate(TerminateSource::UserCancel);
        job.ended(&mut step);
        let mut refused = job.container_with(2, &["true"], |init| {
            of(&missing, &password)(init);
            trace(init);
        });
        refused.execute();
        let report = job.ended(&mut refused);
        assert!(!holds(format!("{report:?}").as_bytes(), &canaries), "the password is in the report");
        job.end_pod(pod);
        look("after the job");
    });
}
