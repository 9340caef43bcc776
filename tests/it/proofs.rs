//! Ways that gave a container's root the files of others, and must not: owners
//! shifted by an offset, owners given away, ids outside the range, setuid
//! programs in images.

use crate::support::LONG;
use crate::support::job::Job;
use crate::support::mounting::{on_each_engine, on_each_mapped, tree};
use crate::support::runtime::{on_each, on_each_with_userns};
use crate::support::user::{RANGE, TestUser, own};
use crane_supervisor::wire::crane::JobStatus;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What nobody but its owner may ever see.
const CANARY: &str = "not for you";

/// A directory of `user` with things of others in it.
fn with_things_of_others(dir: &Path, user: &TestUser, others: &[(&str, u32, u32)]) {
    user.dir(dir, 0o777);
    for (name, uid, gid) in others {
        let closed = dir.join(name);
        fs::create_dir(&closed).unwrap();
        for file in [dir.join(format!("{name}.file")), closed.join("file")] {
            fs::write(&file, CANARY).unwrap();
            own(&file, *uid, *gid, 0o600);
        }
        own(&closed, *uid, *gid, 0o700);
    }
}

/// All of it is as it was.
#[track_caller]
fn untouched(dir: &Path, others: &[(&str, u32, u32)]) {
    for (name, uid, gid) in others {
        for (path, mode) in [(dir.join(name), 0o700), (dir.join(format!("{name}.file")), 0o600)] {
            let meta = path.symlink_metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (*uid, *gid, mode), "{}", path.display());
        }
        for file in [dir.join(format!("{name}.file")), dir.join(name).join("file")] {
            assert_eq!(fs::read_to_string(&file).unwrap(), CANARY, "{}", file.display());
        }
        assert_eq!(fs::read_dir(dir.join(name)).unwrap().count(), 1, "nothing new in {name}");
    }
}

/// Tries everything with what is not the user's.
const BURGLAR: &str = "cd /data
for f in *.file */file; do cat $f; (echo evil >>$f); (: >$f); chmod 666 $f; chown 0:0 $f; dd if=$f; done
for d in other root next; do ls $d; cat $d/file; touch $d/new; chmod 777 $d; chown 0:0 $d; rm $d/file; done
exit 0";

#[test]
fn files_of_others_in_a_mounted_directory_are_out_of_reach() {
    on_each_engine(|runtime, engine| {
        let (user, other) = (TestUser::new(), TestUser::new());
        // The uid after the user's, too: an offset maps neighbours.
        let others = [("other", other.uid, other.gid), ("root", 0, 0), ("next", user.uid + 1, user.gid + 1)];
        let job = engine.job(runtime, &user);
        let dir = job.places().root.join("data");
        with_things_of_others(&dir, &user, &others);
        let job = job.with_mount(&dir, "/data");
        let report = job.run(BURGLAR);
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
        assert!(!job.output(1, "stdout").contains(CANARY), "{}", job.output(1, "stdout"));
        untouched(&dir, &others);
    });
}

#[test]
fn a_link_that_takes_a_directorys_place_leads_to_no_other_files_of_the_user() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let root = job.places().root.clone();
        let (outer, private) = (user.dir(&root.join("outer"), 0o755), user.dir(&root.join("private"), 0o700));
        let inner = user.dir(&outer.join("inner"), 0o755);
        let secret = user.file(&private.join("secret"), CANARY, 0o600);
        let job = job.with_mount(&outer, "/outer").with_mount(&inner, "/inner");
        // What /inner has looked up is still a directory to the kernel when /outer makes it a link.
        let report = job.run(&format!(
            "cd /outer/inner && mkdir a && echo mine >a/secret && cat /inner/a/secret && mv a b && ln -s {} a
            cat /inner/a/secret; echo evil >>/inner/a/secret; exit 0",
            private.display()
        ));
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
        let output = job.output(1, "stdout");
        assert!(output.contains("mine") && !output.contains(CANARY), "{output}");
        assert_eq!(fs::read_to_string(secret).unwrap(), CANARY);
    });
}

/// Tries to make files of other owners, and devices.
const FORGER: &str = "cd /data
cp /usr/bin/as-root su; chown 5:5 su; chmod 4755 su; chown 5 su; chgrp 5 su; chown 0:0 su
mkdir d; chown 5:5 d; chmod 2777 d; touch d/in; chmod 6777 su
ln -s su l; chown -h 5:5 l
mknod null c 1 3; mknod disk b 8 0; mknod -m 666 tty c 5 0
exit 0";

