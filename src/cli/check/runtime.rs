//! The container runtime: whether it answers, and what it has.

use crate::cli::check::line::{LIMIT, Line, fail, ok, untold, warn, within};
use crate::cli::check::places;
use crate::config::Container;
use crate::cri::client::{Client, Limits};
use crate::cri::endpoint::Endpoint;
use crate::cri::error::{Class, CriError};
use crate::cri::facts::Facts;
use crate::local::runtime::{self, Offer, PodNetwork, UserNamespaces};
use nix::unistd::geteuid;
use std::path::Path;
use tokio::time::timeout;

/// All of it; nothing after the first line where it does not answer.
pub async fn look(node: &Container) -> Vec<Line> {
    let offer = match runtime::probe(&node.runtime_socket).await {
        Ok(offer) => offer,
        Err(error) if !geteuid().is_root() && error.to_string().contains("ermission denied") => {
            return vec![untold("runtime", &format!("whether {} answers", node.runtime_socket.display()))];
        }
        Err(error) => return vec![fail("runtime", error.to_string(), "no container runs before that")],
    };
    let mut lines = vec![ok("runtime", format!("{} answers at {}", offer.name, node.runtime_socket.display()))];
    lines.extend(known(&offer.name));
    lines.push(users(node, &offer));
    lines.push(network(&offer.pod_network));
    if offer.pod_network == PodNetwork::Ready && node.dns.servers.iter().all(|server| server.starts_with("127.")) {
        lines.push(warn(
            "network",
            format!("pods look names up at {}, which is the pod itself", node.dns.servers.join(", ")),
            "set Container: Dns: Servers: to your name servers",
        ));
    }
    let endpoints = [&node.runtime_socket, &node.image_socket].map(|path| Endpoint::parse(&path.to_string_lossy()));
    let [Ok(runtime), Ok(images)] = endpoints else { return lines };
    let client = Client::new(&runtime, &images, Limits { look: LIMIT, ..Limits::default() });
    lines.push(driver(&client, &offer.name).await);
    lines.extend(image_service(&client, node).await);
    lines
}

/// What this runtime is known for (docs/operating.md).
fn known(name: &str) -> Option<Line> {
    let line = match name {
        old if old.starts_with("containerd 1.6") || old.starts_with("containerd v1.6") => warn(
            "runtime",
            "it drops the end of the output of containers that exit right after printing much",
            "use containerd 2",
        ),
        known if known.starts_with("containerd ") => return None,
        _ => warn("runtime", "this program was not tested with it on a real node", "try it: check --run"),
    };
    Some(line)
}

fn users(node: &Container, offer: &Offer) -> Line {
    match (&offer.user_namespaces, node.user_ns_by_default) {
        (UserNamespaces::Everywhere, _) => ok("userns", "pods can have user namespaces"),
        (UserNamespaces::WithPodNetwork, _) => {
            ok("userns", "pods with a network of their own can have user namespaces")
        }
        (UserNamespaces::Nowhere(why), true) => fail(
            "userns",
            format!("no user namespaces, and UserNsEnabledByDefault is set: {why}"),
            "jobs fail unless they say --userns=false: unset it, or use containerd 1.7 or newer with runc 1.2 or newer",
        ),
        (UserNamespaces::Nowhere(why), false) => warn(
            "userns",
            format!("no user namespaces: {why}"),
            "for --userns use containerd 1.7 or newer with runc 1.2 or newer",
        ),
    }
}

fn network(network: &PodNetwork) -> Line {
    match network {
        PodNetwork::Ready => ok("network", "pods can have a network of their own (NetworkReady)"),
        PodNetwork::NotReady(why) => warn(
            "network",
            format!("only jobs on the node's network run (NetworkReady is false: {why})"),
            "for others put a CNI configuration into /etc/cni/net.d and its plugins into /opt/cni/bin",
        ),
    }
}

