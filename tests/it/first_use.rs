//! The way of a new administrator: each mistake is named with what to do.

use crate::support::node::ConfiguredNode;
use crate::support::runtime::on_each;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

/// `run`, `images` and `pull`, each with its code and words on stderr, and nothing on stdout.
#[track_caller]
fn each(node: &ConfiguredNode, words: &[&str]) {
    for (name, arguments, code) in
        [("run", &["a:1", "--", "true"][..], 125), ("images", &[][..], 1), ("pull", &["a:1"][..], 1)]
    {
        let said = node.call(name, arguments);
        assert_eq!((said.code, &*said.out), (Some(code), ""), "{name}: {}", said.err);
        for words in words {
            assert!(said.err.contains(words), "{name} does not say {words:?}: {}", said.err);
        }
    }
}

#[test]
fn no_configuration() {
    let node = ConfiguredNode::with("");
    std::fs::remove_file(node.0.join("config.yaml")).unwrap();
    each(&node, &["cannot read the configuration", "config.yaml", "No such file", "name another file with -C"]);
}

#[test]
fn an_empty_configuration_or_a_feature_that_is_off() {
    for config in ["", "# nothing yet\n", "Container: {RuntimeEndpoint: /run/x.sock}\n"] {
        let node = ConfiguredNode::with(config);
        each(&node, &["container feature not enabled", "set Container: Enabled: true in the configuration"]);
    }
}

#[test]
fn no_endpoint() {
    let node = ConfiguredNode::with("Container: {Enabled: true}\n");
    each(&node, &["RuntimeEndpoint is not configured.", "unix:///run/containerd/containerd.sock"]);
}

#[test]
fn an_endpoint_that_is_no_local_socket() {
    for value in ["containerd.sock", "tcp://127.0.0.1:1"] {
        let node = ConfiguredNode::with(&format!("Container: {{Enabled: true, RuntimeEndpoint: \"{value}\"}}\n"));
        each(&node, &["RuntimeEndpoint", value, "expected the absolute path of a unix socket"]);
    }
}

#[test]
fn no_containerd() {
    let node = ConfiguredNode::with("Container: {Enabled: true, RuntimeEndpoint: ROOT/none.sock}\n");
    each(&node, &["Failed to get CRI version: ", "none.sock", "systemctl start containerd", "correct RuntimeEndpoint"]);
}

#[test]
fn a_containerd_that_has_gone() {
    let node = ConfiguredNode::with("Container: {Enabled: true, RuntimeEndpoint: ROOT/dead.sock}\n");
    drop(UnixListener::bind(node.0.join("dead.sock")).unwrap());
    each(&node, &["the socket is left over and nobody listens", "systemctl start containerd"]);
}

#[test]
fn a_file_in_the_sockets_place() {
    let node = ConfiguredNode::with("Container: {Enabled: true, RuntimeEndpoint: ROOT/config.yaml}\n");
    each(&node, &["that is no socket: correct RuntimeEndpoint"]);
    let node = ConfiguredNode::with("Container: {Enabled: true, RuntimeEndpoint: ROOT}\n");
    each(&node, &["that is no socket: correct RuntimeEndpoint"]);
}

#[test]
fn a_socket_of_something_else() {
    let node = ConfiguredNode::with("Container: {Enabled: true, RuntimeEndpoint: ROOT/docker.sock}\n");
    let listener = UnixListener::bind(node.0.join("docker.sock")).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let said = node.call("run", &["a:1", "--", "true"]);
    assert_eq!(said.code, Some(125));
    assert!(said.err.contains("Failed to get CRI version: "), "{}", said.err);
    assert!(said.err.contains("the socket answers but not as CRI v1"), "{}", said.err);
    for (name, arguments) in [("images", &[][..]), ("pull", &["a:1"][..])] {
        let said = node.call(name, arguments);
        assert_eq!(said.code, Some(1), "{name}");
        assert!(said.err.contains("the socket answers but not as CRI v1"), "{name}: {}", said.err);
    }
}

#[test]
fn an_unknown_key() {
    let config = "Container:\n  Enabled: true\n  RuntimeEndpiont: /run/x.sock\n  RuntimeEndpoint: ROOT/none.sock\n";
    each(&ConfiguredNode::with(config), &["line 3: Container.RuntimeEndpiont is not a key we know: ignored"]);
}

#[test]
fn a_wrong_type() {
    for (config, place) in [
        ("Container:\n  Enabled: maybe\n", "line 2, column 12 (Enabled)"),
        ("Container:\n  Enabled: true\n  RuntimeEndpoint: [a]\n", "line 3, column 20 (RuntimeEndpoint)"),
        ("Container: yes\n", "line 1, column 12 (Container)"),
        ("Container:\n\tEnabled: true\n", "tabs disallowed"),
    ] {
        each(&ConfiguredNode::with(config), &["cannot use the configuration", place]);
    }
}

#[test]
fn not_root() {
    on_each(|runtime| {
        let node = ConfiguredNode::on(runtime, "");
        for (name, arguments, code) in [
            ("run", &["a:1", "--", "true"][..], 125),
            ("images", &[][..], 1),
            ("pull", &["a:1"][..], 1),
            ("logs", &["1.1"][..], 1),
            ("cleanup", &[][..], 1),
        ] {
            let said = node.call_as(65534, name, arguments);
            assert_eq!((said.code, &*said.out), (Some(code), ""), "{name}: {}", said.err);
            assert!(["sudo", "as root"].iter().any(|word| said.err.contains(word)), "{name}: {}", said.err);
        }
    });
}

#[test]
fn no_such_image() {
    on_each(|runtime| {
        let node = ConfiguredNode::on(runtime, "");
        let said = node.call("run", &["--pull-policy", "Never", "no-such:1", "--", "true"]);
        assert_eq!((said.code, &*said.out), (Some(125), ""), "{}", said.err);
        assert!(said.err.contains("no-such:1") && said.err.contains("Never"), "{}", said.err);
        assert!(said.err.contains("kept: "), "the logs are not named: {}", said.err);
        let said = node.call("run", &["localhost:1/no/such:1", "--", "true"]);
        assert_eq!(said.code, Some(125));
        assert!(said.err.contains("localhost:1") && said.err.contains("cannot be reached"), "{}", said.err);
    });
}
