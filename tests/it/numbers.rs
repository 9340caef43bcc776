//! The wire's numbers: a message of ours must be the same bytes as craned's and
//! the runtime's. The tables are the contract's, `proto/` is checked against them.

use std::collections::BTreeMap;

type Numbers = BTreeMap<(String, String), u32>;

/// Package `crane.grpc`: message or enum (nested ones dotted), then each name and its number.
const CRANE: &str = "\
StepToD: job_id=1 step_id=2 res=3 type=4 step_type=5 uid=6 gid=7 task_res_map=8 pod_meta=11 container_meta=12
    start_time=14 time_limit=16 env=17 cwd=18 name=19 get_user_env=25 task_prolog=30 task_epilog=31 signals=32 deadline_time=33
    task_node_list=34
ResourceInNodeV3: cpu_ids=1 cpu_count=2 memory_bytes=3 memory_sw_bytes=4
PodJobAdditionalMeta.NamespaceOption: network=1 pid=2 ipc=3 target_id=4
PodJobAdditionalMeta.NamespaceMode: POD=0 CONTAINER=1 NODE=2 TARGET=3
PodJobAdditionalMeta.PortMapping.Protocol: TCP=0 UDP=1 SCTP=2
PodJobAdditionalMeta.PortMapping: protocol=1 container_port=2 host_port=3 host_ip=4
PodJobAdditionalMeta: name=1 labels=2 annotations=3 namespace=4 userns=5 run_as_user=6 run_as_group=7 ports=11
    dns_servers=12
ContainerJobAdditionalMeta.ImageInfo: image=1 username=2 password=3 server_address=4 pull_policy=5
    pull_timeout=7
ContainerJobAdditionalMeta: name=1 labels=2 annotations=3 image=6 command=11 args=12 workdir=13 env=14
    detached=15 tty=16 stdin=17 stdin_once=18 mounts=24 cdi_devices=25
Signal.SignalFlag: NONE=0 BATCH_ONLY=1 RESERVATION_OVERLAP=2
Signal: signal_number=1 signal_time=2 signal_flag=3
StepStatusChangeRequest: job_id=1 step_id=2 craned_id=3 new_status=4 exit_code=5 reason=6 timestamp=7
    final_status=8
StepStatusChangeReply: ok=1
JobStatus: Pending=0 Running=1 Completed=2 Failed=3 ExceedTimeLimit=4 Cancelled=5 OutOfMemory=6 Configuring=7
    Starting=8 Completing=9 Suspended=10 Deadline=11 Invalid=15
JobType: Interactive=0 Batch=1 Container=2
StepType: INVALID=0 DAEMON=1 PRIMARY=2 COMMON=3
TerminateSource: TERMINATE_SOURCE_USER_CANCEL=0 TERMINATE_SOURCE_NORMAL_COMPLETION=1
    TERMINATE_SOURCE_FRONTEND_DISCONNECT=2 TERMINATE_SOURCE_PREEMPT=3
ErrCode: SUCCESS=0 ERR_INVALID_PARAM=52 ERR_CGROUP=61";

/// Package `crane.grpc.supervisor`.
const SUPERVISOR: &str = "\
InitSupervisorRequest.ContainerConfig.BindFsConfig: bindfs_binary=1 fusermount_binary=2 mount_base_dir=3
InitSupervisorRequest.ContainerConfig.SubIdConfig.Mapping: id=1 id_count=2 subid_start=3 subid_size=4
InitSupervisorRequest.ContainerConfig.SubIdConfig: managed=1 uid_mappings=2 gid_mappings=3
InitSupervisorRequest.ContainerConfig.DnsConfig: cluster_domain=1 servers=2 searches=3 options=4
InitSupervisorRequest.ContainerConfig: temp_dir=1 runtime_endpoint=2 image_endpoint=3 bindfs=4 subid=5
    dns_config=6 image_pull_timeout=7 cri_call_timeout=8
InitSupervisorRequest.JobLifecycleHookConfig: task_prologs=1 task_epilogs=2 prologs=3 epilogs=4
    prolog_timeout=5 epilog_timeout=6 prolog_epilog_timeout=7 max_output_size=8
