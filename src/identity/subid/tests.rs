//! Ranges on scratch files, beside the real `usermod`.

use super::*;
use crate::spec::SubIdMapping;
use crate::sys::files::scratch::Dir;
use std::fs;
use std::process::{Child, Command, Stdio};

const ALICE: Owner<'_> = Owner { name: "alice", uid: 1001, gid: 1002, job_gid: 50 };

struct Node {
    _dir: Dir,
    root: PathBuf,
    files: Files,
}

impl Node {
    fn new(subuid: &str, subgid: &str) -> Self {
        let dir = Dir::new();
        let root = dir.path().to_owned();
        fs::create_dir(root.join("etc")).unwrap();
        let files = Files::below(&root.join("etc"));
        fs::write(&files.passwd, "root:x:0:0::/:/bin/sh\nalice:x:1001:1002::/:/bin/sh\nzoe:x:70000:7::/:/bin/sh\n")
            .unwrap();
        fs::write(&files.group, "root:x:0:\nalice:x:1002:\nstaff:x:80000:alice\n").unwrap();
        fs::write(root.join("etc/shadow"), "").unwrap();
        fs::write(&files.subuid, subuid).unwrap();
        fs::write(&files.subgid, subgid).unwrap();
        Self { _dir: dir, root, files }
    }

    fn content(&self) -> (String, String) {
        (fs::read_to_string(&self.files.subuid).unwrap(), fs::read_to_string(&self.files.subgid).unwrap())
    }

    fn resolve(&self, policy: &SubIdPolicy) -> Result<Resolved, SubIdError> {
        resolve(policy, &ALICE, &self.files)
    }

    fn error(&self, policy: &SubIdPolicy) -> String {
        let before = self.content();
        let text = self.resolve(policy).unwrap_err().to_string();
        assert_eq!(self.content(), before);
        text
    }
}

fn mappings(start: u64) -> Vec<SubIdMapping> {
    vec![SubIdMapping { id: 1000, count: 1000, start, size: 1000 }]
}

fn managed() -> SubIdPolicy {
    SubIdPolicy::Managed { uids: mappings(100_000), gids: mappings(500_000) }
}

fn ranges(uids: u64, gids: u64, size: u64) -> Ranges {
    Ranges { uids: Range::new(uids, size).unwrap(), gids: Range::new(gids, size).unwrap() }
}

#[test]
fn managed_ranges_go_by_uid_and_the_users_own_group_and_are_recorded_once() {
    let node = Node::new("bob:1:2\n", "");
    for _ in 0..2 {
        let resolved = node.resolve(&managed()).unwrap();
        assert_eq!(resolved, Resolved { ranges: ranges(101_000, 502_000, 1000), warnings: Vec::new() });
        assert_eq!(node.content(), ("bob:1:2\nalice:101000:1000\n".into(), "alice:502000:1000\n".into()));
    }
}

#[test]
fn managed_entries_by_name_or_by_uid_must_be_the_computed_ones() {
    for (subuid, subgid) in [
        ("alice:101000:1000\n", "1001:502000:1000\n"),
        ("1001:101000:1000\nalice:101000:1000\n", "alice:502000:1000\n"),
    ] {
        let node = Node::new(subuid, subgid);
        assert_eq!(node.resolve(&managed()).unwrap().ranges, ranges(101_000, 502_000, 1000));
        assert_eq!(node.content(), (subuid.into(), subgid.into()));
    }
}

#[test]
fn a_mismatch_names_user_file_and_both_ranges() {
    for (subuid, subgid, file, there, computed) in [
        ("alice:7:8\n", "alice:502000:1000\n", "subuid", "alice 7:8,", "101000:1000"),
        ("alice:101000:1000\nalice:9:9\n", "", "subuid", "alice 101000:1000, 9:9,", "101000:1000"),
        ("alice:101000:1000\n", "1001:5:6\n", "subgid", "alice 5:6,", "502000:1000"),
        ("alice:101000:1000\n", "", "subgid", "alice no range (the other file has one),", "502000:1000"),
        ("", "alice:502000:1000\n", "subuid", "alice no range (the other file has one),", "101000:1000"),
    ] {
        let error = Node::new(subuid, subgid).error(&managed());
        assert!(error.contains(&format!("etc/{file} gives user {there}")), "{error}");
        assert!(error.contains(&format!("Container.SubId computes {computed}")), "{error}");
    }
}

#[test]
fn unmanaged_ranges_are_the_users_first_of_each_file() {
    let node = Node::new("bob:1:2\n1001:200000:500\nalice:7:8\n", "alice:300000:500\n");
    assert_eq!(node.resolve(&SubIdPolicy::Unmanaged).unwrap().ranges, ranges(200_000, 300_000, 500));
}

#[test]
fn unmanaged_ranges_that_are_missing_or_useless_say_what_to_do() {
    let error = Node::new("bob:1:2\n", "").error(&SubIdPolicy::Unmanaged);
    assert!(error.contains("user alice has no range in") && error.contains("usermod --add-subuids"), "{error}");
    let error = Node::new("alice:100000:10\n", "").error(&SubIdPolicy::Unmanaged);
    assert!(error.contains("etc/subgid: ask your administrator"), "{error}");
    for (line, problem) in [
        ("alice:0:65536", "begins at id 0"),
        ("alice:100000:1", "has 1 ids"),
        ("alice:4294967000:65536", "ends past"),
        ("alice:18446744073709551615:18446744073709551615", "ends past"),
    ] {
        let error = Node::new(line, line).error(&SubIdPolicy::Unmanaged);
        assert!(error.contains(problem), "{error}");
    }
    let node = Node::new("", "");
    fs::remove_file(&node.files.subuid).unwrap();
    assert!(matches!(node.resolve(&SubIdPolicy::Unmanaged), Err(SubIdError::Missing { .. })));
}

