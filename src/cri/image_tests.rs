//! Of `cri::image`: the wordings are those of real runtimes (containerd 1.6, 1.7, 2.1).

use super::*;

fn unknown(message: &str) -> CriError {
    CriError::Refused { call: "PullImage", code: Code::Unknown, message: message.to_owned() }
}

fn failed(error: &CriError) -> PullError {
    PullError::Failed {
        image: "h:5000/a:1".into(),
        registry: "h:5000".into(),
        trouble: Trouble::of(error),
        cause: cause(error),
    }
}

#[test]
fn every_runtimes_words_are_understood() {
    let head = r#"failed to pull and unpack image "h:5000/a:1": failed to resolve reference "h:5000/a:1": "#;
    for (text, trouble) in [
        ("pulling from host h:5000 failed with status code [manifests 1]: 401 Unauthorized", Trouble::Denied),
        (
            "pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
            Trouble::Denied,
        ),
        ("unexpected status from HEAD request to http://h:5000/v2/a/manifests/1: 401 Unauthorized", Trouble::Denied),
        (
            "unexpected status from HEAD request to http://h:5000/v2/a/manifests/1: 503 Service Unavailable",
            Trouble::Server,
        ),
        ("h:5000/a:1: not found", Trouble::Missing),
        (
            r#"failed to do request: Head "http://h:5000/v2/a/manifests/1": dial tcp 1.2.3.4:5000: connect: connection refused"#,
            Trouble::Unreachable,
        ),
        (r#"failed to do request: Head "https://h/v2/": dial tcp: lookup h: no such host"#, Trouble::NoSuchHost),
        (
            r#"failed to do request: Head "https://h/v2/": dial tcp: lookup h on 127.0.0.1:53: read udp: i/o timeout"#,
            Trouble::Unreachable,
        ),
        (
            r#"failed to do request: Head "https://h/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority"#,
            Trouble::Tls,
        ),
        (
            r#"failed to do request: Head "https://h/v2/": http: server gave HTTP response to HTTPS client"#,
            Trouble::Tls,
        ),
        ("failed to copy: httpReadSeeker: failed open: unexpected EOF", Trouble::Unreachable),
        ("failed to extract layer sha256:00: write /a: no space left on device: unknown", Trouble::DiskFull),
        ("no match for platform in manifest: not found", Trouble::Platform),
        (
            "failed commit on ref \"layer\": unexpected commit digest sha256:1, expected sha256:2: failed precondition",
            Trouble::Digest,
        ),
        ("something nobody has seen", Trouble::Other),
    ] {
        let error = unknown(&format!("{head}{text}"));
        assert_eq!(Trouble::of(&error), trouble, "{text}");
        assert_eq!(Trouble::of(&unknown(text)), trouble, "{text}");
    }
}

#[test]
fn a_reason_is_one_line_with_a_hint_and_the_cause() {
    let text = "failed to pull and unpack image \"h:5000/a:1\": failed to resolve reference \"h:5000/a:1\": unexpected status from HEAD request to http://h:5000/v2/a/manifests/1: 401\u{1b} Unauthorized";
    let reason = failed(&unknown(text)).to_string();
    assert!(reason.contains("ccon login h:5000") && reason.contains("(unexpected status from HEAD"), "{reason}");
    assert!(!reason.contains(char::is_control), "{reason}");
    assert!(failed(&unknown(&"x".repeat(5000))).to_string().len() < 500);
}

#[test]
fn only_what_may_pass_is_tried_again_and_not_for_ever() {
    let refused = failed(&unknown("dial tcp: connect: connection refused"));
    let waits: Vec<_> = (1..).map_while(|tries| refused.again_after(tries, 1.0)).map(|wait| wait.as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16]);
    assert_eq!(refused.again_after(1, 0.0), Some(Duration::from_millis(500)));
    for permanent in ["401 Unauthorized", "h/a:1: not found", "no space left on device", "x509: bad", "odd"] {
        assert_eq!(failed(&unknown(permanent)).again_after(1, 0.0), None, "{permanent}");
    }
    let stalled = PullError::Stalled { image: "a".into(), registry: "h".into(), limit: Duration::from_secs(1) };
    assert!(stalled.again_after(1, 0.0).is_some() && stalled.again_after(2, 0.0).is_none());
}

#[test]
fn what_a_registry_repeats_of_ours_is_not_shown() {
    let text = r#"Get "https://me:pass@h:5000/v2/b?sig=abc&x=1": odd canary, see http://x/y and a@b"#;
    let clean = redact(text, "canary");
    assert_eq!(clean, r#"Get "https://h:5000/v2/b?(not shown)": odd (not shown), see http://x/y and a@b"#);
    assert_eq!(redact("plain", ""), "plain");
}
