//! A policy compiled for one host: everything concrete, nothing left to decide when an agent starts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::{Controller, Values};
use crate::host::Host;
use crate::policy::{Layer, Level, NetworkMode, Policy, PolicyError, Root, WorkspaceKind};
use crate::seccomp::{self, Instruction};
use crate::sys::{fs, net, scope};

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
pub const WORKSPACE: &str = "/work";
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
    pub egress: BTreeSet<String>,
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
    /// /proc shows the agent's own processes alone, and nothing but processes.
    pub proc_hidden: bool,
    /// Cgroup layers that may be left out when they cannot be set up.
    pub optional: BTreeSet<Layer>,
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
    let landlock = landlock(policy, host, &mut lacking)?;
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
    let ports_listed = policy.network.as_ref().is_some_and(|n| n.connect.is_some() || n.bind.is_some());
    let rules = seccomp::Rules::new(&seccomp::Options {
        allow: calls.allow.unwrap_or_default(),
        deny: calls.deny.unwrap_or_default(),
        internet: level == Level::L3 || network != NetworkMode::None,
        tcp_only: network == NetworkMode::Host && ports_listed,
        no_memory_programs: workspace.as_ref().is_some_and(|w| !w.execute),
        note: record_denials,
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
    let cgroup = cgroup(policy, host, &mut lacking)?;
    Ok(Plan {
        level,
        root: policy.root.clone().unwrap_or_default(),
        binds,
        workspace,
        network,
        egress: policy.network.as_ref().and_then(|n| n.egress.clone()).unwrap_or_default(),
        landlock,
        filter: seccomp::compile(&rules),
        record_denials,
        capabilities: kept,
        last_capability: host.last_capability,
        uid: policy.identity.as_ref().and_then(|i| i.uid).unwrap_or(1000),
        gid: policy.identity.as_ref().and_then(|i| i.gid).unwrap_or(1000),
        limits: limits(policy, host),
        cgroup,
        proc_hidden: true,
        optional: policy.optional.clone().unwrap_or_default(),
        missing,
    })
}

type Lacking<'a> = dyn FnMut(Layer, &str, String) -> Result<(), PolicyError> + 'a;

/// What of /etc a program of the host's /usr looks at (L1).
const ETC: [&str; 14] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/alternatives",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/services",
];
/// Harmless devices.
pub(crate) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn landlock(policy: &Policy, host: &Host, lacking: &mut Lacking) -> Result<LandlockPlan, PolicyError> {
    let (level, version, mode) = (policy.level(), host.landlock, policy.network_mode());
    let mut plan = LandlockPlan { version, ..LandlockPlan::default() };
    let has = |version: u32| {
        if version == 0 { "no Landlock".to_owned() } else { format!("Landlock ABI {version} alone") }
    };
    if version < 3 {
        let why = format!("the rules for files need Landlock ABI 3, and this kernel has {}", has(version));
        lacking(Layer::LandlockFiles, "level", why)?;
    } else {
        // Every right that this version knows is handled, so that what no rule names is denied.
        plan.files = if version >= 5 { (1 << 16) - 1 } else { (1 << 15) - 1 };
        plan.paths = landlock_paths(policy);
    }
    if mode == NetworkMode::Host {
        let network = policy.network.clone().unwrap_or_default();
        if network.connect.is_some() || network.bind.is_some() {
            if version < 4 {
                let why = format!("rules for TCP ports need Landlock ABI 4, and this kernel has {}", has(version));
                lacking(Layer::LandlockNetwork, "network.mode", why)?;
            } else {
                plan.network = net::BIND_TCP | net::CONNECT_TCP;
                for (ports, right) in [(network.connect, net::CONNECT_TCP), (network.bind, net::BIND_TCP)] {
                    plan.ports.extend(ports.into_iter().flatten().map(|port| (port, right)));
                }
            }
        }
    } else if level != Level::L1 && version >= 4 && mode == NetworkMode::None {
        // Nothing to connect to anyhow; a second lock on the door.
        plan.network = net::BIND_TCP | net::CONNECT_TCP;
    }
    if version >= 6 {
        plan.scoped = scope::SIGNAL | scope::ABSTRACT_UNIX_SOCKET;
    } else if level != Level::L3 {
        let why = format!(
            "{level:?} holds signals and abstract sockets by Landlock ABI 6, and this kernel has {}",
            has(version)
        );
        lacking(Layer::LandlockScope, "level", why)?;
    }
    Ok(plan)
}

