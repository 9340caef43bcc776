//! What runtimes do wrong, played by the fake: nothing may hang, run twice, be
//! lost or be left.

use crate::support::craned::Answer;
use crate::support::fake_cri::{FakeCri, Fault, Flavour, IMAGE, Method, PASSWORD, PRIVATE_IMAGE, REMOTE_IMAGE};
use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::{GRACE, LONG, SOON, wait};
use crane_supervisor::cri::api::{CreateContainerRequest, PullImageRequest, RunPodSandboxRequest};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest, TerminateSource};
use std::time::{Duration, Instant};
use tonic::Code;

/// Ends at once when told to.
const OBEDIENT: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
/// The longest a step may need to give up a runtime that does not answer.
const GIVE_UP: Duration = Duration::from_secs(30);

#[track_caller]
fn completed(report: &StepStatusChangeRequest) {
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0), "{report:?}");
}

fn flavours() -> [Flavour; 3] {
    [Flavour::containerd(), Flavour::containerd2(), Flavour::crio()]
}

#[test]
fn a_job_runs_end_to_end_on_every_flavour() {
    for flavour in flavours() {
        let fake = FakeCri::with(flavour);
        let job = Job::on_fake(&fake);
        let report = job.run("echo out; echo err >&2; exit 7");
        assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 7), "{report:?}");
        assert_eq!((job.output(1, "stdout"), job.output(1, "stderr")), ("out\n".into(), "err\n".into()));
        assert_eq!(job.craned.statuses(0), [JobStatus::Running, JobStatus::Completing]);
        assert_eq!(job.craned.statuses(1), [JobStatus::Starting, JobStatus::Completing]);
    }
}

#[test]
fn codes_are_told_from_signals_on_every_flavour() {
    for flavour in flavours() {
        let fake = FakeCri::with(flavour);
        let job = Job::on_fake(&fake);
        let pod = job.pod();
        // Where the pid is known before the start, even an end at once is seen by the
        // kernel's word. Elsewhere the container must live until it can be looked at.
        let life = if fake.flavour().pid_after_create { "" } else { "sleep 0.3; " };
        let cases = [("exit 137", 137), ("kill -9 $$", 265), ("exit 255", 255), ("exit 130", 130)];
        for (number, (script, code)) in (1..).zip(cases) {
            let script = format!("{life}{script}");
            let mut step = job.container_with(number, &["sh", "-c", &script], |_| {});
            step.execute();
            assert_eq!(job.ended(&mut step).exit_code, code, "{script} on {}", fake.flavour().name);
        }
        job.end_pod(pod);
    }
}

#[test]
fn the_order_of_the_end_is_stop_remove_stop_remove() {
    let fake = FakeCri::crio();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.running(OBEDIENT);
    step.terminate(TerminateSource::UserCancel);
    job.ended(&mut step);
    job.end_pod(pod);
    let position = |method| fake.methods().iter().rposition(|m| *m == method);
    let order = [Method::StopContainer, Method::RemoveContainer, Method::StopPodSandbox, Method::RemovePodSandbox];
    let places: Vec<_> = order.iter().map(|m| position(*m).unwrap_or_else(|| panic!("no {m:?}"))).collect();
    assert!(places.is_sorted(), "{:?}", fake.methods());
}

#[test]
fn every_call_has_a_deadline_and_a_stop_more_than_its_grace() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.running(OBEDIENT);
    step.terminate(TerminateSource::UserCancel);
    job.ended(&mut step);
    job.end_pod(pod);
    for call in fake.calls() {
        let deadline = call.deadline_seconds().unwrap_or_else(|| panic!("{:?} has no deadline", call.method));
        if call.method == Method::RunPodSandbox {
            assert!(deadline >= 60.0, "a sandbox may take minutes, not {deadline} s");
        }
        if let Some(stop) = call.request.downcast_ref::<crane_supervisor::cri::api::StopContainerRequest>() {
            let grace = Duration::from_secs(u64::try_from(stop.timeout).unwrap());
            assert!(Duration::from_secs_f64(deadline) > grace, "deadline {deadline} s, grace {grace:?}");
        }
    }
}

// ---- replies that are lost ----

