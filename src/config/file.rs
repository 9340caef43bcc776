//! Reads `/etc/crane/config.yaml`, the file craned and ccon read.
//!
//! Only what concerns containers on this node; the rest of the file is none of
//! our business. Key names and defaults are those of CraneSched's container
//! deployment guide. What the values mean together is for `check`.

use crate::config::section::{self, Key, Notes, Read, Section};
use serde::de::{DeserializeSeed, MapAccess};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Where the file is unless `-C` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/crane/config.yaml";
/// Where CraneSched installs its own supervisor; the default of `Supervisor: Path:` too.
pub const DEFAULT_PROCESS_SUPERVISOR: &str = "/usr/libexec/csupervisor";

/// A larger file is not a configuration: a cluster of thousands of nodes takes some 100 KiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; name another file with -C")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is absurdly large.
    #[error(
        "cannot read the configuration {path}: it is over the limit of {MAX_FILE_BYTES} bytes; is it the right file?"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not text.
    #[error("cannot read the configuration {path}: it is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The file is no YAML, or a value has the wrong type.
    #[error("cannot use the configuration {path}: {reason}")]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
}

/// What the file says about containers, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `CraneBaseDir`: relative directories start here.
    pub base_dir: PathBuf,
    /// `Supervisor:`
    pub supervisor: SupervisorSection,
    /// `Container:`
    pub container: ContainerSection,
}

/// `Supervisor:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorSection {
    /// The program craned starts.
    pub path: PathBuf,
    /// trace, debug, info, warn, error or off.
    pub debug_level: String,
    /// Directory of the steps' logs.
    pub log_dir: PathBuf,
    /// Bytes of one log file, as written in the file.
    pub max_log_file_size: String,
    /// Files of one log.
    pub max_log_file_num: u64,
    /// `Container:`, keys of ours that craned ignores
    pub container: OursSection,
}

/// `Supervisor: Container:`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OursSection {
    /// Capabilities that containers without a user namespace keep.
    pub capabilities: Vec<String>,
    /// Who takes the steps without a container.
    pub process_supervisor: Option<PathBuf>,
    /// Bytes that are kept of a step's output in the user's file; none is no limit.
    pub max_user_log_size: Option<String>,
    /// Whether the registry is asked also for an image that is present.
    pub reauthorize_images: bool,
    /// Seconds a pull may do nothing; 0 is no limit.
    pub pull_stall_timeout: Option<u64>,
}

/// `Container:`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSection {
    /// Whether the feature is on.
    pub enabled: bool,
    /// Directory of the steps' state; `None` where the key is not set.
    pub temp_dir: Option<PathBuf>,
    /// The CRI runtime service's socket.
    pub runtime_endpoint: Option<String>,
    /// The CRI image service's socket; the runtime's unless set.
    pub image_endpoint: Option<String>,
    /// Whether a job that does not say gets a user namespace.
    pub user_ns_enabled_by_default: bool,
    /// Seconds one CRI call may take.
    pub cri_request_timeout: Option<u64>,
    /// Seconds a pull may take.
    pub image_pulling_timeout: Option<u64>,
    /// `Dns:`
    pub dns: DnsSection,
    /// `SubId:`
    pub sub_id: SubIdSection,
    /// `BindFs:`
    pub bind_fs: BindFsSection,
}

/// `Container: Dns:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSection {
    /// First name of every search list.
    pub cluster_domain: String,
    /// Name servers.
    pub servers: Vec<String>,
    /// Further search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// `Container: SubId:`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubIdSection {
    /// Whether ranges are computed from the mappings.
    pub managed: bool,
    /// For uids.
    pub uid_mappings: Vec<MappingSection>,
    /// For primary gids.
    pub gid_mappings: Vec<MappingSection>,
}

/// One entry of `UidMappings` or `GidMappings`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappingSection {
    /// First host id covered.
    pub id: u64,
    /// How many host ids.
    pub id_count: u64,
    /// First subordinate id of the first host id.
    pub sub_id_start: u64,
    /// Subordinate ids of each host id.
    pub sub_id_size: u64,
}

/// `Container: BindFs:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindFsSection {
    /// Whether bindfs may be used.
    pub enabled: bool,
    /// The bindfs program.
    pub bindfs_binary: String,
    /// The unmounting program.
    pub fusermount_binary: String,
    /// Where bindfs mounts go.
    pub mount_base_dir: PathBuf,
}

impl Config {
    /// Reads the file at `path`; also returns what a person should know about it.
    pub fn read(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(read)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotText { path: path.to_owned() })?;
        parse(&text).map_err(|error| value_error(path, &text, &error))
    }
}

fn value_error(path: &Path, text: &str, error: &serde_saphyr::Error) -> ConfigError {
    let reason = error.without_snippet().to_string();
    // Its name alone: other sections' values may be secret.
    let key = error.location().and_then(|place| key_in(text, place.line()));
    let reason = key.map_or_else(|| reason.clone(), |key| format!("{reason} ({key})"));
    ConfigError::Value { path: path.to_owned(), reason }
}

/// The key that a line begins with.
fn key_in(text: &str, line: u64) -> Option<&str> {
    let line = text.lines().nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
    let key = line.trim_start_matches([' ', '-', '{']).split_once(':')?.0.trim();
    let plain =
        !key.is_empty() && key.len() <= 64 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain.then_some(key)
}

fn parse(text: &str) -> Result<(Config, Vec<String>), serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        // Forwarded so that `section` can keep the first and say so.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // As yaml-cpp: no merge keys, and a leading 0 means octal.
        merge_keys: MergeKeyPolicy::AsOrdinary,
        legacy_octal_numbers: true,
    };
    let notes = Notes::default();
    let config = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Read::new(&notes).deserialize(deserializer)
    })?;
    Ok((config, notes.into_lines()))
}

