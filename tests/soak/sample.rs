//! Jobs whose ends are known, and the count of what was told of them.

use crate::support::job::Job;
use crate::support::runtime::Runtime;
use crate::support::supervisor::Supervisor;
use crate::support::wait;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A step may have to wait for a runtime that is down time and again.
const END: Duration = Duration::from_secs(180);

/// What came of one fault.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Faults.
    pub injected: u32,
    /// Steps whose end was waited for, or which were killed.
    pub steps: u32,
    /// Told as it was; or, killed, gone without a word.
    pub right: u32,
    /// Failed, with a reason, before its container ran.
    pub refused: u32,
    /// Told as lost, with a reason.
    pub lost: u32,
    /// Told otherwise, twice, or not at all.
    pub wrong: u32,
    /// Jobs that left something.
    pub left: u32,
    /// The longest time until all was clean.
    pub slowest: Option<Duration>,
}

impl Tally {
    /// Nothing wrong, nothing lost, nothing left.
    pub fn is_good(&self) -> bool {
        self.wrong == 0 && self.left == 0 && (self.lost == 0 || !kernel_tells())
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            injected: self.injected + other.injected,
            steps: self.steps + other.steps,
            right: self.right + other.right,
            refused: self.refused + other.refused,
            lost: self.lost + other.lost,
            wrong: self.wrong + other.wrong,
            left: self.left + other.left,
            slowest: self.slowest.max(other.slowest),
        }
    }

    /// Counts what was told of a step that ended with `code`.
    pub fn judge(&mut self, code: u32, told: Option<&StepStatusChangeRequest>, evidence: impl FnOnce() -> String) {
        self.steps += 1;
        match told {
            Some(report) if report.exit_code == code => self.right += 1,
            Some(report) if matches!(report.exit_code, 321..=324) && !report.reason.is_empty() => {
                eprintln!("soak: refused: {}", report.reason);
                self.refused += 1;
            }
            Some(report) if report.exit_code == 328 && !report.reason.is_empty() => {
                eprintln!("soak: lost: {}\n{}", report.reason, evidence());
                self.lost += 1;
            }
            told => {
                eprintln!("soak: wrong: expected {code}, told {told:?}\n{}", evidence());
                self.wrong += 1;
            }
        }
    }

    /// Counts the time from `since` until a job was clean, or that it was not.
    pub fn close(&mut self, job: Job, since: Instant) {
        match catch_unwind(AssertUnwindSafe(|| drop(job))) {
            Ok(()) => self.slowest = self.slowest.max(Some(since.elapsed())),
            Err(_shown) => self.left += 1,
        }
    }
}

/// Whether this kernel tells how a process ended.
fn kernel_tells() -> bool {
    crane_supervisor::sys::pidfd::tells_ends()
}

/// Numbers that look random and can be had again (xorshift).
pub struct Dice(u64);

impl Dice {
    /// For one of several workers.
    pub fn new(seed: u64, worker: u32) -> Self {
        Self(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(worker) * 2 + 1) | 1)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// A script and craned's code for its end.
pub fn ending(dice: &mut Dice) -> (String, u32) {
    let life = [0, 0, 1, 3, 10, 25][dice.below(6) as usize];
    let (end, code) = match dice.below(4) {
        0 => {
            // Not 2 and 3: who starts a runtime in the background has them ignored in its containers.
            let signal = [1, 6, 9, 11, 15][dice.below(5) as usize];
            (format!("kill -{signal} $$; sleep 5"), 256 + signal)
        }
        _ => {
            let code = dice.below(256) as u32;
            (format!("exit {code}"), code)
        }
    };
    (format!("sleep {}.{}; {end}", life / 10, life % 10), code)
}

/// Starts one step and takes it to its last report.
pub fn run(
    job: &Job,
    number: u32,
    script: &str,
    edit: impl FnOnce(&mut InitSupervisorRequest),
) -> Option<StepStatusChangeRequest> {
    let mut init = job.facts.container_step(number, &["sh", "-c", script]);
    edit(&mut init);
    let mut step = job.spawn(number);
    step.send(&init);
    if step.ready(Duration::from_secs(30)) != Some(true) {
        return None;
    }
    step.client().execute().ok()?;
    last_report(job, &mut step)
}

/// The one last report of a step, once its process has ended.
pub fn last_report(job: &Job, step: &mut Supervisor) -> Option<StepStatusChangeRequest> {
    step.exit_within(END)?;
    let mut ends = job.craned.reports(step.step);
    ends.retain(|report| report.new_status() == JobStatus::Completing);
    // Said again after a lost answer is the same word, not a second one.
    ends.dedup_by(|one, other| one.exit_code == other.exit_code && one.reason == other.reason);
    if ends.len() == 1 { ends.pop() } else { None }
}

/// Starts the pod, whatever the runtime is up to.
pub fn pod(job: &Job) -> Option<Supervisor> {
    let pod = job.start(&job.facts.pod_step());
    wait::until(END, || {
        let told = job.craned.statuses(0);
        told.iter().any(|status| matches!(status, JobStatus::Running | JobStatus::Failed)).then_some(())
    });
    job.craned.statuses(0).contains(&JobStatus::Running).then_some(pod)
}

/// Several workers, each with a job of its own, run steps until `over` is set, `most` each at most.
pub fn steps_until(runtime: &Runtime, workers: u32, most: u32, seed: u64, over: &AtomicBool) -> Tally {
    thread::scope(|scope| {
        let runs: Vec<_> = (0..workers)
            .map(|worker| scope.spawn(move || worker_steps(runtime, Dice::new(seed, worker), most, over)))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap_or_else(|_| broken())).fold(Tally::default(), Tally::and)
    })
}

/// A worker that panicked has told nobody anything.
fn broken() -> Tally {
    Tally { steps: 1, wrong: 1, ..Tally::default() }
}

fn worker_steps(runtime: &Runtime, mut dice: Dice, most: u32, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let job = Job::on(runtime);
    let Some(mut holder) = pod(&job) else {
        eprintln!("soak: no pod: {:?}", job.craned.reports(0));
        tally.steps += 1;
        tally.refused += 1;
        return tally;
    };
    for number in 1..=most {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let (script, code) = ending(&mut dice);
        let told = run(&job, number, &script, |_| {});
        tally.judge(code, told.as_ref(), || format!("{script}\n{}", job.supervisor_log(number)));
    }
    let since = Instant::now();
    let _answered = holder.client().shut_down();
    let _ended = holder.exit_within(END);
    tally.close(job, since);
    tally
}
