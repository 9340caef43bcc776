//! What the tests of `local` share: a scratch directory that goes away, and a runtime.

use crate::config::Config;
use crate::local::plan::{Ids, Interaction, Request, RunAs};
use std::path::{Path, PathBuf};

/// A directory below the system's temporary one, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("crane-local-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A job that asks for nothing special.
pub fn request() -> Request {
    let mut config = Config::default();
    config.container.enabled = true;
    config.container.runtime_endpoint = Some("/run/a.sock".into());
    Request {
        node: config.container().unwrap(),
        node_name: "n1".into(),
        program: "/bin/false".into(),
        name: "run".into(),
        image: "alpine:latest".into(),
        credentials: None,
        pull_policy: "IfNotPresent",
        entrypoint: None,
        command: Vec::new(),
        workdir: None,
        env: Default::default(),
        user: Ids { uid: 0, gid: 0 },
        run_as: RunAs { on_node: Ids { uid: 0, gid: 0 }, in_namespace: Ids { uid: 0, gid: 0 } },
        user_namespace: None,
        mounts: Vec::new(),
        network: None,
        ports: Vec::new(),
        dns: Vec::new(),
        time: None,
        memory: None,
        cpus: None,
        cwd: "/".into(),
        keep: false,
        interaction: Interaction::default(),
    }
}
