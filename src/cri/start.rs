//! Starting a container so that its end cannot be missed.
//!
//! The init process is held by pidfd as early as it can be seen: while
//! StartContainer runs, as the one process in the container's cgroup or by the
//! pid CRI-O names from Create on. `watch` then asks the runtime for the pid.

use crate::cri::api::{ContainerState, ContainerStatusResponse};
use crate::cri::client::{Client, Detail};
use crate::cri::container;
use crate::cri::error::{Class, CriError};
use crate::cri::exits::Exits;
use crate::cri::info;
use crate::cri::oom::Counters;
use crate::cri::settle::settle;
use crate::cri::witness::{Certainty, Memory, OomKills, judge};
use crate::outcome::{End, Outcome};
use crate::sys::cgroup::usage::Usage;
use crate::sys::cgroup::{self, MemberFiles};
use crate::sys::pidfd::Process;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// How often the cgroup is looked at while StartContainer runs (some 100 ms): the init
/// waits there for tens of milliseconds, and looking takes time from the runtime.
const SEEING: Duration = Duration::from_millis(5);
/// The same for a start that takes longer than [`LONG_START`].
const SEEING_SELDOM: Duration = Duration::from_millis(100);
const LONG_START: Duration = Duration::from_secs(1);

/// A container's init could not be killed without the runtime.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// It was never seen.
    #[error("cannot signal the init of container {id}: its process is unknown")]
    Unknown {
        /// The runtime's id.
        id: String,
    },
    /// The process taken for it is not in the container's cgroup.
    #[error("did not signal process {pid}: it is not in the cgroup of container {id}")]
    Foreign {
        /// The runtime's id.
        id: String,
        /// The process.
        pid: i32,
    },
    /// The kernel did not do it.
    #[error("cannot send signal {number} to process {pid} of container {id}: {source}")]
    Refused {
        /// The runtime's id.
        id: String,
        /// The signal.
        number: i32,
        /// The process.
        pid: i32,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

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
    oom: Option<Counters>,
    exits: Option<Exits>,
    /// What had been counted when the init ended.
    counted: Cell<OomKills>,
    stopped: Cell<bool>,
}

impl Held {
    fn new(id: String, init: Option<Init>, oom: Option<Counters>, exits: Option<Exits>) -> Self {
        let held =
            Self { id, init: RefCell::default(), oom, exits, counted: Cell::default(), stopped: Cell::new(false) };
        held.replace(init);
        held
    }

    /// Its init, if we could hold it.
    pub fn init(&self) -> Option<Init> {
        self.init.borrow().clone()
    }

    /// Holds another process from now on.
    pub(super) fn replace(&self, init: Option<Init>) {
        let pid = |init: &Option<Init>| init.as_ref().map(|(process, _)| process.pid);
        if let (Some(exits), Some(pid)) = (&self.exits, pid(&init)) {
            exits.only(pid);
        }
        let before = self.init.replace(init);
        if pid(&before) != pid(&self.init.borrow()) {
            // It was the end of a process that was not the init.
            self.counted.set(OomKills::Unknown);
        }
    }

    /// Whether the init has ended for sure, whatever the runtime knows of it yet.
    pub fn has_ended(&self) -> bool {
        self.init().is_some_and(|(process, certainty)| certainty == Certainty::Named && process.has_ended())
    }

    /// How it ended, where the kernel can tell for sure, whatever the runtime knows of it yet.
    pub fn end_for_sure(&self) -> Option<Outcome> {
        let named = end(self).filter(|(_, certainty)| *certainty == Certainty::Named)?;
        Some(judge(Some(named), None, self.memory()))
    }

    /// Keeps what the kernel counted of out-of-memory kills, now that the init has ended.
    pub(super) fn count(&self) {
        self.counted.set(self.kills_now());
    }

    /// What is known of its memory after its end.
    pub(super) fn memory(&self) -> Memory {
        Memory { kills: self.counted.get().max(self.kills_now()), stopped: self.stopped.get() }
    }

    fn kills_now(&self) -> OomKills {
        self.oom.as_ref().map_or(OomKills::Unknown, Counters::kills)
    }

    /// What the container used, as far as it could be read while its cgroup was there.
    pub fn used(&self) -> Option<Usage> {
        self.oom.as_ref().map(Counters::used)
    }

    /// From now on a SIGKILL may be ours.
    pub fn note_stop(&self) {
        self.stopped.set(true);
    }

    /// Kills the init without the runtime. One that has ended is success.
    ///
    /// What was taken for the init long ago, or only seen, must be in the container's cgroup now.
    ///
    /// # Errors
    /// [`KillError`]; nothing was killed.
    pub fn kill(&self) -> Result<(), KillError> {
        self.signal(libc::SIGKILL)
    }

