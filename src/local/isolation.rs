//! Which network and which users the pod gets: from what was asked for, the
//! configuration and what the runtime offers.
//!
//! Pure but for `say`. What was asked for is done or refused; what was not asked
//! for gives way, and that is said.

use crate::local::LocalError;
use crate::local::plan::{Isolation, Network, Request, Users};
use crate::local::runtime::{Offer, PodNetwork, UserNamespaces};

/// Decides for `request` on a runtime that has `offer`; `say` takes lines for the person.
pub fn choose(request: &Request, offer: Offer, say: &dyn Fn(&str)) -> Result<Isolation, LocalError> {
    let isolation = match request.user_namespace {
        Some(false) => Isolation { network: network(request, offer.pod_network, say)?, users: Users::Nodes },
        Some(true) => with_users(request, offer, say)?,
        None => by_default(request, offer, say)?,
    };
    if isolation.users == Users::Own && request.user.uid == 0 && !request.mounts.is_empty() {
        return Err(LocalError::RootMounts);
    }
    Ok(isolation)
}

/// With `--userns`.
fn with_users(request: &Request, offer: Offer, say: &dyn Fn(&str)) -> Result<Isolation, LocalError> {
    let why_not = match (offer.user_namespaces, request.network, &offer.pod_network) {
        (UserNamespaces::Nowhere(why), _, _) => Some(why),
        (UserNamespaces::WithPodNetwork, Some(Network::Node), _) => Some(NEEDS_POD_NETWORK.to_owned()),
        // The node's network would do on some runtimes, but nobody asked for it.
        (_, None, PodNetwork::NotReady(why)) => {
            Some(format!("it goes with a pod network, and the runtime has none: {why}"))
        }
        (UserNamespaces::WithPodNetwork | UserNamespaces::Everywhere, _, _) => None,
    };
    match why_not {
        Some(reason) => Err(LocalError::NoUserNamespace { reason }),
        None => Ok(Isolation { network: network(request, offer.pod_network, say)?, users: Users::Own }),
    }
}

/// Without `--userns`: as configured, where it can be done.
fn by_default(request: &Request, offer: Offer, say: &dyn Fn(&str)) -> Result<Isolation, LocalError> {
    let network = network(request, offer.pod_network, say)?;
    if !request.node.user_ns_by_default {
        return Ok(Isolation { network, users: Users::Nodes });
    }
    let why_not = match (offer.user_namespaces, network) {
        (UserNamespaces::Nowhere(why), _) => why,
        (UserNamespaces::WithPodNetwork, Network::Node) => NEEDS_POD_NETWORK.to_owned(),
        (UserNamespaces::WithPodNetwork, Network::Pod) | (UserNamespaces::Everywhere, _) => {
            return Ok(Isolation { network, users: Users::Own });
        }
    };
    say(&format!("running without a user namespace, although UserNsEnabledByDefault is set: {why_not}"));
    Ok(Isolation { network, users: Users::Nodes })
}

const NEEDS_POD_NETWORK: &str = "containerd has user namespaces only for pods with a network of their own";

