//! Faults without end, and a table of what came of them.
//!
//! Each row injects one fault again and again under jobs whose ends are known, on one real
//! runtime, and counts: ends that were told right, told as failed with a reason before the
//! container ran, told as lost, told wrong, and jobs that left something. Started by
//! `scripts/soak` inside a testbed; needs no other test beside it, since it kills the runtime.
//! Exits with 1 where anything was wrong or left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a test may panic, wait and start programs"
)]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod sample;

use crate::support::bed::Bed;
use faults::{FAULTS, Fault};
use sample::Tally;
use std::process::ExitCode;
use std::time::Duration;
use support::runtime::real;

/// Longer than a look at the runtime may take (10 s), so that such looks fail.
const FROZEN: Duration = Duration::from_secs(12);

/// What was asked for.
struct Args {
    /// How often each fault is injected.
    rounds: u32,
    /// Only rows whose name contains this.
    only: String,
    /// Only this runtime.
    runtime: String,
    /// Of the random choices, to see the same again.
    seed: u64,
    /// How long a frozen runtime stays frozen.
    frozen: Duration,
}

fn args() -> Result<Args, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let mut args = Args { rounds: 3, only: String::new(), runtime: String::new(), seed: now, frozen: FROZEN };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => args.rounds = value()?.parse().map_err(|_| "--rounds needs a number".to_owned())?,
            "--seed" => args.seed = value()?.parse().map_err(|_| "--seed needs a number".to_owned())?,
            "--frozen" => {
                let seconds = value()?.parse().map_err(|_| "--frozen needs a number of seconds".to_owned())?;
                args.frozen = Duration::from_secs(seconds);
            }
            "--only" => args.only = value()?,
            "--runtime" => args.runtime = value()?,
            // What cargo passes to every test.
            "--quiet" | "-q" => {}
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(problem) => {
            eprintln!("soak: {problem}");
            return ExitCode::from(2);
        }
    };
    if std::env::var_os("CRANE_SOAK").is_none() {
        // `cargo test` starts every test program; this one kills runtimes that others use.
        eprintln!("soak: not run; scripts/soak does");
        return ExitCode::SUCCESS;
    }
    eprintln!("soak: {} rounds, seed {}", args.rounds, args.seed);
    let mut good = true;
    for runtime in real().into_iter().filter(|runtime| runtime.name().contains(&args.runtime)) {
        let bed = Bed::of(&runtime, args.frozen);
        println!("\n{}", runtime.name());
        println!(
            "{:38} {:>8} {:>6} {:>6} {:>7} {:>5} {:>6} {:>5} {:>11}",
            "fault", "injected", "steps", "right", "refused", "lost", "wrong", "left", "clean, s"
        );
        for Fault { name, inject } in FAULTS.iter().filter(|fault| fault.name.contains(&args.only)) {
            eprintln!("soak: {}: {name}", runtime.name());
            let tally = inject(&bed, args.rounds, args.seed);
            bed.repair();
            good &= tally.is_good();
            println!("{name:38} {tally}");
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clean = self.slowest.map_or("-".to_owned(), |slowest| format!("{:.1}", slowest.as_secs_f32()));
        write!(
            f,
            "{:>8} {:>6} {:>6} {:>7} {:>5} {:>6} {:>5} {clean:>11}",
            self.injected, self.steps, self.right, self.refused, self.lost, self.wrong, self.left
        )
    }
}
