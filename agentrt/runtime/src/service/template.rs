//! The verbs of templates.

use super::body;
use super::create::reserve;
use crate::agent::{Agent, Shared, secrets};
use crate::context::Context;
use crate::fault::{Fault, exists, internal, invalid};
use crate::plans::Compiled;
use crate::spawner::program::USUAL;
use crate::state::State;
use crate::store::record::{Event, Record};
use crate::store::replace;
use crate::store::requests::RequestNote;
use crate::store::requests::{Begun, Outcome, Ticket, ended, fingerprint};
use crate::template::{self, Parked};
use crate::{clock, pb, random, spec};
use prost::Message;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Response, Status};

/// Tries of a claim whose instance dies under it.
const TRIES: u32 = 3;

/// Carries a request out once, on a task of its own: a caller who hangs up leaves nothing half made.
pub(super) async fn once(
    context: &Context,
    (id, verb, body): (&str, &str, u64),
    work: impl Future<Output = Result<String, Fault>> + Send + 'static,
) -> Result<String, Fault> {
    let outcome = match context.requests.begin(id, verb, body)? {
        Begun::Known(outcome) => outcome,
        Begun::Fresh(ticket, outcome) => {
            tokio::spawn(async move {
                let outcome = work.await.map_or_else(Outcome::Failed, Outcome::Done);
                ticket.end(outcome);
            });
            outcome
        }
    };
    match ended(outcome).await? {
        Outcome::Done(name) => Ok(name),
        Outcome::Failed(fault) => Err(fault),
        _ => Err(internal("the request was another")),
    }
}

fn reply(context: &Context, name: &str) -> Result<Response<pb::TemplateReply>, Status> {
    let template = context.template(name)?.message();
    Ok(Response::new(pb::TemplateReply { template: Some(template) }))
}

pub async fn create(
    context: &Arc<Context>,
    request: pb::CreateTemplateRequest,
) -> Result<Response<pb::TemplateReply>, Status> {
    let body = body!(request);
    let (name, own) = (request.name.clone(), context.clone());
    spec::check_id(&name)?;
    let spec = request.spec.unwrap_or_default();
    let made = async move {
        if own.templates().contains_key(&name) || !own.taken().2.insert(name.clone()) {
            return Err(exists(format!("there is a template {name} already")));
        }
        let made = template::create(&own, &name, spec).await;
        own.taken().2.remove(&name);
        made.map(|()| name)
    };
    let name = once(context, (&request.request_id, "create-template", body), made).await?;
    reply(context, &name)
}

pub async fn delete(
    context: &Arc<Context>,
    request: pb::DeleteTemplateRequest,
) -> Result<Response<pb::DeleteTemplateReply>, Status> {
    let body = body!(request);
    let (name, own) = (request.name.clone(), context.clone());
    let gone = async move { template::delete(&own, &name).await.map(|()| name) };
    once(context, (&request.request_id, "delete-template", body), gone).await?;
    Ok(Response::new(pb::DeleteTemplateReply {}))
}

pub async fn set_pool(
    context: &Arc<Context>,
    request: pb::SetPoolRequest,
) -> Result<Response<pb::TemplateReply>, Status> {
    let template = context.template(&request.name)?;
    let most = if template.spec.max_agents == 0 { 1_000 } else { template.spec.max_agents };
    if request.size > most {
        return Err(invalid(format!("size: {} is above the template's max_agents, {most}", request.size)).into());
    }
    template::store_pool(context, &request.name, request.size)?;
    template.set_pool(request.size);
    reply(context, &request.name)
}

/// The id of the agent that was claimed.
pub async fn claim(context: &Arc<Context>, request: pb::ClaimRequest) -> Result<String, Fault> {
    let body = body!(request);
    let outcome = match context.requests.begin(&request.request_id, "claim", body)? {
        Begun::Known(outcome) => outcome,
        Begun::Fresh(ticket, outcome) => {
            tokio::spawn(carry(context.clone(), request, ticket));
            outcome
        }
    };
    match ended(outcome).await? {
        Outcome::Done(id) => Ok(id),
        Outcome::Failed(fault) => Err(fault),
        _ => Err(internal("the request was another")),
    }
}

async fn carry(context: Arc<Context>, request: pb::ClaimRequest, ticket: Ticket) {
    let id = if request.id.is_empty() { random::id() } else { request.id.clone() };
    let outcome = match spec::check_id(&id).and_then(|()| reserve(&context, &id)) {
        Err(fault) => Outcome::Failed(fault),
        Ok(()) => {
            let made = try_claim(&context, &id, request, &ticket).await;
            context.taken().0.remove(&id);
            made.map_or_else(Outcome::Failed, |()| Outcome::Done(id))
        }
    };
    ticket.end(outcome);
}

