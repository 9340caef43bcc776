//! The program is replaced while its steps run, as a package manager does it: they go on from the
//! file that is gone, with every helper, guardian and reaper still to be started.

use crate::support::job::Job;
use crate::support::mounting::{Engine, on_each_engine};
use crate::support::runtime::on_each_with_userns;
use crate::support::user::TestUser;
use crate::support::{LONG, SOON, leaks, supervisor, wait};
use crane_supervisor::wire::crane::JobStatus;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A copy of the program for one job.
fn installed(job: &Job) -> PathBuf {
    let program = job.places().root.join("installed");
    fs::copy(supervisor::BINARY, &program).unwrap();
    program
}

/// A new file takes the name, and it is none that works: whoever starts it by its path fails.
fn upgrade(program: &Path) {
    let new = program.with_extension("dpkg-new");
    fs::write(&new, "#!/bin/sh\nexit 99\n").unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, program).unwrap();
}

/// Both steps of `job` are ready when the program is replaced; the container step executes after it.
fn over_an_upgrade(job: &Job, script: &str) -> (supervisor::Supervisor, supervisor::Supervisor) {
    let program = installed(job);
    let pod = job.start_program(&job.facts.pod_step(), &program);
    job.craned.wait_for(0, JobStatus::Running, LONG);
    let mut step = job.start_program(&job.facts.container_step(1, &["sh", "-c", script]), &program);
    job.craned.wait_for(1, JobStatus::Starting, SOON);
    upgrade(&program);
    step.execute();
    (pod, step)
}

#[test]
fn steps_that_are_ready_run_to_their_end_from_the_file_that_is_gone() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let data = user.dir(&job.places().root.join("data"), 0o700);
        let job = job.with_mount(&data, "/data");
        let (pod, mut step) = over_an_upgrade(&job, "touch /data/f; exit 7");
        let report = job.ended(&mut step);
        assert_eq!((report.exit_code, report.final_status()), (7, JobStatus::Failed), "{report:?}");
        assert!(data.join("f").exists(), "the mount was made after the upgrade");
        let report = job.end_pod(pod);
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
    });
}

#[test]
fn a_step_killed_after_an_upgrade_is_undone_by_its_guardian() {
    // With all helpers there are; each engine would take the 20 s before a reaper's second look.
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let job = Engine::Bindfs.job(runtime, &user);
        let data = user.dir(&job.places().root.join("data"), 0o700);
        let job = job.with_mount(&data, "/data");
        let (mut pod, mut step) = over_an_upgrade(&job, "echo ready; while :; do echo x >/data/f; done");
        wait::holds("the container writes", LONG, || data.join("f").exists());
        step.kill9();
        pod.kill9();
        wait::holds("nothing is left of the job", LONG, || {
            leaks::left_of(job.id(), job.places(), Some(runtime)).is_empty()
        });
    });
}
