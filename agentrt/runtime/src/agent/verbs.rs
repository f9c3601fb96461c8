//! The verbs, one after the other, each checked against the state that the agent is in.

use super::{Agent, Await, Verb, blocking};
use crate::fault::{Fault, failed_in, precondition};
use crate::state::{Reason, State};
use crate::store::record::Limits;
use crate::store::requests::{Outcome, Ticket};
use rustix::process::{Signal, pidfd_send_signal};

impl Agent {
    pub(super) async fn on_verb(&mut self, verb: Verb, ticket: Ticket) {
        let state = self.record.state;
        let refuse = |why: &str| precondition(format!("agent {} {why}", self.record.id));
        match (verb, state) {
            (_, State::Deleting) => ticket.end(Outcome::Failed(refuse("is being deleted"))),
            (Verb::Start, _) if self.record.instance.is_some() => {
                ticket.end(Outcome::Failed(refuse("was claimed from a template; claim another one instead")));
            }
            (Verb::Start, State::Created | State::Exited | State::Backoff | State::CrashLoop) => {
                self.start(Some(ticket)).await
            }
            (Verb::Start, _) => ticket.end(Outcome::Failed(refuse(&format!("is {} already", state.name())))),
            (Verb::Stop { grace_ms }, _) => self.stop(grace_ms.unwrap_or(self.shared.settings.grace_ms), ticket).await,
            (Verb::Kill { signal: 0 | libc::SIGKILL }, _) => self.stop(0, ticket).await,
            (Verb::Kill { signal }, State::Running) => {
                let result = self.signal(signal);
                self.finish(ticket, result);
            }
            (Verb::Pause, State::Running) => {
                let result = self.pause("request", Some(&ticket)).await;
                self.finish(ticket, result);
            }
            (Verb::Pause, State::Paused) => self.finish(ticket, Ok(())),
            (Verb::Resume, State::Paused) => {
                let result = self.resume("").await;
                self.finish(ticket, result);
            }
            (Verb::Resume, State::Running) => self.finish(ticket, Ok(())),
            (Verb::Kill { .. } | Verb::Pause | Verb::Resume, _) => {
                ticket.end(Outcome::Failed(refuse(&format!("is {}; nothing runs in it", state.name()))));
            }
            (Verb::Update(limits), _) => {
                let result = self.update(limits, &ticket).await;
                self.finish(ticket, result);
            }
            (Verb::Delete { force }, _) => {
                if !force && state.has_processes() {
                    let why = format!("is {}; stop it first, or delete it with force", state.name());
                    return ticket.end(Outcome::Failed(refuse(&why)));
                }
                let notes = ticket.note(None).into_iter().collect();
                self.wait_for(ticket, Await::Deleted);
                if state.may_become(State::Deleting) {
                    self.commit(State::Deleting, "deleting", "", None, notes);
                } else {
                    self.end_run(Reason::Stopped, "deleted by request", 0, true, notes);
                }
            }
        }
    }

    /// Ends a request that leads to no later change.
    fn finish(&mut self, ticket: Ticket, result: Result<(), Fault>) {
        let outcome = match result {
            Ok(()) => self.done(),
            Err(fault) => Outcome::Failed(fault),
        };
        if let Some(note) =
            ticket.note(Some(outcome.clone())).filter(|_| !matches!(&outcome, Outcome::Failed(f) if f.refused))
            && let Err(e) = self.context.journal.append_request(&note)
        {
            eprintln!("request {}: its end cannot be written: {e}", note.id);
        }
        ticket.end(outcome);
    }

    /// Stop and Kill: the agent is to stay ended, whatever its restart policy says.
    async fn stop(&mut self, grace_ms: u64, ticket: Ticket) {
        match self.record.state {
            State::Running | State::Paused | State::Starting => {
                let notes = ticket.note(None).into_iter().collect();
                let detail = if grace_ms == 0 { "killed by request" } else { "stopped by request" };
                self.wait_for(ticket, Await::Ended);
                self.end_run(Reason::Stopped, detail, grace_ms, false, notes);
                if let Err(fault) = self.settle().await {
                    eprintln!("{fault}");
                }
            }
            State::Stopping => {
                // Ended by health or time meanwhile: now it is by request, and perhaps sooner.
                self.wait_for(ticket, Await::Ended);
                if let Some(ending) = &mut self.record.ending {
                    if ending.reason == Reason::Health {
                        ending.reason = Reason::Stopped;
                        ending.detail = "stopped by request".into();
                    }
                    ending.kill_at_ms = ending.kill_at_ms.min(crate::clock::boottime_ms().saturating_add(grace_ms));
                }
                self.commit(State::Stopping, "stopping", "stopped by request", None, Vec::new());
                if grace_ms == 0 {
                    self.signal_to_end(true);
                }
            }
            State::Backoff | State::CrashLoop => {
                self.record.next_start_ms = None;
                self.record.active.hold();
                let outcome = self.done();
                let notes = ticket.note(Some(outcome.clone())).into_iter().collect();
                let exit = self.record.last_exit.clone();
                self.commit(State::Exited, "exited", "stopped by request; no restart follows", exit, notes);
                self.remove_cgroup().await;
                if let Err(fault) = self.settle().await {
                    eprintln!("{fault}");
                }
                ticket.end(outcome);
            }
            // It has no process: what was asked for holds already.
            State::Created | State::Exited | State::Deleting => self.finish(ticket, Ok(())),
        }
    }

