//! What all agents of a daemon share.

use crate::agent::shared::Shared;
use crate::fault::{Fault, exhausted, not_found};
use crate::plans::Plans;
use crate::spawner::client::Spawner;
use crate::spawner::launch::MOST_SLOTS;
use crate::store::journal::Journal;
use crate::store::record::Record;
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
    /// What agents may reach outside.
    pub egress: crate::egress::client::Egress,
    /// Copies that may go on at once: each holds a thread as long as its caller likes.
    pub copies: Arc<tokio::sync::Semaphore>,
    pub agents: Mutex<BTreeMap<String, Arc<Shared>>>,
    pub templates: Mutex<BTreeMap<String, Arc<crate::template::Shared>>>,
    /// What a template's program loads, to be forked from.
    pub seed_library: PathBuf,
    /// Ids in the middle of their Create, the user id ranges that are taken, and templates in the middle of theirs.
    pub taken: Mutex<(BTreeSet<String>, BTreeSet<u32>, BTreeSet<String>)>,
}

impl Context {
    pub fn agent(&self, id: &str) -> Result<Arc<Shared>, Fault> {
        self.agents().get(id).cloned().ok_or_else(|| not_found(format!("there is no agent {id:?}")))
    }

    pub fn agents(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Shared>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spawner that an agent or a template belongs to, for ever: it holds its workspaces.
    pub fn spawner_of(&self, id: &str) -> &Spawner {
        &self.spawners[(fingerprint(id.as_bytes()) % self.spawners.len() as u64) as usize]
    }

    pub fn agent_dir(&self, id: &str) -> PathBuf {
        self.root.join("agents").join(id)
    }

    pub fn taken(&self) -> MutexGuard<'_, (BTreeSet<String>, BTreeSet<u32>, BTreeSet<String>)> {
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

    /// Ranges of user ids that lie next to each other and that nobody has: the first one.
    pub fn take_slots(&self, count: u32) -> Result<u32, Fault> {
        let slots = &mut self.taken().1;
        let mut first = 0;
        while first + count <= MOST_SLOTS {
            match slots.range(first..first + count).next_back() {
                None => {
                    slots.extend(first..first + count);
                    return Ok(first);
                }
                Some(taken) => first = taken + 1,
            }
        }
        Err(exhausted(format!("there are no {count} ranges of user ids in a row; delete some agents or templates")))
    }

    pub fn give_slots(&self, first: u32, count: u32) {
        self.taken().1.retain(|slot| !(first..first + count).contains(slot));
    }

    pub fn template(&self, name: &str) -> Result<Arc<crate::template::Shared>, Fault> {
        self.templates().get(name).cloned().ok_or_else(|| not_found(format!("there is no template {name:?}")))
    }

    pub fn templates(&self) -> MutexGuard<'_, BTreeMap<String, Arc<crate::template::Shared>>> {
        self.templates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent is gone.
    pub fn forget(&self, record: &Record) {
        self.agents().remove(&record.id);
        match &record.instance {
            None => drop(self.taken().1.remove(&record.uid_slot)),
            Some(instance) => {
                if let Some(template) = self.templates().get(&instance.template) {
                    template.freed(instance.first_id);
                }
            }
        }
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
