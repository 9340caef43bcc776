//! Builds the message craned sends: a plain pod step and a plain container
//! step, which tests then change field by field.

use crane_supervisor::wire::crane::container_job_additional_meta::ImageInfo;
use crane_supervisor::wire::crane::pod_job_additional_meta::{NamespaceMode, NamespaceOption};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::ContainerConfig;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::container_config::sub_id_config::Mapping;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::container_config::{BindFsConfig, SubIdConfig};
use crane_supervisor::wire::crane::{
    ContainerJobAdditionalMeta, JobType, PodJobAdditionalMeta, ResourceInNodeV3, StepToD, StepType,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The name of the variable that marks every process of a test's job.
pub const MARK: &str = "CRANE_TEST_JOB";
/// The node's name in every message.
pub const NODE: &str = "node1";
/// The job's name in every message.
pub const JOB_NAME: &str = "a-test";

/// Where one test keeps its things, laid out as on a node.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Everything of the test.
    pub root: PathBuf,
    /// `CraneBaseDir`.
    pub base: PathBuf,
    /// `<CraneBaseDir>/supervisor`.
    pub logs: PathBuf,
    /// `TempDir`.
    pub temp: PathBuf,
    /// The job's working directory, owned by the job's user.
    pub cwd: PathBuf,
    /// craned's socket.
    pub craned: PathBuf,
    /// `MountBaseDir`, where bindfs is on.
    pub mount_base: PathBuf,
}

impl Places {
    /// The places below `root`; nothing is made.
    pub fn below(root: &Path) -> Self {
        let base = root.join("crane");
        Self {
            root: root.to_owned(),
            logs: base.join("supervisor"),
            temp: base.join("supervisor/containers"),
            base,
            cwd: root.join("work"),
            craned: root.join("craned.sock"),
            mount_base: root.join("mnt"),
        }
    }
}

/// What the messages of one job have in common.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The job's number.
    pub job: u32,
    /// The job's user.
    pub uid: u32,
    /// Primary group first.
    pub gids: Vec<u32>,
    /// Its directories.
    pub places: Places,
    /// The runtime's socket as craned writes it.
    pub runtime: String,
    /// The image service's socket; the runtime's where it is the same.
    pub images: String,
    /// An image that is present, with `sh` in it.
    pub image: String,
    /// The pod has a user namespace, and a network of its own with it.
    pub userns: bool,
    /// The pod has a network of its own, also without a user namespace.
    pub pod_network: bool,
    /// `run_as_user` and `run_as_group` where they are not the default: root in a
    /// user namespace, the job's user without.
    pub run_as: Option<(u32, u32)>,
    /// Host paths and container paths of every container step.
    pub mounts: Vec<(String, String)>,
    /// `container_config.bindfs`.
    pub bindfs: Option<BindFsConfig>,
    /// `container_config.subid`.
    pub subid: Option<SubIdConfig>,
}

impl Facts {
    /// Step 0: the pod, on the node's network.
    pub fn pod_step(&self) -> InitSupervisorRequest {
        let spec = StepToD { step_type: StepType::Daemon.into(), pod_meta: Some(self.pod_meta()), ..self.spec(0) };
        InitSupervisorRequest { step_spec: Some(spec), ..self.init(0) }
    }

    /// A container step that runs `command`.
    pub fn container_step(&self, step: u32, command: &[&str]) -> InitSupervisorRequest {
        let step_type = if step == 1 { StepType::Primary } else { StepType::Common };
        let spec = StepToD {
            step_type: step_type.into(),
            name: format!("step-{step}"),
            pod_meta: Some(self.pod_meta()),
            container_meta: Some(self.container_meta(command)),
            task_res_map: HashMap::from([(0, ResourceInNodeV3::default())]),
            task_node_list: vec![0],
            ..self.spec(step)
        };
        InitSupervisorRequest { step_spec: Some(spec), ..self.init(step) }
    }

