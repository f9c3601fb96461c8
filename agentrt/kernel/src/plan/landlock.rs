//! What Landlock is asked to do, from a policy.

use std::path::PathBuf;

use super::{Access, DEVICES, Lacking, LandlockPlan, WORKSPACE};
use crate::host::Host;
use crate::policy::{Layer, Level, NetworkMode, Policy, PolicyError, Root, WorkspaceKind};
use crate::sys::{net, scope};

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

pub(super) fn compile(policy: &Policy, host: &Host, lacking: &mut Lacking) -> Result<LandlockPlan, PolicyError> {
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
        plan.paths = paths(policy);
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

pub(crate) fn paths(policy: &Policy) -> Vec<(PathBuf, Access)> {
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
    if policy.checkpoints() {
        // Mounts alone hold: they tell reading from writing, but not reading from executing.
        for (_, access) in &mut paths {
            *access = match *access {
                Access::Read | Access::List => Access::Execute,
                Access::Write if policy.workspace.as_ref().and_then(|w| w.execute) != Some(false) => Access::All,
                other => other,
            };
        }
    }
    paths
}
