//! Step directories that nobody owns: their journals are undone, by a reaper each.

use crate::cleanup::claim::{self, ClaimError};
use crate::cleanup::entry::{Entry, Header};
use crate::cleanup::journal::{self, JournalError};
use crate::cleanup::reaper::{self, Told};
use crate::cleanup::sweep::finding::{Fate, Finding, Kind, describe};
use crate::cleanup::sweep::{Mode, Sweep, is_older, names_in, numbers_in};
use crate::ids::StepId;
use crate::layout::{self, StepDir, TempDir};
use crate::sys::helper::{self, Started};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A supervisor has a journal milliseconds after its directory.
const STARTING: Duration = Duration::from_secs(2);
/// Reapers at work at once.
const AT_ONCE: usize = 16;
/// A reaper keeps its limit; this is for its start and its last words.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a supervisor takes from the end of a reaper to its lock, and between two looks.
const TAKE_OVER: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
/// As much as a reaper may say.
const SAID_MAX: u64 = 1 << 20;
/// The step that has the pod.
const POD_STEP: u32 = 0;

/// One directory and what it owes.
pub(super) struct Debt {
    pub id: StepId,
    pub dir: StepDir,
    /// One for each entry of its journal.
    pub owed: Vec<(Kind, String)>,
}

pub(super) async fn clear(sweep: &mut Sweep<'_>) {
    let mut debts = Vec::new();
    for temp in &sweep.order.temp_dirs {
        match numbers_in(temp.path()) {
            Ok(jobs) => {
                for job in jobs.into_iter().filter(|job| sweep.wants(*job)).collect::<Vec<_>>() {
                    debts.extend(of_job(sweep, temp, job));
                }
            }
            Err(error) => sweep.found.push(unreadable(temp.path(), &error)),
        }
    }
    // Containers before the pod they are in.
    let (pods, containers): (Vec<_>, Vec<_>) = debts.into_iter().partition(|debt| debt.id.step == POD_STEP);
    settle(sweep, containers).await;
    settle(sweep, pods).await;
}

pub(super) fn unreadable(path: &Path, error: &impl ToString) -> Finding {
    let fate = Fate::NotUndone { reason: error.to_string() };
    Finding { job: None, step: None, kind: Kind::Directory, what: path.display().to_string(), fate }
}

fn of_job(sweep: &mut Sweep<'_>, temp: &TempDir, job: u32) -> Vec<Debt> {
    let steps = match numbers_in(&temp.job(job).steps()) {
        Ok(steps) => steps,
        Err(error) => {
            sweep.found.push(unreadable(temp.job(job).path(), &error));
            return Vec::new();
        }
    };
    if steps.is_empty() {
        return forgotten_job(sweep, temp, job).into_iter().collect();
    }
    let mut debts = Vec::new();
    for step in steps {
        let id = StepId { job, step };
        match of_step(sweep, temp.step(id), id) {
            Ok(debt) => debts.extend(debt),
            Err(finding) => {
                // What its journal does not tell must not be guessed from labels.
                sweep.settled.insert(job);
                sweep.found.push(finding);
            }
        }
    }
    debts
}

fn of_step(sweep: &Sweep<'_>, dir: StepDir, id: StepId) -> Result<Option<Debt>, Finding> {
    let stays = |error: &dyn std::error::Error| Finding::stays(id, Kind::Journal, &dir.journal(), &error);
    if claim::is_held(&dir).map_err(|error| stays(&error))? {
        return Ok(None);
    }
    if !journal::is_begun(&dir.journal()).map_err(|error| stays(&error))? {
        return without_journal(sweep, dir, id);
    }
    let entries = match journal::read(&dir.journal()) {
        Ok((_, entries)) => entries,
        // Somebody was quicker.
        Err(JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(stays(&error)),
    };
    let owed = entries.iter().map(describe).collect();
    Ok(Some(Debt { id, dir, owed }))
}

/// Its owner was killed before its first word, or somebody removed the journal.
fn without_journal(sweep: &Sweep<'_>, dir: StepDir, id: StepId) -> Result<Option<Debt>, Finding> {
    if !is_older(dir.path(), STARTING) {
        return Ok(None);
    }
    let dirs = vec![dir.mounts(), layout::bindfs_dir(&sweep.order.mount_base, id)];
    let entries: Vec<_> = dirs
        .into_iter()
        .filter(|path| path.exists())
        .map(|path| Entry::Mounts { dirs: vec![path], cgroup: None })
        .collect();
    adopt(sweep, dir, id, &entries)
}

/// A job's directory without a step in it.
fn forgotten_job(sweep: &mut Sweep<'_>, temp: &TempDir, job: u32) -> Option<Debt> {
    let id = StepId { job, step: POD_STEP };
    let dir = temp.job(job);
    let records: Vec<_> =
        [dir.pod_record(), dir.pod_config()].into_iter().filter(|path| path.symlink_metadata().is_ok()).collect();
    let is_empty = || names_in(dir.path()).is_ok_and(|names| names.iter().all(|name| name == "steps"));
    if !is_older(dir.path(), STARTING) || (records.is_empty() && !is_empty()) {
        return None;
    }
    match adopt(sweep, temp.step(id), id, &[Entry::PodRecord { files: records }]) {
        Ok(debt) => debt,
        Err(finding) => {
            sweep.found.push(finding);
            None
        }
    }
}

/// Gives `dir` a journal with `entries`, unless this is only a look; `None` where somebody owns it.
pub(super) fn adopt(sweep: &Sweep<'_>, dir: StepDir, id: StepId, entries: &[Entry]) -> Result<Option<Debt>, Finding> {
    let owed = entries.iter().map(describe).collect();
    let header: Header = sweep.header(id);
    match sweep.order.mode {
        Mode::Look => Ok(Some(Debt { id, dir, owed })),
        Mode::Undo => match claim::adopt(&dir, &header, entries) {
            Ok(true) => Ok(Some(Debt { id, dir, owed })),
            Ok(false) => Ok(None),
            Err(error) => Err(Finding::stays(id, Kind::Directory, dir.path(), &error)),
        },
    }
}

/// Has `debts` undone, or only tells of them.
pub(super) async fn settle(sweep: &mut Sweep<'_>, debts: Vec<Debt>) {
    if sweep.order.mode == Mode::Look {
        for debt in debts {
            // Or its pods would be told again as orphans.
            if debt.owed.iter().any(|(kind, _)| *kind == Kind::Pod) {
                sweep.settled.insert(debt.id.job);
            }
            sweep.found.extend(all(&debt, &Fate::WouldUndo));
        }
        return;
    }
    let mut rest = debts.into_iter();
    loop {
        let batch: Vec<_> = rest.by_ref().take(AT_ONCE).collect();
        if batch.is_empty() {
            return;
        }
        let limit = sweep.remaining();
        let started: Vec<_> = batch.into_iter().map(|debt| (start(&debt.dir, limit), debt)).collect();
        for (reaper, debt) in started {
            let told = match reaper {
                Ok(reaper) => hear(reaper, limit).await,
                Err(error) => Err(error.to_string()),
            };
            if told.is_err() && is_taken_over(&debt.dir).await {
                continue;
            }
            let findings = tell(&debt, told);
            if findings.iter().any(Finding::is_left) {
                sweep.settled.insert(debt.id.job);
            }
            sweep.found.extend(findings);
        }
    }
}

fn start(dir: &StepDir, limit: Duration) -> Result<Started, helper::HelperError> {
    let seconds = limit.as_secs().max(1).to_string();
    // The directory last: a supervisor knows the step's reaper by that.
    let args = [reaper::COMMAND.as_ref(), "--within".as_ref(), seconds.as_ref(), dir.path().as_os_str()];
    helper::start(Path::new(helper::OURSELVES), &args)
}

async fn hear(reaper: Started, limit: Duration) -> Result<Told, String> {
    let output = reaper.output(limit + LAST_WORDS, SAID_MAX).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout).map_err(|_| format!("its reaper did not finish ({})", output.status))
}

