//! What init does before the agent's program is executed, inside its new namespaces.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::main_process::{Confinement, Program};
use super::{Launch, await_release};
use crate::error::LaunchError;
use crate::init;
use crate::policy::{Level, NetworkMode};
use crate::root;
use crate::sys;
use crate::workspace::Workspace;

/// From the first instruction in the new namespaces to the end of the agent. Returns only what went wrong before its
/// program was executed.
pub(super) fn run(
    launch: &mut Launch,
    tree: Option<OwnedFd>,
    doors: Vec<OwnedFd>,
    go: OwnedFd,
    report: &OwnedFd,
) -> LaunchError {
    match start(launch, tree, doors, go) {
        Err(error) => error,
        Ok((pid, notes)) => {
            let _ = sys::write(report.as_raw_fd(), b"S");
            let hooks = launch.hooks.take();
            init::run(init::Init {
                main: pid,
                status: launch.status.map(|fd| (fd, launch.status_offset)),
                denials: launch.denials,
                notes,
                hooks,
                supervisor: false,
            })
        }
    }
}

fn start(
    launch: &mut Launch,
    tree: Option<OwnedFd>,
    doors: Vec<OwnedFd>,
    go: OwnedFd,
) -> Result<(i32, Option<OwnedFd>), LaunchError> {
    let plan = &launch.prepared.plan;
    let failed = |layer: &'static str, what: &'static str| move |errno| LaunchError::new(layer, what, errno);

    sys::block_signals().map_err(failed("launcher", "blocking signals"))?;
    if plan.level == Level::L3 && launch.netns.is_none() {
        sys::unshare(libc::CLONE_NEWNET as u64).map_err(failed("namespaces", "making a network namespace"))?;
    }
    await_release(&go)?;
    // Nobody inside may look into init, which is a copy of the launcher. (Not earlier: a launcher that is not root could
    // not write our maps.)
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(failed("launcher", "hiding init's memory"))?;
    let moved = |door: &OwnedFd| sys::write(door.as_raw_fd(), b"0").map_err(failed("cgroup", "moving into the cgroup"));
    let (last, first) = doors.split_last().map_or((None, &[][..]), |(last, first)| (Some(last), first));
    for door in first {
        moved(door)?;
    }

    let ranged = launch.identity.ids > 1;
    if ranged {
        sys::clear_groups().map_err(failed("identity", "leaving the launcher's groups"))?;
        sys::set_gid(0).and_then(|()| sys::set_uid(0)).map_err(failed("identity", "becoming root of the namespace"))?;
        // Changing ids makes a process dumpable again.
        sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(failed("launcher", "hiding init's memory"))?;
    }
    if launch.dies_with_launcher {
        // After the ids have changed: that clears it. The launcher has been there a moment ago, when it let us run; that
        // it still is shows in the pipe on which it waits for us.
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
            .map_err(failed("launcher", "tying the agent to it"))?;
    }
    sys::set_hostname(launch.identity.hostname.as_bytes()).map_err(failed("namespaces", "setting the host name"))?;
    if plan.network == NetworkMode::Loopback && launch.netns.is_none() {
        sys::loopback_up().map_err(failed("network", "bringing the loopback interface up"))?;
    }
    enter_root(launch, tree)?;

    let confinement = Confinement::prepare(plan, ranged)?;
    let program = Program::prepare(launch)?;
    if let Some(last) = last {
        moved(last)?;
    }
    sys::unshare(libc::CLONE_NEWCGROUP as u64).map_err(failed("namespaces", "making a cgroup namespace"))?;
    drop(doors);
    main_process::start(&confinement, &program)
}

use super::main_process;

fn enter_root(launch: &Launch, tree: Option<OwnedFd>) -> Result<(), LaunchError> {
    let plan = &launch.prepared.plan;
    let failed = |what: &'static str| move |errno| LaunchError::new("root", what, errno);
    // Nothing that we mount may reach the host, nor what the host mounts later reach us.
    sys::set_attributes(sys::HERE, c"/", true, 0, libc::MS_PRIVATE).map_err(failed("making mounts private"))?;
    // Before anything covers the host's /proc: the kernel wants to see it whole when it makes another one.
    let proc = root::proc().map_err(failed("mounting /proc (hidepid, subset=pid)"))?;
    let terminals = root::terminals().map_err(failed("mounting /dev/pts"))?;
    let tree = match tree {
        Some(tree) => {
            sys::attach(tree.as_raw_fd(), sys::HERE, c"/").map_err(failed("attaching the root"))?;
            tree
        }
        None => {
            let Some(recipe) = &launch.prepared.recipe else {
                return Err(LaunchError::refused("root", "the plan was prepared without a root"));
            };
            let tree = recipe.build(Some(c"/"))?;
            if let Some(workspace) = &plan.workspace {
                let (uid, gid) = sys::ids();
                let owner = if launch.identity.ids > 1 { (plan.uid, plan.gid) } else { (uid, gid) };
                Workspace::within(workspace, owner, uid, launch.identity)?.attach_once(tree.as_raw_fd())?;
            }
            tree
        }
    };
    let at = |fd: &OwnedFd, path: &CStr, tree: RawFd| sys::attach(fd.as_raw_fd(), tree, path);
    at(&proc, c"proc", tree.as_raw_fd()).map_err(failed("attaching /proc"))?;
    at(&terminals, c"dev/pts", tree.as_raw_fd()).map_err(failed("attaching /dev/pts"))?;
    sys::enter_directory(tree.as_raw_fd()).map_err(failed("entering the root"))?;
    sys::pivot_here().map_err(failed("pivoting to the root"))?;
    // Our own places are made; from here on the root is read-only.
    sys::set_attributes(sys::HERE, c"/", false, sys::attr::RDONLY, 0).map_err(failed("making the root read-only"))
}