    /// Sends the init a signal without the runtime, as [`Held::kill`] does.
    ///
    /// # Errors
    /// [`KillError`]; nothing was sent.
    pub fn signal(&self, number: i32) -> Result<(), KillError> {
        let id = || self.id.clone();
        let (process, _) = self.init().ok_or_else(|| KillError::Unknown { id: id() })?;
        let pid = process.pid;
        if process.has_ended() {
            return Ok(());
        }
        if certainty(&self.id, pid) != Certainty::Named {
            return Err(KillError::Foreign { id: id(), pid });
        }
        process.signal_number(number).map_err(|source| KillError::Refused { id: id(), number, pid, source })
    }
}

/// Starts a container and holds its init.
///
/// A start whose answer is lost counts as started if the runtime says so.
///
/// # Errors
/// The runtime's own error.
pub async fn start(
    client: &Client,
    id: &str,
    cgroup_parent: Option<&str>,
    naming: Naming,
    exits: Option<Exits>,
) -> Result<Held, CriError> {
    let mut seen = Seen::new(id, cgroup_parent, exits);
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
    let (counters, in_job, exits) = (seen.counters(), seen.in_job, seen.exits.take());
    let mut init = seen.choose(named);
    if init.is_none() {
        // Not seen where it should be: the runtime says where it is, for the check that follows.
        let status = client.status(id, Detail::WithPid).await;
        init = status.ok().as_ref().and_then(pid_of).and_then(|pid| hold(id, pid));
    }
    let oom = counters.or_else(|| init.as_ref().and_then(|(process, _)| counters_of(process.pid, id, in_job)));
    Ok(Held::new(id.to_owned(), init, oom, exits))
}

/// Those of the group a process is in, for containers whose group is not where it should be.
fn counters_of(pid: i32, id: &str, in_job: bool) -> Option<Counters> {
    let groups = cgroup::groups_of(pid).ok()?.into_iter().map(|(_, path)| path);
    let own: Vec<_> = groups.filter(|path| path.contains(id)).collect();
    Counters::open(&cgroup::member_files(&own).ok()?, in_job)
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
    let (process, certainty) = held.init()?;
    let told = || held.exits.as_ref().filter(|_| process.has_ended())?.end_of(process.pid);
    process.end().or_else(told).map(|end| (end, certainty))
}

/// The pid of a container's init, in a verbose answer.
pub fn pid_of(status: &ContainerStatusResponse) -> Option<i32> {
    info::pid(&status.info)
}

pub(super) fn state(status: &ContainerStatusResponse) -> ContainerState {
    status.status.as_ref().map_or(ContainerState::ContainerUnknown, |status| status.state())
}

/// Processes seen alone in the container's cgroup.
struct Seen {
    id: String,
    groups: [String; 2],
    /// Where their members are listed, from the first look on.
    files: Option<MemberFiles>,
    candidates: Vec<(Process, u32)>,
    in_job: bool,
    oom: Option<Counters>,
    exits: Option<Exits>,
}

impl Seen {
    fn new(id: &str, cgroup_parent: Option<&str>, exits: Option<Exits>) -> Self {
        let groups = container::cgroups(id, cgroup_parent);
        let in_job = cgroup_parent.is_some();
        Self { id: id.to_owned(), groups, files: None, candidates: Vec::new(), in_job, oom: None, exits }
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
        if let Some(exits) = &self.exits {
            exits.keep();
        }
        // Not before the call is on its way: a node with many containers has many mounts.
        let files = self.files.get_or_insert_with(|| MemberFiles::of(&self.groups).unwrap_or_default());
        let members = cgroup::members(&files.counting);
        if self.oom.is_none() && !members.is_empty() {
            self.oom = Counters::open(&files.every, self.in_job);
        }
        let [pid] = members[..] else { return };
        match self.candidates.iter_mut().find(|(process, _)| process.pid == pid) {
            Some((_, times)) => *times += 1,
            None => self.candidates.extend(Process::open(pid).ok().map(|process| (process, 1))),
        }
    }

    /// The container's counters, opened early or, if it was quicker than us, now.
    fn counters(&mut self) -> Option<Counters> {
        let files = self.files.as_ref().map_or(&[][..], |files| &files.every);
        let early = self.oom.take().map(|counters| counters.complete(files));
        early.or_else(|| Counters::open(files, self.in_job))
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

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    #[test]
    fn a_process_outside_the_containers_cgroup_is_not_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Rc::new(Process::open(i32::try_from(child.id()).unwrap()).unwrap());
        let init = Some((Rc::clone(&process), Certainty::Named));
        let id = "no-group-is-named-so".to_owned();
        let held = Held::new(id, init, None, None);
        let refused = held.kill();
        let lived = !process.has_ended();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(refused, Err(KillError::Foreign { .. })) && lived, "{refused:?}");
        held.kill().unwrap();
    }
}
