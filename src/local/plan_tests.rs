//! What the two messages hold.

use super::*;
use crate::config::file::{BindFsSection, MappingSection, SubIdSection};
use crate::layout::TempDir;
use crate::local::testing::{Scratch, request};

const PLAIN: Isolation = Isolation { network: Network::Node, users: Users::Nodes };

/// Pod step's and container step's message for `request`.
fn messages(request: &Request, isolation: Isolation) -> [InitSupervisorRequest; 2] {
    let scratch = Scratch::new("plan");
    let place = Place::claim_in(scratch.path(), &TempDir::new(scratch.path()), 1).unwrap();
    [pod_step(request, &place, isolation), container_step(request, &place, isolation)]
}

fn pod_metas(request: &Request, isolation: Isolation) -> [PodJobAdditionalMeta; 2] {
    messages(request, isolation).map(|message| message.step_spec.unwrap().pod_meta.unwrap())
}

#[test]
fn the_two_messages_have_the_shapes_the_contract_tells_steps_apart_by() {
    let request = Request { time: Some(Duration::from_secs(2)), memory: Some(1 << 20), ..request() };
    let [pod, container] = messages(&request, PLAIN);
    let spec = pod.step_spec.clone().unwrap();
    assert_eq!((pod.step_id, spec.step_type()), (0, StepType::Daemon));
    assert!(spec.pod_meta.is_some() && spec.container_meta.is_none());
    assert!(spec.task_res_map.is_empty() && spec.time_limit.is_none());

    let spec = container.step_spec.clone().unwrap();
    assert_eq!((container.step_id, spec.step_type()), (1, StepType::Primary));
    assert_eq!((container.job_id, spec.job_id), (pod.job_id, pod.job_id));
    assert_eq!(spec.task_res_map[&0].memory_bytes, 1 << 20);
    assert_eq!(spec.time_limit.map(|limit| limit.seconds), Some(2));
    let meta = spec.container_meta.unwrap();
    assert_eq!(meta.image.unwrap().image, "alpine:latest");
    assert!(meta.mounts.is_empty());
    assert_eq!(spec.pod_meta, pod.step_spec.unwrap().pod_meta);
    let config = container.container_config.unwrap();
    assert_eq!(config.runtime_endpoint, "unix:///run/a.sock");
}

#[test]
fn the_users_decide_which_ids_the_container_gets() {
    let run_as = RunAs { on_node: Ids { uid: 1000, gid: 100 }, in_namespace: Ids { uid: 0, gid: 5 } };
    let request = Request { user: Ids { uid: 1000, gid: 100 }, run_as, ..request() };
    for meta in pod_metas(&request, Isolation { network: Network::Pod, users: Users::Nodes }) {
        assert_eq!((meta.userns, meta.run_as_user, meta.run_as_group), (false, 1000, 100));
    }
    for meta in pod_metas(&request, Isolation { network: Network::Pod, users: Users::Own }) {
        assert_eq!((meta.userns, meta.run_as_user, meta.run_as_group), (true, 0, 5));
        assert_eq!(meta.namespace.unwrap().network(), pod::NamespaceMode::Pod);
    }
    for message in messages(&request, PLAIN) {
        let spec = message.step_spec.unwrap();
        assert_eq!((spec.uid, spec.gid), (1000, vec![100]), "the job's user is not who runs in it");
    }
}

#[test]
fn mounts_are_written_as_craned_does() {
    let mount = |host: &str, container: &str| Mount { host: host.into(), container: container.into() };
    let request =
        Request { mounts: vec![mount("/srv/a", "/data"), mount("sub", "/sub:ro")], cwd: "/home/a".into(), ..request() };
    let [pod, container] = messages(&request, PLAIN);
    assert!(pod.step_spec.unwrap().container_meta.is_none());
    let spec = container.step_spec.unwrap();
    assert_eq!(spec.cwd, "/home/a", "where sub starts");
    let expected = [("/srv/a", "/data"), ("sub", "/sub:ro")].map(|(host, path)| (host.to_owned(), path.to_owned()));
    assert_eq!(spec.container_meta.unwrap().mounts, HashMap::from(expected));
}

#[test]
fn without_a_sub_id_section_ranges_are_unmanaged_and_bindfs_is_off() {
    for message in messages(&request(), PLAIN) {
        let config = message.container_config.unwrap();
        let subid = config.subid.unwrap();
        assert!(!subid.managed && subid.uid_mappings.is_empty() && subid.gid_mappings.is_empty());
        assert!(config.bindfs.is_none());
    }
}

#[test]
fn sub_ids_and_bindfs_go_along_as_configured() {
    let mapping = |id| MappingSection { id, id_count: 10, sub_id_start: 100_000, sub_id_size: 65_536 };
    let mut request = request();
    request.node.sub_id =
        SubIdSection { managed: true, uid_mappings: vec![mapping(1000)], gid_mappings: vec![mapping(7), mapping(50)] };
    request.node.bind_fs = Some(BindFsSection {
        enabled: true,
        bindfs_binary: "/opt/bindfs".into(),
        fusermount_binary: "fusermount3".into(),
        mount_base_dir: "/mnt/crane".into(),
    });
    for message in messages(&request, PLAIN) {
        let config = message.container_config.unwrap();
        let subid = config.subid.unwrap();
        assert!(subid.managed);
        let starts: Vec<_> = subid.gid_mappings.iter().map(|mapping| mapping.id).collect();
        assert_eq!((subid.uid_mappings.len(), starts), (1, vec![7, 50]));
        let uids = &subid.uid_mappings[0];
        assert_eq!((uids.id, uids.id_count, uids.subid_start, uids.subid_size), (1000, 10, 100_000, 65_536));
        let bindfs = config.bindfs.unwrap();
        assert_eq!((bindfs.bindfs_binary.as_str(), bindfs.fusermount_binary.as_str()), ("/opt/bindfs", "fusermount3"));
        assert_eq!(bindfs.mount_base_dir, "/mnt/crane");
    }
}
