//! The policy document: what an agent may do. Deny by default; every key is optional but `version`.
//!
//! A document is data alone. [`crate::plan::compile`] turns it into a [`crate::plan::Plan`] for one host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod narrow;
mod parse;
mod size;

pub use narrow::origin;
pub use parse::PolicyError;
pub(crate) use parse::nearest as parse_nearest;
pub use size::Bytes;

/// The only version of the document so far.
pub const VERSION: u32 = 1;

/// How much is put between an agent and the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Level {
    /// Landlock and seccomp: for trusted tools.
    L1,
    /// L1, in namespaces of its own (user, pid, mount, ipc, uts, cgroup) with a root file system of its own.
    L2,
    /// L2, with a network namespace and cgroups of its own.
    #[default]
    L3,
}

/// A part of the sandbox that a policy may call optional: its absence is reported instead of failing the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Landlock's rules for files.
    LandlockFiles,
    /// Landlock's rules for TCP ports (ABI 4).
    LandlockNetwork,
    /// Landlock's scopes for signals and abstract sockets (ABI 6).
    LandlockScope,
    /// The memory limit.
    CgroupMemory,
    /// The CPU limit and weight.
    CgroupCpu,
    /// The limit on processes.
    CgroupPids,
    /// Freezing: an agent without it cannot be paused.
    CgroupFreezer,
    /// The limits on block I/O.
    CgroupIo,
    /// Naming and counting of denied system calls.
    Denials,
}

/// What an agent may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Version of the document; 1.
    pub version: u32,
    /// How much is put between the agent and the host. Default: L3.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub level: Option<Level>,
    /// Layers whose absence is reported instead of failing the start. Default: none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub optional: Option<BTreeSet<Layer>>,
    /// Whether the agent may be forked where its program says so. Then it may enter namespaces, and has neither Landlock's
    /// rules for files nor a record of denied calls. Default: false.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checkpoints: Option<bool>,
    /// Where the root file system comes from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub root: Option<Root>,
    /// Host paths that are visible beside the root.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub files: Option<Files>,
    /// The directory that the agent works in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workspace: Option<WorkspacePolicy>,
    /// The network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub network: Option<Network>,
    /// System calls.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system_calls: Option<SystemCalls>,
    /// Capabilities, of the agent's own user namespace.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub capabilities: Option<Capabilities>,
    /// Who the agent is inside.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<IdentityPolicy>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limits: Option<Limits>,
}

/// Where the root file system comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Root {
    /// The host's /usr, read-only, with a small /etc. Nothing else of the host.
    #[default]
    HostUsr,
    /// A directory of the host, read-only.
    Directory(PathBuf),
    /// An image in the store, by digest (`sha256:...`), read-only.
    Image(String),
}

/// Host paths that are visible beside the root (L2, L3), or reachable at all (L1). They keep their place inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// May be read and listed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read: Option<BTreeSet<PathBuf>>,
    /// May be read, listed and executed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub execute: Option<BTreeSet<PathBuf>>,
    /// May be read, listed and changed, but not executed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub write: Option<BTreeSet<PathBuf>>,
}

/// What backs the workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceKind {
    /// A tmpfs with a quota.
    #[default]
    Tmpfs,
    /// The root, writable: an overlay whose upper layer is a tmpfs with a quota, with the workspace in it.
    Overlay,
    /// None; /tmp alone is writable.
    None,
}

/// The directory that the agent works in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkspacePolicy {
    /// What backs it. Default: tmpfs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<WorkspaceKind>,
    /// Where it is inside. Default: /workspace.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<PathBuf>,
    /// Quota on bytes, /tmp and /dev/shm included. Default: 256 MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<Bytes>,
    /// Quota on inodes. Default: 65536.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inodes: Option<u64>,
    /// Whether files in it may be executed. Default: true.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub execute: Option<bool>,
}

