//! Create: everything is checked first, then the agent stands on disk whole, or not at all.

use crate::agent::{Agent, Shared, blocking, secrets};
use crate::context::Context;
use crate::fault::{Fault, exists, internal, invalid, precondition};
use crate::spawner::launch::{image_of, images};
use crate::state::State;
use crate::store::record::{Event, Record};
use crate::store::replace;
use crate::store::requests::RequestNote;
use crate::store::requests::{Outcome, Ticket};
use crate::{clock, pb, random, spec};
use agent_kernel::Level;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

pub async fn create(context: Arc<Context>, request: pb::CreateRequest, ticket: Ticket) {
    let outcome = match try_create(&context, request, |outcome| ticket.note(Some(outcome))).await {
        Ok(id) => Outcome::Done(id),
        Err(fault) => Outcome::Failed(fault),
    };
    ticket.end(outcome);
}

async fn try_create(
    context: &Arc<Context>,
    request: pb::CreateRequest,
    note: impl FnOnce(Outcome) -> Option<RequestNote>,
) -> Result<String, Fault> {
    let spec = request.spec.clone().ok_or_else(|| invalid("spec: it is missing"))?;
    let id = if request.id.is_empty() { random::id() } else { request.id.clone() };
    spec::check_id(&id)?;
    let settings = spec::settings(&spec)?;
    let (_, plan) = context.plans.compile(&spec.policy, &context.host)?;
    if plan.level == Level::L1 {
        return Err(invalid(
            "policy: level: L1 has no sandbox that could be stopped, paused or entered; the runtime runs L2 and L3",
        ));
    }
    if plan.checkpoints {
        return Err(invalid("policy: checkpoints: they are for agents that are claimed from a template"));
    }
    image_of(&images(&context.root), &plan).map_err(|e| precondition(format!("policy: {e}")))?;
    if let Some(place) = settings.check_that_enters().filter(|_| !context.host.root) {
        return Err(precondition(format!(
            "{place}: only a daemon that is root can enter sandboxes; use a heartbeat or progress"
        )));
    }
    let limits = super::checked_limits(spec.limits, &plan)?;
    if let Some(name) = request.secrets.keys().find(|name| !plan.egress.secrets.contains_key(*name)) {
        return Err(invalid(format!("secrets: {name}: the policy does not name it (network.secrets)")));
    }
    let texts = secrets::check(&request.secrets, &plan.egress, &spec.env)?;
    reserve(context, &id)?;
    let slot = context.take_slot();
    let made = match slot {
        Ok(slot) => {
            let mut record = Record::new(&id, slot);
            record.limits = limits;
            record.placeholders = secrets::placeholders(&texts);
            record.rev = 1;
            record.event = Some(Event {
                seq: 0,
                agent: id.clone(),
                rev: 1,
                kind: "created".into(),
                state: State::Created,
                exit: None,
                detail: String::new(),
                at_unix_ms: clock::unix_ms(),
                requests: note(Outcome::Done(id.clone())).into_iter().collect(),
            });
            store(context, record, spec, settings, texts).await.inspect_err(|_| {
                context.taken().1.remove(&slot);
            })
        }
        Err(fault) => Err(fault),
    };
    context.taken().0.remove(&id);
    made.map(|()| id)
}

/// Two Creates of one id: one wins, before anything is made.
pub(super) fn reserve(context: &Context, id: &str) -> Result<(), Fault> {
    let mut taken = context.taken();
    if context.agents().contains_key(id) || !taken.0.insert(id.to_owned()) {
        return Err(exists(format!("there is an agent {id} already")));
    }
    Ok(())
}

async fn store(
    context: &Arc<Context>,
    mut record: Record,
    spec: pb::AgentSpec,
    settings: spec::Settings,
    texts: secrets::Texts,
) -> Result<(), Fault> {
    let dir = context.agent_dir(&record.id);
    let spec_text = serde_json::to_vec(&spec).map_err(|e| internal(format!("spec: {e}")))?;
    let (path, written) = (dir.clone(), record.clone());
    blocking(move || write(&path, &spec_text, &written).inspect_err(|_| drop(std::fs::remove_dir_all(&path))))
        .await?
        .map_err(|e| internal(format!("agent {}: {} cannot be written: {e}", record.id, dir.display())))?;
    let event = record.event.take();
    let id = record.id.clone();
    let (shared, commands) = Shared::new(dir.clone(), Arc::new(spec), settings, record);
    {
        // Under the lock: who sees the event finds the agent.
        let mut agents = context.agents();
        if let Some(mut event) = event
            && let Err(e) = context.journal.append(&mut event)
        {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(internal(format!("agent {id}: the journal cannot be written: {e}")));
        }
        agents.insert(id, shared.clone());
    }
    let agent = Agent::new(context.clone(), shared, texts);
    if let Err(fault) = agent.keep_secrets().await {
        // They are kept again at its start.
        eprintln!("{fault}");
    }
    tokio::spawn(agent.live(commands));
    Ok(())
}

/// state.json comes last: a directory without it is a Create that was cut short.
fn write(dir: &Path, spec: &[u8], record: &Record) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    replace(dir, "spec.json", spec, false)?;
    File::open(dir.join("spec.json"))?.sync_all()?;
    record.save(dir, true)?;
    dir.parent().map_or(Ok(()), |agents| File::open(agents)?.sync_all())
}
