//! The generated CRI messages; seen only inside `cri`, and by tests that play a runtime.
#![allow(missing_docs, clippy::all, clippy::pedantic)]
tonic::include_proto!("runtime.v1");

/// containerd's own calls.
pub mod tasks {
    tonic::include_proto!("containerd.services.tasks.v1");
}
