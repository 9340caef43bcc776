//! Pods and containers in memory, with a runtime's rules.

use super::cgroup::{self, Membership};
use super::flavour::{Driver, Duplicate, Flavour};
use super::images::Images;
use super::log::Log;
use super::process::{Init, Program, attend};
use crane_supervisor::cri::api::*;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tonic::{Code, Status};

/// How long a killed process may take to be shown as ended.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// All a runtime knows.
pub struct World {
    flavour: Flavour,
    /// The cgroup above containers whose pod names none.
    group: String,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

struct State {
    pods: BTreeMap<String, Pod>,
    containers: BTreeMap<String, Held>,
    images: Images,
    starts: HashMap<String, usize>,
    made: u64,
    forget: bool,
    lag: Duration,
    log_lag: Duration,
    image_groups: Vec<u32>,
    lacks: Vec<(String, String)>,
    shown_config: Option<String>,
}

struct Pod {
    config: PodSandboxConfig,
    ready: bool,
    created_at: i64,
}

struct Held {
    pod: String,
    config: ContainerConfig,
    log: String,
    writer: Option<Log>,
    parent: String,
    image_id: String,
    state: ContainerState,
    init: Option<Init>,
    child: Option<Child>,
    cgroup: Membership,
    pid: u32,
    times: [i64; 3],
    exit_code: i32,
    reason: &'static str,
    message: String,
}

impl World {
    pub fn new(flavour: Flavour, name: &str) -> Self {
        let prefix = if flavour.pid_after_create { "" } else { "sha256:" };
        let state = State {
            pods: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: Images::new(prefix),
            starts: HashMap::new(),
            made: 0,
            forget: false,
            lag: flavour.exit_lag,
            log_lag: Duration::ZERO,
            image_groups: Vec::new(),
            lacks: Vec::new(),
            shown_config: None,
        };
        Self { flavour, group: format!("/{name}"), state: Mutex::new(state), changed: watch::channel(0).0 }
    }

    pub fn flavour(&self) -> &Flavour {
        &self.flavour
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    // ---- the node ----

    pub fn version(&self) -> VersionResponse {
        VersionResponse {
            version: "0.1.0".into(),
            runtime_name: self.flavour.name.into(),
            runtime_version: self.flavour.version.into(),
            runtime_api_version: "v1".into(),
        }
    }

    pub fn status(&self) -> StatusResponse {
        let state = self.state();
        let condition = |kind: &str| {
            let lack = state.lacks.iter().find(|(lacking, _)| lacking == kind);
            let message = lack.map(|(_, message)| message.clone()).unwrap_or_default();
            RuntimeCondition { r#type: kind.into(), status: lack.is_none(), message, ..RuntimeCondition::default() }
        };
        let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
        let info = state.shown_config.iter().map(|config| ("config".to_owned(), config.clone())).collect();
        StatusResponse { status: Some(RuntimeStatus { conditions }), info, ..StatusResponse::default() }
    }

    pub fn runtime_config(&self) -> Result<RuntimeConfigResponse, Status> {
        let driver = match self.flavour.driver {
            Driver::Unsaid => return Err(Status::unimplemented("unknown method RuntimeConfig")),
            Driver::Cgroupfs => CgroupDriver::Cgroupfs,
            Driver::Systemd => CgroupDriver::Systemd,
        };
        Ok(RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) })
    }

    pub fn image(&self, reference: &str) -> Option<Image> {
        self.state().images.find(reference)
    }

    pub fn images(&self) -> Vec<Image> {
        self.state().images.all()
    }

    pub fn hold_image(&self, id: &str) {
        self.state().images.hold(id);
    }

    /// Where it keeps images, as containerd lays it out; nothing makes it.
    pub fn image_store(&self) -> PathBuf {
        Path::new("/dev/shm").join(self.group.trim_start_matches('/')).join("io.containerd.snapshotter.v1.overlayfs")
    }

    pub fn pull(&self, request: &PullImageRequest) -> Result<PullImageResponse, Status> {
        self.state().images.pull(request)
    }

    // ---- pods ----