#[test]
fn a_create_that_timed_out_but_was_done_is_adopted_or_removed() {
    for flavour in flavours() {
        for fault in [
            Fault::DoneButAnswers(Code::DeadlineExceeded, "too late"),
            Fault::DoneButAnswers(Code::Unavailable, "reset"),
        ] {
            let fake = FakeCri::with(flavour.clone());
            fake.fault(Method::CreateContainer, 1, fault);
            let job = Job::on_fake(&fake);
            completed(&job.run("true"));
            assert_eq!(fake.starts_of(job.id()), 1, "the container runs once");
        }
    }
}

#[test]
fn a_pod_whose_reply_was_lost_is_found_by_its_labels() {
    for flavour in flavours() {
        let fake = FakeCri::with(flavour);
        fake.fault(Method::RunPodSandbox, 1, Fault::DoneButAnswers(Code::DeadlineExceeded, "too late"));
        let job = Job::on_fake(&fake);
        completed(&job.run("true"));
    }
}

#[test]
fn a_start_whose_reply_was_lost_runs_the_container_once() {
    let fake = FakeCri::containerd();
    fake.fault(Method::StartContainer, 1, Fault::DoneButAnswers(Code::Unavailable, "connection reset"));
    let job = Job::on_fake(&fake);
    let report = job.run("exit 3");
    assert_eq!(fake.starts_of(job.id()), 1);
    // Found running (3) or given up with a reason; never a success, never a second run.
    assert_eq!(report.final_status(), JobStatus::Failed, "{report:?}");
    assert!(report.exit_code == 3 || !report.reason.is_empty(), "{report:?}");
}

#[test]
fn a_start_that_is_under_way_still_is_waited_for_and_not_made_again() {
    let fake = FakeCri::containerd();
    fake.fault(Method::StartContainer, 1, Fault::Fail(Code::Unavailable, "connection reset"));
    let text = "failed to set starting state for container: container is already in starting state";
    fake.fault(Method::StartContainer, 2, Fault::Fail(Code::Unknown, text));
    let job = Job::on_fake(&fake);
    completed(&job.run("true"));
    let creates = fake.calls().into_iter().filter(|call| call.method == Method::CreateContainer);
    assert_eq!((creates.count(), fake.starts_of(job.id())), (1, 1));
}

#[test]
fn a_start_that_was_done_before_the_second_came_is_the_start() {
    let fake = FakeCri::containerd();
    // Created still when it is looked at, running when it is started once more.
    let done = Duration::from_secs(2);
    fake.fault(Method::StartContainer, 1, Fault::DoneLater(done, Code::Unavailable, "connection reset"));
    fake.fault(Method::StartContainer, 1, Fault::Slow(2 * done));
    let job = Job::on_fake(&fake);
    completed(&job.run("sleep 1"));
    let of = |method| fake.calls().into_iter().filter(|call| call.method == method).count();
    assert_eq!((of(Method::CreateContainer), of(Method::StartContainer), fake.starts_of(job.id())), (1, 2, 1));
}

#[test]
fn a_container_that_the_runtime_forgot_at_its_start_is_not_made_again() {
    let fake = FakeCri::containerd();
    fake.fault(Method::StartContainer, 1, Fault::DoneButAnswers(Code::Unavailable, "connection reset"));
    // It may run, and does.
    fake.fault(Method::ContainerStatus, 1, Fault::Fail(Code::NotFound, "no such container"));
    let job = Job::on_fake(&fake);
    let report = job.run("sleep 60");
    assert_eq!(report.final_status(), JobStatus::Failed, "{report:?}");
    assert!(report.reason.contains("connection reset"), "{report:?}");
    let creates = fake.calls().into_iter().filter(|call| call.method == Method::CreateContainer);
    assert_eq!((creates.count(), fake.starts_of(job.id())), (1, 1));
}

#[test]
fn removals_whose_replies_were_lost_leave_nothing() {
    let fake = FakeCri::containerd();
    for method in [Method::StopContainer, Method::RemoveContainer, Method::StopPodSandbox, Method::RemovePodSandbox] {
        fake.fault(method, 1, Fault::DoneButAnswers(Code::Unavailable, "connection reset"));
    }
    let job = Job::on_fake(&fake);
    completed(&job.run("true"));
}

#[test]
fn broken_connections_while_the_container_runs_change_nothing() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.running("echo ready; sleep 0.5; exit 9");
    fake.cut_connections();
    assert_eq!(job.ended(&mut step).exit_code, 9);
    job.end_pod(pod);
}

