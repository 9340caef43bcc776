//! The names, labels and annotations by which craned and we find pods and
//! containers again (craned contract). Pure.

use crate::ids::StepId;
use std::collections::HashMap;

/// Kubernetes-style namespace of every pod of ours.
pub const NAMESPACE: &str = "cranesched";
/// Prefix of annotations that belong to CraneSched.
pub const INTERNAL: &str = "cranesched.internal/";
/// Marks everything of ours.
const OURS: &str = "cranesched";
/// A DNS label's longest form (RFC 1123).
const DNS_LABEL_MAX: usize = 63;
/// Annotation prefixes a user may set: what CNI plugins read, never what steers a runtime.
const ALLOWED_ANNOTATIONS: [&str; 2] = [INTERNAL, "k8s.v1.cni.cncf.io/"];

/// The labels that single out a job's pod.
pub fn pod_selector(job: u32, uid: u32) -> HashMap<String, String> {
    HashMap::from([
        (OURS.to_owned(), "true".to_owned()),
        ("job_id".to_owned(), job.to_string()),
        ("uid".to_owned(), uid.to_string()),
    ])
}

/// The label on everything of ours.
pub fn ours() -> HashMap<String, String> {
    HashMap::from([(OURS.to_owned(), "true".to_owned())])
}

/// The job and user that a pod's labels name.
pub fn job_and_uid(labels: &HashMap<String, String>) -> Option<(u32, u32)> {
    Some((labels.get("job_id")?.parse().ok()?, labels.get("uid")?.parse().ok()?))
}

/// The labels that single out a step's container; craned's attach and exec use the same.
pub fn container_selector(id: StepId, uid: u32) -> HashMap<String, String> {
    let mut labels = pod_selector(id.job, uid);
    labels.insert("step_id".to_owned(), id.step.to_string());
    labels
}

/// All labels of a pod; ours win over the user's.
pub fn pod(job: u32, uid: u32, job_name: &str, user: &HashMap<String, String>) -> HashMap<String, String> {
    let mut labels = user.clone();
    // A pod that carried it would match a container's selector.
    labels.remove("step_id");
    labels.extend(pod_selector(job, uid));
    labels.insert("job_name".to_owned(), job_name.to_owned());
    labels
}

/// All labels of a container; ours win over the user's.
pub fn container(
    id: StepId,
    uid: u32,
    job_name: &str,
    step_name: &str,
    user: &HashMap<String, String>,
) -> HashMap<String, String> {
    let mut labels = user.clone();
    labels.extend(container_selector(id, uid));
    labels.insert("job_name".to_owned(), job_name.to_owned());
    labels.insert("step_name".to_owned(), step_name.to_owned());
    labels
}

/// The annotations of a user that may pass, and the keys that may not.
pub fn allowed_annotations(user: &HashMap<String, String>) -> (HashMap<String, String>, Vec<String>) {
    let allowed = |key: &str| ALLOWED_ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix));
    let (pass, refused): (HashMap<_, _>, HashMap<_, _>) =
        user.iter().map(|(key, value)| (key.clone(), value.clone())).partition(|(key, _)| allowed(key));
    let mut refused: Vec<String> = refused.into_keys().collect();
    refused.sort();
    (pass, refused)
}

/// Pod name and hostname: `job-<job>-<node>` as a DNS-1123 label.
///
/// Runtimes pass it on in CNI_ARGS, where anything else breaks the call.
pub fn pod_name(job: u32, node: &str) -> String {
    slug(&format!("job-{job}-{node}"))
}

/// The container's name within its pod.
pub fn container_name(id: StepId) -> String {
    format!("job-{}-{}", id.job, id.step)
}

/// Lower case letters, digits and inner hyphens, at most 63.
fn slug(text: &str) -> String {
    let mapped: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(DNS_LABEL_MAX)
        .collect();
    mapped.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ours_win_over_the_users() {
        let user = HashMap::from([
            ("uid".to_owned(), "0".to_owned()),
            ("step_id".to_owned(), "9".to_owned()),
            ("team".to_owned(), "a".to_owned()),
        ]);
        let labels = pod(7, 1000, "name", &user);
        assert_eq!(labels["uid"], "1000");
        assert_eq!(labels["team"], "a");
        assert!(!labels.contains_key("step_id"));
        assert_eq!(container(StepId { job: 7, step: 1 }, 1000, "name", "s", &user)["step_id"], "1");
    }

    #[test]
    fn annotations_that_steer_a_runtime_do_not_pass() {
        let user = HashMap::from([
            ("io.kubernetes.cri-o.Devices".to_owned(), "/dev/sda".to_owned()),
            ("k8s.v1.cni.cncf.io/networks".to_owned(), "rdma".to_owned()),
        ]);
        let (pass, refused) = allowed_annotations(&user);
        assert_eq!(pass.len(), 1);
        assert_eq!(refused, ["io.kubernetes.cri-o.Devices"]);
    }

    proptest! {
        #[test]
        fn a_pod_name_is_always_a_dns_label(job: u32, node in ".{0,80}") {
            let name = pod_name(job, &node);
            prop_assert!(!name.is_empty() && name.len() <= DNS_LABEL_MAX);
            let inner = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            prop_assert!(inner && !name.starts_with('-') && !name.ends_with('-'));
        }
    }
}
