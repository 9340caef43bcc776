//! What an acquisition will owe, in a journal's words. Pure.

use crate::cleanup::entry::Entry;
use crate::cri::labels;
use crate::spec::{StepSpec, Work};
use crate::step::action::Acquisition;
use crate::step::pod_record;
use crate::step::stages::mounts::places;
use crate::step::state::Stage;

/// The entries to write down before `what` is acquired.
pub fn entries(spec: &StepSpec, what: Acquisition) -> Vec<Entry> {
    let id = spec.id;
    match (what, &spec.work) {
        (Acquisition::Pod, _) => vec![
            Entry::PodRecord { files: pod_record::files(&spec.temp_dir.job(id.job)) },
            Entry::Pod { labels: labels::pod_selector(id.job, spec.uid) },
        ],
        (Acquisition::Mounts, Ok(Work::Container(work))) if !work.mounts.is_empty() => {
            let places = places(spec, work);
            vec![Entry::Mounts { dirs: places.dirs(), cgroup: places.cgroup }]
        }
        (Acquisition::Mounts, _) => Vec::new(),
        (Acquisition::Container, _) => vec![Entry::Container { labels: labels::container_selector(id, spec.uid) }],
    }
}

/// The stage that acquires it.
pub fn stage_of(what: Acquisition) -> Stage {
    match what {
        Acquisition::Pod => Stage::Pod,
        Acquisition::Mounts => Stage::Mounts,
        Acquisition::Container => Stage::Create,
    }
}
