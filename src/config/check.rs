//! From what the configuration says to what can be used, without looking at the node.
//!
//! Pure: it neither opens sockets nor makes directories. The two messages that
//! CraneSched's deployment guide explains are worded exactly as there.

use crate::config::file::{BindFsSection, Config, DnsSection, SubIdSection};
use crate::config::size;
use std::path::{Path, PathBuf};

/// Where steps keep their state unless `TempDir` is set.
const DEFAULT_TEMP_DIR: &str = "supervisor/containers/";

/// What craned takes instead, which no document says.
const CRANED_TEMP_DIR: &str = "craned/container";

/// The log levels craned knows.
const DEBUG_LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

/// Why the configuration cannot run containers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CheckError {
    /// `Container: Enabled:` is false or absent.
    #[error("container feature not enabled")]
    NotEnabled,
    /// The feature is on and has no runtime.
    #[error("RuntimeEndpoint is not configured.")]
    NoRuntimeEndpoint,
    /// An endpoint is no local socket.
    #[error("{key} is {value:?}: expected the absolute path of a unix socket, with or without unix:// before it")]
    Endpoint {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// `CraneBaseDir` is relative.
    #[error("CraneBaseDir is {0:?}: expected an absolute path")]
    BaseDir(PathBuf),
    /// `DebugLevel` is none of craned's.
    #[error("Supervisor.DebugLevel is {0:?}: expected one of trace, debug, info, warn, error, off")]
    DebugLevel(String),
    /// `MaxLogFileSize` is no size.
    #[error("Supervisor.MaxLogFileSize: {0}")]
    MaxLogFileSize(#[from] size::SizeError),
}

impl CheckError {
    /// What to do, in a person's words; the error's own stay CraneSched's.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotEnabled => "set Container: Enabled: true in the configuration",
            Self::NoRuntimeEndpoint => {
                "set Container: RuntimeEndpoint: to the runtime's socket, such as unix:///run/containerd/containerd.sock"
            }
            Self::Endpoint { .. } => "write it as unix:///run/containerd/containerd.sock",
            Self::BaseDir(_) => "write it as /var/crane/",
            Self::DebugLevel(_) | Self::MaxLogFileSize(_) => "correct it in the configuration",
        }
    }
}

/// A configuration that can run containers; every path is absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// `CraneBaseDir`.
    pub base_dir: PathBuf,
    /// Directory of the steps' state.
    pub temp_dir: PathBuf,
    /// Directory of the steps' logs.
    pub log_dir: PathBuf,
    /// Log level of a supervisor.
    pub debug_level: String,
    /// Bytes of one log file.
    pub max_log_file_size: u64,
    /// Files of one log.
    pub max_log_file_num: u64,
    /// Socket of the runtime service.
    pub runtime_socket: PathBuf,
    /// Socket of the image service.
    pub image_socket: PathBuf,
    /// Whether a job that does not say gets a user namespace.
    pub user_ns_by_default: bool,
    /// Seconds one CRI call may take.
    pub cri_request_timeout: Option<u64>,
    /// Seconds a pull may take.
    pub image_pulling_timeout: Option<u64>,
    /// Name resolution in pods.
    pub dns: DnsSection,
    /// Subordinate ids.
    pub sub_id: SubIdSection,
    /// bindfs; `None` where it is off.
    pub bind_fs: Option<BindFsSection>,
}

impl Config {
    /// Everywhere steps may keep their state, with the likelier first: with the key unset, craned's
    /// compiled default differs from the documented one.
    pub fn temp_dirs(&self) -> Vec<PathBuf> {
        match &self.container.temp_dir {
            Some(dir) => vec![self.base_dir.join(dir)],
            None => [CRANED_TEMP_DIR, DEFAULT_TEMP_DIR].map(|dir| self.base_dir.join(dir)).to_vec(),
        }
    }

    /// Where logs are.
    pub fn log_dir(&self) -> PathBuf {
        self.base_dir.join(&self.supervisor.log_dir)
    }

    /// Where bindfs mounts are, whether bindfs is on or was.
    pub fn mount_base_dir(&self) -> PathBuf {
        self.absolute_bind_fs().mount_base_dir
    }

