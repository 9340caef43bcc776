//! Many jobs at once whose containers sleep: what a supervisor costs meanwhile.

use crate::Result;
use crate::conmon::Conmons;
use crate::init::Facts;
use crate::latency::running;
use crate::node::{LIMIT, Node, sleeping};
use crate::processes::{self, Look};
use crate::table::{Table, Values};
use crane_supervisor::ids::StepId;
use crane_supervisor::local::child::Supervisor;
use crane_supervisor::local::grpc;
use crane_supervisor::sys::pidfd::Process;
use crane_supervisor::wire::crane::JobStatus;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Time for threads to end and memory to be given back.
const SETTLING: Duration = Duration::from_secs(5);
/// As many of each peer as give a steady median.
const PEERS: usize = 10;

/// One job: a real pod, a real container, and the supervisor of each.
struct Running {
    pod: Supervisor,
    step: Supervisor,
    init: Process,
}

impl Running {
    async fn start(node: &Node, job: &Facts) -> Result<Self> {
        let pod = node.pod(job).await?;
        let id = StepId { job: job.job, step: 1 };
        let step = node.start(&sleeping(job, 1)).await?;
        grpc::execute(id).await?;
        let (_, _, init) = running(node, id, job.uid).await?;
        Ok(Self { pod, step, init })
    }

    async fn end(mut self, node: &Node) -> Result<()> {
        self.init.signal(Signal::SIGKILL)?;
        node.reports.wait(self.step.step(), JobStatus::Completing).await?;
        timeout(LIMIT, self.step.ended()).await??;
        node.end_pod(self.pod).await
    }
}

/// One kind of process, looked at twice.
pub struct Kind {
    /// For the table.
    pub name: &'static str,
    /// All of them.
    pub pids: Vec<u32>,
    before: Vec<Look>,
    after: Vec<Look>,
}

impl Kind {
    /// Processes not looked at yet.
    pub fn new(name: &'static str, pids: Vec<u32>) -> Self {
        Self { name, pids, before: Vec::new(), after: Vec::new() }
    }

    fn look(&self) -> Result<Vec<Look>> {
        self.pids.iter().map(|&pid| processes::look(pid)).collect()
    }

    /// One value of each, from the second look.
    pub fn values(&self, of: impl Fn(&Look) -> f64) -> Values {
        self.after.iter().map(of).collect()
    }

    /// Wake-ups of each in 10 seconds.
    pub fn wake_ups(&self, window: Duration) -> Values {
        let per_10_s = 10.0 / window.as_secs_f64();
        let both = self.before.iter().zip(&self.after);
        both.map(|(before, after)| after.wake_ups_since(before) * per_10_s).collect()
    }
}

/// Starts them all, waits, counts, ends them all.
pub async fn many(node: &Node, count: usize, window: Duration, table: &mut Table) -> Result<()> {
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.push(Running::start(node, &node.job()).await?);
    }
    let mut peers = Peers::default();
    let measured = match peers.start(&node.places.root).await {
        Ok(()) => measure(node, &jobs, &peers, window, table).await,
        Err(error) => Err(error),
    };
    let ended = peers.end();
    for job in jobs {
        job.end(node).await?;
    }
    measured.and(ended)
}

/// Programs that wait beside ours.
#[derive(Default)]
struct Peers {
    sleeps: Vec<Child>,
    conmons: Option<Conmons>,
}

impl Peers {
    async fn start(&mut self, dir: &Path) -> Result<()> {
        for _ in 0..PEERS {
            self.sleeps.push(Command::new("sleep").arg("3600").spawn()?);
        }
        self.conmons = Conmons::start(dir, PEERS).await?;
        Ok(())
    }

    fn end(self) -> Result<()> {
        for mut child in self.sleeps {
            child.kill()?;
            child.wait()?;
        }
        self.conmons.map_or(Ok(()), Conmons::end)
    }
}

async fn measure(node: &Node, jobs: &[Running], peers: &Peers, window: Duration, table: &mut Table) -> Result<()> {
    let state = node.endpoint.trim_start_matches("unix://").trim_end_matches("/containerd.sock");
    let mut kinds = [
        Kind::new("container step", jobs.iter().map(|job| job.step.pid()).collect()),
        Kind::new("pod step", jobs.iter().map(|job| job.pod.pid()).collect()),
        Kind::new("containerd-shim", processes::with_words(&["containerd-shim-runc-v2", state])),
        Kind::new("sleep", peers.sleeps.iter().map(Child::id).collect()),
        Kind::new("conmon", peers.conmons.iter().flat_map(|conmons| conmons.pids.clone()).collect()),
    ];
    watch(&mut kinds, window).await?;
    rows(&kinds, window, table);
    Ok(())
}

/// Lets them settle and looks at them at both ends of `window`.
pub async fn watch(kinds: &mut [Kind], window: Duration) -> Result<()> {
    sleep(SETTLING).await;
    for kind in &mut *kinds {
        kind.before = kind.look()?;
    }
    sleep(window).await;
    for kind in &mut *kinds {
        kind.after = kind.look()?;
    }
    Ok(())
}

fn rows(kinds: &[Kind; 5], window: Duration, table: &mut Table) {
    let [step, pod, peers @ ..] = kinds;
    for peer in peers.iter().filter(|peer| !peer.pids.is_empty()) {
        let private = peer.values(|look| look.private);
        table.row(
            "container step: private KiB",
            &step.values(|look| look.private),
            Some((peer.name, &private)),
            Some(1024.0),
        );
    }
    for kind in [step, pod] {
        let what = |of: &str| format!("{}: {of}", kind.name);
        for peer in peers.iter().filter(|peer| !peer.pids.is_empty()) {
            let pss = peer.values(|look| look.pss);
            table.row(&what("PSS KiB"), &kind.values(|look| look.pss), Some((peer.name, &pss)), None);
        }
        table.row(&what("threads"), &kind.values(|look| look.threads), None, Some(2.0));
        table.row(&what("wake-ups per 10 s"), &kind.wake_ups(window), None, Some(1.0));
    }
    table.row("pod step: private KiB", &pod.values(|look| look.private), None, Some(1024.0));
}
