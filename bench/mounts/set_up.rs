//! Making and undoing mounts, timed by the supervisor's own log.

use super::offset::{self, Offset};
use super::{ENGINES, Engine, SOURCES, Scene};
use crate::Result;
use crate::table::{Table, Values};
use std::time::Duration;

/// Mounts of one step.
const COUNTS: [usize; 2] = [1, SOURCES];
/// The log's lines at both ends of each; a container is removed before its mounts are undone.
const SET_UP: [&str; 2] = ["event=StageDone(Pod)", "event=StageDone(Mounts)"];
const TEAR_DOWN: [&str; 2] = ["call=RemoveContainer", "event=CleanedUp"];

/// Set-up and tear-down of one way to mount.
#[derive(Default)]
struct Both {
    up: Values,
    down: Values,
}

/// Steps that do nothing else, by turns.
pub async fn times(scene: &Scene<'_>, runs: usize, table: &mut Table) -> Result<()> {
    for count in COUNTS {
        let mut engines: [Both; ENGINES.len()] = Default::default();
        let mut peer = Both::default();
        for run in 0..runs + 1 {
            for (engine, both) in ENGINES.into_iter().zip(&mut engines) {
                let (up, down) = one(scene, engine, count).await?;
                push(both, run, up, down);
            }
            let (up, down) = by_offset(scene, count)?;
            push(&mut peer, run, up, down);
        }
        rows(count, &engines, &peer, table);
    }
    Ok(())
}

/// The first run reads programs from the disk.
fn push(both: &mut Both, run: usize, up: Duration, down: Duration) {
    if run > 0 {
        both.up.push_time(up);
        both.down.push_time(down);
    }
}

async fn one(scene: &Scene<'_>, engine: Engine, count: usize) -> Result<(Duration, Duration)> {
    let mut init = scene.step(engine, count, &["true"]);
    // Only so is the end of a call logged.
    init.debug_level = "debug".to_owned();
    scene.run(&init).await?;
    let log = scene.log(&init)?;
    Ok((between(&log, SET_UP)?, between(&log, TEAR_DOWN)?))
}

/// The peer's daemons one after the other: the mount alone, without the bookkeeping about it.
fn by_offset(scene: &Scene<'_>, count: usize) -> Result<(Duration, Duration)> {
    let place = |number: usize| scene.node.places.root.join(format!("offset-{number}"));
    let sources = scene.sources.dirs.iter().take(count).enumerate();
    let all: Vec<_> =
        sources.map(|(number, dir)| Offset::start(dir, &place(number), &scene.user)).collect::<Result<_>>()?;
    let up = all.iter().map(|one| one.took).sum();
    let mut down = Duration::ZERO;
    for one in all {
        down += one.end()?;
    }
    Ok((up, down))
}

fn rows(count: usize, engines: &[Both; ENGINES.len()], peer: &Both, table: &mut Table) {
    let [plain, .., bindfs] = engines;
    let mounts = if count == 1 { "1 mount".to_owned() } else { format!("{count} mounts") };
    for (verb, of) in [("set up", (|both| &both.up) as fn(&Both) -> &Values), ("tear down", |both| &both.down)] {
        for (engine, both) in ENGINES.into_iter().zip(engines) {
            let beside = (engine != Engine::Plain).then(|| (Engine::Plain.name(), of(plain)));
            table.row(&format!("{verb} {mounts}, ms: {}", engine.name()), of(both), beside, None);
        }
        let what = format!("{verb} {mounts}, ms: {}", Engine::Bindfs.name());
        table.row(&what, of(bindfs), Some((offset::NAME, of(peer))), None);
    }
}

/// The time from the last line with the first word to the last with the second.
fn between(log: &str, [from, to]: [&str; 2]) -> Result<Duration> {
    let at = |word: &str| {
        let line = log.lines().rev().find(|line| line.contains(word));
        line.and_then(time_of_day).ok_or_else(|| format!("no line with {word} and a time in the log: {log}"))
    };
    let (from, to) = (at(from)?, at(to)?);
    let midnight = Duration::from_secs(24 * 3600);
    Ok(to.checked_sub(from).unwrap_or((to + midnight).saturating_sub(from)))
}

/// Of `2026-01-31T23:59:59.123456Z`.
fn time_of_day(line: &str) -> Option<Duration> {
    let stamp = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = stamp.splitn(3, ':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    Duration::try_from_secs_f64(next()? * 3600.0 + next()? * 60.0 + next()?).ok()
}
