//! One job of one test: its directories, its craned, its steps, and the check
//! that nothing of it is left.
//!
//! Dropping a `Job` waits until all is gone and fails the test, naming what is
//! left. After a failed test it shows the logs instead and clears up by force.

use super::craned::Craned;
use super::fake_cri::FakeCri;
use super::init::{Facts, Places};
use super::runtime::Runtime;
use super::supervisor::{Start, Supervisor};
use super::user::TestUser;
use super::{LONG, SOON, leaks, wait};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::container_config::BindFsConfig;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The job's user where a test does not care: a passwd entry every system has.
pub const NOBODY: u32 = 65534;

/// One job.
pub struct Job {
    /// What its messages have in common; change before the first step.
    pub facts: Facts,
    /// Where its reports go.
    pub craned: Craned,
    runtime: Option<Runtime>,
    cgroups: Vec<PathBuf>,
}

impl Job {
    /// A job on `runtime`.
    pub fn on(runtime: &Runtime) -> Self {
        Self::new(Some(runtime.clone()))
    }

    /// A job on a fake runtime.
    pub fn on_fake(fake: &Arc<FakeCri>) -> Self {
        Self::new(Some(Runtime::Fake(Arc::clone(fake))))
    }

    /// A job that never reaches a runtime: nothing listens at its endpoint.
    pub fn without_runtime() -> Self {
        Self::new(None)
    }

    fn new(runtime: Option<Runtime>) -> Self {
        let job = unique();
        let places = Places::below(&PathBuf::from(format!("/var/tmp/cs-{job}")));
        make(&places, NOBODY);
        let nowhere = || format!("unix://{}", places.root.join("nowhere.sock").display());
        let facts = Facts {
            job,
            uid: NOBODY,
            gids: vec![NOBODY],
            runtime: runtime.as_ref().map_or_else(nowhere, Runtime::endpoint),
            images: runtime.as_ref().map_or_else(nowhere, Runtime::image_endpoint),
            image: runtime.as_ref().map_or_else(|| "none".into(), Runtime::image),
            places: places.clone(),
            ..Facts::default()
        };
        Self { facts, craned: Craned::start(&places.craned), runtime, cgroups: Vec::new() }
    }

    /// Makes `uid` the job's user.
    pub fn of_user(mut self, uid: u32) -> Self {
        self.facts.uid = uid;
        self.facts.gids = vec![uid];
        std::os::unix::fs::chown(&self.facts.places.cwd, Some(uid), Some(uid)).expect("tests run as root");
        self
    }

    /// Makes `user` the job's user, with the groups the node knows.
    pub fn of(mut self, user: &TestUser) -> Self {
        self = self.of_user(user.uid);
        self.facts.gids = vec![user.gid];
        std::os::unix::fs::chown(&self.facts.places.cwd, None, Some(user.gid)).expect("tests run as root");
        self
    }

    /// Gives the pod a user namespace and a network of its own; the container is root in it.
    pub fn with_userns(mut self) -> Self {
        self.facts.userns = true;
        self
    }

    /// Mounts `host` at `container` in every container step.
    pub fn with_mount(mut self, host: impl AsRef<Path>, container: &str) -> Self {
        self.facts.mounts.push((host.as_ref().display().to_string(), container.to_owned()));
        self
    }

    /// Turns bindfs on, as the administrator's configuration does.
    pub fn with_bindfs(mut self, program: impl AsRef<Path>) -> Self {
        self.facts.bindfs = Some(BindFsConfig {
            bindfs_binary: program.as_ref().display().to_string(),
            fusermount_binary: "fusermount3".into(),
            mount_base_dir: self.facts.places.mount_base.display().to_string(),
        });
        self
    }

    /// The job's number.
    pub fn id(&self) -> u32 {
        self.facts.job
    }

    /// Its directories.
    pub fn places(&self) -> &Places {
        &self.facts.places
    }

    /// Starts a supervisor and sends nothing yet.
    pub fn spawn(&self, step: u32) -> Supervisor {
        Start::like_craned(&self.places().root, self.id(), step).spawn()
    }

    /// Starts a supervisor for `init`, which must accept it.
    #[track_caller]
    pub fn start(&self, init: &InitSupervisorRequest) -> Supervisor {
        self.start_program(init, Path::new(super::supervisor::BINARY))
    }

    /// [`Job::start`] with a program of the test's own.
    #[track_caller]
    pub fn start_program(&self, init: &InitSupervisorRequest, program: &Path) -> Supervisor {
        let start = Start::like_craned(&self.places().root, self.id(), init.step_id);
        let mut supervisor = Start { program: program.to_owned(), ..start }.spawn();
        supervisor.send(init);
        let ready = supervisor.ready(SOON);
        assert_eq!(ready, Some(true), "SupervisorReady of step {}; stderr: {}", init.step_id, supervisor.stderr());
        supervisor
    }

