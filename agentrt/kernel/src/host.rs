//! What this host's kernel can do, found out once.

use serde::{Deserialize, Serialize};

use crate::cgroup::Layout;
use crate::sys;

/// What this host's kernel can do for a launcher like this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Version of Landlock's interface; 0 where there is none.
    pub landlock: u32,
    /// User namespaces can be made.
    pub user_namespaces: bool,
    /// Denied system calls can be told to another process.
    pub notify: bool,
    /// The highest capability that the kernel knows.
    pub last_capability: u32,
    /// Where the cgroup controllers live.
    pub cgroups: Layout,
    /// The launcher is root.
    pub root: bool,
    /// Hard limits of the launcher, by resource: nothing can be set above them.
    pub hard_limits: Vec<u64>,
}

impl Host {
    /// Look at this host, as the user that this process runs as.
    pub fn probe() -> Self {
        let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        // Debian's switch of its own, and the count that every kernel has.
        let permitted = number("/proc/sys/kernel/unprivileged_userns_clone").is_none_or(|on| on == 1);
        let root = sys::ids().0 == 0;
        Self {
            landlock: sys::landlock_version(),
            user_namespaces: number("/proc/sys/user/max_user_namespaces").unwrap_or(0) > 0 && (root || permitted),
            notify: sys::filter_action_available(libc::SECCOMP_RET_USER_NOTIF),
            last_capability: number("/proc/sys/kernel/cap_last_cap").map_or(40, |last| last.min(63) as u32),
            cgroups: Layout::detect(),
            root,
            hard_limits: (0..16).map(|resource| sys::limit(resource).map_or(u64::MAX, |(_, hard)| hard)).collect(),
        }
    }
}
