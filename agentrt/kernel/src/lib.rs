//! The Agent Kernel: what stands between an AI agent and the host it runs on.
//!
//! One typed [`policy::Policy`], deny by default, is compiled for a [`host::Host`] to a [`plan::Plan`]: mounts, Landlock
//! rules, a seccomp filter, capabilities, cgroup values, limits. [`launch::launch`] starts a program under it;
//! [`launch::launch_into`] one more in a sandbox that runs. What cannot be enforced fails the start, unless the policy
//! calls it optional; [`applied::Applied`] says what truly is in force.

pub mod applied;
pub mod archive;
pub mod capability;
pub mod cgroup;
pub mod copy;
pub mod enter;
pub mod error;
pub mod explain;
pub mod helper;
pub mod host;
pub mod identity;
pub mod image;
pub mod init;
pub mod launch;
pub mod network;
mod overlay;
pub mod plan;
pub mod policy;
pub mod report;
pub mod root;
pub mod sealed;
pub mod seccomp;
pub mod sys;
pub mod workspace;

pub use applied::Applied;
pub use cgroup::Cgroup;
pub use enter::enter;
pub use error::LaunchError;
pub use explain::{Access, Explanation, explain};
pub use host::Host;
pub use identity::Identity;
pub use launch::{Launch, Launched, Ordered, Prepared, Seed, launch, launch_forked, launch_into, seed_plan};
pub use network::{Network, Networks};
pub use plan::{Plan, compile};
pub use policy::{Layer, Level, Policy, PolicyError};
pub use report::{AgentReport, Report, report};
pub use workspace::Workspace;
