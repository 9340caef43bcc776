//! How a streamed program ended: the Kubernetes `Status` object that a streaming server
//! writes last (remote command protocol, v4). Pure; the object is foreign input.

use serde::Deserialize;

/// The end, as the server tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The program ended with this code; 0 also for an attached program whose code the server does not tell.
    Exited(u8),
    /// It was not started, or was lost; one line.
    Failed(String),
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: Details,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// Reads the object.
pub fn read(bytes: &[u8]) -> Status {
    let Ok(object) = serde_json::from_slice::<Object>(bytes) else {
        return Status::Failed(format!(
            "the runtime's last word is no status: {}",
            line(&String::from_utf8_lossy(bytes))
        ));
    };
    let code = object.details.causes.iter().find(|cause| cause.reason == "ExitCode");
    match (object.status.as_str(), object.reason.as_str(), code) {
        ("Success", _, _) => Status::Exited(0),
        // Codes are 0 to 255 on Linux; anything else is an error of the server's.
        (_, "NonZeroExitCode", Some(cause)) if cause.message.parse::<u8>().is_ok() => {
            Status::Exited(cause.message.parse().unwrap_or(u8::MAX))
        }
        _ => Status::Failed(line(&object.message)),
    }
}

/// What people can be shown of it: one line, without control characters.
fn line(text: &str) -> String {
    let shown = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    shown.take(1024).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_code_is_read() {
        let failure = r#"{"metadata":{},"status":"Failure","message":"command terminated with exit code 7",
            "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(read(failure.as_bytes()), Status::Exited(7));
        assert_eq!(read(br#"{"metadata":{},"status":"Success"}"#), Status::Exited(0));
    }

    #[test]
    fn all_else_is_a_failure_in_one_line() {
        let text = r#"{"status":"Failure","message":"exec failed:\n no such file","reason":"InternalError"}"#;
        assert_eq!(read(text.as_bytes()), Status::Failed("exec failed:  no such file".into()));
        let odd = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"m","details":{"causes":[{"reason":"ExitCode","message":"700"}]}}"#;
        assert_eq!(read(odd.as_bytes()), Status::Failed("m".into()));
        for bytes in [&b""[..], b"\xff\x1b[31m", b"[1]"] {
            assert!(matches!(read(bytes), Status::Failed(text) if !text.contains('\x1b')));
        }
    }
}
