//! Processes and cgroups found again.

use crate::clock;
use crate::store::record::Process;
use agent_kernel::cgroup::{Cgroup, Handle, Layout};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Field 22 of /proc/PID/stat, and the state letter.
pub fn start_ticks(pid: i32) -> Option<(u64, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat)
}

fn parse_stat(stat: &str) -> Option<(u64, char)> {
    // The name, in brackets, may itself hold blanks and brackets.
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

/// A descriptor of exactly that process: same boot, same pid, same start time. None when it is not there any more.
pub fn find(process: &Process) -> Option<OwnedFd> {
    if process.boot_id != clock::boot_id() {
        return None;
    }
    let pid = rustix::process::Pid::from_raw(process.pid)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
    // Looked at after the descriptor was opened: from now on the pid cannot be given to another.
    let (ticks, state) = start_ticks(process.pid)?;
    (ticks == process.start_ticks && state != 'Z').then_some(pidfd)
}

/// The agent's cgroup by its name, if it is there in every hierarchy.
pub fn open_cgroup(layout: &Layout, name: &Path) -> Option<Cgroup> {
    let mut directories: Vec<(_, _, Vec<_>)> = Vec::new();
    for (controller, place) in &layout.places {
        let path = place.own.join(name);
        if !path.is_dir() {
            continue;
        }
        match directories.iter_mut().find(|(v, p, _)| *v == place.version && *p == path) {
            Some((_, _, controllers)) => controllers.push(*controller),
            None => directories.push((place.version, path, vec![*controller])),
        }
    }
    if directories.is_empty() {
        return None;
    }
    Cgroup::open(&Handle { directories }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_confuse() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1 1";
        assert_eq!(parse_stat(stat), Some((777, 'S')));
    }

    #[test]
    fn a_pid_alone_names_nobody() {
        let pid = std::process::id() as i32;
        let (start_ticks, _) = start_ticks(pid).expect("we run");
        let me = Process { pid, start_ticks, boot_id: clock::boot_id().to_owned() };
        assert!(find(&me).is_some());
        assert!(find(&Process { start_ticks: start_ticks + 1, ..me.clone() }).is_none());
        assert!(find(&Process { boot_id: "another".into(), ..me }).is_none());
    }
}
