//! A container that writes as fast as it can: does our copy keep up with the runtime, and at what price.
//!
//! Both logs are looked at while the container writes; the peer of CPU time is `cat`, which copies the
//! same bytes once: while a second container writes in the same way, with nobody but the runtime to read
//! it, and then alone. A processor that is shared makes both of them slower.

use crate::Result;
use crate::bare::Bare;
use crate::init::Facts;
use crate::node::{LIMIT, Node, as_on_a_node};
use crate::processes;
use crate::table::{Table, Values};
use crane_supervisor::ids::StepId;
use crane_supervisor::layout::segment;
use crane_supervisor::local::grpc;
use crane_supervisor::wire::crane::JobStatus;
use nix::sys::resource::{UsageWho, getrusage};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// What the container writes last.
const LAST: &[u8] = b"all written\n";
/// Between two looks at the logs.
const LOOK: Duration = Duration::from_millis(2);
/// Lines of 100 bytes, their newline included.
const LINE: usize = 99;

struct Round {
    /// From the container's first byte to its last in the runtime's log, and in the user's file.
    runtime: Duration,
    ours: Duration,
    /// Bytes of the log.
    bytes: u64,
    cpu: Duration,
    /// `cat` beside such a container, and alone.
    beside: Duration,
    alone: Duration,
    private: f64,
}

/// Writes `mib` MiB of lines in each of `rounds` containers.
pub async fn flood(node: &Node, rounds: usize, mib: u32, table: &mut Table) -> Result<()> {
    let mut done = Vec::new();
    for _ in 0..rounds {
        done.push(timeout(LIMIT * 5, one(node, mib)).await??);
    }
    let values = |of: &dyn Fn(&Round) -> f64| done.iter().map(of).collect::<Values>();
    let rate = |time: Duration, round: &Round| round.bytes as f64 / time.as_secs_f64() / f64::from(1 << 20);
    let runtimes = values(&|round| rate(round.runtime, round));
    table.row("output: MiB/s copied", &values(&|round| rate(round.ours, round)), Some(("runtime", &runtimes)), None);
    let behind = values(&|round| round.ours.as_secs_f64() / round.runtime.as_secs_f64());
    table.row("output: copied in, of the runtime's time", &behind, None, Some(1.0 / 0.95));
    let per_gb = |time: Duration, round: &Round| time.as_secs_f64() * 1e9 / round.bytes as f64;
    let ours = values(&|round| per_gb(round.cpu, round));
    let beside = values(&|round| per_gb(round.beside, round));
    table.row("output: CPU s per GB", &ours, Some(("cat beside a flood", &beside)), Some(2.0 * beside.median()));
    let alone = values(&|round| per_gb(round.alone, round));
    table.row("output: CPU s per GB", &ours, Some(("cat alone", &alone)), None);
    table.row("output: private KiB right after", &values(&|round| round.private), None, Some(1024.0));
    Ok(())
}

async fn one(node: &Node, mib: u32) -> Result<Round> {
    let job = node.job();
    let pod = node.pod(&job).await?;
    let id = StepId { job: job.job, step: 1 };
    let script = format!("yes {} | head -c {mib}m; echo all written; sleep 1", "x".repeat(LINE));
    let init = as_on_a_node(job.container_step(1, &["sh", "-c", &script]));
    let mut step = node.start(&init).await?;
    let log = node.places.logs.join(format!("{id}.container.log"));
    let copy = node.places.cwd.join(format!("{}.out/1.{}.log", id.job, crate::init::NODE));
    let before = cpu(step.pid())?;
    grpc::execute(id).await?;
    let begun = until(|| size(&log) > 0).await;
    // A rotation may just have begun a new file.
    let mut runtime = None;
    let finished = until(|| {
        runtime = runtime.or_else(|| (ends(&log) || ends(&segment(&log, 1))).then(Instant::now));
        ends(&copy)
    })
    .await;
    let runtime = runtime.unwrap_or(finished);
    let (cpu, private) = (cpu(step.pid())? - before, processes::look(step.pid())?.private);
    node.reports.wait(id, JobStatus::Completing).await?;
    timeout(LIMIT, step.ended()).await??;
    let (bytes, other) = (size(&copy), node.places.cwd.join("by-cat"));
    let beside = beside_a_flood(node, &job, &script, || cat(&copy, &other)).await?;
    node.end_pod(pod).await?;
    let alone = cat(&copy, &other)?;
    std::fs::remove_file(copy)?;
    Ok(Round { runtime: runtime - begun, ours: finished - begun, bytes, cpu, beside, alone, private })
}

/// Does `work` while a container without a supervisor runs `script`.
async fn beside_a_flood<T>(node: &Node, job: &Facts, script: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (client, id) = (node.new_client()?, StepId { job: job.job, step: 2 });
    let log = node.places.logs.join(format!("{id}.container.log"));
    std::fs::write(&log, "")?;
    let init = as_on_a_node(job.container_step(2, &["sh", "-c", script]));
    let container = Bare::new(job)?.start(&client, init, Vec::new()).await?;
    until(|| size(&log) > 0).await;
    let done = work();
    let was_flooded = !ends(&log);
    client.stop(&container, Duration::ZERO).await?;
    client.remove(&container).await?;
    std::fs::remove_file(&log)?;
    if was_flooded { done } else { Err("the container wrote all before cat was done: ask for more MiB".into()) }
}

async fn until(mut done: impl FnMut() -> bool) -> Instant {
    while !done() {
        sleep(LOOK).await;
    }
    Instant::now()
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// Whether the last word of the container is the last of `log`.
fn ends(log: &Path) -> bool {
    let (mut last, length) = ([0; LAST.len()], size(log));
    let begin = length.saturating_sub(LAST.len() as u64);
    File::open(log).is_ok_and(|file| file.read_exact_at(&mut last, begin).is_ok()) && last == LAST
}

fn cpu(pid: u32) -> Result<Duration> {
    let stat = procfs::process::Process::new(i32::try_from(pid)?)?.stat()?;
    Ok(Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64))
}

/// What `cat` needs for the same.
fn cat(from: &Path, to: &Path) -> Result<Duration> {
    let used = || -> Result<Duration> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let time = |time: nix::sys::time::TimeVal| {
            Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64)
        };
        Ok(time(usage.user_time()) + time(usage.system_time()))
    };
    let before = used()?;
    let copied = Command::new("cat").arg(from).stdout(File::create(to)?).status()?;
    std::fs::remove_file(to)?;
    if copied.success() { Ok(used()? - before) } else { Err("cat failed".into()) }
}
