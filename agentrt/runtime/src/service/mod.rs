//! The gRPC service: translation between messages and agents, nothing else.

mod copy;
mod create;
mod events;
mod exec;
mod fork;
mod forward;
mod logs;
mod template;
mod view;

use crate::agent::{Command, Verb};
use crate::context::Context;
use crate::fault::{Fault, invalid};
use crate::pb;
use crate::pb::runtime_service_server::RuntimeService;
use crate::plans::check_limits;
use crate::state::State;
use crate::store::record::Limits;
use crate::store::requests::{Begun, Outcome, ended, fingerprint};
use prost::Message;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Who renews a lease does so every few seconds: a far end is a mistake, and could not be taken back.
const LONGEST_LEASE_MS: u64 = 3_600_000;

pub struct Service {
    pub context: Arc<Context>,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A request without its id: what must be the same when the id comes again.
macro_rules! body {
    ($request:expr) => {{
        let mut body = $request.clone();
        body.request_id.clear();
        fingerprint(&body.encode_to_vec())
    }};
}
pub(crate) use body;

impl Service {
    /// A verb of one agent: refused, or carried out once, or answered as it was before.
    async fn verb(&self, request_id: &str, name: &str, body: u64, id: &str, verb: Verb) -> Result<Outcome, Fault> {
        let outcome = match self.context.requests.begin(request_id, name, body)? {
            Begun::Known(outcome) => outcome,
            Begun::Fresh(ticket, outcome) => {
                match self.context.agent(id) {
                    Ok(agent) => agent.send(Command::Verb(verb, ticket)).await?,
                    Err(fault) => ticket.end(Outcome::Failed(fault)),
                }
                outcome
            }
        };
        match ended(outcome).await? {
            Outcome::Failed(fault) => Err(fault),
            outcome => Ok(outcome),
        }
    }

    async fn verb_reply(
        &self,
        request_id: &str,
        name: &str,
        body: u64,
        id: &str,
        verb: Verb,
    ) -> Result<Response<pb::AgentReply>, Status> {
        self.verb(request_id, name, body, id, verb).await?;
        self.reply(id)
    }

    fn reply(&self, id: &str) -> Result<Response<pb::AgentReply>, Status> {
        let agent = self.context.agent(id)?;
        Ok(Response::new(pb::AgentReply { agent: Some(view::agent(&agent, false)) }))
    }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    type ExecStream = Replies<pb::ExecReply>;
    type AttachStream = Replies<pb::AttachReply>;
    type ForwardStream = Replies<pb::ForwardReply>;
    type LogsStream = Replies<pb::LogChunk>;
    type CopyOutStream = Replies<pb::CopyOutChunk>;
    type EventsStream = Replies<pb::Event>;

    async fn create(&self, request: Request<pb::CreateRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let request = request.into_inner();
        let body = body!(request);
        let outcome = match self.context.requests.begin(&request.request_id, "create", body)? {
            Begun::Known(outcome) => outcome,
            Begun::Fresh(ticket, outcome) => {
                // On a task of its own: a caller who hangs up leaves no half-made agent.
                tokio::spawn(create::create(self.context.clone(), request, ticket));
                outcome
            }
        };
        match ended(outcome).await? {
            Outcome::Failed(fault) => Err(fault.into()),
            Outcome::Done(id) => self.reply(&id),
            _ => Err(Status::internal("the request was another")),
        }
    }

    async fn start(&self, request: Request<pb::StartRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let r = request.into_inner();
        self.verb_reply(&r.request_id, "start", body!(r), &r.id, Verb::Start).await
    }

    async fn stop(&self, request: Request<pb::StopRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let r = request.into_inner();
        self.verb_reply(&r.request_id, "stop", body!(r), &r.id, Verb::Stop { grace_ms: r.grace_ms }).await
    }

    async fn kill(&self, request: Request<pb::KillRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let r = request.into_inner();
        if !(0..=64).contains(&r.signal) {
            return Err(invalid(format!("signal: {} is no signal; they are 1 to 64", r.signal)).into());
        }
        self.verb_reply(&r.request_id, "kill", body!(r), &r.id, Verb::Kill { signal: r.signal }).await
    }

    async fn pause(&self, request: Request<pb::PauseRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let r = request.into_inner();
        self.verb_reply(&r.request_id, "pause", body!(r), &r.id, Verb::Pause).await
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let r = request.into_inner();
        self.verb_reply(&r.request_id, "resume", body!(r), &r.id, Verb::Resume).await
    }

    async fn update(&self, request: Request<pb::UpdateRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let r = request.into_inner();
        let limits = limits(r.limits);
        if limits == Limits::default() {
            return Err(invalid("limits: none is given, so there is nothing to update").into());
        }
        self.verb_reply(&r.request_id, "update", body!(r), &r.id, Verb::Update(limits)).await
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteReply>, Status> {
        let r = request.into_inner();
        self.verb(&r.request_id, "delete", body!(r), &r.id, Verb::Delete { force: r.force }).await?;
        Ok(Response::new(pb::DeleteReply {}))
    }

    async fn exec(&self, request: Request<Streaming<pb::ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        exec::exec(self.context.clone(), request.into_inner()).await
    }

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        logs::attach(self.context.clone(), request.into_inner()).await
    }

    async fn forward(
        &self,
        request: Request<Streaming<pb::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        forward::forward(self.context.clone(), request.into_inner()).await
    }

