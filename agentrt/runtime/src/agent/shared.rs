//! An agent as others see it, and what they may ask of its task.

use super::secrets::Texts;
use crate::fault::Fault;
use crate::pb;
use crate::spawner::client::{PlanText, Spawner};
use crate::spawner::protocol::Who;
use crate::spec::{Kind, Settings};
use crate::state::State;
use crate::store::record::{Instance, Limits, Record};
use crate::store::requests::Ticket;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// What others see of an agent, and how they reach it.
pub struct Shared {
    pub id: String,
    pub dir: PathBuf,
    pub spec: Arc<pb::AgentSpec>,
    pub settings: Settings,
    pub(super) record: Mutex<Record>,
    pub(super) revision: watch::Sender<u64>,
    commands: mpsc::Sender<Command>,
    /// Execs and attaches that go on.
    pub sessions: AtomicU32,
    /// Held by whoever has it forked: one after the other.
    pub forks: tokio::sync::Mutex<()>,
}

pub enum Verb {
    Start,
    Stop { grace_ms: Option<u64> },
    Kill { signal: i32 },
    Pause,
    Resume,
    Update(Limits),
    Delete { force: bool },
}

pub enum Command {
    Verb(Verb, Ticket),
    /// A check's answer, of the run in which it was asked.
    Probed {
        run: u64,
        kind: Kind,
        result: Result<(), String>,
    },
    /// Somebody wants in: what they need, after an idle agent was woken.
    Enter(oneshot::Sender<Result<Grant, Fault>>),
    /// Somebody wants to copy: the workspace, whether the agent runs or not.
    Workspace(oneshot::Sender<Result<Place, Fault>>),
    /// Somebody wants forks of it.
    Fork(oneshot::Sender<Result<Origin, Fault>>),
    /// Journal an event that changes no state.
    Note {
        kind: &'static str,
        detail: String,
    },
}

/// What an exec needs of a running agent. As long as it lives the agent is not idle.
pub struct Grant {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub plan: Arc<PlanText>,
    pub cgroup: Vec<u8>,
    pub who: Who,
    /// That can enter the agent's sandbox.
    pub spawner: Spawner,
    /// The agent's own environment.
    pub env: Vec<(String, String)>,
    /// User and group id, outside, of the agent.
    pub owner: (u32, u32),
    pub run: u64,
    pub(super) _session: Session,
}

/// What forks of an agent begin with.
pub struct Origin {
    pub instance: Instance,
    /// The top of its workspace.
    pub workspace: OwnedFd,
    pub spec: Arc<pb::AgentSpec>,
    pub limits: Limits,
    pub placeholders: BTreeMap<String, String>,
    pub secrets: Texts,
}

/// A workspace to copy into and out of.
pub struct Place {
    pub directory: OwnedFd,
    /// What a path in the workspace begins with beneath the directory.
    pub prefix: &'static str,
    /// User and group that own what is copied in.
    pub owner: (u32, u32),
    pub(super) _session: Session,
}

pub struct Session(Arc<Shared>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub fn new(
        dir: PathBuf,
        spec: Arc<pb::AgentSpec>,
        settings: Settings,
        record: Record,
    ) -> (Arc<Shared>, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(64);
        let revision = watch::channel(record.rev).0;
        let id = record.id.clone();
        let record = Mutex::new(record);
        (
            Arc::new(Shared {
                id,
                dir,
                spec,
                settings,
                record,
                revision,
                commands,
                sessions: AtomicU32::new(0),
                forks: Default::default(),
            }),
            receiver,
        )
    }

    pub fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn state(&self) -> State {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).state
    }

    /// Changes with every change of the agent; closed when it is deleted.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub async fn send(&self, command: Command) -> Result<(), Fault> {
        self.commands.send(command).await.map_err(|_| crate::fault::not_found(format!("agent {} was deleted", self.id)))
    }

    pub fn enter(self: &Arc<Self>) -> Session {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Session(self.clone())
    }
}