#[test]
fn an_end_while_the_runtime_is_away_is_not_lost() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.running("echo ready; sleep 0.3; exit 9");
    fake.stop();
    let pids = fake.pids_of(job.id());
    wait::holds("the container has ended", SOON, || fake.pids_of(job.id()).is_empty());
    assert_eq!(pids.len(), 1);
    fake.start();
    assert_eq!(job.ended(&mut step).exit_code, 9);
    job.end_pod(pod);
}

#[test]
fn an_exit_code_the_runtime_forgot_is_never_a_success_nor_a_made_up_255() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    fake.forget_exit_codes();
    let report = job.run("exit 0");
    // The kernel may still know (Linux 6.15); otherwise it is lost, with a reason.
    let known = (report.final_status(), report.exit_code) == (JobStatus::Completed, 0);
    let lost = (report.final_status(), report.exit_code) == (JobStatus::Failed, 328) && !report.reason.is_empty();
    assert!(known || lost, "{report:?}");
}

#[test]
fn a_runtime_slow_to_show_the_end_is_waited_for() {
    let fake = FakeCri::containerd();
    fake.show_exits_after(Duration::from_millis(700));
    let job = Job::on_fake(&fake);
    assert_eq!(job.run("exit 5").exit_code, 5);
}

#[test]
fn output_the_runtime_writes_after_telling_the_end_is_copied_too() {
    let fake = FakeCri::containerd();
    fake.write_logs_after(Duration::from_millis(400));
    let job = Job::on_fake(&fake);
    completed(&job.run("echo late; printf later"));
    assert_eq!(job.output(1, "stdout"), "late\nlater");
}

#[test]
fn a_log_that_the_runtime_never_reopens_is_copied_whole() {
    let fake = FakeCri::containerd();
    fake.fault(Method::ReopenContainerLog, 1000, Fault::Fail(Code::Internal, "no"));
    let job = Job::on_fake(&fake);
    let report = job.run_with(&["sh", "-c", "seq 20000; sleep 0.2; seq 20000"], |init| {
        (init.max_log_file_size, init.max_log_file_num) = (10_000, 2);
    });
    completed(&report);
    let all: String = (1..=20_000).map(|i| format!("{i}\n")).collect();
    assert!(job.output(1, "stdout") == format!("{all}{all}"));
}

// ---- calls that fail ----

#[test]
fn a_runtime_that_is_away_for_a_moment_is_waited_for() {
    let fake = FakeCri::containerd();
    fake.stop();
    let job = Job::on_fake(&fake);
    let pod = job.start(&job.facts.pod_step());
    wait::pause(Duration::from_millis(500));
    fake.start();
    job.craned.wait_for(0, JobStatus::Running, LONG);
    job.end_pod(pod);
}

#[test]
fn a_refused_pod_is_reported_with_the_runtimes_words() {
    let fake = FakeCri::containerd();
    fake.fault(Method::RunPodSandbox, 50, Fault::Fail(Code::InvalidArgument, "the moon is full"));
    let job = Job::on_fake(&fake);
    let pod = job.start(&job.facts.pod_step());
    let failed = job.craned.wait_for(0, JobStatus::Failed, LONG);
    assert_eq!(failed.exit_code, 323);
    assert!(failed.reason.contains("the moon is full"), "{}", failed.reason);
    let end = job.end_pod(pod);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Failed, 323));
}

#[test]
fn a_refused_create_is_reported_with_the_runtimes_words() {
    let fake = FakeCri::containerd();
    fake.fault(Method::CreateContainer, 50, Fault::Fail(Code::Unknown, "the moon is full"));
    let job = Job::on_fake(&fake);
    let report = job.run("true");
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323));
    assert!(report.reason.contains("the moon is full"), "{}", report.reason);
}

#[test]
fn a_missing_program_is_324_on_every_flavour() {
    for flavour in flavours() {
        let fake = FakeCri::with(flavour);
        let job = Job::on_fake(&fake);
        let report = job.run_with(&["/no/such/program"], |_| {});
        assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 324), "{report:?}");
        assert!(report.reason.contains("/no/such/program"), "{}", report.reason);
    }
}

#[test]
fn a_container_step_without_a_pod_there_is_reported() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let mut step = job.container(&["true"]);
    step.execute();
    let report = job.ended(&mut step);
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323));
    assert!(report.reason.contains("pod"), "{}", report.reason);
}