    async fn wait(&self, request: Request<pb::WaitRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let r = request.into_inner();
        let agent = self.context.agent(&r.id)?;
        let until = State::from_pb(r.until());
        let reached = async {
            let mut changes = agent.watch();
            loop {
                changes.borrow_and_update();
                let record = agent.record();
                let there = match until {
                    _ if r.until_ready => record.ready,
                    Some(state) => record.state == state,
                    None => record.state == State::Exited,
                };
                if there {
                    return Ok(());
                }
                if record.state.at_rest() && r.until_ready && record.state == State::Exited {
                    return Err(crate::fault::precondition(format!(
                        "agent {} has ended before it was ready",
                        agent.id
                    )));
                }
                if changes.changed().await.is_err() || self.context.agent(&agent.id).is_err() {
                    return Err(crate::fault::not_found(format!("agent {} was deleted meanwhile", agent.id)));
                }
            }
        };
        if r.timeout_ms > 0 {
            let limit = Duration::from_millis(r.timeout_ms);
            let late = || {
                Status::new(
                    Code::DeadlineExceeded,
                    format!("agent {} is {} after {} ms", r.id, agent.state().name(), r.timeout_ms),
                )
            };
            tokio::time::timeout(limit, reached).await.map_err(|_| late())??;
        } else {
            reached.await?;
        }
        Ok(Response::new(pb::AgentReply { agent: Some(view::agent(&agent, false)) }))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListReply>, Status> {
        let r = request.into_inner();
        // Read first: what happens while the list is made comes as events after this number.
        let last_event = self.context.journal.last();
        let agents = if r.ids.is_empty() {
            self.context.agents().values().cloned().collect()
        } else {
            r.ids.iter().map(|id| self.context.agent(id)).collect::<Result<Vec<_>, _>>()?
        };
        let matching = agents.iter().filter(|a| r.labels.iter().all(|(k, v)| a.spec.labels.get(k) == Some(v)));
        Ok(Response::new(pb::ListReply { agents: matching.map(|a| view::agent(a, r.full)).collect(), last_event }))
    }

    async fn stats(&self, request: Request<pb::StatsRequest>) -> Result<Response<pb::StatsReply>, Status> {
        let r = request.into_inner();
        Ok(Response::new(view::stats(&self.context, &r.ids).await?))
    }

    async fn logs(&self, request: Request<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        logs::logs(self.context.clone(), request.into_inner()).await
    }

    async fn copy_in(
        &self,
        request: Request<Streaming<pb::CopyInRequest>>,
    ) -> Result<Response<pb::CopyInReply>, Status> {
        copy::copy_in(self.context.clone(), request.into_inner()).await
    }

    async fn copy_out(&self, request: Request<pb::CopyOutRequest>) -> Result<Response<Self::CopyOutStream>, Status> {
        copy::copy_out(self.context.clone(), request.into_inner()).await
    }

    async fn events(&self, request: Request<pb::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        events::events(self.context.clone(), request.into_inner())
    }

    async fn create_template(
        &self,
        request: Request<pb::CreateTemplateRequest>,
    ) -> Result<Response<pb::TemplateReply>, Status> {
        template::create(&self.context, request.into_inner()).await
    }

    async fn delete_template(
        &self,
        request: Request<pb::DeleteTemplateRequest>,
    ) -> Result<Response<pb::DeleteTemplateReply>, Status> {
        template::delete(&self.context, request.into_inner()).await
    }

    async fn list_templates(
        &self,
        _: Request<pb::ListTemplatesRequest>,
    ) -> Result<Response<pb::ListTemplatesReply>, Status> {
        let templates = self.context.templates().values().map(|t| t.message()).collect();
        Ok(Response::new(pb::ListTemplatesReply { templates }))
    }

    async fn set_pool(&self, request: Request<pb::SetPoolRequest>) -> Result<Response<pb::TemplateReply>, Status> {
        template::set_pool(&self.context, request.into_inner()).await
    }

    async fn claim(&self, request: Request<pb::ClaimRequest>) -> Result<Response<pb::AgentReply>, Status> {
        let request = request.into_inner();
        let id = template::claim(&self.context, request).await?;
        self.reply(&id)
    }

    async fn fork(&self, request: Request<pb::ForkRequest>) -> Result<Response<pb::ForkReply>, Status> {
        let ids = fork::fork(&self.context, request.into_inner()).await?;
        let agents = ids.iter().map(|id| Ok(view::agent(&*self.context.agent(id)?, false)));
        Ok(Response::new(pb::ForkReply { agents: agents.collect::<Result<_, Fault>>()? }))
    }

    async fn extend_lease(
        &self,
        request: Request<pb::ExtendLeaseRequest>,
    ) -> Result<Response<pb::ExtendLeaseReply>, Status> {
        let until_ms = request.into_inner().until_boottime_ms;
        let limit = crate::clock::boottime_ms() + LONGEST_LEASE_MS;
        if until_ms > limit {
            let says = format!("until_boottime_ms: {until_ms} is more than an hour away; a lease is short and renewed");
            return Err(invalid(says).into());
        }
        crate::lease::extend(&self.context.root, until_ms)
            .map_err(|e| Fault::failed(format!("{}: {e}", crate::lease::path(&self.context.root).display())))?;
        Ok(Response::new(pb::ExtendLeaseReply {}))
    }

    async fn info(&self, _: Request<pb::InfoRequest>) -> Result<Response<pb::InfoReply>, Status> {
        Ok(Response::new(view::info(&self.context)))
    }
}

pub(crate) fn limits(given: Option<pb::Limits>) -> Limits {
    let given = given.unwrap_or_default();
    Limits { memory_bytes: given.memory_bytes, cpu_milli: given.cpu_milli, pids: given.pids }
}

/// Limits of a Create, against the policy that they narrow.
pub(crate) fn checked_limits(given: Option<pb::Limits>, plan: &agent_kernel::Plan) -> Result<Limits, Fault> {
    let limits = limits(given);
    check_limits(&limits, plan, "limits")?;
    Ok(limits)
}
