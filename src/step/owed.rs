//! What an acquisition will owe, in a journal's words. Pure.

use crate::cleanup::entry::Entry;
use crate::cri::{container, labels};
use crate::spec::{StepSpec, Work};
use crate::step::action::Acquisition;
use crate::step::pod_record;
use crate::step::stages::mounts::places;
use crate::step::state::Stage;

/// The entries to write down before `what` is acquired; `container` is its id, once it has one.
pub fn entries(spec: &StepSpec, what: Acquisition, container: Option<&str>) -> Vec<Entry> {
    let id = spec.id;
    match (what, &spec.work) {
        (Acquisition::Pod, _) => {
            let record = Entry::PodRecord { files: pod_record::files(&spec.temp_dir.job(id.job)) };
            let pod = Entry::Pod { labels: labels::pod_selector(id.job, spec.uid) };
            // The cgroup first, so that it is undone last: when the pod is out of it.
            pod_cgroup(spec).into_iter().chain([record, pod]).collect()
        }
        (Acquisition::Mounts, Ok(Work::Container(work))) if !work.mounts.is_empty() => {
            let places = places(spec, work);
            vec![Entry::Mounts { dirs: places.dirs(), cgroup: places.cgroup }]
        }
        (Acquisition::Mounts, _) => Vec::new(),
        (Acquisition::Processes, Ok(Work::Container(work))) => {
            container.and_then(|id| processes(id, work.pod.cgroup_parent.as_deref())).into_iter().collect()
        }
        (Acquisition::Processes, _) => Vec::new(),
        (Acquisition::Container, _) => vec![Entry::Container { labels: labels::container_selector(id, spec.uid) }],
    }
}

fn pod_cgroup(spec: &StepSpec) -> Option<Entry> {
    match &spec.work {
        Ok(Work::Pod(pod)) => pod.cgroup_parent.clone().map(|group| Entry::JobCgroup { group: Some(group) }),
        Ok(Work::Container(_)) | Err(_) => None,
    }
}

/// The stage that acquires it.
pub fn stage_of(what: Acquisition) -> Stage {
    match what {
        Acquisition::Pod => Stage::Pod,
        Acquisition::Mounts => Stage::Mounts,
        Acquisition::Container => Stage::Create,
        Acquisition::Processes => Stage::Start,
    }
}

/// Nothing for an id that could mean another group than the container's own.
fn processes(id: &str, parent: Option<&str>) -> Option<Entry> {
    let plain = id.len() >= 8 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| Entry::Processes { container: id.to_owned(), cgroups: container::cgroups(id, parent).to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_groups_own_name_is_ever_killed_by() {
        let id = "0123456789abcdef";
        let Some(Entry::Processes { cgroups, .. }) = processes(id, Some("/crane/job_7")) else { panic!("not taken") };
        assert_eq!(cgroups, [format!("/crane/job_7/{id}"), format!("/crane/job_7/crio-{id}")]);
        for odd in ["", "..", "../../../..", "short", "0123456789/..", "0123456789.."] {
            assert_eq!(processes(odd, None), None, "{odd}");
        }
    }
}