#[test]
fn the_systemd_driver_is_refused_with_the_cure() {
    for (flavour, cure) in
        [(Flavour::crio(), "cgroup_manager=cgroupfs"), (Flavour::containerd2(), "SystemdCgroup = false")]
    {
        let fake = FakeCri::with(flavour.on_systemd());
        let job = Job::on_fake(&fake);
        let mut init = job.facts.pod_step();
        init.supv_cgroup_path = format!("/sys/fs/cgroup/crane/job_{}/step_0/system", job.id());
        let pod = job.start(&init);
        let failed = job.craned.wait_for(0, JobStatus::Failed, LONG);
        assert!(failed.reason.contains(cure), "{}", failed.reason);
        assert!(matches!(failed.exit_code, 322 | 323), "{failed:?}");
        job.end_pod(pod);
    }
}

#[test]
fn the_systemd_driver_is_no_matter_without_craneds_cgroups() {
    let fake = FakeCri::with(Flavour::crio().on_systemd());
    completed(&Job::on_fake(&fake).run("true"));
}

// ---- calls that never return ----

/// Ends a step whose `method` hangs for ever, by `end`; the runtime is let go only afterwards.
#[track_caller]
fn ends_although(method: Method, status: JobStatus, edit: fn(&mut InitSupervisorRequest), cancel: bool) {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    fake.fault(method, 1000, Fault::Hang);
    let mut step = job.container_with(1, &["sh", "-c", OBEDIENT], edit);
    step.execute();
    fake.wait_for(method, 1, SOON);
    if cancel {
        step.terminate(TerminateSource::UserCancel);
    }
    let started = Instant::now();
    let report = job.craned.wait_for(1, JobStatus::Completing, GIVE_UP + GRACE);
    assert_eq!(report.final_status(), status, "{method:?} hung: {report:?} after {:?}", started.elapsed());
    fake.release();
    step.wait_exit(SOON);
    job.end_pod(pod);
}

#[test]
fn a_cancel_ends_a_step_whatever_call_hangs() {
    let methods = [Method::ImageStatus, Method::PullImage, Method::CreateContainer, Method::StartContainer];
    std::thread::scope(|scope| {
        for method in methods {
            scope.spawn(move || ends_although(method, JobStatus::Cancelled, remote_image, true));
        }
    });
}

#[test]
fn a_time_limit_ends_a_step_whatever_call_hangs() {
    let methods = [Method::ImageStatus, Method::PullImage, Method::CreateContainer, Method::StartContainer];
    std::thread::scope(|scope| {
        for method in methods {
            scope.spawn(move || ends_although(method, JobStatus::ExceedTimeLimit, remote_image_for_a_second, false));
        }
    });
}

fn remote_image(init: &mut InitSupervisorRequest) {
    init.image().image = REMOTE_IMAGE.into();
}

fn remote_image_for_a_second(init: &mut InitSupervisorRequest) {
    remote_image(init);
    init.time_limit(1);
}

#[test]
fn a_cancel_ends_the_container_although_the_runtime_is_frozen() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.running(OBEDIENT);
    let pid = fake.pids_of(job.id())[0];
    // Asked for the init's pid twice: it is held.
    fake.wait_for(Method::ContainerStatus, 2, SOON);
    fake.freeze();
    step.terminate(TerminateSource::UserCancel);
    let report = job.craned.wait_for(1, JobStatus::Completing, GIVE_UP + 2 * GRACE);
    assert_eq!(report.final_status(), JobStatus::Cancelled);
    assert!(wait::process_end(pid, SOON), "the container has ended before the report");
    // Our own SIGKILL, which only the kernel can tell of.
    assert_eq!(report.exit_code, if kernel_tells_ends() { 265 } else { 320 });
    fake.release();
    step.wait_exit(SOON);
    job.end_pod(pod);
}

#[test]
fn the_jobs_end_is_told_the_kernels_word_although_the_runtime_never_shows_the_end() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.running("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    fake.wait_for(Method::ContainerStatus, 2, SOON);
    fake.show_exits_after(Duration::from_secs(3600));
    let started = Instant::now();
    step.shut_down();
    let report = job.craned.wait_for(1, JobStatus::Completing, SOON);
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
    let code = if kernel_tells_ends() { 7 } else { 320 };
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, code), "{report:?}");
    step.wait_exit(SOON);
    fake.show_exits_after(Duration::ZERO);
    job.end_pod(pod);
}

