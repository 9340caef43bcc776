//! What a runtime says of itself, for a diagnosis: conditions, and the parts of its own
//! configuration that containerd shows in a verbose Status.
//!
//! Foreign input; what is missing or of another shape is unknown. Called by `cli::check`.

use crate::cri::api::{RuntimeCondition, StatusRequest};
use crate::cri::call::call;
use crate::cri::client::Client;
use crate::cri::error::CriError;
use serde_json::Value;
use std::collections::HashMap;

/// What is told; `None` where it is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// RuntimeReady, NetworkReady.
    pub conditions: Vec<RuntimeCondition>,
    /// The image of the pause container.
    pub sandbox_image: Option<String>,
    /// Whether the default handler's cgroups are systemd's.
    pub systemd_cgroups: Option<bool>,
    /// Whether CDI devices are taken.
    pub takes_cdi: Option<bool>,
}

impl Client {
    /// Asks for all of it.
    ///
    /// # Errors
    /// The call's.
    pub async fn facts(&self) -> Result<Facts, CriError> {
        let mut client = self.runtime.clone();
        let request = StatusRequest { verbose: true };
        let answer = call("Status", Some(self.limits.look), request, |r| async move { client.status(r).await }).await?;
        let told = of(&answer.info);
        Ok(Facts { conditions: answer.status.unwrap_or_default().conditions, ..told })
    }
}

fn of(info: &HashMap<String, String>) -> Facts {
    let config: Value = info.get("config").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let handler = config["containerd"]["defaultRuntimeName"].as_str().unwrap_or("runc");
    Facts {
        conditions: Vec::new(),
        sandbox_image: text(&config["sandboxImage"]).or_else(|| info.get("sandboxImage").cloned()),
        systemd_cgroups: config["containerd"]["runtimes"][handler]["options"]["SystemdCgroup"].as_bool(),
        takes_cdi: config["enableCDI"].as_bool(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_and_all_else_is_unknown() {
        let info = |text: &str| HashMap::from([("config".to_owned(), text.to_owned())]);
        let told = of(&info(
            r#"{"sandboxImage": "p:1", "enableCDI": false,
                "containerd": {"defaultRuntimeName": "r", "runtimes": {"r": {"options": {"SystemdCgroup": true}}}}}"#,
        ));
        assert_eq!(
            (told.sandbox_image.as_deref(), told.systemd_cgroups, told.takes_cdi),
            (Some("p:1"), Some(true), Some(false))
        );
        for odd in ["", "7", "[]", r#"{"sandboxImage": 7, "containerd": [], "enableCDI": "x"}"#] {
            assert_eq!(of(&info(odd)), Facts::default(), "{odd}");
        }
        assert_eq!(of(&HashMap::new()), Facts::default());
    }
}
