//! Agent Runtime: the process manager of a node's agents.
//!
//! Three kinds of processes: the daemon (tokio, gRPC, holds no namespaces), the spawner (single-threaded; it alone forks)
//! and one init per agent (a fork of the spawner; it reaps, pumps the log and outlives both others).

// The items of this crate serve its own two programs; names and module docs say what they are.
#![allow(missing_docs)]

pub mod adopt;
pub mod agent;
pub mod cli;
pub mod clock;
pub mod connection;
pub mod context;
pub mod daemon;
pub mod egress;
pub mod exec;
pub mod fault;
pub mod lease;
pub mod logs;
pub mod plans;
pub mod probe;
pub mod process;
pub mod random;
pub mod ready;
pub mod service;
pub mod spawner;
pub mod spec;
pub mod state;
pub mod status;
pub mod store;
pub mod template;
pub mod terminal;
pub mod words;

/// The service's messages, generated from proto/gpve/runtime/v1/runtime.proto.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("gpve.runtime.v1");
}
