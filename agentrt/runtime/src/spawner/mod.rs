//! The spawner: the one process that forks. Single-threaded, it holds the workspaces and reaps what it started.
//!
//! It listens on a socket in the daemon's directory and serves one daemon at a time. It outlives the daemon, so a new
//! daemon finds children with a parent and workspaces that are still there; it ends by itself when it has neither a
//! daemon, nor children, nor workspaces. It may die too: agents live on under their inits, and the daemon starts another.

pub mod client;
mod exec;
mod files;
pub mod init;
mod keep;
pub mod launch;
mod network;
pub mod program;
pub mod protocol;
pub mod server;
pub mod wire;