    pub fn run_pod(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("no sandbox config"))?;
        let name = pod_name(&config)?;
        if !config.log_directory.is_empty() && !config.log_directory.starts_with('/') {
            return Err(Status::invalid_argument("log_directory is relative"));
        }
        let mut state = self.state();
        if let Some(id) =
            state.pods.iter().find(|(_, p)| pod_name(&p.config).is_ok_and(|n| n == name)).map(|(id, _)| id)
        {
            return self.taken("sandbox", &name, id).map(|id| RunPodSandboxResponse { pod_sandbox_id: id });
        }
        let id = state.next_id("pod");
        state.pods.insert(id.clone(), Pod { config, ready: true, created_at: now() });
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    pub async fn stop_pod(&self, id: &str, deadline: Duration) -> Result<(), Status> {
        let grace = if self.flavour.deadline_is_grace {
            deadline.saturating_sub(Duration::from_secs(1))
        } else {
            Duration::ZERO
        };
        let members = {
            let mut state = self.state();
            match state.pods.get_mut(id) {
                Some(pod) => pod.ready = false,
                None if self.flavour.stop_of_unknown_fails => {
                    return Err(Status::not_found(format!("sandbox {id}")));
                }
                None => return Ok(()),
            }
            state.members(id)
        };
        for container in members {
            let _ = self.stop(&container, grace).await;
        }
        Ok(())
    }

    pub async fn remove_pod(&self, id: &str, deadline: Duration) {
        let _ = self.stop_pod(id, deadline).await;
        let members = self.state().members(id);
        for container in members {
            self.remove(&container, deadline).await;
        }
        self.state().pods.remove(id);
    }

    pub fn pod_status(&self, id: &str) -> Result<PodSandboxStatusResponse, Status> {
        let state = self.state();
        let pod = state.pods.get(id).ok_or_else(|| Status::not_found(format!("sandbox {id}")))?;
        let status = PodSandboxStatus {
            id: id.into(),
            metadata: pod.config.metadata.clone(),
            state: pod.state().into(),
            created_at: pod.created_at,
            labels: pod.config.labels.clone(),
            runtime_handler: String::new(),
        };
        Ok(PodSandboxStatusResponse { status: Some(status), info: HashMap::new() })
    }

    pub fn list_pods(&self, filter: &PodSandboxFilter) -> Vec<PodSandbox> {
        let state = self.state();
        let wanted = |id: &str, pod: &Pod| {
            (filter.id.is_empty() || id.starts_with(&filter.id))
                && filter.state.as_ref().is_none_or(|s| s.state() == pod.state())
                && has_labels(&pod.config.labels, &filter.label_selector)
        };
        let found = state.pods.iter().filter(|(id, pod)| wanted(id, pod));
        found
            .map(|(id, pod)| PodSandbox {
                id: id.clone(),
                metadata: pod.config.metadata.clone(),
                state: pod.state().into(),
                created_at: pod.created_at,
                labels: pod.config.labels.clone(),
                runtime_handler: String::new(),
            })
            .collect()
    }

    // ---- containers ----

    pub fn create(self: &Arc<Self>, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("no container config"))?;
        let sandbox = request.sandbox_config.ok_or_else(|| Status::invalid_argument("no sandbox config"))?;
        let mut state = self.state();
        let pod = state.pods.get(&request.pod_sandbox_id).ok_or_else(|| Status::not_found("sandbox"))?;
        if !pod.ready {
            return Err(Status::unknown("sandbox is not ready"));
        }
        let name = container_name(&config, &pod.config)?;
        let same = |held: &Held| held.pod == request.pod_sandbox_id && held.config.metadata == config.metadata;
        if let Some((id, _)) = state.containers.iter().find(|(_, held)| same(held)) {
            return self.taken("container", &name, id).map(|id| CreateContainerResponse { container_id: id });
        }
        let reference = config.image.clone().unwrap_or_default().image;
        let image = state.images.find(&reference);
        let image =
            image.ok_or_else(|| Status::not_found(format!("failed to resolve image {reference:?}: not found")))?;
        for mount in &config.mounts {
            let _ = std::fs::create_dir_all(&mount.host_path);
        }
        let mut held = Held::new(request.pod_sandbox_id, config, &sandbox, image.id);
        if self.flavour.create_looks_for_program && !held.program().exists() {
            let program = held.program().command.first().cloned().unwrap_or_default();
            return Err(Status::unknown(format!(
                "container create failed: exec: \"{program}\": stat {program}: no such file or directory"
            )));
        }
        let id = state.next_id("ctr");
        if self.flavour.pid_after_create {
            let (init, child) = held.program().start_gated().map_err(|e| Status::unknown(e.to_string()))?;
            held.begin(&self.group, &id, init, child);
        }
        state.containers.insert(id.clone(), held);
        Ok(CreateContainerResponse { container_id: id })
    }