impl Section for Config {
    const NAME: &'static str = "";
    const SHARED: bool = true;

    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, notes: &Notes) -> Result<Key, A::Error> {
        match key {
            "CraneBaseDir" => section::value(values, &mut self.base_dir),
            "Supervisor" => section::section(values, &mut self.supervisor, notes),
            "Container" => section::section(values, &mut self.container, notes),
            _ => Ok(Key::Unknown),
        }
    }
}

impl Section for OursSection {
    const NAME: &'static str = "Supervisor.Container";

    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, _: &Notes) -> Result<Key, A::Error> {
        match key {
            "Capabilities" => section::value(values, &mut self.capabilities),
            "ProcessSupervisor" => section::value(values, &mut self.process_supervisor),
            "MaxUserLogSize" => section::value(values, &mut self.max_user_log_size),
            "ReauthorizeImages" => section::value(values, &mut self.reauthorize_images),
            "PullStallTimeout" => section::value(values, &mut self.pull_stall_timeout),
            _ => Ok(Key::Unknown),
        }
    }
}

impl Section for SupervisorSection {
    const NAME: &'static str = "Supervisor";

    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, notes: &Notes) -> Result<Key, A::Error> {
        match key {
            "Container" => section::section(values, &mut self.container, notes),
            "Path" => section::value(values, &mut self.path),
            "DebugLevel" => section::value(values, &mut self.debug_level),
            "LogDir" => section::value(values, &mut self.log_dir),
            "MaxLogFileSize" => section::value(values, &mut self.max_log_file_size),
            "MaxLogFileNum" => section::value(values, &mut self.max_log_file_num),
            _ => Ok(Key::Unknown),
        }
    }
}

impl Section for ContainerSection {
    const NAME: &'static str = "Container";

    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, notes: &Notes) -> Result<Key, A::Error> {
        match key {
            "Enabled" => section::value(values, &mut self.enabled),
            "TempDir" => section::value(values, &mut self.temp_dir),
            "RuntimeEndpoint" => section::value(values, &mut self.runtime_endpoint),
            "ImageEndpoint" => section::value(values, &mut self.image_endpoint),
            "UserNsEnabledByDefault" => section::value(values, &mut self.user_ns_enabled_by_default),
            "CriRequestTimeout" => section::value(values, &mut self.cri_request_timeout),
            "ImagePullingTimeout" => section::value(values, &mut self.image_pulling_timeout),
            "Dns" => section::section(values, &mut self.dns, notes),
            "SubId" => section::section(values, &mut self.sub_id, notes),
            "BindFs" => section::section(values, &mut self.bind_fs, notes),
            _ => Ok(Key::Unknown),
        }
    }
}

impl Section for DnsSection {
    const NAME: &'static str = "Container.Dns";

    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, _: &Notes) -> Result<Key, A::Error> {
        match key {
            "ClusterDomain" => section::value(values, &mut self.cluster_domain),
            "Servers" => section::value(values, &mut self.servers),
            "Searches" => section::value(values, &mut self.searches),
            "Options" => section::value(values, &mut self.options),
            _ => Ok(Key::Unknown),
        }
    }
}

impl Section for SubIdSection {
    const NAME: &'static str = "Container.SubId";

    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, notes: &Notes) -> Result<Key, A::Error> {
        match key {
            "Managed" => section::value(values, &mut self.managed),
            "UidMappings" => section::sections(values, &mut self.uid_mappings, notes),
            "GidMappings" => section::sections(values, &mut self.gid_mappings, notes),
            _ => Ok(Key::Unknown),
        }
    }
}

impl Section for MappingSection {
    const NAME: &'static str = "Container.SubId mapping";

    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, _: &Notes) -> Result<Key, A::Error> {
        match key {
            "Id" => section::value(values, &mut self.id),
            "IdCount" => section::value(values, &mut self.id_count),
            "SubIdStart" => section::value(values, &mut self.sub_id_start),
            "SubIdSize" => section::value(values, &mut self.sub_id_size),
            _ => Ok(Key::Unknown),
        }
    }
}

impl Section for BindFsSection {
    const NAME: &'static str = "Container.BindFs";

    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, values: &mut A, _: &Notes) -> Result<Key, A::Error> {
        match key {
            "Enabled" => section::value(values, &mut self.enabled),
            "BindfsBinary" => section::value(values, &mut self.bindfs_binary),
            "FusermountBinary" => section::value(values, &mut self.fusermount_binary),
            "MountBaseDir" => section::value(values, &mut self.mount_base_dir),
            _ => Ok(Key::Unknown),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_dir: "/var/crane/".into(),
            supervisor: SupervisorSection::default(),
            container: ContainerSection::default(),
        }
    }
}

impl Default for SupervisorSection {
    fn default() -> Self {
        Self {
            path: DEFAULT_PROCESS_SUPERVISOR.into(),
            debug_level: "trace".into(),
            log_dir: "supervisor".into(),
            max_log_file_size: "50M".into(),
            max_log_file_num: 3,
            container: OursSection::default(),
        }
    }
}

impl Default for DnsSection {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".into(),
            servers: vec!["127.0.0.1".into()],
            searches: Vec::new(),
            options: Vec::new(),
        }
    }
}

impl Default for BindFsSection {
    fn default() -> Self {
        Self {
            enabled: false,
            bindfs_binary: "bindfs".into(),
            fusermount_binary: "fusermount3".into(),
            mount_base_dir: "/mnt/crane".into(),
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
