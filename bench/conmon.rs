//! conmon as a peer: containers of a bare OCI runtime, each under its own conmon.

use crate::Result;
use crate::whole;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// For one container to be made.
const LIMIT: Duration = Duration::from_secs(10);

/// Running conmons; ended with [`Conmons::end`].
pub struct Conmons {
    dir: PathBuf,
    names: Vec<String>,
    /// Their processes.
    pub pids: Vec<u32>,
}

impl Conmons {
    /// Starts `count` sleeping containers; `None` where conmon or runc is not installed.
    pub async fn start(dir: &Path, count: usize) -> Result<Option<Self>> {
        let (Some(conmon), Some(runc)) = (find("conmon"), find("runc")) else {
            return Ok(None);
        };
        let mut conmons = Self { dir: dir.join("conmon"), names: Vec::new(), pids: Vec::new() };
        let rootfs = conmons.dir.join("rootfs");
        std::fs::create_dir_all(rootfs.join("bin"))?;
        let busybox = find("busybox").ok_or("busybox is not in PATH")?;
        std::fs::copy(busybox, rootfs.join("bin/sleep"))?;
        for number in 0..count {
            conmons.start_one(&conmon, &runc, &format!("bench-conmon-{}-{number}", std::process::id())).await?;
        }
        Ok(Some(conmons))
    }

    async fn start_one(&mut self, conmon: &Path, runc: &Path, name: &str) -> Result<()> {
        let bundle = self.dir.join(name);
        std::fs::create_dir_all(&bundle)?;
        let at = |file: &str| text(&bundle.join(file));
        write_spec(runc, &bundle, &self.dir.join("rootfs"))?;
        let (bundle, state, runc) = (text(&bundle), text(&self.dir.join("state")), text(runc));
        let root = format!("--root={state}");
        whole::time(&[
            &text(conmon),
            "--cid",
            name,
            "--cuuid",
            name,
            "--name",
            name,
            "--bundle",
            &bundle,
            "--runtime",
            &runc,
            "--runtime-arg",
            &root,
            "--container-pidfile",
            &at("pid"),
            "--conmon-pidfile",
            &at("conmon.pid"),
            "--log-path",
            &at("log"),
            "--exit-dir",
            &bundle,
            "--socket-dir-path",
            &bundle,
        ])?;
        self.names.push(name.to_owned());
        // conmon goes into the background first and makes the container then.
        timeout(LIMIT, async {
            while !std::fs::read_to_string(at("pid")).is_ok_and(|pid| !pid.is_empty()) {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .map_err(|_| format!("conmon made no container; see {}", at("log")))?;
        whole::time(&[&runc, &root, "start", name])?;
        self.pids.push(std::fs::read_to_string(at("conmon.pid"))?.trim().parse()?);
        Ok(())
    }

    /// Ends the containers; their conmons end by themselves.
    pub fn end(self) -> Result<()> {
        let runc = text(&find("runc").ok_or("runc is gone")?);
        let root = format!("--root={}", text(&self.dir.join("state")));
        for name in &self.names {
            whole::time(&[&runc, &root, "delete", "--force", name])?;
        }
        Ok(())
    }
}

/// runc's own specification, with our program.
fn write_spec(runc: &Path, bundle: &Path, rootfs: &Path) -> Result<()> {
    let path = bundle.join("config.json");
    whole::time(&[&text(runc), "spec", "--bundle", &text(bundle)])?;
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/sleep", "3600"]);
    spec["root"]["path"] = text(rootfs).into();
    Ok(std::fs::write(&path, spec.to_string())?)
}

/// A program in PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
