//! gRPC over a unix socket, and the few calls craned makes to a supervisor.

use crate::ids::StepId;
use crate::layout;
use crate::local::LocalError;
use crate::wire::crane::supervisor::supervisor_client::SupervisorClient;
use crate::wire::crane::supervisor::{
    CheckStatusRequest, QueryStepEnvRequest, ShutdownSupervisorRequest, StepExecutionRequest, TerminateStepRequest,
};
use crate::wire::crane::{ErrCode, TerminateSource};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

/// craned gives every call to a supervisor this long.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A channel to the server on `socket`, connected.
pub async fn connect(socket: &Path, limit: Duration) -> Result<Channel, Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The name goes into the request only; the connector knows the socket.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(limit).timeout(limit);
    endpoint.connect_with_connector(connector).await
}

/// Tells a container step to start its container.
pub async fn execute(step: StepId) -> Result<(), LocalError> {
    let failed = |reason: String| LocalError::Call { call: "ExecuteStep", step, reason };
    let reply = client(step, "ExecuteStep").await?.execute_step(StepExecutionRequest {}).await;
    match reply.map_err(|status| failed(status.message().to_owned()))?.into_inner().code() {
        ErrCode::Success => Ok(()),
        code => Err(failed(format!("it answered {}", code.as_str_name()))),
    }
}

/// Asks a container step to stop its container because the user wants so.
pub async fn cancel(step: StepId) -> Result<(), LocalError> {
    terminate(step, TerminateSource::UserCancel).await
}

/// Tells a container step that its job ends: a grace that is running becomes a second at most.
pub async fn hurry(step: StepId) -> Result<(), LocalError> {
    terminate(step, TerminateSource::NormalCompletion).await
}

async fn terminate(step: StepId, source: TerminateSource) -> Result<(), LocalError> {
    let failed = |reason: String| LocalError::Call { call: "TerminateStep", step, reason };
    let request = TerminateStepRequest { terminate_source: source.into() };
    let reply = client(step, "TerminateStep").await?.terminate_step(request).await;
    let reply = reply.map_err(|status| failed(status.message().to_owned()))?.into_inner();
    if reply.ok { Ok(()) } else { Err(failed(reply.reason)) }
}

/// What a supervisor says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Its process.
    pub pid: i32,
    /// craned's word for where its step is.
    pub status: &'static str,
}

/// Asks the supervisor of a step, ours or CraneSched's own, how it is.
pub async fn check(step: StepId) -> Result<Presence, LocalError> {
    let failed = |reason: String| LocalError::Call { call: "CheckStatus", step, reason };
    let reply = client(step, "CheckStatus").await?.check_status(CheckStatusRequest {}).await;
    let reply = reply.map_err(|status| failed(status.message().to_owned()))?.into_inner();
    if (reply.job_id, reply.step_id) != (step.job, step.step) {
        return Err(failed(format!("step {}.{} answered at its socket", reply.job_id, reply.step_id)));
    }
    Ok(Presence { pid: reply.supervisor_pid, status: reply.status().as_str_name() })
}

/// The environment of a step; it may hold secrets of the user's.
pub async fn env(step: StepId) -> Result<BTreeMap<String, String>, LocalError> {
    let reply = client(step, "QueryEnvMap").await?.query_env_map(QueryStepEnvRequest {}).await;
    let failed =
        |status: tonic::Status| LocalError::Call { call: "QueryEnvMap", step, reason: status.message().to_owned() };
    Ok(reply.map_err(failed)?.into_inner().env.into_iter().collect())
}

/// Tells a pod step that the job is over.
pub async fn shut_down(step: StepId) -> Result<(), LocalError> {
    let reply = client(step, "ShutdownSupervisor").await?.shutdown_supervisor(ShutdownSupervisorRequest {}).await;
    reply.map(|_| ()).map_err(|status| LocalError::Call {
        call: "ShutdownSupervisor",
        step,
        reason: status.message().to_owned(),
    })
}

async fn client(step: StepId, call: &'static str) -> Result<SupervisorClient<Channel>, LocalError> {
    let channel = connect(&layout::socket(step), CALL_LIMIT).await;
    channel.map(SupervisorClient::new).map_err(|error| LocalError::Call { call, step, reason: innermost(&error) })
}

/// The cause behind "transport error".
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
