//! Measures the supervisor beside its peers on real runtimes, in one run, and
//! prints one table per runtime: ours, the peer's, their ratio, and the target.
//!
//! Started by `scripts/bench` inside a testbed, which names the runtimes in
//! CRANE_TEST_RUNTIMES. A missed target is printed, never a failure: machines
//! differ, ratios are what to look at.
#![allow(clippy::disallowed_methods, reason = "peers are other programs, started as they are")]

mod args;
mod bare;
mod conmon;
mod latency;
mod mounts;
mod node;
mod output;
mod processes;
mod quiet;
mod table;
mod whole;

#[allow(dead_code, clippy::expect_used, reason = "the tests' builders; not all are needed here")]
#[path = "../tests/support/init.rs"]
mod init;

#[allow(dead_code, clippy::expect_used, clippy::unwrap_used, reason = "the tests' users; not all is needed here")]
#[path = "../tests/support/user.rs"]
mod user;

#[allow(dead_code, clippy::expect_used, reason = "what the tests' users need")]
#[path = "../tests/support/wait.rs"]
mod wait;

use args::{Args, Part};
use node::Node;
use std::process::ExitCode;
use std::time::Duration;
use table::Table;

/// What the benchmark can fail with: words for a person.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// After the disk is in step, the runtimes may still be busy.
const SETTLING: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    match Args::read().and_then(|args| measure(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (name, endpoint) in args::runtimes(&args.runtime)? {
        let done = runtime.block_on(on_runtime(args, &name, &endpoint));
        done.map_err(|error| format!("on {name}: {error}"))?;
    }
    Ok(())
}

async fn on_runtime(args: &Args, name: &str, endpoint: &str) -> Result<()> {
    // The testbed has just unpacked its images: their writing is not ours.
    nix::unistd::sync();
    tokio::time::sleep(SETTLING).await;
    let node = Node::new(&args.binary, &args.dir, endpoint)?;
    let version = node.client.version().await?;
    let mut table = Table::new(&format!("{} {}", version.runtime_name, version.runtime_version));
    let say = |part: &str| eprintln!("bench: {name}: {part}");
    if args.wants(Part::Ready) {
        say("spawn to Ready");
        latency::ready(&node, args.ready_runs, &mut table).await?;
    }
    if args.wants(Part::Container) {
        say("start and end of a container");
        latency::container(&node, args.container_runs, &mut table).await?;
    }
    if args.wants(Part::Whole) {
        say("whole jobs");
        whole::jobs(&node, args.whole_runs, &mut table).await?;
    }
    if args.wants(Part::Quiet) {
        say("many containers at once");
        quiet::many(&node, args.containers, args.window, &mut table).await?;
    }
    if args.wants(Part::Output) {
        say("output");
        output::flood(&node, args.floods, args.flood_mib, &mut table).await?;
    }
    if args.wants(Part::Mounts) && args::has_userns(name) {
        say("mounts");
        mounts::all(&node, args, &mut table).await?;
    }
    print!("{}", table.text());
    Ok(())
}
