//! The faults, one row each.

use crate::sample::{Dice, Tally, ending, last_report, pod, run, steps_until};
use crate::support::bed::Bed;
use crate::support::craned::Answer;
use crate::support::job::Job;
use crate::support::wait;
use crane_supervisor::wire::crane::TerminateSource;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// One row.
pub struct Fault {
    /// Its name in the table.
    pub name: &'static str,
    /// Injects it so many times.
    pub inject: fn(&Bed, u32, u64) -> Tally,
}

/// All rows.
pub const FAULTS: &[Fault] = &[
    Fault { name: "none", inject: none },
    Fault { name: "runtime killed and started again", inject: runtime_restarted },
    Fault { name: "runtime frozen", inject: runtime_frozen },
    Fault { name: "supervisor killed at random", inject: supervisor_killed },
    Fault { name: "both supervisors killed, runtime down", inject: all_killed },
    Fault { name: "craned away, slow and refusing", inject: craned_away },
    Fault { name: "CraneBaseDir full", inject: disk_full },
    Fault { name: "network plugin slow (ADD and DEL 8 s)", inject: network_slow },
    Fault { name: "OCI runtime slow (2 s a call)", inject: oci_slow },
    Fault { name: "OCI runtime fails to delete at first", inject: oci_fails },
];

/// Jobs at once.
const WORKERS: u32 = 4;
/// Between two faults of the runtime.
const PEACE: Duration = Duration::from_secs(3);
/// No call of craned's may take longer, whatever the runtime does.
const ANSWER: Duration = Duration::from_millis(100);

fn none(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    steps_until(&bed.runtime, WORKERS, rounds * 5, seed, &AtomicBool::new(false))
}

/// Steps go on while `inject` does its work, so many times.
fn under(bed: &Bed, rounds: u32, seed: u64, mut inject: impl FnMut(u32)) -> Tally {
    let over = AtomicBool::new(false);
    let tally = thread::scope(|scope| {
        let steps = scope.spawn(|| steps_until(&bed.runtime, WORKERS, u32::MAX, seed, &over));
        for round in 0..rounds {
            wait::pause(PEACE);
            inject(round);
        }
        over.store(true, Ordering::Relaxed);
        steps.join().unwrap()
    });
    Tally { injected: rounds, ..tally }
}

/// KILL and TERM by turns, and away for up to two seconds.
fn runtime_restarted(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    let mut dice = Dice::new(seed, 99);
    under(bed, rounds, seed, |round| {
        bed.stop(if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM });
        wait::pause(Duration::from_millis(dice.below(2000)));
        bed.start();
    })
}

/// A container ends while its runtime is frozen; craned is answered all the while.
fn runtime_frozen(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    let mut dice = Dice::new(seed, 98);
    let mut tally = Tally { injected: rounds, ..Tally::default() };
    for _ in 0..rounds {
        let job = Job::on(&bed.runtime);
        let Some(mut holder) = pod(&job) else { continue };
        let code = dice.below(256) as u32;
        let mut step = job.running(&format!("echo ready; sleep 1; exit {code}"));
        bed.signal(Signal::SIGSTOP);
        let frozen = Instant::now();
        let mut slowest = Duration::ZERO;
        while frozen.elapsed() < bed.frozen {
            let asked = Instant::now();
            let answered = step.client().check().is_ok();
            slowest = slowest.max(if answered { asked.elapsed() } else { Duration::MAX });
            wait::pause(Duration::from_millis(200));
        }
        bed.signal(Signal::SIGCONT);
        let told = last_report(&job, &mut step);
        tally.judge(code, told.as_ref(), || job.supervisor_log(1));
        if slowest > ANSWER {
            eprintln!("soak: CheckStatus took {slowest:?}");
            tally.wrong += 1;
        }
        let since = Instant::now();
        let _answered = holder.client().shut_down();
        let _ended = holder.exit_within(Duration::from_secs(30));
        tally.close(job, since);
    }
    tally
}