/// What was asked for, or what the runtime has.
fn network(request: &Request, pods: PodNetwork, say: &dyn Fn(&str)) -> Result<Network, LocalError> {
    let wants_ports = !request.ports.is_empty();
    let refused = |reason: String| Err(LocalError::NoPorts { reason });
    match (request.network, pods) {
        (Some(Network::Node), _) if wants_ports => {
            refused("the node's network has none to map; leave out --network host".into())
        }
        (Some(network), _) => Ok(network),
        (None, PodNetwork::Ready) => Ok(Network::Pod),
        (None, PodNetwork::NotReady(why)) if wants_ports => refused(format!("the runtime has no pod network: {why}")),
        (None, PodNetwork::NotReady(why)) => {
            say(&format!("using the node's network, since the runtime has no pod network: {why}"));
            Ok(Network::Node)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::plan::{Ids, Mount, PortMapping, Protocol};
    use crate::local::testing;
    use std::cell::RefCell;

    const POD: Isolation = Isolation { network: Network::Pod, users: Users::Nodes };
    const NODE: Isolation = Isolation { network: Network::Node, users: Users::Nodes };

    fn own(network: Network) -> Isolation {
        Isolation { network, users: Users::Own }
    }

    fn has(pod_network: PodNetwork, user_namespaces: UserNamespaces) -> Offer {
        Offer { name: "fake 1".into(), pod_network, user_namespaces }
    }

    fn missing() -> PodNetwork {
        PodNetwork::NotReady("no CNI".into())
    }

    fn none() -> UserNamespaces {
        UserNamespaces::Nowhere("too old".into())
    }

    /// What is chosen or why not, and what was said.
    fn chosen(request: &Request, offer: Offer) -> (Result<Isolation, String>, Vec<String>) {
        let said = RefCell::new(Vec::new());
        let isolation = choose(request, offer, &|line| said.borrow_mut().push(line.to_owned()));
        (isolation.map_err(|error| error.to_string()), said.into_inner())
    }

    fn asking(user_namespace: Option<bool>, network: Option<Network>) -> Request {
        Request { user_namespace, network, user: Ids { uid: 1000, gid: 1000 }, ..testing::request() }
    }

    fn by_default(network: Option<Network>) -> Request {
        let mut request = asking(None, network);
        request.node.user_ns_by_default = true;
        request
    }

    #[test]
    fn the_nodes_network_stands_in_only_for_who_did_not_ask() {
        let with = |network, ports, pods| {
            let port = PortMapping { host_ip: None, host: 80, container: 80, protocol: Protocol::Tcp };
            let request = Request { ports: vec![port; ports], ..asking(None, network) };
            let (isolation, said) = chosen(&request, has(pods, none()));
            (isolation.ok(), said.len())
        };
        assert_eq!(with(None, 1, PodNetwork::Ready), (Some(POD), 0));
        assert_eq!(with(None, 0, missing()), (Some(NODE), 1));
        assert_eq!(with(None, 1, missing()), (None, 0));
        assert_eq!(with(Some(Network::Pod), 1, missing()), (Some(POD), 0));
        assert_eq!(with(Some(Network::Node), 1, PodNetwork::Ready), (None, 0));
    }

    #[test]
    fn a_user_namespace_that_was_asked_for_is_given_or_refused() {
        use UserNamespaces::{Everywhere, WithPodNetwork};
        let with = |network, offer| {
            let (isolation, said) = chosen(&asking(Some(true), network), offer);
            assert!(said.is_empty(), "{said:?}");
            isolation
        };
        assert_eq!(with(None, has(PodNetwork::Ready, WithPodNetwork)), Ok(own(Network::Pod)));
        assert_eq!(with(Some(Network::Pod), has(missing(), WithPodNetwork)), Ok(own(Network::Pod)));
        assert_eq!(with(Some(Network::Node), has(PodNetwork::Ready, Everywhere)), Ok(own(Network::Node)));
        for (network, offer, reason) in [
            (None, has(missing(), Everywhere), "no CNI"),
            (None, has(PodNetwork::Ready, none()), "too old"),
            (Some(Network::Node), has(PodNetwork::Ready, WithPodNetwork), "a network of their own"),
        ] {
            let error = with(network, offer).unwrap_err();
            assert!(error.contains("--userns") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_configured_default_gives_way_and_says_so() {
        use UserNamespaces::WithPodNetwork;
        assert_eq!(chosen(&by_default(None), has(PodNetwork::Ready, WithPodNetwork)).0, Ok(own(Network::Pod)));
        for (network, offer, isolation, reason) in [
            (None, has(PodNetwork::Ready, none()), POD, "too old"),
            (None, has(missing(), WithPodNetwork), NODE, "a network of their own"),
            (Some(Network::Node), has(PodNetwork::Ready, WithPodNetwork), NODE, "a network of their own"),
        ] {
            let (chosen, said) = chosen(&by_default(network), offer);
            assert_eq!(chosen, Ok(isolation));
            let last = said.last().unwrap();
            assert!(last.contains("UserNsEnabledByDefault") && last.contains(reason), "{said:?}");
        }
        let refusing = Request { user_namespace: Some(false), ..by_default(None) };
        assert_eq!(chosen(&refusing, has(PodNetwork::Ready, WithPodNetwork)), (Ok(POD), vec![]));
    }

    #[test]
    fn roots_directories_stay_out_of_user_namespaces() {
        let offer = || has(PodNetwork::Ready, UserNamespaces::WithPodNetwork);
        let mount = Mount { host: "/srv".into(), container: "/srv".into() };
        let root = Ids { uid: 0, gid: 0 };
        let of_root = |request: Request| Request { user: root, mounts: vec![mount.clone()], ..request };
        for request in [asking(Some(true), None), by_default(None)] {
            let error = chosen(&of_root(request), offer()).0.unwrap_err();
            assert!(error.contains("--as") && error.contains("--userns=false"), "{error}");
        }
        assert_eq!(chosen(&of_root(asking(Some(false), None)), offer()).0, Ok(POD));
        assert_eq!(chosen(&Request { user: root, ..asking(Some(true), None) }, offer()).0, Ok(own(Network::Pod)));
        let ordinary = Request { mounts: vec![mount.clone()], ..asking(Some(true), None) };
        assert_eq!(chosen(&ordinary, offer()).0, Ok(own(Network::Pod)));
    }
}
