//! SIGKILL at every named point of the program (`crane_supervisor::failpoint`): nothing is
//! left, and craned is told of an end once at most.
//!
//! The points are not listed here: a clean run passes them and writes them down. Needs the
//! feature `failpoints`, which `scripts/test` switches on.

use crate::support::job::Job;
use crate::support::mounting::{Engine, is_long};
use crate::support::runtime::{Runtime, on_each};
use crate::support::supervisor::{Start, Supervisor};
use crate::support::user::TestUser;
use crate::support::{LONG, SOON, wait};
use crane_supervisor::wire::crane::JobStatus;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

/// Jobs at once: most of their time is a reaper's second look, 20 s after its first.
const AT_ONCE: usize = 20;
/// Fewer would mean that whole parts of the program have no point.
const LEAST: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Pod,
    Container,
}

impl Role {
    fn step(self) -> u32 {
        match self {
            Self::Pod => 0,
            Self::Container => 1,
        }
    }
}

/// A job with everything a step can acquire: where the runtime can, a user namespace and a bindfs.
fn job(runtime: &Runtime, user: &TestUser) -> Job {
    let engine = if has_userns(runtime) { Engine::Bindfs } else { Engine::Plain };
    let job = engine.job(runtime, user);
    let data = user.dir(&job.places().root.join("data"), 0o700);
    job.with_mount(&data, "/data")
}

fn has_userns(runtime: &Runtime) -> bool {
    std::env::var("CRANE_TEST_USERNS").unwrap_or_default().split(';').any(|name| name == runtime.name())
}

/// Takes one step through its life, however early it dies; the other lives well.
fn live(job: &Job, role: Role, env: (&str, &str)) {
    let started = |step: u32| {
        let mut start = Start::like_craned(&job.places().root, job.id(), step);
        start.env.push((env.0.to_owned(), env.1.to_owned()));
        start.spawn()
    };
    match role {
        Role::Pod => {
            let mut pod = started(0);
            pod.send(&job.facts.pod_step());
            if pod.ready(SOON).is_some() {
                wait::until(LONG, || {
                    let up = job.craned.statuses(0).contains(&JobStatus::Running);
                    (up || pod.exit_within(std::time::Duration::ZERO).is_some()).then_some(())
                });
                end(&mut pod);
            }
            over(job, &mut pod);
        }
        Role::Container => {
            let pod = job.pod();
            let mut step = started(1);
            step.send(&job.facts.container_step(1, &["sh", "-c", "echo hello; exit 3"]));
            if step.ready(SOON).is_some() {
                // A point may lie before the answer.
                let _answer = step.client().execute();
            }
            over(job, &mut step);
            job.end_pod(pod);
        }
    }
}

fn end(pod: &mut Supervisor) {
    let _answer = pod.client().shut_down();
}

/// Waits for the process' end, and for no second word about it.
fn over(job: &Job, supervisor: &mut Supervisor) {
    supervisor.wait_exit(LONG);
    let ends = job.craned.statuses(supervisor.step).into_iter().filter(|status| *status == JobStatus::Completing);
    assert!(ends.count() <= 1, "step {} told its end twice", supervisor.step);
}

/// The points a clean life passes, and how often.
fn survey(runtime: &Runtime, user: &TestUser, role: Role) -> BTreeMap<String, u32> {
    let job = job(runtime, user);
    let seen = job.places().root.join("seen");
    live(&job, role, ("CRANE_FAILPOINTS_SEEN", seen.to_str().unwrap()));
    assert_eq!(job.craned.statuses(role.step()).last(), Some(&JobStatus::Completing), "{role:?}");
    read(&seen)
}

fn read(seen: &Path) -> BTreeMap<String, u32> {
    let mut points = BTreeMap::new();
    for name in std::fs::read_to_string(seen).unwrap().lines() {
        *points.entry(name.to_owned()).or_insert(0) += 1;
    }
    points
}

/// Every passage in the long size; the first and the last in CI's.
fn turns(passages: u32) -> Vec<u32> {
    let mut turns: Vec<u32> = if is_long() { (1..=passages).collect() } else { vec![1, passages] };
    turns.dedup();
    turns
}

#[test]
fn a_kill_at_any_point_leaves_nothing_and_tells_no_end_twice() {
    on_each(|runtime| {
        let user = TestUser::new();
        let mut work = Vec::new();
        let mut names = 0;
        for role in [Role::Container, Role::Pod] {
            let mut points = survey(runtime, &user, role);
            if !is_long() && !has_userns(runtime) {
                // The program is the same; what differs is what a runtime makes of a call that is cut off.
                points.retain(|name, _| name.starts_with("during"));
            }
            names += points.len();
            let each =
                points.iter().flat_map(|(name, passages)| turns(*passages).into_iter().map(move |turn| (name, turn)));
            work.extend(each.map(|(name, turn)| (role, format!("{name}#{turn}"))));
        }
        assert!(names >= LEAST || !has_userns(runtime), "only {names} points");
        eprintln!("{}: {} kills at {names} points", runtime.name(), work.len());
        let work = Mutex::new(work);
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some((role, point)) = work.lock().ok().and_then(|mut work| work.pop()) {
                        let tell = Tell(role, point);
                        let job = job(runtime, &user);
                        live(&job, role, ("CRANE_FAILPOINT", &tell.1));
                        // The job's own check: nothing is left.
                    }
                });
            }
        });
    });
}

/// Says where it was that something was left.
struct Tell(Role, String);

impl Drop for Tell {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("killed at {:?} of the {:?} step", self.1, self.0);
        }
    }
}