/// A supervisor that starts for the step ends its reaper; an instant later it has the lock.
async fn is_taken_over(dir: &StepDir) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < TAKE_OVER {
        if !dir.path().exists() || claim::is_held(dir).unwrap_or(false) {
            return true;
        }
        sleep(LOOK).await;
    }
    false
}

fn all<'a>(debt: &'a Debt, fate: &'a Fate) -> impl Iterator<Item = Finding> + use<'a> {
    let directory = (Kind::Directory, debt.dir.path().display().to_string());
    let owed = debt.owed.iter().cloned().chain([directory]);
    owed.map(|(kind, what)| Finding::of(debt.id, kind, what, fate.clone()))
}

fn tell(debt: &Debt, told: Result<Told, String>) -> Vec<Finding> {
    match told {
        Ok(Told::Undone) => all(debt, &Fate::Undone).collect(),
        Ok(Told::Supervised) => Vec::new(),
        Ok(Told::Left(left)) => {
            let mut findings: Vec<_> = all(debt, &Fate::Undone).collect();
            // Its journal stays in it.
            findings.pop();
            for (entry, reason) in left {
                let fate = Fate::NotUndone { reason };
                match entry.and_then(|number| findings.get_mut(number)) {
                    Some(finding) => finding.fate = fate,
                    None => {
                        let directory = debt.dir.path().display().to_string();
                        findings.push(Finding::of(debt.id, Kind::Directory, directory, fate));
                    }
                }
            }
            findings
        }
        Err(reason) => vec![Finding::stays(debt.id, Kind::Directory, debt.dir.path(), &reason)],
    }
}

/// Whether a step has a directory in any of the places.
pub(super) fn has_directory(sweep: &Sweep<'_>, id: StepId) -> bool {
    sweep.order.temp_dirs.iter().any(|temp| temp.step(id).path().exists())
}

/// A finding where a lock could not be looked at.
pub(super) fn unknown(id: StepId, kind: Kind, what: &Path, error: &ClaimError) -> Finding {
    Finding::stays(id, kind, what, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debt() -> Debt {
        let id = StepId { job: 7, step: 1 };
        let owed = vec![(Kind::Mounts, "m".to_owned()), (Kind::Container, "c".to_owned())];
        Debt { id, dir: StepDir::at("/no/such/dir"), owed }
    }

    #[test]
    fn each_entry_has_its_own_fate() {
        let left = tell(&debt(), Ok(Told::Left(vec![(Some(1), "away".into())])));
        let fates: Vec<_> = left.iter().map(|finding| (finding.kind, finding.is_left())).collect();
        assert_eq!(fates, [(Kind::Mounts, false), (Kind::Container, true)]);
        let done = tell(&debt(), Ok(Told::Undone));
        assert_eq!(done.len(), 3);
        assert!(!done.iter().any(Finding::is_left));
    }

    #[tokio::test]
    async fn a_step_that_is_anothers_or_gone_is_no_failure() {
        assert!(is_taken_over(&debt().dir).await);
        assert!(tell(&debt(), Ok(Told::Supervised)).is_empty());
        assert!(tell(&debt(), Err("killed".into()))[0].is_left());
    }
}