    /// [`Job::start`] where the node's `/etc/crane/config.yaml` is `config`.
    #[track_caller]
    pub fn start_configured(&self, init: &InitSupervisorRequest, config: &str) -> Supervisor {
        let etc = self.places().root.join("etc");
        std::fs::create_dir_all(etc.join("crane")).expect("the root is ours");
        std::fs::write(etc.join("crane/config.yaml"), config).expect("the root is ours");
        self.start_with_etc(init, "true")
    }

    /// [`Job::start`] where the step sees a copy of `/etc`, `etc` below the job's root, after `change` was done there.
    #[track_caller]
    pub fn start_with_etc(&self, init: &InitSupervisorRequest, change: &str) -> Supervisor {
        let etc = self.places().root.join("etc");
        std::fs::create_dir_all(&etc).expect("the root is ours");
        let copied = "/etc/passwd /etc/group /etc/nsswitch.conf";
        let setup = format!("cp -a {copied} {0} && (cd {0} && {change}) && mount --bind {0} /etc", etc.display());
        let mut supervisor =
            Start { private: Some(setup), ..Start::like_craned(&self.places().root, self.id(), init.step_id) }.spawn();
        supervisor.send(init);
        let ready = supervisor.ready(SOON);
        assert_eq!(ready, Some(true), "SupervisorReady of step {}; stderr: {}", init.step_id, supervisor.stderr());
        supervisor
    }

    /// Starts the pod step and waits until it reports Running.
    #[track_caller]
    pub fn pod(&self) -> Supervisor {
        self.pod_with(|_| {})
    }

    /// [`Job::pod`] with a changed message.
    #[track_caller]
    pub fn pod_with(&self, edit: impl FnOnce(&mut InitSupervisorRequest)) -> Supervisor {
        let mut init = self.facts.pod_step();
        edit(&mut init);
        let pod = self.start(&init);
        let end = |status: &JobStatus| matches!(status, JobStatus::Running | JobStatus::Failed);
        wait::until(LONG, || self.craned.statuses(0).iter().any(end).then_some(()));
        let reports = self.craned.reports(0);
        assert_eq!(self.craned.statuses(0).last(), Some(&JobStatus::Running), "the pod: {reports:?}");
        pod
    }

    /// Starts container step 1 with `command` and waits until it reports Starting.
    #[track_caller]
    pub fn container(&self, command: &[&str]) -> Supervisor {
        self.container_with(1, command, |_| {})
    }

    /// [`Job::container`] with a step number and a changed message.
    #[track_caller]
    pub fn container_with(
        &self,
        step: u32,
        command: &[&str],
        edit: impl FnOnce(&mut InitSupervisorRequest),
    ) -> Supervisor {
        let mut init = self.facts.container_step(step, command);
        edit(&mut init);
        let supervisor = self.start(&init);
        self.craned.wait_for(step, JobStatus::Starting, SOON);
        supervisor
    }

    /// A container step already executed, whose process has written `ready` to stdout.
    #[track_caller]
    pub fn running(&self, script: &str) -> Supervisor {
        self.running_with(script, |_| {})
    }

    /// [`Job::running`] with a changed message.
    #[track_caller]
    pub fn running_with(&self, script: &str, edit: impl FnOnce(&mut InitSupervisorRequest)) -> Supervisor {
        let mut step = self.container_with(1, &["sh", "-c", script], edit);
        step.execute();
        wait::holds("the container says ready", LONG, || self.runtime_log(1).ends_with(b"ready\n"));
        // A start that is cut off now would end the container.
        wait::holds("its start is answered", LONG, || self.supervisor_log(1).contains("to=Running"));
        step
    }

    /// A file with the configuration that a node would have for this job's places.
    pub fn configuration(&self) -> PathBuf {
        let places = self.places();
        let path = places.root.join("config.yaml");
        let text = format!(
            "CraneBaseDir: {}\nSupervisor:\n  LogDir: {}\nContainer:\n  Enabled: true\n  TempDir: {}\n  RuntimeEndpoint: {}\n  BindFs:\n    Enabled: true\n    MountBaseDir: {}\n",
            places.base.display(),
            places.logs.display(),
            places.temp.display(),
            self.facts.runtime,
            places.mount_base.display(),
        );
        // A command that the test has started may be reading it.
        if !path.exists() {
            std::fs::write(&path, text).expect("the job's root is ours");
        }
        path
    }

    /// Waits for the final report of `step`, and for its supervisor to exit.
    #[track_caller]
    pub fn ended(&self, step: &mut Supervisor) -> StepStatusChangeRequest {
        let report = self.craned.wait_for(step.step, JobStatus::Completing, LONG);
        step.wait_exit(SOON);
        report
    }

    /// Ends the pod step in the orderly way.
    #[track_caller]
    pub fn end_pod(&self, mut pod: Supervisor) -> StepStatusChangeRequest {
        pod.shut_down();
        self.ended(&mut pod)
    }

    /// A whole job: pod, one container with `sh -c script`, end.
    #[track_caller]
    pub fn run(&self, script: &str) -> StepStatusChangeRequest {
        self.run_with(&["sh", "-c", script], |_| {})
    }