#[test]
fn no_file_gets_another_owner_and_no_device_is_made() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let dir = user.dir(&job.places().root.join("data"), 0o755);
        let job = job.with_mount(&dir, "/data");
        let report = job.run(FORGER);
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
        assert!(dir.join("su").exists(), "{}", job.output(1, "stderr"));
        for path in tree(&dir) {
            let meta = path.symlink_metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid()), (user.uid, user.gid), "{}", path.display());
            let kind = meta.file_type();
            assert!(kind.is_file() || kind.is_dir() || kind.is_symlink(), "{}: {kind:?}", path.display());
        }
    });
}

/// Ids that offsets would carry to root, to the user, or past the end.
fn ids_outside(start: u32, uid: u32) -> [u32; 5] {
    let to = |target: u32| target.wrapping_sub(start);
    [RANGE, to(0), to(uid), to(uid + 1), u32::MAX]
}

#[test]
fn ids_outside_the_range_are_refused() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let users = ids_outside(user.subuids, user.uid).map(|id| (id, 0));
        let groups = ids_outside(user.subgids, user.gid).map(|id| (0, id));
        for run_as in users.into_iter().chain(groups) {
            let mut job = Job::on(runtime).of(&user).with_userns();
            job.facts.run_as = Some(run_as);
            let pod = job.start(&job.facts.pod_step());
            let report = job.craned.wait_for(0, JobStatus::Failed, LONG);
            let id = if run_as.0 == 0 { run_as.1 } else { run_as.0 };
            assert!(report.reason.contains(&id.to_string()), "{run_as:?}: {report:?}");
            let mut step = job.container(&["sh", "-c", "echo ran"]);
            step.execute();
            assert_eq!(job.ended(&mut step).final_status(), JobStatus::Failed, "{run_as:?}");
            assert!(job.runtime_log(1).is_empty(), "{run_as:?} ran");
            job.end_pod(pod);
        }
    });
}

#[test]
fn an_id_inside_the_range_reaches_nothing_of_roots() {
    on_each_mapped(|runtime, engine| {
        let user = TestUser::new();
        let others = [("root", 0, 0), ("shifted", user.subuids, user.subgids)];
        for id in [1, user.uid, RANGE - 1] {
            let mut job = engine.job(runtime, &user);
            job.facts.run_as = Some((id, id));
            let dir = job.places().root.join("data");
            with_things_of_others(&dir, &user, &others);
            let job = job.with_mount(&dir, "/data");
            let report = job.run(BURGLAR);
            assert_eq!(report.final_status(), JobStatus::Completed, "as {id}: {report:?}");
            assert!(!job.output(1, "stdout").contains(CANARY), "as {id}: {}", job.output(1, "stdout"));
            untouched(&dir, &others);
        }
    });
}

/// Who it is, what a setuid program makes of it, and the kernel's word.
const CLIMB: &str = "id -u; as-root /root-only/file; su -c id root </dev/null
grep -E '^(NoNewPrivs|CapEff|CapPrm|CapBnd|CapAmb)' /proc/self/status; exit 0";

#[test]
fn a_setuid_program_of_the_image_makes_nobody_root() {
    on_each(|runtime| {
        let user = TestUser::new();
        let job = Job::on(runtime).of(&user);
        let dir = user.dir(&job.places().root.join("data"), 0o755);
        fs::write(dir.join("file"), CANARY).unwrap();
        own(&dir.join("file"), 0, 0, 0o600);
        let job = job.with_mount(&dir, "/root-only");
        job.run(CLIMB);
        let output = job.output(1, "stdout");
        assert!(output.starts_with(&format!("{0}\n{0} {0}\n", user.uid)), "{output}");
        assert!(!output.contains(CANARY) && !output.contains("uid=0"), "{output}");
        assert!(output.contains("NoNewPrivs:\t1"), "{output}");
        let sets = output.lines().filter(|line| line.starts_with("Cap"));
        assert!(sets.clone().count() == 4 && sets.clone().all(|line| line.ends_with("\t0000000000000000")), "{output}");
    });
}

#[test]
fn a_setuid_program_makes_nobody_root_of_a_user_namespace_either() {
    on_each_mapped(|runtime, engine| {
        let user = TestUser::new();
        let mut job = engine.job(runtime, &user);
        job.facts.run_as = Some((1000, 1000));
        job.run("as-root; grep NoNewPrivs /proc/self/status");
        assert_eq!(job.output(1, "stdout"), "1000 1000\nNoNewPrivs:\t1\n");
    });
}

#[test]
fn a_job_of_root_gets_no_mounts_in_a_user_namespace() {
    let job = Job::without_runtime().of_user(0).with_userns();
    let job = job.with_mount("/", "/data");
    let mut step = job.container(&["true"]);
    step.execute();
    let report = job.ended(&mut step);
    assert_eq!(report.final_status(), JobStatus::Failed, "{report:?}");
    assert!(report.reason.contains("root"), "{report:?}");
}
