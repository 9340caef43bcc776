//! The supervisor's calls without the supervisor: containers made by the bench itself.

use crate::Result;
use crate::init::Facts;
use crane_supervisor::cri::client::Client;
use crane_supervisor::cri::container::{self, Given, HostMount};
use crane_supervisor::cri::{labels, sandbox};
use crane_supervisor::identity::look_up;
use crane_supervisor::identity::user::User;
use crane_supervisor::ids::StepId;
use crane_supervisor::layout::TempDir;
use crane_supervisor::spec::{self, ContainerSpec, Kind, Work};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;

/// A job's pod, to make containers in.
pub struct Bare {
    job: Facts,
    /// The runtime's id of the pod.
    pub pod: String,
    config: sandbox::Config,
    user: User,
}

impl Bare {
    /// Takes the pod from the record its supervisor left.
    pub fn new(job: &Facts) -> Result<Self> {
        let dir = TempDir::new(&job.places.temp).job(job.job);
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.pod_record())?)?;
        let answer: serde_json::Value = serde_json::from_str(&look_up::answer(job.uid, &job.gids, None))?;
        Ok(Self {
            job: job.clone(),
            pod: record["pod"].as_str().ok_or("the pod's record names no pod")?.to_owned(),
            config: sandbox::Config::decode(&std::fs::read(dir.pod_config())?)?,
            user: serde_json::from_value(answer["Found"]["identity"]["user"].clone())?,
        })
    }

    /// Creates and starts what `init` describes, with `mounts` as they are; its id.
    pub async fn start(&self, client: &Client, init: InitSupervisorRequest, mounts: Vec<HostMount>) -> Result<String> {
        let id = StepId { job: self.job.job, step: init.step_id };
        let work = container_spec(init)?;
        let image = client.image(&work.image.reference).await?.ok_or("the image is gone")?;
        client.list(&labels::container_selector(id, self.job.uid)).await?;
        let effects = crane_supervisor::step::effects::Effects::default();
        let given = Given {
            pid_target: None,
            user: &self.user,
            ranges: self.config.ranges(),
            image: &image.id,
            mounts,
            capabilities: &[],
            effects: &effects,
        };
        let config = container::config(id, &work, &given, 0);
        let container = client.create(&self.pod, config, &self.config).await?;
        client.start(&container).await?;
        Ok(container)
    }
}

fn container_spec(init: InitSupervisorRequest) -> Result<ContainerSpec> {
    match spec::read(init, Kind::CommonContainer)?.work {
        Ok(Work::Container(work)) => Ok(*work),
        Ok(Work::Pod(_)) => Err("a container step was read as a pod step".into()),
        Err(rejection) => Err(rejection.reason.into()),
    }
}
