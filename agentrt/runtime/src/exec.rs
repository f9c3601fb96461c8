//! One more program in a running sandbox.

use crate::context::Context;
use crate::fault::{Fault, failed_in};
use crate::spawner::client::{CallError, PlanText};
use crate::spawner::protocol::{Answer, Ask, ExecAsk};
use crate::state::{Exit, Reason};
use rustix::process::{Signal, pidfd_send_signal};
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How many ends of processes are kept for those who come for them.
const KEPT: usize = 4_096;
/// How long after a process' end its status may come.
const STATUS_MS: u64 = 2_000;

pub struct ExecPlan {
    pub plan: Arc<PlanText>,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub hostname: String,
    pub machine_id: String,
    pub uid_slot: u32,
    pub cgroup: Vec<u8>,
    pub tty: bool,
}

/// Wait statuses of the spawners' children, as they tell them.
#[derive(Default)]
pub struct Ends {
    table: Mutex<(HashMap<i32, i32>, VecDeque<i32>)>,
    news: Notify,
}

impl Ends {
    pub fn put(&self, pid: i32, wait_status: i32) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let (statuses, order) = &mut *table;
        if statuses.insert(pid, wait_status).is_none() {
            order.push_back(pid);
        }
        while order.len() > KEPT {
            if let Some(old) = order.pop_front() {
                statuses.remove(&old);
            }
        }
        drop(table);
        self.news.notify_waiters();
    }

    fn take(&self, pid: i32) -> Option<i32> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let status = table.0.remove(&pid);
        if status.is_some() {
            table.1.retain(|p| *p != pid);
        }
        status
    }

    /// A pid is used again: what is known of the process before it counts no more.
    pub fn forget(&self, pid: i32) {
        self.take(pid);
    }
}

pub struct Child {
    pub pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    ends: Arc<Ends>,
}

/// Runs `plan.argv` in the sandbox with these three descriptors as stdin, stdout, stderr.
pub async fn spawn(context: &Context, agent: &str, plan: ExecPlan, stdio: [OwnedFd; 3]) -> Result<Child, Fault> {
    let ask = ExecAsk {
        plan: plan.plan.key,
        pid: plan.pid,
        argv: plan.argv,
        env: plan.env,
        cwd: plan.cwd,
        hostname: plan.hostname,
        machine_id: plan.machine_id,
        uid_slot: plan.uid_slot,
        cgroup: plan.cgroup,
        tty: plan.tty,
    };
    let [stdin, stdout, stderr] = stdio;
    let fds = vec![plan.pidfd, stdin, stdout, stderr];
    match context.spawner_of(agent).call(Ask::Exec(Box::new(ask)), fds, Some(plan.plan)).await {
        Ok((Answer::Started { pid, .. }, Some(pidfd))) => {
            let pidfd = crate::ready::watch_process(pidfd)
                .map_err(|e| failed_in(agent, &format!("the process cannot be watched: {e}")))?;
            Ok(Child { pid, pidfd, ends: context.ends.clone() })
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
        let deadline = tokio::time::Instant::now() + Duration::from_millis(STATUS_MS);
        loop {
            let news = self.ends.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(status) = self.ends.take(self.pid) {
                return exit_of(status);
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                return Exit::new(Reason::Killed, "how it ended is unknown: the spawner died meanwhile");
            }
        }
    }
}

fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        let reason = if signal == libc::SIGSYS { Reason::Policy } else { Reason::Signal };
        return Exit { signal, ..Exit::new(reason, format!("signal {signal}")) };
    }
    let code = libc::WEXITSTATUS(status);
    Exit { code, ..Exit::new(Reason::Exited, format!("exit code {code}")) }
}
