//! L1: no namespaces and no init. The program runs in the launcher's world, held by Landlock and seccomp.

use std::os::fd::AsRawFd;

use super::main_process::{Confinement, Program, body_with_report};
use super::{Launch, Launched};
use crate::applied::Applied;
use crate::error::LaunchError;
use crate::sys::{self, Side};

pub(super) fn launch(launch: &mut Launch) -> Result<Launched, LaunchError> {
    let plan = &launch.prepared.plan;
    let failed = |what: &'static str| move |errno| LaunchError::new("launcher", what, errno);
    let ids = (sys::ids().0 == 0).then(|| (launch.identity.outside(plan.uid), launch.identity.outside(plan.gid)));
    let (report_read, report_write) = sys::pipe().map_err(failed("making a pipe"))?;
    let (go_read, go_write) = sys::pipe().map_err(failed("making a pipe"))?;
    let mut program = Program::prepare(launch)?;
    program.dies_with_parent = launch.dies_with_launcher;
    // SAFETY: `launch` has seen that this process has one thread.
    let side = unsafe { sys::fork_into(0, launch.cgroup.and_then(crate::cgroup::Cgroup::unified)) };
    match side.map_err(failed("making a process"))? {
        Side::Child => {
            // /proc/self among the paths is that of this very process.
            drop((report_read, go_write));
            let error = match super::await_release(&go_read).and_then(|()| Confinement::bare(plan, ids)) {
                Ok(confinement) => body_with_report(&confinement, &program),
                Err(error) => error,
            };
            super::report(&report_write, &error);
            sys::exit_now(127)
        }
        Side::Parent(pid, pidfd) => {
            drop((report_write, go_read));
            if let Err(error) = super::release(launch, pid, &pidfd, &go_write) {
                drop(go_write);
                let _ = sys::wait(pid, 0);
                return Err(error);
            }
            // The pipe is closed by execve: no word is a good word.
            let mut bytes = [0u8; 4096];
            if sys::read(report_read.as_raw_fd(), &mut bytes) == Ok(0) {
                return Ok(Launched { pid, pidfd, applied: Applied::of(plan, launch) });
            }
            let _ = sys::wait(pid, 0);
            Err(super::parse_report(&bytes))
        }
    }
}