async fn try_claim(context: &Arc<Context>, id: &str, request: pb::ClaimRequest, ticket: &Ticket) -> Result<(), Fault> {
    let template = context.template(&request.template)?;
    let python = if template.spec.python.is_empty() { "/usr/bin/python3" } else { &template.spec.python };
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(invalid("argv: what to run is missing: a file, -c CODE or -m MODULE"));
    }
    if matches!(request.argv[0].as_str(), "-c" | "-m") && request.argv.len() < 2 {
        return Err(invalid(format!("argv: {} has nothing behind it", request.argv[0])));
    }
    let name = |n: &&String| n.is_empty() || !n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if let Some(bad) = request.secrets.keys().find(name) {
        return Err(invalid(format!("secrets: {bad:?}: a name has letters, digits and '_'")));
    }
    let mut labels = template.spec.labels.clone();
    labels.extend(request.labels.clone());
    let agent_spec = pb::AgentSpec {
        policy: template.spec.policy.clone(),
        argv: std::iter::once(python.to_owned()).chain(request.argv.clone()).collect(),
        env: request.env.clone(),
        cwd: request.cwd.clone(),
        labels,
        limits: request.limits,
        ttl_ms: request.ttl_ms,
        ttl_action: request.ttl_action,
        idle_pause_ms: request.idle_pause_ms,
        stop_grace_ms: request.stop_grace_ms,
        ..Default::default()
    };
    let settings = spec::settings(&agent_spec)?;
    let plan = context.plans.compile(&template.spec.policy, &context.host)?;
    let limits = super::checked_limits(request.limits, &plan.1)?;
    let texts = secrets::check(&request.secrets, &plan.1.egress, &request.env)?;
    let placeholders = secrets::placeholders(&texts);
    let mut in_memory = request.secrets;
    in_memory.retain(|name, _| !texts.contains_key(name));
    let mut env: BTreeMap<String, String> = USUAL.map(|(k, v)| (k.into(), v.into())).into();
    if !plan.1.egress.rules.is_empty() {
        env.extend(crate::egress::environment());
    }
    env.extend(placeholders.clone());
    env.extend(request.env);
    let order = json!({"argv": request.argv, "env": env, "cwd": request.cwd, "secrets": in_memory});
    let mut tries = 0;
    let parked = loop {
        tries += 1;
        let parked = template.claim().await?;
        if parked.alive() || tries == TRIES {
            break parked;
        }
        parked.discard(context, &template).await;
    };
    let mut record = Record::new(id, 0);
    record.limits = limits;
    record.placeholders = placeholders;
    let event = (String::from("claimed"), format!("from template {}", request.template));
    let requests = ticket.note(Some(Outcome::Done(id.to_owned()))).into_iter().collect();
    let newcomer =
        Newcomer { parked, spec: agent_spec, settings, plan, record, secrets: texts, event, requests, order };
    enlist(context, newcomer, &template).await
}

/// An instance that waits, and what is to become of it.
pub(super) struct Newcomer {
    pub parked: Parked,
    pub spec: pb::AgentSpec,
    pub settings: spec::Settings,
    pub plan: Compiled,
    /// Of its limits, placeholders and descent; the rest follows from what it is.
    pub record: Record,
    pub secrets: secrets::Texts,
    /// Its kind, and a sentence.
    pub event: (String, String),
    pub requests: Vec<RequestNote>,
    /// What it is told in the end.
    pub order: serde_json::Value,
}

/// Makes an agent of an instance that waits: told what to do, then known to all, then let go.
pub(super) async fn enlist(
    context: &Arc<Context>,
    newcomer: Newcomer,
    template: &template::Shared,
) -> Result<(), Fault> {
    let Newcomer { parked, spec, settings, plan, mut record, secrets, event: (kind, detail), requests, order } =
        newcomer;
    let id = record.id.clone();
    record.instance = Some(parked.instance.clone());
    record.process = Some(parked.process.clone());
    record.enforced = parked.enforced.clone();
    (record.state, record.rev, record.run) = (State::Running, 1, 1);
    (record.started_unix_ms, record.started_ms) = (clock::unix_ms(), clock::boottime_ms());
    (record.started_up, record.ready) = (true, true);
    record.active.run();
    let mut event = Event {
        seq: 0,
        agent: id.clone(),
        rev: 1,
        kind,
        state: State::Running,
        exit: None,
        detail,
        at_unix_ms: clock::unix_ms(),
        requests,
    };
    record.event = Some(event.clone());
    let failed = |what: &str| internal(format!("agent {id}: {what}"));
    let told = parked.order(&order).map_err(|e| format!("it could not be told what to do: {e}"));
    if let Err(e) = told.and_then(|()| settle(context, &id, &parked, &spec, &mut record, &plan.1)) {
        parked.discard(context, template).await;
        let _ = std::fs::remove_dir_all(context.agent_dir(&id));
        return Err(failed(&e));
    }
    record.event = None;
    let (shared, commands) = Shared::new(context.agent_dir(&id), Arc::new(spec), settings, record);
    {
        // Under the lock: who sees the event finds the agent.
        let mut agents = context.agents();
        context.journal.append(&mut event).map_err(|e| failed(&format!("the journal cannot be written: {e}")))?;
        agents.insert(id.clone(), shared.clone());
    }
    // What it is to do it has heard: from here on it is done, and once, whoever dies.
    if let Err(e) = parked.go() {
        eprintln!("agent {id}: it could not be let go: {e}");
    }
    let agent =
        Agent::claimed(context.clone(), shared, parked, plan, secrets).await.map_err(|e| failed(&e.to_string()))?;
    tokio::spawn(agent.live(commands));
    Ok(())
}

/// Its limits, and its directory with its record: from now on a new daemon finds it.
fn settle(
    context: &Context,
    id: &str,
    parked: &Parked,
    spec: &pb::AgentSpec,
    record: &mut Record,
    plan: &agent_kernel::Plan,
) -> Result<(), String> {
    if record.limits != Default::default() {
        let values = record.limits.narrowed(&plan.cgroup);
        let cgroup = agent_kernel::Cgroup::open(&parked.cgroup).map_err(|e| e.to_string())?;
        cgroup.update(&values).map_err(|e| e.to_string())?;
    }
    let dir = context.agent_dir(id);
    let text = serde_json::to_vec(spec).map_err(|e| e.to_string())?;
    let say = |e: std::io::Error| format!("{}: {e}", dir.display());
    let waiting = parked.dir(context);
    replace(&waiting, "spec.json", &text, false).map_err(say)?;
    record.save(&waiting, false).map_err(say)?;
    std::fs::rename(&waiting, &dir).map_err(say)
}
