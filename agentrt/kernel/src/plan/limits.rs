//! Limits of a plan: of each process, and of all together.

use super::{Lacking, ResourceLimit, defaults};
use crate::cgroup::{Controller, Values};
use crate::host::Host;
use crate::policy::{Layer, Level, Policy, PolicyError};

#[allow(clippy::unnecessary_cast)] // the type of RLIMIT_* differs between C libraries
pub(super) fn of_processes(policy: &Policy, host: &Host) -> Vec<ResourceLimit> {
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

pub(super) fn of_cgroup(policy: &Policy, host: &Host, lacking: &mut Lacking) -> Result<Values, PolicyError> {
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
            format!(
                "the cgroup controller {controller:?} is not mounted on this host ({kind} layout), or not where this user may make cgroups"
            ),
        )?;
        match controller {
            Controller::Memory => values.memory = None,
            Controller::Pids => values.processes = None,
            Controller::Io => (values.read_bytes_per_second, values.write_bytes_per_second) = (None, None),
            _ => (values.cpus, values.cpu_weight) = (None, None),
        }
    }
    if !host.cgroups.places.contains_key(&Controller::Freezer) {
        let why = format!(
            "no freezer is mounted on this host ({} layout), or not where this user may make cgroups: the agent could not be paused",
            host.cgroups.kind()
        );
        lacking(Layer::CgroupFreezer, "level", why)?;
    }
    Ok(values)
}