InitSupervisorRequest: job_id=1 step_id=2 debug_level=3 craned_id=4 craned_unix_socket_path=5 crane_base_dir=6
    job_name=8 cpuset_cg_str=10 container_config=15 step_spec=21 env=22 log_dir=23 supv_cgroup_path=24 max_log_file_size=26
    max_log_file_num=27 job_lifecycle_hook_config=30 enable_slurm_compatible_env=31
SupervisorReady: ok=1
StepExecutionReply: code=1
QueryStepEnvReply: ok=1 env=2
CheckStatusReply: job_id=1 step_id=2 supervisor_pid=3 status=4 ok=5
ChangeStepTimeConstraintRequest: time_limit_seconds=1 deadline_time=2
ChangeStepTimeConstraintReply: ok=1
TerminateStepRequest: terminate_source=2
TerminateStepReply: ok=1 reason=2
MigrateSshProcToCgroupRequest: pid=1
MigrateSshProcToCgroupReply: err_code=1
ReceivePmixPortReply: ok=1";

/// Package `runtime.v1`.
const CRI: &str = "\
VersionRequest: version=1
VersionResponse: version=1 runtime_name=2 runtime_version=3 runtime_api_version=4
RunPodSandboxRequest: config=1 runtime_handler=2
PodSandboxConfig: metadata=1 hostname=2 log_directory=3 dns_config=4 port_mappings=5 labels=6 annotations=7
    linux=8
PodSandboxMetadata: name=1 uid=2 namespace=3 attempt=4
DNSConfig: servers=1 searches=2 options=3
PortMapping: protocol=1 container_port=2 host_port=3 host_ip=4
LinuxPodSandboxConfig: cgroup_parent=1 security_context=2
LinuxSandboxSecurityContext: namespace_options=1 seccomp=9
NamespaceOption: network=1 pid=2 ipc=3 target_id=4 userns_options=5
UserNamespace: mode=1 uids=2 gids=3
IDMapping: host_id=1 container_id=2 length=3
SecurityProfile.ProfileType: RuntimeDefault=0 Unconfined=1 Localhost=2
SecurityProfile: profile_type=1
RunPodSandboxResponse: pod_sandbox_id=1
StopPodSandboxRequest: pod_sandbox_id=1
RemovePodSandboxRequest: pod_sandbox_id=1
PodSandboxStatusRequest: pod_sandbox_id=1 verbose=2
PodSandboxStatusResponse: status=1 info=2
PodSandboxStatus: id=1 metadata=2 state=3 created_at=4 labels=7 runtime_handler=9
ListPodSandboxRequest: filter=1
PodSandboxFilter: id=1 state=2 label_selector=3
PodSandboxStateValue: state=1
ListPodSandboxResponse: items=1
PodSandbox: id=1 metadata=2 state=3 created_at=4 labels=5 runtime_handler=7
CreateContainerRequest: pod_sandbox_id=1 config=2 sandbox_config=3
ContainerConfig: metadata=1 image=2 command=3 args=4 working_dir=5 envs=6 mounts=7 labels=9 annotations=10
    log_path=11 stdin=12 stdin_once=13 tty=14 linux=15 CDI_devices=17
ContainerMetadata: name=1 attempt=2
ImageSpec: image=1 user_specified_image=18
KeyValue: key=1 value=2
Mount: container_path=1 host_path=2 readonly=3 propagation=5
LinuxContainerConfig: resources=1 security_context=2
LinuxContainerResources: cpu_period=1 cpu_quota=2 cpu_shares=3 memory_limit_in_bytes=4 cpuset_cpus=6
    memory_swap_limit_in_bytes=10
LinuxContainerSecurityContext: capabilities=1 namespace_options=3 run_as_user=5 run_as_group=12
    supplemental_groups=8 supplemental_groups_policy=17 no_new_privs=11 masked_paths=13 readonly_paths=14 seccomp=15
