//! The configuration, and the programs it names.

use crate::cli::check::line::{Line, fail, ok, warn};
use crate::config::{CheckError, Config, Container, DEFAULT_PROCESS_SUPERVISOR};
use crate::sys::helper;
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where runtimes listen unless they are told otherwise.
const USUAL_SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/var/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/dockershim.sock",
];

/// Reads it; the lines, what it says (the defaults where it cannot be read), and what containers can use.
pub fn look(path: &Path) -> (Vec<Line>, Config, Option<Container>) {
    let (config, notes) = match Config::read(path) {
        Ok(read) => read,
        Err(error) => {
            let remedy = "the rest is checked with the documented defaults";
            return (vec![fail("config", error.to_string(), remedy)], Config::default(), None);
        }
    };
    let mut lines = vec![ok("config", format!("{} is read", path.display()))];
    let note = |note: String| warn("config", format!("{}: {note}", path.display()), "correct or remove the key");
    lines.extend(notes.into_iter().map(note));
    lines.extend(fs::metadata(path).ok().filter(|found| found.uid() != 0 || found.mode() & 0o022 != 0).map(|found| {
        let (uid, mode) = (found.uid(), found.mode() & 0o777);
        let what = format!(
            "{} is user {uid}'s, mode {mode:04o}: what it says of Supervisor: Container: is not obeyed",
            path.display()
        );
        warn("config", what, "chown root and chmod 0644")
    }));
    let container = config.container();
    match &container {
        Ok(container) => lines.push(ok("config", endpoints(container))),
        Err(error) => lines.push(fail("config", error.to_string(), remedy(error))),
    }
    if config.container.temp_dir.is_none() {
        lines.push(warn(
            "config",
            "Container: TempDir: is not set, and craned's default is not the one of its guide",
            format!("set it, e.g. to {}", config.base_dir.join("supervisor/containers").display()),
        ));
    }
    // What is off is looked at as well: somebody means to turn it on.
    let node = container.ok().or_else(|| {
        let mut on = config.clone();
        on.container.enabled = true;
        on.container().ok()
    });
    (lines, config, node)
}

fn endpoints(container: &Container) -> String {
    let (runtime, images) = (container.runtime_socket.display(), container.image_socket.display());
    match container.runtime_socket == container.image_socket {
        true => format!("containers are enabled, by the runtime at {runtime}"),
        false => format!("containers are enabled, by the runtime at {runtime}, with images at {images}"),
    }
}

fn remedy(error: &CheckError) -> String {
    match error {
        CheckError::NoRuntimeEndpoint => endpoint_remedy(&USUAL_SOCKETS.map(PathBuf::from)),
        CheckError::NotEnabled
        | CheckError::Endpoint { .. }
        | CheckError::BaseDir(_)
        | CheckError::DebugLevel(_)
        | CheckError::MaxLogFileSize(_) => error.remedy().to_owned(),
    }
}

fn endpoint_remedy(usual: &[PathBuf]) -> String {
    let is_socket = |path: &&PathBuf| fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    match usual.iter().find(is_socket) {
        Some(here) => format!("set Container: RuntimeEndpoint: unix://{}, a socket that is here", here.display()),
        None => "install containerd or CRI-O, and set Container: RuntimeEndpoint: to its socket".into(),
    }
}

/// Which program craned starts, and who takes the steps without a container.
pub fn programs(config: &Config) -> Vec<Line> {
    let (path, ours) = (&config.supervisor.path, Path::new(helper::OURSELVES));
    let own = fs::read_link(ours).unwrap_or_default();
    let same = |path: &Path| {
        let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        matches!((inode(path), inode(ours)), (Ok(theirs), Ok(ours)) if theirs == ours)
    };
    let started = match same(path) {
        true => ok("supervisor", format!("craned starts this program ({})", path.display())),
        false => warn(
            "supervisor",
            format!("craned starts {}, which is not this program", path.display()),
            format!("to have it take container steps: Supervisor: Path: {}, and restart craned", own.display()),
        ),
    };
    let named = config.supervisor.container.process_supervisor.clone();
    let process = named.filter(|path| path.is_absolute()).unwrap_or_else(|| DEFAULT_PROCESS_SUPERVISOR.into());
    let takes = match () {
        () if same(&process) => fail(
            "supervisor",
            format!("steps without a container would go to {}, which is this program again", process.display()),
            "name CraneSched's own csupervisor in Supervisor: Container: ProcessSupervisor:",
        ),
        () if process.is_file() && access(&process, AccessFlags::X_OK).is_ok() => {
            ok("supervisor", format!("steps without a container go to {}", process.display()))
        }
        () => warn(
            "supervisor",
            format!("{} is no program: steps without a container (batch scripts) would be refused", process.display()),
            "install CraneSched's csupervisor there, or name it in Supervisor: Container: ProcessSupervisor:",
        ),
    };
    vec![started, takes]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;

    #[test]
    fn a_socket_that_is_here_is_named() {
        let scratch = Dir::new();
        let socket = scratch.path().join("containerd.sock");
        assert!(endpoint_remedy(std::slice::from_ref(&socket)).starts_with("install containerd"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(endpoint_remedy(std::slice::from_ref(&socket)).contains(&format!("unix://{}", socket.display())));
    }
}
