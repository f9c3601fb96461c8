//! An agent taken up by a new daemon: its record says what was, the kernel says what is.

use super::{Agent, Await};
use crate::clock;
use crate::process;
use crate::spawner::protocol::{Answer, Ask};
use crate::state::{Exit, Reason, State};
use crate::store::requests::{Outcome, RequestNote};
use std::os::fd::AsFd;

impl Agent {
    /// Takes the agent up in the state that its record tells, as far as the kernel agrees.
    pub async fn take_up(&mut self, open: Vec<RequestNote>) {
        for note in open {
            let what = match note.verb.as_str() {
                "start" => Await::Running,
                "delete" => Await::Deleted,
                _ => Await::Ended,
            };
            if let Some(ticket) = self.context.requests.recall(&note) {
                self.waiting.push((ticket, what));
            }
        }
        // A policy that does not compile here any more does not end what runs under it; only its next start fails.
        let _ = self.load_plan();
        self.take_up_workspace().await;
        self.take_up_secrets().await;
        if self.record.boot_id != clock::boot_id() {
            return self.after_boot();
        }
        match self.record.state {
            State::Created | State::Backoff | State::CrashLoop | State::Deleting => {}
            State::Exited => self.remove_cgroup().await,
            State::Starting => self.take_up_starting().await,
            State::Running | State::Paused | State::Stopping => self.take_up_run().await,
        }
    }

    /// The host was restarted: nothing of the agent runs, and every boottime in its record is of another boot.
    fn after_boot(&mut self) {
        self.record.boot_id = clock::boot_id().to_owned();
        self.record.process = None;
        self.record.active.forget_boot();
        let fault = crate::fault::Fault::failed(format!("agent {}: the host was restarted meanwhile", self.record.id));
        let outcome = Outcome::Failed(fault);
        let state = self.record.state;
        match state {
            State::Created | State::Exited | State::Deleting => {}
            State::Backoff | State::CrashLoop => {
                self.record.next_start_ms = Some(clock::boottime_ms());
                self.record.active.run();
            }
            _ => {
                let notes = self.notes_of(Await::Running, &outcome);
                // What was being stopped by request stays stopped.
                let exit = match self.record.ending.take() {
                    Some(ending) => Exit::new(ending.reason, ending.detail),
                    None => Exit::new(Reason::HostRestarted, "the host was restarted beneath it"),
                };
                self.record.active.run();
                self.conclude(exit, 0, false, notes);
            }
        }
        let done = self.done();
        self.end_waiting(Await::Running, &outcome);
        self.end_waiting(Await::Ended, &done);
    }

    /// The daemon died while a sandbox was built. Either it stands, then it is taken up; or it is built once more.
    async fn take_up_starting(&mut self) {
        if let Some(process) = self.launched_process()
            && let Some(pidfd) = process::find(&process)
            && let Ok(pidfd) = crate::ready::watch_process(pidfd)
        {
            self.record.process = Some(process);
            let handle = process::open_cgroup(&self.context.host.cgroups, &self.cgroup_name()).map(|c| c.handle());
            self.began(Some(pidfd), handle, agent_kernel::cgroup::Stats::default());
            let outcome = self.done();
            let notes = self.notes_of(Await::Running, &outcome);
            self.record.open.clear();
            self.commit(State::Running, "running", "taken up by a new daemon", None, notes);
            return self.end_waiting(Await::Running, &outcome);
        }
        if self.has_ended_record() {
            // It ran, and ended, while no daemon was there.
            let outcome = self.done();
            let notes = self.notes_of(Await::Running, &outcome);
            let handle = process::open_cgroup(&self.context.host.cgroups, &self.cgroup_name()).map(|c| c.handle());
            self.began(None, handle, agent_kernel::cgroup::Stats::default());
            self.commit(State::Running, "running", "it ran while no daemon was there", None, notes);
            return self.end_waiting(Await::Running, &outcome);
        }
        self.end_remains().await;
        match self.load_plan() {
            Ok((plan, _)) => self.launch(plan).await,
            Err(fault) => self.start_failed(&fault.message),
        }
    }

    /// The socket of the egress proxy was the daemon's before, and is gone with it: another one in its place.
    async fn take_up_egress(&mut self) {
        if self.plan.as_ref().is_none_or(|(_, plan)| plan.egress.rules.is_empty()) {
            return;
        }
        let pidfd = self.run.as_ref().and_then(|run| run.pidfd.as_ref());
        let Some(pidfd) = pidfd.and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3).ok()) else { return };
        let made = match self.spawner().call(Ask::Socket, vec![pidfd], None).await {
            Ok((Answer::Descriptor, mut fds)) if fds.len() == 1 => crate::egress::listen(fds.remove(0)),
            _ => Err(std::io::Error::other("the spawner gave no socket")),
        };
        match made {
            Ok(listener) => self.serve_egress(listener).await,
            Err(e) => eprintln!("agent {}: its egress proxy cannot be had again: {e}", self.record.id),
        }
    }

    /// The daemon may have died between the claim of an instance and the word that it may begin.
    async fn let_go(&self) {
        let Some(instance) = &self.record.instance else { return };
        let ask = Ask::Orders { agent: instance.name.clone() };
        if let Ok((Answer::Descriptor, fds)) = self.spawner().call(ask, Vec::new(), None).await
            && let Some(orders) = fds.first()
            && let Err(e) = crate::template::go(orders.as_fd())
        {
            eprintln!("agent {}: it could not be let go: {e}", self.record.id);
        }
    }

    /// There was a run. If its init lives it is taken up, else its end is learnt from what init recorded.
    async fn take_up_run(&mut self) {
        let found = self.record.process.as_ref().and_then(process::find);
        let pidfd = found.and_then(|fd| crate::ready::watch_process(fd).ok());
        let alive = pidfd.is_some();
        let handle = process::open_cgroup(&self.context.host.cgroups, &self.cgroup_name()).map(|c| c.handle());
        let (unix_ms, ms) = (self.record.started_unix_ms, self.record.started_ms);
        self.began(pidfd, handle, agent_kernel::cgroup::Stats::default());
        (self.record.started_unix_ms, self.record.started_ms) = (unix_ms, ms);
        if !alive {
            // The task sees a run without a process, and concludes it.
            return;
        }
        if self.record.state == State::Paused {
            if let Some(run) = &mut self.run {
                run.health.hold();
            }
        } else if let Some(cgroup) = self.cgroup() {
            // The daemon may have died between freezing and saying so.
            let _ = super::blocking(move || cgroup.thaw()).await;
        }
        self.let_go().await;
        self.take_up_egress().await;
        self.commit(self.record.state, "adopted", "", None, Vec::new());
    }
}
