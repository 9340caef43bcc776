//! Devices by CDI name: a runtime that would leave them out without a word is refused.

use super::prepared;
use crate::cri::client::Client;
use crate::spec::ContainerSpec;
use crate::step::event::Failure;

/// Asks only where there are devices.
pub(super) async fn check(client: &Client, work: &ContainerSpec) -> Result<(), Failure> {
    if work.devices.is_empty() {
        return Ok(());
    }
    let refused =
        |problem: &str| Err(prepared(format!("container_meta.cdi_devices: {}: {problem}", work.devices.join(", "))));
    match client.when_there(|| client.takes_cdi()).await.map_err(prepared)? {
        Some(true) => return Ok(()),
        Some(false) => return refused("the runtime's configuration has CDI switched off: enable_cdi = true is needed"),
        None => {}
    }
    let runtime = client.when_there(|| client.version()).await.map_err(prepared)?;
    if runtime.runtime_name == "containerd" && is_before_1_7(&runtime.runtime_version) {
        return refused(&format!(
            "containerd {} knows no CDI and would start the container without them: 1.7 or newer is needed",
            runtime.runtime_version
        ));
    }
    Ok(())
}

fn is_before_1_7(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    matches!((parts.next().flatten(), parts.next().flatten()), (Some(1), Some(minor)) if minor < 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_versions_are_old() {
        let old = ["1.6.20~ds1", "v1.6.0", "1.5.1"].map(is_before_1_7);
        let new = ["1.7.24", "v2.1.9", "10.0", "odd", ""].map(is_before_1_7);
        assert!(old.iter().all(|old| *old) && new.iter().all(|old| !*old));
    }
}
