//! The end of a run: why it ended, and what comes next.

use super::{Agent, Await, blocking};
use crate::state::{Exit, Next, Reason, State};
use crate::store::record::Ending;
use crate::store::requests::{Outcome, RequestNote};
use crate::{clock, random, status};
use agent_kernel::cgroup::{Cgroup, Stats};
use rustix::process::{Signal, pidfd_send_signal};
use std::fs::File;
use std::path::Path;

impl Agent {
    /// The init is dead, and with it every process of the sandbox.
    pub(super) async fn on_ended(&mut self) {
        let ran_ms = clock::boottime_ms().saturating_sub(self.record.started_ms);
        let after = self.cgroup().and_then(|c| c.stats().ok());
        self.note_limits(after.as_ref());
        let run = self.run.take();
        let before = run.as_ref().map(|r| r.before.clone()).unwrap_or_default();
        let mut exit = self.explain(&before, after.as_ref());
        exit.limits_hit = run.map(|r| r.limits_hit).unwrap_or_default();
        self.record.process = None;
        let outcome = self.done();
        let notes = self.notes_of(Await::Ended, &outcome);
        let open = self.waiting.iter().filter(|(_, a)| *a != Await::Ended).filter_map(|(t, _)| t.note(None)).collect();
        self.record.open = open;
        self.conclude(exit, ran_ms, false, notes);
        if self.record.state == State::Exited || self.record.state == State::CrashLoop {
            self.remove_cgroup().await;
        }
        self.end_waiting(Await::Ended, &outcome);
    }

    /// Init recorded the end of the present run.
    pub(super) fn has_ended_record(&self) -> bool {
        ended_record(&self.shared.dir, self.record.run).is_some()
    }

    /// The reason of an end, from what init recorded, what the cgroup counted and what the runtime itself decided.
    fn explain(&self, before: &Stats, after: Option<&Stats>) -> Exit {
        let ended = ended_record(&self.shared.dir, self.record.run);
        let status = ended.map(|ended| ended.wait_status as i32);
        let rose = |field: fn(&Stats) -> Option<u64>| {
            after.and_then(field).unwrap_or(0).saturating_sub(field(before).unwrap_or(0))
        };
        let kills = rose(|s| s.oom_kills);
        let (code, signal) = match status {
            Some(s) if libc::WIFSIGNALED(s) => (0, libc::WTERMSIG(s)),
            Some(s) => (libc::WEXITSTATUS(s), 0),
            None => (0, libc::SIGKILL),
        };
        let with = |reason, detail: String| Exit { code, signal, ..Exit::new(reason, detail) };
        if let Some(ending) = &self.record.ending {
            return with(ending.reason, ending.detail.clone());
        }
        if ended.is_some_and(|ended| ended.set == status::BY_LEASE) {
            return with(Reason::Lease, "the lease of its host was over".into());
        }
        let killed = signal == libc::SIGKILL || code == 128 + libc::SIGKILL;
        if kills > 0 && killed {
            let limit = self.plan.as_ref().and_then(|(_, plan)| self.values(plan).memory).unwrap_or(0);
            return with(Reason::Oom, format!("killed by the kernel at its memory limit of {limit} bytes"));
        }
        // The kernel sends SIGKILL where the limit is soft and hard at once; it counts by ticks, the cgroup exactly.
        let cpu_limit =
            self.plan.as_ref().and_then(|(_, p)| p.limits.iter().find(|l| l.key == "cpu_seconds")).map(|l| l.value);
        let out_of_time = signal == libc::SIGKILL && cpu_limit.is_some_and(|s| rose(|s| s.cpu_usec) >= s * 800_000);
        match (status, signal) {
            (Some(_), _) if out_of_time => with(Reason::Limit, "cpu-time: it used up its CPU seconds".into()),
            (None, _) => with(Reason::Killed, self.killed_by()),
            (_, libc::SIGSYS) => {
                with(Reason::Policy, "it made a system call that its policy forbids on pain of death".into())
            }
            (_, libc::SIGXCPU) => with(Reason::Limit, "cpu-time: it used up its CPU seconds".into()),
            (_, libc::SIGXFSZ) => with(Reason::Limit, "file-size: it wrote a larger file than its limit allows".into()),
            (_, 0) => with(Reason::Exited, format!("exit code {code}")),
            (_, signal) => with(Reason::Signal, format!("signal {signal}")),
        }
    }

    /// Who has killed it, as far as that can be told.
    fn killed_by(&self) -> String {
        let origin = &self.record.forked_from;
        // The kernel ends what is beneath first: the one that it was forked from may be known to have ended only later.
        let ends = |origin: &super::Shared| {
            let record = origin.record();
            !matches!(record.state, State::Running | State::Paused) || ended_record(&origin.dir, record.run).is_some()
        };
        if origin.is_empty() || self.context.agent(origin).is_ok_and(|origin| !ends(&origin)) {
            return "its sandbox was killed from outside of the runtime".into();
        }
        format!("agent {origin}, which it was forked from, has ended, and all beneath it with it")
    }

