//! The step's limits: what was asked of the runtime is what the kernel has, and on v1 the
//! container is in the cpuset craned made for it.

use crate::exit_code;
use crate::spec::{ContainerSpec, Resources};
use crate::step::event::Failure;
use crate::sys::cgroup::limits::{self, Limits, processors};
use std::io;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The kernel rounds to pages, of 64 KiB at most.
const PAGE: u64 = 64 << 10;
/// Until its init has executed the program, threads of the OCI runtime in it have more
/// capabilities than we, and the kernel lets us move none of such.
const STARTING: Duration = Duration::from_secs(2);
/// Between two tries meanwhile.
const LOOK: Duration = Duration::from_millis(5);
/// Rounding of a quota to microseconds.
const QUOTA: f64 = 0.01;

/// Checks the limits of a container's init and puts it where it belongs. One that has ended
/// meanwhile missed nothing.
pub(super) async fn settle(pid: i32, container: &str, work: &ContainerSpec) -> Result<(), Failure> {
    let failed = |reason: String| Err(Failure::new(exit_code::CGROUP_ERROR, reason));
    let Ok(found) = limits::of(pid, container) else { return Ok(()) };
    let missing = missing(&work.resources, &found);
    // Ended in between: its group is gone, and with it what it said.
    if !missing.is_empty() && limits::of(pid, container).is_ok_and(|again| again == found) {
        return failed(format!("the runtime did not give the container its limits: {}", missing.join(", ")));
    }
    if work.resources.memory_and_swap.is_some() && found.memory_and_swap.is_none() {
        tracing::warn!("swap is not counted on this node: the limit of memory and swap together has no effect");
    }
    let Some(group) = &work.cpuset else { return Ok(()) };
    let begun = Instant::now();
    loop {
        match limits::move_cpuset(pid, container, group) {
            Ok(_) => return Ok(()),
            Err(_) if limits::of(pid, container).is_err() => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && begun.elapsed() < STARTING => {
                sleep(LOOK).await;
            }
            Err(error) => return failed(format!("cannot move the container into the job's cpuset {group}: {error}")),
        }
    }
}

/// What is not as it was asked for.
fn missing(asked: &Resources, found: &Limits) -> Vec<String> {
    let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
    let mut missing = Vec::new();
    if let Some(memory) = asked.memory.map(bytes)
        && found.memory.is_none_or(|found| found > memory.saturating_add(PAGE))
    {
        missing.push(format!("memory of {memory} bytes (it has {})", shown(found.memory)));
    }
    if let (Some(both), Some(found)) = (asked.memory_and_swap.map(bytes), found.memory_and_swap)
        && found > both.saturating_add(PAGE)
    {
        missing.push(format!("memory and swap of {both} bytes (it has {found})"));
    }
    // The smallest quota is 1 ms of 100.
    if let Some(cpus) = asked.cpus.map(|cpus| cpus.max(QUOTA))
        && found.cpus.is_none_or(|found| found > cpus + QUOTA)
    {
        missing.push(format!("{cpus} CPUs (it has {})", shown(found.cpus)));
    }
    if !asked.cpu_list.is_empty() && !lies_within(found.cpu_list.as_deref(), &asked.cpu_list) {
        missing.push(format!("the processors {} (it has {})", asked.cpu_list, shown(found.cpu_list.as_deref())));
    }
    missing
}

fn lies_within(found: Option<&str>, asked: &str) -> bool {
    let (found, asked) = (found.and_then(processors), processors(asked));
    found.zip(asked).is_some_and(|(found, asked)| !found.is_empty() && found.iter().all(|cpu| asked.contains(cpu)))
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "no limit".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_can_be_missing() {
        assert!(missing(&Resources::default(), &Limits::default()).is_empty());
        let asked = Resources {
            cpu_list: "1,2".into(),
            cpus: Some(0.5),
            memory: Some(1 << 20),
            memory_and_swap: Some(2 << 20),
        };
        let good = Limits {
            memory: Some(1 << 20),
            memory_and_swap: Some(2 << 20),
            cpus: Some(0.5),
            cpu_list: Some("1-2".into()),
        };
        assert!(missing(&asked, &good).is_empty());
        let no_swap = Limits { memory_and_swap: None, ..good.clone() };
        assert!(missing(&asked, &no_swap).is_empty());
        let wider = Limits {
            memory: Some(1 << 30),
            memory_and_swap: Some(1 << 31),
            cpus: Some(1.0),
            cpu_list: Some("0-3".into()),
        };
        assert_eq!(missing(&asked, &wider).len(), 4);
        assert_eq!(missing(&asked, &Limits::default()).len(), 3);
    }
}
