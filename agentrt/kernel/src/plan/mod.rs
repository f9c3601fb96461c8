//! A policy compiled for one host: everything concrete, nothing left to decide when an agent starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::Values;
use crate::host::Host;
use crate::policy::{Layer, Level, NetworkMode, Policy, PolicyError, Root, WorkspaceKind};
use crate::seccomp::{self, Instruction};
use crate::sys::fs;

mod landlock;
mod limits;

pub(crate) use landlock::paths as landlock_paths;

/// What limits are where a policy does not state them.
pub mod defaults {
    use crate::policy::Bytes;
    /// Memory of all processes.
    pub const MEMORY: Bytes = Bytes(512 << 20);
    /// Cores.
    pub const CPUS: f64 = 1.0;
    /// Weight.
    pub const CPU_WEIGHT: u64 = 100;
    /// Processes and threads.
    pub const PROCESSES: u64 = 256;
    /// Open files of a process.
    pub const OPEN_FILES: u64 = 1024;
    /// Stack of a process.
    pub const STACK: Bytes = Bytes(8 << 20);
}

/// Where the workspace is where a policy does not state it.
pub const WORKSPACE: &str = "/workspace";
/// Its quota on bytes.
pub const WORKSPACE_SIZE: crate::policy::Bytes = crate::policy::Bytes(256 << 20);
/// Its quota on inodes.
pub const WORKSPACE_INODES: u64 = 65536;

/// What may be done beneath a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read and list.
    Read,
    /// Read, list, execute.
    Execute,
    /// Read, list, change.
    Write,
    /// Read, list, change, execute.
    All,
    /// List this directory (and those beneath), nothing more.
    List,
    /// Devices: read, write, control.
    Device,
}

impl Access {
    /// As Landlock's rights.
    pub const fn rights(self) -> u64 {
        const READ: u64 = fs::READ_FILE | fs::READ_DIR;
        const WRITE: u64 = READ
            | fs::WRITE_FILE
            | fs::TRUNCATE
            | fs::REMOVE_DIR
            | fs::REMOVE_FILE
            | fs::REFER
            | fs::MAKE_DIR
            | fs::MAKE_REG
            | fs::MAKE_SOCK
            | fs::MAKE_FIFO
            | fs::MAKE_SYM;
        match self {
            Self::Read => READ,
            Self::Execute => READ | fs::EXECUTE,
            Self::Write => WRITE,
            Self::All => WRITE | fs::EXECUTE,
            Self::List => fs::READ_DIR,
            Self::Device => READ | fs::WRITE_FILE | fs::IOCTL_DEV,
        }
    }
}

/// A host path that is visible inside at the same place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bind {
    /// The path.
    pub path: PathBuf,
    /// What may be done beneath it.
    pub access: Access,
}

/// The writable part: /tmp, /run, /dev/shm and the workspace share one tmpfs and its quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspacePlan {
    /// What backs it.
    pub kind: WorkspaceKind,
    /// Where it is inside.
    pub path: PathBuf,
    /// Quota on bytes.
    pub size: u64,
    /// Quota on inodes.
    pub inodes: u64,
    /// Whether files in it may be executed.
    pub execute: bool,
}

/// What Landlock is asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockPlan {
    /// Version of the interface.
    pub version: u32,
    /// Rights to files that are denied where no rule allows them.
    pub files: u64,
    /// The same for TCP.
    pub network: u64,
    /// Scopes.
    pub scoped: u64,
    /// Rules for paths, as they are inside.
    pub paths: Vec<(PathBuf, Access)>,
    /// Rules for ports.
    pub ports: Vec<(u16, u64)>,
}

/// What the egress proxy does for an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPlan {
    /// Whom it may be asked for: `host:port`, `*.host:port`.
    pub rules: BTreeSet<String>,
    /// Connections at once.
    pub connections: Option<u64>,
    /// Bytes a second, both ways together.
    pub bytes_per_second: Option<u64>,
    /// Names of secrets, and the origins that each is for.
    pub secrets: BTreeMap<String, BTreeSet<String>>,
}

/// A resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Its key in the policy.
    pub key: String,
    /// Soft and hard value.
    pub value: u64,
}

/// An optional layer that this host lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Missing {
    /// The layer.
    pub layer: Layer,
    /// Why it is not applied.
    pub why: String,
}

/// A policy compiled for one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How much is put between the agent and the host.
    pub level: Level,
    /// Where the root file system comes from.
    pub root: Root,
    /// Host paths beside it.
    pub binds: Vec<Bind>,
    /// The writable part; `None` at L1.
    pub workspace: Option<WorkspacePlan>,
    /// The network's mode.
    pub network: NetworkMode,
    /// What the egress proxy may be asked for.
    pub egress: EgressPlan,
    /// It may be forked where its program says so.
    pub checkpoints: bool,
    /// Landlock.
    pub landlock: LandlockPlan,
    /// The filter of system calls.
    pub filter: Vec<Instruction>,
    /// Denied calls are told to init, which notes them.
    pub record_denials: bool,
    /// Capabilities that stay, as bits.
    pub capabilities: u64,
    /// The highest capability that the host knows.
    pub last_capability: u32,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Resource limits.
    pub limits: Vec<ResourceLimit>,
    /// Cgroup values.
    pub cgroup: Values,
    /// Optional layers that this host lacks.
    pub missing: Vec<Missing>,
}

