//! What was asked for on the command line, and the runtimes to measure on.

use crate::Result;
use std::path::PathBuf;
use std::time::Duration;

/// One group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Spawn to SupervisorReady.
    Ready,
    /// A container's start and end.
    Container,
    /// Whole jobs, beside `ctr run`.
    Whole,
    /// Memory, threads and wake-ups of many at once.
    Quiet,
    /// Copying the output of a container that writes as fast as it can.
    Output,
    /// What mounts cost: their use, their making, their keeping.
    Mounts,
}

/// Everything that can be chosen.
#[derive(Debug)]
pub struct Args {
    /// The supervisor to measure.
    pub binary: PathBuf,
    /// Scratch space; on the disk that is to be measured too.
    pub dir: PathBuf,
    /// The only runtime to use; empty is all.
    pub runtime: String,
    /// The parts wanted; empty is all.
    parts: Vec<Part>,
    /// Spawns to Ready.
    pub ready_runs: usize,
    /// Containers, ours and bare each.
    pub container_runs: usize,
    /// Whole jobs of each kind.
    pub whole_runs: usize,
    /// Containers at once.
    pub containers: usize,
    /// How long wake-ups are counted.
    pub window: Duration,
    /// Containers that write as fast as they can.
    pub floods: usize,
    /// MiB that each of them writes.
    pub flood_mib: u32,
    /// What is done with mounts, and how often.
    pub mounts: Mounts,
}

/// Sizes of the part about mounts.
#[derive(Clone, Copy, Debug)]
pub struct Mounts {
    /// Rounds of work with files in each kind of mount.
    pub rounds: usize,
    /// Small files in each.
    pub files: u32,
    /// MiB of the large file in each.
    pub mib: u32,
    /// Steps of each kind whose making of mounts is timed.
    pub steps: usize,
    /// Steps of each kind at once.
    pub at_once: usize,
}

impl Args {
    /// Reads the command line.
    pub fn read() -> Result<Self> {
        let mut args = Self {
            binary: env!("CARGO_BIN_EXE_crane-supervisor").into(),
            dir: std::env::temp_dir(),
            runtime: String::new(),
            parts: Vec::new(),
            ready_runs: 100,
            container_runs: 40,
            whole_runs: 15,
            containers: 100,
            window: Duration::from_secs(60),
            floods: 5,
            flood_mib: 1024,
            mounts: Mounts { rounds: 15, files: 10_000, mib: 256, steps: 15, at_once: 10 },
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => args.be_quick(),
                "--binary" => args.binary = value()?.into(),
                "--dir" => args.dir = value()?.into(),
                "--runtime" => args.runtime = value()?,
                "--pairs" => args.container_runs = value()?.parse()?,
                "--containers" => args.containers = value()?.parse()?,
                "--only" => args.parts = value()?.split(',').map(part).collect::<Result<_>>()?,
                // cargo's own.
                "--bench" => {}
                _ => return Err(format!("unknown argument {word}").into()),
            }
        }
        Ok(args)
    }

    fn be_quick(&mut self) {
        self.ready_runs = 50;
        self.container_runs = 15;
        self.whole_runs = 3;
        self.containers = 10;
        self.window = Duration::from_secs(30);
        (self.floods, self.flood_mib) = (3, 128);
        self.mounts = Mounts { rounds: 3, files: 1000, mib: 64, steps: 3, at_once: 3 };
    }

    /// Is this part wanted?
    pub fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

fn part(word: &str) -> Result<Part> {
    match word {
        "ready" => Ok(Part::Ready),
        "container" => Ok(Part::Container),
        "whole" => Ok(Part::Whole),
        "quiet" => Ok(Part::Quiet),
        "output" => Ok(Part::Output),
        "mounts" => Ok(Part::Mounts),
        _ => Err(format!("unknown part {word}: expected ready, container, whole, quiet, output or mounts").into()),
    }
}

/// Name and endpoint of each runtime of the testbed, or only of the one named `only`.
pub fn runtimes(only: &str) -> Result<Vec<(String, String)>> {
    let list = std::env::var("CRANE_TEST_RUNTIMES").unwrap_or_default();
    let found: Vec<_> = list
        .split(';')
        .filter_map(|entry| entry.split_once('='))
        .filter(|(name, _)| only.is_empty() || *name == only)
        .map(|(name, endpoint)| (name.to_owned(), endpoint.to_owned()))
        .collect();
    if found.is_empty() {
        return Err("no runtime in CRANE_TEST_RUNTIMES to measure on: start this by scripts/bench".into());
    }
    Ok(found)
}

/// Can pods of this runtime have user namespaces?
pub fn has_userns(name: &str) -> bool {
    std::env::var("CRANE_TEST_USERNS").unwrap_or_default().split(';').any(|able| able == name)
}