/// SIGKILL at any moment of a step's life: gone without a word, and nothing left.
fn supervisor_killed(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    let each = |worker: u32| {
        let mut dice = Dice::new(seed, worker);
        let mut tally = Tally::default();
        for _ in 0..rounds {
            let job = Job::on(&bed.runtime);
            let Some(holder) = pod(&job) else { continue };
            let mut step = job.spawn(1);
            step.send(&job.facts.container_step(1, &["sh", "-c", "sleep 0.2; exit 3"]));
            if step.ready(Duration::from_secs(30)) == Some(true) {
                let _answered = step.client().execute();
                wait::pause(Duration::from_millis(dice.below(600)));
            }
            step.kill9();
            let since = Instant::now();
            tally.injected += 1;
            tally.steps += 1;
            let told = job.craned.reports(1).iter().filter(|report| report.final_status.is_some()).count();
            if told <= 1 {
                tally.right += 1
            } else {
                tally.wrong += 1
            }
            job.end_pod(holder);
            tally.close(job, since);
        }
        tally
    };
    beside(WORKERS, each)
}

fn beside(workers: u32, each: impl Fn(u32) -> Tally + Sync) -> Tally {
    let each = &each;
    thread::scope(|scope| {
        let runs: Vec<_> = (0..workers).map(|worker| scope.spawn(move || each(worker))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).fold(Tally::default(), Tally::and)
    })
}

/// Nobody can undo anything until the runtime is back.
fn all_killed(bed: &Bed, rounds: u32, _: u64) -> Tally {
    let mut tally = Tally { injected: rounds, ..Tally::default() };
    for _ in 0..rounds {
        let job = Job::on(&bed.runtime);
        let mut holder = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        bed.stop(Signal::SIGKILL);
        step.kill9();
        holder.kill9();
        wait::pause(Duration::from_secs(2));
        bed.start();
        tally.steps += 1;
        tally.right += 1;
        tally.close(job, Instant::now());
    }
    tally
}

/// The end comes once in effect, whatever craned did meanwhile.
fn craned_away(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    let mut dice = Dice::new(seed, 97);
    let mut tally = Tally { injected: rounds, ..Tally::default() };
    for _ in 0..rounds {
        let job = Job::on(&bed.runtime);
        let Some(holder) = pod(&job) else { continue };
        let (script, code) = ending(&mut dice);
        thread::scope(|scope| {
            let told = scope.spawn(|| run(&job, 1, &script, |_| {}));
            wait::pause(Duration::from_millis(dice.below(400)));
            job.craned.stop();
            wait::pause(Duration::from_millis(3000));
            job.craned.answer(2, Answer::Unavailable);
            job.craned.answer(1, Answer::NotOk);
            job.craned.answer(1, Answer::Hang);
            job.craned.restart();
            let told = told.join().unwrap();
            tally.judge(code, told.as_ref(), || job.supervisor_log(1));
        });
        let since = Instant::now();
        job.end_pod(holder);
        tally.close(job, since);
    }
    tally
}