/// Whether this kernel (Linux 6.15) tells how a process ended that is no child of the asker.
fn kernel_tells_ends() -> bool {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = crane_supervisor::sys::pidfd::Process::open(i32::try_from(child.id()).unwrap()).unwrap();
    child.wait().unwrap();
    process.end().is_some()
}

#[test]
fn a_shutdown_ends_the_pod_step_in_time_although_the_runtime_is_frozen() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let mut pod = job.pod();
    fake.freeze();
    let started = Instant::now();
    pod.shut_down();
    job.craned.wait_for(0, JobStatus::Completing, SOON);
    pod.wait_exit(SOON);
    // craned kills at 2 s; what is still owed goes to a detached reaper at 1.2 s.
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
    fake.release();
}

#[test]
fn a_hanging_sandbox_ends_with_the_job() {
    let fake = FakeCri::containerd();
    fake.fault(Method::RunPodSandbox, 1000, Fault::Hang);
    let job = Job::on_fake(&fake);
    let mut pod = job.start(&job.facts.pod_step());
    fake.wait_for(Method::RunPodSandbox, 1, SOON);
    pod.shut_down();
    job.craned.wait_for(0, JobStatus::Completing, SOON);
    pod.wait_exit(SOON);
    fake.release();
}

// ---- images ----

#[test]
fn an_image_endpoint_of_its_own_is_asked_for_images_only() {
    let fake = FakeCri::with_images_apart(Flavour::containerd());
    let job = Job::on_fake(&fake);
    completed(&job.run_with(&["true"], |init| init.image().image = REMOTE_IMAGE.into()));
    assert_eq!(fake.requests::<PullImageRequest>().len(), 1);
}

#[test]
fn endpoints_may_be_bare_paths() {
    let fake = FakeCri::containerd();
    let mut job = Job::on_fake(&fake);
    job.facts.runtime = job.facts.runtime.trim_start_matches("unix://").into();
    job.facts.images = job.facts.images.trim_start_matches("unix://").into();
    completed(&job.run("true"));
}

#[test]
fn the_pull_policy_decides_whether_an_image_is_pulled() {
    for (image, policy, pulls) in [
        (IMAGE, "IfNotPresent", 0),
        (IMAGE, "if-not-present", 0),
        (IMAGE, "never", 0),
        (IMAGE, "ALWAYS", 1),
        (IMAGE, "", 1),
        (REMOTE_IMAGE, "", 1),
        (REMOTE_IMAGE, "if_not_present", 1),
    ] {
        let fake = FakeCri::containerd();
        let job = Job::on_fake(&fake);
        completed(&job.run_with(&["true"], |init| {
            init.image().image = image.into();
            init.image().pull_policy = policy.into();
        }));
        assert_eq!(fake.requests::<PullImageRequest>().len(), pulls, "{image} {policy:?}");
    }
}

#[test]
fn credentials_go_to_the_pull_and_nowhere_else() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let report = job.run_with(&["true"], |init| {
        init.image().image = PRIVATE_IMAGE.into();
        init.image().username = "someone".into();
        init.image().password = PASSWORD.into();
        init.image().server_address = "registry.test:443".into();
    });
    completed(&report);
    let auth = fake.requests::<PullImageRequest>()[0].auth.clone().unwrap();
    assert_eq!((&*auth.username, &*auth.password), ("someone", PASSWORD));
    for call in fake.calls().iter().filter(|call| call.method != Method::PullImage) {
        assert!(!call.mentions(PASSWORD), "the password is in {:?}", call.method);
    }
    assert!(!job.supervisor_log(1).contains(PASSWORD), "the password is in the log");
}

#[test]
fn a_wrong_password_is_reported_without_showing_it() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let report = job.run_with(&["true"], |init| {
        init.image().image = PRIVATE_IMAGE.into();
        init.image().username = "someone".into();
        init.image().password = "wrong-and-secret".into();
    });
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323));
    assert!(report.reason.contains(PRIVATE_IMAGE), "{}", report.reason);
    assert!(!report.reason.contains("wrong-and-secret"));
}

// ---- what is sent ----

#[test]
fn create_carries_the_pods_own_config() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    completed(&job.run("true"));
    let pod = fake.requests::<RunPodSandboxRequest>()[0].config.clone();
    let create = fake.requests::<CreateContainerRequest>()[0].sandbox_config.clone();
    assert!(pod.is_some());
    assert_eq!(create, pod);
}

