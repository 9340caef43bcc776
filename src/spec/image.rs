//! The image a container is made from, and when to pull it.

use super::{Rejection, Secret};
use crate::wire::crane::container_job_additional_meta::ImageInfo;
use std::time::Duration;

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// Not at all: it must be there.
    Never,
}

/// Where an image comes from.
#[derive(Debug)]
pub struct ImageSource {
    /// As the user wrote it.
    pub reference: String,
    /// When to pull.
    pub policy: PullPolicy,
    /// User name and password for the registry.
    pub credentials: Option<(String, Secret)>,
    /// How long the pull may take, where craned sets a limit.
    pub pull_limit: Option<Duration>,
}

pub(super) fn read(info: Option<&ImageInfo>, pull_limit: Option<Duration>) -> Result<ImageSource, Rejection> {
    const FIELD: &str = "container_meta.image.image";
    let info = info.ok_or_else(|| Rejection::new("container_meta.image", "missing"))?;
    let reference = info.image.trim();
    if reference.is_empty() {
        return Err(Rejection::new(FIELD, "missing"));
    }
    if reference.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Rejection::new(FIELD, format!("{reference:?} holds a blank or control character")));
    }
    let credentials = (!info.username.is_empty()).then(|| (info.username.clone(), Secret::new(&info.password)));
    let own_limit = super::seconds(info.pull_timeout);
    Ok(ImageSource {
        reference: reference.to_owned(),
        policy: policy(&info.pull_policy, reference)?,
        credentials,
        pull_limit: own_limit.or(pull_limit),
    })
}

/// craned's spellings, any case; empty depends on the tag.
fn policy(text: &str, reference: &str) -> Result<PullPolicy, Rejection> {
    match text.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "always" => Ok(PullPolicy::Always),
        "ifnotpresent" => Ok(PullPolicy::IfNotPresent),
        "never" => Ok(PullPolicy::Never),
        "" if moves(reference) => Ok(PullPolicy::Always),
        "" => Ok(PullPolicy::IfNotPresent),
        _ => Err(Rejection::new(
            "container_meta.image.pull_policy",
            format!("{text:?} is none of Always, IfNotPresent, Never"),
        )),
    }
}

/// `:latest` or no tag; a digest is a version, and a registry's port is no tag.
fn moves(reference: &str) -> bool {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    !reference.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_policy(text: &str, reference: &str) -> Option<PullPolicy> {
        policy(text, reference).ok()
    }

    #[test]
    fn every_spelling_of_the_contract_is_known() {
        for text in ["IfNotPresent", "if-not-present", "if_not_present", "IFNOTPRESENT"] {
            assert_eq!(read_policy(text, "a"), Some(PullPolicy::IfNotPresent));
        }
        assert_eq!(read_policy("sometimes", "a"), None);
    }

    #[test]
    fn without_a_policy_the_tag_decides() {
        for moving in ["alpine", "alpine:latest", "localhost:5000/a", "localhost:5000/a:latest"] {
            assert_eq!(read_policy("", moving), Some(PullPolicy::Always), "{moving}");
        }
        for fixed in ["alpine:3.20", "localhost:5000/a:1", "alpine@sha256:00", "alpine:latest@sha256:00"] {
            assert_eq!(read_policy("", fixed), Some(PullPolicy::IfNotPresent), "{fixed}");
        }
    }
}
