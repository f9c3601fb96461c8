//! One more program in an agent that runs.

use super::launch::Sandboxes;
use super::program::{environment, identity, open_cgroup, set};
use super::protocol::{Answer, ExecAsk};
use agent_kernel::{Launch, Launched, launch_into};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsRawFd, OwnedFd};

impl Sandboxes {
    pub fn exec(&mut self, ask: &ExecAsk, fds: Vec<OwnedFd>) -> (Answer, Vec<OwnedFd>) {
        if !self.plans.contains_key(&ask.program.plan) {
            return (Answer::UnknownPlan, Vec::new());
        }
        match self.try_exec(ask, fds) {
            Ok((launched, status)) => (Answer::Started { pid: launched.pid }, vec![launched.pidfd, status]),
            Err(sentence) => (Answer::Failed(sentence), Vec::new()),
        }
    }

    fn try_exec(&mut self, ask: &ExecAsk, fds: Vec<OwnedFd>) -> Result<(Launched, OwnedFd), String> {
        let Ok([pidfd, stdin, stdout, stderr]) = <[OwnedFd; 4]>::try_from(fds) else {
            return Err("a program needs four descriptors beside it".into());
        };
        let identity = identity(&ask.program.who);
        self.used += 1;
        let (prepared, used) = self.plans.get_mut(&ask.program.plan).ok_or("the plan is gone")?;
        *used = self.used;
        let cgroup = open_cgroup(&ask.program.cgroup)?;
        let mut wanted = Launch::new(prepared, &identity, &[]);
        set(&mut wanted, &ask.program, environment(&ask.program.env)?)?;
        wanted.stdio = [Some(stdin.as_raw_fd()), Some(stdout.as_raw_fd()), Some(stderr.as_raw_fd())];
        wanted.tty = ask.tty;
        wanted.cgroup = cgroup.as_ref();
        let (status_read, status) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| format!("a pipe: {e}"))?;
        wanted.status = Some(status.as_raw_fd());
        let launched = launch_into(pidfd.as_raw_fd(), wanted).map_err(|e| e.to_string())?;
        Ok((launched, status_read))
    }
}