    pub fn start(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let mut guard = self.state();
        let state = &mut *guard;
        let held = state.containers.get_mut(id).ok_or_else(|| Status::not_found(format!("container {id}")))?;
        if held.state != ContainerState::ContainerCreated {
            return Err(Status::unknown(format!("container {id} is in {:?} state", held.state)));
        }
        if held.init.is_none() {
            match held.program().start() {
                Ok((init, child)) => held.begin(&self.group, id, init, child),
                Err(why) => {
                    held.fail_to_start(&why);
                    let text = held.message.clone();
                    drop(guard);
                    self.touch();
                    return Err(Status::unknown(text));
                }
            }
        }
        held.times[1] = now();
        held.state = ContainerState::ContainerRunning;
        if let Some(init) = &mut held.init {
            init.open();
        }
        let job = held.config.labels.get("job_id").cloned().unwrap_or_default();
        *state.starts.entry(job).or_default() += 1;
        let log = (!held.log.is_empty()).then(|| Log::open(Path::new(&held.log), self.flavour.log_chunk));
        let log = log.and_then(Result::ok);
        held.writer = log.clone();
        if let Some(child) = held.child.take() {
            let (world, id) = (Arc::clone(self), id.to_owned());
            std::thread::spawn(move || world.follow(&id, child, log));
        }
        drop(guard);
        self.touch();
        Ok(())
    }

    /// A container's life after its start, in a thread of its own.
    fn follow(&self, id: &str, child: Child, log: Option<Log>) {
        let log_lag = self.state().log_lag;
        let lagging = log.clone().filter(|_| !log_lag.is_zero()).inspect(Log::hold);
        let code = attend(child, log);
        let forget = self.state().forget;
        let (ended, finished) = (Instant::now(), now());
        let shown = || ended.elapsed() >= self.state().lag;
        while !shown() {
            crate::support::wait::pause(Duration::from_millis(5));
        }
        if let Some(held) = self.state().containers.get_mut(id) {
            held.writer = None;
            held.state = ContainerState::ContainerExited;
            held.times[2] = finished;
            (held.exit_code, held.reason) = match code {
                _ if forget => (255, "Unknown"),
                0 => (0, "Completed"),
                code => (code, "Error"),
            };
            held.cgroup.leave();
        }
        self.touch();
        if let Some(log) = lagging {
            crate::support::wait::pause(log_lag);
            log.release();
        }
    }