/// By RuntimeConfig, or by what a verbose Status shows of containerd's configuration.
async fn driver(client: &Client, name: &str) -> Line {
    let told = match client.uses_systemd_cgroups().await {
        Ok(systemd) => Some(systemd),
        Err(error) if error.class() == Class::Unimplemented => {
            facts(client).await.ok().and_then(|told| told.systemd_cgroups)
        }
        Err(error) => return warn("cgroup driver", error.to_string(), "see the runtime's log"),
    };
    match told {
        Some(false) => ok("cgroup driver", "cgroupfs, as craned needs it"),
        Some(true) => fail(
            "cgroup driver",
            format!("{name} uses systemd, out of reach of craned's limits"),
            "set SystemdCgroup = false (containerd) or cgroup_manager = \"cgroupfs\" (CRI-O), and restart it",
        ),
        None => warn(
            "cgroup driver",
            format!("{name} does not say"),
            "make sure of SystemdCgroup = false (containerd) or cgroup_manager = \"cgroupfs\" (CRI-O)",
        ),
    }
}

async fn facts(client: &Client) -> Result<Facts, CriError> {
    client.facts().await
}

async fn image_service(client: &Client, node: &Container) -> Vec<Line> {
    let facts = facts(client).await.unwrap_or_default();
    let mut lines = Vec::new();
    let not_ready = facts.conditions.iter().find(|condition| condition.r#type == "RuntimeReady" && !condition.status);
    lines.extend(not_ready.map(|condition| {
        fail("runtime", format!("it is not ready: {} {}", condition.reason, condition.message), "see its log")
    }));
    lines.push(cdi(facts.takes_cdi));
    match client.list_images().await {
        Err(error) => {
            let socket = node.image_socket.display();
            lines.push(fail("images", format!("{socket} lists none: {error}"), "correct Container: ImageEndpoint:"));
            return lines;
        }
        Ok(images) => {
            lines.push(ok("images", format!("{} on this node", images.len())));
            let names: Vec<_> = images.iter().flat_map(|image| image.repo_tags.iter().cloned()).collect();
            lines.push(sandbox(client, facts.sandbox_image, &names).await);
        }
    }
    if let Ok(Ok(stores)) = timeout(LIMIT, client.image_places()).await
        && let Some(store) = stores.into_iter().next()
    {
        let room = move || store.is_dir().then(|| places::room("disk", &store)).into_iter().collect();
        lines.extend(within("disk", "the images' store", room).await);
    }
    lines
}

fn cdi(told: Option<bool>) -> Line {
    match told {
        Some(true) => ok("cdi", "CDI devices are taken"),
        Some(false) => warn(
            "cdi",
            "jobs with CDI devices are refused (enable_cdi is false)",
            "set enable_cdi = true in containerd, and restart it",
        ),
        None => {
            warn("cdi", "the runtime does not say", "containerd before 1.7 has none; CRI-O and containerd 2 have it on")
        }
    }
}

/// The pause container's image: pulling it needs a registry, at the first pod.
async fn sandbox(client: &Client, told: Option<String>, names: &[String]) -> Line {
    let pull =
        |image: &str| format!("crane-supervisor pull {image}, or name one that is here in the runtime's configuration");
    match told {
        Some(image) => match client.image(&image).await {
            Ok(Some(_)) => ok("sandbox image", format!("{image} is here")),
            Ok(None) => warn("sandbox image", format!("{image} is not here; the first pod pulls it"), pull(&image)),
            Err(error) => warn("sandbox image", format!("cannot ask for {image}: {error}"), "see the runtime's log"),
        },
        None => match names.iter().find(|name| is_pause(name)) {
            Some(name) => ok("sandbox image", format!("the runtime does not say which it is; {name} is here")),
            None => warn(
                "sandbox image",
                "the runtime does not say which it is, and none is here by name; the first pod pulls it",
                "see pinned_images, sandbox_image or pause_image in the runtime's configuration, and pull that",
            ),
        },
    }
}

fn is_pause(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    Path::new(last.split([':', '@']).next().unwrap_or_default()).starts_with("pause")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_is_known_for_is_told() {
        let found = |name| known(name).map(|line| line.found).unwrap_or_default();
        assert!(found("containerd 1.6.20~ds1").contains("drops the end"));
        assert!(found("cri-o 1.30.0").contains("not tested") && known("containerd v2.1.9").is_none());
    }

    #[test]
    fn a_pause_image_is_known_by_its_last_name() {
        assert!(is_pause("registry.k8s.io/pause:3.8") && is_pause("localhost/pause:1") && is_pause("pause@sha256:x"));
        assert!(!is_pause("x.io/pause/other:1") && !is_pause("menopause:1") && !is_pause(""));
    }
}
