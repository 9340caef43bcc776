//! A user who exchanges a directory on a mount's path for a link while steps
//! start: no container may reach what the user cannot.

use crate::support::job::Job;
use crate::support::mounting::{Engine, is_long, on_each_engine};
use crate::support::user::{TestUser, own};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What must never get out, nor change.
const CANARY: &str = "root's own words";

/// Starts with each engine.
fn starts() -> u32 {
    if is_long() { 1000 } else { 20 }
}

/// A directory only root can enter. Inside, everything is open to whoever got past it.
fn closed(root: &Path) -> PathBuf {
    let closed = root.join("root-only");
    fs::create_dir_all(closed.join("data")).unwrap();
    for dir in [closed.clone(), closed.join("data")] {
        fs::write(dir.join("canary"), CANARY).unwrap();
        own(&dir.join("canary"), 0, 0, 0o666);
        own(&dir, 0, 0, 0o777);
    }
    own(&closed, 0, 0, 0o700)
}

#[track_caller]
fn untouched(closed: &Path) {
    for (dir, entries) in [(closed.to_owned(), 2), (closed.join("data"), 1)] {
        let canary = dir.join("canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), CANARY, "{}", canary.display());
        let meta = canary.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 0, 0o666), "{}", canary.display());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), entries, "nothing new in {}", dir.display());
    }
}

/// Exchanges the two names until told to stop; how often it did.
fn exchange(one: &Path, other: &Path, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("both names exist");
        count += 1;
        std::thread::yield_now();
    }
    count
}

/// Reads and changes whatever it finds.
const BURGLAR: &str = "cat /whole/canary /below/canary /one
(echo evil >>/whole/canary); (echo evil >>/below/canary); (echo evil >>/one)
touch /whole/new /below/new; chmod 777 /whole /below /one; echo ran; exit 0";

/// Starts step after step; how many ran.
fn start_steps(job: &Job, count: u32) -> u32 {
    let ran = Cell::new(0);
    let pod = job.pod();
    // By chance all may be refused: each of three sources is in its place half of the time.
    for number in (1..=10 * count).take_while(|number| *number <= count || ran.get() == 0) {
        let mut step = job.container_with(number, &["sh", "-c", BURGLAR], |_| {});
        step.execute();
        let report = job.ended(&mut step);
        let output = String::from_utf8_lossy(&job.runtime_log(number)).into_owned();
        assert!(!output.contains(CANARY), "start {number}: {output}");
        // Refused, or run with what the user may have; never a mount of half of it.
        assert!(report.exit_code == 323 || output.contains("ran"), "start {number}: {report:?}");
        ran.set(ran.get() + u32::from(output.contains("ran")));
    }
    job.end_pod(pod);
    ran.get()
}

#[test]
fn a_path_that_changes_under_our_hands_leads_nowhere_it_should_not() {
    on_each_engine(|runtime, engine: Engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let root = job.places().root.clone();
        let closed = closed(&root);
        let base = user.dir(&root.join("base"), 0o755);
        let real = user.dir(&base.join("x"), 0o755);
        user.dir(&real.join("data"), 0o755);
        for name in ["canary", "data/canary"] {
            user.file(&real.join(name), "the user's own\n", 0o644);
        }
        let link = base.join("link");
        std::os::unix::fs::symlink(&closed, &link).unwrap();
        // The last component, one on the way, and a file.
        let job = job
            .with_mount(&real, "/whole")
            .with_mount(real.join("data"), "/below")
            .with_mount(real.join("data/canary"), "/one");
        let stop = AtomicBool::new(false);
        let (ran, swaps) = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| exchange(&real, &link, &stop));
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| start_steps(&job, starts())));
            stop.store(true, Ordering::Relaxed);
            (ran, swapper.join().expect("the exchange does not fail"))
        });
        let ran = ran.unwrap_or_else(|why| std::panic::resume_unwind(why));
        untouched(&closed);
        assert!(ran > 0 && swaps > 100, "a proof of nothing: {ran} ran, {swaps} exchanges");
    });
}