    /// What containers need, or what is in their way.
    pub fn container(&self) -> Result<Container, CheckError> {
        let (container, supervisor) = (&self.container, &self.supervisor);
        if !container.enabled {
            return Err(CheckError::NotEnabled);
        }
        let runtime = container.runtime_endpoint.as_deref().filter(|text| !text.trim().is_empty());
        let runtime = runtime.ok_or(CheckError::NoRuntimeEndpoint)?;
        let image = container.image_endpoint.as_deref().filter(|text| !text.trim().is_empty());
        if !self.base_dir.is_absolute() {
            return Err(CheckError::BaseDir(self.base_dir.clone()));
        }
        if !DEBUG_LEVELS.contains(&supervisor.debug_level.as_str()) {
            return Err(CheckError::DebugLevel(supervisor.debug_level.clone()));
        }
        Ok(Container {
            base_dir: self.base_dir.clone(),
            temp_dir: self.base_dir.join(container.temp_dir.as_deref().unwrap_or(Path::new(DEFAULT_TEMP_DIR))),
            log_dir: self.log_dir(),
            debug_level: supervisor.debug_level.clone(),
            max_log_file_size: size::parse(&supervisor.max_log_file_size)?,
            max_log_file_num: supervisor.max_log_file_num,
            runtime_socket: socket("RuntimeEndpoint", runtime)?,
            image_socket: image
                .map_or_else(|| socket("RuntimeEndpoint", runtime), |image| socket("ImageEndpoint", image))?,
            user_ns_by_default: container.user_ns_enabled_by_default,
            cri_request_timeout: container.cri_request_timeout,
            image_pulling_timeout: container.image_pulling_timeout,
            dns: container.dns.clone(),
            sub_id: container.sub_id.clone(),
            bind_fs: container.bind_fs.enabled.then(|| self.absolute_bind_fs()),
        })
    }

    fn absolute_bind_fs(&self) -> BindFsSection {
        let section = self.container.bind_fs.clone();
        BindFsSection { mount_base_dir: self.base_dir.join(&section.mount_base_dir), ..section }
    }
}

fn socket(key: &'static str, value: &str) -> Result<PathBuf, CheckError> {
    let trimmed = value.trim();
    let path = Path::new(trimmed.strip_prefix("unix://").unwrap_or(trimmed));
    if !path.is_absolute() {
        return Err(CheckError::Endpoint { key, value: value.to_owned() });
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled(endpoint: Option<&str>) -> Config {
        let mut config = Config::default();
        config.container.enabled = true;
        config.container.runtime_endpoint = endpoint.map(str::to_owned);
        config
    }

    #[test]
    fn the_guides_two_messages_are_worded_as_there() {
        assert_eq!(Config::default().container().unwrap_err().to_string(), "container feature not enabled");
        for endpoint in [None, Some(""), Some(" ")] {
            assert_eq!(enabled(endpoint).container().unwrap_err().to_string(), "RuntimeEndpoint is not configured.");
        }
    }

    #[test]
    fn endpoints_may_be_written_with_or_without_a_scheme() {
        for text in ["/run/a.sock", "unix:///run/a.sock"] {
            let container = enabled(Some(text)).container().unwrap();
            assert_eq!(container.runtime_socket, Path::new("/run/a.sock"));
            assert_eq!(container.image_socket, container.runtime_socket);
        }
        for text in ["run/a.sock", "tcp://127.0.0.1:1", "unix://a.sock"] {
            assert!(matches!(enabled(Some(text)).container(), Err(CheckError::Endpoint { .. })), "{text}");
        }
    }

    #[test]
    fn relative_directories_start_at_the_base_directory() {
        let container = enabled(Some("/run/a.sock")).container().unwrap();
        assert_eq!(container.temp_dir, Path::new("/var/crane/supervisor/containers/"));
        assert_eq!(container.log_dir, Path::new("/var/crane/supervisor"));
        assert_eq!(container.max_log_file_size, 50 << 20);

        let mut config = enabled(Some("/run/a.sock"));
        config.base_dir = "/srv".into();
        config.container.temp_dir = Some("/scratch/t".into());
        config.container.bind_fs.enabled = true;
        config.container.bind_fs.mount_base_dir = "mounts".into();
        let container = config.container().unwrap();
        assert_eq!(container.temp_dir, Path::new("/scratch/t"));
        assert_eq!(container.bind_fs.unwrap().mount_base_dir, Path::new("/srv/mounts"));
        assert_eq!(config.temp_dirs(), [Path::new("/scratch/t")]);
        config.container.temp_dir = None;
        assert_eq!(config.temp_dirs(), ["/srv/craned/container", "/srv/supervisor/containers/"].map(Path::new));
    }

    #[test]
    fn a_level_or_size_craned_would_not_take_is_named() {
        let mut config = enabled(Some("/run/a.sock"));
        config.supervisor.debug_level = "loud".into();
        assert!(config.container().unwrap_err().to_string().contains("loud"));
        config.supervisor.debug_level = "info".into();
        config.supervisor.max_log_file_size = "big".into();
        assert!(config.container().unwrap_err().to_string().starts_with("Supervisor.MaxLogFileSize: \"big\""));
    }
}
