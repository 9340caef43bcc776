//! The kernel's count of out-of-memory kills in one container, and of what it used.
//!
//! Held open from the start, read at the end. The runtime removes the container's
//! cgroup, and the count with it, by itself after the end (27 to 138 ms were seen),
//! so `watch` reads when the pidfd tells the end. Where that is too late all the
//! same (a node so busy that we did not run, an init we could not hold), the count
//! is unknown. On v2 the job's counter, which stays, then gives a hint; else the
//! runtime's word stands alone: right of the container that was killed, but on v1
//! said of its neighbours in the job as well.

use crate::cri::witness::OomKills;
use crate::sys::cgroup::memory::OomCounter;
use crate::sys::cgroup::usage::{Meter, Usage};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// The counters of a container: at most five descriptors.
#[derive(Debug)]
pub(super) struct Counters {
    own: OomCounter,
    /// That of the job, and what it said at the start.
    job: Option<(OomCounter, u64)>,
    meter: Meter,
    /// As of the last look.
    used: Cell<Usage>,
}

impl Counters {
    /// Opens the counters beside the first of the container's membership lists that has one.
    ///
    /// `in_job`: the group above the container's is the job's, and nobody else's.
    pub(super) fn open(member_files: &[PathBuf], in_job: bool) -> Option<Self> {
        let mut groups = member_files.iter().filter_map(|file| file.parent());
        let (group, own) = groups.find_map(|group| Some((group, OomCounter::open(group).ok()?)))?;
        let job = group.parent().filter(|_| in_job && own.counts_below()).and_then(of_job);
        let dirs = member_files.iter().filter_map(|file| file.parent());
        Some(Self { own, job, meter: Meter::open(dirs), used: Cell::default() })
    }

    /// What they say now; the usage is looked at too, for it cannot be later.
    pub(super) fn kills(&self) -> OomKills {
        self.used.set(self.meter.read().or(self.used.get()));
        match self.own.read() {
            Ok(0) => OomKills::None,
            Ok(_) => OomKills::OfContainer,
            Err(_removed) if self.job.as_ref().is_some_and(has_risen) => OomKills::OfJob,
            Err(_removed) => OomKills::Unknown,
        }
    }
}

impl Counters {
    /// Opens what the runtime has made since.
    pub(super) fn complete(mut self, member_files: &[PathBuf]) -> Self {
        self.meter.complete(member_files.iter().filter_map(|file| file.parent()));
        self
    }

    /// What was used, as of the last look at the kills.
    pub(super) fn used(&self) -> Usage {
        self.used.get()
    }
}

fn of_job(group: &Path) -> Option<(OomCounter, u64)> {
    let counter = OomCounter::open(group).ok()?;
    let start = counter.read().ok()?;
    Some((counter, start))
}

fn has_risen((counter, start): &(OomCounter, u64)) -> bool {
    counter.read().is_ok_and(|now| now > *start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;
    use std::fs;

    /// A container's group in a job's, as files.
    fn groups(file: &str) -> (Dir, PathBuf) {
        let job = Dir::new();
        let own = job.path().join("id");
        fs::create_dir(&own).unwrap();
        for dir in [job.path(), &own] {
            fs::write(dir.join(file), "oom 0\noom_kill 0\n").unwrap();
        }
        (job, own)
    }

    #[test]
    fn the_containers_own_count_decides_while_it_can_be_read() {
        let (job, own) = groups("memory.events");
        let counters = Counters::open(&["/no/such/group/cgroup.procs".into(), own.join("cgroup.procs")], true).unwrap();
        assert_eq!(counters.kills(), OomKills::None);
        fs::write(job.path().join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
        assert_eq!(counters.kills(), OomKills::None, "another container's");
        fs::write(own.join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
        assert_eq!(counters.kills(), OomKills::OfContainer);
        // What a removed group's file gives is an error too.
        fs::write(own.join("memory.events"), "").unwrap();
        assert_eq!(counters.kills(), OomKills::OfJob);
    }

    #[test]
    fn only_a_rise_since_the_start_is_the_jobs_and_only_where_it_is_the_job() {
        let (job, own) = groups("memory.events");
        let files = [own.join("cgroup.procs")];
        fs::write(job.path().join("memory.events"), "oom_kill 5\n").unwrap();
        let (in_job, alone) = (Counters::open(&files, true).unwrap(), Counters::open(&files, false).unwrap());
        fs::write(own.join("memory.events"), "").unwrap();
        assert_eq!(in_job.kills(), OomKills::Unknown);
        fs::write(job.path().join("memory.events"), "oom_kill 6\n").unwrap();
        assert_eq!((in_job.kills(), alone.kills()), (OomKills::OfJob, OomKills::Unknown));
    }

    #[test]
    fn on_v1_a_job_counts_nothing_of_its_containers() {
        let (_job, own) = groups("memory.oom_control");
        let counters = Counters::open(&[own.join("cgroup.procs")], true).unwrap();
        assert!(counters.job.is_none());
        fs::write(own.join("memory.oom_control"), "oom_kill 1\n").unwrap();
        assert_eq!(counters.kills(), OomKills::OfContainer);
        assert!(Counters::open(&["/no/such/group/cgroup.procs".into()], true).is_none());
    }
}
