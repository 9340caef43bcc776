//! Single steps of a container's life: spawn to Ready, spawn to started, end to report.
//!
//! Started and ended containers alternate between the supervisor and the very
//! same CRI calls made bare, in the same pod. "Started" is the runtime's own
//! time stamp in both cases; an end is what a second client sees who asks all
//! the time, and never later than the last answer that said otherwise.

use crate::bare::Bare;
use crate::init::Facts;
use crate::node::{LIMIT, Node, sleeping};
use crate::table::{Table, Values};
use crate::{Result, whole};
use crane_supervisor::cri::api::{ContainerState, ContainerStatus};
use crane_supervisor::cri::client::Detail;
use crane_supervisor::cri::labels;
use crane_supervisor::cri::start::pid_of;
use crane_supervisor::ids::StepId;
use crane_supervisor::local::grpc;
use crane_supervisor::sys::pidfd::Process;
use crane_supervisor::wire::crane::JobStatus;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant, SystemTime};
use tokio::time::{sleep, timeout};

/// A container is left in peace for this long before it is ended.
const PEACE: Duration = Duration::from_millis(300);
/// How often the second client asks.
const ASKING: Duration = Duration::from_millis(1);

/// Spawn to SupervisorReady, beside programs that do nothing or little.
pub async fn ready(node: &Node, runs: usize, table: &mut Table) -> Result<()> {
    let (mut ours, mut nothing, mut ctr) = (Values::default(), Values::default(), Values::default());
    let job = node.job();
    let socket = node.endpoint.trim_start_matches("unix://").to_owned();
    for run in 0..runs + 1 {
        let init = sleeping(&job, 1);
        let begun = Instant::now();
        let mut step = node.start(&init).await?;
        let took = begun.elapsed();
        grpc::cancel(step.step()).await?;
        timeout(LIMIT, step.ended()).await??;
        let idle = whole::time(&["/bin/true"])?;
        let asked = whole::time(&["ctr", "-a", &socket, "version"])?;
        // The first of each reads the disk.
        if run > 0 {
            ours.push_time(took);
            nothing.push_time(idle);
            ctr.push_time(asked);
        }
    }
    table.row("spawn to Ready, ms", &ours, Some(("/bin/true", &nothing)), Some(5.0));
    table.row("spawn to Ready, ms", &ours, Some(("ctr version", &ctr)), None);
    Ok(())
}

/// One container's times.
struct Times {
    /// From the beginning to the runtime's time stamp of the start.
    started: Duration,
    /// From the runtime's time stamp of the creation to that of the start.
    starting: Duration,
    /// From the kill until the runtime said so.
    known: Duration,
    /// From there until everything was cleaned up, and reported where we report.
    over: Duration,
}

/// Start and end of containers, ours and bare by turns.
pub async fn container(node: &Node, runs: usize, table: &mut Table) -> Result<()> {
    let job = node.job();
    let pod = node.pod(&job).await?;
    let bare = Bare::new(&job)?;
    let mut values: [Values; 7] = Default::default();
    for run in 0..runs + 1 {
        let step = 1 + 2 * u32::try_from(run)?;
        // Neither always runs in the other's wake.
        let (ours, calls) = if run % 2 == 0 {
            let ours = supervised(node, &job, step).await?;
            (ours, calls(node, &bare, &job, step + 1).await?)
        } else {
            let calls = calls(node, &bare, &job, step + 1).await?;
            (supervised(node, &job, step).await?, calls)
        };
        if run > 0 {
            let all = [ours.started, calls.started, ours.starting, calls.starting, ours.over, calls.over, ours.known];
            values.iter_mut().zip(all).for_each(|(values, time)| values.push_time(time));
        }
    }
    node.end_pod(pod).await?;
    let [started, calls, starting, calls_starting, over, cleaned, known] = values;
    table.row_beyond("spawn to container started, ms", &started, ("same calls bare", &calls), 5.0);
    table.row("of it created to started, ms", &starting, Some(("same calls bare", &calls_starting)), None);
    table.row("runtime knows the end to final report, ms", &over, Some(("bare stop and remove", &cleaned)), Some(10.0));
    table.row("killed to runtime knows, ms", &known, None, None);
    Ok(())
}

