//! `login`, `logout`, `pull`, `images` and `run` as a person types them, with a real
//! registry and real runtimes.

use crate::support::registry::{Registry, USER, base64_of};
use crate::support::runtime::{Runtime, on_each};
use crate::support::supervisor::BINARY;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PASSWORD: &str = "pass: of the commands";

/// A home and a node's configuration.
struct Home(PathBuf);

impl Home {
    fn on(runtime: &Runtime) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/var/tmp/cs-home-{}-{number}", std::process::id()));
        std::fs::create_dir_all(root.join("home")).unwrap();
        let config = format!(
            "CraneBaseDir: {}/crane/\nContainer:\n  Enabled: true\n  RuntimeEndpoint: {}\n",
            root.display(),
            runtime.endpoint()
        );
        std::fs::write(root.join("config.yaml"), config).unwrap();
        Self(root)
    }

    fn file(&self) -> PathBuf {
        self.0.join("home/.config/crane/registry.json")
    }

    /// Runs a command with `input`.
    fn call(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).env("HOME", self.0.join("home")).env_remove("SUDO_UID").env_remove("SUDO_GID");
        command.current_dir(&self.0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that reads nothing may have gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The same with the node's configuration.
    fn on_node(&self, command: &str, arguments: &[&str]) -> Output {
        let config = self.0.join("config.yaml").display().to_string();
        self.call(&[&[command, "-C", &config], arguments].concat(), "")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD), "the password is in {out}{err}");
    (out, err)
}

#[track_caller]
fn good(output: &Output) -> (String, String) {
    let (out, err) = texts(output);
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    (out, err)
}

#[track_caller]
fn bad(output: &Output, code: i32, words: &str) {
    let (out, err) = texts(output);
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    assert!(err.contains(words), "{words:?} is not in {err}");
}

#[test]
fn a_private_image_is_pulled_run_and_listed_after_a_login_and_not_after_a_logout() {
    on_each(|runtime| {
        let registry = Registry::start(PASSWORD);
        let (image, other) = (registry.push("tools/a:1", 0), registry.push("tools/b:1", 0));
        let (home, host) = (Home::on(runtime), registry.host());
        let hint = format!("log in with \"ccon login {host}\"");
        bad(&home.on_node("pull", &[&image]), 1, &hint);
        bad(&home.on_node("run", &[&image, "true"]), 125, &hint);
        good(&home.call(&["login", &host, "-u", USER, "--password-stdin"], &format!("{PASSWORD}\n")));
        let meta = std::fs::metadata(home.file()).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o600, nix::unistd::geteuid().as_raw()));
        let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(home.file()).unwrap()).unwrap();
        assert_eq!(kept["auths"][&host]["auth"], base64_of(&format!("{USER}:{PASSWORD}")));
        // Not on the node yet: `run` pulls it with what is kept.
        let (out, _) = good(&home.on_node("run", &[&image, "echo", "private"]));
        assert_eq!(out, "private\n");
        let (out, _) = good(&home.on_node("pull", &[&image, &other]));
        let mut lines: Vec<_> = out.lines().collect();
        lines.sort_unstable();
        assert!(lines[0].starts_with(&format!("{image} sha256:")) && lines[0].ends_with(" pulled"), "{out}");
        assert!(lines[1].starts_with(&other) && lines.len() == 2, "{out}");
        let (out, _) = good(&home.on_node("images", &[]));
        assert!(out.lines().any(|line| line.starts_with(&image)), "{out}");
        let (out, _) = good(&home.on_node("images", &["--json"]));
        let named = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["tags"].to_string();
        assert!(out.lines().any(|line| named(line).contains(&other)), "{out}");
        let (_, err) = good(&home.call(&["logout", &host], ""));
        assert!(err.contains("forgotten"), "{err}");
        bad(&home.on_node("pull", &[&image]), 1, &hint);
        good(&home.on_node("pull", &["--policy", "IfNotPresent", &image]));
        let (_, err) = good(&home.call(&["logout", &host], ""));
        assert!(err.contains("nothing to forget"), "{err}");
    });
}

#[test]
fn one_image_that_fails_does_not_hide_those_that_come() {
    on_each(|runtime| {
        let registry = Registry::start(PASSWORD);
        let (image, home) = (registry.push("tools/c:1", 0), Home::on(runtime));
        let missing = format!("{}/tools/none:1", registry.host());
        let config = home.0.join("config.yaml").display().to_string();
        let given = ["pull", "-C", &config, "-u", USER, "--password-stdin", "--json", &missing, &image];
        let output = home.call(&given, PASSWORD);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{out}{err}");
        let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |name: &str| lines.iter().find(|line| line["image"] == name).unwrap_or_else(|| panic!("{out}"));
        assert_eq!(of(&image)["pulled"], true);
        assert!(of(&missing)["reason"].as_str().unwrap().contains("no such image"), "{out}");
        assert!(!home.file().exists(), "a password that was only given is kept");
        bad(&home.on_node("pull", &["--policy", "never", &missing]), 1, "is not on this node");
        bad(&home.on_node("pull", &["UPPER/x"]), 1, "upper-case");
    });
}

#[test]
fn a_login_without_a_person_says_what_to_give() {
    on_each(|runtime| {
        let home = Home::on(runtime);
        bad(&home.call(&["login", "h.io", "-u", "me"], ""), 1, "--password-stdin");
        bad(&home.call(&["login", "h.io", "-u", "me", "--password-stdin"], "\n"), 1, "empty");
        bad(&home.call(&["login", "h.io", "-u", "a:b", "--password-stdin"], "x"), 1, "colon");
        bad(&home.call(&["login", "h io"], ""), 2, "h io");
        assert!(!home.file().exists());
    });
}