/// How much of a network there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// No interface that is up.
    None,
    /// The loopback interface of a network namespace of its own.
    #[default]
    Loopback,
    /// The launcher's network namespace (L1 and L2 only; TCP ports as listed).
    Host,
}

/// The network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// How much of a network there is. Default: loopback at L3, none at L1 and L2 (where that means: no IP sockets).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mode: Option<NetworkMode>,
    /// With `mode = "host"`: TCP ports that may be connected to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connect: Option<BTreeSet<u16>>,
    /// With `mode = "host"`: TCP ports that may be listened on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bind: Option<BTreeSet<u16>>,
    /// Names and ports (`host:port`, `*.host:port`) that may be reached by way of the egress proxy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub egress: Option<BTreeSet<String>>,
    /// Connections at once through the egress proxy. Default: as many as the daemon lets every agent have.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub egress_connections: Option<u64>,
    /// Bytes a second through the egress proxy, both ways together. Default: as many as the daemon lets every agent move.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub egress_bytes_per_second: Option<Bytes>,
    /// Secrets that the agent has as placeholders, by name: the origins (`https://host:port`, `http://host:port`) for
    /// which the egress proxy puts the secret in the placeholder's place. `egress` lists each host and port as well.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secrets: Option<BTreeMap<String, BTreeSet<String>>>,
}

/// System calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemCalls {
    /// Allowed beside the default set. Calls that would open the sandbox are refused here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub allow: Option<BTreeSet<String>>,
    /// Denied though they are in the default set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deny: Option<BTreeSet<String>>,
    /// Name and count denied calls (each denied call then takes some microseconds more). Default: true at L2 and L3.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub record_denials: Option<bool>,
}

/// Capabilities, of the agent's own user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Capabilities that stay. Default: none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keep: Option<BTreeSet<String>>,
}

/// Who the agent is inside. Outside it is never uid 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityPolicy {
    /// User id inside. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    /// Group id inside. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gid: Option<u32>,
}

/// Limits. What is not stated has the default of the reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of all processes together, page cache included. Default: 512 MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory: Option<Bytes>,
    /// CPUs, in cores (1.5 is one and a half). Default: 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpus: Option<f64>,
    /// Share of a contended CPU, 1 to 10000. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_weight: Option<u64>,
    /// Processes and threads. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub processes: Option<u64>,
    /// Open files of one process. Default: 1024.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub open_files: Option<u64>,
    /// Size of one file. Default: no limit but the workspace's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file_size: Option<Bytes>,
    /// Stack of one thread that the kernel grows. Default: 8 MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stack: Option<Bytes>,
    /// CPU time of one process, in seconds. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_seconds: Option<u64>,
    /// Address space of one process. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address_space: Option<Bytes>,
    /// Bytes a second read from block devices. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read_bytes_per_second: Option<Bytes>,
    /// Bytes a second written to block devices. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub write_bytes_per_second: Option<Bytes>,
}

impl Policy {
    /// The default policy: L3, the host's /usr, a tmpfs to work in, loopback alone, default limits.
    pub fn new() -> Self {
        Self { version: VERSION, ..Self::default() }
    }

    /// The level, with its default.
    pub fn level(&self) -> Level {
        self.level.unwrap_or_default()
    }

    /// Whether the policy calls `layer` optional.
    pub fn is_optional(&self, layer: Layer) -> bool {
        self.optional.as_ref().is_some_and(|set| set.contains(&layer))
    }

    /// Whether the agent may be forked, with the default.
    pub fn checkpoints(&self) -> bool {
        self.checkpoints.unwrap_or_default()
    }

    /// The network's mode, with its default for the level.
    pub fn network_mode(&self) -> NetworkMode {
        let unstated = if self.level() == Level::L3 { NetworkMode::Loopback } else { NetworkMode::None };
        self.network.as_ref().and_then(|network| network.mode).unwrap_or(unstated)
    }

    /// The JSON schema of the document.
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Policy).to_value()
    }
}

#[cfg(test)]
mod tests;
