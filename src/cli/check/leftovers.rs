//! What dead supervisors left, as `cleanup --dry-run` sees it; and a trial run.

use crate::cleanup::sweep::finding::Kind;
use crate::cleanup::sweep::{self, Mode, Order};
use crate::cli::check::line::{LIMIT, Line, fail, ok, untold, warn};
use crate::config::{Config, Container};
use crate::cri::endpoint::Endpoint;
use crate::layout::{LogDir, TempDir};
use crate::sys::helper;
use nix::unistd::geteuid;
use serde_json::Value;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

/// Younger things may belong to a step in the making.
const OLDER_THAN: Duration = Duration::from_secs(60);
/// Steps that are named.
const NAMED: usize = 3;
/// A trial, its image's pull included.
const TRIAL_LIMIT: Duration = Duration::from_secs(300);
/// What the trial's container says.
const WORDS: &str = "hello from check";
const SAID_MAX: u64 = 64 * 1024;

/// Counts what is left.
pub async fn look(config: &Config, node: &Container) -> Line {
    if !geteuid().is_root() {
        return untold("leftovers", "what dead supervisors left");
    }
    let Ok(runtime) = Endpoint::parse(&node.runtime_socket.to_string_lossy()) else {
        return warn("leftovers", "cannot look without a runtime", "see the line about it");
    };
    let order = Order {
        temp_dirs: config.temp_dirs().into_iter().map(TempDir::new).collect(),
        mount_base: config.mount_base_dir(),
        runtime,
        log_dir: LogDir::new(config.log_dir()),
        older_than: OLDER_THAN,
        limit: LIMIT,
        mode: Mode::Look,
        job: None,
    };
    let found = sweep::sweep(&order).await;
    let left: Vec<_> = found.iter().filter(|finding| finding.kind != Kind::Runtime).collect();
    let mut steps: Vec<String> =
        left.iter().filter_map(|finding| Some(format!("{}.{}", finding.job?, finding.step?))).collect();
    steps.dedup();
    if left.is_empty() {
        return ok("leftovers", "nothing is left of dead supervisors");
    }
    let more = if steps.len() > NAMED { ", …" } else { "" };
    let named = steps.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let found = format!("{} things of {} dead supervisors are left ({named}{more})", left.len(), steps.len());
    warn("leftovers", found, "crane-supervisor cleanup (--dry-run lists them)")
}

/// Runs one container by `run`, in a process and a directory of its own.
pub async fn trial(config: &Path, image: &str) -> Line {
    if !geteuid().is_root() {
        return untold("run", "whether a container runs");
    }
    // The job's working directory: its copy of the output goes there, and stays after a failure.
    let dir = std::env::temp_dir().join(format!("crane-supervisor-check-{}", std::process::id()));
    if let Err(error) = DirBuilder::new().mode(0o700).create(&dir) {
        return fail("run", format!("cannot make {}: {error}", dir.display()), "make room or remove it");
    }
    let line = run_in(&dir, config, image).await;
    // What stays in it is evidence, and named.
    drop(fs::remove_dir(&dir));
    line
}

async fn run_in(dir: &Path, config: &Path, image: &str) -> Line {
    let config = config.canonicalize().unwrap_or_else(|_| config.to_owned());
    let config = config.to_string_lossy();
    // Its words would go to our stderr, which is nobody's data: the object has the reason.
    let arguments = ["run", "--json", "-C", &config, "--as", "0", image, "--", "echo", WORDS];
    let output = match helper::start_in(dir, Path::new(helper::OURSELVES), &arguments) {
        Ok(started) => started.output(TRIAL_LIMIT, SAID_MAX).await,
        Err(error) => Err(error),
    };
    let output = match output {
        Ok(output) => output,
        Err(error) => return fail("run", error.to_string(), "see ps and logs for where it hangs"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let told: Value = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let seconds = told["seconds"].as_f64().unwrap_or_default();
    match (output.status.success(), text.lines().next() == Some(WORDS)) {
        (true, true) => ok("run", format!("a container of {image} ran in {seconds:.1} s")),
        (true, false) => fail("run", format!("a container of {image} ran, and its output did not come"), "see LogDir"),
        (false, _) => {
            let reason = told["reason"].as_str().unwrap_or("no reason was given");
            let kept: Vec<_> = told["kept"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let kept = if kept.is_empty() { String::new() } else { format!("; see {}", kept.join(" ")) };
            let again = format!("try it by hand: crane-supervisor run -C {config} {image} -- echo hello{kept}");
            fail("run", format!("a container of {image} did not run ({}): {reason}", output.status), again)
        }
    }
}
