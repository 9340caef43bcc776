//! Mounts that cannot be: each its own words and craned's code 323, before a
//! container is made. A fake runtime shows what it was asked for.

use crate::support::fake_cri::{FakeCri, Method};
use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::user::{TestUser, own};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest};
use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

/// One job that tries mount after mount.
struct Tries {
    fake: Arc<FakeCri>,
    job: Job,
    step: u32,
    reasons: Vec<String>,
    // Last: it must be dropped after the job.
    user: TestUser,
}

impl Tries {
    fn new() -> Self {
        let fake = FakeCri::containerd();
        let user = TestUser::new();
        let job = Job::on_fake(&fake).of(&user);
        Self { fake, job, step: 0, reasons: Vec::new(), user }
    }

    fn root(&self) -> &Path {
        &self.job.places().root
    }

    fn attempt(&mut self, mounts: &[(&str, &str)]) -> StepStatusChangeRequest {
        self.step += 1;
        let mounts: HashMap<String, String> = mounts.iter().map(|&(host, at)| (host.into(), at.into())).collect();
        let edit = |init: &mut InitSupervisorRequest| init.container().mounts = mounts;
        let mut step = self.job.container_with(self.step, &["true"], edit);
        step.execute();
        self.job.ended(&mut step)
    }

    /// Refused for what `words` say, and no container was ever asked for.
    #[track_caller]
    fn refused(&mut self, mounts: &[(&str, &str)], words: &[&str]) {
        let report = self.attempt(mounts);
        assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323), "{mounts:?}: {report:?}");
        for word in words {
            assert!(report.reason.contains(word), "{mounts:?}: {word:?} is not in {:?}", report.reason);
        }
        assert!(!self.fake.methods().contains(&Method::CreateContainer), "{mounts:?}: a container was made");
        self.reasons.push(report.reason);
    }

    /// No two refusals say the same.
    fn all_different(&self) {
        let mut reasons = self.reasons.clone();
        reasons.sort();
        reasons.dedup();
        assert_eq!(reasons.len(), self.reasons.len(), "{:#?}", self.reasons);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn paths_that_cannot_be_mounted_are_refused_each_in_its_own_words() {
    let mut tries = Tries::new();
    let pod = tries.job.pod();
    let good = text(&tries.user.dir(&tries.root().join("good"), 0o755));
    let other = text(&tries.user.dir(&tries.root().join("other"), 0o755));
    let up = format!("{good}/../other");
    tries.refused(&[(&good, "data")], &["data", "not absolute"]);
    tries.refused(&[(&good, "")], &["not absolute"]);
    tries.refused(&[(&good, "/")], &["\"/\""]);
    tries.refused(&[(&good, "/data/../etc")], &["/data/../etc", ".."]);
    tries.refused(&[(&up, "/data")], &[&up, ".."]);
    tries.refused(&[("", "/data")], &["empty"]);
    tries.refused(&[(&good, "/data"), (&other, "/data/")], &[&good, &other, "/data"]);
    tries.all_different();
    tries.job.end_pod(pod);
}

#[test]
fn sources_the_user_cannot_have_are_refused_each_in_its_own_words() {
    let mut tries = Tries::new();
    let pod = tries.job.pod();
    let root = tries.root().to_owned();
    let path = |name: &str| root.join(name);
    let good = text(&tries.user.dir(&path("good"), 0o755));
    fs::create_dir_all(path("closed/inside")).unwrap();
    own(&path("closed/inside"), tries.user.uid, tries.user.gid, 0o700);
    own(&path("closed"), 0, 0, 0o700);
    fs::write(path("secret"), "").unwrap();
    own(&path("secret"), 0, 0, 0o600);
    tries.user.file(&path("file"), "", 0o644);
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let socket = UnixListener::bind(path("socket")).unwrap();
    let [missing, closed, inside, secret, file, fifo, sock] =
        ["missing", "closed", "closed/inside", "secret", "file", "fifo", "socket"].map(|name| text(&path(name)));
    tries.refused(&[(&missing, "/data"), (&good, "/good")], &[&missing, "nothing"]);
    tries.refused(&[(&closed, "/data"), (&good, "/good")], &[&closed, "may not read"]);
    tries.refused(&[(&secret, "/data")], &[&secret, "may not read"]);
    tries.refused(&[(&inside, "/data"), (&good, "/good")], &[&inside, "search"]);
    for below in [format!("{file}/x"), format!("{file}/")] {
        tries.refused(&[(&below, "/data")], &[&file, "a file is where a directory should be"]);
    }
    for odd in [&fifo, &sock, "/dev/null"] {
        tries.refused(&[(odd, "/data")], &[odd, "neither a directory nor a regular file"]);
    }
    let reached = text(&path("link"));
    std::os::unix::fs::symlink(path("closed/inside"), &reached).unwrap();
    tries.refused(&[(&reached, "/data")], &[&reached]);
    let ring = text(&path("ring"));
    std::os::unix::fs::symlink(&ring, &ring).unwrap();
    tries.refused(&[(&ring, "/data")], &[&ring]);
    tries.job.end_pod(pod);
    drop(socket);
}

#[test]
fn a_link_of_the_users_own_leads_to_what_the_user_may_have() {
    let mut tries = Tries::new();
    let pod = tries.job.pod();
    tries.user.dir(&tries.root().join("good"), 0o755);
    let link = tries.root().join("link");
    std::os::unix::fs::symlink("good", &link).unwrap();
    let report = tries.attempt(&[(&text(&link), "/data")]);
    assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
    tries.job.end_pod(pod);
}

#[test]
fn another_suffix_is_part_of_the_path() {
    let mut tries = Tries::new();
    let pod = tries.job.pod();
    let good = text(&tries.user.dir(&tries.root().join("good"), 0o755));
    let report = tries.attempt(&[(&good, "/data:zz")]);
    assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
    let created = tries.fake.requests::<crane_supervisor::cri::api::CreateContainerRequest>();
    let targets: Vec<_> = created[0].config.as_ref().unwrap().mounts.iter().map(|m| m.container_path.clone()).collect();
    assert!(targets.contains(&"/data:zz".to_owned()), "{targets:?}");
    tries.job.end_pod(pod);
}

#[test]
fn the_runtime_is_given_no_path_that_a_user_can_change() {
    let mut tries = Tries::new();
    let pod = tries.job.pod();
    let good = text(&tries.user.dir(&tries.root().join("good"), 0o755));
    tries.attempt(&[(&good, "/data")]);
    let created = tries.fake.requests::<crane_supervisor::cri::api::CreateContainerRequest>();
    let mount = created[0].config.as_ref().unwrap().mounts.iter().find(|m| m.container_path == "/data").unwrap();
    assert!(Path::new(&mount.host_path).starts_with(&tries.job.places().temp), "{}", mount.host_path);
    tries.job.end_pod(pod);
}