    pub fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let state = self.state();
        let held = state.containers.get(id).ok_or_else(|| Status::not_found(format!("container {id}")))?;
        let writer = held.writer.as_ref().ok_or_else(|| Status::unknown("container is not running"))?;
        writer.reopen(Path::new(&held.log)).map_err(|error| Status::internal(error.to_string()))
    }

    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), Status> {
        match self.shown_state(id) {
            None if self.flavour.stop_of_unknown_fails => {
                return Err(Status::not_found(format!("container {id}")));
            }
            Some(ContainerState::ContainerRunning) => {}
            _ => return Ok(()),
        }
        if !grace.is_zero() {
            self.signal(id, Signal::SIGTERM);
            if self.ended(id, grace).await {
                return Ok(());
            }
        }
        self.signal(id, Signal::SIGKILL);
        if self.ended(id, KILL_LIMIT).await {
            Ok(())
        } else {
            Err(Status::deadline_exceeded("the process does not end"))
        }
    }

    pub async fn remove(&self, id: &str, deadline: Duration) {
        let grace = if self.flavour.deadline_is_grace { deadline } else { Duration::ZERO };
        let _ = self.stop(id, grace).await;
        self.signal(id, Signal::SIGKILL);
        let held = self.state().containers.remove(id);
        if let Some(mut child) = held.and_then(|mut held| held.child.take()) {
            let _ = child.wait();
        }
        self.touch();
    }

    pub fn container_status(&self, id: &str, verbose: bool) -> Result<ContainerStatusResponse, Status> {
        let state = self.state();
        let held = state.containers.get(id).ok_or_else(|| Status::not_found(format!("container {id}")))?;
        let pid = if held.shows_pid(&self.flavour) { held.pid } else { 0 };
        let info = verbose.then(|| ("info".to_owned(), held.info(pid, &state.image_groups)));
        Ok(ContainerStatusResponse { status: Some(held.status(id)), info: info.into_iter().collect() })
    }

    pub fn list_containers(&self, filter: &ContainerFilter) -> Vec<Container> {
        let state = self.state();
        let wanted = |id: &str, held: &Held| {
            (filter.id.is_empty() || id.starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty() || held.pod == filter.pod_sandbox_id)
                && has_labels(&held.config.labels, &filter.label_selector)
        };
        let found = state.containers.iter().filter(|(id, held)| wanted(id, held));
        found
            .map(|(id, held)| Container {
                id: id.clone(),
                pod_sandbox_id: held.pod.clone(),
                metadata: held.config.metadata.clone(),
                image_ref: held.image_id.clone(),
                state: held.state.into(),
                created_at: held.times[0],
                labels: held.config.labels.clone(),
                image_id: held.image_id.clone(),
            })
            .collect()
    }

    fn shown_state(&self, id: &str) -> Option<ContainerState> {
        self.state().containers.get(id).map(|held| held.state)
    }

    fn signal(&self, id: &str, signal: Signal) {
        let state = self.state();
        let held = state.containers.get(id).filter(|held| held.state != ContainerState::ContainerExited);
        if let Some(init) = held.and_then(|held| held.init.as_ref()) {
            init.signal(signal);
        }
    }

    async fn ended(&self, id: &str, limit: Duration) -> bool {
        let mut changed = self.changed.subscribe();
        let end = async {
            while self.shown_state(id) == Some(ContainerState::ContainerRunning) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, end).await.is_ok()
    }

    fn taken(&self, what: &str, name: &str, id: &str) -> Result<String, Status> {
        match self.flavour.duplicate {
            Duplicate::SameId => Ok(id.to_owned()),
            Duplicate::Refused(code) => {
                let text =
                    format!("failed to reserve {what} name \"{name}\": name \"{name}\" is reserved for \"{id}\"");
                Err(Status::new(code, text))
            }
        }
    }

    // ---- for tests ----

    pub fn forget_exit_codes(&self) {
        self.state().forget = true;
    }

    pub fn write_logs_after(&self, lag: Duration) {
        self.state().log_lag = lag;
    }

    pub fn show_exits_after(&self, lag: Duration) {
        self.state().lag = lag;
    }

    pub fn give_image_groups(&self, groups: &[u32]) {
        self.state().image_groups = groups.to_vec();
    }

    pub fn lack(&self, condition: &str, message: &str) {
        self.state().lacks.push((condition.into(), message.into()));
    }

    pub fn show_config(&self, json: &str) {
        self.state().shown_config = Some(json.into());
    }

    pub fn starts_of(&self, job: u32) -> usize {
        self.state().starts.get(&job.to_string()).copied().unwrap_or(0)
    }

    pub fn pids_of(&self, job: u32) -> Vec<u32> {
        let state = self.state();
        let running = state.containers.values().filter(|h| h.state == ContainerState::ContainerRunning && h.is_of(job));
        running.map(|held| held.pid).collect()
    }

    pub fn left_of(&self, job: u32) -> Vec<String> {
        let state = self.state();
        let pods = state.pods.iter().filter(|(_, pod)| of_job(&pod.config.labels, job));
        let containers = state.containers.iter().filter(|(_, held)| held.is_of(job));
        pods.map(|(id, pod)| format!("pod {id} ({:?})", pod.state()))
            .chain(containers.map(|(id, held)| format!("container {id} ({:?})", held.state)))
            .chain(
                cgroup::sweep(&self.group, |id| state.containers.contains_key(id))
                    .into_iter()
                    .map(|path| format!("cgroup {}", path.display())),
            )
            .collect()
    }

    pub fn purge(&self, job: u32) {
        self.kill(|held| held.is_of(job));
        let mut state = self.state();
        state.containers.retain(|_, held| !held.is_of(job));
        state.pods.retain(|_, pod| !of_job(&pod.config.labels, job));
    }

    pub fn kill_all(&self) {
        self.kill(|_| true);
        cgroup::sweep(&self.group, |_| false);
        cgroup::remove(&self.group);
    }

    fn kill(&self, which: impl Fn(&Held) -> bool) {
        for held in self.state().containers.values_mut().filter(|held| which(held)) {
            if held.state != ContainerState::ContainerExited
                && let Some(init) = &held.init
            {
                init.signal(Signal::SIGKILL);
            }
            if let Some(mut child) = held.child.take() {
                let _ = child.wait();
            }
        }
    }
}

impl State {
    fn next_id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{:061x}", self.made)
    }

    fn members(&self, pod: &str) -> Vec<String> {
        self.containers.iter().filter(|(_, held)| held.pod == pod).map(|(id, _)| id.clone()).collect()
    }
}

impl Pod {
    fn state(&self) -> PodSandboxState {
        if self.ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
    }
}

