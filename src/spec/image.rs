//! The image a container is made from, and when to pull it.

use super::reference::Reference;
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
    /// The registry it names, for people and for credentials.
    pub registry: String,
    /// It is an id, which no registry knows.
    pub is_id: bool,
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
    let text = info.image.trim();
    let reference = Reference::parse(text).map_err(|problem| Rejection::new(FIELD, problem))?;
    let credentials = (!info.username.is_empty()).then(|| (info.username.clone(), Secret::new(&info.password)));
    let own_limit = super::seconds(info.pull_timeout);
    Ok(ImageSource {
        policy: policy(&info.pull_policy, &reference)?,
        reference: text.to_owned(),
        registry: reference.registry(),
        is_id: reference.is_id(),
        credentials,
        pull_limit: own_limit.or(pull_limit),
    })
}

/// craned's spellings, any case; empty depends on the tag.
fn policy(text: &str, reference: &Reference<'_>) -> Result<PullPolicy, Rejection> {
    match text.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "always" => Ok(PullPolicy::Always),
        "ifnotpresent" => Ok(PullPolicy::IfNotPresent),
        "never" => Ok(PullPolicy::Never),
        "" if reference.moves() => Ok(PullPolicy::Always),
        "" => Ok(PullPolicy::IfNotPresent),
        _ => Err(Rejection::new(
            "container_meta.image.pull_policy",
            format!("{text:?} is none of Always, IfNotPresent, Never"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_policy(text: &str, reference: &str) -> Option<PullPolicy> {
        policy(text, &Reference::parse(reference).unwrap()).ok()
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
        let digest = "0".repeat(64);
        let by_digest = [format!("alpine@sha256:{digest}"), format!("alpine:latest@sha256:{digest}"), digest];
        let fixed = ["alpine:3.20", "localhost:5000/a:1"].into_iter().chain(by_digest.iter().map(String::as_str));
        for fixed in fixed {
            assert_eq!(read_policy("", fixed), Some(PullPolicy::IfNotPresent), "{fixed}");
        }
    }
}
