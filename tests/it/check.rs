//! `check` on real runtimes and on nodes with something wrong.

use crate::support::fake_cri::{FakeCri, Fault, Flavour, Method};
use crate::support::job::Job;
use crate::support::node::{ConfiguredNode, Said};
use crate::support::runtime::{on_each, on_each_with_userns, on_each_without_userns};
use crate::support::user::TestUser;
use crate::support::{LONG, wait};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Level, what was found and the remedy of each line about `check`.
fn lines(said: &Said, check: &str) -> Vec<(String, String)> {
    let line = |line: &str| -> Value { serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")) };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = said.out.lines().map(line).filter(|line| line["check"] == check);
    all.map(|line| (text(&line["level"]), format!("{}; {}", text(&line["found"]), text(&line["remedy"])))).collect()
}

#[track_caller]
fn has(said: &Said, check: &str, level: &str, words: &str) {
    let found = lines(said, check);
    let fits = |(is, text): &(String, String)| is == level && text.contains(words);
    assert!(found.iter().any(fits), "no {level} of {check} with {words:?}: {found:?}\n{}", said.err);
}

#[test]
fn a_node_that_is_well_has_no_failure_and_runs_a_container() {
    on_each(|runtime| {
        let servers =
            "  TempDir: ROOT/t\n  Dns: {Servers: [192.0.2.1]}\n  BindFs: {Enabled: true, MountBaseDir: ROOT/m}\n";
        let node = ConfiguredNode::on(runtime, servers);
        let image = format!("--run={}", runtime.image());
        let said = node.call("check", &["--json", &image, "--path", "/"]);
        assert_eq!((said.code, &*said.err), (Some(0), ""), "{}", said.out);
        has(&said, "runtime", "ok", "containerd ");
        has(&said, "network", "ok", "NetworkReady");
        has(&said, "cgroup driver", "ok", "cgroupfs");
        has(&said, "sandbox image", "ok", "localhost/pause:1");
        has(&said, "bindfs", "ok", "bindfs 1.");
        has(&said, "bindfs", "ok", "fusermount3 version");
        has(&said, "fuse", "ok", "/dev/fuse");
        has(&said, "id-mapped mounts", "ok", "maps ids");
        has(&said, "MountBaseDir", "ok", "is made when needed");
        has(&said, "disk", "ok", "left at");
        has(&said, "run", "ok", "ran in");
        assert!(!said.out.contains("\"fail\""), "{}", said.out);
        // Nothing of the trial, and nothing else.
        let left: Vec<_> = fs::read_dir(node.0.join("t")).into_iter().flatten().collect();
        assert!(left.is_empty() && !node.0.join("m").exists(), "{left:?}");
        let quiet = node.call("check", &["--quiet"]);
        assert!(quiet.out.lines().all(|line| line.starts_with("WARN ")) && quiet.err.is_empty(), "{}", quiet.out);
        let all = node.call("check", &[]);
        assert!(all.out.lines().any(|line| line.starts_with("OK   runtime: ")), "{}", all.out);
        assert!(all.err.contains("0 FAIL, "), "{}", all.err);
    });
}

#[test]
fn user_namespaces_are_promised_where_they_are() {
    let wanted = "  UserNsEnabledByDefault: true\n";
    on_each_with_userns(|runtime| {
        let said = ConfiguredNode::on(runtime, wanted).call("check", &["--json"]);
        assert_eq!(said.code, Some(0), "{}", said.out);
        has(&said, "userns", "ok", "can have user namespaces");
    });
    on_each_without_userns(|runtime| {
        let said = ConfiguredNode::on(runtime, wanted).call("check", &["--json"]);
        assert_eq!(said.code, Some(1), "{}", said.out);
        has(&said, "userns", "fail", "UserNsEnabledByDefault");
        has(&ConfiguredNode::on(runtime, "").call("check", &["--json"]), "userns", "warn", "containerd 1.7");
    });
}

#[test]
fn a_trial_that_fails_says_why() {
    on_each(|runtime| {
        let node = ConfiguredNode::on(runtime, "");
        let said = node.call("check", &["--json", "--run=localhost:1/no/such:1"]);
        assert_eq!(said.code, Some(1), "{}", said.out);
        has(&said, "run", "fail", "localhost:1/no/such:1");
        has(&said, "run", "fail", "crane-supervisor run -C");
        let kept = fs::read_dir(node.0.join("crane/supervisor")).unwrap().count();
        assert!(kept > 0, "its logs are gone");
        has(&said, "run", "fail", &node.0.join("crane/supervisor").display().to_string());
    });
}

#[test]
fn what_is_wrong_in_the_configuration_does_not_hide_the_rest() {
    for (config, level, words) in [
        ("Container: {RuntimeEndpoint: /none.sock}\n", "fail", "container feature not enabled; set Container: Enabled"),
        ("Container: {Enabled: true}\n", "fail", "RuntimeEndpoint is not configured."),
        ("Container: {Enabled: true, RuntimeEndpoint: x.sock}\n", "fail", "unix:///run/containerd/containerd.sock"),
        ("Container:\n  Enabled: perhaps\n", "fail", "line 2, column 12 (Enabled)"),
        ("Container:\n  Enabeld: true\n", "warn", "line 2: Container.Enabeld is not a key we know"),
        ("Container: {Enabled: true}\n", "warn", "TempDir"),
    ] {
        let said = ConfiguredNode::with(config).call("check", &["--json"]);
        assert_eq!(said.code, Some(1), "{config}{}", said.out);
        has(&said, "config", level, words);
        has(&said, "kernel", "ok", "Linux ");
        has(&said, "bindfs", "ok", "bindfs 1.");
    }
    let missing = ConfiguredNode::with("").call("check", &["--json", "-C", "/no/such.yaml"]);
    assert_eq!(missing.code, Some(2), "-C twice is a mistake: {}", missing.err);
}

#[test]
fn a_configuration_that_others_can_write_is_named() {
    let node = ConfiguredNode::with("Container: {Enabled: true}\n");
    fs::set_permissions(node.0.join("config.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    has(
        &node.call("check", &["--json"]),
        "config",
        "warn",
        "mode 0666: what it says of Supervisor: Container: is not obeyed",
    );
}

#[test]
fn programs_devices_and_directories_are_named_with_what_to_do() {
    let config = "CraneBaseDir: ROOT\nSupervisor: {Container: {ProcessSupervisor: ROOT/none}}\n\
        Container:\n  Enabled: true\n  RuntimeEndpoint: ROOT/none.sock\n  TempDir: ROOT/t\n  \
        BindFs: {Enabled: true, BindfsBinary: ROOT/no-bindfs, MountBaseDir: ROOT/m}\n";
    let node = ConfiguredNode::with(config);
    fs::create_dir(node.0.join("m")).unwrap();
    fs::set_permissions(node.0.join("m"), fs::Permissions::from_mode(0o777)).unwrap();
    symlink("/tmp", node.0.join("t")).unwrap();
    let said = node.call("check", &["--json", "--path", "/proc", "--path", "/no/such"]);
    assert_eq!(said.code, Some(1));
    has(&said, "supervisor", "warn", "is not this program");
    has(&said, "supervisor", "warn", "none is no program");
    has(&said, "bindfs", "fail", "apt install bindfs");
    has(&said, "MountBaseDir", "warn", "mode 0777");
    has(&said, "TempDir", "warn", "is a symbolic link");
    has(&said, "id-mapped mounts", "warn", "the file system of /proc maps no ids; jobs with a user namespace");
    has(&said, "id-mapped mounts", "warn", "/no/such is not there");
    has(&said, "runtime", "fail", "Failed to get CRI version: ");
    let off = ConfiguredNode::with(&config.replace("BindFs: {Enabled: true", "BindFs: {Enabled: false"));
    has(&off.call("check", &["--json"]), "bindfs", "warn", "BindFs is off");
}

#[test]
fn a_runtime_that_hangs_or_is_none_costs_seconds() {
    let node = ConfiguredNode::with("Container: {Enabled: true, RuntimeEndpoint: ROOT/hang.sock}\n");
    let _hangs = UnixListener::bind(node.0.join("hang.sock")).unwrap();
    let begun = Instant::now();
    let said = node.call("check", &["--json"]);
    assert_eq!(said.code, Some(1));
    has(&said, "runtime", "fail", "no answer within 10 s");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}

#[test]
fn a_file_system_that_hangs_costs_seconds() {
    let node = ConfiguredNode::with(
        "Supervisor: {Path: ROOT/hangs/supervisor}\n\
         Container: {Enabled: true, RuntimeEndpoint: ROOT/none.sock, BindFs: {Enabled: true, MountBaseDir: ROOT/hangs/m}}\n",
    );
    let [well, hangs] = ["well", "hangs"].map(|name| node.0.join(name));
    [&well, &hangs].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let device = |dir: &Path| fs::metadata(dir).unwrap().dev();
    let mut daemon = Command::new("bindfs").arg("-f").args([&well, &hangs]).spawn().unwrap();
    wait::holds("bindfs serves", LONG, || device(&hangs) != device(&node.0));
    kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let said = node.call("check", &["--json"]);
    let took = begun.elapsed();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    umount2(&hangs, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(said.code, Some(1));
    has(&said, "supervisor", "fail", "no answer within 10 s");
    has(&said, "MountBaseDir", "fail", "no answer within 10 s");
    has(&said, "leftovers", "fail", "no answer within 20 s");
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn what_a_runtime_lacks_is_named_with_the_cure() {
    let check = |fake: &FakeCri, more: &str| {
        let endpoint = fake.endpoint();
        let config = format!("Container: {{Enabled: true, RuntimeEndpoint: \"{endpoint}\"{more}}}\n");
        ConfiguredNode::with(&config).call("check", &["--json"])
    };
    for flavour in [Flavour::crio(), Flavour::containerd2()] {
        let said = check(&FakeCri::with(flavour.on_systemd()), "");
        assert_eq!(said.code, Some(1));
        has(&said, "cgroup driver", "fail", "SystemdCgroup = false (containerd) or cgroup_manager = \"cgroupfs\"");
    }
    let fake = FakeCri::crio();
    has(&check(&fake, ""), "runtime", "warn", "was not tested with it");
    has(&check(&fake, ""), "sandbox image", "warn", "the runtime does not say which it is, and none is here");
    has(&check(&fake, ", ImageEndpoint: /no/such.sock"), "images", "fail", "correct Container: ImageEndpoint:");
    let old = FakeCri::containerd();
    has(&check(&old, ""), "cgroup driver", "warn", "does not say");
    let config = r#"{"sandboxImage": "localhost/none:1", "enableCDI": false,
        "containerd": {"runtimes": {"runc": {"options": {"SystemdCgroup": true}}}}}"#;
    old.show_config(config);
    old.lack("NetworkReady", "cni plugin not initialized");
    let said = check(&old, "");
    has(&said, "cgroup driver", "fail", "uses systemd");
    has(&said, "sandbox image", "warn", "crane-supervisor pull localhost/none:1");
    has(&said, "cdi", "warn", "set enable_cdi = true");
    has(
        &said,
        "network",
        "warn",
        "cni plugin not initialized); for others put a CNI configuration into /etc/cni/net.d",
    );
    old.lack("RuntimeReady", "still starting");
    has(&check(&old, ""), "runtime", "fail", "still starting");
}

#[test]
fn an_image_service_that_hangs_costs_seconds() {
    let fake = FakeCri::containerd();
    fake.fault(Method::ListImages, 1000, Fault::Hang);
    let begun = Instant::now();
    let config = format!("Container: {{Enabled: true, RuntimeEndpoint: \"{}\"}}\n", fake.endpoint());
    let said = ConfiguredNode::with(&config).call("check", &["--json"]);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    fake.release();
    // Our limit, or the server's own for the same call.
    let found = lines(&said, "images");
    let fits = |(level, text): &(String, String)| {
        level == "fail"
            && ["no answer from the runtime within 10s", "Timeout expired"].iter().any(|words| text.contains(words))
    };
    assert!(found.iter().any(fits), "{found:?}");
}

#[test]
fn what_a_killed_supervisor_left_is_counted_and_named() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        pod.kill9_unguarded();
        let (base, temp) = (job.places().base.display(), job.places().temp.display());
        let config = format!(
            "CraneBaseDir: {base}\nContainer: {{Enabled: true, TempDir: {temp}, RuntimeEndpoint: \"{}\"}}\n",
            runtime.endpoint()
        );
        let node = ConfiguredNode::with(&config);
        has(&node.call("check", &["--json"]), "leftovers", "warn", &format!("({}.0", job.id()));
        let job_only = job.id().to_string();
        assert_eq!(node.call("cleanup", &["--job", &job_only]).code, Some(0));
    });
}

