//! The pod: brought up by a pod step, found by a container step.

use super::{ATTEMPTS, ports, prepared, report_left, userns};
use crate::cleanup::perform;
use crate::cri::client::{Client, Detail};
use crate::cri::error::{Class, CriError};
use crate::cri::{labels, sandbox};
use crate::exit_code;
use crate::identity::idmap::Ranges;
use crate::spec::{NetworkMode, PodSpec, StepSpec};
use crate::step::event::Failure;
use crate::step::pod_record::{self, Pod};
use std::time::Duration;
use tokio::time::sleep;

/// How long whoever changes the node's packet filter is given for it, each time longer.
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// Brings the job's pod up and leaves its record for the container steps.
pub(super) async fn run(
    client: &Client,
    spec: &StepSpec,
    pod: &PodSpec,
    ranges: Option<Ranges>,
) -> Result<Pod, Failure> {
    let ranges = userns::wanted(pod, ranges)?;
    let version = client.when_there(|| client.version()).await.map_err(prepared)?;
    tracing::info!(runtime = %version.runtime_name, version = version.runtime_version, "runtime");
    for key in &pod.refused_annotations {
        tracing::warn!(key, "an annotation that steers the runtime is left out");
    }
    let (checked, state_dir) = tokio::join!(check_cgroup_driver(client, pod), client.state_dir());
    checked?;
    let (id, config) = create(client, spec, pod, ranges).await?;
    if let Some(ranges) = ranges {
        let state = client.when_there(|| client.pod_status(&id, Detail::WithPid)).await.map_err(prepared)?;
        userns::check("the pod", state.pid, ranges)?;
    }
    let pod = Pod { id, config, runtime: version.runtime_name, state_dir: state_dir.ok().flatten() };
    pod_record::write(&spec.temp_dir.job(spec.id.job), &pod).map_err(prepared)?;
    Ok(pod)
}

async fn create(
    client: &Client,
    spec: &StepSpec,
    pod: &PodSpec,
    ranges: Option<Ranges>,
) -> Result<(String, sandbox::Config), Failure> {
    let selector = labels::pod_selector(spec.id.job, spec.uid);
    // An earlier run of the same job on this node may have been cut off.
    report_left(perform::pods(client, &selector).await);
    ports::check(client, spec, pod).await?;
    let mut attempt = 0;
    // Of any try: what one of them asked for may still appear.
    let mut unsettled = false;
    loop {
        let config = sandbox::config(pod, ranges, attempt);
        let error = match client.run_pod(&config).await {
            Ok(id) => return Ok((id, config)),
            Err(error) => error,
        };
        attempt += 1;
        unsettled |= error.class() == Class::Unsure;
        let busy = error.names_busy_packet_filter();
        if attempt == ATTEMPTS || !(busy || matches!(error.class(), Class::Unsure | Class::NameTaken)) {
            return Err(Failure { unsettled, ..prepared(explained(error, pod)) });
        }
        if busy {
            sleep(BUSY_PAUSE * attempt).await;
        }
        let ready = client.when_there(|| client.ready_pod(&selector)).await;
        if let Some(id) = ready.map_err(|error| Failure { unsettled, ..prepared(error) })? {
            tracing::warn!(%error, id, "the runtime's answer was lost; the pod is there");
            return Ok((id, config));
        }
        tracing::warn!(%error, attempt, "running the pod again under a new name");
        report_left(perform::pods(client, &selector).await);
    }
}

/// containerd 2 makes no user namespace on the node's network, and says so obscurely.
fn explained(error: CriError, pod: &PodSpec) -> String {
    let hint = match pod.namespaces.network {
        NetworkMode::Node if pod.userns.is_some() => "; a user namespace needs the pod's own network with this runtime",
        NetworkMode::Pod if error.names_network() => {
            "; the runtime could not set up the pod's network: see its CNI configuration and plugins on this node"
        }
        NetworkMode::Node | NetworkMode::Pod => "",
    };
    format!("{error}{hint}")
}

/// The systemd driver names cgroups its own way: craned's limits, freeze and kill
/// would not reach the container.
async fn check_cgroup_driver(client: &Client, pod: &PodSpec) -> Result<(), Failure> {
    if pod.cgroup_parent.is_none() {
        return Ok(());
    }
    match client.when_there(|| client.uses_systemd_cgroups()).await {
        Ok(true) => Err(Failure::new(
            exit_code::CGROUP_ERROR,
            "the runtime uses the systemd cgroup driver, which cannot use craned's cgroups: \
                     set cgroup_manager=cgroupfs (CRI-O) or SystemdCgroup = false (containerd)",
        )),
        Ok(false) => Ok(()),
        // containerd before 2.0 does not tell; membership is checked after the start.
        Err(error) if error.class() == Class::Unimplemented => Ok(()),
        Err(error) => Err(prepared(error)),
    }
}

/// Finds the job's pod: by its record, else by its labels.
pub(super) async fn find(client: &Client, spec: &StepSpec, pod: &PodSpec) -> Result<Pod, Failure> {
    let selector = labels::pod_selector(spec.id.job, spec.uid);
    let found = match pod_record::read(&spec.temp_dir.job(spec.id.job)).map_err(prepared)? {
        Some(found) => found,
        None => {
            let ready = client.when_there(|| client.ready_pod(&selector)).await.map_err(prepared)?;
            let id = ready.ok_or_else(|| unusable("is not on this node, or not alone"))?;
            if pod.userns.is_some() {
                return Err(unusable("has no record here, and only that tells its user namespace"));
            }
            tracing::warn!(id, "the job's pod has no record here; found by its labels");
            Pod { id, config: sandbox::config(pod, None, 0), runtime: String::new(), state_dir: None }
        }
    };
    let ranges = userns::wanted(pod, found.config.ranges())?;
    let detail = if ranges.is_some() { Detail::WithPid } else { Detail::Brief };
    let state = match client.when_there(|| client.pod_status(&found.id, detail)).await {
        Err(error) if error.class() == Class::Gone => return Err(unusable("is gone")),
        state => state.map_err(prepared::<CriError>)?,
    };
    let labelled = selector.iter().all(|(key, value)| state.labels.get(key) == Some(value));
    if let Some(ranges) = ranges.filter(|_| state.ready) {
        userns::check("the pod", state.pid, ranges)?;
    }
    match () {
        () if found.config.ranges().is_some() != pod.userns.is_some() => {
            Err(unusable("and this step differ in whether there is a user namespace"))
        }
        () if state.namespace != labels::NAMESPACE || !labelled => Err(unusable("has another job's labels")),
        () if !state.ready => Err(unusable("is not ready")),
        () => Ok(found),
    }
}

fn unusable(problem: &str) -> Failure {
    prepared(format!("the job's pod {problem}; the pod step's log says more"))
}
