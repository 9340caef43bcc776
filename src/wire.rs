//! The generated craned messages.
//!
//! Seen only by `handshake`, `spec`, `control`, `report` and `local`; the rest
//! of the tree speaks our own types.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// Package `crane.grpc`.
pub mod crane {
    tonic::include_proto!("crane.grpc");
    /// Package `crane.grpc.supervisor`; nested because generated paths are relative.
    pub mod supervisor {
        tonic::include_proto!("crane.grpc.supervisor");
    }
}
