//! Setting values, freezing, killing.

use std::time::{Duration, Instant};

use super::{Cgroup, CgroupError, Controller, Result, Values, Version};
use crate::sys;

/// Length of the period in which a quota of CPU time is counted, in microseconds.
const PERIOD: u64 = 100_000;

impl Cgroup {
    /// Set values of a running agent. A limit below what runs now is refused, and nothing is changed.
    pub fn update(&self, values: &Values) -> Result<()> {
        let now = self.stats()?;
        let refuse = |what: String| Err(CgroupError { what, errno: None });
        if let (Some(wanted), Some(used)) = (values.memory, now.memory_bytes)
            && wanted < used
        {
            return refuse(format!("a memory limit of {wanted} bytes is below the {used} bytes in use now"));
        }
        if let (Some(wanted), Some(used)) = (values.processes, now.processes)
            && wanted < used
        {
            return refuse(format!("a limit of {wanted} processes is below the {used} that run now"));
        }
        if let Some(missing) = values.controllers().iter().find(|controller| self.with(**controller).is_none()) {
            return refuse(format!("the controller {missing:?} was not set up for this agent"));
        }
        self.set(values)
    }

    pub(super) fn set(&self, values: &Values) -> Result<()> {
        if let (Some(bytes), Some(at)) = (values.memory, self.with(Controller::Memory)) {
            let text = bytes.to_string();
            if at.version == Version::V2 {
                at.write(c"memory.max", &text)?;
                if at.has(c"memory.swap.max") {
                    at.write(c"memory.swap.max", "0")?;
                }
            } else if at.write(c"memory.limit_in_bytes", &text).is_err() {
                // Raising: memory and swap together may not be less than memory.
                at.write(c"memory.memsw.limit_in_bytes", &text)?;
                at.write(c"memory.limit_in_bytes", &text)?;
            } else if let Err(error) = at.write(c"memory.memsw.limit_in_bytes", &text) {
                // Absent where the kernel does not account swap.
                if error.errno != Some(sys::Errno(libc::ENOENT)) {
                    return Err(error);
                }
            }
        }
        if let Some(at) = self.with(Controller::Cpu) {
            if let Some(cpus) = values.cpus {
                let quota = ((cpus * PERIOD as f64) as u64).max(1000);
                if at.version == Version::V2 {
                    at.write(c"cpu.max", &format!("{quota} {PERIOD}"))?;
                } else {
                    // The period is the kernel's own unless somebody changed the default.
                    at.write(c"cpu.cfs_quota_us", &quota.to_string())?;
                }
            }
            if let Some(weight) = values.cpu_weight.filter(|weight| *weight != 100) {
                if at.version == Version::V2 {
                    at.write(c"cpu.weight", &weight.to_string())?;
                } else {
                    at.write(c"cpu.shares", &(weight * 1024 / 100).max(2).to_string())?;
                }
            }
        }
        if let (Some(count), Some(at)) = (values.processes, self.with(Controller::Pids)) {
            at.write(c"pids.max", &count.to_string())?;
        }
        self.set_io(values)
    }

    fn set_io(&self, values: &Values) -> Result<()> {
        let Some(at) = self.with(Controller::Io) else {
            return Ok(());
        };
        let limits = [("rbps", values.read_bytes_per_second), ("wbps", values.write_bytes_per_second)];
        for device in block_devices() {
            for (key, value) in limits {
                let Some(value) = value else { continue };
                if at.version == Version::V2 {
                    at.write(c"io.max", &format!("{device} {key}={value}"))?;
                } else if key == "rbps" {
                    at.write(c"blkio.throttle.read_bps_device", &format!("{device} {value}"))?;
                } else {
                    at.write(c"blkio.throttle.write_bps_device", &format!("{device} {value}"))?;
                }
            }
        }
        Ok(())
    }

    /// Stop every process in it where it stands; waits until they have stopped.
    pub fn freeze(&self) -> Result<()> {
        self.frozen(true)
    }

    /// Let them go on.
    pub fn thaw(&self) -> Result<()> {
        self.frozen(false)
    }

    fn frozen(&self, wanted: bool) -> Result<()> {
        let Some(at) = self.with(Controller::Freezer) else {
            return Err(CgroupError {
                what: "no freezer is mounted here: an agent cannot be paused".into(),
                errno: None,
            });
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut pause = Duration::from_micros(50);
        loop {
            let there = if at.version == Version::V2 {
                at.write(c"cgroup.freeze", if wanted { "1" } else { "0" })?;
                let expected = if wanted { "frozen 1" } else { "frozen 0" };
                at.read(c"cgroup.events")?.lines().any(|line| line == expected)
            } else {
                let state = if wanted { "FROZEN" } else { "THAWED" };
                at.write(c"freezer.state", state)?;
                at.read(c"freezer.state")?.trim() == state
            };
            if there {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = format!("{} did not {} in 5 s", at.path.display(), if wanted { "freeze" } else { "thaw" });
                return Err(CgroupError { what, errno: None });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Kill every process in it, also those that fork meanwhile; waits until none is left.
    ///
    /// A cgroup of v2 that was killed once kills what is cloned into it later (kernel 6.18): remove it and make another.
    pub fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let at_one_stroke =
            self.with(Controller::Freezer).filter(|d| d.version == Version::V2 && d.has(c"cgroup.kill"));
        let mut pause = Duration::from_micros(50);
        loop {
            if let Some(at) = at_one_stroke {
                at.write(c"cgroup.kill", "1")?;
            } else {
                // Frozen, nobody forks while we go through the list; killed, they die when thawed.
                let frozen = self.with(Controller::Freezer).is_some() && self.freeze().is_ok();
                for pid in self.processes()? {
                    let _ = sys::kill(pid, libc::SIGKILL);
                }
                if frozen {
                    self.thaw()?;
                }
            }
            if self.processes()?.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = "processes are left 10 s after they were killed (they hang in the kernel)".to_owned();
                return Err(CgroupError { what, errno: None });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }
}

/// `major:minor` of every whole block device.
fn block_devices() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("dev")).ok())
        .map(|device| device.trim().to_owned())
        .collect()
}
