//! Starting a container so that its end cannot be missed.
//!
//! The init process is held by pidfd as early as it can be seen: while
//! StartContainer runs, as the one process in the container's cgroup or by the
//! pid CRI-O names from Create on. `watch` then asks the runtime for the pid.

use crate::cri::api::{ContainerState, ContainerStatusResponse};
use crate::cri::client::{Client, Detail};
use crate::cri::error::{Class, CriError};
use crate::cri::witness::Certainty;
use crate::outcome::End;
use crate::sys::cgroup;
use crate::sys::pidfd::Process;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How often the cgroup is looked at while StartContainer runs (some 100 ms): the init
/// waits there for tens of milliseconds, and looking takes time from the runtime.
const SEEING: Duration = Duration::from_millis(5);
/// The same for a start that takes longer than [`LONG_START`].
const SEEING_SELDOM: Duration = Duration::from_millis(100);
const LONG_START: Duration = Duration::from_secs(1);
/// Between two questions about a start whose answer did not come.
const SETTLING: Duration = Duration::from_secs(1);

/// From when on a runtime names the pid of a container's init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// CRI-O; asked of any runtime that is not known.
    FromCreate,
    /// containerd.
    AfterStart,
}

/// The process taken for a container's init, and how surely it is.
pub type Init = (Rc<Process>, Certainty);

/// A started container, and its init as far as it is known.
#[derive(Debug)]
pub struct Held {
    /// The runtime's id.
    pub id: String,
    init: RefCell<Option<Init>>,
}

impl Held {
    /// Its init, if we could hold it.
    pub fn init(&self) -> Option<Init> {
        self.init.borrow().clone()
    }

    /// Holds another process from now on.
    pub(super) fn replace(&self, init: Option<Init>) {
        *self.init.borrow_mut() = init;
    }

    /// Whether the init has ended for sure, whatever the runtime knows of it yet.
    pub fn has_ended(&self) -> bool {
        self.init().is_some_and(|(process, certainty)| certainty == Certainty::Named && process.has_ended())
    }
}

/// Starts a container and holds its init.
///
/// A start whose answer is lost counts as started if the runtime says so.
///
/// # Errors
/// The runtime's own error.
pub async fn start(client: &Client, id: &str, cgroup_parent: Option<&str>, naming: Naming) -> Result<Held, CriError> {
    let mut seen = Seen::new(id, cgroup_parent);
    let early = async {
        if naming == Naming::AfterStart {
            return None;
        }
        let pid = client.status(id, Detail::WithPid).await.ok().as_ref().and_then(pid_of)?;
        Process::open(pid).ok()
    };
    let (mut result, waiting) = seen.while_running(async { tokio::join!(client.start(id), early) }).await;
    let named = waiting.map(|process| seen.add(process));
    if matches!(&result, Err(error) if error.class() == Class::Unsure) {
        result = seen.while_running(settle(client, id, result)).await;
    }
    result?;
    let mut init = seen.choose(named);
    if init.is_none() {
        // Not seen where it should be: the runtime says where it is, for the check that follows.
        let status = client.status(id, Detail::WithPid).await;
        init = status.ok().as_ref().and_then(pid_of).and_then(|pid| hold(id, pid));
    }
    Ok(Held { id: id.to_owned(), init: RefCell::new(init) })
}

/// Finds out what became of a start whose answer did not come.
async fn settle(client: &Client, id: &str, unsure: Result<(), CriError>) -> Result<(), CriError> {
    let begun = Instant::now();
    loop {
        match client.status(id, Detail::Brief).await {
            Ok(status) => match state(&status) {
                ContainerState::ContainerRunning | ContainerState::ContainerExited => return Ok(()),
                ContainerState::ContainerCreated => return client.start(id).await,
                ContainerState::ContainerUnknown => {}
            },
            Err(error) if error.class() == Class::Unsure => {}
            Err(error) => return Err(error),
        }
        if begun.elapsed() > client.limits.start {
            return unsure;
        }
        sleep(SETTLING).await;
    }
}

/// Holds the process a runtime names; certain where it is in the container's cgroup.
pub(super) fn hold(id: &str, pid: i32) -> Option<Init> {
    let process = Process::open(pid).ok()?;
    Some((Rc::new(process), certainty(id, pid)))
}

fn certainty(id: &str, pid: i32) -> Certainty {
    let belongs = cgroup::groups_of(pid).is_ok_and(|groups| groups.iter().any(|(_, path)| path.contains(id)));
    if belongs { Certainty::Named } else { Certainty::Seen }
}

/// How a held init ended, as the kernel says.
pub(super) fn end(held: &Held) -> Option<(End, Certainty)> {
    held.init().and_then(|(process, certainty)| process.end().map(|end| (end, certainty)))
}

/// The pid of a container's init: `info["info"]` is JSON with a `pid`.
pub fn pid_of(status: &ContainerStatusResponse) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct Info {
        pid: Option<i64>,
    }
    let info: Info = serde_json::from_str(status.info.get("info")?).ok()?;
    info.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|&pid| pid > 1)
}

pub(super) fn state(status: &ContainerStatusResponse) -> ContainerState {
    status.status.as_ref().map_or(ContainerState::ContainerUnknown, |status| status.state())
}

/// Processes seen alone in the container's cgroup.
struct Seen {
    id: String,
    files: Vec<PathBuf>,
    candidates: Vec<(Process, u32)>,
}

impl Seen {
    fn new(id: &str, cgroup_parent: Option<&str>) -> Self {
        // containerd's own default parent, and CRI-O's prefix.
        let parent = cgroup_parent.unwrap_or("/k8s.io");
        let groups = [format!("{parent}/{id}"), format!("{parent}/crio-{id}")];
        let files = cgroup::member_files(&groups).unwrap_or_default();
        Self { id: id.to_owned(), files, candidates: Vec::new() }
    }

    /// Looks again and again while `work` runs.
    async fn while_running<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let mut ticks = interval(SEEING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = ticks.tick() => self.look(),
            }
            if begun.elapsed() > LONG_START {
                ticks.reset_after(SEEING_SELDOM);
            }
        }
    }

    /// Keeps a process the runtime named; returns its number.
    fn add(&mut self, process: Process) -> i32 {
        let pid = process.pid;
        if !self.candidates.iter().any(|(seen, _)| seen.pid == pid) {
            self.candidates.push((process, 0));
        }
        pid
    }

    fn look(&mut self) {
        let [pid] = cgroup::members(&self.files)[..] else { return };
        match self.candidates.iter_mut().find(|(process, _)| process.pid == pid) {
            Some((_, times)) => *times += 1,
            None => self.candidates.extend(Process::open(pid).ok().map(|process| (process, 1))),
        }
    }

    /// The process the runtime names, else the one seen most: a runtime's own
    /// helpers pass through the cgroup, the init waits there for its start.
    fn choose(mut self, named: Option<i32>) -> Option<Init> {
        let Some(pid) = named else {
            let most = self.candidates.into_iter().max_by_key(|(_, times)| *times);
            return most.map(|(process, _)| (Rc::new(process), Certainty::Seen));
        };
        match self.candidates.iter().position(|(process, _)| process.pid == pid) {
            Some(at) => Some((Rc::new(self.candidates.swap_remove(at).0), certainty(&self.id, pid))),
            None => hold(&self.id, pid),
        }
    }
}
