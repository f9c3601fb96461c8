//! One agent: a task that owns its record. All that happens to the agent happens here, one thing after the other.

mod adopted;
mod claimed;
mod ending;
mod fork;
pub mod health;
mod run;
pub mod secrets;
pub mod shared;
mod timers;
mod verbs;
mod workspace;

pub use shared::{Command, Grant, Origin, Place, Session, Shared, Verb};

use crate::clock;
use crate::context::Context;
use crate::fault::{Fault, internal};
use crate::spawner::client::PlanText;
use crate::state::{Exit, State};
use crate::store::record::{Event, Record};
use crate::store::requests::{Outcome, RequestNote, Ticket};
use agent_kernel::cgroup::{Cgroup, Handle};
use agent_kernel::plan::Plan;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// A run of the agent's program: what lives in the daemon only as long as the sandbox does.
pub struct Run {
    /// None when the process was found dead at adoption.
    pub pidfd: Option<AsyncFd<OwnedFd>>,
    pub cgroup: Option<Handle>,
    pub health: health::Checks,
    /// Counters of the cgroup when the run began: what rises above them was in this run.
    pub before: agent_kernel::cgroup::Stats,
    pub limits_hit: Vec<String>,
    pub idle: timers::Idle,
    pub next_look_ms: u64,
}

pub struct Agent {
    pub(super) context: Arc<Context>,
    pub(super) shared: Arc<Shared>,
    pub(super) record: Record,
    pub(super) run: Option<Run>,
    /// Requests that end with a later change: a Stop waits for the end of the last process.
    pub(super) waiting: Vec<(Ticket, Await)>,
    pub(super) plan: Option<(Arc<PlanText>, Arc<Plan>)>,
    /// The top of its workspace, held here too: so that it outlives the spawner that made it.
    pub(super) workspace: Option<OwnedFd>,
    /// Texts of the secrets that it has as placeholders.
    pub(super) secrets: secrets::Texts,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Await {
    Running,
    Ended,
    Deleted,
}

impl Agent {
    pub fn new(context: Arc<Context>, shared: Arc<Shared>, secrets: secrets::Texts) -> Agent {
        let record = shared.record();
        Agent { context, shared, record, run: None, waiting: Vec::new(), plan: None, workspace: None, secrets }
    }

    /// The task. Ends when the agent is deleted.
    pub async fn live(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            if self.record.doomed && self.record.state == State::Exited {
                self.commit(State::Deleting, "deleting", "", None, Vec::new());
            }
            if self.record.state == State::Deleting {
                return self.delete().await;
            }
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = ended(self.run.as_ref()) => self.on_ended().await,
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command).await,
                    None => return,
                },
                () = sleep_until(deadline) => self.on_timer().await,
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Verb(verb, ticket) => self.on_verb(verb, ticket).await,
            Command::Probed { run, kind, result } if run == self.record.run => self.on_probed(kind, result).await,
            Command::Probed { .. } => {}
            Command::Enter(reply) => {
                let grant = self.grant().await;
                let _ = reply.send(grant);
            }
            Command::Workspace(reply) => {
                let place = self.place().await;
                let _ = reply.send(place);
            }
            Command::Fork(reply) => {
                let origin = self.origin().await;
                let _ = reply.send(origin);
            }
            Command::Note { kind, detail } => self.commit(self.record.state, kind, &detail, None, Vec::new()),
        }
    }

    /// Moves the agent to `state` by the table, writes its record, tells its event. With `state` as it is: an event only.
    /// A disk that takes no record does not stop the agent's life; the next change writes it again.
    pub(super) fn commit(
        &mut self,
        state: State,
        kind: &str,
        detail: &str,
        exit: Option<Exit>,
        requests: Vec<RequestNote>,
    ) {
        let from = self.record.state;
        assert!(
            from == state || from.may_become(state),
            "agent {}: no move from {} to {}",
            self.record.id,
            from.name(),
            state.name()
        );
        self.record.state = state;
        self.record.rev += 1;
        self.record.ready =
            state == State::Running && self.run.as_ref().is_some_and(|run| run.health.ready(self.record.started_up));
        let mut event = Event {
            seq: 0,
            agent: self.record.id.clone(),
            rev: self.record.rev,
            kind: kind.to_owned(),
            state,
            exit,
            detail: detail.to_owned(),
            at_unix_ms: clock::unix_ms(),
            requests,
        };
        self.record.event = Some(event.clone());
        if let Err(e) = self.record.save(&self.shared.dir, false) {
            eprintln!("agent {}: its state cannot be written: {e}", self.record.id);
        }
        if let Err(e) = self.context.journal.append(&mut event) {
            eprintln!("agent {}: event {kind} cannot be written: {e}", self.record.id);
        }
        // The event is in the journal now; in memory it is not needed any more.
        self.record.event = None;
        *self.shared.record.lock().unwrap_or_else(PoisonError::into_inner) = self.record.clone();
        self.shared.revision.send_replace(self.record.rev);
    }

    /// Makes the last change survive a power cut, before somebody is told that it happened.
    pub(super) async fn settle(&self) -> Result<(), Fault> {
        let dir = self.shared.dir.clone();
        blocking(move || {
            std::fs::File::open(dir.join("state.json"))?.sync_all()?;
            std::fs::File::open(&dir)?.sync_all()
        })
        .await?
        .map_err(|e| internal(format!("agent {}: its state cannot be written to disk: {e}", self.record.id)))
    }

    /// Ends the requests that waited for this, in a change that is about to be committed.
    pub(super) fn notes_of(&self, what: Await, outcome: &Outcome) -> Vec<RequestNote> {
        self.waiting.iter().filter(|(_, a)| *a == what).filter_map(|(t, _)| t.note(Some(outcome.clone()))).collect()
    }

    pub(super) fn end_waiting(&mut self, what: Await, outcome: &Outcome) {
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, a)| *a == what);
        self.waiting = later;
        for (ticket, _) in now {
            ticket.end(outcome.clone());
        }
        self.record.open = self.waiting.iter().filter_map(|(t, _)| t.note(None)).collect();
    }

    pub(super) fn wait_for(&mut self, ticket: Ticket, what: Await) {
        self.record.open.extend(ticket.note(None));
        self.waiting.push((ticket, what));
    }

    pub(super) fn done(&self) -> Outcome {
        Outcome::Done(self.record.id.clone())
    }

    /// Opens the agent's cgroup, if its run has one.
    pub(super) fn cgroup(&self) -> Option<Cgroup> {
        Cgroup::open(self.run.as_ref()?.cgroup.as_ref()?).ok()
    }
}

/// Work that blocks: files with fsync, cgroups that wait for the kernel.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|e| internal(format!("a worker of the daemon failed: {e}")))
}

async fn ended(run: Option<&Run>) {
    match run {
        Some(Run { pidfd: Some(pidfd), .. }) => {
            // An error of the descriptor is looked at like an end: on_ended asks the kernel again.
            let _ = pidfd.readable().await;
        }
        Some(Run { pidfd: None, .. }) => {}
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline_ms: Option<u64>) {
    match deadline_ms {
        Some(at) => tokio::time::sleep(std::time::Duration::from_millis(at.saturating_sub(clock::boottime_ms()))).await,
        None => std::future::pending().await,
    }
}
