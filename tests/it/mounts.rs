//! Host directories and files in containers of real runtimes: whose they are,
//! what they can do, and that nothing of them stays.

use crate::support::mounting::{Engine, new_bindfs, on_each_engine, on_each_mapped};
use crate::support::runtime::{Runtime, on_each_with_userns};
use crate::support::user::{TestUser, own};
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[track_caller]
fn completed(report: &StepStatusChangeRequest) {
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0), "{report:?}");
}

#[track_caller]
fn belongs(path: &Path, uid: u32, gid: u32) {
    let meta = path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!((meta.uid(), meta.gid()), (uid, gid), "owner of {}", path.display());
}

/// What programs do with files, and how it looks inside.
const WORK: &str = "set -e
cat /data/before
echo inside >/data/new
mkdir /data/dir
echo x >/data/dir/in
ln -s new /data/link
ln /data/new /data/second
mv /data/dir/in /data/dir/moved
rm /data/gone
chmod 640 /data/new
touch -t 200109090146.40 /data/new
echo more >>/data/before
stat -c '%u %g %a' /data/new /data/before /data";

fn work(runtime: &Runtime, engine: Engine) {
    let user = TestUser::new();
    let job = engine.job(runtime, &user);
    let data = user.dir(&job.places().root.join("data"), 0o700);
    let before = user.file(&data.join("before"), "of the host\n", 0o600);
    let gone = user.file(&data.join("gone"), "", 0o600);
    let job = job.with_mount(&data, "/data");
    completed(&job.run(WORK));
    let (uid, gid) = engine.inside(&user);
    let expected = format!("of the host\n{uid} {gid} 640\n{uid} {gid} 600\n{uid} {gid} 700\n");
    assert_eq!(job.output(1, "stdout"), expected, "stderr: {}", job.output(1, "stderr"));
    for name in ["new", "dir", "dir/moved", "link", "second", "before"] {
        belongs(&data.join(name), user.uid, user.gid);
    }
    let new = fs::metadata(data.join("new")).unwrap();
    assert_eq!((new.permissions().mode() & 0o7777, new.mtime()), (0o640, 1_000_000_000));
    assert_eq!(fs::read_to_string(data.join("link")).unwrap(), "inside\n");
    assert_eq!(fs::read_to_string(before).unwrap(), "of the host\nmore\n");
    assert!(!gone.exists(), "removed inside");
}

#[test]
fn what_a_container_makes_in_a_directory_belongs_to_the_jobs_user() {
    on_each_engine(work);
}

#[test]
fn a_newer_bindfs_does_the_same() {
    match new_bindfs() {
        Some(_) => on_each_with_userns(|runtime| work(runtime, Engine::NewBindfs)),
        None => eprintln!("SKIPPED: a_newer_bindfs_does_the_same: CRANE_TEST_BINDFS_NEW names none"),
    }
}

#[test]
fn one_file_can_be_mounted_alone() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let dir = user.dir(&job.places().root.join("data"), 0o700);
        let file = user.file(&dir.join("file"), "one\n", 0o600);
        user.file(&dir.join("beside"), "not asked for\n", 0o600);
        let job = job.with_mount(&file, "/etc/some.conf");
        let report =
            job.run("cat /etc/some.conf; echo two >>/etc/some.conf; stat -c '%u %g %F' /etc/some.conf; ls /etc");
        completed(&report);
        let (uid, gid) = engine.inside(&user);
        let output = job.output(1, "stdout");
        assert!(output.starts_with(&format!("one\n{uid} {gid} regular file\n")), "{output}");
        assert!(!output.contains("beside"), "{output}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntwo\n");
        belongs(&file, user.uid, user.gid);
    });
}

/// Each line must fail because the file system is read-only.
const TRY_TO_WRITE: &str = "cat /ro/file /one
touch /ro/new; mkdir /ro/dir; rm /ro/file; chmod 777 /ro/file
(echo x >>/ro/file); (echo x >>/one); chmod 777 /one
mount -o remount,rw /ro; (echo x >>/ro/file)
exit 0";

#[test]
fn read_only_is_read_only() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let dir = user.dir(&job.places().root.join("data"), 0o755);
        let file = user.file(&dir.join("file"), "in\n", 0o644);
        let one = user.file(&job.places().root.join("one"), "one\n", 0o644);
        let job = job.with_mount(&dir, "/ro:ro").with_mount(&one, "/one:ro");
        completed(&job.run(TRY_TO_WRITE));
        assert_eq!(job.output(1, "stdout"), "in\none\n");
        let refused = job.output(1, "stderr");
        assert_eq!(refused.matches("Read-only file system").count(), 8, "{refused}");
        assert_eq!(
            (fs::read_to_string(file).unwrap(), fs::read_to_string(one).unwrap()),
            ("in\n".into(), "one\n".into())
        );
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
    });
}