    /// After an end: stay, or wait for the next start.
    pub(super) fn conclude(&mut self, exit: Exit, ran_ms: u64, stay: bool, notes: Vec<RequestNote>) {
        let (next, in_row) = self.shared.settings.restart.next(&exit, ran_ms, self.record.in_row, random::u16());
        let exit_detail = exit.detail.clone();
        self.record.last_exit = Some(exit.clone());
        self.record.ending = None;
        self.record.pause_cause.clear();
        match next {
            Next::Restart { state, delay_ms } if !stay => {
                self.record.in_row = in_row;
                self.record.next_start_ms = Some(clock::boottime_ms() + delay_ms);
                let detail = format!("{}; starts again in {delay_ms} ms", exit.detail);
                self.commit(state, state.name(), &detail, Some(exit), notes);
            }
            _ => {
                self.record.active.hold();
                self.commit(State::Exited, "exited", &exit_detail, Some(exit), notes);
            }
        }
    }

    /// Asks the program to end, and sees to it that it does.
    pub(super) fn end_run(
        &mut self,
        reason: Reason,
        detail: &str,
        grace_ms: u64,
        then_delete: bool,
        notes: Vec<RequestNote>,
    ) {
        let kill_at_ms = clock::boottime_ms().saturating_add(grace_ms);
        self.record.ending = Some(Ending { reason, detail: detail.to_owned(), kill_at_ms });
        self.record.doomed |= then_delete;
        if self.record.state == State::Paused {
            self.record.active.run();
        }
        self.commit(State::Stopping, "stopping", detail, None, notes);
        self.signal_to_end(grace_ms == 0);
    }

    /// SIGTERM to the program by way of its init, or SIGKILL to all. A frozen agent is thawed to hear it.
    pub(super) fn signal_to_end(&mut self, kill: bool) {
        let signal = if kill { Signal::KILL } else { Signal::TERM };
        if let Some(pidfd) = self.run.as_ref().and_then(|r| r.pidfd.as_ref()) {
            let _ = pidfd_send_signal(pidfd.get_ref(), signal);
        }
        if let Some(cgroup) = self.cgroup() {
            // Thawing waits for the kernel; nobody waits for us meanwhile but the agent.
            tokio::task::spawn_blocking(move || {
                let _ = cgroup.thaw();
            });
        }
    }

    /// Removes the cgroup of an agent at rest; there is nobody in it any more.
    pub(super) async fn remove_cgroup(&self) {
        let (layout, name) = (self.context.host.cgroups.clone(), self.cgroup_name());
        let removed = blocking(move || {
            crate::process::open_cgroup(&layout, &name).map_or(Ok(()), |c: Cgroup| c.kill().and_then(|()| c.remove()))
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => eprintln!("agent {}: {e}", self.record.id),
            Err(e) => eprintln!("agent {}: {e}", self.record.id),
        }
    }

    /// Removes all that the agent left on the host. Each step may have been done by a daemon before.
    pub(super) async fn delete(&mut self) {
        if self.run.is_some() || self.record.process.is_some() {
            self.run = None;
            self.end_remains().await;
        }
        self.remove_cgroup().await;
        self.context.egress.forget(&self.record.id).await;
        let ask = crate::spawner::protocol::Ask::Forget { agent: self.sandbox_name().to_owned() };
        let _ = self.spawner().call(ask, Vec::new(), None).await;
        let outcome = self.done();
        self.record.open.clear();
        let notes = self.notes_of(Await::Deleted, &outcome);
        self.commit(State::Deleting, "deleted", "", None, notes);
        let dir = self.shared.dir.clone();
        let gone = blocking(move || {
            std::fs::remove_dir_all(&dir)?;
            dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        });
        if let Ok(Err(e)) = gone.await {
            eprintln!("agent {}: its directory cannot be removed: {e}", self.record.id);
        }
        self.context.forget(&self.record);
        for what in [Await::Running, Await::Ended] {
            let fault =
                Outcome::Failed(crate::fault::aborted(format!("agent {} was deleted meanwhile", self.record.id)));
            self.end_waiting(what, &fault);
        }
        self.end_waiting(Await::Deleted, &outcome);
    }
}

/// What init recorded of the end of a run.
fn ended_record(dir: &Path, run: u64) -> Option<status::Ended> {
    let ended = status::Ended::read(&File::open(dir.join("status")).ok()?).ok()?;
    (ended.set != 0 && ended.run == run).then_some(ended)
}
