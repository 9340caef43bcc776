//! bindfs for one source: started, awaited, watched.
//!
//! The FUSE file system is ours before bindfs exists, and attached nowhere before bindfs
//! answers. If this process dies in between, the last descriptor goes with it, the
//! kernel takes the file system down, and bindfs ends by itself.

use crate::mounts::error::MountError;
use crate::mounts::plan::Ids;
use crate::mounts::serve::{self, Order};
use crate::mounts::source::{Kind, Source};
use crate::sys::helper::serving::{self, Serving};
use crate::sys::helper::{self, HelperError};
use crate::sys::mount_api::{Access, Tree};
use crate::sys::{cgroup, fd_passing};
use nix::sys::signal::Signal;
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::cell::Cell;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

/// How long bindfs may take to answer: it only has to start.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// How long the last words of a bindfs that has ended may take to arrive.
const WORDS_LIMIT: Duration = Duration::from_millis(200);
/// Bytes of one line that are kept, and lines that are logged.
const LINE_MAX: u64 = 1000;
const LINES_MAX: usize = 200;

/// A bindfs. Dropping one that serves ends nothing.
#[derive(Debug)]
pub struct Daemon {
    serving: Serving,
    words: Words,
    serves: Cell<bool>,
    /// What it shows.
    pub source: PathBuf,
}

/// What a bindfs is started with.
#[derive(Debug)]
pub struct Start<'a> {
    /// The program.
    pub program: &'a Path,
    /// Whose ids are shown as which.
    pub ids: &'a Ids,
    /// In which 0 is the user.
    pub namespace: OwnedFd,
    /// All supplementary groups of the user.
    pub groups: &'a [u32],
    /// Its cgroup, below the hierarchies' roots.
    pub cgroup: Option<&'a str>,
    /// Whether it may be written through.
    pub access: Access,
}

/// Starts a bindfs and waits until it answers; the tree returned shows the source, or
/// a directory that holds the one file.
///
/// # Errors
/// [`MountError`]; then nothing is left running.
pub async fn start(source: &Source, start: Start<'_>) -> Result<(Daemon, Tree), MountError> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(MountError::Device)?;
    let stage = |verb| move |error| MountError::Stage { verb, path: source.path.clone(), source: error };
    let fuse = Tree::fuse(&device, c"bindfs").map_err(stage("make a FUSE file system for"))?;
    fuse.restrict(start.access).map_err(stage("restrict the FUSE file system of"))?;
    let tree = Tree::of(&source.pinned).map_err(stage("clone"))?;
    tree.restrict(start.access).map_err(stage("restrict"))?;
    let passed = [device.into(), tree.into(), start.namespace.try_clone().map_err(MountError::Namespace)?];
    let daemon = launch(source, &start, &passed)?;
    daemon.answers(&fuse).await?;
    daemon.serves.set(true);
    tracing::info!(source = %source.path.display(), pid = daemon.serving.process().pid, "bindfs serves");
    Ok((daemon, fuse))
}

fn launch(source: &Source, start: &Start<'_>, passed: &[OwnedFd; 3]) -> Result<Daemon, MountError> {
    let order = Order {
        program: start.program.to_owned(),
        groups: start.groups.to_vec(),
        file: match &source.kind {
            Kind::Directory => None,
            Kind::File(name) => Some(name.as_bytes().to_owned()),
        },
        shown_user: start.ids.user.1,
        shown_group: start.ids.group.1,
    };
    let (serving, output) = serving::serve(Path::new(helper::OURSELVES), &[serve::COMMAND])?;
    let words = Words::of(output, source.path.clone());
    let daemon = Daemon { serving, words, serves: Cell::new(false), source: source.path.clone() };
    let failed = |source| HelperError::Run { program: start.program.display().to_string(), source };
    if let Some(group) = start.cgroup
        && let Err(error) = cgroup::join_own(daemon.serving.process().pid, group)
    {
        tracing::warn!(%error, group, "bindfs stays in this supervisor's cgroup, and may be ended with it");
    }
    let order = serde_json::to_vec(&order).map_err(|error| failed(error.into()))?;
    if order.len() >= serve::ORDER_MAX {
        return Err(failed(std::io::Error::other("the user has too many groups")).into());
    }
    let fds = passed.each_ref().map(AsFd::as_fd);
    fd_passing::send(daemon.serving.control(), &order, &fds).map_err(failed)?;
    Ok(daemon)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.serves.get() {
            self.kill();
        }
    }
}