#[test]
fn a_users_subordinate_ids_are_told_and_not_written() {
    let user = TestUser::without_ranges();
    let managed = format!(
        "Container:\n  SubId:\n    Managed: true\n    UidMappings: [{{Id: {0}, IdCount: 1, SubIdStart: 3000000000, SubIdSize: 65536}}]\n    GidMappings: [{{Id: {1}, IdCount: 1, SubIdStart: 3000000000, SubIdSize: 65536}}]\n",
        user.uid, user.gid
    );
    let said = ConfiguredNode::with(&managed).call("check", &["--json", "--user", &user.name]);
    has(&said, "subordinate ids", "ok", "3000000000:65536");
    has(&said, "subordinate ids", "ok", "added to /etc/subuid and /etc/subgid at the first use");
    assert!(!String::from_utf8_lossy(&fs::read("/etc/subuid").unwrap_or_default()).contains(&user.name));
    let plain = ConfiguredNode::with("Container: {}\n");
    let said = plain.call("check", &["--json", "--user", &user.name]);
    has(&said, "subordinate ids", "warn", "usermod --add-subuids");
    has(&plain.call("check", &["--json", "--user", "nobody-of-this-name"]), "subordinate ids", "fail", "no such user");
}

#[test]
fn without_root_it_says_what_it_cannot_tell() {
    on_each(|runtime| {
        let node = ConfiguredNode::on(runtime, "");
        let said = node.call_as(65534, "check", &["--json"]);
        assert_eq!(said.code, Some(0), "{}", said.out);
        has(&said, "caller", "warn", "not root");
        has(&said, "runtime", "warn", "not told without root");
        has(&said, "id-mapped mounts", "warn", "not told without root");
        has(&said, "leftovers", "warn", "not told without root");
        has(&said, "bindfs", "ok", "bindfs 1.");
    });
}
