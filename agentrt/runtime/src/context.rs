//! What all agents of a daemon share.

use crate::agent::Shared;
use crate::fault::{Fault, exhausted, not_found};
use crate::plans::Plans;
use crate::spawner::client::Spawner;
use crate::spawner::launch::MOST_SLOTS;
use crate::store::journal::Journal;
use crate::store::requests::{Requests, fingerprint};
use agent_kernel::Host;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub struct Context {
    pub root: PathBuf,
    pub host: Host,
    /// Parent of all agents' cgroups, of this daemon's root alone.
    pub cgroup_parent: PathBuf,
    pub journal: Journal,
    pub requests: Requests,
    pub spawners: Vec<Spawner>,
    pub spawner_restarts: Arc<AtomicU64>,
    pub plans: Plans,
    pub follow: crate::logs::follow::Watcher,
    /// Copies that may go on at once: each holds a thread as long as its caller likes.
    pub copies: Arc<tokio::sync::Semaphore>,
    pub agents: Mutex<BTreeMap<String, Arc<Shared>>>,
    /// Ids in the middle of their Create, and the user id ranges that are taken.
    pub taken: Mutex<(BTreeSet<String>, BTreeSet<u32>)>,
}

impl Context {
    pub fn agent(&self, id: &str) -> Result<Arc<Shared>, Fault> {
        self.agents().get(id).cloned().ok_or_else(|| not_found(format!("there is no agent {id:?}")))
    }

    pub fn agents(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Shared>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spawner that an agent belongs to, for ever: it holds the agent's workspace.
    pub fn spawner_of(&self, id: &str) -> &Spawner {
        &self.spawners[(fingerprint(id.as_bytes()) % self.spawners.len() as u64) as usize]
    }

    pub fn agent_dir(&self, id: &str) -> PathBuf {
        self.root.join("agents").join(id)
    }

    pub fn taken(&self) -> MutexGuard<'_, (BTreeSet<String>, BTreeSet<u32>)> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lowest range of user ids that no agent has.
    pub fn take_slot(&self) -> Result<u32, Fault> {
        let slots = &mut self.taken().1;
        let free = (0..MOST_SLOTS).find(|slot| !slots.contains(slot));
        let slot = free.ok_or_else(|| {
            exhausted(format!("all {MOST_SLOTS} ranges of user ids are taken by agents; delete some"))
        })?;
        slots.insert(slot);
        Ok(slot)
    }

    /// An agent is gone.
    pub fn forget(&self, id: &str, slot: u32) {
        self.agents().remove(id);
        self.taken().1.remove(&slot);
    }
}

impl Context {
    /// At the daemon's end: what no agent needs goes.
    pub fn tidy(&self) {
        for place in self.host.cgroups.places.values() {
            // Refused by the kernel as long as an agent has its cgroup in there.
            let _ = std::fs::remove_dir(place.own.join(&self.cgroup_parent));
        }
    }
}
