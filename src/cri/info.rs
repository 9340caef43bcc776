//! What runtimes tell only in their verbose answers: JSON of their own under `info["info"]`.
//!
//! Foreign input; what is missing or of another shape is unknown.

use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// The parts that containerd and CRI-O have in common.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    pid: Option<i64>,
    #[serde(rename = "runtimeSpec")]
    spec: Option<Spec>,
}

/// Of the OCI runtime specification.
#[derive(Deserialize)]
struct Spec {
    process: Option<Process>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Process {
    user: Option<User>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default, rename = "additionalGids")]
    groups: Vec<u32>,
}

fn read(info: &HashMap<String, String>) -> Option<Info> {
    serde_json::from_str(info.get("info")?).ok()
}

/// The pid of a container's init or of a pod's pause process.
pub fn pid(info: &HashMap<String, String>) -> Option<i32> {
    let pid = read(info)?.pid?;
    i32::try_from(pid).ok().filter(|&pid| pid > 1)
}

/// Of containerd's configuration, which its verbose status shows under `info["config"]`.
#[derive(Deserialize)]
struct Config {
    #[serde(rename = "enableCDI")]
    takes_cdi: Option<bool>,
    #[serde(rename = "stateDir")]
    state_dir: Option<PathBuf>,
}

fn configuration(info: &HashMap<String, String>) -> Option<Config> {
    serde_json::from_str(info.get("config")?).ok()
}

/// Whether a runtime's configuration says that it takes CDI devices.
pub fn takes_cdi(info: &HashMap<String, String>) -> Option<bool> {
    configuration(info)?.takes_cdi
}

/// Where containerd's CRI keeps what lives as long as its containers, their FIFOs among it.
pub fn state_dir(info: &HashMap<String, String>) -> Option<PathBuf> {
    configuration(info)?.state_dir.filter(|dir| dir.is_absolute())
}

/// The supplementary groups a created container will start with.
pub fn groups(info: &HashMap<String, String>) -> Option<Vec<u32>> {
    Some(read(info)?.spec?.process?.user?.groups)
}

/// Whether a created container will start in a user namespace.
pub fn has_user_namespace(info: &HashMap<String, String>) -> Option<bool> {
    Some(read(info)?.spec?.linux?.namespaces.iter().any(|namespace| namespace.kind == "user"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> HashMap<String, String> {
        HashMap::from([("info".to_owned(), json.to_owned())])
    }

    #[test]
    fn what_is_there_is_read_and_all_else_is_unknown() {
        let full =
            info(r#"{"pid": 42, "runtimeSpec": {"process": {"user": {"uid": 7, "additionalGids": [1, 2]}}}, "x": []}"#);
        assert_eq!((pid(&full), groups(&full)), (Some(42), Some(vec![1, 2])));
        let bare = info(r#"{"pid": 0, "runtimeSpec": {"process": {"user": {"uid": 7}}}}"#);
        assert_eq!((pid(&bare), groups(&bare)), (None, Some(vec![])));
        let spaces =
            info(r#"{"runtimeSpec": {"linux": {"namespaces": [{"type": "pid"}, {"type": "user", "path": "/p"}]}}}"#);
        assert_eq!((has_user_namespace(&spaces), has_user_namespace(&bare)), (Some(true), None));
        for odd in ["", "[]", "{}", r#"{"pid": "x"}"#, r#"{"pid": 99999999999}"#, r#"{"runtimeSpec": 7}"#] {
            assert_eq!((pid(&info(odd)), groups(&info(odd))), (None, None), "{odd}");
        }
        assert_eq!(pid(&HashMap::new()), None);
    }

    #[test]
    fn the_configuration_tells_where_fifos_are() {
        let of = |config: &str| HashMap::from([("config".to_owned(), config.to_owned())]);
        let told = of(r#"{"stateDir": "/run/x", "enableCDI": true}"#);
        assert_eq!((state_dir(&told), takes_cdi(&told)), (Some("/run/x".into()), Some(true)));
        for odd in ["", "{}", r#"{"stateDir": "run/x"}"#, r#"{"stateDir": 7}"#] {
            assert_eq!(state_dir(&of(odd)), None, "{odd}");
        }
    }
}
