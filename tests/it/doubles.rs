//! The doubles themselves: a fake that lies would make every other test worthless.

use crate::support::SOON;
use crate::support::fake_cri::{FakeCri, Fault, Flavour, IMAGE, Method};
use crate::support::output::{records, written};
use crate::support::supervisor::channel;
use crate::support::wait;
use crane_supervisor::cri::api::runtime_service_client::RuntimeServiceClient;
use crane_supervisor::cri::api::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

const JOB: u32 = 7;

/// A bare client of one fake, with a pod.
struct Node {
    fake: Arc<FakeCri>,
    runtime: tokio::runtime::Runtime,
    stub: RuntimeServiceClient<Channel>,
    logs: PathBuf,
}

impl Node {
    fn new(flavour: Flavour) -> Self {
        let fake = FakeCri::with(flavour);
        let path = fake.endpoint();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = Path::new(path.strip_prefix("unix://").unwrap()).to_owned();
        let channel = runtime.block_on(async { channel(&socket, SOON) });
        let logs = socket.parent().unwrap().join("logs");
        Self { fake, runtime, stub: RuntimeServiceClient::new(channel), logs }
    }

    fn sandbox(&self) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 };
        let labels = HashMap::from([("job_id".into(), JOB.to_string())]);
        let log_directory = self.logs.to_str().unwrap().into();
        PodSandboxConfig { metadata: Some(metadata), labels, log_directory, ..PodSandboxConfig::default() }
    }

    fn pod(&mut self) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(self.sandbox()), runtime_handler: String::new() };
        let mut request = tonic::Request::new(request);
        request.set_timeout(SOON);
        self.runtime.block_on(self.stub.run_pod_sandbox(request)).map(|r| r.into_inner().pod_sandbox_id)
    }

    fn create(&mut self, pod: &str, command: &[&str]) -> Result<String, Status> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
            command: command.iter().map(|&part| part.into()).collect(),
            labels: self.sandbox().labels,
            log_path: "c.log".into(),
            ..ContainerConfig::default()
        };
        let sandbox_config = Some(self.sandbox());
        let request = CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config };
        self.runtime.block_on(self.stub.create_container(request)).map(|r| r.into_inner().container_id)
    }

    fn start(&mut self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.into() };
        self.runtime.block_on(self.stub.start_container(request)).map(|_| ())
    }

    fn stop(&mut self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: id.into(), timeout };
        self.runtime.block_on(self.stub.stop_container(request)).map(|_| ())
    }

    fn status(&mut self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
        self.runtime.block_on(self.stub.container_status(request)).unwrap().into_inner().status.unwrap()
    }

    fn remove_pod(&mut self, id: &str) {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.block_on(self.stub.remove_pod_sandbox(request)).unwrap();
    }

    fn end_of(&mut self, id: &str) -> ContainerStatus {
        let found = wait::until(SOON, || {
            let status = self.status(id);
            (status.state() == ContainerState::ContainerExited).then_some(status)
        });
        found.expect("the container ends")
    }
}

#[test]
fn the_fake_runs_a_real_process_and_shows_its_end_as_runtimes_do() {
    for flavour in [Flavour::containerd(), Flavour::crio()] {
        for (script, code, reason) in [("exit 0", 0, "Completed"), ("exit 7", 7, "Error"), ("kill -9 $$", 137, "Error")]
        {
            let mut node = Node::new(flavour.clone());
            let pod = node.pod().unwrap();
            let id = node.create(&pod, &["sh", "-c", script]).unwrap();
            node.start(&id).unwrap();
            let end = node.end_of(&id);
            assert_eq!((end.exit_code, &*end.reason), (code, reason), "{script} on {}", flavour.name);
            assert!(end.finished_at >= end.started_at && end.started_at >= end.created_at);
            node.remove_pod(&pod);
            assert_eq!(node.fake.left_of(JOB), Vec::<String>::new());
        }
    }
}

