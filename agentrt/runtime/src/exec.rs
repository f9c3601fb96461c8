//! One more program in a running sandbox.

use crate::fault::{Fault, failed_in};
use crate::spawner::client::{CallError, PlanText, Spawner};
use crate::spawner::protocol::{Answer, Ask, ExecAsk, Program};
use crate::state::{Exit, Reason};
use agent_kernel::init::ExitRecord;
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// A program, and the sandbox that it is to run in.
pub struct ExecPlan {
    pub plan: Arc<PlanText>,
    pub pidfd: OwnedFd,
    pub program: Program,
    pub tty: bool,
}

pub struct Child {
    pub pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    /// On which its supervisor tells how it ended.
    status: OwnedFd,
}

/// Runs `plan.program` in the sandbox with these three descriptors as stdin, stdout, stderr.
pub async fn spawn(spawner: &Spawner, agent: &str, plan: ExecPlan, stdio: [OwnedFd; 3]) -> Result<Child, Fault> {
    let ask = ExecAsk { program: plan.program, tty: plan.tty };
    let [stdin, stdout, stderr] = stdio;
    let fds = vec![plan.pidfd, stdin, stdout, stderr];
    match spawner.call(Ask::Exec(Box::new(ask)), fds, Some(plan.plan)).await {
        Ok((Answer::Started { pid }, fds)) => {
            let Ok([pidfd, status]) = <[OwnedFd; 2]>::try_from(fds) else {
                return Err(failed_in(agent, "the spawner gave no descriptors of the program"));
            };
            let pidfd = crate::ready::watch_process(pidfd)
                .map_err(|e| failed_in(agent, &format!("the process cannot be watched: {e}")))?;
            Ok(Child { pid, pidfd, status })
        }
        Ok(_) => Err(failed_in(agent, "the spawner answered something else than was asked")),
        Err(CallError::Refused(sentence)) => Err(failed_in(agent, &sentence)),
        Err(CallError::Lost) => Err(failed_in(agent, "the spawner died while it started the program")),
    }
}

impl Child {
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Exit {
        let _ = self.pidfd.readable().await;
        // The supervisor wrote its record before it ended; one that was killed wrote none, and the pipe has an end.
        let mut raw = [0u8; ExitRecord::SIZE];
        let n = rustix::io::read(&self.status, &mut raw[..]).unwrap_or(0);
        match ExitRecord::from_bytes(&raw[..n]) {
            Some(ExitRecord { signal: Some(signal), .. }) => {
                let reason = if signal == libc::SIGSYS { Reason::Policy } else { Reason::Signal };
                Exit { signal, ..Exit::new(reason, format!("signal {signal}")) }
            }
            Some(ExitRecord { code, .. }) => {
                let code = code.unwrap_or(0);
                Exit { code, ..Exit::new(Reason::Exited, format!("exit code {code}")) }
            }
            None => Exit { signal: libc::SIGKILL, ..Exit::new(Reason::Killed, "it was killed") },
        }
    }
}