impl Daemon {
    /// Waits until the file system answers through it.
    async fn answers(&self, fuse: &Tree) -> Result<(), MountError> {
        let path = self.source.clone();
        let root = fuse.as_fd().try_clone_to_owned().map_err(MountError::Device)?;
        // Blocks until bindfs has answered or is gone.
        let asked = spawn_blocking(move || statx(root, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE));
        let error = tokio::select! {
            answer = asked => match answer {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(errno)) => std::io::Error::from(errno),
                Err(error) => std::io::Error::other(error),
            },
            () = sleep(ANSWER_LIMIT) => {
                return Err(MountError::Silent { path, limit: ANSWER_LIMIT, words: self.words.so_far() });
            }
        };
        // The kernel says ENOTCONN for one that has just ended.
        match timeout(WORDS_LIMIT, self.ended()).await {
            Ok(()) => Err(MountError::Early { path, status: self.status(), words: self.words.last().await }),
            Err(_elapsed) => Err(MountError::Answer { path, source: error, words: self.words.so_far() }),
        }
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        if let Err(error) = self.serving.process().ended().await {
            tracing::warn!(%error, "bindfs cannot be watched");
            std::future::pending::<()>().await;
        }
    }

    /// How it ended, with its last words, in one line.
    pub async fn obituary(&self) -> String {
        let words = self.words.last().await;
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        format!("bindfs for {} ended ({}){words}", self.source.display(), self.status())
    }

    /// Ends it, whatever it is doing.
    pub fn kill(&self) {
        if let Err(error) = self.serving.process().signal(Signal::SIGKILL) {
            tracing::warn!(%error, "cannot end bindfs");
        }
    }

    fn status(&self) -> String {
        self.serving.status().map_or_else(|| "unknown status".to_owned(), |status| status.to_string())
    }
}

/// What a bindfs says, logged line by line.
#[derive(Debug)]
struct Words {
    last: Arc<Mutex<String>>,
    reader: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Words {
    fn of(output: pipe::Receiver, source: PathBuf) -> Self {
        let last = Arc::new(Mutex::new(String::new()));
        let reader = tokio::spawn(log(output, source, Arc::clone(&last)));
        Self { last, reader: tokio::sync::Mutex::new(Some(reader)) }
    }

    fn so_far(&self) -> String {
        self.last.lock().map(|last| last.clone()).unwrap_or_default()
    }

    /// The last line, once all has been read.
    async fn last(&self) -> String {
        if let Some(reader) = self.reader.lock().await.take() {
            drop(timeout(WORDS_LIMIT, reader).await);
        }
        self.so_far()
    }
}

/// Reads on when it logs no more: a full pipe would hold bindfs up.
async fn log(output: pipe::Receiver, source: PathBuf, last: Arc<Mutex<String>>) {
    let mut output = BufReader::with_capacity(512, output);
    let mut lines = 0;
    loop {
        let mut line = Vec::new();
        match (&mut output).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(line.trim_ascii()).into_owned();
        lines += 1;
        if lines <= LINES_MAX && !line.is_empty() {
            tracing::warn!(source = %source.display(), line, "bindfs says");
        }
        if let (Ok(mut last), false) = (last.lock(), line.is_empty()) {
            *last = line;
        }
    }
}

/// Finds a configured program: a path as it is, a name in the system's directories.
///
/// # Errors
/// [`MountError::Program`] where there is none.
pub fn find_program(key: &'static str, name: &str) -> Result<PathBuf, MountError> {
    let given = Path::new(name);
    let candidates = match name.contains('/') {
        true => vec![given.to_owned()],
        false => ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
            .map(|dir| Path::new(dir).join(given))
            .to_vec(),
    };
    let executable = |path: &PathBuf| {
        path.is_absolute() && path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
    };
    let found = candidates.into_iter().find(executable);
    found.ok_or_else(|| MountError::Program { key, program: given.to_owned() })
}
