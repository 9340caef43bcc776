//! Mounts on nodes that are not as simple as they could be: other file systems,
//! busy mounts, links in configured paths, a bindfs that is stopped.

use crate::support::job::Job;
use crate::support::mounting::{BINDFS, Engine, bindfs_below, on_each_mapped};
use crate::support::runtime::on_each_with_userns;
use crate::support::user::TestUser;
use crate::support::{LONG, leaks, wait};
use crane_supervisor::wire::crane::JobStatus;
use crane_supervisor::wire::crane::TerminateSource;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

fn with_data(job: Job, user: &TestUser) -> (Job, PathBuf) {
    let data = user.dir(&job.places().root.join("data"), 0o755);
    (job.with_mount(&data, "/data"), data)
}

/// An overlay of the user's, which the kernel maps no ids of.
struct Overlay(PathBuf);

impl Overlay {
    fn below(root: &Path, user: &TestUser) -> Self {
        let dir = |name: &str| user.dir(&root.join(name), 0o755);
        let (lower, upper, work, merged) = (dir("lower"), dir("upper"), dir("workdir"), dir("merged"));
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(merged)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let unmounted = umount(&self.0);
        assert!(unmounted.is_ok() || std::thread::panicking(), "the overlay is in use: {unmounted:?}");
    }
}

#[test]
fn what_the_kernel_maps_no_ids_of_goes_through_bindfs() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let job = Engine::Idmapped.job(runtime, &user);
        let overlay = Overlay::below(&job.places().root, &user);
        let job = job.with_mount(&overlay.0, "/data");
        let report = job.run("touch /data/new; grep ' /data ' /proc/self/mountinfo");
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
        assert!(job.output(1, "stdout").contains("fuse.bindfs"), "{}", job.output(1, "stdout"));
        assert!(overlay.0.join("new").exists());
        assert!(job.supervisor_log(1).contains("takes no mapping"), "{}", job.supervisor_log(1));
        drop(overlay);
    });
}

#[test]
fn a_mount_that_somebody_uses_is_unmounted_all_the_same() {
    on_each_mapped(|runtime, engine| {
        let user = TestUser::new();
        let (job, _) = with_data(engine.job(runtime, &user), &user);
        let pod = job.pod();
        let mut step = job.running("echo ready; sleep 60");
        let places = job.places();
        let point = match engine {
            Engine::Bindfs => places.mount_base.join(format!("{}.1/0", job.id())),
            _ => places.temp.join(format!("{}/steps/1/mounts/0", job.id())),
        };
        let in_use = File::open(&point).unwrap();
        step.terminate(TerminateSource::UserCancel);
        let report = job.ended(&mut step);
        assert_eq!(report.final_status(), JobStatus::Cancelled, "{report:?}");
        assert!(leaks::mounts(&places.root).is_empty(), "{:?}", leaks::mounts(&places.root));
        assert!(job.supervisor_log(1).contains("unmounting it lazily"), "{}", job.supervisor_log(1));
        drop(in_use);
        job.end_pod(pod);
    });
}

#[test]
fn a_stopped_bindfs_is_ended_with_its_step() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let (job, _) = with_data(Engine::Bindfs.job(runtime, &user), &user);
        let pod = job.pod();
        let mut step = job.running("echo ready; sleep 60");
        let bindfs = bindfs_below(step.pid(), user.uid)[0];
        kill(Pid::from_raw(bindfs), Signal::SIGSTOP).unwrap();
        step.terminate(TerminateSource::UserCancel);
        assert_eq!(job.ended(&mut step).final_status(), JobStatus::Cancelled);
        wait::holds("bindfs is gone", LONG, || !Path::new(&format!("/proc/{bindfs}")).exists());
        job.end_pod(pod);
    });
}

#[test]
fn bindfs_is_in_a_group_of_the_job_that_craned_does_not_empty() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let (mut job, _) = with_data(Job::on(runtime).of(&user).with_userns().with_bindfs(BINDFS), &user);
        let (pod_group, group) = (job.make_cgroups(0), job.make_cgroups(1));
        let pod = job.pod_with(|init| init.supv_cgroup_path = pod_group);
        let mut step = job.running_with("echo ready; sleep 60", |init| init.supv_cgroup_path = group);
        let bindfs = bindfs_below(step.pid(), user.uid)[0];
        let groups = fs::read_to_string(format!("/proc/{bindfs}/cgroup")).unwrap();
        let own = format!("/crane/job_{}/bindfs_1", job.id());
        assert!(groups.lines().any(|line| line.contains(":memory:") && line.ends_with(&own)), "{groups}");
        step.terminate(TerminateSource::UserCancel);
        assert_eq!(job.ended(&mut step).final_status(), JobStatus::Cancelled);
        assert!(!Path::new("/sys/fs/cgroup/memory").join(&own[1..]).exists(), "{own} stays");
        job.end_pod(pod);
        // Those of the job itself, in controllers that craned does not use here, are the runtime's.
        for group in leaks::cgroups(job.id()) {
            let _kept_by_the_job = fs::remove_dir(group);
        }
    });
}

#[test]
fn a_link_in_a_configured_path_hides_no_mount_from_the_clean_up() {
    on_each_mapped(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let (base, real) = (job.places().base.clone(), job.places().root.join("real"));
        fs::rename(&base, &real).unwrap();
        symlink(&real, &base).unwrap();
        let (job, data) = with_data(job, &user);
        let report = job.run("touch /data/new");
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
        assert!(data.join("new").exists());
        assert!(leaks::mounts(&job.places().root).is_empty(), "{:?}", leaks::mounts(&job.places().root));
        let left: Vec<_> = fs::read_dir(real.join("supervisor/containers")).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}