#[test]
fn a_range_with_an_account_of_the_node_is_refused_and_not_recorded() {
    let of = |uids, gids| SubIdPolicy::Managed { uids: mappings(uids), gids: mappings(gids) };
    for (policy, holds) in [
        (of(69_000, 500_000), "uid 70000 of zoe"),
        (of(100_000, 78_000), "gid 80000 of staff"),
        (of(1, 500_000), "uid 1001 of alice"),
        (of(100_000, 40), "no"),
    ] {
        let node = Node::new("", "");
        if holds == "no" {
            // 2040 to 3039: neither group 1002 nor 50 is in it.
            assert!(node.resolve(&policy).is_ok());
        } else {
            let error = node.error(&policy);
            assert!(error.contains(&format!("holds {holds}")), "{error}");
        }
    }
    let error = Node::new("alice:100000:10\n", "alice:45:10\n").error(&SubIdPolicy::Unmanaged);
    assert!(error.contains("holds gid 50 of alice"), "the job's group counts: {error}");
}

#[test]
fn a_range_shared_with_another_user_is_a_warning() {
    let node = Node::new("bob:101999:5\ncarl:102000:5\n#dan:101000:5\n", "eve:0:502001\n");
    let warnings = node.resolve(&managed()).unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("the range 101000:1000 of user alice overlaps 101999:5 of bob in "),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("overlaps 0:502001 of eve"), "{warnings:?}");
}

#[test]
fn names_that_cannot_stand_in_the_file_are_written_as_numbers() {
    for name in ["", "a:b", "a\nb", "#a", "+a", "1234"] {
        let owner = Owner { name, ..ALICE };
        assert_eq!(owner.line(Range::new(7, 8).unwrap()), "1001:7:8\n", "{name:?}");
        assert!(!owner.has(&Entry { owner: name.as_bytes(), start: 1, count: 2 }));
    }
    assert_eq!(Owner { name: "AD\\bob@x", ..ALICE }.line(Range::new(7, 8).unwrap()), "AD\\bob@x:7:8\n");
}

#[test]
fn a_recording_that_was_cut_off_is_finished_and_only_that() {
    let node = Node::new("alice:101000:1000\n", "");
    fs::write(node.root.join("etc/subgid+1001"), "alice:502000:1000\n").unwrap();
    node.resolve(&managed()).unwrap();
    assert_eq!(node.content().1, "alice:502000:1000\n");
    fs::write(&node.files.subgid, "").unwrap();
    assert!(matches!(node.resolve(&managed()), Err(SubIdError::Mismatch { .. })), "the mark is gone");
}

/// The other half of [`eight_helpers_and_usermod_at_once_lose_nothing`], run as a process of its own.
#[test]
#[ignore = "another test starts it"]
fn one_of_many() {
    let etc = std::env::var_os("SUBID_TEST_ETC").unwrap();
    let number: u32 = std::env::var("SUBID_TEST_NUMBER").unwrap().parse().unwrap();
    let name = format!("user{}", number % 8);
    let owner = Owner { name: &name, uid: 1010 + number % 8, gid: 1010 + number % 8, job_gid: 50 };
    resolve(&managed(), &owner, &Files::below(Path::new(&etc))).unwrap();
}

#[allow(clippy::disallowed_methods)]
fn one_more(etc: &Path, number: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "identity::subid::tests::one_of_many", "--ignored"])
        .env("SUBID_TEST_ETC", etc)
        .env("SUBID_TEST_NUMBER", number.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[allow(clippy::disallowed_methods)]
fn usermod(root: &Path) -> Option<Child> {
    let range = ["-v", "900000-900999", "-w", "900000-900999", "zoe"];
    Command::new("usermod").arg("-P").arg(root).args(range).stderr(Stdio::null()).spawn().ok()
}

#[test]
fn eight_helpers_and_usermod_at_once_lose_nothing() {
    let node = Node::new("# kept\nbob:1:2\n", "");
    let etc = node.root.join("etc");
    // Two helpers for each user: a pod may start twice.
    let mut children: Vec<Child> = (0..8).map(|number| one_more(&etc, number)).collect();
    let usermod = usermod(&node.root);
    let by_usermod = usermod.is_some();
    children.extend((8..16).map(|number| one_more(&etc, number)));
    children.extend(usermod);
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let (subuid, subgid) = node.content();
    assert!(subuid.starts_with("# kept\nbob:1:2\n"), "{subuid}");
    for number in 0..8 {
        let (uid, gid) = (110_000 + number * 1000, 510_000 + number * 1000);
        assert_eq!(subuid.matches(&format!("user{number}:{uid}:1000\n")).count(), 1, "{subuid}");
        assert_eq!(subgid.matches(&format!("user{number}:{gid}:1000\n")).count(), 1, "{subgid}");
    }
    assert_eq!((subuid.lines().count(), subgid.lines().count()), if by_usermod { (11, 9) } else { (10, 8) });
    let left: Vec<_> = fs::read_dir(&etc).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let is_ours = |name: &str| name.contains('+') || name.starts_with("sub") && name.contains('.');
    assert!(!left.iter().any(|name| is_ours(&name.to_string_lossy())), "{left:?}");
}
