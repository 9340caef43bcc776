//! A job's cgroups on real runtimes: the container is in them, in craned's cpuset on v1,
//! and what a runtime made of them goes with the pod.

use crate::support::job::Job;
use crate::support::runtime::on_each;
use crate::support::{LONG, leaks, wait};
use crane_supervisor::wire::crane::JobStatus;
use std::fs;
use std::path::{Path, PathBuf};

/// Where v1 keeps processors; `None` on v2, which has nothing of this.
fn cpuset() -> Option<PathBuf> {
    let mount = Path::new("/sys/fs/cgroup/cpuset");
    mount.join("cpuset.cpus").is_file().then(|| mount.to_owned())
}

/// A cpuset as craned makes one for jobs with parts of a CPU; removed when dropped.
struct Fractional(PathBuf);

impl Fractional {
    fn make(root: &Path, name: &str) -> Self {
        let dir = root.join("crane").join(name);
        fs::create_dir_all(&dir).unwrap();
        for dir in [&root.join("crane"), &dir] {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = fs::read_to_string(dir.join(file)).unwrap();
                if own.trim().is_empty() {
                    fs::write(dir.join(file), fs::read_to_string(root.join(file)).unwrap()).unwrap();
                }
            }
        }
        fs::write(dir.join("cpuset.cpus"), "0").unwrap();
        Self(dir)
    }
}

impl Drop for Fractional {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_container_is_moved_into_the_jobs_cpuset_and_the_jobs_groups_go_with_the_pod() {
    let Some(root) = cpuset() else { return };
    on_each(|runtime| {
        let mut job = Job::on(runtime);
        // Named like none of the job's: the leak check would take it for one.
        let name = format!("shared-{}", runtime.name());
        let fractional = Fractional::make(&root, &name);
        let (pod_group, group) = (job.make_cgroups(0), job.make_cgroups(1));
        let pod = job.pod_with(|init| init.supv_cgroup_path = pod_group);
        let script = "sleep 60 & echo ready; until [ \"$(grep -c :/crane/shared /proc/self/cgroup)\" = 1 ]; do sleep 0.1; done; \
                      grep Cpus_allowed_list /proc/self/status /proc/$!/status";
        let mut step = job.container_with(1, &["sh", "-c", script], |init| {
            init.supv_cgroup_path = group;
            init.cpuset_cg_str = name.clone();
        });
        step.execute();
        assert_eq!(job.ended(&mut step).final_status(), JobStatus::Completed);
        let output = job.output(1, "stdout");
        assert_eq!(output.matches("Cpus_allowed_list:\t0\n").count(), 2, "{output}");
        job.end_pod(pod);
        let craneds =
            |path: &PathBuf| path.ancestors().any(|part| part.join("step_0").is_dir()) || path.join("step_0").is_dir();
        let left: Vec<_> = leaks::cgroups(job.id()).into_iter().filter(|path| !craneds(path)).collect();
        assert!(left.is_empty(), "what the runtime made stays: {left:?}");
        wait::holds("the cpuset is empty", LONG, || {
            fs::read_to_string(fractional.0.join("cgroup.procs")).unwrap().is_empty()
        });
    });
}

#[test]
fn a_cpuset_that_is_not_there_fails_the_step() {
    if cpuset().is_none() {
        return;
    }
    on_each(|runtime| {
        let report = Job::on(runtime).run_with(&["sleep", "60"], |init| init.cpuset_cg_str = "no-such-cpuset".into());
        assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 322), "{}", report.reason);
        assert!(report.reason.contains("/crane/no-such-cpuset"), "{}", report.reason);
    });
}
