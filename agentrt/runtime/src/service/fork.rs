//! Fork: agents that go on from where another one stands.

use super::body;
use super::template::{Newcomer, enlist, once};
use crate::agent::{Command, Origin};
use crate::context::Context;
use crate::fault::{Fault, aborted, failed_in, invalid};
use crate::spawner::protocol::Ask;
use crate::store::record::Record;
use crate::store::requests::fingerprint;
use crate::template::{Parked, Shared};
use crate::{pb, random, spec, template};
use prost::Message;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Forks that are made at one request.
const MOST: u32 = 64;

/// The ids of the forks, in the order of their numbers.
pub async fn fork(context: &Arc<Context>, request: pb::ForkRequest) -> Result<Vec<String>, Fault> {
    if !(1..=MOST).contains(&request.count) {
        return Err(invalid(format!("count: {} is not between 1 and {MOST}", request.count)));
    }
    let (id, body, own) = (request.request_id.clone(), body!(request), context.clone());
    let made = async move { try_fork(&own, request).await.map(|ids| ids.join(" ")) };
    let ids = once(context, (&id, "fork", body), made).await?;
    Ok(ids.split(' ').map(str::to_owned).collect())
}

async fn try_fork(context: &Arc<Context>, request: pb::ForkRequest) -> Result<Vec<String>, Fault> {
    let agent = context.agent(&request.id)?;
    let _alone = agent.forks.lock().await;
    let (reply, answer) = oneshot::channel();
    agent.send(Command::Fork(reply)).await?;
    let origin = answer.await.map_err(|_| aborted(format!("agent {} was deleted meanwhile", request.id)))??;
    let template = context.template(&origin.instance.template)?;
    let settings = template::settings(&template.spec, context)?;
    let mut spec = (*origin.spec).clone();
    spec.labels.extend(request.labels.clone());
    let of_spec = spec::settings(&spec)?;
    // All of them stand and wait before the first is an agent: what fails until then leaves nothing.
    let mut waiting = Vec::new();
    for _ in 0..request.count {
        match template::fork(context, &template, &settings, &origin).await {
            Ok(parked) => waiting.push(parked),
            Err(problem) => {
                discard(waiting, context, &template).await;
                return Err(failed_in(&request.id, &format!("it could not be forked: {problem}")));
            }
        }
    }
    let mut ids: Vec<String> = Vec::new();
    let mut waiting = waiting.into_iter();
    while let Some(parked) = waiting.next() {
        let number = ids.len() + 1;
        let record = record(&request, &origin);
        ids.push(record.id.clone());
        let newcomer = Newcomer {
            parked,
            spec: spec.clone(),
            settings: of_spec.clone(),
            plan: settings.plan.clone(),
            record,
            secrets: origin.secrets.clone(),
            event: ("forked".into(), format!("number {number} of agent {}", request.id)),
            requests: Vec::new(),
            order: json!({"number": number}),
        };
        if let Err(fault) = enlist(context, newcomer, &template).await {
            discard(waiting, context, &template).await;
            return Err(fault);
        }
    }
    let go_on = Ask::GoOn { agent: origin.instance.name };
    // Where the spawner has died meanwhile, the agent sees that itself.
    let _ = context.spawner_of(&template.name).call(go_on, Vec::new(), None).await;
    Ok(ids)
}

async fn discard(waiting: impl IntoIterator<Item = Parked>, context: &Context, template: &Shared) {
    for parked in waiting {
        parked.discard(context, template).await;
    }
}

fn record(request: &pb::ForkRequest, origin: &Origin) -> Record {
    let mut record = Record::new(&random::id(), 0);
    record.limits = origin.limits;
    record.placeholders = origin.placeholders.clone();
    record.forked_from = request.id.clone();
    record
}
