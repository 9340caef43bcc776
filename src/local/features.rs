//! What a runtime's answers say about user namespaces.
//!
//! Pure. Runtimes since containerd 2 say it for each of their handlers; older
//! ones are known by version only. A guess that is too kind does no harm: the
//! supervisor looks at the pod it got and fails the step.

use crate::cri::api::{RuntimeHandler, VersionResponse};
use crate::local::runtime::UserNamespaces;

/// containerd before this takes the wish for a user namespace and ignores it.
const FIRST_CONTAINERD: (u32, u32) = (1, 7);

/// Which pods of the default handler can have a user namespace.
pub fn user_namespaces(version: &VersionResponse, handlers: &[RuntimeHandler]) -> UserNamespaces {
    let runtime = format!("{} {}", version.runtime_name, version.runtime_version);
    let is_containerd = version.runtime_name == "containerd";
    if is_containerd && major_minor(&version.runtime_version).is_some_and(|found| found < FIRST_CONTAINERD) {
        let (major, minor) = FIRST_CONTAINERD;
        return UserNamespaces::Nowhere(format!(
            "{runtime} has none; containerd {major}.{minor} is the first that has"
        ));
    }
    match default_handler_says(handlers) {
        Some(false) => UserNamespaces::Nowhere(format!(
            "{runtime} says that its default runtime handler has none; runc before 1.2 and old kernels have none"
        )),
        // containerd 2 cannot pin such a namespace; 1.7 could with crun alone.
        _ if is_containerd => UserNamespaces::WithPodNetwork,
        _ => UserNamespaces::Everywhere,
    }
}

fn default_handler_says(handlers: &[RuntimeHandler]) -> Option<bool> {
    let default = handlers.iter().find(|handler| handler.name.is_empty())?;
    Some(default.features.as_ref()?.user_namespaces)
}

/// `1.7.24~ds1` and `v2.1.9` alike; `None` for what is no release.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).splitn(3, '.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let digits = minor.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::api::RuntimeHandlerFeatures;

    fn of(name: &str, version: &str, handlers: &[(&str, bool)]) -> UserNamespaces {
        let version = VersionResponse {
            runtime_name: name.into(),
            runtime_version: version.into(),
            ..VersionResponse::default()
        };
        let handler = |&(name, can): &(&str, bool)| RuntimeHandler {
            name: name.into(),
            features: Some(RuntimeHandlerFeatures { user_namespaces: can, ..RuntimeHandlerFeatures::default() }),
        };
        user_namespaces(&version, &handlers.iter().map(handler).collect::<Vec<_>>())
    }

    fn reason(answer: UserNamespaces) -> String {
        match answer {
            UserNamespaces::Nowhere(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn containerd_before_1_7_has_none_whatever_it_takes() {
        assert!(reason(of("containerd", "1.6.20~ds1", &[])).starts_with("containerd 1.6.20~ds1 has none; "));
        assert!(reason(of("containerd", "v1.5.0", &[("", true)])).contains("1.7 is the first"));
    }

    #[test]
    fn containerd_since_1_7_has_them_with_a_pod_network() {
        for version in ["1.7.24~ds1", "v2.1.9", "2.0", "3.0.0-rc.1", "unknown"] {
            assert_eq!(of("containerd", version, &[]), UserNamespaces::WithPodNetwork, "{version}");
        }
    }

    #[test]
    fn the_default_handlers_own_word_counts() {
        assert_eq!(of("containerd", "2.1.9", &[("runc", false), ("", true)]), UserNamespaces::WithPodNetwork);
        assert!(reason(of("containerd", "2.1.9", &[("runc", true), ("", false)])).contains("runc before 1.2"));
        assert_eq!(of("cri-o", "1.32.0", &[("", true)]), UserNamespaces::Everywhere);
        assert!(reason(of("cri-o", "1.32.0", &[("", false)])).starts_with("cri-o 1.32.0 says"));
    }

    #[test]
    fn a_runtime_that_does_not_say_is_tried() {
        assert_eq!(of("cri-o", "1.28.0", &[]), UserNamespaces::Everywhere);
        assert_eq!(of("containerd", "2.1.9", &[("crun", false)]), UserNamespaces::WithPodNetwork);
    }
}