    /// [`Job::run`] with a command and a changed container step message.
    #[track_caller]
    pub fn run_with(&self, command: &[&str], edit: impl FnOnce(&mut InitSupervisorRequest)) -> StepStatusChangeRequest {
        let pod = self.pod();
        let mut step = self.container_with(1, command, edit);
        step.execute();
        let report = self.ended(&mut step);
        self.end_pod(pod);
        report
    }

    /// The log the runtime wrote, raw; empty while there is none.
    pub fn runtime_log(&self, step: u32) -> Vec<u8> {
        let name = format!("{}.{step}.container.log", self.id());
        std::fs::read(self.places().logs.join(name)).unwrap_or_default()
    }

    /// Where the user's copy of the output belongs.
    pub fn user_log_path(&self, step: u32) -> PathBuf {
        let node = super::init::NODE;
        self.places().cwd.join(format!("{}.out/{step}.{node}.log", self.id()))
    }

    /// The user's copy of the output, raw.
    #[track_caller]
    pub fn user_log(&self, step: u32) -> Vec<u8> {
        let path = self.user_log_path(step);
        std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
    }

    /// What the user finds of `stream`, as text.
    #[track_caller]
    pub fn output(&self, step: u32, stream: &str) -> String {
        String::from_utf8_lossy(&super::output::written(&self.user_log(step), stream)).into_owned()
    }

    /// What the container has written to stdout so far, as text.
    pub fn output_so_far(&self, step: u32) -> String {
        String::from_utf8_lossy(&super::output::written(&self.runtime_log(step), "stdout")).into_owned()
    }

    /// The final record of `step`.
    #[track_caller]
    pub fn record(&self, step: u32) -> crane_supervisor::report::record::Record {
        let path = self.places().logs.join(format!("{}.{step}.json", self.id()));
        let text = std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Our own log of `step`.
    pub fn supervisor_log(&self, step: u32) -> String {
        let name = format!("{}.{step}.log", self.id());
        std::fs::read_to_string(self.places().logs.join(name)).unwrap_or_default()
    }

    /// Makes the job's cgroups as craned does, in the controllers craned uses
    /// and that can be written here; the path for `supv_cgroup_path`.
    pub fn make_cgroups(&mut self, step: u32) -> String {
        self.make_cgroups_at(&format!("step_{step}/system"))
    }

    /// [`Job::make_cgroups`] of another group below the job's.
    pub fn make_cgroups_at(&mut self, place: &str) -> String {
        let below = format!("crane/job_{}/{place}", self.id());
        for controller in ["cpu", "memory", "devices", "freezer", "blkio"] {
            let mount = Path::new("/sys/fs/cgroup").join(controller);
            if mount.is_dir() && std::fs::create_dir_all(mount.join(&below)).is_ok() {
                let own = below.split('/').scan(mount, |path, part| {
                    path.push(part);
                    Some(path.clone())
                });
                self.cgroups.extend(own.skip(1));
            }
        }
        format!("/sys/fs/cgroup/{below}")
    }

    fn remove_cgroups(&mut self) {
        self.cgroups.sort();
        self.cgroups.dedup();
        for path in self.cgroups.drain(..).rev() {
            let _ = std::fs::remove_dir(path);
        }
    }

    fn show(&self) {
        eprintln!("job {} on {}", self.id(), self.runtime.as_ref().map_or("no runtime".into(), Runtime::name));
        for attempt in self.craned.attempts() {
            eprintln!("  report {attempt:?}");
        }
        let places = self.places();
        for dir in [&places.root, &places.logs] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_file()) {
                let text = std::fs::read(entry.path()).unwrap_or_default();
                let tail = &text[text.len().saturating_sub(6000)..];
                eprintln!("--- {}\n{}", entry.path().display(), String::from_utf8_lossy(tail));
            }
        }
    }

    fn clear_by_force(&self) {
        leaks::kill_processes(self.id());
        if let Some(runtime) = &self.runtime {
            runtime.purge(self.id());
        }
        for point in leaks::mounts(&self.places().root).iter().rev() {
            let _ = nix::mount::umount2(&**point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.remove_cgroups();
        let failed = std::thread::panicking();
        let left =
            if failed { Vec::new() } else { leaks::left_of(self.id(), &self.facts.places, self.runtime.as_ref()) };
        if failed || !left.is_empty() {
            self.show();
            self.clear_by_force();
        }
        let root = &self.facts.places.root;
        // A mount that is still there must not be emptied through this path.
        if leaks::mounts(root).is_empty() {
            let _ = std::fs::remove_dir_all(root);
        }
        assert!(left.is_empty(), "left behind by job {}:\n{}", self.id(), left.join("\n"));
    }
}

/// A job number no other test of this run, or of one beside it, has.
fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let run = std::process::id() % 1_000_000;
    run * 2000 + NEXT.fetch_add(1, Ordering::Relaxed)
}

fn make(places: &Places, uid: u32) {
    for dir in [&places.root, &places.base, &places.logs, &places.cwd] {
        std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
    }
    std::os::unix::fs::chown(&places.cwd, Some(uid), Some(uid)).expect("tests run as root");
}
