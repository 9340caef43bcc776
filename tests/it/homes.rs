//! The user's directory at its worst: moved, removed, exchanged for links, closed to root.
//! The copy of the output goes where it may, and the job's outcome stays what it was.

use crate::support::job::{Job, NOBODY};
use crate::support::runtime::on_each;
use crate::support::user::own;
use crate::support::{LONG, wait};
use crane_supervisor::wire::crane::JobStatus;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Says it is there, gives the test time to do its worst, and prints what is to arrive.
const SCRIPT: &str = "echo ready; sleep 1; seq 1 5000";

fn wanted() -> String {
    (1..=5000).fold("ready\n".to_owned(), |all, number| format!("{all}{number}\n"))
}

/// The container's stdout in the raw log at `path`.
fn text(path: &Path) -> String {
    let log = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    String::from_utf8_lossy(&crate::support::output::written(&log, "stdout")).into_owned()
}

#[test]
fn a_directory_that_is_moved_still_gets_all_of_the_output() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running(SCRIPT);
        let file = job.user_log_path(1);
        wait::holds("the copy has begun", LONG, || file.exists());
        let (home, aside) = (&job.places().cwd, job.places().root.join("moved"));
        fs::rename(file.parent().unwrap(), home.join("renamed.out")).unwrap();
        fs::rename(home, &aside).unwrap();
        let report = job.ended(&mut step);
        assert_eq!((report.exit_code, report.reason.as_str()), (0, ""));
        assert!(text(&aside.join("renamed.out").join(file.file_name().unwrap())) == wanted(), "lines differ");
        job.end_pod(pod);
    });
}

#[test]
fn a_directory_that_is_removed_changes_no_outcome() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running(SCRIPT);
        wait::holds("the copy has begun", LONG, || job.user_log_path(1).exists());
        fs::remove_dir_all(&job.places().cwd).unwrap();
        let report = job.ended(&mut step);
        assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0));
        assert!(job.output_so_far(1) == wanted(), "the node's log is not whole");
        assert!(!job.places().cwd.exists(), "made anew");
        job.end_pod(pod);
    });
}

/// A file system of the user's own: nobody else may look into it, root least of all.
struct Closed {
    bindfs: Child,
    at: PathBuf,
}

impl Closed {
    fn mount(behind: &Path, at: &Path) -> Self {
        let user = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        // The mount is the real ids'; the effective ones may open /dev/fuse everywhere.
        command.args(["--ruid", &user, "--rgid", &user, "--clear-groups", "bindfs", "-f", "--no-allow-other"]);
        let bindfs = command.arg(behind).arg(at).stdin(Stdio::null()).spawn().unwrap();
        let closed = Self { bindfs, at: at.to_owned() };
        wait::holds("root is refused", LONG, || fs::read_dir(at).is_err());
        closed
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
        let _ = self.bindfs.kill();
        let _ = self.bindfs.wait();
    }
}

#[test]
fn a_file_system_that_refuses_root_costs_the_copy_and_is_said() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let behind = own_dir(&job.places().root.join("behind"));
        let closed = Closed::mount(&behind, &job.places().cwd);
        let report = job.run(SCRIPT);
        drop(closed);
        assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0));
        let (reason, bytes) = (&report.reason, job.runtime_log(1).len());
        assert!(reason.contains("Permission denied"), "{reason}");
        assert!(reason.ends_with(&format!("{bytes} bytes of output were not copied")), "{reason}");
        assert_eq!(job.record(1).output.unwrap().dropped_bytes, bytes as u64);
        assert!(job.output_so_far(1) == wanted(), "the node's log is not whole");
    });
}

fn own_dir(path: &Path) -> PathBuf {
    fs::create_dir(path).unwrap();
    own(path, NOBODY, NOBODY, 0o700)
}

/// Exchanges the two names until told to stop, where both are there; how often it did.
fn exchange(one: &Path, other: &Path, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += u64::from(renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).is_ok());
        std::thread::yield_now();
    }
    count
}

#[test]
fn names_that_change_under_our_hands_never_lead_to_roots_files() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let home = job.places().cwd.clone();
        // Everything in it is open to whoever gets past its door.
        let closed = job.places().root.join("root-only");
        fs::create_dir(&closed).unwrap();
        let canary = closed.join("canary");
        fs::write(&canary, "root's own words").unwrap();
        own(&canary, 0, 0, 0o666);
        own(&closed, 0, 0, 0o700);
        let out = own_dir(&home.join(format!("{}.out", job.id())));
        symlink(&closed, home.join("link")).unwrap();
        for number in [2, 3, 5, 8] {
            symlink(&canary, job.user_log_path(number)).unwrap();
        }
        let pod = job.pod();
        let stop = AtomicBool::new(false);
        let swaps = std::thread::scope(|scope| {
            let dirs = scope.spawn(|| exchange(&out, &home.join("link"), &stop));
            let steps = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for number in 1..=8 {
                    let mut step = job.container_with(number, &["echo", "hello"], |_| {});
                    step.execute();
                    let report = job.ended(&mut step);
                    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0), "{report:?}");
                }
            }));
            stop.store(true, Ordering::Relaxed);
            let swaps = dirs.join().unwrap();
            steps.unwrap_or_else(|why| std::panic::resume_unwind(why));
            swaps
        });
        job.end_pod(pod);
        let meta = canary.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 0, 0o666));
        assert_eq!(fs::read_to_string(&canary).unwrap(), "root's own words");
        assert_eq!(fs::read_dir(&closed).unwrap().count(), 1, "something new beside it");
        assert!(swaps > 100, "a proof of nothing: {swaps} exchanges");
    });
}
