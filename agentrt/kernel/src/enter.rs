//! Confining one's own process, for good.

use crate::applied::Applied;
use crate::error::LaunchError;
use crate::host::Host;
use crate::launch::confine_self;
use crate::plan::compile;
use crate::policy::{Level, Policy};
use crate::sys;

/// Put a policy of level L1 on this process. There is no way back, and every program that it starts is held too.
///
/// Refused in a process with more than one thread: Landlock holds the calling thread alone, and the others would stay
/// free. Root has to say in `identity` who it becomes.
pub fn enter(policy: &Policy) -> Result<Applied, LaunchError> {
    if policy.level() != Level::L1 {
        let what = format!(
            "{:?} needs namespaces, which a process cannot put on itself: write level = \"L1\", or spawn",
            policy.level()
        );
        return Err(LaunchError::refused("policy", what));
    }
    let threads = threads();
    if threads != 1 {
        let what = format!(
            "this process has {threads} threads, and only the calling one would be held: enter before starting others"
        );
        return Err(LaunchError::refused("landlock", what));
    }
    let root = sys::ids().0 == 0;
    let identity = policy.identity.clone().unwrap_or_default();
    let ids = match (root, identity.uid, identity.gid) {
        (true, Some(uid), Some(gid)) if uid != 0 && gid != 0 => Some((uid, gid)),
        (true, ..) => {
            let what = "root has to become somebody else: state identity.uid and identity.gid, neither of them 0";
            return Err(LaunchError::refused("identity", what));
        }
        (false, None, None) => None,
        (false, ..) => {
            return Err(LaunchError::refused("identity", "only root can become somebody else: leave identity out"));
        }
    };
    let plan = compile(policy, &Host::probe()).map_err(|error| LaunchError::refused("policy", error.to_string()))?;
    confine_self(&plan, ids)?;
    Ok(Applied::of_plan(&plan))
}

/// Threads of this process.
pub fn threads() -> u64 {
    std::fs::metadata("/proc/self/task")
        .map_or(0, |meta| std::os::unix::fs::MetadataExt::nlink(&meta).saturating_sub(2))
}
