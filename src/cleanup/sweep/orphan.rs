//! Pods of ours, by their labels, of jobs that no step of which has an owner.
//!
//! The order matters. A supervisor holds its lock before it asks for the pod, and until
//! the pod is gone; so a pod that was listed *before* the locks were looked at, all of them
//! free, has nobody. The other way round a step could start between the two looks, and
//! its pod be taken for an orphan's. Age is a second guard, and a control socket that is
//! served a third: it protects pods of supervisors with another configuration.

use crate::cleanup::entry::Entry;
use crate::cleanup::sweep::finding::{Fate, Finding, Kind};
use crate::cleanup::sweep::{Sweep, owed, socket};
use crate::cri::client::{Client, Limits, is_ours};
use crate::cri::labels;
use crate::ids::StepId;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Ids of pods by job and user.
type Pods = BTreeMap<(u32, u32), Vec<String>>;

pub(super) async fn clear(sweep: &mut Sweep<'_>) {
    let Some(pods) = list(sweep).await else { return };
    let mut debts = Vec::new();
    for ((job, uid), ids) in pods {
        if !sweep.wants(job) || sweep.settled.contains(&job) {
            continue;
        }
        match adopt(sweep, job, uid, &ids).await {
            Ok(debt) => debts.extend(debt),
            Err(finding) => sweep.found.push(finding),
        }
    }
    owed::settle(sweep, debts).await;
}

/// Every pod of ours that is old enough; what cannot be told of is reported here.
async fn list(sweep: &mut Sweep<'_>) -> Option<Pods> {
    let limit = sweep.remaining();
    let usual = Limits::default();
    let limits = Limits { look: usual.look.min(limit / 2), away: usual.away.min(limit / 2), ..usual };
    let runtime = &sweep.order.runtime;
    let client = Client::new(runtime, runtime, limits);
    let selector = labels::ours();
    let listed = match client.when_there(|| client.list_pods(&selector)).await {
        Ok(listed) => listed,
        Err(error) => {
            let reason = format!("cannot ask for pods without a step: {error}");
            let (kind, what) = (Kind::Runtime, runtime.to_string());
            sweep.found.push(Finding { job: None, step: None, kind, what, fate: Fate::NotUndone { reason } });
            return None;
        }
    };
    let mut pods = Pods::new();
    for pod in listed.iter().filter(|pod| is_ours(pod) && age(pod.created_at) >= sweep.order.older_than) {
        match labels::job_and_uid(&pod.labels) {
            Some(whose) => pods.entry(whose).or_default().push(pod.id.clone()),
            None if sweep.order.job.is_none() => sweep.found.push(nameless(&pod.id)),
            None => {}
        }
    }
    Some(pods)
}

fn nameless(id: &str) -> Finding {
    let reason = "its labels name no job and user; remove it by hand (crictl rmp -f)".to_owned();
    Finding { job: None, step: None, kind: Kind::Pod, what: id.to_owned(), fate: Fate::NotUndone { reason } }
}

/// Nanoseconds since 1970, as CRI has it; a time to come is no age.
fn age(created_at: i64) -> Duration {
    let created = UNIX_EPOCH + Duration::from_nanos(u64::try_from(created_at).unwrap_or(0));
    SystemTime::now().duration_since(created).unwrap_or(Duration::ZERO)
}

/// The pod step's journal is given the pods, if nobody owns any step of the job.
async fn adopt(sweep: &Sweep<'_>, job: u32, uid: u32, ids: &[String]) -> Result<Option<owed::Debt>, Finding> {
    let id = StepId { job, step: 0 };
    let what = ids.join(" ");
    let unknown = |error: &dyn std::error::Error| {
        Finding::of(id, Kind::Pod, what.clone(), Fate::NotUndone { reason: error.to_string() })
    };
    if sweep.is_job_held(job).map_err(|error| unknown(&error))? || socket::is_served(job).await {
        return Ok(None);
    }
    let Some(dir) = sweep.new_dir(id) else { return Ok(None) };
    let debt = owed::adopt(sweep, dir, id, &[Entry::Pod { labels: labels::pod_selector(job, uid) }])?;
    Ok(debt.map(|debt| owed::Debt { owed: vec![(Kind::Pod, what)], ..debt }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_from_the_future_is_young_and_one_without_a_time_old() {
        assert_eq!(age(i64::MAX), Duration::ZERO);
        assert!(age(0) > Duration::from_secs(3600) && age(-1) > Duration::from_secs(3600));
    }
}
