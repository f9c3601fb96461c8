//! One more process inside a sandbox that runs.

use std::os::fd::{AsRawFd, RawFd};

use super::main_process::{self, Confinement, Program};
use super::{Launch, Launched, await_release, await_word, check, release, report};
use crate::applied::Applied;
use crate::cgroup::Cgroup;
use crate::error::LaunchError;
use crate::init;
use crate::policy::Level;
use crate::sys::{self, Side};

/// Start one more process in the sandbox whose init is behind `pidfd`, under the same plan.
///
/// The process that comes back is its supervisor, outside: it has entered the namespaces, is the parent of the program,
/// notes its denied calls, and ends with its code.
pub fn launch_into(pidfd: RawFd, mut launch: Launch) -> Result<Launched, LaunchError> {
    check(&launch, true)?;
    let plan = &launch.prepared.plan;
    if plan.level == Level::L1 {
        return Err(LaunchError::refused("namespaces", "L1 has no sandbox that one could enter: launch once more"));
    }
    let failed = |what: &'static str| move |errno| LaunchError::new("launcher", what, errno);
    let doors = launch.cgroup.map(Cgroup::own_doors).transpose()?.unwrap_or_default();
    let (report_read, report_write) = sys::pipe().map_err(failed("making a pipe"))?;
    let (go_read, go_write) = sys::pipe().map_err(failed("making a pipe"))?;
    // SAFETY: `check` has seen that this process has one thread.
    let side = unsafe { sys::fork_into(0, launch.cgroup.and_then(Cgroup::unified)) };
    match side.map_err(failed("making a process"))? {
        Side::Child => {
            drop((report_read, go_write));
            let error = match await_release(&go_read).and_then(|()| enter(&launch, pidfd, &doors)) {
                Err(error) => error,
                Ok((main, notes)) => {
                    let _ = sys::write(report_write.as_raw_fd(), b"S");
                    let hooks = launch.hooks.take();
                    init::run(init::Init {
                        main: init::Main::Child(main),
                        status: launch.status.map(|fd| (fd, launch.status_offset)),
                        denials: launch.denials,
                        notes,
                        hooks,
                        supervisor: true,
                    })
                }
            };
            report(&report_write, &error);
            sys::exit_now(1)
        }
        Side::Parent(pid, pidfd) => {
            drop((report_write, go_read));
            match release(&mut launch, pid, &pidfd, &go_write).and_then(|()| await_word(&report_read, b'S', -1)) {
                Ok(()) => Ok(Launched { pid, pidfd, applied: Applied::of(plan, &launch) }),
                Err(error) => {
                    let _ = sys::pidfd_kill(pidfd.as_raw_fd(), libc::SIGKILL);
                    let _ = sys::wait(pid, 0);
                    Err(error)
                }
            }
        }
    }
}

fn enter(
    launch: &Launch,
    pidfd: RawFd,
    doors: &[std::os::fd::OwnedFd],
) -> Result<(i32, Option<std::os::fd::OwnedFd>), LaunchError> {
    let plan = &launch.prepared.plan;
    let failed = |layer: &'static str, what: &'static str| move |errno| LaunchError::new(layer, what, errno);
    // From the moment at which we are in there, somebody inside could look at us: hidden before, and after.
    let hide = || sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(failed("launcher", "hiding the supervisor's memory"));
    hide()?;
    sys::block_signals().map_err(failed("launcher", "blocking signals"))?;
    for door in doors {
        sys::write(door.as_raw_fd(), b"0").map_err(failed("cgroup", "moving into the cgroup"))?;
    }
    let mut kinds = libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if plan.level == Level::L3 {
        kinds |= libc::CLONE_NEWNET;
    }
    sys::setns(pidfd, kinds as u64).map_err(failed("namespaces", "entering the namespaces of the agent"))?;
    let ranged = launch.identity.ids > 1;
    if ranged {
        sys::clear_groups().map_err(failed("identity", "leaving the launcher's groups"))?;
        sys::set_gid(0).and_then(|()| sys::set_uid(0)).map_err(failed("identity", "becoming root of the namespace"))?;
        hide()?;
    }
    let confinement = Confinement::prepare(plan, ranged)?;
    // An interrupted supervisor takes its program with it: nobody else would look after it.
    let mut program = Program::prepare(launch)?;
    program.dies_with_parent = true;
    main_process::start(&confinement, &program)
}