impl Held {
    /// The verbose answer's JSON, as far as anyone looks at it.
    fn info(&self, pid: u32, image_groups: &[u32]) -> String {
        let linux = self.config.linux.clone().unwrap_or_default();
        let mut groups = linux.security_context.unwrap_or_default().supplemental_groups;
        groups.extend(image_groups.iter().copied().map(i64::from));
        let spec = serde_json::json!({ "process": { "user": { "additionalGids": groups } } });
        serde_json::json!({ "sandboxID": self.pod, "pid": pid, "runtimeSpec": spec }).to_string()
    }

    fn new(pod: String, config: ContainerConfig, sandbox: &PodSandboxConfig, image_id: String) -> Self {
        let log = match &*config.log_path {
            "" => String::new(),
            path => format!("{}/{path}", sandbox.log_directory),
        };
        Self {
            pod,
            log,
            writer: None,
            parent: sandbox.linux.clone().unwrap_or_default().cgroup_parent,
            config,
            image_id,
            state: ContainerState::ContainerCreated,
            init: None,
            child: None,
            cgroup: Membership::default(),
            pid: 0,
            times: [now(), 0, 0],
            exit_code: 0,
            reason: "",
            message: String::new(),
        }
    }

    fn program(&self) -> Program {
        let security = self.config.linux.clone().and_then(|linux| linux.security_context).unwrap_or_default();
        let id = |value: Option<Int64Value>| value.and_then(|v| u32::try_from(v.value).ok());
        let mut command = [self.config.command.clone(), self.config.args.clone()].concat();
        if command.is_empty() {
            command.push("sh".into());
        }
        Program {
            command,
            env: self.config.envs.iter().map(|kv| (kv.key.clone(), kv.value.clone())).collect(),
            dir: self.config.working_dir.clone(),
            uid: id(security.run_as_user),
            gid: id(security.run_as_group),
        }
    }

    fn begin(&mut self, group: &str, id: &str, init: Init, child: Child) {
        self.pid = init.pid;
        self.cgroup = Membership::enter(&self.parent, group, id, init.pid);
        self.init = Some(init);
        self.child = Some(child);
    }

    fn fail_to_start(&mut self, why: &std::io::Error) {
        let program = self.program().command.first().cloned().unwrap_or_default();
        let why = if why.kind() == std::io::ErrorKind::NotFound {
            "no such file or directory".into()
        } else {
            why.to_string()
        };
        self.message = format!("failed to start container: exec: \"{program}\": stat {program}: {why}");
        self.state = ContainerState::ContainerExited;
        self.reason = "StartError";
        self.exit_code = 128;
        self.times[2] = now();
    }

    fn shows_pid(&self, flavour: &Flavour) -> bool {
        flavour.pid_after_create || self.state == ContainerState::ContainerRunning
    }

    fn is_of(&self, job: u32) -> bool {
        of_job(&self.config.labels, job)
    }

    fn status(&self, id: &str) -> ContainerStatus {
        ContainerStatus {
            id: id.into(),
            metadata: self.config.metadata.clone(),
            state: self.state.into(),
            created_at: self.times[0],
            started_at: self.times[1],
            finished_at: self.times[2],
            exit_code: self.exit_code,
            image_ref: self.image_id.clone(),
            reason: self.reason.into(),
            message: self.message.clone(),
            labels: self.config.labels.clone(),
            log_path: self.log.clone(),
            image_id: self.image_id.clone(),
        }
    }
}

fn pod_name(config: &PodSandboxConfig) -> Result<String, Status> {
    let metadata = config.metadata.as_ref().ok_or_else(|| Status::invalid_argument("sandbox without metadata"))?;
    if metadata.name.is_empty() || metadata.namespace.is_empty() || metadata.uid.is_empty() {
        return Err(Status::new(Code::InvalidArgument, "sandbox metadata is incomplete"));
    }
    Ok(format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt))
}

fn container_name(config: &ContainerConfig, pod: &PodSandboxConfig) -> Result<String, Status> {
    let metadata = config.metadata.as_ref().filter(|m| !m.name.is_empty());
    let metadata = metadata.ok_or_else(|| Status::invalid_argument("container without a name"))?;
    Ok(format!("{}_{}_{}", metadata.name, pod_name(pod)?, metadata.attempt))
}

fn has_labels(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn of_job(labels: &HashMap<String, String>, job: u32) -> bool {
    labels.get("job_id").is_some_and(|id| *id == job.to_string())
}

/// Nanoseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