Capability: add_capabilities=1 drop_capabilities=2
Int64Value: value=1
CDIDevice: name=1
CreateContainerResponse: container_id=1
StartContainerRequest: container_id=1
StopContainerRequest: container_id=1 timeout=2
RemoveContainerRequest: container_id=1
ListContainersRequest: filter=1
ContainerFilter: id=1 pod_sandbox_id=3 label_selector=4
ListContainersResponse: containers=1
Container: id=1 pod_sandbox_id=2 metadata=3 image_ref=5 state=6 created_at=7 labels=8 image_id=10
ContainerStatusRequest: container_id=1 verbose=2
ContainerStatusResponse: status=1 info=2
ReopenContainerLogRequest: container_id=1
ExecRequest: container_id=1 cmd=2 tty=3 stdin=4 stdout=5 stderr=6
ExecResponse: url=1
AttachRequest: container_id=1 stdin=2 tty=3 stdout=4 stderr=5
AttachResponse: url=1
ContainerStatus: id=1 metadata=2 state=3 created_at=4 started_at=5 finished_at=6 exit_code=7 image_ref=9
    reason=10 message=11 labels=12 log_path=15 image_id=17
StatusRequest: verbose=1
StatusResponse: status=1 info=2 runtime_handlers=3
RuntimeHandler: name=1 features=2
RuntimeHandlerFeatures: recursive_read_only_mounts=1 user_namespaces=2
RuntimeStatus: conditions=1
RuntimeCondition: type=1 status=2 reason=3 message=4
RuntimeConfigResponse: linux=1
LinuxRuntimeConfiguration: cgroup_driver=1
ImageStatusRequest: image=1
ImageStatusResponse: image=1
Image: id=1 repo_tags=2 repo_digests=3 size=4
PullImageRequest: image=1 auth=2 sandbox_config=3
AuthConfig: username=1 password=2
PullImageResponse: image_ref=1
ListImagesResponse: images=1
ImageFsInfoResponse: image_filesystems=1
FilesystemUsage: fs_id=2
FilesystemIdentifier: mountpoint=1
Protocol: TCP=0 UDP=1 SCTP=2
SupplementalGroupsPolicy: Merge=0 Strict=1
NamespaceMode: POD=0 CONTAINER=1 NODE=2 TARGET=3
PodSandboxState: SANDBOX_READY=0 SANDBOX_NOTREADY=1
MountPropagation: PROPAGATION_PRIVATE=0 PROPAGATION_HOST_TO_CONTAINER=1 PROPAGATION_BIDIRECTIONAL=2
ContainerState: CONTAINER_CREATED=0 CONTAINER_RUNNING=1 CONTAINER_EXITED=2 CONTAINER_UNKNOWN=3
CgroupDriver: SYSTEMD=0 CGROUPFS=1";

/// A table as above.
fn expected(table: &str) -> Numbers {
    let mut numbers = Numbers::new();
    let mut message = String::new();
    for word in table.split_whitespace() {
        match word.split_once('=') {
            Some((field, number)) => {
                numbers.insert((message.clone(), field.into()), number.parse().unwrap());
            }
            None => message = word.trim_end_matches(':').into(),
        }
    }
    numbers
}

/// What a `.proto` file says.
fn written(proto: &str) -> Numbers {
    let mut numbers = Numbers::new();
    let mut inside: Vec<String> = Vec::new();
    for line in proto.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["message" | "enum" | "service", name, "{"] => inside.push((*name).into()),
            ["}"] => drop(inside.pop()),
            [.., field, "=", number] if !inside.is_empty() => {
                let number = number.trim_end_matches(';').parse().unwrap();
                numbers.insert((inside.join("."), (*field).into()), number);
            }
            _ => {}
        }
    }
    numbers
}

#[track_caller]
fn agree(proto: &str, table: &str) {
    let (written, expected) = (written(proto), expected(table));
    assert!(!expected.is_empty());
    for (field, number) in &expected {
        assert_eq!(written.get(field), Some(number), "{}.{}", field.0, field.1);
    }
    let unknown: Vec<_> = written.keys().filter(|field| !expected.contains_key(field)).collect();
    assert!(unknown.is_empty(), "add to the table from the contract: {unknown:?}");
}

#[test]
fn craneds_numbers_are_the_contracts() {
    agree(include_str!("../../proto/crane.proto"), CRANE);
    agree(include_str!("../../proto/supervisor.proto"), SUPERVISOR);
}

#[test]
fn the_runtimes_numbers_are_the_contracts() {
    agree(include_str!("../../proto/cri.proto"), CRI);
}