/// A file system of 1 MiB that fills up at some moment: the end is told, and nothing stays.
fn disk_full(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    let each = |worker: u32| {
        let mut dice = Dice::new(seed, worker);
        let mut tally = Tally::default();
        for _ in 0..rounds {
            let job = Job::on(&bed.runtime);
            let base = job.places().base.clone();
            mount(Some("full"), &base, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=0700")).expect("a tmpfs");
            fs::create_dir_all(&job.places().logs).expect("it is empty");
            if let Some(holder) = pod(&job) {
                let code = dice.below(256) as u32;
                thread::scope(|scope| {
                    let told = scope.spawn(|| run(&job, 1, &format!("sleep 0.5; exit {code}"), |_| {}));
                    wait::pause(Duration::from_millis(dice.below(900)));
                    let _full = fs::write(base.join("filler"), vec![0u8; 2 << 20]);
                    let told = told.join().unwrap();
                    // A step that cannot even be taken is refused by the handshake, which says so.
                    if told.is_none() && job.craned.reports(1).is_empty() {
                        tally.steps += 1;
                        tally.refused += 1;
                    } else {
                        tally.judge(code, told.as_ref(), || format!("{:?}", job.craned.reports(1)));
                    }
                });
                job.end_pod(holder);
            }
            tally.injected += 1;
            let since = Instant::now();
            let done = wait::until(Duration::from_secs(60), || {
                let dir = job.places().temp.join(job.id().to_string());
                (!dir.exists()).then_some(())
            });
            if done.is_none() {
                eprintln!("soak: left in {}: {:?}", base.display(), fs::read_dir(&job.places().temp));
            }
            umount2(&base, MntFlags::MNT_DETACH).expect("it was mounted");
            tally.close(job, since);
        }
        tally
    };
    beside(2, each)
}

/// Pods with a network of their own, whose plugin takes its time.
fn network_slow(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    bed.before_network("case $CNI_COMMAND in ADD | DEL) sleep 8 ;; esac");
    let each = |worker: u32| {
        let mut dice = Dice::new(seed, worker);
        let mut tally = Tally::default();
        for _ in 0..rounds.div_ceil(4) {
            let mut job = Job::on(&bed.runtime);
            job.facts.pod_network = true;
            tally.injected += 1;
            let Some(mut holder) = pod(&job) else {
                eprintln!("soak: no pod: {:?}", job.craned.reports(0));
                tally.steps += 1;
                tally.wrong += 1;
                continue;
            };
            let (script, code) = ending(&mut dice);
            let told = run(&job, 1, &script, |_| {});
            tally.judge(code, told.as_ref(), || job.supervisor_log(1));
            let since = Instant::now();
            let _answered = holder.client().shut_down();
            let in_time = holder.exit_within(Duration::from_secs(2)).is_some();
            if !in_time {
                eprintln!("soak: the pod step was still there when craned kills");
                tally.wrong += 1;
            }
            tally.close(job, since);
        }
        tally
    };
    beside(2, each)
}

/// Every call of the OCI runtime takes two seconds: ends are right, a cancel works.
fn oci_slow(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    bed.before_oci("case \" $* \" in *' create '* | *' start '* | *' kill '* | *' delete '*) sleep 2 ;; esac");
    let mut dice = Dice::new(seed, 96);
    let mut tally = Tally { injected: rounds.div_ceil(4), ..Tally::default() };
    for _ in 0..rounds.div_ceil(4) {
        let job = Job::on(&bed.runtime);
        let Some(mut holder) = pod(&job) else { continue };
        let (script, code) = ending(&mut dice);
        let told = run(&job, 1, &script, |_| {});
        tally.judge(code, told.as_ref(), || job.supervisor_log(1));
        let mut step = job.container_with(2, &["sh", "-c", "echo ready; exec sleep 300"], |_| {});
        step.execute();
        wait::until(Duration::from_secs(60), || job.runtime_log(2).ends_with(b"ready\n").then_some(()));
        step.terminate(TerminateSource::UserCancel);
        let cancelled = last_report(&job, &mut step);
        tally.steps += 1;
        let is_cancelled = |status: i32| status == crane_supervisor::wire::crane::JobStatus::Cancelled as i32;
        if cancelled.is_some_and(|report| report.final_status.is_some_and(is_cancelled)) {
            tally.right += 1;
        } else {
            tally.wrong += 1;
        }
        let since = Instant::now();
        let _answered = holder.client().shut_down();
        let _ended = holder.exit_within(Duration::from_secs(30));
        tally.close(job, since);
    }
    tally
}

/// Removals fail for some seconds and then work.
fn oci_fails(bed: &Bed, rounds: u32, seed: u64) -> Tally {
    let mut dice = Dice::new(seed, 95);
    let mut tally = Tally { injected: rounds.div_ceil(2), ..Tally::default() };
    for _ in 0..rounds.div_ceil(2) {
        let job = Job::on(&bed.runtime);
        let Some(mut holder) = pod(&job) else { continue };
        let (script, code) = ending(&mut dice);
        bed.before_oci("case \" $* \" in *' delete '*) exit 1 ;; esac");
        thread::scope(|scope| {
            let told = scope.spawn(|| run(&job, 1, &script, |_| {}));
            wait::pause(Duration::from_secs(5));
            bed.repair();
            let told = told.join().unwrap();
            tally.judge(code, told.as_ref(), || job.supervisor_log(1));
        });
        let since = Instant::now();
        let _answered = holder.client().shut_down();
        let _ended = holder.exit_within(Duration::from_secs(30));
        tally.close(job, since);
    }
    tally
}