#[test]
fn rw_may_be_said_and_a_relative_source_is_below_the_working_directory() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let dir = user.dir(&job.places().cwd.join("in"), 0o755);
        let job = job.with_mount("in", "/data:rw");
        completed(&job.run("echo x >/data/new"));
        belongs(&dir.join("new"), user.uid, user.gid);
    });
}

#[test]
fn mounts_carry_neither_setuid_programs_nor_devices() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let dir = user.dir(&job.places().root.join("data"), 0o755);
        let one = user.file(&job.places().root.join("one"), "", 0o644);
        let read = user.dir(&job.places().root.join("read"), 0o755);
        let job = job.with_mount(&dir, "/data").with_mount(&one, "/one").with_mount(&read, "/read:ro");
        completed(&job.run("cat /proc/self/mountinfo"));
        let table = job.output(1, "stdout");
        for target in ["/data", "/one", "/read"] {
            let line = table.lines().find(|line| line.split(' ').nth(4) == Some(target)).expect(target);
            let options: Vec<_> = line.split(' ').nth(5).unwrap_or_default().split(',').collect();
            assert!(options.contains(&"nosuid") && options.contains(&"nodev"), "{line}");
        }
    });
}

#[test]
fn a_directory_inside_another_is_mounted_over_it() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let outer = user.dir(&job.places().root.join("outer"), 0o755);
        user.dir(&outer.join("inner"), 0o755);
        let inner = user.dir(&job.places().root.join("a-inner"), 0o755);
        user.file(&inner.join("here"), "", 0o644);
        let job = job.with_mount(&outer, "/data").with_mount(&inner, "/data/inner");
        completed(&job.run("ls /data/inner; touch /data/inner/new"));
        assert_eq!(job.output(1, "stdout"), "here\n");
        belongs(&inner.join("new"), user.uid, user.gid);
    });
}

/// A directory that a group shares, with a file of its owner.
fn shared(path: PathBuf, uid: u32, group: u32) -> PathBuf {
    fs::create_dir(&path).unwrap();
    fs::write(path.join("theirs"), "of the group\n").unwrap();
    own(&path.join("theirs"), uid, group, 0o660);
    own(&path, uid, group, 0o2770)
}

const SHARE: &str = "cat /data/theirs && echo more >>/data/theirs && echo x >/data/new && mkdir /data/dir";

#[test]
fn the_users_directory_for_a_second_group_stays_the_groups() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new().with_group();
        let group = user.group.unwrap();
        let job = engine.job(runtime, &user);
        let dir = shared(job.places().root.join("shared"), user.uid, group);
        let job = job.with_mount(&dir, "/data");
        let report = job.run(SHARE);
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}: {}", job.output(1, "stderr"));
        for name in ["theirs", "new", "dir"] {
            belongs(&dir.join(name), user.uid, group);
        }
    });
}

#[test]
fn anothers_directory_of_a_second_group_is_open_to_the_container() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new().with_group();
        let group = user.group.unwrap();
        let job = engine.job(runtime, &user);
        let dir = shared(job.places().root.join("shared"), 0, group);
        let job = job.with_mount(&dir, "/data");
        let report = job.run(SHARE);
        let (output, errors) = (job.output(1, "stdout"), job.output(1, "stderr"));
        assert!(output.ends_with("of the group\n"), "{output}{errors}");
        belongs(&dir.join("theirs"), 0, group);
        if engine == Engine::Idmapped {
            // The kernel writes to no inode whose owner has no id in the mapping.
            assert_ne!(report.exit_code, 0, "{report:?}");
            assert!(errors.contains("Permission denied"), "{errors}");
            return;
        }
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}: {errors}");
        assert_eq!(fs::read_to_string(dir.join("theirs")).unwrap(), "of the group\nmore\n");
        belongs(&dir.join("new"), user.uid, group);
        belongs(&dir.join("dir"), user.uid, group);
    });
}

#[test]
fn whoever_runs_in_the_container_is_the_jobs_user_outside() {
    on_each_mapped(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let dir = user.dir(&job.places().root.join("data"), 0o777);
        let mut job = job.with_mount(&dir, "/data");
        job.facts.run_as = Some((7, 7));
        completed(&job.run("id -u; echo x >/data/new; stat -c '%u %g' /data/new"));
        assert_eq!(job.output(1, "stdout"), "7\n7 7\n", "{}", job.output(1, "stderr"));
        belongs(&dir.join("new"), user.uid, user.gid);
    });
}

#[test]
fn two_steps_mount_the_same_source_at_once() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let dir = user.dir(&job.places().root.join("data"), 0o700);
        let job = job.with_mount(&dir, "/data");
        let pod = job.pod();
        let wait =
            |own: &str, other: &str| format!("touch /data/{own}; until [ -e /data/{other} ]; do sleep 0.05; done");
        let mut first = job.container_with(1, &["sh", "-c", &wait("a", "b")], |_| {});
        first.execute();
        let mut second = job.container_with(2, &["sh", "-c", &wait("b", "a")], |_| {});
        second.execute();
        completed(&job.ended(&mut first));
        completed(&job.ended(&mut second));
        job.end_pod(pod);
    });
}
