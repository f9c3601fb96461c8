//! What a process, or an agent, uses and was denied.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, Stats};
use crate::seccomp::calls;

/// What this process uses, and what holds it. What cannot be read from where we are is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Resident memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most there ever was.
    pub memory_peak_bytes: Option<u64>,
    /// CPU time of this process and of the children it has waited for, in microseconds.
    pub cpu_usec: u64,
    /// Bytes read from storage.
    pub read_bytes: Option<u64>,
    /// Bytes written to storage.
    pub written_bytes: Option<u64>,
    /// Mode of seccomp: 0 none, 2 a filter.
    pub seccomp: Option<u64>,
    /// Nothing that is executed gives new privileges.
    pub no_new_privileges: bool,
    /// Effective capabilities, by name.
    pub capabilities: Vec<String>,
}

/// Look at this process.
pub fn report() -> Report {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let value = |text: &str, key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok())
    };
    let (own, children) = (usage(libc::RUSAGE_SELF), usage(libc::RUSAGE_CHILDREN));
    let effective = crate::sys::capabilities().unwrap_or(0);
    Report {
        memory_bytes: value(&status, "VmRSS:").map(|kib| kib * 1024),
        memory_peak_bytes: value(&status, "VmHWM:").map(|kib| kib * 1024).or(Some(own.1 * 1024)),
        cpu_usec: own.0 + children.0,
        read_bytes: value(&io, "read_bytes:"),
        written_bytes: value(&io, "write_bytes:"),
        seccomp: value(&status, "Seccomp:")
            .or(crate::sys::prctl(libc::PR_GET_SECCOMP, 0, 0).ok().map(|mode| mode as u64)),
        no_new_privileges: crate::sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0) == Ok(1),
        capabilities: (0..64)
            .filter(|c| effective & (1 << c) != 0)
            .map(|c| crate::capability::name(c).to_owned())
            .collect(),
    }
}

/// CPU time in microseconds, and the peak of resident memory in KiB.
fn usage(whose: i32) -> (u64, u64) {
    let mut out = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `out` has room for an rusage, and zeroed it is a valid one even if the call fails.
    let usage = unsafe {
        libc::getrusage(whose, out.as_mut_ptr());
        out.assume_init()
    };
    let usec = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    (usec(usage.ru_utime) + usec(usage.ru_stime), usage.ru_maxrss as u64)
}

/// What an agent uses and was denied, seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// What its cgroup tells.
    pub usage: Stats,
    /// Denied system calls, by name, where they are noted.
    pub denials: BTreeMap<String, u32>,
}

impl AgentReport {
    /// From an agent's cgroup and the content of its file of denials.
    pub fn new(cgroup: Option<&Cgroup>, denials: &[u8]) -> Self {
        Self {
            usage: cgroup.and_then(|cgroup| cgroup.stats().ok()).unwrap_or_default(),
            denials: denials_by_name(denials),
        }
    }
}

/// The content of a file of denials, by name of the call.
pub fn denials_by_name(bytes: &[u8]) -> BTreeMap<String, u32> {
    let mut out = BTreeMap::new();
    for (number, count) in bytes.chunks_exact(4).enumerate() {
        let count = u32::from_le_bytes([count[0], count[1], count[2], count[3]]);
        if count > 0 {
            let name = calls::name(number as u32).map_or_else(|| format!("call {number}"), str::to_owned);
            out.insert(name, count);
        }
    }
    out
}
