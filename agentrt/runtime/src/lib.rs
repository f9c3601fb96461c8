//! Agent Runtime: the process manager of a node's agents.
//!
//! Three kinds of processes: the daemon (tokio, gRPC, holds no namespaces), the spawner (single-threaded; it alone forks)
//! and one init per agent (a fork of the spawner; it reaps, pumps the log and outlives both others).

pub mod clock;
pub mod logs;
pub mod state;
pub mod status;

/// The service's messages, generated from proto/gpve/runtime/v1/runtime.proto.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("gpve.runtime.v1");
}
