//! What an agent uses.

use serde::{Deserialize, Serialize};

use super::{Cgroup, Controller, Directory, Result, Version};

/// What the processes of a cgroup use. `None` is what this host cannot tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of memory now.
    pub memory_bytes: Option<u64>,
    /// The most there ever was.
    pub memory_peak_bytes: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// CPU time in microseconds.
    pub cpu_usec: Option<u64>,
    /// Time in which a CPU was wanted and the quota forbade it, in microseconds.
    pub throttled_usec: Option<u64>,
    /// Processes and threads now.
    pub processes: Option<u64>,
    /// Forks that the limit on processes refused.
    pub refused_forks: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub written_bytes: Option<u64>,
}

/// The value after `key` in lines of `key value`.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

fn number(directory: &Directory, name: &std::ffi::CStr) -> Option<u64> {
    directory.read(name).ok()?.trim().parse().ok()
}

impl Cgroup {
    /// What the agent uses now.
    pub fn stats(&self) -> Result<Stats> {
        let mut out = Stats::default();
        if let Some(at) = self.with(Controller::Memory) {
            if at.version == Version::V2 {
                out.memory_bytes = number(at, c"memory.current");
                out.memory_peak_bytes = number(at, c"memory.peak");
                out.oom_kills = at.read(c"memory.events").ok().and_then(|text| value(&text, "oom_kill "));
            } else {
                out.memory_bytes = number(at, c"memory.usage_in_bytes");
                out.memory_peak_bytes = number(at, c"memory.max_usage_in_bytes");
                out.oom_kills = at.read(c"memory.oom_control").ok().and_then(|text| value(&text, "oom_kill "));
            }
        }
        if let Some(at) = self.with(Controller::Account) {
            out.cpu_usec = if at.version == Version::V2 {
                at.read(c"cpu.stat").ok().and_then(|text| value(&text, "usage_usec "))
            } else {
                number(at, c"cpuacct.usage").map(|nanoseconds| nanoseconds / 1000)
            };
        }
        if let Some(at) = self.with(Controller::Cpu) {
            let text = at.read(c"cpu.stat").unwrap_or_default();
            out.throttled_usec =
                value(&text, "throttled_usec ").or(value(&text, "throttled_time ").map(|ns| ns / 1000));
        }
        if let Some(at) = self.with(Controller::Pids) {
            out.processes = number(at, c"pids.current");
            out.refused_forks = at.read(c"pids.events").ok().and_then(|text| value(&text, "max "));
        }
        if let Some(at) = self.with(Controller::Io) {
            let (read, written) = if at.version == Version::V2 {
                let text = at.read(c"io.stat").unwrap_or_default();
                (sum(&text, "rbytes="), sum(&text, "wbytes="))
            } else {
                let text = at.read(c"blkio.throttle.io_service_bytes").unwrap_or_default();
                (sum(&text, "Read "), sum(&text, "Write "))
            };
            (out.read_bytes, out.written_bytes) = (Some(read), Some(written));
        }
        Ok(out)
    }
}

/// The sum of the numbers that follow `key` in a text.
fn sum(text: &str, key: &str) -> u64 {
    let number = |rest: &str| rest.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    text.match_indices(key).filter_map(|(at, _)| number(&text[at + key.len()..])).sum()
}
