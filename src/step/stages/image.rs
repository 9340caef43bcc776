//! The container's image: present, or pulled as its policy says.

use super::prepared;
use crate::cri::client::Client;
use crate::cri::pull::{Order, STALL_LIMIT};
use crate::cri::sandbox::Config;
use crate::identity::user::ImageRules;
use crate::spec::{ImageSource, PullPolicy};
use crate::step::event::Failure;
use std::time::Duration;

/// Has the image. Under the administrator's rule a pull is how the registry is asked whether
/// this job may use what is here; an id would be a way around it.
pub(super) async fn bring(
    client: &Client,
    image: &ImageSource,
    rules: ImageRules,
    pod: &Config,
) -> Result<String, Failure> {
    let present = client.when_there(|| client.image(&image.reference)).await.map_err(prepared)?;
    let pull = match image.policy {
        PullPolicy::Always => true,
        PullPolicy::IfNotPresent => present.is_none() || rules.reauthorize,
        PullPolicy::Never => present.is_some() && rules.reauthorize,
    };
    if !pull {
        let missing =
            || prepared(format!("image {} is not on this node, and the pull policy is Never", image.reference));
        return present.map(|image| image.id).ok_or_else(missing);
    }
    if image.is_id {
        let why =
            if present.is_some() { "this node asks the registry for every image" } else { "it is not on this node" };
        return Err(prepared(format!("image {}: {why}, and an id cannot be pulled: name the image", image.reference)));
    }
    tracing::info!(image = image.reference, "pulling");
    let order = Order {
        image: &image.reference,
        registry: &image.registry,
        credentials: image.credentials.as_ref(),
        pod: Some(pod),
        limit: image.pull_limit,
        stall: stall_limit(rules),
    };
    client.pull(&order).await.map_err(prepared)
}

fn stall_limit(rules: ImageRules) -> Option<Duration> {
    match rules.stall_s {
        None => Some(STALL_LIMIT),
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
    }
}
