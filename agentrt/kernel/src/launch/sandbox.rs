//! What init does before the agent's program is executed, inside its new namespaces.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::main_process::{self, Confinement, Program};
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
    doors: &[OwnedFd],
    go: OwnedFd,
    report: &OwnedFd,
) -> LaunchError {
    let started = enter(launch, tree, doors, go).and_then(|last| {
        let confinement = Confinement::prepare(&launch.prepared.plan, launch.identity.ids > 1)?;
        let mut program = Program::prepare(launch)?;
        // A namespace of processes would end with init; this one's program has to be tied to it.
        program.dies_with_parent = launch.shares_processes;
        enter_last(last)?;
        main_process::start(&confinement, &program)
    });
    match started {
        Err(error) => error,
        Ok((pid, notes)) => look_after(launch, init::Main::Child(pid), notes, report),
    }
}

/// The same for an agent whose program is a fork of another one: `R` is told when the sandbox stands, then the program
/// tells by `link` that it is in there.
pub(super) fn run_for_fork(
    launch: &mut Launch,
    tree: OwnedFd,
    doors: &[OwnedFd],
    go: OwnedFd,
    report: &OwnedFd,
    link: OwnedFd,
) -> LaunchError {
    let started = enter(launch, Some(tree), doors, go).and_then(|last| {
        enter_last(last)?;
        let _ = sys::write(report.as_raw_fd(), b"R");
        let (pid, notes) = await_program(&link, launch.prepared.plan.record_denials)?;
        let pidfd = sys::pidfd_open(pid).map_err(|errno| LaunchError::new("seed", "opening its child", errno))?;
        Ok((init::Main::Adopted(pid, pidfd), notes))
    });
    match started {
        Err(error) => error,
        Ok((main, notes)) => look_after(launch, main, notes, report),
    }
}

fn look_after(launch: &mut Launch, main: init::Main, notes: Option<OwnedFd>, report: &OwnedFd) -> ! {
    let _ = sys::write(report.as_raw_fd(), b"S");
    let hooks = launch.hooks.take();
    init::run(init::Init {
        main,
        status: launch.status.map(|fd| (fd, launch.status_offset)),
        denials: launch.denials,
        notes,
        hooks,
        supervisor: launch.shares_processes,
    })
}

/// The last of the cgroups, whose scheduler we leave the launcher's for, and a view of cgroups that begins there.
fn enter_last(door: Option<&OwnedFd>) -> Result<(), LaunchError> {
    if let Some(door) = door {
        sys::write(door.as_raw_fd(), b"0")
            .map_err(|errno| LaunchError::new("cgroup", "moving into the cgroup", errno))?;
    }
    sys::unshare(libc::CLONE_NEWCGROUP as u64)
        .map_err(|errno| LaunchError::new("namespaces", "making a cgroup namespace", errno))
}

/// Everything but the last cgroup, whose door comes back.
fn enter<'a>(
    launch: &mut Launch,
    tree: Option<OwnedFd>,
    doors: &'a [OwnedFd],
    go: OwnedFd,
) -> Result<Option<&'a OwnedFd>, LaunchError> {
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
    Ok(last)
}

fn enter_root(launch: &Launch, tree: Option<OwnedFd>) -> Result<(), LaunchError> {
    let plan = &launch.prepared.plan;
    let failed = |what: &'static str| move |errno| LaunchError::new("root", what, errno);
    // Nothing that we mount may reach the host, nor what the host mounts later reach us.
    sys::set_attributes(sys::HERE, c"/", true, 0, libc::MS_PRIVATE).map_err(failed("making mounts private"))?;
    // Before anything covers the host's /proc: the kernel wants to see it whole when it makes another one.
    let proc = if launch.shares_processes {
        None
    } else {
        Some(root::proc().map_err(failed("mounting /proc (hidepid, subset=pid)"))?)
    };
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
    if let Some(proc) = proc {
        at(&proc, c"proc", tree.as_raw_fd()).map_err(failed("attaching /proc"))?;
    }
    at(&terminals, c"dev/pts", tree.as_raw_fd()).map_err(failed("attaching /dev/pts"))?;
    sys::enter_directory(tree.as_raw_fd()).map_err(failed("entering the root"))?;
    sys::pivot_here().map_err(failed("pivoting to the root"))?;
    // Our own places are made; from here on the root is read-only.
    sys::set_attributes(sys::HERE, c"/", false, sys::attr::RDONLY, 0).map_err(failed("making the root read-only"))
}

/// In init: hear who the agent's program is, and where its denials are told.
fn await_program(link: &OwnedFd, notes: bool) -> Result<(i32, Option<OwnedFd>), LaunchError> {
    let failed = |what: &'static str| move |errno| LaunchError::new("seed", what, errno);
    let mut pid = [0u8; 4];
    if sys::read(link.as_raw_fd(), &mut pid).map_err(failed("hearing from its child"))? != 4 {
        return Err(LaunchError::refused("seed", "it could not make a child, or its child could not enter"));
    }
    let listener = if notes {
        Some(
            main_process::receive_descriptor(link.as_raw_fd(), 0)
                .map_err(failed("receiving the filter's descriptor"))?,
        )
    } else {
        None
    };
    if sys::read(link.as_raw_fd(), &mut [0u8; 1]).map_err(failed("hearing from its child"))? != 1 {
        return Err(LaunchError::refused("seed", "its child could not be confined"));
    }
    Ok((i32::from_le_bytes(pid), listener))
}