    fn init(&self, step: u32) -> InitSupervisorRequest {
        InitSupervisorRequest {
            job_id: self.job,
            step_id: step,
            debug_level: "debug".into(),
            craned_id: NODE.into(),
            craned_unix_socket_path: text(&self.places.craned),
            crane_base_dir: text(&self.places.base),
            job_name: JOB_NAME.into(),
            container_config: Some(ContainerConfig {
                temp_dir: text(&self.places.temp),
                runtime_endpoint: self.runtime.clone(),
                image_endpoint: self.images.clone(),
                bindfs: self.bindfs.clone(),
                subid: self.subid.clone(),
                ..ContainerConfig::default()
            }),
            env: HashMap::from([(MARK.into(), self.job.to_string()), ("CRANE_JOB_ID".into(), self.job.to_string())]),
            log_dir: text(&self.places.logs),
            max_log_file_size: 10 << 20,
            max_log_file_num: 3,
            ..InitSupervisorRequest::default()
        }
    }

    fn spec(&self, step: u32) -> StepToD {
        StepToD {
            job_id: self.job,
            step_id: step,
            r#type: JobType::Container.into(),
            uid: self.uid,
            gid: self.gids.clone(),
            cwd: text(&self.places.cwd),
            name: JOB_NAME.into(),
            ..StepToD::default()
        }
    }

    fn pod_meta(&self) -> PodJobAdditionalMeta {
        let network = if self.userns || self.pod_network { NamespaceMode::Pod } else { NamespaceMode::Node };
        let (run_as_user, run_as_group) = self.run_as.unwrap_or_else(|| {
            if self.userns { (0, 0) } else { (self.uid, self.gids.first().copied().unwrap_or(self.uid)) }
        });
        PodJobAdditionalMeta {
            name: JOB_NAME.into(),
            namespace: Some(NamespaceOption { network: network.into(), ..NamespaceOption::default() }),
            userns: self.userns,
            run_as_user,
            run_as_group,
            ..PodJobAdditionalMeta::default()
        }
    }

    fn container_meta(&self, command: &[&str]) -> ContainerJobAdditionalMeta {
        ContainerJobAdditionalMeta {
            image: Some(ImageInfo {
                image: self.image.clone(),
                pull_policy: "IfNotPresent".into(),
                ..ImageInfo::default()
            }),
            command: command.first().copied().unwrap_or_default().into(),
            args: command.iter().skip(1).map(|&arg| arg.into()).collect(),
            mounts: self.mounts.iter().cloned().collect(),
            ..ContainerJobAdditionalMeta::default()
        }
    }
}

/// The parts tests change most, without the `Option`s of the wire.
pub trait Edit {
    /// `step_spec`.
    fn spec(&mut self) -> &mut StepToD;
    /// `step_spec.pod_meta`.
    fn pod(&mut self) -> &mut PodJobAdditionalMeta;
    /// `step_spec.container_meta`.
    fn container(&mut self) -> &mut ContainerJobAdditionalMeta;
    /// `step_spec.container_meta.image`.
    fn image(&mut self) -> &mut ImageInfo;
    /// `container_config`.
    fn config(&mut self) -> &mut ContainerConfig;
    /// Sets a time limit in seconds.
    fn time_limit(&mut self, seconds: i64);
    /// Sets an absolute deadline in Unix seconds.
    fn deadline(&mut self, at: i64);
}

impl Edit for InitSupervisorRequest {
    fn spec(&mut self) -> &mut StepToD {
        self.step_spec.get_or_insert_default()
    }

    fn pod(&mut self) -> &mut PodJobAdditionalMeta {
        self.spec().pod_meta.get_or_insert_default()
    }

    fn container(&mut self) -> &mut ContainerJobAdditionalMeta {
        self.spec().container_meta.get_or_insert_default()
    }

    fn image(&mut self) -> &mut ImageInfo {
        self.container().image.get_or_insert_default()
    }

    fn config(&mut self) -> &mut ContainerConfig {
        self.container_config.get_or_insert_default()
    }

    fn time_limit(&mut self, seconds: i64) {
        self.spec().time_limit = Some(prost_types::Duration { seconds, nanos: 0 });
    }

    fn deadline(&mut self, at: i64) {
        self.spec().deadline_time = Some(prost_types::Timestamp { seconds: at, nanos: 0 });
    }
}

/// Managed ranges for the ids from `id` on: one each.
pub fn managed(uids: Mapping, gids: Mapping) -> SubIdConfig {
    SubIdConfig { managed: true, uid_mappings: vec![uids], gid_mappings: vec![gids] }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
