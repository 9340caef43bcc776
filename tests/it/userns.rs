//! The pod's user namespace on real runtimes: which ids it has, and that a job
//! which asks for one never runs without.

use crate::support::LONG;
use crate::support::init::{Edit, managed};
use crate::support::job::Job;
use crate::support::runtime::{Runtime, on_each_with_userns, on_each_without_userns};
use crate::support::user::{NEXT_RANGE, RANGE, SUBGIDS, SUBUIDS, TestUser};
use crane_supervisor::wire::crane::pod_job_additional_meta::NamespaceMode;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::container_config::SubIdConfig;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::container_config::sub_id_config::Mapping;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest};

/// The maps of the container's init, as the kernel has them.
const MAPS: &str = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map";

/// The numbers of `MAPS`, without the kernel's padding.
fn maps(job: &Job) -> Vec<Vec<u32>> {
    let output = job.output(1, "stdout");
    output.lines().map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect()).collect()
}

#[track_caller]
fn runs_in_the_users_range(job: &Job, user: &TestUser) {
    let report = job.run(MAPS);
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0), "{report:?}");
    let (uids, gids) = (vec![0, user.subuids, RANGE], vec![0, user.subgids, RANGE]);
    assert_eq!(maps(job), [vec![0], vec![0], uids, gids]);
}

/// The pod step fails for what `words` say; what is asked of it then does not run.
#[track_caller]
fn refused(runtime: &Runtime, job: &Job, edit: impl FnOnce(&mut InitSupervisorRequest), words: &[&str]) {
    let mut init = job.facts.pod_step();
    edit(&mut init);
    let pod = job.start(&init);
    let report = job.craned.wait_for(0, JobStatus::Failed, LONG);
    for word in words {
        assert!(report.reason.contains(word), "{word:?} is not in {:?}", report.reason);
    }
    let mut step = job.container(&["sh", "-c", "echo ran"]);
    step.execute();
    assert_eq!(job.ended(&mut step).final_status(), JobStatus::Failed);
    assert!(job.runtime_log(1).is_empty(), "ran without its user namespace on {}", runtime.name());
    assert!(runtime.cri().containers(job.id()).is_empty());
    job.end_pod(pod);
}

#[test]
fn the_range_is_the_users_first_in_the_files() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        // Not the first: not used.
        user.add_range("--add-subuids", user.subuids + NEXT_RANGE, RANGE);
        let job = Job::on(runtime).of(&user).with_userns();
        let first = user.listed("/etc/subuid")[0];
        if first == (user.subuids, RANGE) {
            runs_in_the_users_range(&job, &user);
        } else {
            // shadow-utils chose the order.
            job.run(MAPS);
            assert_eq!(maps(&job)[2], [0, first.0, first.1]);
        }
    });
}

#[test]
fn several_steps_share_the_namespace_of_their_pod() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let job = Job::on(runtime).of(&user).with_userns();
        let pod = job.pod();
        for step in [1, 2] {
            let mut run = job.container_with(step, &["readlink", "/proc/self/ns/user"], |_| {});
            run.execute();
            let report: StepStatusChangeRequest = job.ended(&mut run);
            assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
        }
        assert_eq!(job.output(1, "stdout"), job.output(2, "stdout"));
        job.end_pod(pod);
    });
}

#[test]
fn a_user_without_a_range_is_named() {
    on_each_with_userns(|runtime| {
        let user = TestUser::without_ranges();
        let job = Job::on(runtime).of(&user).with_userns();
        refused(runtime, &job, |_| {}, &[&user.name, "/etc/subuid"]);
    });
}

fn mapping(id: u32, count: u64, start: u32) -> Mapping {
    Mapping { id: id.into(), id_count: count, subid_start: start.into(), subid_size: RANGE.into() }
}

/// Ranges computed as [`TestUser`] computes them: from 20000 on.
fn computed(user: &TestUser) -> SubIdConfig {
    assert_eq!(user.uid, user.gid, "useradd took another number for the group of {}", user.name);
    managed(mapping(20_000, 10_000, SUBUIDS), mapping(20_000, 10_000, SUBGIDS))
}

#[test]
fn managed_ranges_are_computed_and_listed() {
    on_each_with_userns(|runtime| {
        let user = TestUser::without_ranges();
        let mut job = Job::on(runtime).of(&user).with_userns();
        job.facts.subid = Some(computed(&user));
        runs_in_the_users_range(&job, &user);
        assert_eq!(user.listed("/etc/subuid"), [(user.subuids, RANGE)]);
        assert_eq!(user.listed("/etc/subgid"), [(user.subgids, RANGE)]);
        // Once there, they are taken as they are.
        let mut again = Job::on(runtime).of(&user).with_userns();
        again.facts.subid = Some(computed(&user));
        runs_in_the_users_range(&again, &user);
        assert_eq!(user.listed("/etc/subuid").len(), 1);
    });
}

#[test]
fn managed_ranges_that_others_wrote_differently_are_named() {
    on_each_with_userns(|runtime| {
        let user = TestUser::without_ranges();
        user.add_range("--add-subuids", user.subuids + NEXT_RANGE, RANGE);
        user.add_range("--add-subgids", user.subgids, RANGE);
        let mut job = Job::on(runtime).of(&user).with_userns();
        job.facts.subid = Some(computed(&user));
        let (listed, computed) = ((user.subuids + NEXT_RANGE).to_string(), user.subuids.to_string());
        refused(runtime, &job, |_| {}, &[&user.name, "/etc/subuid", &listed, &computed]);
        assert_eq!(user.listed("/etc/subuid"), [(user.subuids + NEXT_RANGE, RANGE)], "not touched");
    });
}

#[test]
fn a_user_no_mapping_covers_is_named() {
    on_each_with_userns(|runtime| {
        let user = TestUser::without_ranges();
        let mut job = Job::on(runtime).of(&user).with_userns();
        job.facts.subid = Some(managed(
            mapping(user.uid + 1, 5, user.subuids + NEXT_RANGE),
            mapping(user.gid + 1, 5, user.subgids + NEXT_RANGE),
        ));
        refused(runtime, &job, |_| {}, &[&user.uid.to_string()]);
        assert!(user.listed("/etc/subuid").is_empty() && user.listed("/etc/subgid").is_empty());
    });
}

#[test]
fn a_range_that_ends_past_the_last_id_or_begins_at_root_is_refused() {
    on_each_with_userns(|runtime| {
        let user = TestUser::without_ranges();
        for start in [0, u32::MAX - 100] {
            let mut job = Job::on(runtime).of(&user).with_userns();
            job.facts.subid = Some(managed(mapping(user.uid, 1, start), mapping(user.gid, 1, user.subgids)));
            refused(runtime, &job, |_| {}, &[]);
            assert!(user.listed("/etc/subuid").is_empty(), "from {start}");
        }
    });
}

#[test]
fn a_runtime_without_user_namespaces_runs_nothing() {
    on_each_without_userns(|runtime| {
        let user = TestUser::new();
        let job = Job::on(runtime).of(&user).with_userns();
        refused(runtime, &job, |_| {}, &["user namespace"]);
    });
}

#[test]
fn the_nodes_network_goes_with_no_user_namespace() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let job = Job::on(runtime).of(&user).with_userns();
        let on_the_nodes_network = |init: &mut InitSupervisorRequest| {
            init.pod().namespace.get_or_insert_default().network = NamespaceMode::Node.into();
        };
        refused(runtime, &job, on_the_nodes_network, &["network"]);
    });
}
