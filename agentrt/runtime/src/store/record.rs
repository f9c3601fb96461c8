//! The record of one agent: all that the daemon must know again after it died.

use crate::clock;
use crate::state::{Exit, Reason, State};
use agent_kernel::cgroup::Values;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// A process that can be recognised: a pid alone names nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    pub start_ticks: u64,
    pub boot_id: String,
}

/// A clock that stands still while the agent is paused or not running.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveClock {
    used_ms: u64,
    /// Boottime at which it began to run.
    since_ms: Option<u64>,
}

impl ActiveClock {
    pub fn run(&mut self) {
        self.since_ms.get_or_insert_with(clock::boottime_ms);
    }

    pub fn hold(&mut self) {
        self.used_ms = self.used_ms();
        self.since_ms = None;
    }

    pub fn used_ms(&self) -> u64 {
        self.used_ms + self.since_ms.map_or(0, |since| clock::boottime_ms().saturating_sub(since))
    }

    /// After the host was restarted: the boottime in it is of another boot.
    pub fn forget_boot(&mut self) {
        self.since_ms = None;
    }
}

/// Why a run is being ended, once that is decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub reason: Reason,
    pub detail: String,
    /// Boottime after which SIGTERM becomes SIGKILL.
    pub kill_at_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpu_milli: u32,
    pub pids: u32,
}

impl Limits {
    /// The values of a plan, narrowed by these.
    pub fn narrowed(&self, values: &Values) -> Values {
        let mut values = values.clone();
        if self.memory_bytes > 0 {
            values.memory = Some(self.memory_bytes);
        }
        if self.cpu_milli > 0 {
            values.cpus = Some(f64::from(self.cpu_milli) / 1000.0);
        }
        if self.pids > 0 {
            values.processes = Some(u64::from(self.pids));
        }
        values
    }
}

/// An event, as it stands in the journal; `seq` is given there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    #[serde(default)]
    pub seq: u64,
    pub agent: String,
    pub rev: u64,
    pub kind: String,
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    pub at_unix_ms: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<super::requests::RequestNote>,
}

/// What an agent was before it was claimed: its cgroup, its workspace and its user ids stay those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub name: String,
    pub template: String,
    pub first_id: u32,
    pub ids: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub rev: u64,
    pub state: State,
    pub boot_id: String,
    /// Number of the present or last run; 0 before the first.
    pub run: u64,
    pub process: Option<Process>,
    pub uid_slot: u32,
    /// Of an agent that was claimed from a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// The agent that it is a fork of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub forked_from: String,
    pub restarts: u32,
    pub in_row: u32,
    pub last_exit: Option<Exit>,
    pub created_unix_ms: i64,
    pub started_unix_ms: i64,
    pub started_ms: u64,
    pub active: ActiveClock,
    pub ending: Option<Ending>,
    /// When its run has ended the agent is deleted.
    pub doomed: bool,
    pub next_start_ms: Option<u64>,
    pub pause_cause: String,
    pub limits: Limits,
    pub started_up: bool,
    pub ready: bool,
    pub enforced: Vec<String>,
    /// What the agent has in the place of its secrets, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub placeholders: BTreeMap<String, String>,
    /// Requests whose end is still to come; they end with a later change.
    pub open: Vec<super::requests::RequestNote>,
    pub event: Option<Event>,
}

impl Record {
    pub fn new(id: &str, uid_slot: u32) -> Record {
        Record {
            id: id.to_owned(),
            rev: 0,
            state: State::Created,
            boot_id: clock::boot_id().to_owned(),
            run: 0,
            process: None,
            uid_slot,
            instance: None,
            forked_from: String::new(),
            restarts: 0,
            in_row: 0,
            last_exit: None,
            created_unix_ms: clock::unix_ms(),
            started_unix_ms: 0,
            started_ms: 0,
            active: ActiveClock::default(),
            ending: None,
            doomed: false,
            next_start_ms: None,
            pause_cause: String::new(),
            limits: Limits::default(),
            started_up: false,
            ready: false,
            enforced: Vec::new(),
            placeholders: BTreeMap::new(),
            open: Vec::new(),
            event: None,
        }
    }

    /// Reads a record; None when the directory has none (a Create that was cut short).
    pub fn load(dir: &Path) -> io::Result<Option<Record>> {
        match std::fs::read(dir.join("state.json")) {
            Ok(raw) => serde_json::from_slice(&raw).map(Some).map_err(|e| io::Error::other(format!("state.json: {e}"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub fn save(&self, dir: &Path, durable: bool) -> io::Result<()> {
        super::replace(dir, "state.json", &serde_json::to_vec(self)?, durable)
    }
}
