//! What goes wrong, and when.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;
use tonic::Code;

/// The calls of both services, and of containerd's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is CRI's own call")]
pub enum Method {
    Version,
    Status,
    RuntimeConfig,
    RunPodSandbox,
    StopPodSandbox,
    RemovePodSandbox,
    PodSandboxStatus,
    ListPodSandbox,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    ListContainers,
    ContainerStatus,
    ReopenContainerLog,
    ImageStatus,
    PullImage,
    ListImages,
    ImageFsInfo,
    TasksKill,
    TasksDelete,
}

/// One thing that goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Takes this long, and is done even if the caller has gone meanwhile.
    Slow(Duration),
    /// Nothing happens until `release`; if the caller has gone by then, nothing ever.
    Hang,
    /// Nothing happens but this answer.
    Fail(Code, &'static str),
    /// It is done, but the answer is this.
    DoneButAnswers(Code, &'static str),
    /// The answer is this, and it is done after that time.
    DoneLater(Duration, Code, &'static str),
    /// It is done, but the answer never comes.
    DoneButSilent,
}

/// The script.
pub struct Faults {
    script: Mutex<HashMap<Method, VecDeque<Fault>>>,
    frozen: Mutex<bool>,
    released: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { script: Mutex::default(), frozen: Mutex::new(false), released: watch::channel(0).0 }
    }
}

impl Faults {
    pub fn add(&self, method: Method, times: usize, fault: Fault) {
        let mut script = self.script.lock().unwrap();
        script.entry(method).or_default().extend(std::iter::repeat_n(fault, times));
    }

    pub fn freeze(&self) {
        *self.frozen.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.frozen.lock().unwrap() = false;
        self.script.lock().unwrap().clear();
        self.released.send_modify(|count| *count += 1);
    }

    /// What the next call of `method` meets.
    pub fn next(&self, method: Method) -> Option<Fault> {
        if *self.frozen.lock().unwrap() {
            return Some(Fault::Hang);
        }
        self.script.lock().unwrap().get_mut(&method)?.pop_front()
    }

    /// Returns at the next `release`.
    pub async fn released(&self) {
        let mut count = self.released.subscribe();
        let _ = count.changed().await;
    }
}