    fn signal(&self, signal: i32) -> Result<(), Fault> {
        let Some(wanted) = Signal::from_named_raw(signal) else {
            return Err(crate::fault::invalid(format!("signal: {signal} is none that can be sent")));
        };
        // Init hands a signal on to the program.
        match self.run.as_ref().and_then(|r| r.pidfd.as_ref()).map(|p| pidfd_send_signal(p.get_ref(), wanted)) {
            Some(Ok(())) => Ok(()),
            _ => Err(precondition(format!("agent {} has just ended", self.record.id))),
        }
    }

    pub(super) async fn pause(&mut self, cause: &str, ticket: Option<&Ticket>) -> Result<(), Fault> {
        let id = self.record.id.clone();
        let Some(cgroup) = self.cgroup() else {
            return Err(precondition(format!("agent {id} has no cgroup on this host, so it cannot be paused")));
        };
        let frozen = blocking(move || cgroup.freeze().map_err(|e| (e, cgroup.thaw()))).await?;
        frozen.map_err(|(e, _)| precondition(format!("agent {id} cannot be paused: {e}")))?;
        self.record.active.hold();
        self.record.pause_cause = cause.to_owned();
        if let Some(run) = &mut self.run {
            run.health.hold();
        }
        let notes = ticket.and_then(|t| t.note(Some(self.done()))).into_iter().collect();
        let detail = if cause == "idle" { "it was idle" } else { "" };
        self.commit(State::Paused, "paused", detail, None, notes);
        Ok(())
    }

    pub(super) async fn resume(&mut self, detail: &str) -> Result<(), Fault> {
        self.check_lease()?;
        let id = self.record.id.clone();
        if let Some(cgroup) = self.cgroup() {
            blocking(move || cgroup.thaw())
                .await?
                .map_err(|e| precondition(format!("agent {id} cannot be resumed: {e}")))?;
        }
        self.record.active.run();
        self.record.pause_cause.clear();
        let now = crate::clock::boottime_ms();
        if let Some(run) = &mut self.run {
            run.health.go_on(now);
            run.idle.busy(now);
        }
        self.commit(State::Running, "resumed", detail, None, Vec::new());
        Ok(())
    }

    async fn update(&mut self, wanted: Limits, ticket: &Ticket) -> Result<(), Fault> {
        let old = self.record.limits;
        let merged = Limits {
            memory_bytes: if wanted.memory_bytes > 0 { wanted.memory_bytes } else { old.memory_bytes },
            cpu_milli: if wanted.cpu_milli > 0 { wanted.cpu_milli } else { old.cpu_milli },
            pids: if wanted.pids > 0 { wanted.pids } else { old.pids },
        };
        let (_, plan) = self.load_plan()?;
        crate::plans::check_limits(&merged, &plan, "limits")?;
        self.record.limits = merged;
        if let Some(cgroup) = self.cgroup() {
            let mut values = self.values(&plan);
            // Only what is to change, so that what is below its use already stands in nobody's way.
            values.memory = values.memory.filter(|_| merged.memory_bytes != old.memory_bytes);
            values.cpus = values.cpus.filter(|_| merged.cpu_milli != old.cpu_milli);
            values.processes = values.processes.filter(|_| merged.pids != old.pids);
            values.cpu_weight = None;
            values.read_bytes_per_second = None;
            values.write_bytes_per_second = None;
            let result = blocking(move || cgroup.update(&values)).await?;
            if let Err(e) = result {
                self.record.limits = old;
                return Err(failed_in(&self.record.id, &e.to_string()));
            }
        }
        if self.run.is_none() {
            // A cgroup that is kept for the next run has the old limits.
            self.remove_cgroup().await;
        }
        let notes = ticket.note(Some(self.done())).into_iter().collect();
        self.commit(self.record.state, "updated", "", None, notes);
        Ok(())
    }
}
