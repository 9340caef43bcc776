//! Hooks of a pod step, and the process they run in. What hooks do for a whole job is in
//! `tests/scenarios.yaml`. On a fake runtime.

use crate::support::fake_cri::FakeCri;
use crate::support::job::Job;
use crate::support::supervisor::Supervisor;
use crate::support::{LONG, wait};
use crane_supervisor::wire::crane::JobStatus;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::JobLifecycleHookConfig;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

fn script(job: &Job, name: &str, text: &str) -> String {
    let path = job.places().root.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn hooks(init: &mut InitSupervisorRequest) -> &mut JobLifecycleHookConfig {
    init.job_lifecycle_hook_config.get_or_insert_default()
}

/// The process that hooks run in.
fn runner(supervisor: &Supervisor) -> Option<i32> {
    let parent = i32::try_from(supervisor.pid()).unwrap();
    let stats = procfs::process::all_processes().unwrap().flatten().filter_map(|process| process.stat().ok());
    stats.into_iter().find(|stat| stat.ppid == parent && stat.comm == "crane-hooks").map(|stat| stat.pid)
}

#[test]
fn a_pod_step_whose_prolog_fails_is_329_and_still_runs_its_epilog() {
    let job = Job::on_fake(&FakeCri::containerd());
    let mut init = job.facts.pod_step();
    hooks(&mut init).prologs = vec![script(&job, "prolog", "echo no scratch >&2; exit 1")];
    hooks(&mut init).epilogs =
        vec![script(&job, "epilog", &format!("echo epilog >{}/trace", job.places().root.display()))];
    let mut pod = job.start(&init);
    let report = job.craned.wait_for(0, JobStatus::Failed, LONG);
    assert_eq!(report.exit_code, 329);
    assert!(report.reason.contains("ended with exit code 1: no scratch"), "{}", report.reason);
    wait::holds("the epilog ran", LONG, || job.places().root.join("trace").exists());
    pod.shut_down();
    let end = job.ended(&mut pod);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Failed, 329));
}

#[test]
fn a_prolog_of_roots_has_roots_privileges_and_nothing_of_the_users() {
    let job = Job::on_fake(&FakeCri::containerd());
    let trace = job.places().root.join("trace");
    let text =
        format!("env >{0}; grep -E 'NoNewPrivs|CapBnd|CapEff' /proc/self/status >>{0}; umask >>{0}", trace.display());
    let prolog = script(&job, "prolog", &text);
    let pod = job.pod_with(|init| {
        hooks(init).prologs = vec![prolog];
        init.env.insert("LD_PRELOAD".into(), "/work/evil.so".into());
        init.step_spec.as_mut().unwrap().env.insert("CRANE_EVIL".into(), "1".into());
    });
    let found = std::fs::read_to_string(trace).unwrap();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    for line in own.lines().filter(|line| line.starts_with("CapBnd") || line.starts_with("NoNewPrivs")) {
        assert!(found.contains(line), "{line} is not as in craned: {found}");
    }
    assert!(
        found.contains(&format!("CRANE_JOB_ID={}", job.id())) && !found.contains("evil") && !found.contains("EVIL")
    );
    assert!(found.contains("0022"), "{found}");
    job.end_pod(pod);
}

#[test]
fn only_a_step_with_hooks_has_a_process_for_them_and_it_goes_with_us() {
    let job = Job::on_fake(&FakeCri::containerd());
    let plain = job.pod();
    assert_eq!(runner(&plain), None);
    job.end_pod(plain);
    let job = Job::on_fake(&FakeCri::containerd());
    let mut pod = job.pod_with(|init| hooks(init).epilogs = vec!["/bin/true".into()]);
    let runner = runner(&pod).expect("a process for hooks");
    pod.kill9();
    assert!(wait::process_end(u32::try_from(runner).unwrap(), Duration::from_secs(5)), "it outlived its supervisor");
}

#[test]
fn a_slow_epilog_does_not_hold_the_jobs_end() {
    let job = Job::on_fake(&FakeCri::containerd());
    let trace = job.places().root.join("trace");
    let epilog = script(&job, "epilog", &format!("sleep 4; echo done >{}", trace.display()));
    let mut pod = job.pod_with(|init| hooks(init).epilogs = vec![epilog]);
    let begun = std::time::Instant::now();
    pod.shut_down();
    job.ended(&mut pod);
    assert!(begun.elapsed() < Duration::from_secs(2), "craned kills at 2 s: {:?}", begun.elapsed());
    wait::holds("the epilog went on", LONG, || trace.exists());
}