#[test]
fn the_cgroup_parent_is_the_jobs_relative_to_the_mount() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let mut init = job.facts.pod_step();
    init.supv_cgroup_path = format!("/sys/fs/cgroup/crane/overflow/job_{}/step_0/system", job.id());
    let pod = job.start(&init);
    fake.wait_for(Method::RunPodSandbox, 1, SOON);
    let parent = fake.requests::<RunPodSandboxRequest>()[0].config.clone().unwrap().linux.unwrap().cgroup_parent;
    assert_eq!(parent, format!("/crane/overflow/job_{}", job.id()));
    job.end_pod(pod);
}

// ---- craned ----

#[test]
fn reports_are_repeated_in_order_until_craned_takes_them() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    job.craned.answer(2, Answer::Unavailable);
    job.craned.answer(1, Answer::NotOk);
    job.craned.answer(1, Answer::Hang);
    completed(&job.run("true"));
    assert_eq!(job.craned.statuses(0), [JobStatus::Running, JobStatus::Completing]);
    assert_eq!(job.craned.statuses(1), [JobStatus::Starting, JobStatus::Completing]);
    assert!(job.craned.attempts().iter().all(|attempt| attempt.has_deadline), "every report has a deadline");
}

#[test]
fn the_last_report_comes_after_everything_is_cleaned_up() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let mut step = job.running("echo ready; exit 0");
    job.ended(&mut step);
    let last = job.craned.attempts().iter().rfind(|a| a.request.step_id == 1).unwrap().at;
    let removed = fake.calls().iter().rfind(|c| c.method == Method::RemoveContainer).unwrap().at;
    assert!(removed < last, "Completing came before RemoveContainer");
    job.end_pod(pod);
}

#[test]
fn reports_carry_who_and_when() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let report = job.run("true");
    assert_eq!((report.job_id, report.step_id), (job.id(), 1));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let sent = u64::try_from(report.timestamp.unwrap().seconds).unwrap();
    assert!(now.abs_diff(sent) < 60, "timestamp {sent}, now {now}");
    for early in job.craned.reports(1).iter().filter(|r| r.new_status() == JobStatus::Starting) {
        assert_eq!(early.final_status, None);
    }
}

// ---- less than was asked for ----

#[test]
fn groups_of_the_image_never_meet_files_of_the_node() {
    let fake = FakeCri::containerd();
    fake.give_image_groups(&[42]);
    let job = Job::on_fake(&fake);
    std::fs::create_dir(job.places().root.join("data")).unwrap();
    let data = job.places().root.join("data");
    let job = job.with_mount(&data, "/data");
    let report = job.run("exit 0");
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323), "{report:?}");
    assert!(report.reason.contains("/etc/group") && report.reason.contains("[42]"), "{report:?}");
    assert_eq!(fake.starts_of(job.id()), 0);
}

#[test]
fn groups_of_the_image_are_no_matter_without_mounts() {
    let fake = FakeCri::containerd();
    fake.give_image_groups(&[42]);
    let job = Job::on_fake(&fake);
    assert_eq!(job.run("exit 0").final_status(), JobStatus::Completed);
}

#[test]
fn a_runtime_that_cannot_repeat_read_only_is_not_asked_to() {
    let fake = FakeCri::containerd();
    let text =
        "runc create failed: error mounting \"/x\" to rootfs at \"/data\": flags: 0x5021: operation not permitted";
    fake.fault(Method::StartContainer, 1, Fault::Fail(Code::Unknown, text));
    let job = Job::on_fake(&fake);
    let data = job.places().root.join("data");
    std::fs::create_dir(&data).unwrap();
    let job = job.with_mount(&data, "/data:ro");
    let report = job.run("exit 7");
    assert_eq!(report.exit_code, 7, "{report:?}");
    assert_eq!(fake.starts_of(job.id()), 1);
}

#[test]
fn a_root_file_system_in_the_making_is_waited_for() {
    let fake = FakeCri::containerd();
    let text = "failed to create containerd container: snapshot \"sha256:ae-1-1-remap\": already exists";
    fake.fault(Method::CreateContainer, 5, Fault::Fail(Code::Unknown, text));
    let job = Job::on_fake(&fake);
    assert_eq!(job.run("exit 0").final_status(), JobStatus::Completed);
}