pub(crate) fn landlock_paths(policy: &Policy) -> Vec<(PathBuf, Access)> {
    let mut paths: Vec<(PathBuf, Access)> = Vec::new();
    let mut put = |path: &str, access| paths.push((path.into(), access));
    let root = policy.root.clone().unwrap_or_default();
    if policy.level() == Level::L1 {
        match &root {
            Root::HostUsr => {
                for path in ["/usr", "/bin", "/sbin", "/lib", "/lib64"] {
                    put(path, Access::Execute);
                }
                ETC.iter().for_each(|path| put(path, Access::Read));
            }
            // At L1 the root stays the host's; what may be executed is listed.
            Root::Directory(_) | Root::Image(_) => {}
        }
        put("/proc/self", Access::Read);
        DEVICES.iter().for_each(|(name, _, _)| put(&format!("/dev/{name}"), Access::Device));
    } else {
        match &root {
            Root::HostUsr => {
                put("/", Access::List);
                put("/usr", Access::Execute);
                put("/etc", Access::Read);
                put("/proc", Access::Read);
            }
            // What lies beneath is the image and what the plan binds; binds that must not be executed say so themselves.
            Root::Directory(_) | Root::Image(_) => put("/", Access::Execute),
        }
        put("/dev", Access::Device);
        let workspace = policy.workspace.clone().unwrap_or_default();
        let access = if workspace.execute.unwrap_or(true) { Access::All } else { Access::Write };
        if workspace.kind == Some(WorkspaceKind::Overlay) {
            put("/", access);
        }
        if workspace.kind.unwrap_or_default() != WorkspaceKind::None {
            paths.push((workspace.path.unwrap_or_else(|| WORKSPACE.into()), access));
        }
        for path in ["/tmp", "/run", "/dev/shm"] {
            paths.push((path.into(), access));
        }
    }
    let files = policy.files.clone().unwrap_or_default();
    for (listed, access) in [(files.read, Access::Read), (files.execute, Access::Execute), (files.write, Access::Write)]
    {
        paths.extend(listed.into_iter().flatten().map(|path| (path, access)));
    }
    paths
}

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

#[allow(clippy::unnecessary_cast)] // the type of RLIMIT_* differs between C libraries
fn limits(policy: &Policy, host: &Host) -> Vec<ResourceLimit> {
    let stated = policy.limits.clone().unwrap_or_default();
    let shared = policy.level() != Level::L3;
    let wanted = [
        (libc::RLIMIT_NOFILE, "open_files", Some(stated.open_files.unwrap_or(defaults::OPEN_FILES))),
        (libc::RLIMIT_CORE, "core", Some(0)),
        (libc::RLIMIT_STACK, "stack", Some(stated.stack.unwrap_or(defaults::STACK).0)),
        (libc::RLIMIT_FSIZE, "file_size", stated.file_size.map(|b| b.0)),
        (libc::RLIMIT_CPU, "cpu_seconds", stated.cpu_seconds),
        (libc::RLIMIT_AS, "address_space", stated.address_space.map(|b| b.0)),
        // Without a cgroup, what is stated is held as well as it can be: for each process, and for each user.
        (libc::RLIMIT_AS, "memory", stated.memory.map(|b| b.0).filter(|_| shared && stated.address_space.is_none())),
        (libc::RLIMIT_NPROC, "processes", stated.processes.filter(|_| shared)),
        // Message queues and locked memory are kernel memory that no quota of a tmpfs sees.
        (libc::RLIMIT_MSGQUEUE, "message_queues", Some(819_200)),
        (libc::RLIMIT_MEMLOCK, "locked_memory", Some(8 << 20)),
        (libc::RLIMIT_SIGPENDING, "pending_signals", Some(4096)),
    ];
    let mut out = Vec::new();
    for (resource, key, value) in wanted {
        if let Some(value) = value {
            // The launcher may lack CAP_SYS_RESOURCE: a hard limit that is lower already is the narrower one, and stays.
            let value = value.min(host.hard_limits.get(resource as usize).copied().unwrap_or(u64::MAX));
            out.push(ResourceLimit { resource: resource as u32, key: key.into(), value });
        }
    }
    out
}

fn cgroup(policy: &Policy, host: &Host, lacking: &mut Lacking) -> Result<Values, PolicyError> {
    if policy.level() != Level::L3 {
        return Ok(Values::default());
    }
    let stated = policy.limits.clone().unwrap_or_default();
    let mut values = Values {
        memory: Some(stated.memory.unwrap_or(defaults::MEMORY).0),
        cpus: Some(stated.cpus.unwrap_or(defaults::CPUS)),
        cpu_weight: stated.cpu_weight,
        processes: Some(stated.processes.unwrap_or(defaults::PROCESSES)),
        read_bytes_per_second: stated.read_bytes_per_second.map(|b| b.0),
        write_bytes_per_second: stated.write_bytes_per_second.map(|b| b.0),
    };
    for controller in values.controllers() {
        if host.cgroups.places.contains_key(&controller) {
            continue;
        }
        let (layer, key) = match controller {
            Controller::Memory => (Layer::CgroupMemory, "limits.memory"),
            Controller::Cpu | Controller::Account => (Layer::CgroupCpu, "limits.cpus"),
            Controller::Pids | Controller::Freezer => (Layer::CgroupPids, "limits.processes"),
            Controller::Io => (Layer::CgroupIo, "limits.read_bytes_per_second"),
        };
        let kind = host.cgroups.kind();
        lacking(
            layer,
            key,
            format!("the cgroup controller {controller:?} is not mounted on this host ({kind} layout)"),
        )?;
        match controller {
            Controller::Memory => values.memory = None,
            Controller::Pids => values.processes = None,
            Controller::Io => (values.read_bytes_per_second, values.write_bytes_per_second) = (None, None),
            _ => (values.cpus, values.cpu_weight) = (None, None),
        }
    }
    Ok(values)
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
