//! Steps with one mount whose containers sleep: what the mount costs meanwhile.

use super::offset::{self, Offset};
use super::{Engine, Scene};
use crate::latency::running;
use crate::node::LIMIT;
use crate::quiet::{Kind, watch};
use crate::table::Table;
use crate::{Result, processes};
use crane_supervisor::local::child::Supervisor;
use crane_supervisor::local::grpc;
use crane_supervisor::sys::pidfd::Process;
use crane_supervisor::wire::crane::JobStatus;
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::time::timeout;

/// Rows, and how many mounts each step has.
const KINDS: [(&str, Engine, usize); 4] = [
    ("no mount", Engine::Idmapped, 0),
    ("plain bind", Engine::Plain, 1),
    ("id-mapped", Engine::Idmapped, 1),
    ("bindfs", Engine::Bindfs, 1),
];

/// One step whose container sleeps.
struct Sleeper {
    step: Supervisor,
    init: Process,
}

impl Sleeper {
    async fn start(scene: &Scene<'_>, engine: Engine, mounts: usize) -> Result<Self> {
        let step = scene.node.start(&scene.step(engine, mounts, &["sleep", "3600"])).await?;
        grpc::execute(step.step()).await?;
        let (_, _, init) = running(scene.node, step.step(), scene.user.uid).await?;
        Ok(Self { step, init })
    }

    async fn end(mut self, scene: &Scene<'_>) -> Result<()> {
        self.init.signal(Signal::SIGKILL)?;
        scene.node.reports.wait(self.step.step(), JobStatus::Completing).await?;
        timeout(LIMIT, self.step.ended()).await??;
        Ok(())
    }
}

/// Starts `count` of each kind, looks at them, and ends them.
pub async fn kept(scene: &Scene<'_>, count: usize, window: Duration, table: &mut Table) -> Result<()> {
    let mut sleepers: [Vec<Sleeper>; KINDS.len()] = Default::default();
    let mut peers = Vec::new();
    for number in 0..count {
        for ((_, engine, mounts), sleepers) in KINDS.into_iter().zip(&mut sleepers) {
            sleepers.push(Sleeper::start(scene, engine, mounts).await?);
        }
        let dir = scene.node.places.root.join(format!("offset-{number}"));
        peers.push(Offset::start(&scene.sources.dirs[0], &dir, &scene.user)?);
    }
    let measured = measure(&sleepers, &peers, window, table).await;
    for sleeper in sleepers.into_iter().flatten() {
        sleeper.end(scene).await?;
    }
    for peer in peers {
        peer.end()?;
    }
    measured
}

async fn measure(
    sleepers: &[Vec<Sleeper>; KINDS.len()],
    peers: &[Offset],
    window: Duration,
    table: &mut Table,
) -> Result<()> {
    let pids = |sleepers: &Vec<Sleeper>| sleepers.iter().map(|one| one.step.pid()).collect::<Vec<_>>();
    let mut kinds: Vec<_> =
        KINDS.iter().zip(sleepers).map(|((name, ..), sleepers)| Kind::new(name, pids(sleepers))).collect();
    let daemons = sleepers.iter().flatten().flat_map(|one| processes::children(one.step.pid(), "bindfs"));
    kinds.push(Kind::new("bindfs itself", daemons.collect()));
    kinds.push(Kind::new(offset::NAME, peers.iter().flat_map(Offset::pids).collect()));
    watch(&mut kinds, window).await?;
    let [none, steps @ .., daemon, peer] = &kinds[..] else { return Ok(()) };
    for kind in steps {
        let what = |of: &str| format!("step with {}: {of}", kind.name);
        let beside = none.values(|look| look.private);
        let private = kind.values(|look| look.private);
        table.row(&what("private KiB"), &private, Some((none.name, &beside)), Some(1024.0));
        table.row(&what("threads"), &kind.values(|look| look.threads), None, Some(2.0));
        table.row(&what("wake-ups per 10 s"), &kind.wake_ups(window), None, Some(1.0));
    }
    let beside = peer.values(|look| look.private);
    let private = daemon.values(|look| look.private);
    table.row("bindfs itself: private KiB", &private, Some((peer.name, &beside)), None);
    let beside = peer.values(|look| look.threads);
    table.row("bindfs itself: threads", &daemon.values(|look| look.threads), Some((peer.name, &beside)), None);
    table.row("bindfs itself: wake-ups per 10 s", &daemon.wake_ups(window), None, None);
    Ok(())
}