/// Compile a policy for a host. What the host cannot enforce is an error unless the policy calls it optional.
pub fn compile(policy: &Policy, host: &Host) -> Result<Plan, PolicyError> {
    let level = policy.level();
    let mut missing = Vec::new();
    let mut lacking = |layer: Layer, key: &str, why: String| -> Result<(), PolicyError> {
        if policy.is_optional(layer) {
            missing.push(Missing { layer, why });
            return Ok(());
        }
        let name = serde_json::to_value(layer).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        Err(PolicyError::at(key, format!("{why}; write optional = [\"{name}\"] to start without it")))
    };
    if level > Level::L1 && !host.user_namespaces {
        let problem = format!("{level:?} needs user namespaces, and this host does not let this user make any");
        return Err(PolicyError::at("level", problem));
    }

    let network = policy.network_mode();
    let mut landlock = landlock::compile(policy, host, &mut lacking)?;
    let calls = policy.system_calls.clone().unwrap_or_default();
    let workspace = workspace(policy, host)?;
    let mut record_denials = calls.record_denials.unwrap_or(level > Level::L1);
    if record_denials && level == Level::L1 {
        let problem = "L1 has no init that could note denials: choose L2 or leave it out";
        return Err(PolicyError::at("system_calls.record_denials", problem));
    }
    if record_denials && !host.notify {
        lacking(Layer::Denials, "system_calls.record_denials", "this kernel cannot tell denials".into())?;
        record_denials = false;
    }
    if policy.checkpoints() {
        // A domain cannot be left, and a filter has one note-taker: both would hold in forks, whose files and inits are others.
        landlock.files = 0;
        record_denials = false;
    }
    let ports_listed = policy.network.as_ref().is_some_and(|n| n.connect.is_some() || n.bind.is_some());
    let rules = seccomp::Rules::new(&seccomp::Options {
        allow: calls.allow.unwrap_or_default(),
        deny: calls.deny.unwrap_or_default(),
        internet: level == Level::L3 || network != NetworkMode::None,
        tcp_only: network == NetworkMode::Host && ports_listed,
        no_memory_programs: workspace.as_ref().is_some_and(|w| !w.execute),
        note: record_denials,
        enter: policy.checkpoints(),
    });

    let mut binds = Vec::new();
    let files = policy.files.clone().unwrap_or_default();
    let listed = [
        ("read", files.read, Access::Read),
        ("execute", files.execute, Access::Execute),
        ("write", files.write, Access::Write),
    ];
    for (key, paths, access) in listed {
        for path in paths.into_iter().flatten() {
            if std::fs::symlink_metadata(&path).is_err() {
                let problem = format!("{} does not exist on this host", path.display());
                return Err(PolicyError::at(format!("files.{key}"), problem));
            }
            binds.push(Bind { path, access });
        }
    }
    binds.sort();

    let mut kept = 0;
    for name in policy.capabilities.iter().flat_map(|c| c.keep.iter().flatten()) {
        kept |= 1 << crate::capability::number(name).map_err(|p| PolicyError::at("capabilities.keep", p))?;
    }
    if kept != 0 && level == Level::L1 {
        let problem = "L1 has no user namespace: capabilities would be the host's own";
        return Err(PolicyError::at("capabilities.keep", problem));
    }
    let cgroup = limits::of_cgroup(policy, host, &mut lacking)?;
    if policy.checkpoints() {
        missing.push(Missing { layer: Layer::LandlockFiles, why: "its forks have other files".into() });
        missing.push(Missing { layer: Layer::Denials, why: "its forks would have no record of their own".into() });
    }
    Ok(Plan {
        level,
        root: policy.root.clone().unwrap_or_default(),
        binds,
        workspace,
        network,
        egress: egress(policy),
        checkpoints: policy.checkpoints(),
        landlock,
        filter: seccomp::compile(&rules),
        record_denials,
        capabilities: kept,
        last_capability: host.last_capability,
        uid: policy.identity.as_ref().and_then(|i| i.uid).unwrap_or(1000),
        gid: policy.identity.as_ref().and_then(|i| i.gid).unwrap_or(1000),
        limits: limits::of_processes(policy, host),
        cgroup,
        missing,
    })
}

fn egress(policy: &Policy) -> EgressPlan {
    let network = policy.network.clone().unwrap_or_default();
    EgressPlan {
        rules: network.egress.unwrap_or_default(),
        connections: network.egress_connections,
        bytes_per_second: network.egress_bytes_per_second.map(|rate| rate.0),
        secrets: network.secrets.unwrap_or_default(),
    }
}

/// Harmless devices.
pub(crate) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

type Lacking<'a> = dyn FnMut(Layer, &str, String) -> Result<(), PolicyError> + 'a;

fn workspace(policy: &Policy, host: &Host) -> Result<Option<WorkspacePlan>, PolicyError> {
    let stated = policy.workspace.clone();
    if policy.level() == Level::L1 {
        if stated.is_some() {
            let problem = "L1 has no mounts of its own: list a directory in files.write, or choose L2";
            return Err(PolicyError::at("workspace", problem));
        }
        return Ok(None);
    }
    let stated = stated.unwrap_or_default();
    let kind = stated.kind.unwrap_or_default();
    if kind == WorkspaceKind::Overlay && !host.root {
        let problem = "an overlay needs a launcher that is root: choose tmpfs";
        return Err(PolicyError::at("workspace.kind", problem));
    }
    Ok(Some(WorkspacePlan {
        kind,
        path: stated.path.unwrap_or_else(|| WORKSPACE.into()),
        size: stated.size.unwrap_or(WORKSPACE_SIZE).0,
        inodes: stated.inodes.unwrap_or(WORKSPACE_INODES),
        execute: stated.execute.unwrap_or(true),
    }))
}

impl Plan {
    /// Whether a path lies where the plan lets files be changed.
    pub fn may_change(&self, path: &Path) -> bool {
        self.landlock
            .paths
            .iter()
            .any(|(allowed, access)| path.starts_with(allowed) && access.rights() & fs::WRITE_FILE != 0)
    }
}