#[test]
fn the_fake_writes_logs_as_runtimes_do() {
    let mut node = Node::new(Flavour::containerd());
    let pod = node.pod().unwrap();
    let script = "echo one; echo two >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf tail";
    let id = node.create(&pod, &["sh", "-c", script]).unwrap();
    node.start(&id).unwrap();
    node.end_of(&id);
    let log = std::fs::read(node.logs.join("c.log")).unwrap();
    let long = "x".repeat(40000);
    assert_eq!(written(&log, "stdout"), format!("one\n{long}\ntail").into_bytes());
    assert_eq!(written(&log, "stderr"), b"two\n");
    assert!(records(&log).iter().all(|record| record.text.len() <= 16384));
}

#[test]
fn the_fake_refuses_a_taken_name_or_gives_the_same_id() {
    let mut containerd = Node::new(Flavour::containerd());
    let first = containerd.pod().unwrap();
    let refused = containerd.pod().unwrap_err();
    assert_eq!(refused.code(), Code::Unknown);
    assert!(refused.message().contains(&format!("is reserved for \"{first}\"")), "{}", refused.message());
    let mut crio = Node::new(Flavour::crio());
    assert_eq!(crio.pod().unwrap(), crio.pod().unwrap());
}

#[test]
fn a_missing_program_fails_start_on_containerd_and_create_on_crio() {
    let mut containerd = Node::new(Flavour::containerd());
    let pod = containerd.pod().unwrap();
    let id = containerd.create(&pod, &["/nonexistent"]).unwrap();
    assert!(containerd.start(&id).unwrap_err().message().contains("no such file or directory"));
    let status = containerd.status(&id);
    assert_eq!((status.exit_code, &*status.reason), (128, "StartError"));
    let mut crio = Node::new(Flavour::crio());
    let pod = crio.pod().unwrap();
    assert!(crio.create(&pod, &["/nonexistent"]).unwrap_err().message().contains("no such file or directory"));
}

#[test]
fn stop_waits_out_the_grace_only_where_term_is_ignored() {
    let mut node = Node::new(Flavour::containerd());
    let pod = node.pod().unwrap();
    let id = node.create(&pod, &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]).unwrap();
    node.start(&id).unwrap();
    wait::holds("ready", SOON, || std::fs::read(node.logs.join("c.log")).is_ok_and(|log| log.ends_with(b"ready\n")));
    node.stop(&id, 1).unwrap();
    assert_eq!(node.status(&id).exit_code, 137);
}

#[test]
fn a_fault_strikes_as_often_as_asked_and_a_lost_reply_leaves_the_thing_done() {
    let mut node = Node::new(Flavour::containerd());
    node.fake.fault(Method::RunPodSandbox, 1, Fault::Fail(Code::Unavailable, "not yet"));
    node.fake.fault(Method::RunPodSandbox, 1, Fault::DoneButAnswers(Code::DeadlineExceeded, "too late"));
    assert_eq!(node.pod().unwrap_err().code(), Code::Unavailable);
    assert_eq!(node.fake.left_of(JOB).len(), 0);
    assert_eq!(node.pod().unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(node.fake.left_of(JOB).len(), 1);
    assert_eq!(node.fake.calls()[0].deadline_seconds().map(f64::round), Some(5.0));
}

#[test]
fn containers_survive_a_restart_of_the_fake_and_their_exit_codes_can_be_forgotten() {
    let mut node = Node::new(Flavour::containerd());
    let pod = node.pod().unwrap();
    let id = node.create(&pod, &["sh", "-c", "echo ready; read _ < /dev/zero; exit 3"]).unwrap();
    node.start(&id).unwrap();
    node.fake.stop();
    node.fake.forget_exit_codes();
    node.fake.show_exits_after(Duration::from_millis(50));
    node.fake.start();
    assert_eq!(node.fake.pids_of(JOB).len(), 1);
    // The first call may still meet the old connection.
    wait::holds("the fake is back", SOON, || node.stop(&id, 1).is_ok());
    let end = node.status(&id);
    assert_eq!((end.exit_code, &*end.reason), (255, "Unknown"));
}
