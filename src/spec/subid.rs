//! Where users' subordinate ids come from (`container_config.subid`).

use super::Rejection;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use crate::wire::crane::supervisor::init_supervisor_request::container_config::sub_id_config::Mapping;
use serde::{Deserialize, Serialize};

/// Mappings of one list. As JSON two such lists stay below the 128 KiB of one argument (execve(2)).
const MAPPINGS_MAX: usize = 512;

/// The administrator's choice, `Container: SubId:`.
///
/// A look-up's helper gets it as an argument; it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubIdPolicy {
    /// Computed from ids, and recorded in the node's files.
    Managed {
        /// `UidMappings`.
        uids: Vec<SubIdMapping>,
        /// `GidMappings`.
        gids: Vec<SubIdMapping>,
    },
    /// What the node's files say.
    Unmanaged,
}

/// The ranges of `count` ids from `id` on: `size` subordinate ids each, the first one's from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubIdMapping {
    /// `Id`.
    pub id: u64,
    /// `IdCount`, at least 1; `id + count` does not overflow.
    pub count: u64,
    /// `SubIdStart`.
    pub start: u64,
    /// `SubIdSize`, at least 1.
    pub size: u64,
}

impl std::fmt::Display for SubIdMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.id.saturating_add(self.count).saturating_sub(1);
        write!(f, "{}-{} to {} each from {}", self.id, last, self.size, self.start)
    }
}

impl SubIdPolicy {
    /// Reads the policy; one that is absent is unmanaged.
    ///
    /// # Errors
    /// A [`Rejection`] that names the mapping: without ids, with ids past 64 bits, or one of too many.
    pub fn read(init: &InitSupervisorRequest) -> Result<Self, Rejection> {
        let Some(subid) = init.container_config.as_ref().and_then(|config| config.subid.as_ref()) else {
            return Ok(Self::Unmanaged);
        };
        if !subid.managed {
            return Ok(Self::Unmanaged);
        }
        Ok(Self::Managed {
            uids: mappings("uid_mappings", &subid.uid_mappings)?,
            gids: mappings("gid_mappings", &subid.gid_mappings)?,
        })
    }
}

fn mappings(list: &str, sent: &[Mapping]) -> Result<Vec<SubIdMapping>, Rejection> {
    let field = format!("container_config.subid.{list}");
    if sent.len() > MAPPINGS_MAX {
        return Err(Rejection::new(&field, format!("{} mappings; at most {MAPPINGS_MAX} can be used", sent.len())));
    }
    let checked = sent
        .iter()
        .enumerate()
        .map(|(index, sent)| mapping(sent).map_err(|problem| Rejection::new(&format!("{field}[{index}]"), problem)));
    checked.collect()
}

/// Only what no user could use: a list may go past 32 bits where no user's id leads.
fn mapping(sent: &Mapping) -> Result<SubIdMapping, &'static str> {
    match () {
        () if sent.id_count == 0 => Err("IdCount is 0: it covers nobody"),
        () if sent.subid_size == 0 => Err("SubIdSize is 0: it gives no ids"),
        () if sent.id.checked_add(sent.id_count).is_none() => Err("Id + IdCount is too large"),
        () => Ok(SubIdMapping { id: sent.id, count: sent.id_count, start: sent.subid_start, size: sent.subid_size }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::crane::supervisor::init_supervisor_request::ContainerConfig;
    use crate::wire::crane::supervisor::init_supervisor_request::container_config::SubIdConfig;

    fn init(subid: Option<SubIdConfig>) -> InitSupervisorRequest {
        let config = ContainerConfig { subid, ..ContainerConfig::default() };
        InitSupervisorRequest { container_config: Some(config), ..InitSupervisorRequest::default() }
    }

    fn managed(id: u64, id_count: u64, subid_size: u64) -> InitSupervisorRequest {
        let sound = Mapping { id: 1, id_count: 1, subid_start: 1, subid_size: 1 };
        let mapping = Mapping { id, id_count, subid_start: 100_000, subid_size };
        init(Some(SubIdConfig { managed: true, uid_mappings: vec![sound, mapping], gid_mappings: Vec::new() }))
    }

    #[test]
    fn without_a_word_or_with_false_it_is_unmanaged() {
        assert_eq!(SubIdPolicy::read(&InitSupervisorRequest::default()), Ok(SubIdPolicy::Unmanaged));
        assert_eq!(SubIdPolicy::read(&init(None)), Ok(SubIdPolicy::Unmanaged));
        assert_eq!(SubIdPolicy::read(&init(Some(SubIdConfig::default()))), Ok(SubIdPolicy::Unmanaged));
    }

    #[test]
    fn a_mapping_nobody_could_use_is_named() {
        for (init, problem) in [
            (managed(0, 0, 65_536), "container_config.subid.uid_mappings[1]: IdCount is 0"),
            (managed(0, 10, 0), "container_config.subid.uid_mappings[1]: SubIdSize is 0"),
            (managed(2, u64::MAX, 1), "container_config.subid.uid_mappings[1]: Id + IdCount"),
        ] {
            let rejection = SubIdPolicy::read(&init).unwrap_err();
            assert!(rejection.reason.starts_with(problem), "{}", rejection.reason);
        }
    }

    #[test]
    fn the_largest_policy_fits_into_an_argument() {
        let widest = Mapping { id: u64::MAX - 1, id_count: 1, subid_start: u64::MAX, subid_size: u64::MAX };
        let lists =
            |count| SubIdConfig { managed: true, uid_mappings: vec![widest; count], gid_mappings: vec![widest; count] };
        let policy = SubIdPolicy::read(&init(Some(lists(MAPPINGS_MAX)))).unwrap();
        let text = serde_json::to_string(&policy).unwrap();
        assert!(text.len() < 128 * 1024, "{}", text.len());
        assert_eq!(serde_json::from_str::<SubIdPolicy>(&text).unwrap(), policy);
        assert!(SubIdPolicy::read(&init(Some(lists(MAPPINGS_MAX + 1)))).is_err());
    }
}
