//! Compiled policies, shared among the agents that have the same.

use crate::fault::{Fault, invalid, precondition};
use crate::spawner::client::PlanText;
use crate::store::record::Limits;
use crate::store::requests::fingerprint;
use agent_kernel::host::Host;
use agent_kernel::plan::{Plan, compile};
use agent_kernel::policy::Policy;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A policy compiled for this host: as text for spawners, and as it is.
pub type Compiled = (Arc<PlanText>, Arc<Plan>);
type Shared = (Weak<PlanText>, Weak<Plan>);

#[derive(Default)]
pub struct Plans(Mutex<HashMap<u64, Shared>>);

impl Plans {
    /// Compiles a policy document for this host. What is wrong with it is told with its place.
    pub fn compile(&self, document: &str, host: &Host) -> Result<Compiled, Fault> {
        let source = fingerprint(document.as_bytes());
        if let Some(known) = self.lock().get(&source).and_then(|(text, plan)| Some((text.upgrade()?, plan.upgrade()?)))
        {
            return Ok(known);
        }
        let text = document.trim_start();
        let policy = match text.chars().next() {
            None => Ok(Policy::new()),
            Some('{') => Policy::from_json(text),
            Some(_) => Policy::from_toml(document),
        };
        let policy = policy.map_err(|e| invalid(format!("policy: {e}")))?;
        let plan = compile(&policy, host).map_err(|e| precondition(format!("policy: {e}")))?;
        let (text, plan) = self.add(plan)?;
        let mut known = self.lock();
        known.retain(|_, (text, _)| text.strong_count() > 0);
        known.insert(source, (Arc::downgrade(&text), Arc::downgrade(&plan)));
        Ok((text, plan))
    }

    /// A plan that was made otherwise.
    pub fn add(&self, plan: Plan) -> Result<Compiled, Fault> {
        let json = serde_json::to_vec(&plan).map_err(|e| invalid(format!("policy: {e}")))?;
        Ok((Arc::new(PlanText { key: fingerprint(&json), json }), Arc::new(plan)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Limits may only narrow what the policy allows.
pub fn check_limits(limits: &Limits, plan: &Plan, place: &str) -> Result<(), Fault> {
    let above = |key: &str, value: u64, most: Option<u64>| match most {
        Some(most) if value > most => {
            Err(invalid(format!("{place}.{key}: {value} is above the policy's {most}; limits only narrow")))
        }
        _ => Ok(()),
    };
    above("memory_bytes", limits.memory_bytes, plan.cgroup.memory)?;
    above("cpu_milli", u64::from(limits.cpu_milli), plan.cgroup.cpus.map(|c| (c * 1000.0) as u64))?;
    above("pids", u64::from(limits.pids), plan.cgroup.processes)?;
    if (1..1 << 20).contains(&limits.memory_bytes) {
        return Err(invalid(format!(
            "{place}.memory_bytes: {} is below one MiB; no program starts in it",
            limits.memory_bytes
        )));
    }
    if (1..10).contains(&limits.cpu_milli) {
        return Err(invalid(format!(
            "{place}.cpu_milli: {} is below 10, the least that the kernel can give",
            limits.cpu_milli
        )));
    }
    if (1..3).contains(&limits.pids) {
        return Err(invalid(format!("{place}.pids: {} leaves no room for the program beside its init", limits.pids)));
    }
    Ok(())
}
