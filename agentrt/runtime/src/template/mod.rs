//! Templates: what their agents need is imported once, and instances wait, sandboxed, to be claimed.
//!
//! ROOT/templates/NAME.json      what CreateTemplate was asked for, and the template's user ids
//! ROOT/templates/NAME/          output and status of its seed
//! ROOT/parked/INSTANCE/         files of an instance that waits; by its claim it becomes ROOT/agents/ID
//!
//! Seeds and waiting instances end with the daemon, and the next one starts them anew: nothing is lost with them. Agents
//! that were claimed are agents like all others.

mod instance;
mod pool;
mod seed;
mod spec;

pub use instance::{Parked, fork, go};
pub use pool::{adopt_all, create, delete, end_all, store_pool};
pub use spec::{Settings, settings};

use crate::fault::{Fault, aborted};
use crate::pb;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// How many ids an instance has; the policy's user is one of them.
pub const IDS_OF_INSTANCE: u32 = 4096;

/// The program that a template's interpreter runs.
const PROGRAM: &str = include_str!("program.py");

/// What others see of a template, and how they reach it.
pub struct Shared {
    pub name: String,
    pub spec: pb::TemplateSpec,
    view: Mutex<View>,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Default)]
struct View {
    pooled: u32,
    target: u32,
    pid: i32,
    problem: String,
    /// First ids of its instances, in whatever state, and how many have each: an agent and its forks have the same.
    taken: BTreeMap<u32, u32>,
    /// Those of claimed ones among them.
    claimed: BTreeMap<u32, u32>,
}

/// One less has a range of ids; of none it is not kept.
fn less(ids: &mut BTreeMap<u32, u32>, first_id: u32) {
    if let Some(have) = ids.get_mut(&first_id) {
        *have -= 1;
        if *have == 0 {
            ids.remove(&first_id);
        }
    }
}

enum Command {
    Claim(oneshot::Sender<Result<Parked, Fault>>),
    /// The size has changed.
    SetPool,
    Made(Result<Parked, String>),
    /// Ends it: seed and waiting instances.
    End(oneshot::Sender<()>),
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn message(&self) -> pb::Template {
        let view = self.view();
        pb::Template {
            name: self.name.clone(),
            spec: Some(pb::TemplateSpec { pool: view.target, ..self.spec.clone() }),
            pooled: view.pooled,
            agents: view.claimed.values().sum(),
            pid: view.pid,
            problem: view.problem.clone(),
        }
    }

    /// An agent, found or forked, has these ids.
    pub fn has(&self, first_id: u32) {
        let mut view = self.view();
        *view.taken.entry(first_id).or_default() += 1;
        *view.claimed.entry(first_id).or_default() += 1;
    }

    /// An instance that is gone gives its ids back.
    pub fn freed(&self, first_id: u32) {
        let mut view = self.view();
        less(&mut view.taken, first_id);
        less(&mut view.claimed, first_id);
    }

    /// A waiting instance, or one that is made for us.
    pub async fn claim(&self) -> Result<Parked, Fault> {
        let (tx, rx) = oneshot::channel();
        let gone = || aborted(format!("template {} was deleted meanwhile", self.name));
        self.commands.send(Command::Claim(tx)).map_err(|_| gone())?;
        rx.await.map_err(|_| gone())?
    }

    pub fn set_pool(&self, size: u32) {
        self.view().target = size;
        let _ = self.commands.send(Command::SetPool);
    }

    /// Ends seed and waiting instances, and waits until they are gone.
    pub async fn end(&self) {
        let (tx, rx) = oneshot::channel();
        if self.commands.send(Command::End(tx)).is_ok() {
            let _ = rx.await;
        }
    }
}