async fn supervised(node: &Node, job: &Facts, step: u32) -> Result<Times> {
    let init = sleeping(job, step);
    let id = StepId { job: job.job, step };
    let begun = SystemTime::now();
    let mut supervisor = node.start(&init).await?;
    grpc::execute(id).await?;
    sleep(PEACE).await;
    let (container, status, process) = running(node, id, job.uid).await?;
    let ending = end(node, &container, &process).await?;
    let reported = node.reports.wait(id, JobStatus::Completing).await?;
    timeout(LIMIT, supervisor.ended()).await??;
    Ok(Times {
        started: started(&status, begun)?,
        starting: starting(&status)?,
        known: ending.known - ending.killed,
        over: reported.saturating_duration_since(ending.known),
    })
}

/// Waits until a step's container runs; its id, its status and its init.
pub async fn running(node: &Node, id: StepId, uid: u32) -> Result<(String, ContainerStatus, Process)> {
    let selector = labels::container_selector(id, uid);
    let found = timeout(LIMIT, async {
        loop {
            for container in node.client.list(&selector).await? {
                let status = node.client.status(&container.id, Detail::WithPid).await?;
                let pid = pid_of(&status);
                if let (Some(pid), Some(status)) = (pid, status.status)
                    && status.state() == ContainerState::ContainerRunning
                {
                    return Ok((container.id, status, Process::open(pid)?));
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.map_err(|_| format!("step {id} has no running container"))?
}

fn started(status: &ContainerStatus, begun: SystemTime) -> Result<Duration> {
    let since = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(status.started_at)?);
    Ok(since.duration_since(begun)?)
}

fn starting(status: &ContainerStatus) -> Result<Duration> {
    Ok(Duration::from_nanos(u64::try_from(status.started_at - status.created_at)?))
}

struct Ending {
    killed: Instant,
    known: Instant,
}

/// Kills a container's init and asks until the runtime knows.
async fn end(node: &Node, container: &str, process: &Process) -> Result<Ending> {
    let killed = Instant::now();
    process.signal(Signal::SIGKILL)?;
    let mut last = killed;
    while killed.elapsed() < LIMIT {
        match node.client.status(container, Detail::Brief).await {
            Ok(status) if status.status.as_ref().is_some_and(|s| s.state() == ContainerState::ContainerRunning) => {
                last = Instant::now();
            }
            Ok(_) => {
                return Ok(Ending { killed, known: Instant::now() });
            }
            // Removed between two questions: the last answer bounds when it was known.
            Err(_) => {
                return Ok(Ending { killed, known: last });
            }
        }
        sleep(ASKING).await;
    }
    Err(format!("the runtime does not notice the end of {container}").into())
}

/// The supervisor's calls without the supervisor, and their times.
async fn calls(node: &Node, bare: &Bare, job: &Facts, step: u32) -> Result<Times> {
    let id = StepId { job: job.job, step };
    // The runtime appends to what it finds.
    std::fs::write(node.places.logs.join(format!("{id}.container.log")), "")?;
    let begun = SystemTime::now();
    // A connection of its own, as every supervisor has to make one.
    let client = &node.new_client()?;
    client.pod_status(&bare.pod, Detail::Brief).await?;
    let container = bare.start(client, sleeping(job, step), Vec::new()).await?;
    sleep(PEACE).await;
    let (_, status, process) = running(node, id, job.uid).await?;
    let ending = end(node, &container, &process).await?;
    client.stop(&container, Duration::ZERO).await?;
    client.remove(&container).await?;
    Ok(Times {
        started: started(&status, begun)?,
        starting: starting(&status)?,
        known: ending.known - ending.killed,
        over: ending.known.elapsed(),
    })
}
