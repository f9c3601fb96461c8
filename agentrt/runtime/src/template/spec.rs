//! What CreateTemplate was asked for, checked.

use super::IDS_OF_INSTANCE;
use crate::context::Context;
use crate::fault::{Fault, invalid, precondition};
use crate::pb;
use crate::plans::Compiled;
use crate::spawner::launch::IDS;
use agent_kernel::plan::{Access, Bind};
use agent_kernel::{Level, Plan};

const MOST_AGENTS: u32 = 8_000;
const MOST_BYTES: usize = 96 << 10;

/// A template's plans and bounds.
#[derive(Clone)]
pub struct Settings {
    pub python: String,
    pub most: u32,
    /// Ranges of ids that it takes: one of its seed's own, the others for instances.
    pub slots: u32,
    pub ready_ms: u64,
    pub plan: Compiled,
    /// Of its seed.
    pub seed: Compiled,
}

/// Checks a template against this host.
pub fn settings(spec: &pb::TemplateSpec, context: &Context) -> Result<Settings, Fault> {
    if !context.host.root || context.host.cgroups.places.is_empty() {
        return Err(precondition("templates need a daemon that is root, and cgroups"));
    }
    let python = if spec.python.is_empty() { "/usr/bin/python3" } else { &spec.python };
    if !python.starts_with('/') || python.contains('\0') {
        return Err(invalid(format!("python: {python:?} is not absolute; it is a path inside the sandbox")));
    }
    let name = |text: &&String| {
        text.is_empty()
            || !text
                .split('.')
                .all(|part| !part.is_empty() && !part.contains(|c: char| !c.is_alphanumeric() && c != '_'))
    };
    if let Some(bad) = spec.imports.iter().find(name) {
        return Err(invalid(format!("imports: {bad:?} is no name of a module")));
    }
    let total: usize = spec.imports.iter().map(String::len).sum::<usize>() + spec.setup.len();
    if total > MOST_BYTES || spec.setup.contains('\0') {
        return Err(invalid(format!(
            "imports and setup: {total} bytes together, at most {MOST_BYTES}, none of them NUL"
        )));
    }
    if let Some((k, v)) = spec.env.iter().find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0')) {
        return Err(invalid(format!("env: {k:?}={v:?} is no variable")));
    }
    let most = if spec.max_agents == 0 { 1_000 } else { spec.max_agents };
    if most > MOST_AGENTS {
        return Err(invalid(format!("max_agents: {most} is above {MOST_AGENTS}")));
    }
    if spec.pool > most {
        return Err(invalid(format!("pool: {} is above max_agents, {most}", spec.pool)));
    }
    let plan = context.plans.compile(&spec.policy, &context.host)?;
    if plan.1.level != Level::L3 {
        return Err(invalid("policy: level: templates are for agents at L3"));
    }
    if plan.1.checkpoints && spec.no_fork {
        return Err(invalid("no_fork: checkpoints (of the policy) are for agents that are forked from their template"));
    }
    if plan.1.uid >= IDS_OF_INSTANCE || plan.1.gid >= IDS_OF_INSTANCE || plan.1.uid == 0 {
        return Err(invalid(format!("policy: identity: uid and gid are 1 to {} here", IDS_OF_INSTANCE - 1)));
    }
    if ["/tmp", "/run", "/dev"].iter().any(|taken| context.seed_library.starts_with(taken)) {
        let place = context.seed_library.display();
        return Err(precondition(format!("{place}: nothing of the host is seen there inside; put it elsewhere")));
    }
    if !spec.no_fork && !context.seed_library.is_file() {
        return Err(precondition(format!(
            "{} is not there, and templates fork by it; give --seed-library, or no_fork",
            context.seed_library.display()
        )));
    }
    let seed = context.plans.add(seed_plan(&plan.1, context))?;
    let slots = 1 + (most * IDS_OF_INSTANCE).div_ceil(IDS);
    let ready_ms = if spec.ready_timeout_ms == 0 { 60_000 } else { spec.ready_timeout_ms };
    Ok(Settings { python: python.to_owned(), most, slots, ready_ms, plan, seed })
}

fn seed_plan(plan: &Plan, context: &Context) -> Plan {
    let mut seed = agent_kernel::seed_plan(plan);
    seed.binds.push(Bind { path: context.seed_library.clone(), access: Access::Execute });
    seed.binds.sort();
    seed
}
