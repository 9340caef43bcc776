//! Whole jobs: `crane-supervisor run` beside `ctr run`, by turns.
//!
//! They are not the same work: ours brings a pod up and down around the
//! container, as every CraneSched job has one.

use crate::node::{IMAGE, Node};
use crate::table::{Table, Values};
use crate::{Result, conmon};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs both kinds by turns.
pub async fn jobs(node: &Node, runs: usize, table: &mut Table) -> Result<()> {
    let socket = node.endpoint.trim_start_matches("unix://");
    let config = node.places.root.join("config.yaml");
    write_config(&config, &node.places.base, &node.endpoint)?;
    let runc = conmon::find("runc").ok_or("runc is not in PATH")?.to_string_lossy().into_owned();
    let (program, config) = (node.binary.to_string_lossy(), config.to_string_lossy());
    let (mut ours, mut ctr) = (Values::default(), Values::default());
    for run in 0..runs + 1 {
        let supervised = time(&[&program, "run", "-C", &config, "--network", "host", IMAGE, "--", "true"])?;
        let name = format!("bench-{run}");
        // A newer suite's runc may need a newer libc than this machine's.
        let plain = time(&[
            "ctr",
            "-a",
            socket,
            "-n",
            "k8s.io",
            "run",
            "--rm",
            "--net-host",
            "--runc-binary",
            &runc,
            IMAGE,
            &name,
            "true",
        ])?;
        if run > 0 {
            ours.push_time(supervised);
            ctr.push_time(plain);
        }
    }
    table.row("run, wall ms", &ours, Some(("ctr run", &ctr)), None);
    Ok(())
}

fn write_config(path: &Path, base: &Path, endpoint: &str) -> Result<()> {
    let text =
        format!("CraneBaseDir: {}\nContainer:\n  Enabled: true\n  RuntimeEndpoint: {endpoint}\n", base.display());
    Ok(std::fs::write(path, text)?)
}

/// From the start of a program to its end, which must be a success.
pub fn time(line: &[&str]) -> Result<Duration> {
    let [program, args @ ..] = line else {
        return Err("no program".into());
    };
    let begun = Instant::now();
    let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    let took = begun.elapsed();
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{}: {}: {words}", line.join(" "), output.status).into());
    }
    Ok(took)
}
